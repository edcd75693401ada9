package limpet

import (
	"runtime"
	"sync"
	"time"
)

// inbox carries events to the loop, and starts it when it rests. Its lock is a
// leaf.
type inbox struct {
	start func()

	mu      sync.Mutex
	came    sync.Cond
	events  []event
	resting bool // the loop has no goroutine
	closed  bool
}

// post reports whether the loop will see e.
func (b *inbox) post(e event) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.events = append(b.events, e)
	start := b.resting
	b.resting = false
	b.mu.Unlock()
	if start {
		go b.start()
	} else {
		b.came.Signal()
	}
	return true
}

// wait blocks until there are events and says how many.
func (b *inbox) wait() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.events) == 0 {
		b.came.Wait()
	}
	return len(b.events)
}

// take swaps the waiting events against an empty slice.
func (b *inbox) take(empty []event) []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = empty
	return events
}

// rest reports whether nothing waits. Then the next event starts the loop
// anew, and its goroutine must end.
func (b *inbox) rest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.events) > 0 {
		return false
	}
	b.events, b.resting = nil, true
	return true
}

func (b *inbox) close() []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.events
}

// gather waits for events. It lets those run who were told an outcome, for as
// long as they publish: what they have to say then leaves together. One alone
// is not waited for, and where the processor is busy with others nobody is for
// long.
func (l *loop) gather() {
	n, woken := l.c.inbox.wait(), l.window.woken
	if l.window.woken = 0; woken < 2 {
		return
	}
	for began := time.Now(); n < woken && time.Since(began) < gatherAtMost; {
		runtime.Gosched()
		more := l.c.inbox.wait()
		if more == n {
			return
		}
		n = more
	}
}

const gatherAtMost = time.Millisecond
