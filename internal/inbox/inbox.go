// Package inbox carries events to the one goroutine that handles them.
package inbox

import "sync"

// Inbox carries events to their owner, and starts it when it rests. Its lock is a leaf.
type Inbox[E any] struct {
	start func()

	mu      sync.Mutex
	arrived sync.Cond
	events  []E
	resting bool // the owner has no goroutine
	closed  bool
}

// Init makes the zero Inbox ready. Its owner rests: start is called on a new goroutine when
// an event comes.
func (b *Inbox[E]) Init(start func()) {
	b.start, b.resting = start, true
	b.arrived.L = &b.mu
}

// Post reports whether the owner will see e. It never blocks.
func (b *Inbox[E]) Post(e E) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.events = append(b.events, e)
	resting := b.resting
	b.resting = false
	b.mu.Unlock()
	if resting {
		go b.start()
	} else {
		b.arrived.Signal()
	}
	return true
}

// Await blocks until there are events and returns their number.
func (b *Inbox[E]) Await() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.events) == 0 {
		b.arrived.Wait()
	}
	return len(b.events)
}

// Take swaps the waiting events for an empty slice.
func (b *Inbox[E]) Take(empty []E) []E {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = empty
	return events
}

// Rest reports whether no event waits. Then the goroutine of the owner must end, and the
// next event starts a new one.
func (b *Inbox[E]) Rest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.events) > 0 {
		return false
	}
	b.events, b.resting = nil, true
	return true
}

// Close returns the events that are still waiting. No more come.
func (b *Inbox[E]) Close() []E {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.events
}
