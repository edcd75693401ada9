package limpet

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// tick does what is due.
func (l *loop) tick() {
	l.window.expire(l.now)
	if max := l.c.cfg.Backoff.MaxElapsed; max > 0 && !l.lost.IsZero() && l.now.Sub(l.lost) >= max {
		why := &Error{Op: "connect", Class: ClassTimeout, Err: ErrMaxElapsed}
		if l.state.Cause != nil {
			why.Err = joinReason(ErrMaxElapsed, l.state.Cause)
		}
		l.end(&PermanentError{ClassTimeout, why})
		return
	}
	if l.state.Phase == Waiting && due(l.wakeAt, l.now) {
		l.connect()
		return
	}
	if l.shutdown && l.conn == nil && l.idle() {
		l.end(nil)
		return
	}
	if l.conn == nil {
		return
	}
	switch {
	case due(l.handshakeBy, l.now):
		l.fail(&wire.Failure{Stage: wire.StageHandshake, Err: ErrHeartbeat})
	case due(l.closeBy, l.now):
		l.broke(0, "", nil)
	case l.silent():
		l.fail(&wire.Failure{Stage: wire.StageOpen, Err: ErrHeartbeat})
	case l.writing && due(later(l.conn.lastWrote(), l.writeSince).Add(stallTimeout), l.now):
		l.fail(&wire.Failure{Stage: wire.StageOpen, Err: ErrStalled})
	default:
		l.beat()
		l.settleDown()
		l.askAgain()
	}
}

// silent reports whether the peer is dead. After this process itself stood
// still for long, the peer gets one more chance.
func (l *loop) silent() bool {
	if !l.ready || l.now.Before(l.deadAt()) {
		return false
	}
	if late := l.now.Sub(l.armed); l.graceUntil.IsZero() && !l.armed.IsZero() && late > l.heartbeat/2 {
		l.graceUntil = l.now.Add(l.heartbeat)
		l.pingAt = l.now
		return false
	}
	return true
}

func (l *loop) deadAt() time.Time {
	at := l.conn.lastRead().Add(time.Duration(silentIntervals * float64(l.heartbeat)))
	if l.graceUntil.After(at) {
		return l.graceUntil
	}
	return at
}

// beat asks the peer for a sign of life.
func (l *loop) beat() {
	if !due(l.pingAt, l.now) {
		return
	}
	l.pingAt = l.now.Add(l.heartbeat)
	switch l.c.cfg.traits.Ping {
	case wire.PingOp:
		l.ops = append(l.ops, wire.Op{Kind: wire.OpPing, N: l.conn.gen})
	case wire.PingControl:
		if l.pinging {
			return
		}
		l.pinging = true
		k := l.conn
		l.c.spawn(&l.c.workers, func() {
			_ = k.ping() // its failure is the reader's to tell
			l.c.inbox.post(ponged{k})
		})
	}
}

// settleDown forgets earlier failures once the connection has proved itself.
func (l *loop) settleDown() {
	if l.stable || !l.ready {
		return
	}
	early := l.acked && !l.now.Before(l.stableAt.Add(-l.c.cfg.Backoff.StableAfter*5/6))
	if !early && !due(l.stableAt, l.now) {
		return
	}
	l.stable = true
	l.policy.reset()
	l.strikes = 0
}

// askAgain takes up the subscriptions whose refusal was not final.
func (l *loop) askAgain() {
	if !due(l.retryAt, l.now) {
		return
	}
	l.retryAt = time.Time{}
	for _, s := range l.registry.subs {
		switch {
		case s.retry.IsZero() || s.asked:
		case due(s.retry, l.now):
			s.retry = time.Time{}
			l.ask = append(l.ask, s)
		case l.retryAt.IsZero() || s.retry.Before(l.retryAt):
			l.retryAt = s.retry
		}
	}
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// arm returns how long until something is due. There is one timer a client.
func (l *loop) arm() time.Duration {
	next := time.Time{}
	at := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	at(l.window.nextExpiry)
	if max := l.c.cfg.Backoff.MaxElapsed; max > 0 && !l.lost.IsZero() {
		at(l.lost.Add(max))
	}
	if l.state.Phase == Waiting {
		at(l.wakeAt)
	}
	if l.conn != nil {
		if l.again && !l.writing {
			at(l.now)
		}
		at(l.handshakeBy)
		at(l.closeBy)
		at(l.retryAt)
		if l.ready {
			at(l.pingAt)
			at(l.deadAt())
			if !l.stable {
				at(l.stableAt)
				if early := l.stableAt.Add(-l.c.cfg.Backoff.StableAfter * 5 / 6); l.acked {
					at(early)
				}
			}
		}
		if l.writing {
			at(later(l.conn.lastWrote(), l.writeSince).Add(stallTimeout))
		}
	}
	l.armed = next
	if next.IsZero() {
		return forever
	}
	return max(0, next.Sub(l.now))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
