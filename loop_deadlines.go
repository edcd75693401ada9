package limpet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/liveness"
	"github.com/limpet-go/limpet/wire"
)

// tick does what is due.
func (l *loop) tick() {
	l.window.expire(l.now)
	l.window.takeAgain(l.now)
	l.endOverlapInTime()
	if limit := l.c.cfg.Backoff.MaxElapsed; limit > 0 && !l.disconnectedAt.IsZero() && l.now.Sub(l.disconnectedAt) >= limit {
		why := &Error{Op: "connect", Class: ClassTimeout, Err: ErrMaxElapsed}
		if l.state.Cause != nil {
			why.Err = joinReason(ErrMaxElapsed, l.state.Cause)
		}
		l.end(&PermanentError{ClassTimeout, why})
		return
	}
	if l.state.Phase == Waiting && due(l.attemptAt, l.now) {
		l.connect()
		return
	}
	if due(l.giveUpAt, l.now) {
		l.giveUp()
		return
	}
	k := l.link
	if k == nil {
		if l.shuttingDown && l.nothingPending() {
			l.end(nil)
		}
		return
	}
	switch {
	case due(k.handshakeBy, l.now):
		l.policy.ExtendHandshakeTimeout()
		l.fail(k, &wire.Failure{Stage: wire.StageHandshake, Err: ErrHeartbeat})
	case due(k.closeBy, l.now):
		l.connectionLost(k, 0, "", nil)
	case due(k.killBy, l.now):
		l.connectionLost(k, 0, "", k.lostError(net.ErrClosed))
	case l.peerIsSilent(k):
		l.peerWasSilent(k)
		l.fail(k, &wire.Failure{Stage: wire.StageOpen, Err: ErrHeartbeat})
	case l.probeFailed(k):
		l.fail(k, &wire.Failure{Stage: wire.StageOpen, Err: errProbe})
	case k.writing && due(k.stalledAt(), l.now):
		l.fail(k, &wire.Failure{Stage: wire.StageOpen, Err: ErrStalled})
	default:
		k.takeSteps(l.now)
		l.leaveInTime(k)
		l.startProbe(k)
		l.sendHeartbeat(k)
		l.checkAnswers(k)
		l.freeTopics(k)
		l.askAgain(k)
		l.refreshInTime(k)
		l.renewInTime(k)
		l.checkStream(k)
	}
}

// checkStable forgets earlier violations if the connection, which is about to end, made
// progress, and earlier failures if it lasted: Backoff.StableAfter, or a sixth of that if a message was
// acknowledged or received on it.
func (l *loop) checkStable(k *link) {
	if k == nil || k.stable || !k.ready {
		return
	}
	worked := k.proved || l.hasReceived(k)
	if worked {
		l.silences = 0
		l.finality.Progressed()
	}
	early := k.stableAt.Add(-l.c.cfg.Backoff.StableAfter * 5 / 6)
	if !due(k.stableAt, l.now) && !(due(early, l.now) && worked) {
		return
	}
	k.stable = true
	l.finality.Lasted()
	l.endpoints.List.Stable(k.endpoint)
	l.policy.ForgetFailures()
	l.encodePanics = 0
}

// hasReceived reports whether a subscription received a message on the
// connection.
func (l *loop) hasReceived(k *link) bool {
	return slices.ContainsFunc(l.consumed(), func(s *Subscription) bool { return s.queue.hasReceivedOn(k.conn.gen) })
}

// untilNextDeadline returns the time until something is due. A client has one
// timer.
func (l *loop) untilNextDeadline() time.Duration {
	next := time.Time{}
	at := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	at(l.window.expiries.Next())
	at(l.window.again.Next())
	if limit := l.c.cfg.Backoff.MaxElapsed; limit > 0 && !l.disconnectedAt.IsZero() {
		at(l.disconnectedAt.Add(limit))
	}
	if l.state.Phase == Waiting {
		at(l.attemptAt)
	}
	at(l.giveUpAt)
	at(l.nextLook())
	at(l.outage.countAt)
	if l.rotation.old != nil {
		at(l.rotation.endOverlap)
	}
	if l.link != nil {
		l.linkDeadlines(l.link, at)
	}
	l.timerAt = later(next, l.now)
	return l.timerAt.Sub(l.now)
}

