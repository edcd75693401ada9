package limpet

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/admission"
	"github.com/limpet-go/limpet/internal/dispatch"
	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/published"
	"github.com/limpet-go/limpet/internal/schedule"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

// window holds the published messages that are not settled, in order of sequence number. It belongs to the loop. A message gets its number on admission. Numbers are dense (docs/protocol.md, section 0, D2): a message that was never sent may get a lower one when one before it leaves.
type window struct {
	sessions     bool // the dialect has sessions: slots are numbered and resent
	admission    *admission.Gate
	counters     *counters
	origin       time.Time // origin of timestamp
	slots        fifo.Queue[*Receipt]
	admitted     fifo.Queue[int64]         // when each slot was admitted, as counters hold a moment
	firstSeq     uint64                    // sequence number of the first slot
	settledID    wire.ID                   // id of the message numbered firstSeq-1, the uplink tag
	nextToSend   int                       // index of the first slot not sent on this connection
	highestSent  uint64                    // highest sequence number sent in this session epoch
	bytesSent    uint64                    // payload bytes sent on this connection
	resumed      bool                      // the server has said what it holds: it does not have what is not settled
	credit       wire.Credit               // the server's, for this connection
	pending      int                       // receipts without an outcome
	expiries     schedule.List[*Receipt]   // when the TTL of each ends
	added        uint64                    // messages with details so far
	left         int                       // slots of messages that have left: compact removes them
	flushes      flush.Points              // what calls of Flush wait for
	firstPending int                       // index before which every slot has its outcome
	oneByOneUpTo uint64                    // up to this sequence number a frame carries one message: a batch was too big
	resends      []uint64                  // of the last batch, until countResends
	again        published.Again           // messages to be sent again
	batch        uint32                    // number of the last batch; 0 with sessions
	resolved     [2]int                    // outcomes to be published are in slots [from, to)
	freedBytes   int                       // payload bytes that they held
	notify       *notifier                 // of messages that failed
	doneCalls    *dispatch.Calls[*Receipt] // of PublishOptions.Done
	woken        int                       // outcomes that a caller waited for, since the loop last read it
	outboxWindow
}

// slotPool shares the memory of slots among clients: few are busy at a time.
var slotPool, admittedPool sync.Pool

func newWindow(sessions bool, a *admission.Gate, c *counters) *window {
	w := &window{sessions: sessions, admission: a, counters: c, origin: time.Now(), firstSeq: 1}
	w.slots.Pool, w.admitted.Pool = &slotPool, &admittedPool
	w.expiries = schedule.New(func(r *Receipt) *schedule.Slot { return &r.details.expiry })
	return w
}

// timestamp is now as Receipt.firstSent holds it: nanoseconds, never 0.
func (w *window) timestamp(now time.Time) int64 { return int64(now.Sub(w.origin)) + 1 }

func (w *window) lastSeq() uint64 { return w.firstSeq + uint64(w.slots.Len()) - 1 }

// uplink is what the handshake states about the window.
func (w *window) uplink() wire.Uplink {
	w.compact()
	return wire.Uplink{Lo: w.firstSeq, Hi: w.lastSeq(), Tag: w.settledID}
}

func (w *window) add(r *Receipt, now time.Time) {
	w.slots.Push(r)
	w.admitted.Push(w.counters.moment(now))
	w.pending++
	if d := r.details; d != nil && r.decided == Pending {
		w.added++
		d.order = w.added
		w.expiries.Set(r, d.expires)
	}
}

// resolve decides the outcome of slot i, which stays in the window until the server settles it. The caller
// calls publishOutcomes when it has resolved all that it can.
func (w *window) resolve(i int, o Outcome, err error) {
	r := *w.slots.At(i)
	if r.decided != Pending {
		return
	}
	r.decided = o
	if err != nil {
		if r.details == nil {
			r.details = new(receiptDetails)
		}
		r.details.err = err
	}
	if r.details != nil {
		w.expiries.Set(r, time.Time{})
	}
	w.pending--
	w.freedBytes += len(r.payload)
	r.payload = nil
	if w.resolved[1] == 0 {
		w.resolved[0] = i
	}
	w.resolved = [2]int{min(w.resolved[0], i), max(w.resolved[1], i+1)}
}

