package limpet

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/fifo"
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

// doneCalls calls PublishOptions.Done, one call at a time, in the order in which the
// outcomes became visible. Its goroutine lives while there is something to call. Its
// lock is a leaf.
type doneCalls struct {
	notify *notifier // of calls that failed

	mu      sync.Mutex
	waiting fifo.Queue[*Receipt]
	running bool          // there is a goroutine
	began   time.Time     // of the call in progress
	idle    chan struct{} // closed when the goroutine ends; nil until finish
}

const (
	optionDone     = "PublishOptions.Done"
	maxWaitingDone = 64 << 10 // calls, or twice the window: a burst of outcomes is no slow Done
)

var errDoneGoexit = errors.New("called runtime.Goexit, as t.FailNow does; return instead")

// full reports whether no more messages with Done are admitted to a window of n
// messages. The calls for those that the window holds are still added.
func (d *doneCalls) full(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting.Len() >= max(maxWaitingDone, 2*n)
}

// follow adds the call for a receipt whose outcome is visible, if it has Done.
func (d *doneCalls) follow(r *Receipt) {
	if r.details != nil && r.details.done != nil {
		d.post(r)
	}
}

// post adds the call for a receipt whose outcome is visible. It never blocks.
func (d *doneCalls) post(r *Receipt) {
	d.mu.Lock()
	d.waiting.Push(r)
	start := !d.running
	d.running = true
	d.mu.Unlock()
	if start {
		go d.run()
	}
}

// run makes the calls that wait. If one of them ends the goroutine, another continues.
func (d *doneCalls) run() {
	for r := d.next(); r != nil; r = d.next() {
		d.call(r)
	}
}

// next returns the receipt whose call begins, or nil if none waits: then the goroutine
// must end.
func (d *doneCalls) next() *Receipt {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting.Len() == 0 {
		d.running = false
		if d.idle != nil {
			close(d.idle)
			d.idle = nil
		}
		return nil
	}
	r := *d.waiting.At(0)
	d.waiting.Drop(1)
	d.began = time.Now()
	return r
}

func (d *doneCalls) call(r *Receipt) {
	done, returned := r.details.done, false
	r.details.done = nil // the receipt may be kept for long
	defer func() {
		var err error
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		} else if !returned {
			err = errDoneGoexit
			go d.run()
		}
		if err != nil {
			d.failed(err)
		}
	}()
	done(r)
	returned = true
}

func (d *doneCalls) failed(err error) {
	d.notify.post(CallbackFailed{optionDone, &Error{Op: opReceipt, Field: optionDone, Class: ClassUser, Err: err}})
}

// finish waits until all calls have returned, or one of them has run for maxCall. No
// outcome follows.
func (d *doneCalls) finish() {
	d.mu.Lock()
	if !d.running {
		d.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	d.idle = idle
	d.mu.Unlock()
	timer := time.NewTimer(maxCall)
	defer timer.Stop()
	for {
		select {
		case <-idle:
			return
		case <-timer.C:
		}
		d.mu.Lock()
		rest := maxCall - time.Since(d.began)
		d.mu.Unlock()
		if rest <= 0 {
			d.failed(newHangError(optionDone, "limpet.(*doneCalls).call("))
			return
		}
		timer.Reset(rest)
	}
}

const opReceipt = "receipt"

// outcomeError is the error of a receipt for which the server gave no code.
func outcomeError(err error) *Error {
	return &Error{Op: opReceipt, Class: ClassOutcome, Err: err}
}

// written resolves the messages up to seq as Written, for a dialect without
// acknowledgements.
func (w *window) written(seq uint64) {
	w.settleThrough(min(seq, w.lastSeq()), Written)
	w.publishOutcomes()
}
