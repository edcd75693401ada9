package limpet

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// quietTime is how long nothing was received at a moment that is quiet enough to leave a
// connection.
const quietTime = time.Second

// planRenewal chooses when to leave a connection that begins now for its age. Clients that
// began together do not leave together.
func (l *loop) planRenewal(k *link) {
	age := l.c.cfg.traits.Connection.Age
	if age == 0 {
		return
	}
	last := min(age/10, time.Hour)
	k.renewAt = l.now.Add(age - last + uniform(last/2))
	k.renewBy = l.now.Add(age - last/4)
}

// leavePatience is how long a quiet moment is waited for when the server asks for a new
// connection.
const leavePatience = 3 * time.Second

// planLeaving follows when the server asks for a new connection. If it names a time, it ends
// this one by itself.
func (l *loop) planLeaving(k *link, ev *wire.Event) {
	if ev.Delay <= 0 && ev.Spread <= 0 {
		k.renewAt, k.renewBy, k.goAway = l.now, l.now.Add(leavePatience), true
	}
}

// renewInTime makes a new connection before the server ends this one for its age, or because
// it asks for that: at once and without a failure, at a quiet moment if there is one.
func (l *loop) renewInTime(k *link) {
	switch {
	case !k.ready || !due(k.renewAt, l.now):
		return
	case l.shuttingDown || l.goAwayUntil.After(l.now):
		k.renewAt = time.Time{} // it ends anyway
		return
	case !due(k.renewBy, l.now) && !l.isQuiet(k):
		k.renewAt = l.now.Add(min(quietTime, k.renewBy.Sub(l.now)))
		return
	}
	why := ErrConnectionAge
	if k.goAway {
		why = ErrGoAway
	}
	l.state.Cause = &Error{Op: "open", Class: ClassOther, Err: why}
	l.disconnect(k, l.c.cfg.closeCode(), "")
	l.disconnectedAt = l.now
	if k.goAway {
		l.endpoints.list.Avoid(k.endpoint, l.now)
		l.tryAgain(decision{Verdict: wire.Verdict{Action: wire.ActionRetryNow}}) // it may ask on each connection
		return
	}
	l.scheduleAttempt(0)
}

// isQuiet reports whether nothing is in progress on k.
func (l *loop) isQuiet(k *link) bool {
	waits := len(k.ops) + len(k.toAsk) + k.unanswered.Len() + l.window.pending
	return waits == 0 && !k.writing && k.stream == nil && k.unwritten.frames == nil && !k.conn.Receiving() && l.now.Sub(k.conn.LastRead()) >= quietTime
}
