package limpet

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/keeper"
	"github.com/limpet-go/limpet/internal/schedule"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// Outcome is what became of a published message: Pending at first, then exactly one of the others, which never changes (docs/protocol.md, section 5).
type Outcome uint32

const (
	// Pending means that the outcome is not known yet.
	Pending Outcome = iota
	// Acked means that the server has accepted the message.
	Acked
	// Written means that the message was handed to the network and that the dialect has no acknowledgements: nothing more will be known.
	Written
	// Rejected means that the server rejected the message, that the dialect cannot encode it, or that it is too
	// big for the server.
	Rejected
	// Expired means that PublishOptions.TTL passed before the message was sent.
	Expired
	// Unsent means that the client ended before the message was sent. It is safe to publish it again.
	Unsent
	// Unknown means that the message was sent and may or may not have been accepted.
	Unknown
	// Stored means that the client ended before the outcome was known, and that the message is in
	// Options.Outbox: the next client on it goes on with the message.
	Stored
)

var outcomeNames = [...]string{"pending", "acked", "written", "rejected", "expired", "unsent", "unknown", "stored"}

// String returns the outcome as one lower-case word.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "outcome ?"
}

// Ack is the result of Send and Receipt.Wait.
type Ack struct {
	// ID is the id of the message, as in Receipt.ID.
	ID uuid.UUID
	// Outcome is Acked or Written if the error is nil, Pending if the outcome is not known yet, and otherwise
	// what the error describes.
	Outcome Outcome
	// Reply is what the server replied to a message that it accepted, for example the result of a GraphQL
	// mutation; nil if the dialect has no replies. The receipt keeps it: do not change it.
	Reply []byte
	// Duplicate means that the server had accepted a message with this id already when this one came, and has
	// not accepted it again: an earlier Publish with the same PublishOptions.ID, or this message itself, in a
	// session that the server has forgotten since. It is false where the server does not say so.
	Duplicate bool
}

// noteDuplicates marks messages that the server had under their ids before.
func (w *window) noteDuplicates(all []wire.Range) {
	for _, rg := range all {
		for seq := max(rg.Lo, w.firstSeq); seq <= min(rg.Hi, w.lastSeq()); seq++ {
			if _, r := w.lookup(seq); r.unpublished() || r.decided == Pending {
				r.duplicate = true
			}
		}
	}
}

// rejectedFor returns the error of a message that the server rejected.
func rejectedFor(reject wire.Reject) error {
	if reject.Reused {
		return joinReason(ErrRejected, ErrIDReused)
	}
	return ErrRejected
}

// Receipt follows one published message to its outcome. It is safe for concurrent use and remains valid after the client has ended.
type Receipt struct {
	id      uuid.UUID
	topic   string
	payload []byte          // nil once the outcome is decided, which frees its room in the window
	details *receiptDetails // nil for most messages

	// Owned by the loop.
	firstSent int64   // when the message was first handed to the network, as window.timestamp; 0: never
	decided   Outcome // the outcome, before publishOutcome makes it visible
	settled   bool    // the server needs to learn nothing more about the message
	held      bool    // the outcome is not published before it is durable
	duplicate bool    // set before the outcome is published
	earlier   bool    // the message may have been accepted in an earlier session
	resend    Resend
	sentIn    uint32 // the batch on this connection, without sessions; waitsAgain: see sendAgain; 0: none

	outcome    atomic.Uint32 // the Outcome that callers see, or awaited
	doneSignal atomic.Pointer[outcomeSignal]
}

// inlineReceipt is a Receipt together with its payload, in one allocation. The bytes live as long as the receipt does.
type inlineReceipt struct {
	Receipt
	inline [maxInlinePayload]byte
}

const maxInlinePayload = 64

// receiptDetails are the parts of a Receipt that few messages have.
type receiptDetails struct {
	contentType string
	header      map[string]string
	ttl         time.Duration
	expires     time.Time
	err         error  // set before the outcome is published
	reply       []byte // likewise
	done        func(*Receipt)
	expiry      schedule.Slot
	order       uint64 // of admission
	refused     bool   // for now: its number was sent, even if firstSent is 0
	left        bool   // no number stands for the message: see window.compact
}

// outcomeSignal is closed with the outcome. Done makes it for its first caller.
type outcomeSignal struct{ closed chan struct{} }

// awaited is the value of Receipt.outcome while the outcome is Pending and doneSignal has to be closed.
const awaited = uint32(Pending) | 1<<31

