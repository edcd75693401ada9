// Package pace says when the next of many things may happen.
package pace

import (
	"math"
	"time"
)

// Bucket is a token bucket: it begins full, with burst tokens, and gets rate tokens a
// second until it is full again. Each thing that happens takes a token. The zero Bucket
// has no limit. A Bucket is not safe for concurrent use.
//
// It has no clock: each method takes the time. A time before that of an earlier call
// counts as the time of that call. Times with a monotonic reading are compared by it.
type Bucket struct {
	rate   float64 // tokens a second; 0: no limit
	burst  float64
	tokens float64 // at the time at; negative: a debt
	at     time.Time
}

// New returns a full bucket. A burst below 1 counts as 1, since nothing could pass
// otherwise. A rate that is not a positive number makes a bucket without a limit, and so
// does an infinite one: a caller refuses those that it does not want.
func New(rate float64, burst int) Bucket {
	if !(rate > 0) || math.IsInf(rate, 1) {
		return Bucket{}
	}
	return Bucket{rate: rate, burst: float64(max(burst, 1)), tokens: float64(max(burst, 1))}
}

// limited reports whether b has a limit.
func (b *Bucket) limited() bool { return b.rate > 0 }

// tolerance is the part of a token that rounding may lose: Available after Wait is
// never 0.
const tolerance = 1e-9

// Available returns how many tokens there are, 0 if there is a debt, and math.MaxInt
// without a limit.
func (b *Bucket) Available(now time.Time) int {
	if !b.limited() {
		return math.MaxInt
	}
	b.fill(now)
	return max(0, int(b.tokens+tolerance))
}

// Take takes n tokens. If there are fewer, they become a debt, which Available and Wait
// respect.
func (b *Bucket) Take(now time.Time, n int) {
	if !b.limited() {
		return
	}
	b.fill(now)
	b.tokens -= float64(n)
}

// Change changes the rate and the burst, as New takes them. What b holds stays, at most the
// burst, and a debt too. A bucket that had no limit is empty then.
func (b *Bucket) Change(now time.Time, rate float64, burst int) {
	before := *b
	*b = New(rate, burst)
	if !b.limited() {
		return
	}
	b.at, b.tokens = now, 0
	if before.limited() {
		before.fill(now)
		b.at, b.tokens = before.at, min(before.tokens, b.burst)
	}
}

// Wait returns how long it takes until there is a token; 0 if there is one, and at most
// a year.
func (b *Bucket) Wait(now time.Time) time.Duration {
	if b.Available(now) > 0 {
		return 0
	}
	return time.Duration(math.Ceil(min((1-b.tokens)/b.rate, maxWait.Seconds()) * float64(time.Second)))
}

const maxWait = 365 * 24 * time.Hour

// fill adds what has come since the last call.
func (b *Bucket) fill(now time.Time) {
	if b.at.IsZero() {
		b.at = now
	}
	passed := now.Sub(b.at)
	if passed <= 0 {
		return
	}
	b.at = now
	b.tokens = min(b.burst, b.tokens+passed.Seconds()*b.rate)
}
