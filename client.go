package limpet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/ids"
	"github.com/limpet-go/limpet/internal/secrets"
	"github.com/limpet-go/limpet/internal/watch"
)

// Client publishes and subscribes over one connection at a time, and replaces it
// when it is lost. It is safe for concurrent use. A context given to a method
// bounds that call, not the life of the client, which Shutdown or Close ends.
type Client struct {
	cfg       config
	inbox     inbox
	admission admission
	ids       *ids.Generator
	counters  counters
	totals    subscriptionTotals
	state     watch.Value[State]
	routes    routes
	first     *firstSubscription // nil with the trait Confirms
	notify    *notifier
	doneCalls doneCalls
	secrets   secrets.Set
	done      chan struct{}
	closed    atomic.Bool // by Close, which the loop may not know yet

	goroutines goroutines

	mu      sync.Mutex
	orphans []*Subscription // whose consumers may still be taking after the loop ended
}

// String names the client by its host: a URL and a header may hold secrets.
func (c *Client) String() string { return "limpet.Client(" + c.cfg.url.Host + ")" }

// GoString is String.
func (c *Client) GoString() string { return c.String() }

// New returns a client that connects in the background. It does not block. url
// has the scheme ws or wss; o may be nil. Errors concern only url and o: *Error
// values of ClassInput, one for each field at fault, joined with errors.Join.
//
// A server of a dialect without the trait Confirms may send messages before it is asked.
// Such a message waits for the first Subscribe, at most until one second after New.
func New(url string, o *Options) (*Client, error) {
	cfg, err := newConfig(url, o)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, ids: ids.NewGenerator(), done: make(chan struct{}), notify: newNotifier(&cfg.Options)}
	c.counters.origin = time.Now().Add(-1) // no moment is 0
	if cfg.Histograms {
		c.counters.measured = new(histograms)
	}
	c.inbox.arrived.L, c.doneCalls.notify = &c.inbox.mu, c.notify
	c.admission.freeMessages, c.admission.freeBytes = cfg.Window.Messages, cfg.Window.Bytes
	c.state.Set(State{Phase: Connecting, Since: time.Now()})
	if c.notify.start(); c.notify != nil {
		for key := range cfg.url.Query() {
			if secretKeys.MatchString(key) {
				c.notify.post(CredentialInURL{key})
			}
		}
	}
	if !cfg.traits.Confirms {
		c.first = newFirstSubscription()
	}
	c.inbox.startLoop = newLoop(c).run
	c.inbox.resting = true
	c.inbox.post(started{})
	return c, nil
}

// secretKeys are names of query parameters that hold credentials.
var secretKeys = regexp.MustCompile(`(?i)token|key|auth|secret|password|sig`)

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
// state. If ctx ends first it returns the last state seen and ctx's error. It is
// level-triggered: ok does not see every state, only the latest one. ok runs on
// the caller's goroutine.
func (c *Client) WaitState(ctx context.Context, ok func(State) bool) (State, error) {
	if err := checkContext("WaitState", ctx); err != nil {
		return c.state.Load(), err
	}
	if ok == nil {
		return c.state.Load(), inputError("WaitState", "ok", "must not be nil; pass a function that returns true for the states to wait for")
	}
	return c.state.Wait(ctx, ok)
}

// ReconnectNow ends the wait for the next attempt, if there is one. It does not
// block. Call it when you know that the network is back. The attempt does not
// start earlier than the server asked for, nor less than 100 milliseconds after
// the last one started.
func (c *Client) ReconnectNow() { c.inbox.post(reconnectNow{}) }

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
		st.ConnectedSince = s.Since
	}
	c.admission.mu.Lock()
	st.Window, st.WindowBytes = c.cfg.Window.Messages-c.admission.freeMessages, c.cfg.Window.Bytes-c.admission.freeBytes
	c.admission.mu.Unlock()
	c.totals.fill(&st)
	return st
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
		Delivery: loadHistogram(&h.delivery), Publish: loadHistogram(&h.outcome), Ping: loadHistogram(&h.ping),
		Connection: loadHistogram(&h.connection), Outage: loadHistogram(&h.recovery),
	}
}

// Shutdown ends the client gracefully: it refuses new work, unsubscribes at the
// server, lets consumers take what is waiting, waits until every message has its
// outcome, ends the session and closes the connection. It blocks until then. If
// ctx ends first it calls Close and returns ctx's error, at most 100 milliseconds
// later. Messages that no consumer takes delay Shutdown until ctx ends. If the
// client has failed permanently, before or meanwhile, Shutdown returns the
// *PermanentError.
//
// Where the dialect has the trait Processed, Shutdown also waits until consumers
// have finished their loop bodies and, with ManualAck, until every message taken
// is acknowledged; the server learns all of it before it is unsubscribed.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := checkContext("Shutdown", ctx); err != nil {
		return err
	}
	c.inbox.post(shutdown{})
	select {
	case <-c.done:
		if err := c.Err(); !errors.Is(err, ErrClosed) {
			return err
		}
		return nil
	case <-ctx.Done():
	}
	c.Close()
	grace := time.NewTimer(closeFrameTimeout)
	defer grace.Stop()
	select {
	case <-c.done:
	case <-grace.C:
	}
	return ctx.Err()
}

// Close ends the client at once. It does not wait: Done is closed when everything
// has stopped. Messages that wait for a consumer are dropped and counted. Every
// receipt without an outcome ends as Unsent or Unknown. Close may be called from
// a consumer, and more than once. It always returns nil.
func (c *Client) Close() error {
	c.closed.Store(true)
	c.admission.close(errClientClosed())
	if c.inbox.post(closeNow{}) {
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
	if errors.As(c.admission.closedBy(), &permanent) {
		return &Error{Op: op, Class: ClassOf(permanent), Err: permanent}
	}
	return &Error{Op: op, Class: ClassClosed, Err: ErrClosed}
}

func errClientClosed() *Error { return &Error{Op: "client", Class: ClassClosed, Err: ErrClosed} }

const forever = time.Duration(math.MaxInt64)