// settle resolves slot i when the server needs to learn nothing more about it.
func (w *window) settle(i int, o Outcome, err error) {
	w.keepOutcome(i, o, false)
	(*w.slots.At(i)).settled = true
	w.resolve(i, o, err)
}

// publishOutcomes counts what was resolved, returns its room, makes the outcomes visible and drops the settled head. The order matters: a caller that learns of the first outcome finds all of them counted and their room free.
func (w *window) publishOutcomes() {
	w.publishResolved()
	w.completeFlushes()
}

func (w *window) publishResolved() {
	resolved := w.slots.All()[w.resolved[0]:w.resolved[1]]
	var count [len(outcomeNames)]uint64
	for _, r := range resolved {
		if r.unpublished() {
			count[r.decided]++
		}
	}
	w.measure(resolved)
	for o, n := range count {
		if n > 0 {
			w.counters.outcomes[o].Add(n)
		}
	}
	head := 0
	for head < w.slots.Len() && (*w.slots.At(head)).isDone() {
		head++
	}
	w.admission.Release(head, w.freedBytes)
	for _, r := range resolved {
		if !r.unpublished() {
			continue
		}
		w.show(r)
	}
	w.resolved, w.freedBytes = [2]int{}, 0
	if head > 0 {
		w.forgetIDs(w.slots.All()[:head])
		w.settledID = wire.ID((*w.slots.At(head - 1)).id)
		w.slots.Drop(head)
		w.admitted.Drop(head)
		w.firstSeq += uint64(head)
		w.nextToSend = max(0, w.nextToSend-head)
		w.firstPending = max(0, w.firstPending-head)
	}
}

// lookup returns the index and the receipt of seq, nil if it is not in the window.
func (w *window) lookup(seq uint64) (int, *Receipt) {
	if seq < w.firstSeq || seq > w.lastSeq() {
		return 0, nil
	}
	i := int(seq - w.firstSeq)
	return i, *w.slots.At(i)
}

// acknowledge settles what the server has accepted or rejected. An acknowledgement of a message that was never
// sent is a violation, and nothing of it is applied (docs/protocol.md, section 6, I5).
func (w *window) acknowledge(a *wire.Ack) error {
	if err := published.Check(a, w.sessions, w.highestSent); err != nil { // without sessions a server may answer to anything
		return err
	}
	for _, reject := range a.Rejects {
		if i, r := w.lookup(reject.Seq); r != nil && (w.sessions || r.firstSent != 0) {
			w.reject(i, reject)
		}
	}
	w.noteDuplicates(a.Duplicates)
	w.settleThrough(a.To, Acked)
	for _, rg := range a.Ranges {
		for seq := max(rg.Lo, w.firstSeq); seq <= rg.Hi; seq++ {
			w.settle(int(seq-w.firstSeq), Acked, nil)
		}
	}
	if a.Cmd%4 == 3 { // of an OpPublish: wire.Op.Cmd
		if i, r := w.lookup(a.Cmd / 4); r != nil && r.firstSent != 0 {
			r.keepReply(a.Reply)
			w.settle(i, Acked, nil)
		}
	}
	if a.HasCredit {
		w.credit.N = max(w.credit.N, a.Credit.N)
		w.credit.Bytes = max(w.credit.Bytes, a.Credit.Bytes)
	}
	w.publishOutcomes()
	return nil
}

// settleThrough settles the slots up to seq, which is not beyond lastSeq.
func (w *window) settleThrough(seq uint64, o Outcome) {
	for i := range int(max(seq+1, w.firstSeq) - w.firstSeq) {
		w.settle(i, o, nil)
	}
}

