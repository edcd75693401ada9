package tasks

import "time"

// WakeRate reports whether a goroutine wakes often enough to be worth keeping.
// One that wakes rarely ends, and a new goroutine waits instead, or none: the
// runtime never shrinks a stack back to its first size, and the memory of many
// idle clients is mostly stacks (docs/decisions/0007).
type WakeRate struct {
	last  time.Time
	count int // of wake-ups in a row, each at most maxInterval after the one before
}

const (
	maxInterval = 100 * time.Millisecond
	minWakes    = 32 // more than connecting takes
)

// Frequent counts one more wake-up, at now.
func (w *WakeRate) Frequent(now time.Time) bool {
	if now.Sub(w.last) > maxInterval {
		w.count = 0
	}
	w.last = now
	w.count++
	return w.count > minWakes
}