// linkDeadlines calls at with each time at which something is due for k.
func (l *loop) linkDeadlines(k *link, at func(time.Time)) {
	if k.unencoded && !k.writing {
		at(l.now)
	}
	at(k.paceAt)
	at(k.handshakeBy)
	at(k.closeBy)
	at(k.killBy)
	at(l.nextAskAt())
	if len(k.steps) > 0 {
		at(k.steps[0].at)
	}
	at(k.nextRefresh())
	if k.leavingUntil.Len() > 0 {
		at(k.leavingUntil.At(0).at)
	}
	if k.ready {
		if k.unanswered.Len() > 0 {
			at(k.answerBy())
		}
		if n := k.namedTopics; n != nil && n.freed.Len() > 0 {
			at(n.freed.At(0).at)
		}
		if l.rotation.next != nil {
			at(l.rotation.nextBy)
			at(l.now.Add(quietTime / 4))
		} else if !l.rotation.attempting {
			at(k.renewAt) // not before: renewInTime waits for that
		}
		at(k.pingAt)
		at(k.probeAt)
		at(k.probeBy)
		at(k.silentAt())
	}
	if k.writing {
		at(k.stalledAt())
	}
	at(k.partBy())
}

// signs are the signs of life of a peer: a part of link.
type signs struct {
	heartbeat  time.Duration // the interval
	silences   int           // as loop.silences, at the beginning of the connection
	pingAt     time.Time     // when the next ping is due
	pinging    bool          // a WebSocket ping is being written
	pingQueued bool          // replies hold a ping
	pingSent   time.Time     // when the last ping was; zero: answered, or none
	moved      time.Time     // when the peer last took bytes for which a write had to wait
	graceGiven time.Time     // when this process last went on after it had stood still
	graceUntil time.Time     // the peer counts as alive until then

	probeAt time.Time // when the next probe is due; zero: none is
	probed  time.Time // when the last one started
	probeBy time.Time // by when it must be followed by a sign of life; zero: it was, or there is none

	askedAt  time.Time     // when a ping was last sent after a sign of life
	idle     time.Duration // for how long nothing had moved before it
	survived time.Duration // the longest idle of a ping that was answered
}

// peerIsSilent reports whether the peer is dead.
func (l *loop) peerIsSilent(k *link) bool { return k.ready && !l.now.Before(k.silentAt()) }

// silentAt is when the peer counts as dead if it gives no sign of life before.
func (k *link) silentAt() time.Time {
	return later(k.lastSign().Add(liveness.SilenceAllowed(k.heartbeat, k.silences)), k.graceUntil)
}

// lastSign is when the peer last gave a sign of life.
func (k *link) lastSign() time.Time {
	k.noteProgress()
	return later(k.conn.LastRead(), k.moved)
}

// peerWasSilent makes the next connection write less at once and, if this one carried
// no message, wait longer for a sign of life: the peer of a slow link may be alive.
func (l *loop) peerWasSilent(k *link) {
	if k.writing {
		l.writeBytes = max(l.writeBytes/4, minWriteBytes)
	}
	if !k.proved && !l.hasReceived(k) {
		l.silences++
	}
}

// noteProgress takes bytes that the write in progress has moved after a while for a
// sign of life: the peer has taken what filled the socket before. A write that does not
// wait is none, since a socket accepts bytes for a peer that is gone.
func (k *link) noteProgress() {
	if at := k.conn.LastWrote(); k.writing && at.Sub(k.writeStarted) >= min(k.heartbeat/10, 100*time.Millisecond) {
		k.moved = at
	}
}

// stalledAt is when the write in progress counts as stalled if no byte is written
// before.
func (k *link) stalledAt() time.Time {
	return later(k.conn.LastWrote(), k.writeStarted).Add(stallTimeout)
}

// sendHeartbeat asks the peer for a sign of life when a heartbeat is due.
func (l *loop) sendHeartbeat(k *link) {
	if !k.pingSent.IsZero() {
		if pong := k.conn.FirstPong(); !pong.IsZero() {
			l.c.counters.pinged(&k.pingSent, pong)
		}
	}
	if !due(k.pingAt, l.now) {
		return
	}
	k.pingAt = l.now.Add(k.heartbeat)
	if how := l.howToPing(k); how != wire.PingNone {
		l.ping(k, how)
	}
}

// ping asks the peer for a sign of life, with a WebSocket ping unless how is PingOp. It reports false if the limit of the server has
// no room for that: k.pingAt is then when it has.
func (l *loop) ping(k *link, how wire.Ping) bool {
	if how == wire.PingOp {
		if !k.pingQueued { // one is enough while a write takes long
			k.noteIdle(l.now)
			k.pingQueued, k.pingSent = true, l.now
			k.replies = append(k.replies, wire.Op{Kind: wire.OpPing, N: k.conn.gen})
		}
		return true
	}
	if k.pinging {
		return true
	}
	if at := l.takePing(); !at.IsZero() {
		k.pingAt = at // a ping comes before everything else
		return false
	}
	k.noteIdle(l.now)
	k.pinging, k.pingSent = true, l.now
	k.conn.ExpectPong()
	l.c.goroutines.Go(func() {
		_ = k.conn.Ping() // the reader reports its failure
		l.c.inbox.Post(ponged{k.conn})
	})
	return true
}

