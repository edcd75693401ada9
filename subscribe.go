package limpet

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/histogram"
	"github.com/limpet-go/limpet/internal/saver"
	"github.com/limpet-go/limpet/internal/schedule"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/internal/traits"
	"github.com/limpet-go/limpet/internal/watch"
)

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
	sharing     *sharing // the topic has, or had, several subscriptions; nil: it never had
	snapshots   bool     // a part of a snapshot has come; under the lock of routes

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
// asking is enough. WaitLive returns an error if ctx ends (ctx's error, wrapped together with
// why the subscription is not live, where that is known) or the subscription has ended: the error of Err, or after a clean end one that wraps ErrClosed if
// the client was closed and ErrSubscriptionClosed if only the subscription was.
func (s *Subscription) WaitLive(ctx context.Context) error {
	if err := checkContext("WaitLive", ctx); err != nil {
		return err
	}
	st, err := s.state.Wait(ctx, func(st SubState) bool { return !st.Phase.waits() || s.closed.Load() })
	if err != nil {
		why := st.Err
		if c := s.client.State(); why == nil && c.Phase != Ready {
			why = c.Cause // there is no connection
		}
		if why == nil {
			return contextError("WaitLive", "the subscription was live", err)
		}
		return &Error{Op: "WaitLive", Class: ClassOf(err),
			Err: fmt.Errorf("the caller's context ended before the subscription was live (%w); the reason so far: %w", err, why)}
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
	switch {
	case l.ended:
	case l.leaveSharing(e.s, e.err):
		l.drain(e.s, e.err)
	case l.releaseSub(e.s):
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
// Where the server knows one subscription to a topic (wire.Traits.ByKey), several subscriptions of the
// client share it. Each has its own queue, options, consumers and state, and gets copies; the server is asked
// once, and learns the end when the last one has ended. What one gets begins with what
// comes after Subscribe. ErrDuplicate means that this one cannot share: it has another
// Token, a message marked as a snapshot has come that it would lack, the server waits for acknowledgements or
// credit, or it resumes subscriptions from positions. What a server sends
// once at the beginning without such a mark goes to those that have subscribed by then.
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
var errNameInUse = fmt.Errorf("%w; close that one or use another name", ErrDuplicate)

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

// publishSub shows a change of a subscription's state to its user.
func (l *loop) publishSub(s *Subscription, st SubState) {
	st.Since = l.since(s.state.Load(), st.Phase)
	s.state.Set(st)
	l.c.notify.post(SubscriptionChanged{s.topic, st})
	if st.Phase == SubEnded && st.Err != nil && !l.ended {
		l.c.counters.failed.Add(1)
	}
}

// since is since when a subscription is in a phase that it enters now, or was in before.
func (l *loop) since(before SubState, p SubPhase) time.Time {
	if before.Phase == p {
		return before.Since
	}
	return l.now
}

// share makes s one of those that share the topic of w, which is on the wire. What s gets begins
// with what comes next. Where that would leave something out, or what consumers say of s would
// count for others, it is refused.
func (l *loop) share(w, s *Subscription) error {
	refuse := func(field, why string) error {
		return &Error{Op: "Subscribe", Field: field, Class: ClassInput, Err: fmt.Errorf("%w, and this one cannot share it: %s", ErrDuplicate, why)}
	}
	if why := traits.Sharing(&l.c.cfg.traits); why != "" {
		return refuse("topic", why)
	}
	if s.token != w.token {
		return refuse("SubscribeOptions.Token", "it has another token, and the server knows one of them; use the same one, or another Client")
	}
	g := w.sharing
	if g == nil {
		g = &sharing{wire: w}
	}
	l.joinQueue(w, s.queue)
	if !l.c.routes.share(w, append(g.receiving(), s.queue), true) {
		return refuse("topic", "its messages begin with a snapshot, which was received before and would be missing; subscribe before it comes, close the other subscription, or use another Client")
	}
	w.sharing, s.sharing, g.others = g, g, append(g.others, s)
	w.priority = max(w.priority, s.priority)
	l.registry.prioritized = l.registry.prioritized || w.priority != 0
	l.c.totals.add(s)
	l.follow(s, w.wireState())
	return nil
}

// joinQueue makes q accept what comes next for w.
func (l *loop) joinQueue(w *Subscription, q *queue) {
	q.expectKey(w.key)
	phase, asked := w.wireState().Phase, l.askedOnLink(w)
	switch {
	case l.registry.overlap:
		q.startConnection(l.rotation.old.gen)
		if asked {
			q.expectConnection(l.link.conn.gen, w.held)
		}
	case asked && phase == SubLive:
		q.startConnection(l.link.conn.gen)
	case asked:
		q.startRequest(l.link.conn.gen, w.held)
	}
	if phase == SubRecovering && l.registry.overlap {
		q.assumeLive() // the connection before delivers
	}
}

// leaveSharing ends s for its user if others share its topic: then the server learns
// nothing, or that the last one has ended. It reports false if s shares nothing.
func (l *loop) leaveSharing(s *Subscription, err error) bool {
	g := s.sharing
	if g == nil || g.wire == s && len(g.others) == 0 || g.wire.wireState().Phase == SubEnded {
		return false
	}
	if g.wire == s && g.left {
		return true // closed twice
	}
	l.noteReceived(s)
	if g.wire == s {
		g.left, g.state = true, s.state.Load()
	} else {
		g.others = slices.DeleteFunc(g.others, func(o *Subscription) bool { return o == s })
		s.sharing = nil
	}
	l.c.routes.share(g.wire, g.receiving(), false)
	l.publishSub(s, SubState{Phase: SubEnded, Err: err})
	if g.left && len(g.others) == 0 && l.releaseSub(g.wire) {
		l.enterSub(g.wire, SubState{Phase: SubEnded})
	}
	return true
}

// enterShared is enterSub for a topic that several share.
func (l *loop) enterShared(g *sharing, st SubState) {
	if g.left {
		st.Since = l.since(g.state, st.Phase)
		g.state = st
	} else {
		l.publishSub(g.wire, st)
	}
	for _, s := range g.others {
		l.follow(s, st)
	}
}

// follow shows st, the state of the subscription on the wire, to the user of s. What was never live
// stays pending.
func (l *loop) follow(s *Subscription, st SubState) {
	switch before := s.state.Load(); {
	case st.Phase == SubLive:
		s.queue.assumeLive() // what is lost from now on is a loss of s
	case st.Phase == SubEnded:
		s.sharing = nil
	case before.Phase != SubPending:
		st.Phase = SubRecovering
	case st.Err == nil || st.Generation > 0:
		return // the connection was lost
	default:
		st.Phase = SubPending
	}
	l.publishSub(s, st)
}
