// Package limpet is a WebSocket client for live feeds that survives its
// connections.
//
// A Client reconnects with backoff and jitter, resumes its subscriptions where
// they stopped, keeps every message until the server has accepted it, and hands
// messages to its consumers at the pace and under the policy that each chose. It
// never hides a loss: where messages are missing the stream has a Gap or a Reset,
// and a publish whose outcome cannot be known ends as Unknown. The wire protocol
// is a plug-in, wire.Dialect; limpet.v1 is the default, and package server speaks
// it. The client promises no more than the dialect can carry.
//
// The loop, one goroutine at a time, owns all session state. The reader passes
// messages straight to the delivery queue of their subscription and never waits
// for a consumer.
//
//	     your goroutines                     per subscription
//	Publish  Subscribe  Close             Messages(), C(): your code
//	     |       |        |                          ^
//	     v       v        v                          |  delivery queue
//	+------------------------------+                 |
//	| loop: state, window,         |-----------------|---> notifier --> Observer
//	|       registry, deadlines    |                 |
//	+--^--------^------------|-----+                 |
//	   | dialed | control    | frames                |
//	 dialer   reader --------|-----------------------+
//	            ^          writer
//	            +-- socket --+
//
// See docs/design.md for where to find what and which goroutine owns it,
// docs/protocol.md for limpet.v1, docs/reconnect.md for the reconnection policy,
// and docs/guarantees.md for what is promised and which test proves it.
package limpet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/admission"
	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/internal/dispatch"
	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/ids"
	"github.com/limpet-go/limpet/internal/inbox"
	"github.com/limpet-go/limpet/internal/keeper"
	"github.com/limpet-go/limpet/internal/saver"
	"github.com/limpet-go/limpet/internal/secrets"
	"github.com/limpet-go/limpet/internal/tasks"
	"github.com/limpet-go/limpet/internal/watch"
)

// Client publishes and subscribes over one connection at a time, and replaces it
// when it is lost. It is safe for concurrent use. A context given to a method
// bounds that call, not the life of the client, which Shutdown or Close ends.
type Client struct {
	cfg       config
	inbox     inbox.Inbox[event]
	admission *admission.Gate
	ids       *ids.Generator
	counters  counters
	totals    subscriptionTotals
	cursors   saver.Names // see SubscribeOptions.Name
	state     watch.Value[State]
	routes    routes
	memory    *budget.Budget // of all delivery queues
	first     *tasks.First   // nil with the trait Confirms
	notify    *notifier
	doneCalls dispatch.Calls[*Receipt] // of PublishOptions.Done
	secrets   secrets.Set
	done      chan struct{}
	closed    atomic.Bool     // by Close, which the loop may not know yet
	closing   context.Context // ends with Close; nil without Options.Verdict, which alone needs it
	endWait   context.CancelFunc

	goroutines tasks.Group

	mu      sync.Mutex
	orphans []*Subscription // whose consumers may still be taking after the loop ended
}

// String names the client by its host: a URL and a header may hold secrets.
func (c *Client) String() string { return "limpet.Client(" + c.cfg.url.Host + ")" }

// GoString is String.
func (c *Client) GoString() string { return c.String() }

// New returns a client that connects in the background. It does not block, but to load
// Options.Outbox. url has the scheme ws or wss; o may be nil. Errors concern only url and o: *Error
// values of ClassInput, one for each field at fault, joined with errors.Join, or the *Error of an Outbox
// that cannot be loaded, which wraps ErrOutbox and the error of the store.
//
// A server of a dialect without the trait Confirms may send messages before it is asked.
// Such a message waits for the first Subscribe, at most until one second after New.
func New(url string, o *Options) (*Client, error) {
	cfg, err := newConfig(url, o)
	if err != nil {
		return nil, err
	}
	kept, err := cfg.openOutbox()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, ids: ids.NewGenerator(), done: make(chan struct{}), notify: newNotifier(&cfg.Options)}
	c.memory = budget.New(cfg.Memory)
	if cfg.Verdict != nil {
		c.closing, c.endWait = context.WithCancel(context.Background())
	}
	c.counters.origin = time.Now().Add(-1) // no moment is 0
	if cfg.Histograms {
		c.counters.measured = new(histograms)
	}
	c.doneCalls.Receive, c.doneCalls.Failed = callDone, c.notify.doneFailed
	c.admission = admission.New(cfg.Window.Messages, cfg.Window.Bytes)
	c.state.Set(State{Phase: Connecting, Since: time.Now(), Host: cfg.url.Host})
	if c.notify.start(); c.notify != nil {
		for _, key := range endpoint.CredentialKeys(cfg.urls...) {
			c.notify.post(CredentialInURL{key})
		}
	}
	if !cfg.traits.Confirms {
		c.first = tasks.NewFirst()
	}
	l := newLoop(c)
	l.restore(kept)
	c.inbox.Init(l.run)
	c.inbox.Post(started{})
	return c, nil
}

