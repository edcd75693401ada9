package limpet

import (
	"errors"
	"log/slog"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/keeper"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// rotation is the way from one connection to the next while the first one works: see docs/reconnect.md, section
// 8.
type rotation struct {
	attempting bool      // the attempt in progress, or the question to Options.Resolver before it, is for this
	next       *dialed   // upgraded: it waits until the connection in use can be left without doubt
	nextBy     time.Time // at the latest
	patient    bool      // nextBy is later, for messages without an outcome
	settling   bool      // until then there is no next connection: its server would not wait for a first message
	failures   int       // attempts in a row that have failed
	askedAt    time.Time // when the server last asked for a new connection
	planned    bool      // the loss of the connection in use is no failure

	// The connection that was left, if its messages count until the subscriptions are live on the next one.
	old        *conn
	endOverlap time.Time // at the latest
	lingering  bool      // they are, and what was on its way may still come
}

const (
	askedAgain     = time.Minute      // a server that asks for two connections within it is not obeyed at once
	quietTime      = time.Second      // for which nothing was received at a quiet moment
	leavePatience  = 3 * time.Second  // with a connection that is not quiet, when the server asks for another one
	movePatience   = 3 * time.Second  // with what is in progress, once the next connection is there; a server waits 5 s for a HELLO
	answerPatience = 15 * time.Second // more, with messages without an outcome, if there is no session
	overlapTimeout = 5 * time.Second  // for the subscriptions to be live on the next connection
	lingerTime     = time.Second      // for what was on its way when they are
	plannedTime    = time.Second      // that a planned change may take before it counts as an outage
)

// planRenewal chooses when to leave a connection that begins now for its age. Clients that began together do
// not leave together.
func (l *loop) planRenewal(k *link) {
	l.rotation.patient, l.rotation.settling = false, false
	age := l.c.cfg.traits.Connection.Age
	if age == 0 {
		return
	}
	last := min(age/10, time.Hour)
	k.renewAt = k.conn.upgraded.Add(age - last + policy.Uniform(last/2))
	k.renewBy = k.conn.upgraded.Add(age - last/4)
}

// planLeaving follows when the server asks for a new connection: at a random moment of the time that it gives
// all of its clients (docs/protocol.md, section 8). A server that asks on each connection is a server that ends
// each connection.
//
// What is planned stays when it repeats its request, or it would never come to it.
func (l *loop) planLeaving(k *link, ev *wire.Event) {
	again := k.goAway && ev.Delay == 0
	if !k.goAway {
		k.goAway, k.leaveAt = true, l.now
		if asked := l.rotation.askedAt; !asked.IsZero() && l.now.Sub(asked) < askedAgain {
			k.leaveAt = l.now.Add(l.policy.NextDelay(verdict.Decision{MinFailures: 6}, 0, l.now))
		}
		l.rotation.askedAt = l.now
	}
	spread := min(ev.Spread, policy.MaxSpread)
	if ev.Retry > 0 { // not just before the server ends it
		spread = min(spread, max(0, ev.Retry*3/4-ev.Delay))
	}
	if !again || l.goAwayUntil.Add(spread+leavePatience).Before(k.renewBy) {
		k.renewAt = later(l.goAwayUntil.Add(policy.Uniform(spread)), k.leaveAt)
		k.renewBy = k.renewAt.Add(leavePatience)
		l.rotation.settling = false
	}
	l.endpoints.Moved = nil
	if ev.Name == "" {
		return
	}
	target, err := l.c.cfg.allowed.Move(k.endpoint.URL, ev.Name)
	if err != nil {
		why := &Error{Op: "open", Field: optionRedirects, Class: ClassOther, Err: err}
		l.c.notify.post(RotationFailed{why, l.rotation.failures + 1, l.nextRotation(k)})
		return
	}
	l.endpoints.Moved = l.endpoints.List.At(target)
}

// renewInTime makes a new connection before the server ends this one for its age, or because it asks for that.
// This one is used until the next one is there.
func (l *loop) renewInTime(k *link) {
	r := &l.rotation
	switch {
	case !k.ready:
	case r.next != nil:
		switch {
		case l.canMove(k):
			l.move(k)
		case !due(r.nextBy, l.now):
		case !r.patient && l.owesOutcomes(k):
			if l.c.cfg.traits.Greeting {
				l.abandonNext()
				r.settling, k.renewAt = true, l.now
			}
			r.patient, r.nextBy = true, l.now.Add(answerPatience)
		default:
			l.move(k)
		}
	case r.attempting || !due(k.renewAt, l.now):
	case l.shuttingDown:
		k.renewAt = time.Time{} // it ends anyway
	case r.settling && l.owesOutcomes(k) && !due(r.nextBy, l.now):
		k.renewAt = l.now.Add(quietTime / 4)
	case !r.settling && !due(k.renewBy, l.now) && !l.mayRotate(k):
		k.renewAt = l.now.Add(min(quietTime, k.renewBy.Sub(l.now)))
	default:
		l.rotate(k)
	}
}

// endOverlapInTime ends the connection that was left once it is not needed.
func (l *loop) endOverlapInTime() {
	r := &l.rotation
	if r.old == nil {
		return
	}
	if live := l.c.cfg.traits.Confirms && l.outage.since.IsZero(); live && !r.lingering {
		r.lingering = true
		if linger := l.now.Add(lingerTime); linger.Before(r.endOverlap) {
			r.endOverlap = linger
		}
	}
	if due(r.endOverlap, l.now) {
		l.finishOverlap()
	}
}

// rotate starts an attempt to make the connection that follows k.
func (l *loop) rotate(k *link) {
	if at := l.earliestAttempt(); at.After(l.now) {
		k.renewAt = at
		l.rotation.settling = false
		return
	}
	l.rotation.attempting = true
	if k.goAway && !l.endpoints.HasTurn && l.endpoints.Moved == nil {
		l.endpoints.List.Avoid(k.endpoint, l.now)
	}
	l.endpoints.List.BeginRound()
	if l.resolve() {
		return
	}
	l.attemptRotation()
}

// attemptRotation continues rotate once the endpoints are known.
func (l *loop) attemptRotation() {
	k := l.link
	if k == nil || !k.ready { // lost in the meantime
		l.rotation.attempting = false
		return
	}
	at := l.earliestAttempt() // Options.Resolver may have left only endpoints with a slot
	if !at.After(l.now) && l.endpoints.Wait(l.now) > 0 {
		at = l.endpoints.TurnAt
	}
	if at.After(l.now) {
		l.rotation.attempting, l.rotation.settling = false, false
		k.renewAt = at
		return
	}
	l.attempt(k.whyLeft())
}

// whyLeft is why k is left although it works.
func (k *link) whyLeft() *Error {
	why := ErrConnectionAge
	if k.goAway {
		why = ErrGoAway
	}
	return &Error{Op: "open", Class: ClassOther, Err: why}
}

// rotated follows when the attempt that rotate has started has ended, and k is still in use.
func (l *loop) rotated(k *link, e *dialed) {
	if f := e.failure; f != nil {
		if e.timedOut && !l.stoodStillAt.After(l.lastAttempt) {
			l.policy.ExtendDialTimeout()
		}
		l.rotationFailed(k, f)
		return
	}
	l.policy.DialTimeout = l.policy.FirstDialTimeout
	if l.shuttingDown {
		e.conn.abandon()
		return
	}
	if f := e.conn.speaksNothing(); f != nil {
		l.closeConn(e.conn, 1002, "subprotocol")
		l.rotationFailed(k, f)
		return
	}
	l.rotation.next, l.rotation.nextBy, l.rotation.settling = e, l.now.Add(movePatience), false
}

// rotationFailed follows when there is no connection to follow k. The client keeps k for as long as it works,
// whatever the failure: only a client without a connection ends.
func (l *loop) rotationFailed(k *link, f *wire.Failure) {
	f.Attempt = l.policy.Failures + 1
	d := verdict.Decide(f, l.c.cfg.askDialect)
	l.overrule(f, &d)
	if d.Action == wire.ActionRefresh {
		l.credentialRefusedAt, l.refreshCredential = l.now, l.c.cfg.hasCredential()
	}
	if d.Action == wire.ActionStop || d.Action == wire.ActionRefresh {
		d.Action, d.AtCap = wire.ActionBackOff, true
	}
	l.c.counters.countFailure(false, ErrorClass(d.Class))
	l.followEndpoint(nil, f, &d)
	l.holdFor(d.After)
	k.renewAt = later(l.now.Add(l.policy.NextDelay(d, l.spread, l.now)), l.earliestAttempt())
	l.rotation.failures++
	l.rotation.patient, l.rotation.settling = false, false
	why := l.explain(f, d)
	if d.Fixed {
		l.credentialsEnded(k, why)
	}
	l.c.notify.post(RotationFailed{why, l.rotation.failures, l.nextRotation(k)})
}

// nextRotation is when the next attempt to replace k will start, as far as is known; zero: never.
func (l *loop) nextRotation(k *link) time.Time {
	if k.renewAt.IsZero() {
		return time.Time{}
	}
	return l.endpoints.Expect(k.renewAt, l.now)
}

// mayRotate reports whether this is a good moment: with sessions any is, otherwise a quiet one.
func (l *loop) mayRotate(k *link) bool { return l.window.sessions || l.isQuiet(k) }

// canMove reports whether k can be left now: nothing is in progress that would be lost, or whose outcome would
// be unknown.
func (l *loop) canMove(k *link) bool {
	switch {
	case k.writing, k.stream != nil, k.unwritten.frames != nil, l.holdsFrames(k):
		return false
	case l.window.inFlight(), l.calls.Open() > 0: // the next connection may lead to a server that does not know the session
		return false
	case l.window.sessions:
		return true
	}
	return k.traits.Processed == wire.ProcessedNothing || l.isQuiet(k)
}

// owesOutcomes reports whether messages or calls have no outcome yet that would be unknown if k ended.
func (l *loop) owesOutcomes(k *link) bool {
	return l.calls.Open() > 0 || !l.window.sessions && (l.window.inFlight() || k.stream != nil)
}

// holdsMessages reports whether messages wait: for the next connection, so that those before have their outcome
// when the client moves, or for the outbox.
func (l *loop) holdsMessages() bool {
	return l.rotation.next != nil || l.rotation.settling || l.journal != nil && !l.journal.MaySend()
}

// outboxed is what the loop knows of Options.Outbox.
type outboxed struct {
	journal *keeper.Keeper[*Receipt] // nil without one
	waits   bool                     // the next attempt waits for a commit
}

// leaving returns the numbers of the messages that leave when that is durable.
func (w *window) leaving() (numbers []outbox.Range) {
	for i, r := range w.slots.All() {
		if r.details != nil && r.details.left {
			numbers = keeper.AddTo(numbers, w.firstSeq+uint64(i))
		}
	}
	return numbers
}

const outboxPause = time.Second // until an attempt that waits for a commit is made again, at most

// keepSession records the session of the connection that is ready.
func (l *loop) keepSession() {
	if l.journal == nil {
		return
	}
	var s wire.Session // with KeepsSubs, the server would go on with streams that the next client does not have
	if t := &l.c.cfg.traits; t.Sessions && !t.KeepsSubs {
		s = l.session
	}
	l.journal.Welcome(s, l.number)
}

// holdsFrames reports whether nothing may be written on k yet: the first frame after the welcome makes the
// server forget the earlier key of the session, so the new one must be durable.
func (l *loop) holdsFrames(k *link) bool {
	return l.journal != nil && k.ready && l.window.sessions && !l.journal.Durable()
}

// mayBegin reports whether another connection may be announced: its number and the key that it shows are
// durable.
func (l *loop) mayBegin() bool { return l.journal == nil || l.journal.MayBegin(l.number) }

// mayAttempt is mayBegin for an attempt. If the result is false, the attempt follows later.
func (l *loop) mayAttempt() bool {
	l.waits = !l.mayBegin()
	if l.waits {
		l.scheduleAttempt(outboxPause)
	}
	return !l.waits
}

// refuseConn closes a connection that may not begin.
func (l *loop) refuseConn(c *conn) {
	l.closeConn(c, l.c.cfg.closeCode(), "")
	l.fail(nil, &wire.Failure{Stage: wire.StageUpgrade, Err: &fault.User{Option: optionOutbox, Err: errNotKept}})
}

var errNotKept = errors.New("the state of the session is not durable yet")

// isQuiet reports whether nothing is in progress on k.
func (l *loop) isQuiet(k *link) bool {
	waits := len(k.ops) + len(k.toAsk) + k.unanswered.Len() + l.calls.Open() + l.window.pending
	return waits == 0 && !k.writing && k.stream == nil && k.unwritten.frames == nil && !k.conn.Receiving() && l.now.Sub(k.conn.LastRead()) >= quietTime
}

// overlaps reports whether the messages of two connections may count at the same time: what comes on both is
// dropped by its number or id. A server that resumes delivers what was not received, so it needs no overlap,
// and acknowledgements belong to one connection.
func (l *loop) overlaps() bool {
	t := &l.c.cfg.traits
	return !t.Resume && !t.Sessions && !t.KeepsSubs && !t.Credit && t.Processed == wire.ProcessedNothing && t.Holes != wire.HolesFault
}

// move leaves k for the connection that was made to follow it.
func (l *loop) move(k *link) {
	next := l.rotation.next
	l.rotation.next, l.rotation.failures = nil, 0
	l.state.Cause = k.whyLeft()
	l.rotation.planned = true
	if l.overlaps() {
		l.finishOverlap() // of the connection before
		l.rotation.old, l.rotation.endOverlap, l.rotation.lingering = k.conn, l.now.Add(overlapTimeout), false
		l.registry.overlap = true
		l.leave(k)
	} else {
		l.disconnect(k, l.c.cfg.closeCode(), "")
	}
	l.rotation.planned = false
	l.loseLive(l.state.Cause)
	l.disconnectedAt = l.now
	l.open(next.conn, next.token, next.state)
}

// finishOverlap ends the connection that was left: its messages count no more.
func (l *loop) finishOverlap() {
	old := l.rotation.old
	if old == nil {
		return
	}
	l.rotation.old, l.registry.overlap = nil, false
	for s := range l.registry.all() {
		for q := range s.queues {
			q.fence(old.gen)
		}
	}
	l.closeConn(old, l.c.cfg.closeCode(), "")
}

// hasNext reports whether takeNext would have something to continue with.
func (l *loop) hasNext() bool {
	return l.rotation.next != nil || l.rotation.attempting && l.cancelAttempt != nil
}

// takeNext continues with the attempt that rotate has started, after the connection in use was lost. It reports
// false if there is none.
func (l *loop) takeNext() bool {
	if !l.hasNext() {
		return false
	}
	l.atOnce = false // there is no wait
	if next := l.rotation.next; next != nil {
		l.rotation.next = nil
		l.open(next.conn, next.token, next.state)
		return true
	}
	l.enter(Connecting)
	return true
}

// endRotation ends what the loop holds beside the connection in use.
func (l *loop) endRotation() {
	l.abandonNext()
	l.finishOverlap()
}

// abandonNext closes the connection that waits, if there is one.
func (l *loop) abandonNext() {
	l.rotation.settling = false
	if next := l.rotation.next; next != nil {
		l.rotation.next = nil
		next.conn.abandon()
	}
}

// RotationFailed reports that the client has to leave its connection, because the server asks for that or ends
// it at a certain age, and that an attempt to make the next one has failed. The client goes on with the
// connection that it has, and tries again.
type RotationFailed struct {
	// Cause is the failure, or why the URL that the server names is not followed: then it wraps ErrRedirect.
	Cause *Error
	// Attempt counts such attempts in a row, from 1.
	Attempt int
	// NextAttempt is when the client tries again; zero if it does not: see CredentialsEnded.
	NextAttempt time.Time
}

func (e RotationFailed) record() (slog.Level, string, []slog.Attr) {
	level := slog.LevelWarn
	if e.Attempt > 1 {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.Any("error", e.Cause), slog.Int("failures", e.Attempt)}
	if !e.NextAttempt.IsZero() {
		attrs = append(attrs, slog.Time("next", e.NextAttempt))
	}
	return level, "limpet: no connection to replace the one in use", attrs
}

// countOutage counts a planned change as an outage once it takes long or, with failed, does not succeed.
func (l *loop) countOutage(failed bool) {
	if o := &l.outage; !o.countAt.IsZero() && (failed && l.rotation.old == nil || due(o.countAt, l.now)) {
		o.countAt = time.Time{}
		l.c.counters.outages.Begin(o.since)
	}
}

// outageWatch is a time without all that the client had.
type outageWatch struct {
	since    time.Time // zero: there is none
	countAt  time.Time // when it counts as one, if it was planned; zero: it does
	attempts uint64    // of the client when it began
	waiting  int       // subscriptions that were live and are not yet again
	unproved int       // subscriptions that are live again, and may still show a loss
	gaps     uint64    // gaps and resets so far
	missed   uint64    // messages in them, as far as known
}

// beginOutage follows when a connection that was ready is lost.
func (l *loop) beginOutage() {
	if l.outage.since.IsZero() {
		c := &l.c.counters
		l.outage = outageWatch{since: l.now, attempts: c.attempts.Load()}
		if l.rotation.old != nil {
			l.outage.since = l.rotation.endOverlap
			l.outage.countAt = l.outage.since
		} else if l.rotation.planned {
			l.outage.countAt = l.now.Add(plannedTime)
		} else {
			c.outages.Begin(l.now)
		}
	}
	for s := range l.registry.all() {
		if !s.inOutage && s.wireState().Phase == SubLive {
			s.inOutage = true
			l.outage.waiting++
		}
	}
}

// checkOutage ends the outage when everything is live again, or the client has ended.
func (l *loop) checkOutage() {
	l.countOutage(false)
	o := l.outage
	live := l.link != nil && l.link.ready && o.waiting == 0
	if o.since.IsZero() || !live && !l.ended {
		return
	}
	c := &l.c.counters
	l.outage = outageWatch{}
	if !o.countAt.IsZero() {
		return
	}
	took := c.outages.End()
	if !live {
		return
	}
	if h := c.measured; h != nil {
		h.recovery.Add(took, 1)
	}
	l.c.notify.post(OutageEnded{took, int(c.attempts.Load() - o.attempts), o.gaps, o.missed, o.unproved})
}
