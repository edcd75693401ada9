package schedule

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

type thing struct {
	name int
	slot Slot
}

// A list gives what a sorted slice gives, however its things are moved.
func TestListAgainstASlice(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	start := time.Now()
	list := New(func(t *thing) *Slot { return &t.slot })
	all := make([]*thing, 50)
	for i := range all {
		all[i] = &thing{name: i}
	}
	waiting := map[*thing]time.Time{}
	for step := range 2000 {
		now := start.Add(time.Duration(step) * time.Second)
		one := all[random.IntN(len(all))]
		switch random.IntN(4) {
		case 0:
			list.Set(one, time.Time{})
			delete(waiting, one)
		default:
			at := now.Add(time.Duration(random.IntN(60)) * time.Second)
			list.Set(one, at)
			waiting[one] = at
		}
		var next time.Time
		for one, at := range waiting {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			if !one.slot.At().Equal(at) {
				t.Fatalf("seed %d, step %d: %d is due at %v, want %v", seed, step, one.name, one.slot.At(), at)
			}
		}
		if got := list.Next(); !got.Equal(next) {
			t.Fatalf("seed %d, step %d: the next is due at %v, want %v", seed, step, got, next)
		}
		if random.IntN(5) > 0 {
			continue
		}
		due := list.Take(now)
		if !slices.IsSortedFunc(due, func(a, b *thing) int { return waiting[a].Compare(waiting[b]) }) {
			t.Fatalf("seed %d, step %d: what is due is not in order", seed, step)
		}
		for one, at := range waiting {
			if isDue := !now.Before(at); isDue != slices.Contains(due, one) {
				t.Fatalf("seed %d, step %d: %d is due at %v, and was taken: %v", seed, step, one.name, at, !isDue)
			}
		}
		for _, one := range due {
			delete(waiting, one)
		}
	}
}
