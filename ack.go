package limpet

import (
	"math"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// window holds what was published and is not settled, in order of sequence
// number. It belongs to the loop. Sequence numbers are given at admission,
// never at sending, and are dense: an expired slot is sent as a void message
// (docs/protocol.md, decision D2).
type window struct {
	sessions bool
	gate     *gate
	stats    *counters
	slots    []*Receipt
	lo       uint64 // sequence number of slots[0]
	tag      wire.ID
	next     int    // first slot not sent on this connection
	maxSent  uint64 // highest number sent in this session epoch
	bytes    uint64 // payload bytes sent on this connection
	credit   wire.Credit
	pending  int       // receipts without an outcome
	expiry   time.Time // not later than the first TTL to end; zero if there is none
	marks    []mark    // the last one is open
	marked   uint64    // marks that were reached
	single   uint64    // up to this number one message to a frame: a batch was too big
	told     int       // outcomes that somebody waited for, since the loop last looked
}

func newWindow(sessions bool, g *gate, c *counters) *window {
	return &window{sessions: sessions, gate: g, stats: c, lo: 1, marks: make([]mark, 1)}
}

// mark counts what was admitted between two calls of Flush and has no outcome.
type mark struct {
	pending int
	done    chan struct{}
}

func (w *window) hi() uint64 { return w.lo + uint64(len(w.slots)) - 1 }

func (w *window) uplink() wire.Uplink { return wire.Uplink{Lo: w.lo, Hi: w.hi(), Tag: w.tag} }

func (w *window) add(r *Receipt) {
	r.message.Seq = w.hi() + 1
	w.slots = append(w.slots, r)
	w.pending++
	last := len(w.marks) - 1
	w.marks[last].pending++
	r.mark = w.marked + uint64(last)
	w.stats.published.Add(1)
	if !r.expires.IsZero() && (w.expiry.IsZero() || r.expires.Before(w.expiry)) {
		w.expiry = r.expires
	}
}

// resolve gives r its outcome. Its slot stays until the server settles it.
func (w *window) resolve(r *Receipt, o Outcome, err error) {
	if !r.resolve(o, err) {
		return
	}
	w.pending--
	if r.done != nil {
		w.told++
	}
	w.stats.outcome(o)
	w.marks[r.mark-w.marked].pending--
	w.reach()
	r.message.Payload = nil
	w.gate.leave(0, r.size)
	r.size = 0
}

// mark closes done when everything admitted so far has an outcome.
func (w *window) mark(done chan struct{}) {
	w.marks[len(w.marks)-1].done = done
	w.marks = append(w.marks, mark{})
	w.reach()
}

func (w *window) reach() {
	for len(w.marks) > 1 && w.marks[0].pending == 0 {
		close(w.marks[0].done)
		w.marks = w.marks[1:]
		w.marked++
	}
}

func (w *window) settle(r *Receipt, o Outcome, err error) {
	r.settled = true
	w.resolve(r, o, err)
}

// trim drops the settled head and gives its room back.
func (w *window) trim() {
	n, bytes := 0, 0
	for n < len(w.slots) && w.slots[n].settled {
		bytes += w.slots[n].size
		w.tag = w.slots[n].message.ID
		n++
	}
	if n == 0 {
		return
	}
	clear(w.slots[:n])
	w.slots = w.slots[n:]
	w.lo += uint64(n)
	w.next = max(0, w.next-n)
	w.gate.leave(n, bytes)
}

// at returns the receipt of seq, nil if it is not in the window.
func (w *window) at(seq uint64) *Receipt {
	if seq < w.lo || seq > w.hi() {
		return nil
	}
	return w.slots[seq-w.lo]
}

// ack applies what the server took responsibility for. An acknowledgement of
// what was never sent is a violation, and nothing of it is applied
// (docs/protocol.md, invariant I5).
func (w *window) ack(a *wire.Ack) error {
	top := a.To
	for _, r := range a.Ranges {
		if r.Lo > r.Hi {
			return &wire.CodeError{Code: 4000, Reason: "acknowledged range is upside down"}
		}
		top = max(top, r.Hi)
	}
	for _, r := range a.Rejects {
		top = max(top, r.Seq)
	}
	if top > w.maxSent {
		return &wire.CodeError{Code: 4000, Reason: "acknowledged a message that was never sent"}
	}
	for _, rej := range a.Rejects {
		if r := w.at(rej.Seq); r != nil {
			w.reject(r, rej)
		}
	}
	for seq := w.lo; seq <= a.To; seq++ {
		w.settle(w.at(seq), Acked, nil)
	}
	for _, rg := range a.Ranges {
		for seq := max(rg.Lo, w.lo); seq <= rg.Hi; seq++ {
			w.settle(w.at(seq), Acked, nil)
		}
	}
	if a.Cmd != 0 {
		if r := w.at(a.Cmd / 4); r != nil && !r.firstSent.IsZero() {
			w.settle(r, Acked, nil)
		}
	}
	if a.HasCredit {
		w.credit.N = max(w.credit.N, a.Credit.N)
		w.credit.Bytes = max(w.credit.Bytes, a.Credit.Bytes)
	}
	w.trim()
	return nil
}

func (w *window) reject(r *Receipt, rej wire.Reject) {
	if rej.Unknown {
		w.settle(r, Unknown, &Error{Op: "receipt", Class: ClassOutcome, Code: int(rej.Code), Detail: peerText(rej.Reason), Err: ErrOutcomeUnknown})
		return
	}
	w.settle(r, Rejected, &Error{Op: "receipt", Class: ClassOutcome, Code: int(rej.Code), Detail: peerText(rej.Reason), Err: ErrRejected})
}

// resume applies what the server knew of the session when the connection
// began. What it did not take is sent again, exactly and in order (I10).
func (w *window) resume(ready *wire.Ready) error {
	w.bytes, w.credit = 0, wire.Credit{}
	if !w.sessions {
		w.credit = wire.Credit{N: math.MaxUint64, Bytes: math.MaxUint64}
		w.next = 0
		return nil
	}
	a := ready.Ack
	if !ready.Resumed {
		w.renumber()
		a = wire.Ack{HasCredit: a.HasCredit, Credit: a.Credit}
	} else {
		if a.To+1 < w.lo {
			return &wire.CodeError{Code: 4402, Reason: "server forgot messages that it had acknowledged"}
		}
		if id, ok := w.idOf(a.To); ok && ready.Tag != (wire.ID{}) && id != ready.Tag {
			return &wire.CodeError{Code: 4402, Reason: "server holds another message under our sequence number"}
		}
	}
	if err := w.ack(&a); err != nil {
		return err
	}
	w.next = 0
	return nil
}

func (w *window) idOf(seq uint64) (wire.ID, bool) {
	if seq+1 == w.lo {
		return w.tag, w.tag != wire.ID{}
	}
	if r := w.at(seq); r != nil {
		return r.message.ID, true
	}
	return wire.ID{}, false
}

// renumber starts a session epoch: what has an outcome leaves, the rest is
// numbered from 1 and keeps its ids, by which the server knows it again.
func (w *window) renumber() {
	kept := w.slots[:0]
	n, bytes := 0, 0
	for _, r := range w.slots {
		if r.Outcome() != Pending {
			n, bytes = n+1, bytes+r.size
			continue
		}
		kept = append(kept, r)
		r.message.Seq = uint64(len(kept))
	}
	clear(w.slots[len(kept):])
	w.slots = kept
	w.lo, w.next, w.maxSent, w.tag, w.single = 1, 0, 0, wire.ID{}, 0
	w.gate.leave(n, bytes)
}

// lost is the end of a connection. Where the language has no sessions, what
// was sent and not acknowledged has an unknown outcome, unless the caller
// rather has it twice.
func (w *window) lost() {
	if w.sessions {
		return
	}
	for _, r := range w.slots[:w.next] {
		if !r.settled && !r.atLeast {
			w.settle(r, Unknown, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrOutcomeUnknown})
		}
	}
	w.next = 0
	w.trim()
}

