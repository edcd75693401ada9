package limpet

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/ids"
	"github.com/limpet-go/limpet/internal/watch"
	"github.com/limpet-go/limpet/wire"
)

// Client is a connection that survives its sockets. It is safe for concurrent
// use. A context given to a method bounds that call, never the client's life:
// Shutdown or Close end it.
type Client struct {
	cfg      config
	inbox    inbox
	gate     gate
	ids      *ids.Generator
	counters counters
	state    watch.Value[State]
	routes   atomic.Pointer[routes]
	notify   *notifier
	done     chan struct{}

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
	c.gate.messages, c.gate.bytes = cfg.Window.Messages, cfg.Window.Bytes
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

// Publish admits one message and returns its receipt; ctx bounds the
// admission, which waits only while the window is full. Messages are sent in
// the order of admission, now or after the next connection. The payload is
// copied. Errors are about this message: a *Error that names the argument, or
// wraps ErrTooBig, ErrWindowFull, ErrClosed or ctx's error. In every one of
// them the message was not admitted.
func (c *Client) Publish(ctx context.Context, topic string, payload []byte, o *PublishOptions) (*Receipt, error) {
	ms := [1]Outgoing{{Topic: topic, Payload: payload}}
	m := &ms[0]
	if o != nil {
		m.PublishOptions = *o
	}
	if err := c.admit(ctx, ms[:]); err != nil {
		return nil, err
	}
	var r *Receipt
	if n := len(payload); 0 < n && n <= shortPayload {
		short := new(shortReceipt)
		r = &short.Receipt
		r.fill(m, append(short.payload[:0], payload...))
	} else {
		r = new(Receipt)
		r.fill(m, append([]byte(nil), payload...))
	}
	if r.id == uuid.Nil {
		r.id = c.ids.ID(c.ids.Reserve(1))
	}
	if !c.inbox.post(r) {
		return nil, admissionError(ErrClosed)
	}
	return r, nil
}

// PublishBatch admits all messages or none, in order, with one receipt each.
func (c *Client) PublishBatch(ctx context.Context, ms []Outgoing) ([]*Receipt, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	if err := c.admit(ctx, ms); err != nil {
		return nil, err
	}
	rs := make([]*Receipt, len(ms))
	var together publish
	var block []byte
	first := c.ids.Reserve(len(ms))
	for i := range ms {
		if i%receiptsTogether == 0 {
			together = append(together, make([]Receipt, min(receiptsTogether, len(ms)-i)))
		}
		r := &together[i/receiptsTogether][i%receiptsTogether]
		var payload []byte
		if payload, block = cut(block, ms[i:]); len(payload) > 0 {
			copy(payload, ms[i].Payload)
		}
		r.fill(&ms[i], payload)
		if r.id == uuid.Nil {
			r.id = c.ids.ID(first + uint64(i))
		}
		rs[i] = r
	}
	if !c.inbox.post(together) {
		return nil, admissionError(ErrClosed)
	}
	return rs, nil
}

// What a batch shares in memory is bounded, since the last message without an
// outcome holds all of it.
const (
	receiptsTogether = 64
	bytesTogether    = 4 << 10
)

// cut cuts the memory of the first payload of ms off block, or off a new one
// with room for those that follow.
func cut(block []byte, ms []Outgoing) (payload, rest []byte) {
	n := len(ms[0].Payload)
	if n > len(block) {
		size := n
		for i := 1; i < len(ms) && size+len(ms[i].Payload) <= bytesTogether; i++ {
			size += len(ms[i].Payload)
		}
		block = make([]byte, size)
	}
	return block[:n:n], block[n:]
}

// Send is Publish followed by Receipt.Wait. When ctx ends after the admission
// the message is still on its way and the error is not SafeToRetry.
func (c *Client) Send(ctx context.Context, topic string, payload []byte, o *PublishOptions) (Ack, error) {
	r, err := c.Publish(ctx, topic, payload, o)
	if err != nil {
		return Ack{}, err
	}
	return r.Wait(ctx)
}

// admit checks messages and takes their room in the window.
func (c *Client) admit(ctx context.Context, ms []Outgoing) error {
	if !c.cfg.traits.Publish {
		return unsupported(opPublish, "", "dialect "+c.cfg.Dialect.Name()+" takes no messages")
	}
	bytes, topic := 0, ""
	for i := range ms {
		if i == 0 || ms[i].Topic != topic {
			topic = ms[i].Topic
			if err := c.cfg.Dialect.CheckTopic(wire.UsePublish, topic); err != nil {
				return topicError(opPublish, err)
			}
		}
		if err := c.check(&ms[i]); err != nil {
			return err
		}
		bytes += len(ms[i].Payload)
	}
	if len(ms) > c.cfg.Window.Messages || bytes > c.cfg.Window.Bytes {
		return &Error{Op: opPublish, Field: "payload", Class: ClassInput,
			Err: fmt.Errorf("%w: %d messages of %d bytes can never fit Options.Window", ErrTooBig, len(ms), bytes)}
	}
	if err := c.gate.enter(ctx, len(ms), bytes, !c.cfg.Window.FailFast); err != nil {
		return admissionError(err)
	}
	return nil
}

func admissionError(err error) *Error {
	e := &Error{Op: opPublish, Class: Class(err), Err: err}
	if e.Class == ClassOther {
		e.Class = ClassFull // ctx ended while waiting for room
	}
	return e
}

// fill makes r the receipt of m. It keeps payload.
func (r *Receipt) fill(m *Outgoing, payload []byte) {
	r.id, r.topic, r.payload, r.atLeast = m.ID, m.Topic, payload, m.AtLeastOnce
	if m.Type == "" && len(m.Header) == 0 && m.TTL == 0 {
		return
	}
	r.extra = &extra{kind: m.Type, header: maps.Clone(m.Header), ttl: m.TTL}
	if m.TTL > 0 {
		r.extra.expires = time.Now().Add(m.TTL)
	}
}

// check checks what depends on nothing but m, the topic aside.
func (c *Client) check(m *Outgoing) error {
	if m.TTL < 0 {
		return inputError(opPublish, "PublishOptions.TTL", "must not be negative, is %v", m.TTL)
	}
	if most := c.cfg.traits.MaxPayload; most > 0 && len(m.Payload) > most {
		return &Error{Op: opPublish, Field: "payload", Class: ClassInput,
			Err: fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooBig, len(m.Payload), most)}
	}
	if m.Type == "" && len(m.Header) == 0 {
		return nil
	}
	if !utf8.ValidString(m.Type) {
		return inputError(opPublish, "PublishOptions.Type", "is not UTF-8")
	}
	size := len(m.Type)
	for k, v := range m.Header {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return inputError(opPublish, "PublishOptions.Header", "entry %q is not UTF-8", k)
		}
		size += len(k) + len(v)
	}
	if len(m.Header) > 32 || size > 8<<10 {
		return inputError(opPublish, "PublishOptions.Header", "%d entries of %d bytes, the type included; at most 32 and 8 KiB", len(m.Header), size)
	}
	return nil
}

// Receipts iterates over the receipts without an outcome, oldest first, as of
// the call.
func (c *Client) Receipts() iter.Seq[*Receipt] {
	return func(yield func(*Receipt) bool) {
		for _, r := range c.pending() {
			if !yield(r) {
				return
			}
		}
	}
}

func (c *Client) pending() []*Receipt {
	q := pendingQuery{make(chan []*Receipt, 1)}
	if !c.inbox.post(q) {
		return nil
	}
	select {
	case rs := <-q.reply:
		return rs
	case <-c.done:
		return nil
	}
}

// Flush blocks until every message published before the call has an outcome,
// or ctx ends (ctx's error).
func (c *Client) Flush(ctx context.Context) error {
	f := flush{make(chan struct{})}
	c.inbox.post(f) // too late: the loop is giving the last outcomes, until done
	select {
	case <-f.done:
		return nil
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
	s.queue = newQueue(topic, &opts, c.cfg.traits, s)
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
