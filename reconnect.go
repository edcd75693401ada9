package limpet

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/limpet-go/limpet/internal/verdict"
)

// The fixed numbers of docs/reconnect.md.
const (
	minBetweenAttempts = 100 * time.Millisecond // between the starts of two attempts
	maxSpread          = 5 * time.Minute        // of the server's reconnect window
	maxDialTimeout     = time.Minute
	longOutageFailures = 20               // in a row; from then on the cap is four times as high
	handshakeTimeout   = 10 * time.Second // of the first handshake
	maxHeartbeat       = time.Hour        // that a server may announce
	refusalMemory      = time.Minute      // a second refused credential within it is permanent
)

// policy decides when to try again (docs/reconnect.md, section 1). It belongs
// to the loop.
type policy struct {
	options          Backoff
	firstDialTimeout time.Duration
	dialTimeout      time.Duration               // of the next attempt
	handshakeTimeout time.Duration               // of the next connection, from the upgrade to Ready
	failures         int                         // losses and failed attempts in a row
	exponential      *backoff.ExponentialBackOff // nil before the first failure
}

func newPolicy(o Backoff, dialTimeout time.Duration) policy {
	p := policy{options: o, firstDialTimeout: dialTimeout, handshakeTimeout: handshakeTimeout}
	p.forgetFailures()
	return p
}

// forgetFailures resets the policy, once a connection is stable.
func (p *policy) forgetFailures() {
	p.failures = 0
	p.dialTimeout = p.firstDialTimeout
	p.exponential = nil
}

// newExponential draws U(v/2, v), where v grows from initial to limit. The
// library caps the interval before it randomises, so its interval is 3/4 v. It
// must never give up on its own (MaxElapsedTime 0).
func newExponential(initial, limit time.Duration, multiplier float64) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(initial*3/4),
		backoff.WithMaxInterval(limit*3/4),
		backoff.WithMultiplier(multiplier),
		backoff.WithRandomizationFactor(1.0/3),
		backoff.WithMaxElapsedTime(0),
	)
}

// delayBound returns v for the current number of failures, before any reconnect
// window.
func (p *policy) delayBound() time.Duration {
	if p.failures >= longOutageFailures {
		return 4 * p.options.Max
	}
	v := float64(p.options.Initial)
	for i := 1; i < p.failures && v < float64(p.options.Max); i++ {
		v *= p.options.Multiplier
	}
	return min(p.options.Max, time.Duration(v))
}

// countFailure counts one more failure, or as many as it takes to reach floor.
// The library's interval grows with the count, whether its draw is used or not.
func (p *policy) countFailure(floor int) (draw time.Duration) {
	for more := max(1, floor-p.failures); more > 0; more-- {
		switch p.failures++; {
		case p.failures == longOutageFailures:
			p.exponential = newExponential(4*p.options.Max, 4*p.options.Max, p.options.Multiplier)
		case p.exponential == nil:
			p.exponential = newExponential(p.options.Initial, p.options.Max, p.options.Multiplier)
		}
		draw = p.exponential.NextBackOff()
	}
	return draw
}

// nextDelay counts one more failure and draws the wait before the next attempt.
// A slot given by the server replaces the draw; the wait is never shorter than
// the slot.
func (p *policy) nextDelay(d verdict.Decision, spread time.Duration) time.Duration {
	draw := p.countFailure(d.MinFailures)
	v := p.delayBound()
	if d.AtCap {
		v = max(v, p.options.Max)
	}
	spread = min(spread, maxSpread)
	switch {
	case d.After > 0:
		return d.After + uniform(max(d.After/10, d.SlotWindow))
	case p.failures == 1 && !d.AtCap && p.options.First < 0 && spread == 0:
		return 0
	case p.failures == 1 && !d.AtCap:
		return uniform(max(p.options.First, spread))
	case v < spread:
		return spread/2 + uniform(spread/2)
	case d.AtCap:
		return v/2 + uniform(v/2)
	}
	return draw
}

// extendDialTimeout gives the next attempt more time. Otherwise a server whose
// accept queue is longer than the timeout would never serve any client.
func (p *policy) extendDialTimeout() {
	p.dialTimeout = max(p.firstDialTimeout, min(maxDialTimeout, p.dialTimeout*16/10))
}

// extendHandshakeTimeout does the same for a server that is slow to complete the
// handshake.
func (p *policy) extendHandshakeTimeout() {
	p.handshakeTimeout = min(maxDialTimeout, p.handshakeTimeout*16/10)
}

// uniform draws from [0, d].
func uniform(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Uint64N(uint64(d) + 1))
}

// OutageEnded reports that everything that was live when a connection was lost is live
// again: the connection and each subscription that has not ended. See Stats.Outages.
type OutageEnded struct {
	// Duration is how long it took.
	Duration time.Duration
	// Attempts is the number of attempts to connect.
	Attempts int
	// Gaps is the number of gaps and resets that were reported by then, Missed the number of
	// messages missing in them, as far as it is known.
	Gaps   uint64
	Missed uint64
	// Unproved is the number of subscriptions for which the server has not proved that
	// nothing else is missing: a loss may show with their next message.
	Unproved int
}

func (e OutageEnded) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{
		slog.Duration("after", e.Duration.Round(time.Millisecond)), slog.Int("attempts", e.Attempts),
		slog.Uint64("gaps", e.Gaps), slog.Uint64("missed", e.Missed)}
	if e.Unproved > 0 {
		attrs = append(attrs, slog.Int("unproved", e.Unproved))
	}
	return slog.LevelInfo, "limpet: live again", attrs
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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
			c.outages.begin(l.now)
		}
	}
	for s := range l.registry.all() {
		if !s.inOutage && s.state.Load().Phase == SubLive {
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
	took := c.outages.end()
	if !live {
		return
	}
	if h := c.measured; h != nil {
		h.recovery.Add(took, 1)
	}
	l.c.notify.post(OutageEnded{took, int(c.attempts.Load() - o.attempts), o.gaps, o.missed, o.unproved})
}
