package limpet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/histogram"
	"github.com/limpet-go/limpet/internal/saver"
	"github.com/limpet-go/limpet/internal/schedule"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/internal/watch"
)

// DeliveryStopped is an event: for 30 seconds a stream has stood still because with
// ManualAck the oldest messages were not acknowledged, because with Block no
// consumer took what was waiting, or because the server waits for acknowledgements
// (wire.Frames.Prefetch). It comes once, and again if that happens again. A
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
	errServerWaits     = errors.New("the server waits for acknowledgements before it sends more; call Message.Ack for each message that no loop body has finished, or let the dialect ask for more at once")
	errNotTaken        = errors.New("no consumer takes what is waiting; take it with Messages, Batches or C, close the subscription, or set another Delivery.Overflow")
)

func (e DeliveryStopped) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: delivery stopped", []slog.Attr{
		slog.String("topic", text.ForLog(e.Topic)), slog.Uint64("waiting", e.Waiting), slog.Uint64("unacked", e.Unacked),
		slog.String("cause", e.Err.Error())}
}

// CursorNotSaved is an event: the store in SubscribeOptions.Cursor has not saved the
// position of a subscription. The stream goes on.
type CursorNotSaved struct {
	// Topic is the topic of the subscription.
	Topic string
	// Name is SubscribeOptions.Name.
	Name string
	// Retry is after how long the newest position is saved again; 0: it is not, since the
	// call of Save has not returned or the client has ended.
	Retry time.Duration
	// Err is an *Error that wraps what Save returned, or a *PanicError or a *HangError.
	Err error
}

func (e CursorNotSaved) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("topic", text.ForLog(e.Topic)), slog.String("name", text.ForLog(e.Name)),
		slog.Duration("retry", e.Retry), slog.String("cause", e.Err.Error())}
	if stack := stackOf(e.Err); stack != nil {
		attrs = append(attrs, slog.String("stack", string(stack)))
	}
	return slog.LevelWarn, "limpet: cursor not saved", attrs
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
	priority    int
	wireName    string

	keptIn          uint64        // the session in which it was live, if the server keeps subscriptions; see wire.Traits.KeepsSubs
	askedGeneration uint64        // the connection on which it was asked for; 0: none
	askNumber       uint64        // of the last request, see link.asks
	askWrite        uint64        // that carried it, see link.writes
	refusals        int           // in a row
	ackOp           int           // index in link.ops of the last OpAck for it, if it has not been encoded yet
	failedAsks      int           // requests in a row that were not answered, or refused without naming the topic
	suspicion       *suspicion    // that its request makes the server close the connection; nil: none
	endings         int           // by the server, in a row, each soon and before a message
	held            bool          // messages may be those of an earlier subscription to the topic
	inOutage        bool          // it was live when the outage began, and is not yet again
	acksOwed        bool          // in Shutdown: the server still has it, to learn what consumers process
	askAgain        schedule.Slot // not before: after a refusal that is not final, or no answer; see registry.postpone
}

// String names the subscription by its topic.
func (s *Subscription) String() string { return "limpet.Subscription(" + text.Quote(s.topic) + ")" }

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
	st, err := s.state.Wait(ctx, func(st SubState) bool { return !st.Phase.waits() || s.closed.Load() })
	if err != nil && st.Err != nil {
		return &Error{Op: "WaitLive", Class: ClassOf(err),
			Err: fmt.Errorf("the caller's context ended before the subscription was live (%w); the reason so far: %w", err, st.Err)}
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
	s.client.inbox.Post(unsubscribe{s})
	return nil
}

// roomAvailable implements queueOwner.
func (s *Subscription) roomAvailable() { s.client.inbox.Post(grantCredit{s}) }

// streamDrained implements queueOwner.
func (s *Subscription) streamDrained() {
	if !s.client.inbox.Post(consumersDone{s}) {
		s.client.totals.forget(s) // the client has ended
	}
}

