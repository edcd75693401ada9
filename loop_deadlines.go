package limpet

import (
	"net"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/text"
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
		l.policy.extendHandshakeTimeout()
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
		l.finality.progressed()
	}
	early := k.stableAt.Add(-l.c.cfg.Backoff.StableAfter * 5 / 6)
	if !due(k.stableAt, l.now) && !(due(early, l.now) && worked) {
		return
	}
	k.stable = true
	l.finality.lasted()
	l.endpoints.list.Stable(k.endpoint)
	l.policy.forgetFailures()
	l.encodePanics = 0
}

// hasReceived reports whether a subscription received a message on the
// connection.
func (l *loop) hasReceived(k *link) bool {
	return slices.ContainsFunc(l.consumed(), func(s *Subscription) bool { return s.queue.hasReceivedOn(k.conn.gen) })
}

const (
	answerTimeout = 10 * time.Second // for a subscription, from the write of its request
	partlyTimeout = 2 * time.Second  // from the refusal of another topic of the same request
	maxFailedAsks = 3                // then the subscription ends
	maxSuspicion  = 7                // pauses of askPause for a suspect: then up to 128 s
	askBackoff    = 2 * time.Second  // before a subscription is asked for again after a failed request; it doubles
)

// ask is one request for a subscription.
type ask struct {
	sub      *Subscription
	use      *topicUse // of its topic; nil if the dialect routes by key
	number   uint64
	write    uint64 // the number of the write that carries it
	answerBy time.Time
	blamed   bool   // for an error that names no topic
	partly   bool   // another topic of the same write was refused
	behind   uint64 // with the message of this number, which was incomplete at answerBy; 0: none
}

// askPool shares the memory of unanswered requests.
var askPool sync.Pool

// noteAsk follows when s is asked for on k, if the dialect has answers.
func (l *loop) noteAsk(k *link, s *Subscription) {
	traits := &l.c.cfg.traits
	l.registry.postpone(s, time.Time{})
	var u *topicUse
	if !traits.ByKey {
		u = k.useTopic(s.topic)
		u.sub, u.again = s, 0
		k.namedTopics.count(u)
	}
	if !traits.Confirms {
		return
	}
	if u != nil {
		u.owed++
		u.owedUntil = time.Time{}
		if u.served {
			u.again = u.owed
		}
	}
	k.asks++
	s.askNumber = k.asks
	s.askWrite = k.writes
	k.asked = append(k.asked, ask{sub: s, use: u, number: k.asks, write: k.writes})
}

// noteWritten follows when the requests were written: their time begins.
func (k *link) noteWritten(now time.Time) {
	for _, a := range k.asked {
		a.answerBy = now.Add(answerTimeout)
		k.unanswered.Push(a)
		if a.use != nil && a.number == a.sub.askNumber {
			a.use.owedUntil = a.answerBy
		}
	}
	k.asked = nil
	k.writes++
	k.noteLeft(now)
}

// restartAnswers begins the time of every request again.
func (k *link) restartAnswers(now time.Time) {
	for i := range k.unanswered.Len() {
		k.unanswered.At(i).answerBy = now.Add(answerTimeout)
	}
}

// answered follows when the server answers the request for s, in whatever way.
func (k *link) answered(s *Subscription, now time.Time) {
	s.failedAsks, s.suspicion = 0, nil
	if s.askNumber > k.answeredUpTo {
		k.answeredUpTo, k.answeredAt = s.askNumber, now
	}
}

// notePartly follows when the server refuses s by name. If it took the rest of the
// request, answers follow soon.
func (k *link) notePartly(s *Subscription, now time.Time) {
	if k.namedTopics == nil || s.askNumber == 0 || k.namedTopics.partly == s.askWrite+1 {
		return
	}
	k.namedTopics.partly = s.askWrite + 1
	for i := range k.unanswered.Len() {
		if a := k.unanswered.At(i); a.write == s.askWrite {
			a.partly, a.answerBy = true, now.Add(partlyTimeout)
		}
	}
}

// answerBy is when the oldest request counts as unanswered. A server that still
// works off earlier requests gets more time.
func (k *link) answerBy() time.Time {
	a := k.unanswered.At(0)
	if a.partly {
		return later(a.answerBy, k.answeredAt.Add(partlyTimeout))
	}
	if a.number > k.answeredUpTo && k.answeredUpTo > 0 {
		return later(a.answerBy, k.answeredAt.Add(answerTimeout))
	}
	return a.answerBy
}

// checkAnswers deals with the subscriptions whose request was not answered in
// time. None of them holds up another.
func (l *loop) checkAnswers(k *link) {
	for k.ready && k.unanswered.Len() > 0 {
		a := *k.unanswered.At(0)
		if l.isOpen(&a) {
			by := k.answerBy()
			if !due(by, l.now) {
				return
			}
			if l.answerMayBeBehind(k, k.unanswered.At(0)) {
				return
			}
			if a.partly {
				l.askInParts(k, l.oldestRequest(k))
				continue
			}
			if n := k.namedTopics; n != nil {
				n.mute = len(n.suspects) > 0
			}
			a.sub.held = false
			a.sub.queue.holdNoLonger() // what comes now belongs to this subscription
			l.askFailed(a.sub, &Error{Op: "Subscribe", Field: "topic", Class: ClassTimeout, Err: ErrUnanswered}, 0)
		} else if l.waitsForAnswer(&a) && !due(a.answerBy, l.now) {
			return
		}
		k.unanswered.Drop(1)
	}
}

