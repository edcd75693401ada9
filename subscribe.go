package limpet

import (
	"context"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/watch"
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
// Received = Delivered + Dropped + Waiting.
type SubStats struct {
	Received   uint64 // accepted from the server, without duplicates
	Delivered  uint64 // handed to a consumer
	Dropped    uint64 // by the overflow policy, or waiting when the subscription was closed
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

	askedGeneration uint64    // the connection on which it was asked for; 0: none
	refusals        int       // in a row
	askAgainAt      time.Time // after a refusal that is not final
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
		Waiting: uint64(q.data + q.inHand), Duplicates: q.duplicates, Gaps: q.gaps, Resets: q.resets,
	}
}

// Committed is the position up to which everything was acknowledged without a
// hole: where another process may go on with FromResume. Zero if nothing was.
// A message that is never acknowledged holds it where it is.
func (s *Subscription) Committed() Position {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.queue.progress.committed
}

// Err is why the subscription ended: nil while it has not, and after a clean end.
func (s *Subscription) Err() error {
	if st := s.State(); st.Phase == SubEnded {
		return st.Err
	}
	return nil
}

// Close ends the subscription at both ends. It does not wait; messages that
// wait are dropped and counted. It may be called from a consumer.
func (s *Subscription) Close() error {
	s.queue.discard(nil)
	s.client.inbox.post(unsubscribe{s})
	return nil
}

// Subscribe registers a subscription and returns at once, connected or not;
// WaitLive waits for the server. It is restored after every reconnect where it
// stopped. Errors are local: a *Error that names the argument or wraps
// ErrTopic, ErrUnsupported, ErrDuplicate or ErrClosed. ctx bounds the call.
func (c *Client) Subscribe(ctx context.Context, topic string, o *SubscribeOptions) (*Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts, err := c.cfg.subscribeOptions(topic, o)
	if err != nil {
		return nil, err
	}
	s := &Subscription{client: c, topic: topic, from: opts.From, token: opts.Token}
	s.queue = newQueue(topic, &opts, c.cfg.traits, func() { c.inbox.post(grantCredit{s}) })
	s.queue.tell = func(gen uint64, p Position) { c.inbox.post(sendProcessed{s, gen, p}) }
	s.state.Set(SubState{Phase: SubPending, Since: time.Now()})
	cmd := subscribe{s, make(chan error, 1)}
	if !c.inbox.post(cmd) {
		return nil, &Error{Op: "Subscribe", Class: ClassClosed, Err: ErrClosed}
	}
	select {
	case err := <-cmd.reply:
		if err != nil {
			return nil, err
		}
		return s, nil
	case <-c.done:
		return nil, &Error{Op: "Subscribe", Class: ClassClosed, Err: ErrClosed}
	}
}