// batch appends the messages to send now to ops: as many as credit, maxBytes
// and the peer's frame size allow, in order.
func (w *window) batch(ops []wire.Op, now time.Time, maxBytes int) []wire.Op {
	size, count := 0, 0
	for w.next < len(w.slots) && size < maxBytes {
		r := w.slots[w.next]
		seq := w.lo + uint64(w.next)
		if r.settled {
			w.next++
			continue
		}
		if seq > w.credit.N || w.bytes >= w.credit.Bytes && r.size > 0 {
			break
		}
		alone := seq <= w.single
		if alone && (count > 0 || w.underWay()) {
			break // so that the next complaint can only be about this one
		}
		m := &r.message
		if r.Outcome() != Pending {
			m.Void, m.Payload, m.Header, m.Type = true, nil, nil, ""
		}
		m.Resent = !r.firstSent.IsZero() && !r.atLeast
		if m.Resent {
			m.Age = now.Sub(r.firstSent)
		}
		if r.firstSent.IsZero() {
			r.firstSent = now
		} else {
			w.stats.resent.Add(1)
		}
		ops = append(ops, wire.Op{Kind: wire.OpPublish, Cmd: seq*4 + 3, Message: m})
		w.next++
		count++
		size += len(m.Payload) + 64
		w.bytes += uint64(len(m.Payload))
		w.maxSent = max(w.maxSent, seq)
		if alone {
			break
		}
	}
	return ops
}