// ID returns the id of the message: PublishOptions.ID, or the UUIDv7 that the client made.
func (r *Receipt) ID() uuid.UUID { return r.id }

// Done returns a channel that is closed when the outcome is known: at the latest when the client ends.
func (r *Receipt) Done() <-chan struct{} {
	if s := r.doneSignal.Load(); s != nil {
		return s.closed
	}
	s := &outcomeSignal{make(chan struct{})}
	if !r.doneSignal.CompareAndSwap(nil, s) {
		return r.doneSignal.Load().closed
	}
	if !r.outcome.CompareAndSwap(uint32(Pending), awaited) {
		close(s.closed) // publishOutcome came first and had no channel to close
	}
	return s.closed
}

// Outcome returns what is known now. It does not block. The outcome changes only once, from Pending.
func (r *Receipt) Outcome() Outcome {
	o := r.outcome.Load()
	if o == awaited {
		return Pending
	}
	return Outcome(o)
}

// Wait blocks until the outcome is known or ctx ends. The error is nil for Acked and Written, and otherwise an *Error that wraps
// ErrRejected, ErrExpired, ErrUnsent, ErrStored or ErrOutcomeUnknown. If ctx ends first, the *Error wraps ctx's error: the client still
// sends the message, and Wait may be called again. Every outcome is known once the client has ended.
func (r *Receipt) Wait(ctx context.Context) (Ack, error) {
	if err := checkContext(opReceipt, ctx); err != nil {
		return Ack{ID: r.id}, err
	}
	if r.Outcome() == Pending {
		if ctx.Done() == nil {
			<-r.Done()
		} else {
			select {
			case <-r.Done():
			case <-ctx.Done():
				return Ack{ID: r.id}, contextError(opReceipt, "the outcome was known; the client goes on with the message", ctx.Err())
			}
		}
	}
	a := Ack{ID: r.id, Duplicate: r.duplicate, Outcome: r.Outcome()}
	if r.details != nil {
		a.Reply = r.details.reply
		return a, r.details.err
	}
	return a, nil
}

// keepReply remembers what the server replied, unless the outcome is decided already.
func (r *Receipt) keepReply(reply []byte) {
	if len(reply) == 0 || r.decided != Pending {
		return
	}
	if r.details == nil {
		r.details = new(receiptDetails)
	}
	r.details.reply = reply
}

// unpublished reports whether the outcome is decided but not yet visible.
func (r *Receipt) unpublished() bool { return r.isDecided() && r.Outcome() == Pending }

// isDecided reports whether the outcome is decided and may be published.
func (r *Receipt) isDecided() bool { return r.decided != Pending && !r.held }

// hasLeft reports whether the slot of r is to be removed.
func (r *Receipt) hasLeft() bool { return r.details != nil && r.details.left && !r.held }

// isDone reports whether neither the server nor a caller needs the slot any more.
func (r *Receipt) isDone() bool { return r.settled && !r.held }

// publishOutcome makes the outcome visible and reports whether a caller waited for it.
func (r *Receipt) publishOutcome() bool {
	if r.outcome.Swap(uint32(r.decided)) != awaited {
		return false
	}
	close(r.doneSignal.Load().closed)
	return true
}

const (
	optionDone     = "PublishOptions.Done"
	maxWaitingDone = 64 << 10 // calls, or twice the window: a burst of outcomes is no slow Done
)

// doneFull reports whether no more messages with Done are admitted to the window. The calls for those that it holds are still added.
func (c *Client) doneFull() bool {
	return c.doneCalls.Len() >= max(maxWaitingDone, 2*c.cfg.Window.Messages)
}

// followOutcome makes Done be called for a receipt whose outcome is visible, if it has Done.
func (w *window) followOutcome(r *Receipt) {
	if r.details != nil && r.details.done != nil {
		w.doneCalls.Post(r)
	}
}

// callDone calls Done.
func callDone(r *Receipt) {
	done := r.details.done
	r.details.done = nil // the receipt may be kept for long
	done(r)
}

// show publishes the outcome of r.
func (w *window) show(r *Receipt) {
	if r.publishOutcome() {
		w.woken++
	}
	if h := w.counters.measured; h != nil && r.hasLeft() {
		h.outcome.Add(time.Since(r.details.expires)+r.details.ttl, 1)
	}
	w.followOutcome(r)
	if w.notify != nil && (r.decided == Rejected || r.decided == Expired || r.decided == Unknown) {
		w.notify.post(MessageFailed{r.topic, r.id, r.decided, r.details.err})
	}
}

