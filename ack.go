package limpet

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/dispatch"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

// Outcome is what became of a published message: Pending at first, then exactly
// one of the others, which never changes (docs/protocol.md, section 5).
type Outcome uint32

const (
	// Pending means that the outcome is not known yet.
	Pending Outcome = iota
	// Acked means that the server has accepted the message.
	Acked
	// Written means that the message was handed to the network and that the
	// dialect has no acknowledgements: nothing more will be known.
	Written
	// Rejected means that the server rejected the message, that the dialect
	// cannot encode it, or that it is too big for the server.
	Rejected
	// Expired means that PublishOptions.TTL passed before the message was sent.
	Expired
	// Unsent means that the client ended before the message was sent. It is
	// safe to publish it again.
	Unsent
	// Unknown means that the message was sent and may or may not have been
	// accepted.
	Unknown
)

var outcomeNames = [...]string{"pending", "acked", "written", "rejected", "expired", "unsent", "unknown"}

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
	// Outcome is Acked or Written if the error is nil, Pending if the outcome is
	// not known yet, and otherwise what the error describes.
	Outcome Outcome
	// Reply is what the server replied to a message that it accepted, for example the
	// result of a GraphQL mutation; nil if the dialect has no replies. The receipt keeps
	// it: do not change it.
	Reply []byte
}

// Receipt follows one published message to its outcome. It is safe for
// concurrent use and remains valid after the client has ended.
type Receipt struct {
	id      uuid.UUID
	topic   string
	payload []byte          // nil once the outcome is decided, which frees its room in the window
	details *receiptDetails // nil for most messages

	// Owned by the loop.
	firstSent   int64   // when the message was first handed to the network, as window.timestamp; 0: never
	decided     Outcome // the outcome, before publishOutcome makes it visible
	settled     bool    // the server needs to learn nothing more about the message
	atLeastOnce bool
	sentIn      uint32 // the batch on this connection, without sessions; waitsAgain: see sendAgain; 0: none

	outcome    atomic.Uint32 // the Outcome that callers see, or awaited
	doneSignal atomic.Pointer[outcomeSignal]
}

// inlineReceipt is a Receipt together with its payload, in one allocation. The
// bytes live as long as the receipt does.
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
}

// outcomeSignal is closed with the outcome. Done makes it for its first caller.
type outcomeSignal struct{ closed chan struct{} }

// awaited is the value of Receipt.outcome while the outcome is Pending and
// doneSignal has to be closed.
const awaited = uint32(Pending) | 1<<31

// ID returns the id of the message: PublishOptions.ID, or the UUIDv7 that the
// client made.
func (r *Receipt) ID() uuid.UUID { return r.id }

// Done returns a channel that is closed when the outcome is known: at the
// latest when the client ends.
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

// Outcome returns what is known now. It does not block. The outcome changes only
// once, from Pending.
func (r *Receipt) Outcome() Outcome {
	o := r.outcome.Load()
	if o == awaited {
		return Pending
	}
	return Outcome(o)
}

// Wait blocks until the outcome is known or ctx ends. The error is nil for
// Acked and Written, and otherwise an *Error that wraps ErrRejected,
// ErrExpired, ErrUnsent or ErrOutcomeUnknown. If ctx ends first, the *Error wraps
// ctx's error: the client still sends the message, and Wait may be called again.
// Every outcome is known once the client has ended.
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
	a := Ack{ID: r.id, Outcome: r.Outcome()}
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
func (r *Receipt) unpublished() bool { return r.decided != Pending && r.Outcome() == Pending }

// publishOutcome makes the outcome visible and reports whether a caller waited
// for it.
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

// doneFull reports whether no more messages with Done are admitted to the window. The
// calls for those that it holds are still added.
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

// doneFailed reports that a call of Done has failed.
func (n *notifier) doneFailed(err error) {
	var p *dispatch.Panicked
	switch {
	case errors.As(err, &p):
		err = &PanicError{p.Value, p.Stack}
	case errors.Is(err, dispatch.ErrHangs):
		err = newHangError(optionDone, dispatch.CallerName)
	}
	n.post(CallbackFailed{optionDone, &Error{Op: opReceipt, Field: optionDone, Class: ClassUser, Err: err}})
}

