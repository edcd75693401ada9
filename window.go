package limpet

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/wire"
)

// window holds what was published and is not settled, in order of sequence
// number. It belongs to the loop. Sequence numbers are given at admission,
// never at sending, and are dense: an expired slot is sent as a void message
// (docs/protocol.md, decision D2).
type window struct {
	sessions  bool
	admission *admission
	stats     *counters
	born      time.Time
	slots     fifo.Queue[*Receipt]
	lo        uint64 // sequence number of the first slot
	tag       wire.ID
	next      int    // first slot not sent on this connection
	maxSent   uint64 // highest number sent in this session epoch
	bytes     uint64 // payload bytes sent on this connection
	credit    wire.Credit
	pending   int       // receipts without an outcome
	expiry    time.Time // not later than the first TTL to end; zero if there is none
	marks     []mark    // the last one is open
	marked    uint32    // marks that were reached
	single    uint64    // up to this number one message to a frame: a batch was too big
	ruled     [2]int    // slots with a verdict that nobody was told yet are in [from, to)
	room      int       // payload bytes that they gave up
	told      int       // verdicts that somebody waited for, since the loop last looked
}

// Idle clients share the memory of a few busy ones.
var slotPool sync.Pool

func newWindow(sessions bool, a *admission, c *counters) *window {
	w := &window{sessions: sessions, admission: a, stats: c, born: time.Now(), lo: 1, marks: make([]mark, 1)}
	w.slots.Pool = &slotPool
	return w
}

// clock is now as Receipt.sent has it.
func (w *window) clock(now time.Time) int64 { return int64(now.Sub(w.born)) + 1 }

// mark counts what was admitted between two calls of Flush and has no outcome.
type mark struct {
	pending int
	done    chan struct{}
}

func (w *window) hi() uint64 { return w.lo + uint64(w.slots.Len()) - 1 }

func (w *window) uplink() wire.Uplink { return wire.Uplink{Lo: w.lo, Hi: w.hi(), Tag: w.tag} }

func (w *window) add(r *Receipt) {
	w.slots.Push(r)
	w.pending++
	last := len(w.marks) - 1
	w.marks[last].pending++
	r.mark = w.marked + uint32(last)
	if x := r.extra; x != nil && !x.expires.IsZero() && (w.expiry.IsZero() || x.expires.Before(w.expiry)) {
		w.expiry = x.expires
	}
}

// resolve decides on slot i, which stays until the server settles it. Whoever
// calls it calls tell in the end.
func (w *window) resolve(i int, o Outcome, err error) {
	r := *w.slots.At(i)
	if r.verdict != Pending {
		return
	}
	r.verdict = o
	if err != nil {
		if r.extra == nil {
			r.extra = new(extra)
		}
		r.extra.err = err
	}
	w.pending--
	w.marks[r.mark-w.marked].pending--
	w.room += len(r.payload)
	r.payload = nil
	if w.ruled[1] == 0 {
		w.ruled[0] = i
	}
	w.ruled = [2]int{min(w.ruled[0], i), max(w.ruled[1], i+1)}
}

// settle is resolve for a slot of which the server needs to hear nothing more.
func (w *window) settle(i int, o Outcome, err error) {
	(*w.slots.At(i)).settled = true
	w.resolve(i, o, err)
}