// addFlushPoint returns the point that is completed when every message admitted so far has its outcome.
func (w *window) addFlushPoint() *flush.Point {
	point := w.flushes.Add(w.lastSeq())
	w.completeFlushes()
	return point
}

func (w *window) completeFlushes() {
	for w.firstPending < w.slots.Len() && (*w.slots.At(w.firstPending)).isDecided() {
		w.firstPending++
	}
	w.flushes.Complete(w.firstSeq + uint64(w.firstPending))
}

// outboxWindow is what the window knows of Options.Outbox.
type outboxWindow struct {
	journal  *keeper.Keeper[*Receipt] // nil without one
	ids      *keeper.IDs[*Receipt]    // of the messages that it holds; nil without one
	restored []*Receipt               // that it held at first, until Client.Receipts has listed them
}

// keepOutcome records that slot i gets the outcome o, and is settled unless the server has still to learn of it as a void message.
func (w *window) keepOutcome(i int, o Outcome, void bool) {
	if w.journal != nil {
		w.recordOutcome(i, o, void)
	}
}

func (w *window) recordOutcome(i int, o Outcome, void bool) {
	r := *w.slots.At(i)
	seq := w.firstSeq + uint64(i)
	switch {
	case r.settled || void && r.decided != Pending:
	case r.decided == Pending && (o == Rejected || o == Expired || o == Unknown):
		r.held = true
		w.journal.Hold(seq, r, void)
	default:
		w.journal.Settle(seq)
	}
}

// reveal publishes outcomes that were held, and those of messages that leave.
func (w *window) reveal(rs []*Receipt) {
	if len(rs) == 0 {
		return
	}
	for _, r := range rs {
		if r.held = false; r.hasLeft() {
			w.left++
		}
	}
	places := len(rs)
	if w.journal != nil { // some have no slot: a new session has begun
		places, w.resolved = w.compact(), [2]int{0, w.slots.Len()}
	}
	w.admission.Release(places, 0)
	w.publishResolved() // no Flush returns before all are shown
	rest := slices.DeleteFunc(rs, func(r *Receipt) bool { return !r.unpublished() })
	for _, r := range rest {
		w.counters.outcomes[r.decided].Add(1)
	}
	for _, r := range rest {
		w.show(r)
	}
	if 2*w.left > w.slots.Len() {
		w.compact()
	}
	w.completeFlushes()
}

// restore fills the window with what an outbox holds.
func (w *window) restore(c *outbox.Content, clock keeper.Clock, now time.Time) {
	w.ids = keeper.NewIDs[*Receipt]()
	w.firstSeq, w.settledID, w.highestSent = c.Through+1, wire.ID(c.Tag), c.Through
	for i := range c.Messages {
		m := &c.Messages[i]
		r := &Receipt{id: m.ID, topic: m.Topic, payload: m.Payload, settled: m.Settled, resend: Resend(m.Resend)}
		if m.Void || m.Settled { // its outcome was published by an earlier client
			r.decided = Acked
			r.outcome.Store(uint32(Acked))
		}
		if m.Type != "" || len(m.Header) > 0 || m.TTL > 0 {
			r.details = &receiptDetails{contentType: m.Type, header: m.Header, ttl: m.TTL}
		}
		if m.TTL > 0 {
			age, _ := clock.Since(m.Added)
			r.details.expires = now.Add(m.TTL - age)
		}
		if !m.Sent.IsZero() {
			r.firstSent, r.earlier = ageUnknown, true
			if age, known := clock.Since(m.Sent); known {
				r.firstSent = min(w.timestamp(now.Add(-age)), -1)
			}
		}
		if !m.Sent.IsZero() || r.decided != Pending {
			w.highestSent = m.Seq
		}
		w.add(r, now)
		w.admission.Take(1, len(m.Payload))
		if r.decided != Pending {
			w.pending--
			continue
		}
		w.restored = append(w.restored, r)
		w.counters.published.Add(1)
		w.ids.Add(r.id, r, r.topic, r.payload)
	}
}

const ageUnknown = math.MaxInt64 // as Receipt.firstSent: the age is negative, which wire.Message takes for unknown

