// Package histogram counts durations: in fixed buckets, and those of outages.
package histogram

import (
	"math"
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of the buckets. Above the last one is one more bucket.
var Bounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute,
	2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
	30 * time.Minute, time.Hour,
}

// Buckets is the number of buckets.
const Buckets = len(Bounds) + 1

// Histogram counts durations. The zero Histogram is empty; a nil one counts nothing. It is
// safe for concurrent use and has no lock: a reader may see a duration in its bucket before
// it is in the sum.
type Histogram struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Uint64 // in seconds, the bits of a float64: a count of nanoseconds would overflow
}

// Add counts n durations of d. A negative d counts as 0.
func (h *Histogram) Add(d time.Duration, n uint64) {
	if h == nil || n == 0 {
		return
	}
	d = max(d, 0)
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h.counts[i].Add(n)
	more := d.Seconds() * float64(n)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+more)) {
			return
		}
	}
}

// Load returns the number of durations in each bucket, their number and their sum in
// seconds.
func (h *Histogram) Load() (buckets [Buckets]uint64, count uint64, sum float64) {
	if h == nil {
		return
	}
	for i := range buckets {
		buckets[i] = h.counts[i].Load()
		count += buckets[i]
	}
	return buckets, count, math.Float64frombits(h.sum.Load())
}