// answerMayBeBehind gives a request more time while the message is received that
// was incomplete when its time ended: on a slow link that can take minutes.
func (l *loop) answerMayBeBehind(k *link, a *ask) bool {
	next := l.c.counters.frames.Load() + 1
	if !k.conn.Receiving() || a.behind != 0 && a.behind != next {
		return false
	}
	a.behind, a.answerBy = next, l.now.Add(answerTimeout/10)
	return true
}

// isOpen reports whether the subscription of a waits for the answer to it.
func (l *loop) isOpen(a *ask) bool {
	return a.number == a.sub.askNumber && l.askedOnLink(a.sub) && a.sub.state.Load().Phase == SubPending
}

// askFailed schedules another request for s after one that was not answered, or was
// refused in a way that another topic may have caused. It ends s after the last one.
// Until the next request, an answer to this one still counts.
func (l *loop) askFailed(s *Subscription, err *Error, pause time.Duration) {
	if s.failedAsks++; s.failedAsks >= maxFailedAsks {
		if err.Class != ClassRejected {
			l.releaseSub(s)
		}
		l.endSub(s, err)
		return
	}
	l.askAgainAfter(s, max(askPause(s.failedAsks), min(pause, headers.MaxRetryAfter)))
	l.enterSub(s, SubState{Phase: SubPending, Err: err})
}

// refused ends a subscription that the server refused. If the server said when to
// ask again, it schedules that instead, later with each refusal in a row.
func (l *loop) refused(s *Subscription, err *Error, retry time.Duration) {
	s.askedGeneration = 0
	if retry <= 0 {
		l.endSub(s, err)
		return
	}
	s.refusals++
	pause := min(retry, headers.MaxRetryAfter)
	more := max(pause, l.c.cfg.Backoff.Initial) * time.Duration(min(s.refusals, 10))
	l.askAgainAfter(s, pause+more/2+uniform(more/2))
	l.enterSub(s, SubState{Phase: SubPending, Err: err})
}

// refusalInDoubt follows when a refusal may concern an earlier subscription to the
// same topic. The server is asked again, unless it shows before that it serves s.
func (l *loop) refusalInDoubt(s *Subscription, err *Error, retry time.Duration) {
	s.askNumber = 0
	if s.state.Load().Phase == SubLive {
		s.queue.expectAnswer(false) // by a message
	}
	l.askFailed(s, err, retry)
}

// endedByServer asks again for a subscription that the server has ended and the
// client has not. A server that does so again and again does not want it.
func (l *loop) endedByServer(s *Subscription, ev *wire.Event) {
	err := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Detail: "the server ended the subscription", Err: ErrRejected}
	if ev.Reason != "" {
		err.Detail += ": " + text.Quote(ev.Reason)
	}
	if l.now.Sub(s.state.Load().Since) >= time.Minute || s.queue.hasReceivedOn(l.link.conn.gen) {
		s.endings = 0
	}
	if s.endings++; s.endings >= maxFailedAsks {
		l.endSub(s, err)
		return
	}
	s.askNumber = 0 // its request was answered
	l.askAgainAfter(s, max(askPause(s.endings), min(ev.Retry, headers.MaxRetryAfter)))
	l.enterSub(s, SubState{Phase: SubPending, Err: err})
}

// askPause is the pause before a subscription is asked for again after n failures in
// a row.
func askPause(n int) time.Duration {
	v := askBackoff << (n - 1)
	return v/2 + uniform(v/2)
}

// askAgainAfter postpones the next request for s, on whatever connection.
func (l *loop) askAgainAfter(s *Subscription, d time.Duration) {
	l.registry.postpone(s, l.now.Add(d))
}

// nextAskAt is when the next subscriptions are asked for again: few rounds for
// many. Zero: never.
func (l *loop) nextAskAt() time.Time {
	at := l.registry.nextDue()
	if at.IsZero() {
		return at
	}
	return later(at, l.askedAgainAt.Add(minBetweenAttempts))
}

// mustWait reports whether s must not be asked for yet.
func (s *Subscription) mustWait(now time.Time) bool { return s.askAgainAt.After(now) }

// askAgain takes up the subscriptions that are due to be asked for again.
func (l *loop) askAgain(k *link) {
	if !due(l.nextAskAt(), l.now) {
		return
	}
	l.askedAgainAt = l.now
	for _, s := range l.registry.takeDue(l.now) {
		if l.askedOnLink(s) {
			l.withdraw(k, s)
		}
		k.queueRequest(s)
	}
}

// withdraw takes back the request for s that was not answered. The next one has a
// key of its own, so that a late answer to this one cannot count for it. A dialect
// that routes by name has no such key: there a late answer counts.
func (l *loop) withdraw(k *link, s *Subscription) {
	if k.traits.Unsubscribe && k.traits.ByKey {
		k.unsubscribe(s)
	} else {
		k.abandon()
	}
	l.registry.renewKey(s)
	s.askedGeneration = 0
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
	at(l.window.nextExpiry)
	at(l.window.nextAgain())
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
	if k := l.link; k != nil {
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
	l.timerAt = later(next, l.now)
	return l.timerAt.Sub(l.now)
}
