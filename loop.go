package limpet

import (
	"context"
	"errors"
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

// event is something that happened, or that somebody wants. Only apply
// receives the loop.
type event interface{ apply(*loop) }

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
	l.window = newWindow(c.cfg.traits.Sessions, &c.admission, &c.counters)
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

// begin is the first event of all.
type begin struct{}

func (begin) apply(l *loop) {
	l.lost = l.now
	l.connect()
}

// elapsed is the timer's word; the round looks for itself what is due.
type elapsed struct{}

func (elapsed) apply(*loop) {}

// set publishes a change of phase.
func (l *loop) set(p Phase) {
	l.state.Phase, l.state.Since = p, l.now
	l.state.Draining = l.shutdown
	l.state.Attempt = l.policy.k
	l.c.state.Set(l.state)
	l.c.notify.post(StateChanged{l.c.cfg.url.Host, l.state})
}

// connect starts an attempt.
func (l *loop) connect() {
	l.tried = l.now
	l.wakeAt = time.Time{}
	l.c.counters.attempts.Add(1)
	l.set(Connecting)
	a := attempt{number: l.policy.k + 1, session: l.session, subs: l.registry.positions(), refresh: l.refresh, cause: l.state.Cause}
	ctx, cancel := context.WithTimeout(context.Background(), l.policy.dialTimeout)
	l.hangUp = cancel
	l.c.spawn(&l.c.workers, func() {
		defer cancel()
		d := l.c.dial(ctx, a)
		d.timedOut = ctx.Err() == context.DeadlineExceeded
		if !l.c.inbox.post(d) && d.conn != nil {
			d.conn.abandon()
		}
	})
}

// dialed is the end of an attempt.
type dialed struct {
	conn     *conn
	token    string
	failure  *wire.Failure
	timedOut bool
}

func (d dialed) apply(l *loop) {
	l.hangUp = nil
	if l.ended {
		if d.conn != nil {
			d.conn.abandon()
		}
		return
	}
	var user *userError
	if d.failure == nil || !errors.As(d.failure.Err, &user) {
		l.refresh = false // Auth has answered
	}
	if d.failure != nil {
		if d.timedOut {
			l.policy.timedOut()
		}
		l.fail(d.failure)
		return
	}
	l.policy.dialTimeout = l.policy.first
	l.open(d.conn, d.token)
}

// open begins a connection. Every earlier one is fenced before the positions
// to resume from are read.
func (l *loop) open(k *conn, token string) {
	l.state.Generation++
	k.gen = l.state.Generation
	l.c.counters.plainFrames.Store(k.plain)
	l.registry.publish()
	subs := l.registry.begin(k.gen)
	codec, err := l.c.cfg.Dialect.Open(wire.Resume{
		Conn: k.gen, Subprotocol: k.subprotocol, Session: l.session, Token: token,
		Uplink: l.window.uplink(), Subs: subs, TTL: l.c.cfg.SessionTTL, ReadLimit: l.c.cfg.ReadLimit,
	})
	l.conn, l.codec = k, codec
	if err != nil {
		l.disconnect(1002, "subprotocol")
		l.end(&PermanentError{ClassProtocol, &Error{Op: "upgrade", Class: ClassProtocol, Err: joinReason(ErrSubprotocol, err)}})
		return
	}
	l.ready, l.writing, l.writeErr, l.last = false, false, nil, nil
	l.pinging, l.acked, l.stable, l.bye = false, false, false, false
	l.ops, l.ask, l.asking = nil, nil, 0
	if l.c.cfg.traits.Confirms {
		l.asking = len(subs)
	}
	l.start = new(wire.Frames)
	l.goAway = 0
	l.heartbeat = l.c.cfg.Heartbeat.Interval
	l.handshakeBy = l.now.Add(handshakeTimeout)
	l.pingAt, l.stableAt, l.closeBy, l.graceUntil = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	for _, s := range l.registry.subs {
		if !s.asked {
			l.ask = append(l.ask, s)
		}
	}
	if err := codec.Start(l.start); err != nil {
		l.fault(&wire.CodeError{Code: 1002, Reason: err.Error()})
		return
	}
	l.set(Handshaking)
	k.codec = codec
	l.c.spawn(&l.c.workers, func() { l.c.read(k) })
	if !l.c.cfg.traits.Greeting {
		l.welcome(&wire.Ready{})
	}
}

// welcome makes the connection usable.
func (l *loop) welcome(r *wire.Ready) {
	switch {
	case l.ready:
		l.fault(&wire.CodeError{Code: 4000, Reason: "second welcome on one connection"})
		return
	case r.Conn != 0 && r.Conn != l.conn.gen:
		l.fault(&wire.CodeError{Code: 4000, Reason: "welcome of another connection"})
		return
	case r.Resumed && r.Session.ID != l.session.ID:
		l.fault(&wire.CodeError{Code: 4000, Reason: "resumed a session that is not ours"})
		return
	}
	if err := l.window.resume(r); err != nil {
		l.session = wire.Session{}
		l.fault(err)
		return
	}
	l.ready = true
	l.session = r.Session
	l.spread = min(r.Spread, maxSpread)
	if r.Heartbeat > 0 {
		l.heartbeat = min(l.heartbeat, max(r.Heartbeat, 10*time.Millisecond))
	}
	l.handshakeBy = time.Time{}
	// The first beat at a random moment: a herd that reconnected together must
	// not beat together.
	l.pingAt = l.now.Add(uniform(l.heartbeat))
	l.stableAt = l.now.Add(l.c.cfg.Backoff.StableAfter)
	l.lost = time.Time{}
	l.c.counters.connections.Add(1)
	if r.Resumed {
		l.c.counters.resumes.Add(1)
	}
	l.state.Resumed = r.Resumed
	l.state.NextAttempt = time.Time{}
	l.set(Ready)
	if !l.c.cfg.traits.Confirms {
		for _, s := range l.registry.subs {
			if s.asked {
				l.setSub(s, SubState{Phase: SubLive, Generation: l.conn.gen})
			}
		}
	}
}

// fail ends an attempt or the present connection and decides what comes next.
func (l *loop) fail(f *wire.Failure) {
	f.Attempt = l.policy.k + 1
	d := decide(l.c.cfg.Dialect, f)
	why := failureError(f, d)
	l.state.Cause = why
	if d.TooBig && l.ready {
		l.window.frameTooBig()
	}
	l.disconnect(0, "")
	if l.lost.IsZero() {
		l.lost = l.now
	}
	if d.violation {
		if now := l.positions(); l.strikes > 0 && now == l.progress {
			l.strikes++
		} else {
			l.strikes, l.progress = 1, now
		}
		if l.strikes >= maxViolations {
			l.end(&PermanentError{d.class, why})
			return
		}
	}
	if l.goAway > 0 {
		d.After, d.slotWindow = max(d.After, l.goAway), l.spread
		l.goAway = 0
	}
	l.notUntil = l.now.Add(d.After)
	spread := l.spread
	switch d.Action {
	case wire.ActionStop:
		l.end(&PermanentError{d.class, why})
		return
	case wire.ActionRefresh:
		if l.c.cfg.Auth == nil || !l.refused.IsZero() && l.now.Sub(l.refused) < refreshOnce {
			l.end(&PermanentError{ClassAuth, why})
			return
		}
		l.refused, l.refresh = l.now, true
		l.policy.failed(0)
		l.wait(d.After)
		return
	case wire.ActionRetryNow:
		// Once: a peer that never lets us stay must not be hammered.
		if l.policy.k == 0 {
			l.policy.failed(0)
			l.wait(d.After)
			return
		}
	case wire.ActionNewSession:
		l.session = wire.Session{}
	case wire.ActionSpread:
		spread = max(spread, d.Spread)
	}
	l.wait(l.policy.next(d, spread))
}

// wait schedules the next attempt.
func (l *loop) wait(delay time.Duration) {
	if l.idle() && l.shutdown {
		l.end(nil)
		return
	}
	l.wakeAt = later(l.now.Add(delay), l.earliest())
	l.state.NextAttempt = l.wakeAt
	l.set(Waiting)
}

// earliest is when the next attempt may be made.
func (l *loop) earliest() time.Time { return later(l.tried.Add(minBetweenAttempts), l.notUntil) }

// positions is a fingerprint of everything that moves when a connection gets
// anywhere.
func (l *loop) positions() uint64 {
	sum := l.window.firstSeq
	for _, s := range l.registry.subs {
		s.queue.mu.Lock()
		sum += s.queue.received + s.queue.gaps + s.queue.resets
		s.queue.mu.Unlock()
	}
	return sum
}

// fault ends the connection for a violation by the peer.
func (l *loop) fault(err error) {
	var ce *wire.CodeError
	if !errors.As(err, &ce) {
		ce = &wire.CodeError{Code: 1002, Reason: err.Error()}
	}
	stage := wire.StageOpen
	if !l.ready {
		stage = wire.StageHandshake
	}
	l.disconnect(ce.Code, ce.Reason)
	l.fail(&wire.Failure{Stage: stage, Err: ce})
}

// disconnect lets the present connection go, with a close frame if code is
// not 0.
func (l *loop) disconnect(code uint16, reason string) {
	k := l.conn
	if k == nil {
		return
	}
	l.conn, l.codec, l.ready, l.writing = nil, nil, false, false
	l.pingAt, l.stableAt, l.handshakeBy, l.closeBy = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	l.window.connectionLost()
	for _, s := range l.registry.subs {
		s.queue.fence()
		if st := s.state.Load(); st.Phase == SubLive {
			l.setSub(s, SubState{Phase: SubPending, Generation: st.Generation})
		}
	}
	timeout := closeTimeout
	if l.ended || l.shutdown {
		timeout = goodbye
	}
	l.c.spawn(&l.c.workers, func() {
		if code == 0 {
			k.abandon()
			return
		}
		k.shut(code, reason, timeout)
	})
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
	l.c.admission.close(l.state.Cause)
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