// lookout is what the loop knows of this side: a part of loop. A look is what ReconnectNow,
// NetworkChanged or a jump of the clock calls for.
type lookout struct {
	clock        liveness.Clock
	idle         liveness.Idle // of the path to the server
	stoodStillAt time.Time     // when this process last went on after it had stood still
	shortcutAt   time.Time     // when the attempt starts, or did, that a look has brought forward last
	giveUpAt     time.Time     // Connecting, Handshaking: when what is in progress gives way to another attempt; zero: never
	givenUp      int           // since the last welcome
	givingUp     bool          // the attempt was cancelled for that
	atOnce       bool          // the next attempt waits for nothing but the slot of the server
}

const (
	probeTimeout     = 3 * time.Second  // for a sign of life in answer to a probe
	betweenProbes    = time.Second      // between the starts of two
	betweenShortcuts = 10 * time.Second // between two attempts that NetworkChanged or the clock brings forward
	patience         = time.Second      // with an attempt, and with a handshake, after a look; it doubles each time
	maxPatience      = 6                // times
	lookPause        = 5 * time.Second  // between two looks at the clock, at most
	standstill       = time.Second      // by which the timer is late if this process stood still
)

// errProbe is why a connection is lost on which a probe was not answered.
var errProbe = fmt.Errorf("%w: no byte within %v of a ping that was sent because this machine slept, or because the program called ReconnectNow or NetworkChanged", ErrHeartbeat, probeTimeout)

// errGivenUp is why an attempt, or a connection before the welcome, gave way to another one.
var errGivenUp = fmt.Errorf("%w: given up for another attempt because this machine slept, or because the program called ReconnectNow or NetworkChanged", ErrHeartbeat)

// look finds out soon whether the connection works or can be made. In Waiting, two attempts
// that it brings forward start at least between apart.
func (l *loop) look(between time.Duration) {
	switch l.state.Phase {
	case Waiting:
		at := later(later(l.now, l.shortcutAt.Add(between)), l.earliestAttempt())
		if at.Before(l.attemptAt) {
			l.shortcutAt = at
			l.scheduleAttempt(at.Sub(l.now))
		}
	case Connecting, Handshaking:
		if !l.givingUp {
			l.giveUpAt = later(l.now, l.state.Since.Add(patience<<min(l.givenUp, maxPatience)))
		}
	case Ready:
		l.link.probeAt = later(l.now, l.link.probed.Add(betweenProbes))
	}
}

// startProbe starts a probe when one is due: a ping that must soon be followed by a sign of
// life. A peer that sends heartbeats by itself answers a WebSocket ping too: RFC 6455,
// section 5.5.2.
func (l *loop) startProbe(k *link) {
	if !k.ready || !due(k.probeAt, l.now) {
		return
	}
	if !k.probeBy.IsZero() && !k.lastSign().After(k.probed) {
		k.probeAt = k.probeBy // when it is known what became of the one in progress
		return
	}
	if !l.ping(k, l.howToPing(k)) {
		k.probeAt = k.pingAt
		return
	}
	k.probeAt, k.probed, k.probeBy = time.Time{}, l.now, l.now.Add(probeTimeout)
}

// probeFailed reports whether a probe has had no answer in time.
func (l *loop) probeFailed(k *link) bool {
	switch {
	case !due(k.probeBy, l.now):
		return false
	case k.lastSign().After(k.probed):
		k.probeBy = time.Time{}
		return false
	case k.pingQueued && !k.writing: // the ping waits for the limit of the server
		k.probeBy = l.now.Add(probeTimeout)
		return false
	}
	l.atOnce = true
	return true
}

// giveUp ends the attempt or the handshake in progress for another attempt at once.
func (l *loop) giveUp() {
	l.giveUpAt = time.Time{}
	l.givenUp++
	if l.state.Phase == Connecting {
		l.givingUp = true
		l.cancelAttempt()
		return
	}
	l.atOnce = true
	l.fail(l.link, &wire.Failure{Stage: wire.StageHandshake, Err: errGivenUp})
}

// attemptFailed follows when an attempt has failed.
func (l *loop) attemptFailed(f *wire.Failure, timedOut bool) {
	switch {
	case timedOut && l.stoodStillAt.After(l.lastAttempt): // the time was this side's
		l.atOnce = true
	case timedOut && !l.endpoints.List.HasNext(l.now):
		l.policy.ExtendDialTimeout()
	case l.givingUp && f.Status == 0 && errors.Is(f.Err, context.Canceled):
		l.atOnce, f.Err = true, givenUpAttempt{}
	}
	l.fail(nil, f)
}

