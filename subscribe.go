package limpet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/watch"
)

// DeliveryStopped is an event: for 30 seconds a stream has stood still because with
// ManualAck the oldest messages were not acknowledged, or because with Block no
// consumer took what was waiting. It comes once, and again if that happens again. A
// loop body that works for long is no standstill; work between two receives from C is.
type DeliveryStopped struct {
	// Topic is the topic of the subscription.
	Topic string
	// Waiting and Unacked are as in SubStats.
	Waiting, Unacked uint64
	// Err says what is missing and what to do.
	Err error
}

var (
	errNotAcknowledged = errors.New("ManualAck is set and the oldest messages are not acknowledged; call Message.Ack for each message, or raise Delivery.Buffer")
	errNotTaken        = errors.New("no consumer takes what is waiting; take it with Messages, Batches or C, close the subscription, or set another Delivery.Overflow")
)

func (e DeliveryStopped) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: delivery stopped", []slog.Attr{
		slog.String("topic", logText(e.Topic)), slog.Uint64("waiting", e.Waiting), slog.Uint64("unacked", e.Unacked),
		slog.String("cause", e.Err.Error())}
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

	closed        atomic.Bool // by Close, which the loop may not know yet
	endedByClient atomic.Bool // by Close or Shutdown of the client

	// Owned by the loop.
	key         uint64
	totalsPlace int // in subscriptionTotals.open, from 1; 0: not in it; under its lock
	place       int // in registry.subs, from 1; 0: not in it
	from        From
	token       Secret
	wireName    string

	keptIn          string     // the session in which it was live, if the server keeps subscriptions; see wire.Traits.KeepsSubs
	askedGeneration uint64     // the connection on which it was asked for; 0: none
	askNumber       uint64     // of the last request, see link.asks
	askWrite        uint64     // that carried it, see link.writes
	refusals        int        // in a row
	ackOp           int        // index in link.ops of the last OpAck for it, if it has not been encoded yet
	failedAsks      int        // requests in a row that were not answered, or refused without naming the topic
	suspicion       *suspicion // that its request makes the server close the connection; nil: none
	endings         int        // by the server, in a row, each soon and before a message
	held            bool       // messages may be those of an earlier subscription to the topic
	inOutage        bool       // it was live when the outage began, and is not yet again
	acksOwed        bool       // in Shutdown: the server still has it, to learn what consumers process
	askAgainAt      time.Time  // not before: after a refusal that is not final, or no answer; zero: at any time; see registry.postpone
	waitPlace       int        // in registry.waiting, from 1; 0: not in it
}

// String names the subscription by its topic.
func (s *Subscription) String() string { return "limpet.Subscription(" + peerText(s.topic) + ")" }

// GoString is String.
func (s *Subscription) GoString() string { return s.String() }

// Topic returns the topic given to Subscribe.
func (s *Subscription) Topic() string { return s.topic }

// State returns the current state.
func (s *Subscription) State() SubState { return s.state.Load() }

// WaitLive blocks until the server has confirmed the subscription on the current
// connection. In a dialect that routes by name, the first message may stand for the
// confirmation (see wire.Traits.ByKey). A dialect without the trait Confirms has no confirmations: then
// asking is enough. WaitLive returns an error if ctx ends (ctx's error) or the subscription
// has ended: the error of Err, or after a clean end one that wraps ErrClosed if
// the client was closed and ErrSubscriptionClosed if only the subscription was.
func (s *Subscription) WaitLive(ctx context.Context) error {
	if err := checkContext("WaitLive", ctx); err != nil {
		return err
	}
	st, err := s.state.Wait(ctx, func(st SubState) bool { return st.Phase != SubPending || s.closed.Load() })
	if err != nil && st.Err != nil {
		return &Error{Op: "WaitLive", Class: ClassOf(err),
			Err: fmt.Errorf("the caller's context ended before the subscription was live (%w); the server refused it for now: %w", err, st.Err)}
	}
	if err != nil {
		return contextError("WaitLive", "the subscription was live", err)
	}
	switch {
	case st.Phase == SubEnded && st.Err != nil:
		return st.Err
	case st.Phase == SubEnded && s.endedByClient.Load(), st.Phase != SubEnded && s.client.closed.Load() && !s.closed.Load():
		return &Error{Op: "WaitLive", Class: ClassClosed, Err: ErrClosed}
	case st.Phase == SubEnded || s.closed.Load():
		return &Error{Op: "WaitLive", Class: ClassClosed, Err: ErrSubscriptionClosed}
	}
	return nil
}