// positionProcessed implements queueOwner.
func (s *Subscription) positionProcessed(gen uint64, p Position, released bool) {
	s.client.inbox.Post(sendProcessed{s, gen, p, released})
}

// messagesDropped implements queueOwner.
func (s *Subscription) messagesDropped(n uint64) {
	s.client.notify.post(MessagesDropped{s.topic, n})
}

// stoodStill implements queueOwner.
func (s *Subscription) stoodStill(e DeliveryStopped) { s.client.notify.post(e) }

// keyPanicked implements queueOwner.
func (s *Subscription) keyPanicked(err error) { s.client.inbox.Post(keyFault{s, err}) }

// keyFault ends a subscription whose Delivery.Key panicked.
type keyFault struct {
	s   *Subscription
	err error
}

func (e keyFault) apply(l *loop) {
	if !l.ended && l.releaseSub(e.s) {
		l.endSub(e.s, e.err)
	}
}

// Subscribe registers a subscription. It does not wait for the server, connected
// or not; Subscription.WaitLive does. After every reconnect the subscription
// resumes where it stopped. Errors are local: an *Error that names the argument
// at fault, or that wraps ErrTopic, ErrUnsupported, ErrDuplicate, ErrTooManySubscriptions, ErrClosed, or the
// *PermanentError that ended the client, or ctx's error if ctx has already ended. ctx has no effect on the subscription; o
// may be nil.
//
// With SubscribeOptions.Cursor it waits for Load of the store. An error then names
// SubscribeOptions.Cursor and wraps that of the store, for example cursor.ErrLocked,
// cursor.ErrCorrupt or cursor.ErrOtherFeed; a Load that panics is an ErrPanic. A second
// subscription with the same Name is ErrDuplicate.
func (c *Client) Subscribe(ctx context.Context, topic string, o *SubscribeOptions) (*Subscription, error) {
	if err := checkContext("Subscribe", ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, contextError("Subscribe", "the call", err)
	}
	opts, err := c.cfg.subscribeOptions(topic, o)
	if err != nil {
		return nil, err
	}
	if opts.Cursor != nil {
		if err := c.loadCursor(ctx, topic, &opts); err != nil {
			return nil, err
		}
	}
	c.secrets.AddSubscription(opts.Token.reveal())
	s := newSubscription(c, topic, &opts)
	if err := c.register(s); err != nil {
		s.queue.forsake()
		if s.queue.saver != nil {
			c.cursors.Set(s.queue.saver.Name, nil)
		}
		return nil, err
	}
	return s, nil
}

// register hands s to the loop.
func (c *Client) register(s *Subscription) error {
	cmd := subscribe{s, make(chan error, 1)}
	if !c.inbox.Post(cmd) {
		return c.endError("Subscribe")
	}
	select {
	case err := <-cmd.reply:
		return err
	case <-c.done:
		return c.endError("Subscribe")
	}
}

// placesError is the error for one subscription too many.
func (l *loop) placesError() *Error {
	return &Error{Op: "Subscribe", Field: "topic", Class: ClassFull,
		Err: fmt.Errorf("%w (its limit is %d)", ErrTooManySubscriptions, l.c.cfg.traits.Connection.Subscriptions)}
}

func newSubscription(c *Client, topic string, opts *SubscribeOptions) *Subscription {
	s := &Subscription{client: c, topic: topic, from: opts.From, token: opts.Token, priority: opts.Priority}
	s.queue = newQueue(topic, opts, c.cfg.traits, s, c.memory)
	if opts.Cursor != nil {
		s.queue.saver = saver.New(saver.Config{
			Store: opts.Cursor, Name: opts.Name, Feed: c.cfg.feed(topic), Current: s.queue.toSave, Failed: s.cursorNotSaved,
			Over: s.over, Processed: s.processed,
		}, s.queue.committedPosition())
		c.cursors.Set(opts.Name, s.queue.saver)
	}
	if h := c.counters.measured; h != nil {
		s.queue.lag = &histogram.Lag{Delivery: &h.delivery, Source: &h.source}
	}
	s.state.Set(SubState{Phase: SubPending, Since: time.Now()})
	return s
}

