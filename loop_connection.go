package limpet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/traits"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// connect starts an attempt, once the endpoints are known.
func (l *loop) connect() {
	l.attemptAt, l.atOnce = time.Time{}, false
	if !l.mayAttempt() {
		return
	}
	if l.resolve() {
		l.enter(Connecting)
		return
	}
	l.dial()
}

// dial starts an attempt, unless its turn comes later, or there is no endpoint without a slot
// since Options.Resolver was asked.
func (l *loop) dial() {
	if l.earliestAttempt().After(l.now) {
		l.scheduleAttempt(0)
		return
	}
	if !l.takeTurn() {
		return
	}
	l.state.Host = l.endpoints.Chosen.URL.Host
	l.enter(Connecting)
	l.attempt(l.state.Cause)
}

// attempt starts the attempt whose endpoint is chosen.
func (l *loop) attempt(cause error) {
	l.lastAttempt = l.now
	l.c.counters.attempts.Add(1)
	a := attempt{url: l.endpoints.Chosen.URL, number: l.policy.Failures + 1, session: l.session, subs: l.registry.positions(l.now), refresh: l.refreshCredential, cause: cause, dials: l.endpoints.Dial(), dialsAgain: l.endpoints.DialAgain()}
	if l.link != nil {
		a.inUse = l.link.conn.gen
	}
	a.resume = l.announce()
	ctx, cancel := context.WithTimeout(context.Background(), l.policy.DialTimeout)
	l.cancelAttempt = cancel
	l.c.goroutines.Go(func() {
		defer cancel()
		l.dialer.run(ctx, a)
	})
}

// open begins a connection, with what its attempt has announced or else with what is so now.
func (l *loop) open(c *conn, token string, state any) {
	l.rotation.attempting = false
	l.state.Host = l.endpoints.Chosen.URL.Host
	l.state.Generation++
	c.gen = l.state.Generation
	l.c.counters.plainFrames.Store(c.LibraryFrames)
	l.state.Transport = c.transport()
	b, announced := l.upcoming, l.upcoming != nil
	if l.upcoming = nil; !announced {
		if !l.mayBegin() {
			l.refuseConn(c)
			return
		}
		b = l.begin(c.gen)
	}
	r := b.resume
	c.number = r.Conn
	k := &link{
		conn: c, endpoint: l.endpoints.Chosen, start: new(wire.Frames), announced: announced,
		traits:      &l.c.cfg.traits,
		signs:       signs{heartbeat: r.Heartbeat, silences: l.silences},
		handshakeBy: l.now.Add(l.policy.HandshakeTimeout),
		refreshing:  refreshing{usesToken: token != ""},
	}
	l.planRenewal(k)
	l.endpoints.Moved = nil // the server that was left named it
	if !l.c.cfg.traits.ByKey {
		k.namedTopics = new(topicTable)
	}
	l.link = k // before Open, which may end this goroutine: then the connection is closed
	if f := c.speaksNothing(); f != nil {
		l.disconnect(k, 1002, "subprotocol")
		l.fail(nil, f)
		return
	}
	r.Subprotocol, r.Token, r.State = c.Subprotocol, token, state
	codec, err := l.c.cfg.Dialect.Open(r)
	k.codec = codec
	if err != nil {
		l.openFailed(k, err)
		return
	}
	l.goAwayUntil = time.Time{}
	l.queueRequests(k)
	if announced {
		l.catchUp(k, r.Subs)
	}
	if err := codec.Start(k.start); err != nil {
		l.violated(k, asViolation(err))
		return
	}
	l.enter(Handshaking)
	l.newReader(k).start()
	if !l.c.cfg.traits.Greeting {
		l.welcome(k, &wire.Ready{Session: l.session})
	}
}

// queueRequests queues the requests for all subscriptions that the handshake does not carry.
func (l *loop) queueRequests(k *link) {
	k.unanswered.Pool = &askPool
	for s := range l.registry.all() {
		switch {
		case s.askedGeneration == k.conn.gen:
			l.noteAsk(k, s)
			l.c.first.Arrive()
		case !s.mustWait(l.now):
			l.registry.postpone(s, time.Time{})
			k.queueRequest(s)
		}
	}
}

