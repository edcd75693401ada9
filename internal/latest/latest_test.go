package latest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// entry is a value of the model: places in order, ages by number.
type entry struct {
	key   string
	value int
	age   int
}

// check compares q with the model.
func check(t *testing.T, step int, q *Queue[int], model []entry) {
	t.Helper()
	if q.Len() != len(model) {
		t.Fatalf("step %d: Len is %d, want %d", step, q.Len(), len(model))
	}
	var forward, backward []int
	for p := q.First(); p != 0; p = q.After(p) {
		forward = append(forward, *q.At(p))
	}
	for p := q.Last(); p != 0; p = q.Ahead(p) {
		backward = append(backward, *q.At(p))
	}
	slices.Reverse(backward)
	want := make([]int, 0, len(model))
	oldest := 0
	for i, e := range model {
		want = append(want, e.value)
		if e.age < model[oldest].age {
			oldest = i
		}
		if e.key != "" && (q.Find(e.key) == 0 || *q.At(q.Find(e.key)) != e.value) {
			t.Fatalf("step %d: key %s is not found", step, e.key)
		}
	}
	if !slices.Equal(forward, want) || !slices.Equal(backward, want) {
		t.Fatalf("step %d: %v and %v, want %v", step, forward, backward, want)
	}
	switch {
	case len(model) == 0 && q.Oldest() != 0:
		t.Fatalf("step %d: an empty queue has an oldest value", step)
	case len(model) > 0 && *q.At(q.Oldest()) != model[oldest].value:
		t.Fatalf("step %d: the oldest is %d, want %d", step, *q.At(q.Oldest()), model[oldest].value)
	}
}

func TestQueueModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	q := Queue[int]{Pool: new(sync.Pool)}
	var model []entry
	for step := range 20_000 {
		place := func(i int) Place {
			p := q.First()
			for range i {
				p = q.After(p)
			}
			return p
		}
		key := fmt.Sprint("k", rnd.IntN(8))
		before := q.MemoryFor(1)
		at := slices.IndexFunc(model, func(e entry) bool { return e.key == key })
		if found := q.Find(key) != 0; found != (at >= 0) {
			t.Fatalf("step %d: key %s found: %v", step, key, found)
		}
		switch action := rnd.IntN(100); {
		case action < 15:
			*q.At(q.Append()) = step
			model = append(model, entry{"", step, step})
		case action < 50 && at < 0:
			*q.At(q.AppendKey(key)) = step
			model = append(model, entry{key, step, step})
		case action < 60 && at >= 0:
			p := q.Find(key)
			*q.At(p) = step
			q.Renew(p)
			model[at].value, model[at].age = step, step
		case action < 65 && at >= 0:
			q.Unkey(q.Find(key))
			model[at].key = ""
		case action == 99:
			q.Reset()
			model = nil
		case len(model) > 0:
			i := rnd.IntN(len(model))
			if action < 80 {
				i = 0
			}
			q.Remove(place(i))
			model = slices.Delete(model, i, i+1)
		}
		if rnd.IntN(10) == 0 {
			needed := q.Needed()
			if q.Compact(); q.Memory() != needed {
				t.Fatalf("step %d: %d bytes, want %d", step, q.Memory(), needed)
			}
		}
		check(t, step, &q, model)
		if q.Memory() > before {
			t.Fatalf("step %d: %d bytes, %d were to be enough", step, q.Memory(), before)
		}
	}
}

func TestNoAllocationOnceGrown(t *testing.T) {
	q := Queue[[20]int]{Pool: new(sync.Pool)}
	q.AppendKey("stays")
	round := func() {
		for i := range 3 {
			q.AppendKey("abc"[i : i+1])
		}
		q.Renew(q.Find("a"))
		q.Remove(q.Find("b"))
		q.Remove(q.Find("a"))
		q.Remove(q.Last())
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What one queue needed in a burst is not held by another that has a single value, and
// what was removed is not held at all.
func TestMemoryIsGivenBack(t *testing.T) {
	pool := new(sync.Pool)
	burst, idle := Queue[*int]{Pool: pool}, Queue[*int]{Pool: pool}
	for range 100 { // with the race detector a pool forgets at random
		for range lendCap + 1 {
			*burst.At(burst.Append()) = new(int)
		}
		burst.Reset()
		*idle.At(idle.AppendKey("k")) = new(int)
		if n := cap(idle.m.slots); n > lendCap {
			t.Fatalf("one value in memory for %d", n)
		}
		for _, s := range idle.m.slots[:cap(idle.m.slots)][2:] {
			if s.value != nil || s.key != "" {
				t.Fatal("a value that was removed is still held")
			}
		}
		idle.Reset()
	}
}
