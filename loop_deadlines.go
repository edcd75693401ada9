package limpet

import (
	"net"
	"slices"
	"time"

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