// tell gives back the room of what has an outcome, makes the outcomes known
// and drops the settled head, in this order: what a receipt says is already
// true of the rest.
func (w *window) tell() {
	ruled := w.slots.All()[w.ruled[0]:w.ruled[1]]
	var count [len(outcomes)]uint64
	for _, r := range ruled {
		if r.untold() {
			count[r.verdict]++
		}
	}
	for o, n := range count {
		if n > 0 {
			w.stats.outcomes[o].Add(n)
		}
	}
	head := 0
	for head < w.slots.Len() && (*w.slots.At(head)).settled {
		head++
	}
	w.admission.release(head, w.room)
	for _, r := range ruled {
		if r.untold() && r.tell() {
			w.told++
		}
	}
	w.ruled, w.room = [2]int{}, 0
	if head > 0 {
		w.tag = wire.ID((*w.slots.At(head - 1)).id)
		w.slots.Drop(head)
		w.lo += uint64(head)
		w.next = max(0, w.next-head)
	}
	w.reach()
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

// at returns the slot of seq and what is in it, nil if it is not in the window.
func (w *window) at(seq uint64) (int, *Receipt) {
	if seq < w.lo || seq > w.hi() {
		return 0, nil
	}
	i := int(seq - w.lo)
	return i, *w.slots.At(i)
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
		if i, r := w.at(rej.Seq); r != nil {
			w.reject(i, rej)
		}
	}
	w.settleTo(a.To, Acked)
	for _, rg := range a.Ranges {
		for seq := max(rg.Lo, w.lo); seq <= rg.Hi; seq++ {
			w.settle(int(seq-w.lo), Acked, nil)
		}
	}
	if a.Cmd != 0 {
		if i, r := w.at(a.Cmd / 4); r != nil && r.sent != 0 {
			w.settle(i, Acked, nil)
		}
	}
	if a.HasCredit {
		w.credit.N = max(w.credit.N, a.Credit.N)
		w.credit.Bytes = max(w.credit.Bytes, a.Credit.Bytes)
	}
	w.tell()
	return nil
}

// settleTo settles what is numbered up to seq, which is not beyond the window.
func (w *window) settleTo(seq uint64, o Outcome) {
	for i := range int(max(seq+1, w.lo) - w.lo) {
		w.settle(i, o, nil)
	}
}

func (w *window) reject(i int, rej wire.Reject) {
	if rej.Unknown {
		w.settle(i, Unknown, &Error{Op: "receipt", Class: ClassOutcome, Code: int(rej.Code), Detail: peerText(rej.Reason), Err: ErrOutcomeUnknown})
		return
	}
	w.settle(i, Rejected, &Error{Op: "receipt", Class: ClassOutcome, Code: int(rej.Code), Detail: peerText(rej.Reason), Err: ErrRejected})
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
	if _, r := w.at(seq); r != nil {
		return wire.ID(r.id), true
	}
	return wire.ID{}, false
}

// renumber starts a session epoch: what has an outcome leaves, the rest is
// numbered from 1 and keeps its ids, by which the server knows it again.
func (w *window) renumber() {
	kept := fifo.Queue[*Receipt]{Pool: &slotPool}
	for _, r := range w.slots.All() {
		if r.verdict == Pending {
			kept.Push(r)
		}
	}
	n := w.slots.Len() - kept.Len()
	w.slots.Reset()
	w.slots, w.lo = kept, 1
	w.next, w.maxSent, w.tag, w.single = 0, 0, wire.ID{}, 0
	w.admission.release(n, 0)
}

// lost is the end of a connection. Where the language has no sessions, what
// was sent and not acknowledged has an unknown outcome, unless the caller
// rather has it twice.
func (w *window) lost() {
	if w.sessions {
		return
	}
	for i, r := range w.slots.All()[:w.next] {
		if !r.settled && !r.atLeast {
			w.settle(i, Unknown, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrOutcomeUnknown})
		}
	}
	w.next = 0
	w.tell()
}

// batch appends the messages to send now to ops, and what they point to to
// messages: as many as credit, maxBytes and the peer's frame size allow, in
// order.
func (w *window) batch(ops []wire.Op, messages []wire.Message, now time.Time, maxBytes int) ([]wire.Op, []wire.Message) {
	at := w.clock(now)
	size, count := 0, 0
	for w.next < w.slots.Len() && size < maxBytes {
		r := *w.slots.At(w.next)
		seq := w.lo + uint64(w.next)
		if r.settled {
			w.next++
			continue
		}
		if seq > w.credit.N || w.bytes >= w.credit.Bytes && len(r.payload) > 0 {
			break
		}
		alone := seq <= w.single
		if alone && (count > 0 || w.underWay()) {
			break // so that the next complaint can only be about this one
		}
		var m *wire.Message
		messages, m = another(messages)
		m.Seq, m.ID, m.Topic, m.Payload, m.Void = seq, wire.ID(r.id), r.topic, r.payload, r.verdict != Pending
		if x := r.extra; x != nil {
			m.TTL = x.ttl
			if !m.Void {
				m.Type, m.Header = x.kind, x.header
			}
		}
		if r.sent == 0 {
			r.sent = at
		} else {
			w.stats.resent.Add(1)
			if m.Resent = !r.atLeast; m.Resent {
				m.Age = time.Duration(at - r.sent)
			}
		}
		var op *wire.Op
		ops, op = another(ops)
		op.Kind, op.Cmd, op.Message = wire.OpPublish, seq*4+3, m
		w.next++
		count++
		size += len(m.Payload) + 64
		w.bytes += uint64(len(m.Payload))
		w.maxSent = max(w.maxSent, seq)
		if alone {
			break
		}
	}
	return ops, messages
}