// givenUpAttempt is errGivenUp as the timeout of an attempt.
type givenUpAttempt struct{}

func (givenUpAttempt) Error() string { return errGivenUp.Error() }
func (givenUpAttempt) Unwrap() error { return errGivenUp }
func (givenUpAttempt) Timeout() bool { return true }

// watchClock finds out whether this machine slept or this process stood still before this
// round.
func (l *loop) watchClock() {
	if l.clock.Jumped(l.now.Round(0), l.now.Sub(l.c.counters.origin)) {
		l.look(betweenShortcuts)
	}
	allowed := standstill
	if k := l.link; k != nil {
		allowed = min(allowed, k.heartbeat/2)
	}
	if late := l.now.Sub(l.timerAt); !l.timerAt.IsZero() && late > allowed {
		l.stoodStill(late)
	}
}

// stoodStill follows when this process stood still, for example because it was stopped or
// had no processor. What the peer has sent meanwhile may not have been read yet, so what it
// owes gets its time again, and a silent peer is asked for a sign of life once more.
func (l *loop) stoodStill(late time.Duration) {
	l.stoodStillAt = l.now
	if !l.disconnectedAt.IsZero() {
		l.disconnectedAt = l.disconnectedAt.Add(late)
	}
	k := l.link
	if k == nil {
		return
	}
	again := func(deadline *time.Time, d time.Duration) {
		if !deadline.IsZero() {
			*deadline = l.now.Add(d)
		}
	}
	again(&k.handshakeBy, l.policy.HandshakeTimeout)
	again(&k.closeBy, fatalCloseTimeout)
	again(&k.killBy, closeFrameTimeout)
	again(&k.probeBy, probeTimeout)
	if k.stream != nil {
		again(&k.stream.partBy, stallTimeout)
	}
	k.writeStarted = l.now
	k.restartAnswers(l.now)
	if k.ready && k.lastSign().After(k.graceGiven) { // one time only for each sign of life
		k.graceGiven, k.graceUntil = l.now, l.now.Add(k.heartbeat)
		k.pingAt = l.now
	}
}

// nextLook is when the loop looks at the clock at the latest. Timers stop while the machine
// sleeps, so a heartbeat may be due long after it woke. A long wait is looked at less often.
func (l *loop) nextLook() time.Time {
	pause := lookPause
	if l.state.Phase == Waiting {
		pause = max(pause, l.now.Sub(l.state.Since)/4)
	}
	return l.now.Add(pause)
}

// heartbeatInterval is the interval with which a connection begins.
func (l *loop) heartbeatInterval() time.Duration {
	interval := l.c.cfg.Heartbeat.Interval
	if learned := l.idle.Interval(); learned > 0 {
		interval = min(interval, learned)
	}
	return interval
}

// noteIdle follows before a ping: for how long has nothing moved?
func (k *link) noteIdle(now time.Time) {
	lastRead := k.conn.LastRead()
	if lastRead.After(k.askedAt) {
		k.survived = max(k.survived, k.idle)
		k.idle, k.askedAt = now.Sub(later(lastRead, k.conn.LastWrote())), now
	}
}

// learnIdle follows when a connection that was ready has ended.
func (l *loop) learnIdle(k *link, f *wire.Failure, class ErrorClass) {
	dropped := class == ClassNetwork || class == ClassTimeout && errors.Is(f.Err, ErrHeartbeat)
	switch {
	case l.c.cfg.traits.Ping == wire.PingNone: // the server sends the heartbeats
		return
	case !dropped || f.Code != 0 || l.atOnce || !k.graceUntil.IsZero():
		l.idle.Ended()
		return
	}
	idle, survived, before := k.idle, k.survived, l.heartbeatInterval()
	if lastRead := k.conn.LastRead(); lastRead.After(k.askedAt) { // the last ping was answered
		idle, survived = l.now.Sub(later(lastRead, k.conn.LastWrote())), max(survived, k.idle)
	}
	if l.idle.Dropped(idle, survived) && l.heartbeatInterval() < before {
		l.c.notify.post(HeartbeatShortened{Interval: l.heartbeatInterval(), Idle: l.idle.Limit()})
	}
}

// HeartbeatShortened reports that the client sends heartbeats more often from the next
// connection on: two connections in a row were dropped after nothing had moved on them for
// about the same time. A proxy or a firewall does that. See Heartbeat.Interval.
type HeartbeatShortened struct {
	// Interval is the new interval.
	Interval time.Duration
	// Idle is the shorter one of these times.
	Idle time.Duration
}

func (e HeartbeatShortened) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelInfo, "limpet: idle connections are dropped, so heartbeats come more often", []slog.Attr{
		slog.Duration("interval", e.Interval), slog.Duration("idle", e.Idle.Round(time.Millisecond))}
}