// Dial is New followed by WaitReady: it blocks until the client is ready, has
// failed permanently, or ctx ends. If it fails it closes the client and returns
// the error of New or WaitReady.
func Dial(ctx context.Context, url string, o *Options) (*Client, error) {
	if err := checkContext("Dial", ctx); err != nil {
		return nil, err
	}
	c, err := New(url, o)
	if err != nil {
		return nil, err
	}
	if err := c.WaitReady(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// WaitReady blocks until messages can flow. It returns the error of Err if the
// client has ended, a *PermanentError for example. If ctx ends first it returns
// ctx's error, wrapped together with the cause of the last failure if there was
// one.
func (c *Client) WaitReady(ctx context.Context) error {
	if err := checkContext("WaitReady", ctx); err != nil {
		return err
	}
	s, err := c.state.Wait(ctx, func(s State) bool { return s.Phase == Ready || s.Phase == Ended || c.closed.Load() })
	switch {
	case s.Phase != Ended && c.closed.Load():
		return errClientClosed()
	case err != nil && s.Cause != nil:
		return &Error{Op: "WaitReady", Class: ClassOf(err),
			Err: fmt.Errorf("the caller's context ended before the client was ready (%w); its last attempt failed: %w", err, s.Cause)}
	case err != nil:
		return contextError("WaitReady", "the client was ready", err)
	case s.Phase == Ended:
		return s.Cause
	}
	return nil
}

// State returns the current state.
func (c *Client) State() State { return c.state.Load() }

// WaitState blocks until ok returns true for the current state, and returns that
// state. Otherwise it returns the last state seen, with ctx's error if ctx has ended, and
// with the error of Err if the client has. It is level-triggered: ok does not see every
// state, only the latest one. ok runs on the caller's goroutine.
func (c *Client) WaitState(ctx context.Context, ok func(State) bool) (State, error) {
	if err := checkContext("WaitState", ctx); err != nil {
		return c.state.Load(), err
	}
	if ok == nil {
		return c.state.Load(), inputError("WaitState", "ok", "must not be nil; pass a function that returns true for the states to wait for")
	}
	matches := false
	s, err := c.state.Wait(ctx, func(s State) bool { matches = ok(s); return matches || s.Phase == Ended })
	if err == nil && !matches {
		err = s.Cause
	}
	return s, err
}

// ReconnectNow makes the client find out now whether its connection works, or make one. Call
// it when a user asks for that, or when you know that the network is back. It does not block,
// and it may be called as often as you like. What it does depends on the phase:
//
//   - Waiting: the next attempt starts at once, but not earlier than the server asked for, nor
//     less than 100 milliseconds after the last one started.
//   - Ready: the client sends a ping. If no byte comes within 3 seconds, the connection is
//     lost, with ErrHeartbeat, and the next attempt starts at once. There is at most one such
//     ping a second.
//   - Connecting and Handshaking: what is in progress gives way to another attempt once it has
//     lasted for a second. This time doubles with each attempt that has given way, up to about
//     a minute, until a connection is ready.
//
// The failures count as others do: see Backoff.
func (c *Client) ReconnectNow() { c.inbox.Post(reconnectNow{}) }

// NetworkChanged is ReconnectNow for a program that follows the network: call it for each
// event of the operating system that an address, a route or an interface has changed. Such
// events come in bursts, before the network can be used. So it differs in the phase Waiting:
// the attempts that it brings forward start at least 10 seconds apart. The client does the
// same by itself when this machine has slept, which it notices within 5 seconds.
func (c *Client) NetworkChanged() { c.inbox.Post(networkChanged{}) }

// Stats returns what the client has counted since New and measures now. It does not
// block; each field is exact by itself, and Stats.Messages as a whole. It costs one lock for
// each subscription. Stats holds no secrets, so it may be published:
//
//	expvar.Publish("limpet", expvar.Func(func() any { return client.Stats() }))
//
// publishes it at /debug/vars, as JSON with durations in nanoseconds.
func (c *Client) Stats() Stats {
	st := c.counters.stats(time.Now())
	if s := c.state.Load(); s.Phase == Ready {
		st.ConnectedSince, st.Transport = s.Since, s.Transport
	}
	st.Memory, st.MemoryLimit = int(c.memory.Used()), c.cfg.Memory
	messages, bytes := c.admission.Free()
	st.Window, st.WindowBytes = c.cfg.Window.Messages-messages, c.cfg.Window.Bytes-bytes
	c.totals.fill(&st)
	return st
}

// Subscriptions returns the subscriptions that have not ended, in the order of
// Subscribe. It is a snapshot. After Close, Shutdown and a permanent failure there are
// none. It waits for neither network nor consumers, and may be called at any time, also
// from an Observer.
func (c *Client) Subscriptions() []*Subscription {
	query := listOpen{make(chan []*Subscription, 1)}
	if !c.inbox.Post(query) {
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
	e.reply <- slices.Collect(l.registry.users())
}

// Histograms returns the durations measured since New. They are empty without
// Options.Histograms. It does not block.
func (c *Client) Histograms() Histograms {
	h := c.counters.measured
	if h == nil {
		return Histograms{}
	}
	return Histograms{
		Measured: true,
		Delivery: loadHistogram(&h.delivery), Source: loadHistogram(&h.source), Publish: loadHistogram(&h.outcome), Ping: loadHistogram(&h.ping),
		Connection: loadHistogram(&h.connection), Outage: loadHistogram(&h.recovery),
	}
}

// Shutdown ends the client gracefully: it refuses new work, unsubscribes at the
// server, lets consumers take what is waiting, waits until every message has its
// outcome, ends the session and closes the connection. It blocks until then. If
// ctx ends first it calls Close and returns an *Error that wraps ctx's error and says
// how many messages it waited for, at most 100 milliseconds later. If the client has
// failed permanently, before or meanwhile, Shutdown returns the *PermanentError.
//
// Consumers must go on until their streams end, which Shutdown brings about: messages
// that no consumer takes delay Shutdown until ctx ends. So do not end a loop over
// Messages by its ctx, or by break, before Shutdown has returned.
//
// Where the dialect has the trait Processed, or a subscription has a Cursor, Shutdown
// also waits until consumers have finished their loop bodies and, with ManualAck, until
// every message taken is acknowledged. With the trait, the server learns all of it before
// it is unsubscribed; with a Cursor, it is saved before Done is closed.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := checkContext("Shutdown", ctx); err != nil {
		return err
	}
	c.inbox.Post(shutdown{})
	select {
	case <-c.done:
		if err := c.Err(); !errors.Is(err, ErrClosed) {
			return err
		}
		return nil
	case <-ctx.Done():
	}
	waited := c.Stats()
	c.Close()
	grace := time.NewTimer(closeFrameTimeout)
	defer grace.Stop()
	select {
	case <-c.done:
	case <-grace.C:
	}
	return contextError("Shutdown", "the client had finished"+waited.unfinished(), ctx.Err())
}

// unfinished says what a Shutdown can have waited for; it is empty if there is nothing.
func (s *Stats) unfinished() string {
	settled := s.Acked + s.Written + s.Rejected + s.Expired + s.Unsent + s.Unknown + s.Stored
	var list []string
	for _, kind := range []struct {
		n    uint64
		what string
	}{
		{s.Messages.Waiting, "waited for a consumer"},
		{max(s.Published, settled) - settled, "had no outcome"},
		{s.Messages.Unacked, "were taken and not acknowledged"},
	} {
		if kind.n > 0 {
			list = append(list, fmt.Sprintf("%d %s", kind.n, kind.what))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return " (messages: " + strings.Join(list, ", ") + ")"
}

// Close ends the client at once. It does not wait: Done is closed when everything
// has stopped. Messages that wait for a consumer are dropped and counted. Every
// receipt without an outcome ends as Unsent or Unknown, with Options.Outbox as Stored. Until Done
// is closed, State and Stats may still show what was before. Close may be called from
// a consumer, and more than once. It always returns nil.
func (c *Client) Close() error {
	c.closed.Store(true)
	if c.endWait != nil {
		c.endWait()
	}
	c.admission.Close(errClientClosed())
	if c.inbox.Post(closeNow{}) {
		return nil
	}
	c.mu.Lock()
	orphans := c.orphans
	c.orphans = nil
	c.mu.Unlock()
	for _, s := range orphans {
		s.queue.discard(nil)
	}
	return nil
}

// Done returns a channel that is closed when the client and its goroutines have
// ended, and all calls of PublishOptions.Done have returned or one has run for 10
// seconds. A goroutine inside a function that you passed in may run longer. After a
// permanent failure, so may those that hold messages for C: they end once the
// messages are received or Close is called.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the client ended: an error that wraps ErrClosed after Close and
// Shutdown, otherwise a *PermanentError. It returns nil while the client has not
// ended.
func (c *Client) Err() error {
	if s := c.State(); s.Phase == Ended {
		return s.Cause
	}
	return nil
}

// endError is the error of a call that the client refuses because it has ended, or
// is to end.
func (c *Client) endError(op string) *Error {
	var permanent *PermanentError
	if errors.As(c.admission.ClosedBy(), &permanent) {
		return &Error{Op: op, Class: ClassOf(permanent), Err: permanent}
	}
	return &Error{Op: op, Class: ClassClosed, Err: ErrClosed}
}

func errClientClosed() *Error { return &Error{Op: "client", Class: ClassClosed, Err: ErrClosed} }

// restore makes the loop continue with what an outbox holds.
func (l *loop) restore(o keeper.Opened[*Receipt]) {
	if o.Keeper == nil {
		return
	}
	l.now = time.Now()
	l.journal, l.number, l.session = o.Keeper, o.State.Conn, o.State.Session
	l.c.secrets.AddKey(l.session.Key)
	l.window.journal = o.Keeper
	l.window.restore(o.Content, keeper.NewClock(l.now, &o.State, o.Content), l.now)
	if !l.window.sessions {
		l.window.doubtSent(false)
	}
}

// refuseUnkept ends the calls of Publish whose messages are in no commit: the client has ended.
func (l *loop) refuseUnkept() {
	if l.journal == nil {
		return
	}
	for _, rec := range l.journal.RefuseWaiting() {
		l.window.giveBack(rec.Items)
		rec.Finish(admissionError(l.state.Cause))
	}
}

// finishOutbox makes the last commit of a client that has ended.
func (l *loop) finishOutbox() {
	if l.journal == nil {
		return
	}
	unkept := l.journal.Finish(l.keeping(), guard.MaxCall, l.committed)
	for _, r := range unkept { // the next client learns the outcome
		r.decided, r.details.err = Stored, outcomeError(ErrStored)
	}
	l.window.reveal(unkept)
}

// commitDue follows when what is to be kept has waited for long enough.
type commitDue struct{}

func (commitDue) apply(l *loop) { l.journal.Due() }

// commitEnded follows when a commit has ended.
type commitEnded struct{}

func (commitEnded) apply(l *loop) {
	if r, ok := l.journal.End(); ok {
		l.committed(r)
	}
}

const forever = time.Duration(math.MaxInt64)

// subscriptionTotals adds up the subscriptions of a client. Its lock is a leaf.
type subscriptionTotals struct {
	mu    sync.Mutex
	open  []*Subscription // that were not forgotten
	ended *SubStats       // of those that were; nil: none was. Replaced, not changed
}

func (t *subscriptionTotals) add(s *Subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = append(t.open, s)
	s.totalsPlace = len(t.open)
}

// forget keeps what s has counted: its consumers are done, so it counts no more.
func (t *subscriptionTotals) forget(s *Subscription) {
	last := s.queue.stats()
	last.Unacked = 0 // no acknowledgement counts any more
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.totalsPlace == 0 {
		return
	}
	moved := t.open[len(t.open)-1]
	t.open[s.totalsPlace-1], moved.totalsPlace = moved, s.totalsPlace
	t.open[len(t.open)-1] = nil
	t.open, s.totalsPlace = t.open[:len(t.open)-1], 0
	if t.ended != nil {
		last.add(t.ended)
	}
	t.ended = &last
}

func (t *subscriptionTotals) fill(st *Stats) {
	t.mu.Lock()
	open := slices.Clone(t.open)
	ended := t.ended
	t.mu.Unlock()
	if ended != nil {
		st.Messages = *ended
	}
	for _, s := range open {
		one := s.queue.stats()
		st.Messages.add(&one)
		st.SubPhases[s.state.Load().Phase]++
	}
	st.Subscriptions, st.Live = len(open), st.SubPhases.Of(SubLive)
}
