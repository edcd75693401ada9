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
