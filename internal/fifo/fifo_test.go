package fifo

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

func TestFifo(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var f Queue[int]
	var model []int
	for i := range 20_000 {
		switch k := rnd.IntN(10); {
		case k < 5 || len(model) == 0:
			f.Push(i)
			model = append(model, i)
		case k < 8:
			n := 1 + rnd.IntN(len(model))
			f.Drop(n)
			model = model[n:]
		default:
			n := rnd.IntN(min(len(model), 4))
			f.Remove(n)
			model = slices.Delete(slices.Clone(model), n, n+1)
		}
		if f.Len() != len(model) || !slices.Equal(f.All(), model) {
			t.Fatalf("step %d: %v, want %v", i, f.All(), model)
		}
		if len(model) > 0 && *f.At(len(model) - 1) != model[len(model)-1] {
			t.Fatalf("step %d: the last is %d", i, *f.At(len(model) - 1))
		}
	}
	f.Reset()
	if n := testing.AllocsPerRun(1000, func() { f.Push(1); f.Push(2); f.Drop(1); f.Drop(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What one queue needed in a burst is not held by another that has a single
// element.
func TestPoolKeepsNoBurst(t *testing.T) {
	var pool sync.Pool
	burst, idle := Queue[int]{Pool: &pool}, Queue[int]{Pool: &pool}
	for range 100 { // with the race detector a pool forgets at random
		for i := range lendCap + 1 {
			burst.Push(i)
		}
		burst.Drop(burst.Len())
		if idle.Push(1); cap(idle.s) > lendCap {
			t.Fatalf("one element in memory for %d", cap(idle.s))
		}
		idle.Drop(1)
	}
}

// Blocks does what a slice does, returns every block that it does not need, and leaves
// nothing in the blocks that it returns.
func TestBlocks(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	f := Blocks[int]{Pool: new(sync.Pool)}
	var model []int
	for i := range 50_000 {
		before := f.MemoryFor(1)
		switch k := rnd.IntN(20); {
		case k < 10 || len(model) == 0:
			if p := f.Next(); *p != 0 {
				t.Fatalf("step %d: a new element is %d", i, *p)
			} else {
				*p = i + 1
			}
			model = append(model, i+1)
			if f.Memory() != before {
				t.Fatalf("step %d: %d bytes, want %d", i, f.Memory(), before)
			}
		case k < 14:
			n := 1 + rnd.IntN(min(len(model), 20))
			f.Drop(n)
			model = model[n:]
		case k < 16:
			n := 1 + rnd.IntN(min(len(model), 20))*rnd.IntN(2)
			if got := f.Take(make([]int, 1, 1+rnd.IntN(40)), n); !slices.Equal(got[1:], model[:n]) {
				t.Fatalf("step %d: took %v, want %v", i, got[1:], model[:n])
			}
			model = model[n:]
		case k < 18:
			n := rnd.IntN(len(model))
			f.Remove(n)
			model = slices.Delete(slices.Clone(model), n, n+1)
		case k < 19:
			f.DropLast()
			model = model[:len(model)-1]
		case rnd.IntN(100) == 0:
			f.Reset()
			model = nil
		}
		if f.Len() != len(model) {
			t.Fatalf("step %d: %d elements, want %d", i, f.Len(), len(model))
		}
		for j, want := range model {
			if got := *f.At(j); got != want {
				t.Fatalf("step %d: element %d is %d, want %d", i, j, got, want)
			}
		}
		if n := len(model); n > 0 && *f.At(n - 1) != model[n-1] {
			t.Fatalf("step %d: the last is %d", i, *f.At(n - 1))
		}
		if most := int64(len(model)+2*BlockLen-2) * 8; f.Memory() > most || len(model) == 0 && f.Memory() != 0 {
			t.Fatalf("step %d: %d bytes for %d elements", i, f.Memory(), len(model))
		}
	}
}

// Filter removes the same places from both queues, wherever their heads are, and keeps nothing of what it removed.
func TestFilter(t *testing.T) {
	for _, n := range []int{0, 1, 7, 100} {
		for _, divisor := range []int{1, 2, 3, 1000} {
			var a, b Queue[int]
			b.Push(-1)
			b.Drop(1) // its head is elsewhere
			var want []int
			for i := range n {
				a.Push(i)
				b.Push(i * i)
				if i%divisor != 0 {
					want = append(want, i)
				}
			}
			removed := Filter(&a, &b, func(i, removed, v int) bool {
				if v != i || removed != (i+divisor-1)/divisor {
					t.Errorf("place %d has %d, %d removed before it", i, v, removed)
				}
				return v%divisor != 0
			})
			if removed != n-len(want) || !slices.Equal(a.All(), want) || b.Len() != len(want) {
				t.Errorf("%d of %d removed: %v, %v", removed, n, a.All(), b.All())
			}
			for i, v := range want {
				if *b.At(i) != v*v {
					t.Errorf("%v beside %v", b.All(), a.All())
				}
			}
			if a.s != nil && slices.ContainsFunc(a.s[len(a.s):cap(a.s)], func(v int) bool { return v != 0 }) {
				t.Errorf("what was removed is still held: %v", a.s[:cap(a.s)])
			}
		}
	}
}
