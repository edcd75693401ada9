package limpet

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/watch"
	"github.com/limpet-go/limpet/wire"
)

// SubPhase is how far a subscription is.
type SubPhase uint8

const (
	SubPending SubPhase = iota // not confirmed by the server on the present connection
	SubLive                    // messages flow
	SubEnded                   // closed or refused: see Err
)

func (p SubPhase) String() string {
	switch p {
	case SubPending:
		return "pending"
	case SubLive:
		return "live"
	case SubEnded:
		return "ended"
	}
	return "phase ?"
}

// SubState is the state of a subscription at one moment.
type SubState struct {
	Phase      SubPhase
	Generation uint64 // connection on which it was last confirmed
	Since      time.Time
	Err        error // SubEnded: why; nil for a clean end. SubPending: why it was refused, if it will be asked for again
}

// SubStats counts the messages of a subscription. Always
// Received = Delivered + Dropped + Conflated + Waiting.
type SubStats struct {
	Received   uint64 // accepted from the server, without duplicates
	Delivered  uint64 // handed to a consumer
	Dropped    uint64 // by the overflow policy, or waiting when the subscription was closed
	Conflated  uint64 // replaced by a newer one of the same key
	Waiting    uint64 // in the queue, or in the hand of C
	Duplicates uint64 // received again and discarded
	Gaps       uint64 // gaps and resets put into the stream by the server or by missing numbers
	Resets     uint64
}

// Subscription is a stream of messages that survives its connections. It is
// safe for concurrent use.
type Subscription struct {
	client *Client
	topic  string
	queue  *queue
	state  watch.Value[SubState]

	c            chan Message // of C
	startDeliver sync.Once

	// Owned by the loop.
	key      uint64
	from     From
	token    Secret
	wireName string
	asked    bool      // on the present connection
	retry    time.Time // when to ask again after a refusal
	retries  int
}

// String names the subscription by its topic.
func (s *Subscription) String() string { return "limpet.Subscription(" + peerText(s.topic) + ")" }

// GoString is String.
func (s *Subscription) GoString() string { return s.String() }

// Topic is what was subscribed to.
func (s *Subscription) Topic() string { return s.topic }

// State is the present state.
func (s *Subscription) State() SubState { return s.state.Load() }

// WaitLive blocks until the server has confirmed the subscription, the
// subscription has ended (its error) or ctx ends (ctx's error).
func (s *Subscription) WaitLive(ctx context.Context) error {
	st, err := s.state.Wait(ctx, func(st SubState) bool { return st.Phase != SubPending })
	if err != nil {
		return err
	}
	if st.Phase == SubEnded {
		if st.Err != nil {
			return st.Err
		}
		return &Error{Op: "WaitLive", Class: ClassClosed, Err: ErrClosed}
	}
	return nil
}

// Stats counts what came and went.
func (s *Subscription) Stats() SubStats {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return SubStats{
		Received: q.received, Delivered: q.delivered, Dropped: q.dropped,
		Waiting: uint64(q.messages + q.held), Duplicates: q.duplicates, Gaps: q.gaps, Resets: q.resets,
	}
}

// Committed is the position up to which everything was acknowledged without a
// hole: where another process may go on with FromResume. Zero if nothing was.
// A message that is never acknowledged holds it where it is.
func (s *Subscription) Committed() Position {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.queue.tracker.committed
}

// Err is why the subscription ended: nil while it has not, and after a clean end.
func (s *Subscription) Err() error {
	if st := s.State(); st.Phase == SubEnded {
		return st.Err
	}
	return nil
}

// Close ends the subscription here and at the server. It does not wait for the
// server and always returns nil. Messages that wait are dropped and counted as
// SubStats.Dropped; iterations end without an error, and C is closed. It may be
// called by any goroutine, a consumer included, and more than once.
func (s *Subscription) Close() error {
	s.queue.discard(nil)
	s.client.inbox.post(unsubscribe{s})
	return nil
}

// roomAvailable implements queueOwner.
func (s *Subscription) roomAvailable() { s.client.inbox.post(roomMade{s}) }

// positionProcessed implements queueOwner.
func (s *Subscription) positionProcessed(gen uint64, p Position) {
	s.client.inbox.post(processed{s, gen, p})
}

// routes maps what a codec names to delivery queues. It is immutable.
type routes struct {
	few    []*Subscription          // if there are only a few
	byKey  map[uint64]*Subscription // else
	byName map[string]*Subscription
}

const fewSubs = 8 // looked through faster than a map, and smaller

// find is nil for a subscription that is no more.
func (r *routes) find(ev *wire.Event) *Subscription {
	switch {
	case r == nil:
		return nil
	case ev.Key != 0:
		return r.keyed(ev.Key)
	}
	return r.byName[ev.Name]
}

func (r *routes) keyed(key uint64) *Subscription {
	for _, s := range r.few {
		if s.key == key {
			return s
		}
	}
	return r.byKey[key]
}

// registry holds the subscriptions in order of registration. It belongs to the
// loop, which publishes an immutable snapshot for the reader before it hands
// over any frame that names a new subscription.
type registry struct {
	traits *wire.Traits
	nextID uint64
	subs   []*Subscription
	dirty  bool // subs changed since the last publish
	routes *atomic.Pointer[routes]
}

func (r *registry) add(s *Subscription) {
	r.subs = append(r.subs, s)
	r.dirty = true
}

func (r *registry) remove(s *Subscription) {
	for i, other := range r.subs {
		if other == s {
			r.subs = append(r.subs[:i:i], r.subs[i+1:]...)
			r.dirty = true
			return
		}
	}
}

func (r *registry) named(topic string) *Subscription {
	for _, s := range r.subs {
		if s.topic == topic {
			return s
		}
	}
	return nil
}

func (r *registry) publish() {
	if !r.dirty {
		return
	}
	r.dirty = false
	next := new(routes)
	if len(r.subs) <= fewSubs {
		next.few = slices.Clone(r.subs)
	} else {
		next.byKey = make(map[uint64]*Subscription, len(r.subs))
		for _, s := range r.subs {
			next.byKey[s.key] = s
		}
	}
	if r.traits.ByName {
		next.byName = make(map[string]*Subscription, len(r.subs))
		for _, s := range r.subs {
			next.byName[s.topic] = s
		}
	}
	r.routes.Store(next)
}

// request is how s is asked for on connection gen: from the last message
// received, or as the caller wished if there was none.
func (s *Subscription) request(gen uint64) wire.Subscribe {
	last, based, credit := s.queue.startConnection(gen)
	return s.spell(last, based, credit)
}

// positions is what a cursor in a URL is made of: no connection can move it,
// since the last one was fenced.
func (r *registry) positions() []wire.Subscribe {
	var subs []wire.Subscribe
	for _, s := range r.subs {
		last, based := s.queue.resumePosition()
		subs = append(subs, s.spell(last, based, wire.Credit{}))
	}
	return subs
}

func (s *Subscription) spell(last Position, based bool, credit wire.Credit) wire.Subscribe {
	w := wire.Subscribe{Key: s.key, Topic: s.topic, From: s.from, Credit: credit, Token: s.token.reveal()}
	if based {
		w.From, w.Position = FromResume, last
	}
	return w
}

// begin readies every subscription for connection gen, which fences the
// earlier ones, and returns those that the handshake carries.
func (r *registry) begin(gen uint64) []wire.Subscribe {
	var first []wire.Subscribe
	for _, s := range r.subs {
		s.asked = false
		if len(first) < r.traits.StartSubs {
			first = append(first, s.request(gen))
			s.asked = true
		} else {
			s.queue.startConnection(gen)
		}
	}
	return first
}
