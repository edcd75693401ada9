package histogram

import (
	"sync"
	"time"
)

// Outages counts outages. Its fields are read together: their sums must not fall. Its
// lock is a leaf.
type Outages struct {
	mu    sync.Mutex
	count uint64
	past  time.Duration // how long those lasted that are over
	since time.Time     // when the one that lasts now began; zero: none
}

// Begin counts an outage that began at now.
func (o *Outages) Begin(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count++
	o.since = now
}

// End ends the outage and returns how long it lasted. It reads the clock under the lock: a
// reader may have seen the outage a moment ago.
func (o *Outages) End() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	took := time.Since(o.since)
	o.past += took
	o.since = time.Time{}
	return took
}

// Load returns the number of outages, how long the one that lasts now has lasted, and how
// long all lasted together.
func (o *Outages) Load() (count uint64, current, all time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		current = time.Since(o.since)
	}
	return o.count, current, o.past + current
}
