package limpet

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/limpet-go/limpet/wire"
)

const (
	batchBytes = 64 << 10               // one write: control frames get their turn after it
	subsAtOnce = 256                    // subscriptions asked for and not answered
	goodbye    = 100 * time.Millisecond // of Close, for the close frame
	patience   = time.Second            // for the close frame that follows a fatal error frame
	readsAhead = 8                      // batches of events that the reader may have posted
)

// loop owns the state of a client. One goroutine at a time runs it, none while
// nothing happens; nothing else touches its fields.
type loop struct {
	c     *Client
	timer *time.Timer
	now   time.Time // of the present round
	pace  pace      // of the rounds

	state    State
	policy   policy
	window   *window
	registry registry
	draining []*Subscription // ended by Shutdown, their consumers still taking
	shutdown bool
	bye      bool // told the server that the session may go
	ended    bool

	session  wire.Session
	lost     time.Time          // since when there is no ready connection
	tried    time.Time          // start of the last attempt
	hangUp   context.CancelFunc // ends the attempt under way
	notUntil time.Time          // the server's slot: no attempt before it, whatever happens
	refresh  bool               // the next attempt needs a new credential
	refused  time.Time          // when a credential was last refused
	strikes  int                // violations in a row, from the same positions
	progress uint64             // fingerprint of the positions at the last violation
	spread   time.Duration
	goAway   time.Duration // not earlier than this after the coming loss

	// Of the present connection.
	conn       *conn
	codec      wire.Codec
	start      *wire.Frames // of the codec, not yet written
	ops        []wire.Op
	ask        []*Subscription // to be asked for
	asking     int             // asked for, not answered
	writeSince time.Time
	armed      time.Time // what the timer was last set to
	writeErr   error
	last       *wire.Event // a fatal error frame: its close frame is awaited
	heartbeat  time.Duration
	ready      bool
	writing    bool
	again      bool // flush left something to encode
	pinging    bool
	acked      bool // a message was acknowledged on it
	stable     bool

	// Deadlines; zero: none.
	wakeAt, pingAt, stableAt, handshakeBy, closeBy, retryAt, graceUntil time.Time
}

func newLoop(c *Client) *loop {
	l := &loop{c: c, policy: newPolicy(c.cfg.Backoff, c.cfg.DialTimeout)}
	l.window = newWindow(c.cfg.traits.Sessions, &c.gate, &c.counters)
	l.registry = registry{traits: &c.cfg.traits, routes: &c.routes}
	l.state = c.state.Load()
	l.timer = time.AfterFunc(forever, func() { c.inbox.post(elapsed{}) })
	return l
}

// run does what the events of the inbox and the timer ask for. It returns at
// the end of the client, or to rest.
func (l *loop) run() {
	var events []event
	for {
		l.gather()
		events = l.c.inbox.take(events[:0])
		l.c.ids.ExpireClock()
		l.now = time.Now()
		for i, e := range events {
			e.apply(l)
			events[i] = nil
		}
		if !l.ended {
			l.tick()
		}
		if !l.ended {
			l.flush()
		}
		if l.ended {
			l.timer.Stop()
			l.cleanUp()
			return
		}
		l.timer.Reset(l.arm())
		if !l.pace.steady(l.now) && !l.expecting() && l.c.inbox.rest() {
			return
		}
	}
}

// gather waits for events. It lets those run who were told an outcome, for as
// long as they publish: what they have to say then leaves together. One alone
// is not waited for, and where the processor is busy with others nobody is for
// long.
func (l *loop) gather() {
	n, told := l.c.inbox.wait(), l.window.told
	if l.window.told = 0; told < 2 {
		return
	}
	for began := time.Now(); n < told && time.Since(began) < gatherAtMost; {
		runtime.Gosched()
		more := l.c.inbox.wait()
		if more == n {
			return
		}
		n = more
	}
}

const gatherAtMost = time.Millisecond

// expecting reports whether something is under way whose end the loop will hear
// of soon.
func (l *loop) expecting() bool {
	switch l.state.Phase {
	case Connecting, Handshaking:
		return true
	case Ready:
		return l.writing || l.asking > 0 || l.window.pending > 0
	}
	return false
}

// set publishes a change of phase.
func (l *loop) set(p Phase) {
	l.state.Phase, l.state.Since = p, l.now
	l.state.Draining = l.shutdown
	l.state.Attempt = l.policy.k
	l.c.state.Set(l.state)
	l.c.notify.post(StateChanged{l.c.cfg.url.Host, l.state})
}

func (l *loop) setSub(s *Subscription, st SubState) {
	st.Since = l.now
	s.state.Set(st)
	l.c.notify.post(SubscriptionChanged{s.topic, st})
}

// end is the end of the client: nil after Close and Shutdown.
func (l *loop) end(why error) {
	if l.ended {
		return
	}
	l.ended = true
	closed := &Error{Op: "client", Class: ClassClosed, Err: ErrClosed}
	l.state.Cause = why
	if why == nil {
		l.state.Cause = closed
	}
	l.c.gate.close(l.state.Cause)
	code := l.c.cfg.traits.CloseCode
	if code == 0 {
		code = 1000
	}
	l.disconnect(code, "")
	l.window.close()
	if why == nil {
		l.discard()
	}
	for _, s := range l.registry.subs {
		s.queue.finish(why)
		l.setSub(s, SubState{Phase: SubEnded, Err: why})
	}
	if l.hangUp != nil {
		l.hangUp()
	}
}

// discard drops what waits for consumers.
func (l *loop) discard() {
	for _, s := range l.consumed() {
		s.queue.discard(nil)
	}
}

// consumed is the subscriptions whose consumers may still be taking.
func (l *loop) consumed() []*Subscription { return slices.Concat(l.registry.subs, l.draining) }

// cleanUp waits for the goroutines of an ended client.
func (l *loop) cleanUp() {
	l.c.mu.Lock()
	l.c.ended = true
	l.c.orphans = l.consumed()
	l.c.mu.Unlock()
	for _, e := range l.c.inbox.close() {
		e.apply(l)
	}
	clean := errors.Is(l.state.Cause, ErrClosed)
	l.c.workers.Wait()
	if clean {
		l.c.delivers.Wait()
	}
	l.set(Ended)
	l.c.notify.end()
	close(l.c.done)
}
