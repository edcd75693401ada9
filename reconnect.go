package limpet

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Phase is what a client is doing.
type Phase uint8

const (
	Connecting  Phase = iota // name resolution, TCP, TLS, upgrade
	Handshaking              // upgraded; the wire language's handshake
	Ready                    // messages flow
	Waiting                  // before the next attempt: see State.NextAttempt
	Ended                    // for good: see Client.Err
)

func (p Phase) String() string {
	switch p {
	case Connecting:
		return "connecting"
	case Handshaking:
		return "handshaking"
	case Ready:
		return "ready"
	case Waiting:
		return "waiting"
	case Ended:
		return "ended"
	}
	return "phase ?"
}

// State is the state of a client at one moment.
type State struct {
	Phase       Phase
	Draining    bool   // Shutdown was called
	Generation  uint64 // connections upgraded so far; the number of the present one
	Since       time.Time
	Cause       error     // why the last connection or attempt failed; nil before the first failure
	Attempt     int       // attempts since the last stable connection
	NextAttempt time.Time // Waiting: when
	Resumed     bool      // Ready: the server knew the session
}

const (
	minBetweenAttempts = 100 * time.Millisecond
	maxSpread          = 5 * time.Minute
	maxDialTimeout     = time.Minute
	longAfter          = 20 // failures in a row after which the cap is four times as high
	handshakeTimeout   = 10 * time.Second
	refreshOnce        = time.Minute // a second refusal within it is final
	silentIntervals    = 2.5         // heart-beats without a received byte: dead
)

// policy decides when to try again (docs/reconnect.md, section 1). It belongs
// to the loop.
type policy struct {
	o           Backoff
	first       time.Duration               // dial timeout before any attempt timed out
	k           int                         // losses and failed attempts in a row
	exponential *backoff.ExponentialBackOff // nil before the first failure
	dialTimeout time.Duration
}

func newPolicy(o Backoff, dialTimeout time.Duration) policy {
	p := policy{o: o, first: dialTimeout}
	p.reset()
	return p
}

// reset begins anew: the connection was stable.
func (p *policy) reset() {
	p.k = 0
	p.dialTimeout = p.first
	p.exponential = nil
}

// exponential draws U(v/2, v) where v grows from initial to limit: the library
// caps the interval before it randomises, so its interval is 3/4 v. It must
// never give up by itself (MaxElapsedTime 0).
func exponential(initial, limit time.Duration, multiplier float64) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(initial*3/4),
		backoff.WithMaxInterval(limit*3/4),
		backoff.WithMultiplier(multiplier),
		backoff.WithRandomizationFactor(1.0/3),
		backoff.WithMaxElapsedTime(0),
	)
}

// bound is v of the k-th failure, before any reconnect window.
func (p *policy) bound() time.Duration {
	if p.k >= longAfter {
		return 4 * p.o.Max
	}
	v := float64(p.o.Initial)
	for i := 1; i < p.k && v < float64(p.o.Max); i++ {
		v *= p.o.Multiplier
	}
	return min(p.o.Max, time.Duration(v))
}

// failed counts one more failure, and so many at least as floor says. The
// library's interval grows with the count, whether its draw is used or not.
func (p *policy) failed(floor int) (draw time.Duration) {
	for more := max(1, floor-p.k); more > 0; more-- {
		switch p.k++; {
		case p.k == longAfter:
			p.exponential = exponential(4*p.o.Max, 4*p.o.Max, p.o.Multiplier)
		case p.exponential == nil:
			p.exponential = exponential(p.o.Initial, p.o.Max, p.o.Multiplier)
		}
		draw = p.exponential.NextBackOff()
	}
	return draw
}

// next counts one more failure and draws the wait before the next attempt. A
// slot given by the server replaces the draw and is never undercut.
func (p *policy) next(d decision, spread time.Duration) time.Duration {
	draw := p.failed(d.minFailures)
	v := p.bound()
	if d.atCap {
		v = max(v, p.o.Max)
	}
	spread = min(spread, maxSpread)
	switch {
	case d.After > 0:
		return d.After + uniform(max(d.After/10, d.slotWindow))
	case p.k == 1 && !d.atCap && p.o.First < 0 && spread == 0:
		return 0
	case p.k == 1 && !d.atCap:
		return uniform(max(p.o.First, spread))
	case v < spread:
		return spread/2 + uniform(spread/2)
	case d.atCap:
		return v/2 + uniform(v/2)
	}
	return draw
}

// timedOut gives the next attempt more time: a queue at the server that is
// longer than our patience must not starve everybody.
func (p *policy) timedOut() {
	p.dialTimeout = max(p.first, min(maxDialTimeout, p.dialTimeout*16/10))
}

// uniform draws from [0, d].
func uniform(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Uint64N(uint64(d) + 1))
}