// written resolves the messages up to seq as Written, for a dialect without
// acknowledgements.
func (w *window) written(seq uint64) {
	w.settleThrough(min(seq, w.lastSeq()), Written)
	w.publishOutcomes()
}

// addFlushPoint returns the point that is completed when every message admitted so
// far has its outcome.
func (w *window) addFlushPoint() *flush.Point {
	point := w.flushes.Add(w.lastSeq())
	w.completeFlushes()
	return point
}

func (w *window) completeFlushes() {
	for w.firstPending < w.slots.Len() && (*w.slots.At(w.firstPending)).decided != Pending {
		w.firstPending++
	}
	w.flushes.Complete(w.firstSeq + uint64(w.firstPending))
}

// oldestPending returns the moment of the admission of the oldest message without an
// outcome, as counters hold it; 0 without one.
func (w *window) oldestPending() int64 {
	if w.pending == 0 || w.firstPending >= w.admitted.Len() {
		return 0
	}
	return *w.admitted.At(w.firstPending)
}

// measure measures how long the messages that were resolved, [from, to), waited for their outcome.
func (w *window) measure(resolved []*Receipt) {
	h := w.counters.measured
	if h == nil {
		return
	}
	now := w.counters.moment(time.Now())
	for i, r := range resolved {
		if r.unpublished() {
			h.outcome.Add(time.Duration(now-*w.admitted.At(w.resolved[0] + i)), 1)
		}
	}
}

// sendAgain is a message that the server has not taken and that is to be sent again, for a
// dialect without sessions.
type sendAgain struct {
	seq uint64
	at  time.Time
}

// waitsAgain is the Receipt.sentIn of a message that waits for its time.
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

// sentSlots returns the slots that hold everything that was sent on this connection. One
// that is to be sent again takes nextToSend back.
func (w *window) sentSlots() []*Receipt {
	n := w.nextToSend
	if !w.sessions {
		n = max(n, min(int(w.highestSent+1-w.firstSeq), w.slots.Len()))
	}
	return w.slots.All()[:n]
}

// isInFlight reports whether r, one of sentSlots, was sent on this connection and is not
// settled.
func (w *window) isInFlight(r *Receipt) bool {
	return !r.settled && (w.sessions || r.sentIn != 0 && r.sentIn != waitsAgain)
}

// refusedForNow makes slot i wait until it may be sent again. It counts as never sent, unless
// an earlier connection may have carried it.
func (w *window) refusedForNow(i int, reject wire.Reject, now time.Time) {
	r := *w.slots.At(i)
	if r.settled || r.sentIn == 0 || r.sentIn == waitsAgain {
		return
	}
	r.sentIn = waitsAgain
	if !r.atLeastOnce {
		r.firstSent = 0
	}
	if d := r.details; d != nil && !d.expires.IsZero() && (w.nextExpiry.IsZero() || d.expires.Before(w.nextExpiry)) {
		w.nextExpiry = d.expires
	}
	next := sendAgain{reject.Seq, now.Add(min(reject.Retry, headers.MaxRetryAfter))}
	at, _ := slices.BinarySearchFunc(w.again, next, func(a, b sendAgain) int {
		if a.at.After(b.at) {
			return 1
		}
		return -1 // behind those of the same time
	})
	w.again = slices.Insert(w.again, at, next)
	if w.notify != nil {
		w.notify.post(ServerNotice{shownCode(reject.Code, reject.PeerCode), text.Quote(reject.Reason)})
	}
}

// takeAgain makes the messages be sent whose time has come.
func (w *window) takeAgain(now time.Time) {
	for len(w.again) > 0 && due(w.again[0].at, now) {
		if i, r := w.lookup(w.again[0].seq); r != nil && r.sentIn == waitsAgain {
			r.sentIn = 0
			w.nextToSend = min(w.nextToSend, i)
		}
		w.again = w.again[1:]
	}
	if len(w.again) == 0 {
		w.again = nil
	}
}

// nextAgain is when the next message is to be sent again; zero: none.
func (w *window) nextAgain() (at time.Time) {
	if len(w.again) > 0 {
		at = w.again[0].at
	}
	return at
}

// appendReused extends s by one element. The element is zero, or as
// encodeArgs.reset left it.
func appendReused[T any](s []T) ([]T, *T) {
	if len(s) == cap(s) {
		s = slices.Grow(s, 1)
	}
	s = s[:len(s)+1]
	return s, &s[len(s)-1]
}