// keptMessages returns all slots as the outbox holds them, from message 1 on.
func (w *window) keptMessages(now time.Time) []outbox.Message {
	messages := make([]outbox.Message, w.slots.Len())
	for i, r := range w.slots.All() {
		messages[i] = w.keptMessage(r, w.counters.origin.Add(time.Duration(*w.admitted.At(i))))
		messages[i].Seq = w.firstSeq + uint64(i)
		switch r.firstSent {
		case 0:
		case ageUnknown:
			messages[i].Sent = time.Unix(1, 0) // longer ago than any server remembers
		default:
			messages[i].Sent = now.Add(-time.Duration(w.timestamp(now) - r.firstSent)).Round(0)
		}
	}
	return messages
}

// keptMessage returns r as the outbox holds it, without Seq and Sent.
func (w *window) keptMessage(r *Receipt, added time.Time) outbox.Message {
	m := outbox.Message{ID: r.id, Topic: r.topic, Payload: r.payload, Added: added.Round(0), Resend: uint8(r.resend)}
	if d := r.details; d != nil {
		m.Type, m.Header, m.TTL = d.contentType, d.header, d.ttl
		if d.ttl > 0 {
			m.Added = d.expires.Add(-d.ttl).Round(0)
		}
	}
	return m
}

// giveBack returns the room of messages that are not kept.
func (w *window) giveBack(rs []*Receipt) {
	for _, r := range rs {
		w.admission.Release(1, len(r.payload))
	}
	w.forgetIDs(rs)
}

// forgetIDs follows when the outbox no longer holds rs.
func (w *window) forgetIDs(rs []*Receipt) {
	if w.ids != nil {
		for _, r := range rs {
			w.ids.Remove(r.id, r)
		}
	}
}

// waitsAgain is the Receipt.sentIn of a message that waits to be sent again, for a dialect without sessions.
const waitsAgain = math.MaxUint32

// countBatch begins another batch.
func (w *window) countBatch() {
	if !w.sessions {
		w.batch = w.batch%(waitsAgain-1) + 1
	}
}

// rewind makes everything be sent on the next connection that was sent on this one.
func (w *window) rewind() {
	for _, r := range w.sentSlots() {
		if r.sentIn != waitsAgain {
			r.sentIn = 0
		}
	}
	w.nextToSend = 0
}

// sentSlots returns the slots that hold everything that was sent on this connection. One that is to be sent again takes nextToSend back.
func (w *window) sentSlots() []*Receipt {
	n := w.nextToSend
	if !w.sessions {
		n = max(n, min(int(w.highestSent+1-w.firstSeq), w.slots.Len()))
	}
	return w.slots.All()[:n]
}

// isInFlight reports whether r, one of sentSlots, was sent on this connection and is not settled.
func (w *window) isInFlight(r *Receipt) bool {
	return !r.settled && (w.sessions || r.sentIn != 0 && r.sentIn != waitsAgain)
}

// refusedForNow makes slot i wait until it may be sent again. It counts as never sent, unless an earlier connection may have carried it.
func (w *window) refusedForNow(i int, reject wire.Reject, now time.Time) {
	r := *w.slots.At(i)
	if r.settled || r.sentIn == 0 || r.sentIn == waitsAgain {
		return
	}
	r.sentIn = waitsAgain
	if r.resend != AtLeastOnce {
		r.firstSent = 0
	}
	if d := r.details; d != nil {
		d.refused = true
		w.expiries.Set(r, d.expires)
	}
	w.again.Add(reject.Seq, now.Add(min(reject.Retry, headers.MaxRetryAfter)))
	if w.notify != nil {
		w.notify.post(ServerNotice{Code: shownCode(reject.Code, reject.PeerCode), Reason: text.Quote(reject.Reason)})
	}
}

// takeAgain makes the messages be sent whose time has come.
func (w *window) takeAgain(now time.Time) {
	for seq, ok := w.again.Take(now); ok; seq, ok = w.again.Take(now) {
		if i, r := w.lookup(seq); r != nil && r.sentIn == waitsAgain {
			r.sentIn = 0
			w.nextToSend = min(w.nextToSend, i)
		}
	}
}

// close resolves every message that has no outcome: the client has ended.
func (w *window) close() {
	w.compact()
	for i, r := range w.slots.All() {
		if w.journal != nil {
			w.resolve(i, Stored, outcomeError(ErrStored))
		} else if r.firstSent == 0 {
			w.resolve(i, Unsent, outcomeError(ErrUnsent))
		} else {
			w.resolve(i, Unknown, outcomeError(ErrOutcomeUnknown))
		}
	}
	w.publishOutcomes()
	w.admission.Release(w.slots.Len(), 0)
	w.slots.Reset()
	w.admitted.Reset()
	w.firstPending = 0
}
