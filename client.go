package limpet

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/ids"
	"github.com/limpet-go/limpet/internal/watch"
)

// Client is a connection that survives its sockets. It is safe for concurrent
// use. A context given to a method bounds that call, never the client's life:
// Shutdown or Close end it.
type Client struct {
	cfg       config
	inbox     inbox
	admission admission
	ids       *ids.Generator
	counters  counters
	state     watch.Value[State]
	routes    atomic.Pointer[routes]
	notify    *notifier
	done      chan struct{}

	mu       sync.Mutex
	ended    bool            // no goroutine may be started
	orphans  []*Subscription // whose consumers may still be taking after the loop ended
	workers  sync.WaitGroup
	delivers sync.WaitGroup

	authBusy atomic.Bool
}

// String names the client by its host: a URL and a header may hold secrets.
func (c *Client) String() string { return "limpet.Client(" + c.cfg.url.Host + ")" }

// GoString is String.
func (c *Client) GoString() string { return c.String() }

// New makes a client that starts connecting in the background. url has the
// scheme ws or wss. Errors are about url and o alone: *Error values, joined,
// each naming its field.
func New(url string, o *Options) (*Client, error) {
	cfg, err := newConfig(url, o)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, ids: ids.NewGenerator(), done: make(chan struct{}), notify: newNotifier(&cfg.Options)}
	c.inbox.came.L = &c.inbox.mu
	c.admission.freeMessages, c.admission.freeBytes = cfg.Window.Messages, cfg.Window.Bytes
	c.state.Set(State{Phase: Connecting, Since: time.Now()})
	if c.notify != nil {
		go c.notify.run() // user code: nobody waits for it
		for key := range cfg.url.Query() {
			if secretKeys.MatchString(key) {
				c.notify.post(CredentialInURL{key})
			}
		}
	}
	c.inbox.start = newLoop(c).run
	c.inbox.resting = true
	c.inbox.post(begin{})
	return c, nil
}

// secretKeys are names of query parameters that hold credentials.
var secretKeys = regexp.MustCompile(`(?i)token|key|auth|secret|password|sig`)

// Dial is New followed by WaitReady. On failure it closes the client and
// returns why it could not connect: the permanent failure, or ctx's error
// joined with the cause of the last attempt.
func Dial(ctx context.Context, url string, o *Options) (*Client, error) {
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

// WaitReady blocks until messages can flow, the client has ended (its error)
// or ctx ends (ctx's error, with the cause of the last failed attempt).
func (c *Client) WaitReady(ctx context.Context) error {
	s, err := c.state.Wait(ctx, func(s State) bool { return s.Phase == Ready || s.Phase == Ended })
	switch {
	case err != nil && s.Cause != nil:
		return fmt.Errorf("%w; the last attempt failed: %w", err, s.Cause)
	case err != nil:
		return err
	case s.Phase == Ended:
		return s.Cause
	}
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
	opts, err := c.cfg.resolve(topic, o)
	if err != nil {
		return nil, err
	}
	s := &Subscription{client: c, topic: topic, from: opts.From, token: opts.Token}
	s.queue = newQueue(topic, &opts, c.cfg.traits, func() { c.inbox.post(roomMade{s}) })
	s.queue.tell = func(gen uint64, p Position) { c.inbox.post(processed{s, gen, p}) }
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

// State is the present state.
func (c *Client) State() State { return c.state.Load() }

// WaitState blocks until ok returns true for the present state, which it
// returns, or ctx ends. It is level-triggered: states that came and went
// between two looks are not shown. ok runs on the caller's goroutine.
func (c *Client) WaitState(ctx context.Context, ok func(State) bool) (State, error) {
	return c.state.Wait(ctx, ok)
}

// Retry ends the present wait for the next attempt: the network is back.
func (c *Client) Retry() { c.inbox.post(retry{}) }

// Stats counts what happened since New.
func (c *Client) Stats() Stats { return c.counters.stats() }

// Shutdown ends the client in order: new work is refused, subscriptions end at
// the server, consumers take what is waiting, every message gets its outcome,
// the session is given back, the connection closed. When ctx ends first it is
// Close, and the error is ctx's. A subscription whose messages nobody takes
// holds Shutdown up until then.
func (c *Client) Shutdown(ctx context.Context) error {
	c.inbox.post(shutdown{})
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.Close()
	grace := time.NewTimer(goodbye)
	defer grace.Stop()
	select {
	case <-c.done:
	case <-grace.C:
	}
	return ctx.Err()
}

// Close ends the client now and does not wait; Done tells when everything has
// stopped. What waits for a consumer is dropped and counted; every receipt gets
// its outcome, Unsent or Unknown. It may be called from a consumer, more than
// once, and always returns nil.
func (c *Client) Close() error {
	if c.inbox.post(stop{}) {
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

// Done is closed when the client has ended and its goroutines with it. Those
// inside a function of the caller, and those that hold messages for C after a
// permanent failure, may remain; Close ends the latter.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the client ended: nil while it has not, ErrClosed after Close and
// Shutdown, otherwise a *PermanentError.
func (c *Client) Err() error {
	if s := c.State(); s.Phase == Ended {
		return s.Cause
	}
	return nil
}

// spawn starts f as one of the goroutines that Done waits for.
func (c *Client) spawn(wg *sync.WaitGroup, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		f()
	}()
	return true
}

const forever = time.Duration(math.MaxInt64)
