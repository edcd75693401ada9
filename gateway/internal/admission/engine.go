package admission

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Work is what an engine says of its work: how much of it has ended since it was opened, and what is in progress. Its counts never fall.
type Work struct {
	Commits, Syncs       uint64 // calls that have ended
	CommitTime, SyncTime time.Duration

	Pending     int           // calls in progress
	PendingTime time.Duration // for how long they have been, on average

	Head uint64 // offset of the newest message of the gateway
	Lag  uint64 // by how much that of the engine is greater
}

const (
	busyLooks = 2 // in a row that find the engine over its budget: no new connections from then on
	calmLooks = 4 // in a row that find it below half of that: new ones again
)

// budget is whether the engine may get more connections.
type budget struct {
	limit time.Duration // 0: it always may

	mu     sync.Mutex // leaf
	busy   bool
	looks  int // in a row that speak for the other state
	before Work
	moved  time.Time // when Head has changed, or Lag was 0
	looked time.Time
	seen   bool
}

// Look takes up the work of the engine, which the caller reads about twice a second. The engine is over its budget if Commits or Syncs, or
// the way to the newest message, take longer than Limits.EngineBudget. What is in progress counts, too: an engine that stands still
// ends no call. changed reports whether connections are refused from now on, or are taken again; why says which figure decides.
func (a *Admission) Look(w Work, now time.Time) (changed, busy bool, why string) {
	b := &a.budget
	if b.limit == 0 {
		return false, false, ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	longest, why := b.longest(w, now)
	b.before, b.looked, b.seen = w, now, true
	against, needed := longest > b.limit, busyLooks
	if b.busy {
		against, needed = longest < b.limit/2, calmLooks
	}
	if !against {
		b.looks = 0
		return false, b.busy, why
	}
	if b.looks++; b.looks < needed {
		return false, b.busy, why
	}
	b.busy, b.looks = !b.busy, 0
	return true, b.busy, why
}

// longest returns the longest of the times that count, and its name.
func (b *budget) longest(w Work, now time.Time) (longest time.Duration, why string) {
	most := func(d time.Duration, what string) {
		if d > longest || why == "" {
			longest, why = d, fmt.Sprintf("%s: %v", what, d.Round(time.Millisecond))
		}
	}
	if n := w.Commits - b.before.Commits; n > 0 && b.seen {
		most((w.CommitTime-b.before.CommitTime)/time.Duration(n), "commits took")
	}
	if n := w.Syncs - b.before.Syncs; n > 0 && b.seen {
		most((w.SyncTime-b.before.SyncTime)/time.Duration(n), "syncs took")
	}
	if w.Pending > 0 {
		most(w.PendingTime, "calls in progress")
	}
	if w.Lag == 0 || !b.seen || w.Head != b.before.Head {
		b.moved = now
	}
	switch passed := now.Sub(b.looked); {
	case w.Lag == 0:
	case b.seen && w.Head > b.before.Head:
		// The time until the newest message is there, at this rate.
		rate := float64(w.Head-b.before.Head) / passed.Seconds()
		most(time.Duration(min(float64(w.Lag)/rate, maxWait.Seconds())*float64(time.Second)), "messages to catch up with")
	default:
		most(now.Sub(b.moved), "no message has come for")
	}
	return longest, why
}

// Busy reports whether new connections are refused, because the engine is over its budget.
func (a *Admission) Busy() bool {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	return a.budget.busy
}

// later returns when a client that is refused should come back: in its slot, and not with others of the same slot.
func (a *Admission) later() time.Duration {
	slot := min(max(a.slots.Reserve().Delay(), minLater), maxWait)
	return min(slot+rand.N(slot), maxWait)
}

// minLater is the least time in Retry-After while the engine is over its budget.
const minLater = time.Second