func (l *loop) newReader(k *link) *reader {
	r := &reader{
		conn: k.conn, codec: k.codec, routes: &l.c.routes, inbox: &l.c.inbox, counters: &l.c.counters,
		goroutines: &l.c.goroutines, secrets: &l.c.secrets, first: l.c.first, byName: !l.c.cfg.traits.ByKey,
	}
	for s := range l.registry.all() {
		if l.c.cfg.traits.StartSubs == 0 && s.keptIn != 0 && s.keptIn == l.sessions {
			r.kept = append(r.kept, s)
		}
	}
	return r
}

// speaksNothing returns the failure of a connection whose server chose no language of the
// dialect, or nil.
func (c *conn) speaksNothing() *wire.Failure {
	if len(c.unchosen) == 0 {
		return nil
	}
	return &wire.Failure{Stage: wire.StageUpgrade, Status: http.StatusSwitchingProtocols,
		Err: fmt.Errorf("%w: it chose none of %s", ErrSubprotocol, strings.Join(c.unchosen, ", "))}
}

// welcome completes the handshake: messages can flow.
func (l *loop) welcome(k *link, r *wire.Ready) {
	switch {
	case k.ready:
		l.violated(k, &wire.CodeError{Code: 4000, Reason: "second welcome on one connection"})
		return
	case r.Conn != 0 && r.Conn != k.conn.number:
		l.violated(k, &wire.CodeError{Code: 4000, Reason: "welcome for another connection"})
		return
	case r.Resumed && r.Session.ID != l.session.ID:
		l.violated(k, &wire.CodeError{Code: 4000, Reason: "resumed a session that is not ours"})
		return
	}
	k.traits = traits.Agreed(k.traits, r.Traits)
	if err := l.window.resume(r, k.traits.Dedup); err != nil {
		l.session = wire.Session{}
		l.violated(k, err)
		return
	}
	if !r.Resumed {
		l.sessions++
	}
	k.ready, k.readyAt, k.limits = true, l.now, r.Limits
	k.handshakeBy = time.Time{}
	k.restartAnswers(l.now) // no answer comes before the welcome
	l.beginHeartbeats(k, r.Heartbeat)
	l.givenUp = 0
	l.early.Ready(k.announced)
	if r.Expires > 0 {
		l.credentialLasts(k, r.Expires)
	}
	k.stableAt = l.now.Add(l.c.cfg.Backoff.StableAfter)
	l.session = r.Session
	l.keepSession()
	l.c.secrets.AddKey(r.Session.Key)
	l.resumeKept(k, r.Resumed)
	l.spread = min(r.Spread, policy.MaxSpread)
	l.disconnectedAt = time.Time{}
	l.credentialRefusedAt = time.Time{} // the server has taken the credential
	l.policy.HandshakeTimeout = policy.HandshakeTimeout
	l.followTransport(k)
	l.finality.Ready(l.c.cfg.traits.Greeting && !l.finality.Oversized)
	l.endpoints.Worked(k.endpoint, l.now)
	l.c.counters.countReady(r.Resumed)
	l.state.Resumed, l.state.NextAttempt = r.Resumed, time.Time{}
	l.enter(Ready)
	if !l.c.cfg.traits.Confirms {
		for s := range l.registry.all() {
			if l.askedOnLink(s) {
				s.assumeLive()
				l.enterLive(k, s, false)
			}
		}
	}
}

// beginHeartbeats begins them with the interval that the server has announced; 0: none.
func (l *loop) beginHeartbeats(k *link, announced time.Duration) {
	if announced > 0 {
		announced = min(max(announced, 10*time.Millisecond), maxHeartbeat)
		if l.c.cfg.traits.Ping != wire.PingNone {
			announced = min(announced, k.heartbeat) // a ping brings the peer's answer
		}
		k.heartbeat = announced
	}
	// The first heartbeat is sent at a random moment: clients that reconnected
	// together must not send their heartbeats together.
	k.pingAt = l.now.Add(policy.Uniform(k.heartbeat))
	l.c.counters.heartbeat.Store(int64(k.heartbeat))
}

// connectionLost ends a connection that failed or that the peer closed.
func (l *loop) connectionLost(k *link, code uint16, reason string, err error) {
	l.fail(k, &wire.Failure{Stage: k.stage(), Code: code, Reason: reason, Err: err})
}

