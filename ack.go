package limpet

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Outcome is what became of a published message.
type Outcome uint32

const (
	Pending  Outcome = iota // nothing is known yet
	Acked                   // the server took responsibility for it
	Written                 // handed to the network; the dialect has no acknowledgements
	Rejected                // the server refused it for good
	Expired                 // its TTL passed before it was sent
	Unsent                  // never sent, and the client has closed
	Stored                  // in the outbox: the next client on it sends it
	Unknown                 // it may or may not have been accepted
)

var outcomes = [...]string{"pending", "acked", "written", "rejected", "expired", "unsent", "stored", "unknown"}

func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return "outcome ?"
}

// Ack is the good end of a message: Acked or Written.
type Ack struct {
	ID      uuid.UUID
	Outcome Outcome
}

// Receipt follows one published message to its outcome. It is safe for
// concurrent use.
type Receipt struct {
	id      uuid.UUID
	topic   string
	payload []byte // holds room in the window; let go with the outcome
	extra   *extra // nil for most

	// Owned by the loop.
	sent    int64   // when it was first handed to the network, by the window's clock; 0: never
	mark    uint32  // the Flush that waits for it
	verdict Outcome // the outcome, before anybody is told
	settled bool    // the server needs to hear nothing more of it
	atLeast bool

	state atomic.Uint32 // the Outcome; awaited while somebody waits for it
	done  atomic.Pointer[signal]
}

// shortReceipt is a receipt with its short payload: one allocation, as small as
// the two would be. A caller who keeps the receipt keeps these bytes.
type shortReceipt struct {
	Receipt
	payload [shortPayload]byte
}

const shortPayload = 64

// extra is what few messages have.
type extra struct {
	kind    string // content type
	header  map[string]string
	ttl     time.Duration
	expires time.Time
	err     error // written before the outcome
}

type signal struct{ c chan struct{} }

// awaited is the state of a receipt whose done has to be closed.
const awaited = uint32(Pending) | 1<<31

// ID is the message's id: the one given in PublishOptions, or a new UUIDv7.
func (r *Receipt) ID() uuid.UUID { return r.id }

// Done is closed when the outcome is known.
func (r *Receipt) Done() <-chan struct{} {
	if s := r.done.Load(); s != nil {
		return s.c
	}
	s := &signal{make(chan struct{})}
	if !r.done.CompareAndSwap(nil, s) {
		return r.done.Load().c
	}
	if !r.state.CompareAndSwap(uint32(Pending), awaited) {
		close(s.c) // whoever told the outcome saw nobody waiting
	}
	return s.c
}

// Outcome is what is known now. It changes once, from Pending.
func (r *Receipt) Outcome() Outcome {
	s := r.state.Load()
	if s == awaited {
		return Pending
	}
	return Outcome(s)
}

// Wait blocks until the outcome is known or ctx ends; ctx ends the waiting, not
// the message. The error is nil for Acked and Written, else an *Error that
// wraps ErrRejected, ErrExpired, ErrUnsent or ErrOutcomeUnknown, or ctx's error.
func (r *Receipt) Wait(ctx context.Context) (Ack, error) {
	if r.Outcome() == Pending {
		if ctx.Done() == nil {
			<-r.Done()
		} else {
			select {
			case <-r.Done():
			case <-ctx.Done():
				return Ack{ID: r.id}, ctx.Err()
			}
		}
	}
	a := Ack{ID: r.id, Outcome: r.Outcome()}
	if r.extra != nil {
		return a, r.extra.err
	}
	return a, nil
}

// untold reports whether there is a verdict that nobody knows of.
func (r *Receipt) untold() bool { return r.verdict != Pending && r.Outcome() == Pending }

// tell makes the verdict known and reports whether somebody waited for it.
func (r *Receipt) tell() bool {
	if r.state.Swap(uint32(r.verdict)) != awaited {
		return false
	}
	close(r.done.Load().c)
	return true
}