// Stats returns the counts since Subscribe.
func (s *Subscription) Stats() SubStats {
	return s.queue.stats()
}

// Committed returns the committed position, up to which every message was
// acknowledged: another process can continue from it with FromResume. Before the
// first acknowledgement it is SubscribeOptions.Position. It never passes a
// message that is not acknowledged.
func (s *Subscription) Committed() Position {
	return s.queue.committedPosition()
}

// Err returns why the subscription ended, nil for a clean end. It also returns
// nil while the subscription has not ended.
func (s *Subscription) Err() error {
	if st := s.State(); st.Phase == SubEnded {
		return st.Err
	}
	return nil
}

// Close ends the subscription here and at the server. It does not block. Waiting
// messages are dropped and counted as SubStats.Dropped, iterations end without an
// error, and C is closed. A server that waits for an acknowledgement of each message
// (wire.ProcessedEach) gets those of the messages that consumers have in hand, for at
// most 10 seconds; then the rest is released, see Message.Nack, and the subscription
// ends there. Close may be called from a consumer, and more than once. It always
// returns nil.
func (s *Subscription) Close() error {
	s.closed.Store(true)
	s.queue.discard(nil)
	s.client.inbox.post(unsubscribe{s})
	return nil
}

// roomAvailable implements queueOwner.
func (s *Subscription) roomAvailable() { s.client.inbox.post(grantCredit{s}) }

// streamDrained implements queueOwner.
func (s *Subscription) streamDrained() { s.client.inbox.post(consumersDone{s}) }

// positionProcessed implements queueOwner.
func (s *Subscription) positionProcessed(gen uint64, p Position, released bool) {
	s.client.inbox.post(sendProcessed{s, gen, p, released})
}

// messagesDropped implements queueOwner.
func (s *Subscription) messagesDropped(n uint64) {
	s.client.notify.post(MessagesDropped{s.topic, n})
}

// stoodStill implements queueOwner.
func (s *Subscription) stoodStill(e DeliveryStopped) { s.client.notify.post(e) }

// Subscribe registers a subscription. It does not wait for the server, connected
// or not; Subscription.WaitLive does. After every reconnect the subscription
// resumes where it stopped. Errors are local: an *Error that names the argument
// at fault, or that wraps ErrTopic, ErrUnsupported, ErrDuplicate, ErrClosed, or the
// *PermanentError that ended the client, or ctx's error if ctx has already ended. ctx has no effect on the subscription; o
// may be nil.
func (c *Client) Subscribe(ctx context.Context, topic string, o *SubscribeOptions) (*Subscription, error) {
	if err := checkContext("Subscribe", ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, contextError("Subscribe", "the call", err)
	}
	s, err := newSubscription(c, topic, o)
	if err != nil {
		return nil, err
	}
	if o != nil {
		c.secrets.AddSubscription(o.Token.reveal())
	}
	cmd := subscribe{s, make(chan error, 1)}
	if !c.inbox.post(cmd) {
		return nil, c.endError("Subscribe")
	}
	select {
	case err := <-cmd.reply:
		if err != nil {
			return nil, err
		}
		return s, nil
	case <-c.done:
		return nil, c.endError("Subscribe")
	}
}

func newSubscription(c *Client, topic string, o *SubscribeOptions) (*Subscription, error) {
	opts, err := c.cfg.subscribeOptions(topic, o)
	if err != nil {
		return nil, err
	}
	s := &Subscription{client: c, topic: topic, from: opts.From, token: opts.Token}
	s.queue = newQueue(topic, &opts, c.cfg.traits, s)
	if h := c.counters.measured; h != nil {
		s.queue.lag = &lagMeter{histogram: &h.delivery}
	}
	s.state.Set(SubState{Phase: SubPending, Since: time.Now()})
	return s, nil
}

// Subscriptions returns the subscriptions that have not ended, in the order of
// Subscribe. It is a snapshot. After Close, Shutdown and a permanent failure there are
// none. It waits for neither network nor consumers, and may be called at any time, also
// from an Observer.
func (c *Client) Subscriptions() []*Subscription {
	query := listOpen{make(chan []*Subscription, 1)}
	if !c.inbox.post(query) {
		return nil
	}
	select {
	case subs := <-query.reply:
		return subs
	case <-c.done:
		return nil
	}
}

// listOpen replies with the subscriptions that have not ended.
type listOpen struct{ reply chan []*Subscription }

func (e listOpen) apply(l *loop) {
	if l.ended {
		e.reply <- nil
		return
	}
	e.reply <- slices.Collect(l.registry.all())
}
