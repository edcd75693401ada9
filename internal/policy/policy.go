// Package policy decides how long a client waits before it tries again (docs/reconnect.md, section 1).
package policy

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/limpet-go/limpet/internal/verdict"
)

// The fixed numbers of docs/reconnect.md that are about waiting.
const (
	MaxSpread        = 5 * time.Minute  // of the server's reconnect window
	HandshakeTimeout = 10 * time.Second // of the first handshake

	maxDialTimeout     = time.Minute
	longOutageFailures = 20                     // in a row; from then on the cap is four times as high
	maxPlaceShift      = 250 * time.Millisecond // by which a client comes before its place in the next window
	minSpreadOfWait    = 500 * time.Millisecond // over which the wait of a herd is drawn, at least
)

// Backoff is what limpet.Backoff says of the waits.
type Backoff struct {
	First, Initial, Max time.Duration
	Multiplier          float64
}

// Policy decides when to try again. It belongs to the loop. The defaults of Backoff, such as the
// first delay, are in config.go of the client.
type Policy struct {
	FirstDialTimeout time.Duration
	DialTimeout      time.Duration // of the next attempt
	HandshakeTimeout time.Duration // of the next connection, from the upgrade to Ready
	Failures         int           // losses and failed attempts in a row

	options     Backoff
	exponential *backoff.ExponentialBackOff // nil before the first failure
	place       time.Time                   // of the next attempt in the reconnect window; zero: it has none
}

// New returns the policy of a client before its first attempt.
func New(o Backoff, dialTimeout time.Duration) Policy {
	p := Policy{options: o, FirstDialTimeout: dialTimeout, HandshakeTimeout: HandshakeTimeout}
	p.ForgetFailures()
	return p
}

// ForgetFailures resets the policy, once a connection is stable.
func (p *Policy) ForgetFailures() {
	p.Failures = 0
	p.DialTimeout = p.FirstDialTimeout
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
func (p *Policy) delayBound() time.Duration {
	if p.Failures >= longOutageFailures {
		return 4 * p.options.Max
	}
	v := float64(p.options.Initial)
	for i := 1; i < p.Failures && v < float64(p.options.Max); i++ {
		v *= p.options.Multiplier
	}
	return min(p.options.Max, time.Duration(v))
}

// CountFailure counts one more failure, or as many as it takes to reach floor.
// The library's interval grows with the count, whether its draw is used or not.
func (p *Policy) CountFailure(floor int) (draw time.Duration) {
	for more := max(1, floor-p.Failures); more > 0; more-- {
		switch p.Failures++; {
		case p.Failures == longOutageFailures:
			p.exponential = newExponential(4*p.options.Max, 4*p.options.Max, p.options.Multiplier)
		case p.exponential == nil:
			p.exponential = newExponential(p.options.Initial, p.options.Max, p.options.Multiplier)
		}
		draw = p.exponential.NextBackOff()
	}
	return draw
}

// NextDelay counts one more failure and draws the wait before the next attempt.
// A slot given by the server replaces the draw; the wait is never shorter than
// the slot.
func (p *Policy) NextDelay(d verdict.Decision, spread time.Duration, now time.Time) time.Duration {
	place := p.place
	p.place = time.Time{}
	draw := p.CountFailure(d.MinFailures)
	v := p.delayBound()
	if d.AtCap {
		v = max(v, p.options.Max)
	}
	spread = min(spread, MaxSpread)
	switch {
	case d.After > 0:
		return d.After + Uniform(max(d.After/10, d.SlotWindow))
	case p.Failures == 1 && !d.AtCap && p.options.First < 0 && spread == 0:
		return 0
	case p.Failures == 1 && !d.AtCap:
		return p.take(now, Uniform(max(p.options.First, spread)))
	case v < spread:
		if wait := nextPlace(place, spread).Sub(now); !place.IsZero() && wait >= spread/2 && wait <= spread {
			return p.take(now, wait)
		}
		return spread/2 + Uniform(spread/2)
	case d.AtCap:
		return v/2 + Uniform(v/2)
	case spread > 0:
		return v/2 + Uniform(min(v/2, max(spread, minSpreadOfWait)))
	}
	return draw
}

// take makes the end of a wait the place of this client in the reconnect window.
func (p *Policy) take(now time.Time, wait time.Duration) time.Duration {
	p.place = now.Add(wait)
	return wait
}

// nextPlace returns the place that follows in the next window. A herd that keeps its places
// comes no faster than in the first window, whenever the server is there again; with another
// draw, those of two windows would come together. The shift is for a client whose place is
// always a bad moment.
func nextPlace(place time.Time, window time.Duration) time.Time {
	return place.Add(window - Uniform(min(window/10, maxPlaceShift)))
}

// ExtendDialTimeout gives the next attempt more time. Otherwise a server whose
// accept queue is longer than the timeout would never serve any client.
func (p *Policy) ExtendDialTimeout() {
	p.DialTimeout = max(p.FirstDialTimeout, min(maxDialTimeout, p.DialTimeout*16/10))
}

// ExtendHandshakeTimeout does the same for a server that is slow to complete the
// handshake.
func (p *Policy) ExtendHandshakeTimeout() {
	p.HandshakeTimeout = min(maxDialTimeout, p.HandshakeTimeout*16/10)
}

// Uniform draws from [0, d].
func Uniform(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Uint64N(uint64(d) + 1))
}
