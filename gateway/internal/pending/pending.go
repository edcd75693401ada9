// Package pending knows how many calls are in progress, and for how long.
package pending

import (
	"sync"
	"time"
)

// Calls are the calls of one kind. The zero value is ready. It is safe for concurrent use.
type Calls struct {
	mu    sync.Mutex // leaf
	count int
	base  time.Time     // when the first of all began
	since time.Duration // of those in progress: their beginnings after base, together
}

// Begin notes a call that began at the given time, and returns what notes its end.
func (c *Calls) Begin(began time.Time) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.IsZero() {
		c.base = began
	}
	after := began.Sub(c.base)
	c.count++
	c.since += after
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.count--
		c.since -= after
	}
}

// Now returns how many calls are in progress, and for how long they have been, on average.
func (c *Calls) Now(now time.Time) (count int, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		return 0, 0
	}
	return c.count, max(0, now.Sub(c.base)-c.since/time.Duration(c.count))
}
