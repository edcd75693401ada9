// Package dispatch passes events and other values to code of the user's, which may be slow, panic
// or end its goroutine.
package dispatch

import "sync"

// Queue passes events to one receiver, in order, on a goroutine of its own. It holds at most
// maxEvents: then the oldest are lost, and the receiver gets one event that says how many.
// Its lock is a leaf.
type Queue[E any] struct {
	receive func(E)
	lost    func(n uint64) E
	wake    chan struct{}
	taken   []E // owned by Run

	mu      sync.Mutex
	events  []E
	dropped uint64 // since the last event that says so
	ended   bool
}

const maxEvents = 1024

// New returns a queue. lost makes the event for n lost ones. Run must be called once.
func New[E any](receive func(E), lost func(n uint64) E) *Queue[E] {
	return &Queue[E]{receive: receive, lost: lost, wake: make(chan struct{}, 1)}
}

// Post never blocks.
func (q *Queue[E]) Post(e E) {
	q.mu.Lock()
	if len(q.events) >= maxEvents {
		q.events = q.events[1:]
		q.dropped++
	}
	q.events = append(q.events, e)
	q.mu.Unlock()
	q.wakeUp()
}

// End makes Run return once it has passed on what is waiting.
func (q *Queue[E]) End() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.wakeUp()
}

func (q *Queue[E]) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run passes on events until the queue has ended. If the receiver calls
// runtime.Goexit, a new goroutine continues.
func (q *Queue[E]) Run() {
	finished := false
	defer func() {
		if !finished {
			go q.Run()
		}
	}()
	for {
		for len(q.taken) > 0 {
			e := q.taken[0]
			q.taken = q.taken[1:]
			q.dispatch(e)
		}
		if q.take() {
			finished = true
			return
		}
		if len(q.taken) == 0 {
			<-q.wake
		}
	}
}

// take takes what was posted. It reports true when there is nothing left and the
// queue has ended.
func (q *Queue[E]) take() (finished bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken, q.events = q.events, nil
	if q.dropped > 0 {
		q.taken = append([]E{q.lost(q.dropped)}, q.taken...)
		q.dropped = 0
	}
	return q.ended && len(q.taken) == 0
}

// dispatch calls user code. A panic in it must not end the process, and there is
// no other place to report it.
func (q *Queue[E]) dispatch(e E) {
	defer func() { _ = recover() }()
	q.receive(e)
}