// violated ends a connection whose peer broke the protocol, or whose dialect
// failed.
func (l *loop) violated(k *link, err error) {
	var panicked *fault.User
	if errors.As(err, &panicked) {
		l.dialectFailed(k, panicked)
		return
	}
	var ce *wire.CodeError
	if !errors.As(err, &ce) {
		ce = &wire.CodeError{Code: 1002, Reason: err.Error()}
		err = ce
	}
	if l.finality.Oversized = ce.Code == closeTooBig; l.finality.Oversized {
		l.abandonPositions(k)
	}
	l.disconnect(k, ce.Code, ce.Reason)
	code, reason, _ := socket.UnusualCode(err)
	l.fail(k, &wire.Failure{Stage: k.stage(), CloseCode: code, Reason: reason, Err: err})
}

const closeTooBig = 1009 // RFC 6455, section 7.4.1

// abandonPositions follows when a message exceeds Options.ReadLimit. A server that
// resumes would send it again on every connection, so each stream that may hold it begins
// again behind it, with a Reset.
func (l *loop) abandonPositions(k *link) {
	traits := &l.c.cfg.traits
	if !k.ready || !traits.Resume && !traits.KeepsSubs {
		return
	}
	for s := range l.registry.all() {
		if l.askedOnLink(s) && s.wireState().Phase == SubLive {
			s.from = FromNew
			s.queue.abandonPosition()
		}
	}
	if traits.KeepsSubs {
		l.session = wire.Session{} // the server would go on with its streams
	}
}

// dialectFailed ends a connection that has no codec, or one that must not be used any more.
func (l *loop) dialectFailed(k *link, err *fault.User) {
	l.disconnect(k, 1011, "")
	l.fail(k, &wire.Failure{Stage: k.stage(), Err: err})
}

// stage is the stage in which a failure of the connection counts.
func (k *link) stage() wire.Stage {
	if k.ready {
		return wire.StageOpen
	}
	return wire.StageHandshake
}

// fail ends a connection, or an attempt if k is nil, and decides what comes
// next.
func (l *loop) fail(k *link, f *wire.Failure) {
	l.checkStable(k)
	k.applyFatalError(f, l.now)
	if k != nil && !k.conn.Fallback && !errors.Is(f.Err, errGivenUp) {
		l.dialer.path.Lost(f)
	}
	f.Attempt = l.policy.Failures + 1
	l.announceFailed(k, f)
	d := l.decide(k, f)
	refused := d.Action == wire.ActionRefresh
	l.overrule(f, &d)
	refused = refused || d.Action == wire.ActionRefresh
	why := l.explain(f, d)
	l.state.Cause = why
	l.c.counters.countFailure(k != nil && k.ready, ErrorClass(d.Class))
	slowed := k != nil && l.link == k && l.closedForPace(k, f)
	if k != nil && k.ready && l.link == k {
		open := l.openRequests(k)
		if d.TooBig {
			l.window.frameTooBig(len(open) == 0)
		}
		if !slowed { // the requests are not why
			l.suspect(open, f, &d, k.fatalError != nil)
		}
		l.learnIdle(k, f, ErrorClass(d.Class))
	}
	l.disconnect(k, 0, "")
	l.countOutage(true)
	if k != nil {
		l.loseLive(why)
	}
	if l.disconnectedAt.IsZero() {
		l.disconnectedAt = l.now
	}
	l.goAwayUntil = time.Time{}
	l.finality.Weigh(&d, l.now, l.canRefresh(), l.c.cfg.Backoff.KeepTrying)
	another := l.followEndpoint(k, f, &d)
	if d.Action == wire.ActionStop {
		l.end(&PermanentError{ErrorClass(d.Class), why})
		return
	}
	if refused {
		l.refreshCredential = l.c.cfg.hasCredential()
		if k == nil || !l.hasNext() { // that has a credential from before
			l.credentialRefusedAt = l.now
		}
	}
	l.holdFor(d.After)
	if k != nil && l.takeNext() {
		return
	}
	if another {
		l.scheduleAttempt(0)
		return
	}
	l.endpoints.List.BeginRound()
	l.tryAgain(d)
}

// canRefresh reports whether another credential may be asked for: not within a minute of
// a refused one that no welcome followed.
func (l *loop) canRefresh() bool {
	return l.c.cfg.hasCredential() && (l.credentialRefusedAt.IsZero() || l.now.Sub(l.credentialRefusedAt) >= refusalMemory)
}

