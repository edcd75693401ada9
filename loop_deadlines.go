package limpet

import (
	"slices"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// tick does what is due.
func (l *loop) tick() {
	l.window.expire(l.now)
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
	case l.peerIsSilent(k):
		l.fail(k, &wire.Failure{Stage: wire.StageOpen, Err: ErrHeartbeat})
	case k.writing && due(k.stalledAt(), l.now):
		l.fail(k, &wire.Failure{Stage: wire.StageOpen, Err: ErrStalled})
	default:
		l.sendHeartbeat(k)
		l.askAgain(k)
	}
}

// peerIsSilent reports whether the peer is dead. If this process itself stood
// still, for example while the machine slept, the peer gets one more interval.
func (l *loop) peerIsSilent(k *link) bool {
	if !k.ready || l.now.Before(k.silentAt()) {
		return false
	}
	if late := l.now.Sub(l.timerAt); k.graceUntil.IsZero() && !l.timerAt.IsZero() && late > k.heartbeat/2 {
		k.graceUntil = l.now.Add(k.heartbeat)
		k.pingAt = l.now
		return false
	}
	return true
}

// silentAt is when the peer counts as dead if nothing is received before.
func (k *link) silentAt() time.Time {
	return later(k.conn.LastRead().Add(time.Duration(silentIntervals*float64(k.heartbeat))), k.graceUntil)
}

// stalledAt is when the write in progress counts as stalled if no byte is written
// before.
func (k *link) stalledAt() time.Time {
	return later(k.conn.LastWrote(), k.writeStarted).Add(stallTimeout)
}

// sendHeartbeat asks the peer for a sign of life when a heartbeat is due.
func (l *loop) sendHeartbeat(k *link) {
	if !due(k.pingAt, l.now) {
		return
	}
	k.pingAt = l.now.Add(k.heartbeat)
	switch l.c.cfg.traits.Ping {
	case wire.PingOp:
		k.ops = append(k.ops, wire.Op{Kind: wire.OpPing, N: k.conn.gen})
	case wire.PingControl:
		if k.pinging {
			return
		}
		k.pinging = true
		l.c.goroutines.spawn(func() {
			_ = k.conn.Ping() // the reader reports its failure
			l.c.inbox.post(ponged{k.conn})
		})
	}
}

// checkStable forgets earlier failures if the connection, which is about to
// end, lasted: Backoff.StableAfter, or a sixth of that if a message was
// acknowledged or received on it.
func (l *loop) checkStable(k *link) {
	if k == nil || k.stable || !k.ready {
		return
	}
	early := k.stableAt.Add(-l.c.cfg.Backoff.StableAfter * 5 / 6)
	if !due(k.stableAt, l.now) && !(due(early, l.now) && (k.acked || l.hasReceived(k))) {
		return
	}
	k.stable = true
	l.policy.forgetFailures()
	l.encodePanics = 0
}

// hasReceived reports whether a subscription received a message on the
// connection.
func (l *loop) hasReceived(k *link) bool {
	return slices.ContainsFunc(l.consumed(), func(s *Subscription) bool { return s.queue.hasReceivedOn(k.conn.gen) })
}

// askAgain queues the refused subscriptions that are due to be asked for again.
func (l *loop) askAgain(k *link) {
	if !due(l.askAgainAt, l.now) {
		return
	}
	l.askAgainAt = time.Time{}
	for _, s := range l.registry.subs {
		switch {
		case s.askAgainAt.IsZero() || l.askedOnLink(s):
		case due(s.askAgainAt, l.now):
			s.askAgainAt = time.Time{}
			k.toAsk = append(k.toAsk, s)
		case l.askAgainAt.IsZero() || s.askAgainAt.Before(l.askAgainAt):
			l.askAgainAt = s.askAgainAt
		}
	}
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
	if limit := l.c.cfg.Backoff.MaxElapsed; limit > 0 && !l.disconnectedAt.IsZero() {
		at(l.disconnectedAt.Add(limit))
	}
	if l.state.Phase == Waiting {
		at(l.attemptAt)
	}
	if k := l.link; k != nil {
		if k.unencoded && !k.writing {
			at(l.now)
		}
		at(k.handshakeBy)
		at(k.closeBy)
		at(l.askAgainAt)
		if k.ready {
			at(k.pingAt)
			at(k.silentAt())
		}
		if k.writing {
			at(k.stalledAt())
		}
	}
	l.timerAt = next
	if next.IsZero() {
		return forever
	}
	return max(0, next.Sub(l.now))
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
