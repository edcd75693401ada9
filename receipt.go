package limpet

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
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
	message wire.Message // loop only; Payload is dropped with the outcome
	id      uuid.UUID
	size    int // payload bytes that hold window room
	expires time.Time
	atLeast bool

	// Owned by the loop.
	firstSent time.Time
	settled   bool // the server needs to hear nothing more of it
	mark      uint64

	outcome atomic.Uint32
	err     error // written before outcome

	mu   sync.Mutex
	done chan struct{} // made when somebody asks for it
}

// ID is the message's id: the one given in PublishOptions, or a new UUIDv7.
func (r *Receipt) ID() uuid.UUID { return r.id }

// Done is closed when the outcome is known.
func (r *Receipt) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.Outcome() != Pending {
			close(r.done)
		}
	}
	return r.done
}

// Outcome is what is known now. It changes once, from Pending.
func (r *Receipt) Outcome() Outcome { return Outcome(r.outcome.Load()) }

// Wait blocks until the outcome is known or ctx ends; ctx ends the waiting, not
// the message. The error is nil for Acked and Written, else an *Error that
// wraps ErrRejected, ErrExpired, ErrUnsent or ErrOutcomeUnknown, or ctx's error.
func (r *Receipt) Wait(ctx context.Context) (Ack, error) {
	if r.Outcome() == Pending {
		select {
		case <-r.Done():
		case <-ctx.Done():
			return Ack{ID: r.id}, ctx.Err()
		}
	}
	return Ack{ID: r.id, Outcome: r.Outcome()}, r.err
}

func (r *Receipt) resolve(o Outcome, err error) bool {
	if r.Outcome() != Pending {
		return false
	}
	if err != nil {
		r.err = err
	}
	r.mu.Lock()
	r.outcome.Store(uint32(o))
	if r.done != nil {
		close(r.done)
	}
	r.mu.Unlock()
	return true
}