// written resolves the messages up to seq as Written, for a dialect without acknowledgements.
func (w *window) written(seq uint64) {
	w.settleThrough(min(seq, w.lastSeq()), Written)
	w.publishOutcomes()
}

func (w *window) reject(i int, reject wire.Reject) {
	if reject.Retry > 0 && !reject.Unknown && !w.sessions {
		w.refusedForNow(i, reject, time.Now())
		return
	}
	o, err := Rejected, rejectedFor(reject)
	if r := *w.slots.At(i); reject.Unknown || r.earlier && r.resend == AtLeastOnce { // the server may have taken it the first time, and does not compare
		o, err = Unknown, ErrOutcomeUnknown
	}
	w.settle(i, o, &Error{Op: opReceipt, Class: ClassOutcome, Code: shownCode(reject.Code, reject.PeerCode), Detail: text.Quote(reject.Reason), Err: err})
}

// resume applies what the server knows of the session at the beginning of a connection. Exactly what the server does not have is sent again, in order (docs/protocol.md, section 4; section 6, I10 and I19).
func (w *window) resume(ready *wire.Ready, dedup bool) error {
	w.bytesSent, w.credit = 0, wire.Credit{}
	if !w.sessions {
		w.credit = wire.Credit{N: math.MaxUint64, Bytes: math.MaxUint64}
		w.rewind()
		return nil
	}
	a := ready.Ack
	w.resumed = ready.Resumed
	if !ready.Resumed {
		w.doubtSent(dedup)
		w.renumber()
		a = wire.Ack{HasCredit: a.HasCredit, Credit: a.Credit}
	} else {
		if a.To+1 < w.firstSeq {
			return &wire.CodeError{Code: 4402, Reason: "server forgot messages that it had acknowledged"}
		}
		if id, ok := w.idOf(a.To); ok && ready.Tag != (wire.ID{}) && id != ready.Tag {
			return &wire.CodeError{Code: 4402, Reason: "server holds another message under our sequence number"}
		}
	}
	if err := w.acknowledge(&a); err != nil {
		return err
	}
	w.doubtSent(true)
	w.nextToSend = 0
	return nil
}

// idOf returns the id of the message numbered seq, if the window knows it.
func (w *window) idOf(seq uint64) (wire.ID, bool) {
	if seq+1 == w.firstSeq {
		return w.settledID, w.settledID != wire.ID{}
	}
	if _, r := w.lookup(seq); r != nil {
		return wire.ID(r.id), true
	}
	return wire.ID{}, false
}

// renumber starts a session epoch. Messages that have an outcome leave; the others are numbered from 1 and keep their ids, by which the server recognises those that it has accepted before (docs/protocol.md, section 4).
func (w *window) renumber() {
	w.compact()
	dropped := w.dropSlots(1, func(r *Receipt) bool {
		r.earlier = r.earlier || r.firstSent != 0
		return r.decided != Pending
	})
	w.nextToSend, w.highestSent, w.settledID, w.oneByOneUpTo = 0, 0, wire.ID{}, 0
	w.admission.Release(dropped, 0)
	w.journal.Renumber()
}

// compact removes the slots of messages that have left. Those behind them were never sent: they move up, so that the numbers stay dense.
func (w *window) compact() (removed int) {
	if w.left == 0 {
		return 0
	}
	w.left = 0
	return w.dropSlots(w.firstSeq, (*Receipt).hasLeft)
}

// dropSlots removes slots. The first of those that stay gets the number first.
func (w *window) dropSlots(first uint64, goes func(*Receipt) bool) (dropped int) {
	nextFlush := 0
	dropped = fifo.Filter(&w.slots, &w.admitted, func(i, dropped int, r *Receipt) (stays bool) {
		if stays = !goes(r); !stays {
			w.forgetIDs([]*Receipt{r})
			dropped++
		}
		nextFlush = w.flushes.Renumber(nextFlush, w.firstSeq+uint64(i), first+uint64(i-dropped))
		return stays
	})
	w.firstSeq, w.firstPending = first, 0
	return dropped
}

