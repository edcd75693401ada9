package limpet

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-go/limpet/wire"
)

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

// broke ends the present connection; a fatal error frame speaks where no close
// frame did.
func (l *loop) broke(code uint16, reason string, err error) {
	f := &wire.Failure{Stage: wire.StageOpen, Code: code, Reason: reason, Err: err}
	if !l.ready {
		f.Stage = wire.StageHandshake
	}
	if l.last != nil {
		f.Retry = l.last.Retry
		if code == 0 {
			f.Code, f.Reason = l.last.Code, l.last.Reason
		}
	}
	l.fail(f)
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

// fail ends an attempt or the present connection and decides what comes next.
func (l *loop) fail(f *wire.Failure) {
	f.Attempt = l.policy.k + 1
	d := judge(l.c.cfg.Dialect, f)
	why := cause(f, d)
	l.state.Cause = why
	if d.TooBig && l.ready {
		l.window.tooBig()
	}
	l.disconnect(0, "")
	if l.lost.IsZero() {
		l.lost = l.now
	}
	if d.strike {
		if now := l.positions(); l.strikes > 0 && now == l.progress {
			l.strikes++
		} else {
			l.strikes, l.progress = 1, now
		}
		if l.strikes >= maxStrikes {
			l.end(&PermanentError{d.class, why})
			return
		}
	}
	if l.goAway > 0 {
		d.After, d.window = max(d.After, l.goAway), l.spread
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
	sum := l.window.lo
	for _, s := range l.registry.subs {
		s.queue.mu.Lock()
		sum += s.queue.received + s.queue.gaps + s.queue.resets
		s.queue.mu.Unlock()
	}
	return sum
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
	l.window.lost()
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