// underWay reports whether something sent on this connection is not settled.
func (w *window) underWay() bool {
	for _, r := range w.slots[:w.next] {
		if !r.settled {
			return true
		}
	}
	return false
}

// unencodable resolves the message that the codec refused. Its slot is sent
// as a void message: the numbering stays dense. What stood behind it in the
// batch of time now did not leave. It reports false if there is no such
// message, or if even the void one was refused.
func (w *window) unencodable(seq uint64, cause error, now time.Time) bool {
	r := w.at(seq)
	if r == nil || r.Outcome() != Pending {
		return false
	}
	first := int(seq - w.lo)
	for i := w.next - 1; i >= first; i-- {
		back := w.slots[i]
		if back.settled {
			continue
		}
		w.bytes -= uint64(len(back.message.Payload))
		switch {
		case !back.firstSent.Equal(now):
			w.stats.resent.Add(^uint64(0))
		default:
			back.firstSent = time.Time{}
			if w.maxSent == w.lo+uint64(i) {
				w.maxSent--
			}
		}
	}
	w.next = first
	err := &Error{Op: "receipt", Class: ClassOutcome, Err: joinReason(ErrRejected, cause)}
	w.conclude(r, Rejected, err)
	return true
}

// conclude resolves a message that the server has not settled: where it counts
// sequence numbers it is still to hear of the slot.
func (w *window) conclude(r *Receipt, o Outcome, err error) {
	if w.sessions {
		w.resolve(r, o, err)
		return
	}
	w.settle(r, o, err)
	w.trim()
}

// tooBig handles a frame that the peer found too big: what was in flight is
// sent again one at a time, and one that was alone is given up.
func (w *window) tooBig() {
	inFlight, last := 0, (*Receipt)(nil)
	for i := range w.next {
		if r := w.slots[i]; !r.settled && r.Outcome() == Pending {
			inFlight++
			if last == nil {
				last = r
			}
		}
	}
	w.single = max(w.single, w.lo+uint64(w.next)-1)
	if inFlight == 1 {
		w.conclude(last, Rejected, &Error{Op: "receipt", Class: ClassOutcome, Err: joinReason(ErrRejected, ErrTooBig)})
	}
}

// written resolves what a language without acknowledgements has handed over.
func (w *window) written(through uint64) {
	for seq := w.lo; seq <= through && seq <= w.hi(); seq++ {
		w.settle(w.at(seq), Written, nil)
	}
	w.trim()
}

// expire ends what was never sent in time and returns when to look again.
func (w *window) expire(now time.Time) {
	if w.expiry.IsZero() || now.Before(w.expiry) {
		return
	}
	w.expiry = time.Time{}
	for _, r := range w.slots {
		if r.expires.IsZero() || r.Outcome() != Pending || !r.firstSent.IsZero() {
			continue
		}
		if r.expires.After(now) {
			if w.expiry.IsZero() || r.expires.Before(w.expiry) {
				w.expiry = r.expires
			}
			continue
		}
		err := &Error{Op: "receipt", Class: ClassOutcome, Err: ErrExpired}
		if w.sessions {
			w.resolve(r, Expired, err)
		} else {
			w.settle(r, Expired, err)
		}
	}
	w.trim()
}

// close gives every waiting receipt its last outcome.
func (w *window) close() {
	for _, r := range w.slots {
		if r.firstSent.IsZero() {
			w.resolve(r, Unsent, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrUnsent})
		} else {
			w.resolve(r, Unknown, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrOutcomeUnknown})
		}
	}
	w.slots = nil
}