// tryAgain starts the wait that a failure calls for.
func (l *loop) tryAgain(d verdict.Decision) {
	spread := l.spread
	switch d.Action {
	case wire.ActionRefresh:
		// At once, but not so as to hammer a server that takes each credential
		// and then refuses it.
		if l.refreshedAt.IsZero() || l.now.Sub(l.refreshedAt) >= refusalMemory {
			l.refreshedAt = l.now
			l.policy.CountFailure(0)
			l.scheduleAttempt(d.After)
			return
		}
	case wire.ActionRetryNow:
		// Only once, so as not to hammer a peer that ends every connection.
		if l.policy.Failures == 0 {
			l.policy.CountFailure(0)
			l.scheduleAttempt(d.After)
			return
		}
	case wire.ActionNewSession:
		l.session = wire.Session{}
	case wire.ActionSpread:
		spread = max(spread, d.Spread)
	}
	delay := l.policy.NextDelay(d, spread, l.now)
	if l.atOnce {
		delay = 0
	}
	l.scheduleAttempt(delay)
}

// scheduleAttempt starts the wait for the next attempt.
func (l *loop) scheduleAttempt(delay time.Duration) {
	if l.nothingPending() && l.shuttingDown {
		l.end(nil)
		return
	}
	l.attemptAt = later(l.now.Add(delay), l.earliestAttempt())
	l.state.NextAttempt = l.endpoints.Expect(l.attemptAt, l.now)
	l.enter(Waiting)
}

// disconnect ends a connection, with a close frame if code is not 0. It does
// nothing if k is nil or not the connection in use.
func (l *loop) disconnect(k *link, code uint16, reason string) {
	if k == nil || l.link != k {
		return
	}
	l.leave(k)
	for s := range l.registry.all() {
		for q := range s.queues {
			q.fence(k.conn.gen)
		}
	}
	l.closeConn(k.conn, code, reason)
}

// leave follows when k is no longer the connection in use. Its messages count until they
// are fenced.
func (l *loop) leave(k *link) {
	l.checkStable(k)
	l.link = nil
	k.giveUpRefresh()
	l.window.connectionLost()
	l.loseRequests(k)
	if k.ready && !l.ended {
		l.beginOutage()
	}
	if h := l.c.counters.measured; h != nil && k.ready {
		h.connection.Add(l.now.Sub(k.readyAt), 1)
	}
	for s := range k.leaving {
		l.c.routes.setKey(s.key, nil)
	}
	for s := range l.draining {
		if s.acksOwed {
			s.acksOwed = false
			s.queue.forgoAcks()
		}
	}
}

// loseLive follows leave, once it is known why: nothing is live.
func (l *loop) loseLive(why error) {
	for s := range l.registry.all() {
		if st := s.wireState(); st.Phase == SubLive {
			l.enterWaiting(s, st.Generation, why)
		}
	}
}

// closeConn closes a connection that is not in use, with a close frame if code is not 0.
func (l *loop) closeConn(c *conn, code uint16, reason string) {
	timeout := closeTimeout
	if l.ended || l.shuttingDown {
		timeout = closeFrameTimeout
	}
	l.closing = append(l.closing, c)
	l.c.goroutines.Go(func() {
		c.Close(code, reason, timeout) // with 0 it answers the peer's close frame
		l.c.inbox.Post(connectionClosed{c})
	})
}

// connectionClosed follows when the close handshake of a connection is over.
type connectionClosed struct{ conn *conn }

func (e connectionClosed) apply(l *loop) {
	l.closing = slices.DeleteFunc(l.closing, func(c *conn) bool { return c == e.conn })
}

// applyFatalError lets a fatal error frame decide over whatever ended the
// connection after it (docs/protocol.md, section 7).
func (k *link) applyFatalError(f *wire.Failure, now time.Time) {
	f.CloseCode = cmp.Or(f.Code, f.CloseCode)
	if k == nil || k.fatalError == nil {
		return
	}
	f.Retry = max(0, k.fatalError.Retry-now.Sub(k.fatalAt))
	if k.fatalError.Code != 0 {
		f.Code, f.PeerCode, f.Reason = k.fatalError.Code, k.fatalError.PeerCode, k.fatalError.Reason
	}
}

// openFailed follows when the dialect has no codec for a connection: the peer broke the
// protocol, or the fault is on this side.
func (l *loop) openFailed(k *link, err error) {
	var user *fault.User
	var violation *wire.CodeError
	switch {
	case errors.As(err, &user):
		l.dialectFailed(k, user)
	case errors.As(err, &violation):
		l.violated(k, err)
	default:
		l.dialectFailed(k, &fault.User{Option: fault.OptionDialect, Err: fmt.Errorf("method Open cannot use the connection; correct the options of the dialect or the credential: %w", err)})
	}
}
