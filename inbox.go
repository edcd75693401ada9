package limpet

import "sync"

// inbox carries events to the loop. Its lock is a leaf.
type inbox struct {
	wake chan struct{} // 1 slot

	mu     sync.Mutex
	events []event
	closed bool
}

// post reports whether the loop will see e.
func (b *inbox) post(e event) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.events = append(b.events, e)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take swaps the waiting events against an empty slice.
func (b *inbox) take(empty []event) []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = empty
	return events
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.events)
}

func (b *inbox) close() []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.events
}