// doubtSent ends the messages that were sent and must not be sent again: the server may have accepted them. With known it recognises those
// that it has, so only those with Never end; otherwise only those with AtLeastOnce do not.
func (w *window) doubtSent(known bool) {
	for i, r := range w.slots.All() {
		r.earlier = r.earlier || !known && r.firstSent != 0
		if r.firstSent != 0 && !r.settled && (r.resend == Never || r.resend == Exact && !known) {
			w.resolveUnsettled(i, Unknown, outcomeError(ErrOutcomeUnknown))
		}
	}
	w.publishOutcomes()
}

// connectionLost handles the end of a connection. Without sessions the client cannot learn what became of the messages in flight: they end as Unknown, except that those with AtLeastOnce are sent again.
func (w *window) connectionLost() {
	w.journal.Lost()
	if w.sessions {
		return
	}
	w.doubtSent(false)
	w.rewind()
}

// nextBatch appends the messages to send now to messages and the operations that send them to ops: in order, as many as the server's credit, maxBytes and most allow.
func (w *window) nextBatch(ops []wire.Op, messages []wire.Message, now time.Time, maxBytes, most int) ([]wire.Op, []wire.Message) {
	timestamp := w.timestamp(now)
	w.countBatch()
	size, count := 0, 0
	for w.nextToSend < w.slots.Len() && size < maxBytes && count < most {
		r := *w.slots.At(w.nextToSend)
		seq := w.firstSeq + uint64(w.nextToSend)
		if r.settled || r.sentIn != 0 {
			w.nextToSend++
			continue
		}
		if seq > w.credit.N || w.bytesSent >= w.credit.Bytes && len(r.payload) > 0 {
			break
		}
		if w.left > 0 && r.hasLeft() {
			w.compact()
			continue
		}
		if count > 0 && size+len(r.payload)+64 > maxBytes {
			break // it would hold up what the link carries in time
		}
		alone := seq <= w.oneByOneUpTo
		if alone && (count > 0 || w.inFlight()) {
			break // so that "too big" can only mean this message
		}
		var m *wire.Message
		messages, m = appendReused(messages)
		m.Seq, m.ID, m.Topic, m.Payload, m.Void = seq, wire.ID(r.id), r.topic, r.payload, r.decided != Pending
		if d := r.details; d != nil {
			m.TTL = d.ttl
			if !m.Void {
				m.Type, m.Header = d.contentType, d.header
			}
		}
		if r.firstSent == 0 {
			r.firstSent = timestamp
		} else {
			w.resends = append(w.resends, seq)
			if m.Resent = r.resend != AtLeastOnce; m.Resent {
				m.Age = time.Duration(timestamp - r.firstSent)
			}
		}
		var op *wire.Op
		ops, op = appendReused(ops)
		op.Kind, op.Cmd, op.Message = wire.OpPublish, seq*4+3, m
		r.sentIn = w.batch
		w.nextToSend++
		count++
		size += len(m.Payload) + 64
		w.bytesSent += uint64(len(m.Payload))
		w.highestSent = max(w.highestSent, seq)
		if alone {
			break
		}
	}
	return ops, messages
}

// countResends counts the messages of the last batch that are sent again: those that were encoded, up to through.
func (w *window) countResends(through uint64) {
	for _, seq := range w.resends {
		if seq <= through {
			w.counters.resent.Add(1)
		}
	}
	w.resends = nil
}

// inFlight reports whether a message sent on this connection is not settled.
func (w *window) inFlight() bool {
	return slices.ContainsFunc(w.sentSlots(), w.isInFlight)
}

