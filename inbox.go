package limpet

import "sync"

// inbox carries events to the loop, and starts it when it rests. Its lock is a
// leaf.
type inbox struct {
	startLoop func()

	mu      sync.Mutex
	arrived sync.Cond
	events  []event
	resting bool // the loop has no goroutine
	closed  bool
}

// post reports whether the loop will see e. It never blocks.
func (b *inbox) post(e event) bool {
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
		go b.startLoop()
	} else {
		b.arrived.Signal()
	}
	return true
}

// await blocks until there are events and returns their number.
func (b *inbox) await() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.events) == 0 {
		b.arrived.Wait()
	}
	return len(b.events)
}

// take swaps the waiting events for an empty slice.
func (b *inbox) take(empty []event) []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = empty
	return events
}

// rest reports whether no event waits. Then the goroutine of the loop must end,
// and the next event starts a new one.
func (b *inbox) rest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.events) > 0 {
		return false
	}
	b.events, b.resting = nil, true
	return true
}

// close returns the events that are still waiting. No more come.
func (b *inbox) close() []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.events
}