// another appends an element to s, which is as say.reset left it.
func another[T any](s []T) ([]T, *T) {
	if len(s) == cap(s) {
		s = slices.Grow(s, 1)
	}
	s = s[:len(s)+1]
	return s, &s[len(s)-1]
}

// underWay reports whether something sent on this connection is not settled.
func (w *window) underWay() bool {
	for _, r := range w.slots.All()[:w.next] {
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
	first, r := w.at(seq)
	if r == nil || r.verdict != Pending {
		return false
	}
	for i := w.next - 1; i >= first; i-- {
		back := *w.slots.At(i)
		if back.settled {
			continue
		}
		w.bytes -= uint64(len(back.payload))
		switch {
		case back.sent != w.clock(now):
			w.stats.resent.Add(^uint64(0))
		default:
			back.sent = 0
			if w.maxSent == w.lo+uint64(i) {
				w.maxSent--
			}
		}
	}
	w.next = first
	err := &Error{Op: "receipt", Class: ClassOutcome, Err: joinReason(ErrRejected, cause)}
	w.conclude(first, Rejected, err)
	w.tell()
	return true
}

// conclude resolves a message that the server has not settled: where it counts
// sequence numbers it is still to hear of the slot.
func (w *window) conclude(i int, o Outcome, err error) {
	if w.sessions {
		w.resolve(i, o, err)
	} else {
		w.settle(i, o, err)
	}
}

// tooBig handles a frame that the peer found too big: what was in flight is
// sent again one at a time, and one that was alone is given up.
func (w *window) tooBig() {
	inFlight, last := 0, 0
	for i, r := range w.slots.All()[:w.next] {
		if !r.settled && r.verdict == Pending {
			inFlight, last = inFlight+1, i
		}
	}
	w.single = max(w.single, w.lo+uint64(w.next)-1)
	if inFlight == 1 {
		w.conclude(last, Rejected, &Error{Op: "receipt", Class: ClassOutcome, Err: joinReason(ErrRejected, ErrTooBig)})
		w.tell()
	}
}

// written resolves what a language without acknowledgements has handed over.
func (w *window) written(through uint64) {
	w.settleTo(min(through, w.hi()), Written)
	w.tell()
}

// expire ends what was never sent in time and returns when to look again.
func (w *window) expire(now time.Time) {
	if w.expiry.IsZero() || now.Before(w.expiry) {
		return
	}
	w.expiry = time.Time{}
	for i, r := range w.slots.All() {
		x := r.extra
		if x == nil || x.expires.IsZero() || r.verdict != Pending || r.sent != 0 {
			continue
		}
		if x.expires.After(now) {
			if w.expiry.IsZero() || x.expires.Before(w.expiry) {
				w.expiry = x.expires
			}
			continue
		}
		w.conclude(i, Expired, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrExpired})
	}
	w.tell()
}

// close gives every waiting receipt its last outcome.
func (w *window) close() {
	for i, r := range w.slots.All() {
		if r.sent == 0 {
			w.resolve(i, Unsent, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrUnsent})
		} else {
			w.resolve(i, Unknown, &Error{Op: "receipt", Class: ClassOutcome, Err: ErrOutcomeUnknown})
		}
	}
	w.tell()
	w.slots.Reset()
}