// rejectUnencodable rejects the message seq, which the codec could not encode, and takes back what followed it in the batch made at now, which was
// not sent. The slot is sent as a void message, so that the numbering stays dense. The result is false if there is no such message, or if even the
// void message could not be encoded. A message that was sent before, and of which the server has not said whether it holds it, ends as Unknown.
func (w *window) rejectUnencodable(seq uint64, cause error, now time.Time) bool {
	first, r := w.lookup(seq)
	if r == nil || r.decided != Pending {
		return false
	}
	for i := w.nextToSend - 1; i >= first; i-- {
		takenBack := *w.slots.At(i)
		if takenBack.settled || takenBack.sentIn != w.batch {
			continue
		}
		takenBack.sentIn = 0
		w.bytesSent -= uint64(len(takenBack.payload))
		if takenBack.firstSent == w.timestamp(now) {
			takenBack.firstSent = 0
			if w.highestSent == w.firstSeq+uint64(i) {
				w.highestSent--
			}
		}
	}
	w.nextToSend = first
	if tooBig := (*wire.TooBigError)(nil); errors.As(cause, &tooBig) {
		cause = joinReason(ErrTooBig, cause)
	}
	w.rejectUnsettled(first, r.earlier || r.firstSent != 0 && !w.resumed, cause)
	return true
}

// rejectUnsettled ends a message that cannot be sent. held says that the server may hold it, since it was sent before.
func (w *window) rejectUnsettled(i int, held bool, cause error) {
	o, err := Rejected, ErrRejected
	if held {
		o, err = Unknown, ErrOutcomeUnknown
	}
	w.resolveUnsettled(i, o, outcomeError(joinReason(err, cause)))
	w.publishOutcomes()
}

// resolveUnsettled resolves a slot that the server has not settled. With sessions the server still has to learn about it, since numbers are dense.
func (w *window) resolveUnsettled(i int, o Outcome, err error) {
	if w.sessions {
		w.keepOutcome(i, o, true)
		w.resolve(i, o, err)
	} else {
		w.settle(i, o, err)
	}
}

// frameTooBig handles a frame that was too big for the peer. The messages in flight are sent again one by one; if there was only one, and nothing else that the frame can have held, it is rejected.
func (w *window) frameTooBig(alone bool) {
	count, last := 0, 0
	sent := w.sentSlots()
	for i, r := range sent {
		if r.decided == Pending && w.isInFlight(r) {
			count, last = count+1, i
		}
	}
	w.oneByOneUpTo = max(w.oneByOneUpTo, w.firstSeq+uint64(len(sent))-1)
	if count == 1 && alone {
		w.rejectUnsettled(last, sent[last].earlier, ErrTooBig)
	}
}

// expire ends the messages whose TTL passed before they were sent.
func (w *window) expire(now time.Time) {
	due := w.expiries.Take(now)
	if len(due) == 0 {
		return
	}
	slices.SortFunc(due, func(a, b *Receipt) int { return cmp.Compare(a.details.order, b.details.order) })
	leave := due[:0]
	for _, r := range due {
		switch {
		case r.firstSent != 0:
		case r.details.refused:
			w.resolveUnsettled(slices.Index(w.slots.All(), r), Expired, outcomeError(ErrExpired))
		default:
			leave = append(leave, r)
		}
	}
	w.publishOutcomes()
	w.leave(leave)
}

// leave ends messages whose numbers were never sent. They give back their bytes at once, and their places with the outcome.
func (w *window) leave(rs []*Receipt) {
	freed := 0
	for _, r := range rs {
		freed += len(r.payload)
		r.decided, r.payload, r.held, r.details.err, r.details.left = Expired, nil, w.journal != nil, outcomeError(ErrExpired), true
		w.journal.Leave(r)
	}
	w.pending -= len(rs)
	w.admission.Release(0, freed)
	if w.journal == nil {
		w.reveal(rs)
	}
}