// loadCursor reserves the name in o and makes the subscription start after the saved
// position, if there is one.
func (c *Client) loadCursor(ctx context.Context, topic string, o *SubscribeOptions) (err error) {
	before, free := c.cursors.Reserve(o.Name)
	if !free {
		return inputError("Subscribe", optionName, "%w", errNameInUse)
	}
	defer func() {
		if err != nil {
			c.cursors.Set(o.Name, before)
		}
	}()
	if before != nil {
		bounded, cancel := context.WithTimeout(ctx, saver.MaxLastSave)
		defer cancel()
		if !before.HandOver(bounded) {
			return contextError("Subscribe", "the cursor of the earlier subscription was saved", bounded.Err())
		}
	}
	result := make(chan loadedCursor, 1)
	go func() { loadInto(ctx, o.Cursor, o.Name, result) }()
	var loaded loadedCursor
	select {
	case loaded = <-result:
	case <-ctx.Done():
		return contextError("Subscribe", "the cursor was loaded", ctx.Err())
	case <-c.done:
		return c.endError("Subscribe")
	}
	if err = loaded.err; err == nil && !loaded.cursor.Position.IsZero() {
		err = loaded.cursor.Check(c.cfg.feed(topic))
		o.From, o.Position = FromResume, loaded.cursor.Position
	}
	if err != nil {
		return cursorError(err)
	}
	return nil
}

// errNameInUse is the error of a second subscription with the same name.
var errNameInUse = fmt.Errorf("another subscription of this client has it; close that one or use another name: %w", ErrDuplicate)

type loadedCursor struct {
	cursor cursor.Cursor
	err    error
}

// loadInto calls Load, whatever Load does.
func loadInto(ctx context.Context, store cursor.Store, name string, result chan<- loadedCursor) {
	loaded := loadedCursor{err: &fault.User{Option: optionCursor, Err: errors.New("Store.Load called runtime.Goexit; return an error instead")}}
	defer func() {
		if p := recover(); p != nil {
			loaded.err = &fault.User{Option: optionCursor, Err: &PanicError{Value: p, Stack: debug.Stack()}}
		}
		result <- loaded
	}()
	c, err := store.Load(ctx, name)
	loaded = loadedCursor{c, err}
}

// cursorError is the error of a store.
func cursorError(err error) *Error {
	class := ClassOf(err)
	var failed *fault.User
	switch {
	case errors.As(err, &failed):
		class, err = ClassUser, failed.Err
	case errors.Is(err, cursor.ErrOtherFeed), errors.Is(err, cursor.ErrName):
		class = ClassInput
	case class == ClassOther:
		class = ClassLocal
	}
	return &Error{Op: "Subscribe", Field: optionCursor, Class: class, Err: err}
}

// cursorNotSaved reports that a save has failed.
func (s *Subscription) cursorNotSaved(err error, retry time.Duration) {
	var panicked *saver.Panicked
	switch {
	case errors.As(err, &panicked):
		err = &fault.User{Option: optionCursor, Err: &PanicError{panicked.Value, panicked.Stack}}
	case errors.Is(err, saver.ErrSlow):
		err = &fault.User{Option: optionCursor, Err: newHangError("Store.Save", "saver.(*Saver).save(")}
	case errors.Is(err, saver.ErrGoexit):
		err = &fault.User{Option: optionCursor, Err: err}
	}
	e := cursorError(err)
	e.Op = "save"
	s.client.notify.post(CursorNotSaved{Topic: s.topic, Name: s.queue.saver.Name, Retry: retry, Err: e})
}

// over reports whether s has ended or was closed.
func (s *Subscription) over() bool { return s.closed.Load() || s.State().Phase == SubEnded }

// processed reports whether no message waits for a consumer or for an acknowledgement.
func (s *Subscription) processed() bool {
	st := s.queue.stats()
	return st.Waiting+st.Unacked == 0
}
