// Package latest holds the container of the delivery policy Latest.
package latest

import (
	"sync"
	"unsafe"
)

// Queue is a queue of values, some of which have keys. It has two orders: the places in
// the queue, from the first to the last, and the ages of the values, from the oldest to
// the newest. Every operation costs the same however many values there are, and no
// allocation once the queue has grown. The zero value is empty. It is not safe for
// concurrent use.
type Queue[T any] struct {
	// Pool takes the memory of the queue while it is empty, as *Memory[T], and lends it
	// to the next queue that needs some.
	Pool *sync.Pool

	m *Memory[T] // nil: empty
}

// Place is where a value stands in a Queue until it is removed. 0 is no place.
type Place uint32

// Memory is the memory of a Queue.
type Memory[T any] struct {
	slots []slot[T] // slots[0] is between the last and the first, and between the newest and the oldest
	free  Place     // the first of the free slots, linked by after
	keys  map[string]Place
	len   int
}

type slot[T any] struct {
	value        T
	key          string
	keyed        bool
	after, ahead Place // in the queue
	newer, older Place
}

// lendCap is how many places are pooled at most: the next queue may hold a single value
// for long.
const lendCap = 128

// Len returns the number of values.
func (q *Queue[T]) Len() int {
	if q.m == nil {
		return 0
	}
	return q.m.len
}

// Memory returns how many bytes the queue uses, beside what the values and the keys refer
// to.
func (q *Queue[T]) Memory() int64 {
	if q.m == nil {
		return 0
	}
	return q.m.size(cap(q.m.slots))
}

// MemoryFor returns how many bytes the queue uses at most with more values.
func (q *Queue[T]) MemoryFor(more int) int64 {
	slots, used := lendCap, 0 // what the pool may lend
	if q.m != nil {
		slots, used = cap(q.m.slots), q.m.len
	}
	for slots < 1+used+more {
		slots = grownCap(slots)
	}
	return q.m.size(slots)
}

func grownCap(n int) int { return n + n/2 + 4 }

// Needed returns how many bytes the queue would use after Compact.
func (q *Queue[T]) Needed() int64 {
	if q.m == nil {
		return 0
	}
	return q.m.size(min(compactCap(q.m.len), cap(q.m.slots)))
}

func (*Memory[T]) size(slots int) int64 {
	const entry = 64 // of the index of keys
	return int64(slots) * (int64(unsafe.Sizeof(slot[T]{})) + entry)
}

// compactCap returns how much memory Compact leaves for n values.
func compactCap(n int) int { return n + n/4 + 2 }

// Compact makes the memory as small as Needed says. Places that were returned before are
// no longer valid.
func (q *Queue[T]) Compact() {
	old := q.m
	if old == nil || compactCap(old.len) >= cap(old.slots) {
		return
	}
	m := &Memory[T]{slots: make([]slot[T], old.len+1, compactCap(old.len)), keys: make(map[string]Place, old.len), len: old.len}
	moved := make(map[Place]Place, old.len)
	next := Place(1)
	for p := old.slots[0].after; p != 0; p = old.slots[p].after {
		moved[p] = next
		s := &m.slots[next]
		s.value, s.key, s.keyed = old.slots[p].value, old.slots[p].key, old.slots[p].keyed
		if s.keyed {
			m.keys[s.key] = next
		}
		m.slots[next-1].after, s.ahead = next, next-1
		next++
	}
	m.slots[0].ahead = next - 1
	for p := old.slots[0].newer; p != 0; p = old.slots[p].newer {
		m.becomeNewest(moved[p])
	}
	q.m = m
}

// At returns the value at p. The pointer is valid until the next Append.
func (q *Queue[T]) At(p Place) *T { return &q.m.slots[p].value }

// First returns the first place, 0 if there is none.
func (q *Queue[T]) First() Place { return q.After(0) }

// Last returns the last place, 0 if there is none.
func (q *Queue[T]) Last() Place { return q.Ahead(0) }

// After returns the place behind p, 0 if there is none.
func (q *Queue[T]) After(p Place) Place {
	if q.m == nil {
		return 0
	}
	return q.m.slots[p].after
}

// Ahead returns the place in front of p, 0 if there is none.
func (q *Queue[T]) Ahead(p Place) Place {
	if q.m == nil {
		return 0
	}
	return q.m.slots[p].ahead
}

// Oldest returns the place of the oldest value, 0 if there is none.
func (q *Queue[T]) Oldest() Place { return q.Newer(0) }

// Newer returns the place of the value that is next in age to the one at p, 0 if there is
// none.
func (q *Queue[T]) Newer(p Place) Place {
	if q.m == nil {
		return 0
	}
	return q.m.slots[p].newer
}

// Find returns the place of the value with this key, 0 if there is none.
func (q *Queue[T]) Find(key string) Place {
	if q.m == nil {
		return 0
	}
	return q.m.keys[key]
}

// Append adds a zero value without a key behind the last one. It is the newest.
func (q *Queue[T]) Append() Place {
	m := q.m
	if m == nil {
		m = q.borrow()
	}
	p := m.free
	if p != 0 {
		m.free = m.slots[p].after
	} else {
		p = Place(len(m.slots))
		if p == Place(cap(m.slots)) {
			m.slots = append(make([]slot[T], 0, grownCap(cap(m.slots))), m.slots...)
		}
		m.slots = m.slots[:p+1]
	}
	s, last := &m.slots[p], m.slots[0].ahead
	s.after, s.ahead = 0, last
	m.slots[last].after, m.slots[0].ahead = p, p
	m.becomeNewest(p)
	m.len++
	return p
}

// AppendKey is Append for a value with a key that no other one has.
func (q *Queue[T]) AppendKey(key string) Place {
	p := q.Append()
	q.m.slots[p].key, q.m.slots[p].keyed = key, true
	q.m.keys[key] = p
	return p
}

// Renew makes the value at p the newest. It keeps its place.
func (q *Queue[T]) Renew(p Place) {
	if q.m.slots[0].older != p {
		q.m.forgetAge(p)
		q.m.becomeNewest(p)
	}
}

// Unkey takes the key of the value at p away.
func (q *Queue[T]) Unkey(p Place) {
	if s := &q.m.slots[p]; s.keyed {
		delete(q.m.keys, s.key)
		s.key, s.keyed = "", false
	}
}

// Remove removes the value at p.
func (q *Queue[T]) Remove(p Place) {
	m := q.m
	q.Unkey(p)
	m.forgetAge(p)
	s := &m.slots[p]
	m.slots[s.ahead].after, m.slots[s.after].ahead = s.after, s.ahead
	*s = slot[T]{after: m.free}
	m.free = p
	if m.len--; m.len == 0 {
		q.giveBack()
	}
}

// Reset empties the queue.
func (q *Queue[T]) Reset() {
	if q.m != nil {
		clear(q.m.slots)
		clear(q.m.keys)
		q.giveBack()
	}
}

// borrow gets memory for an empty queue.
func (q *Queue[T]) borrow() *Memory[T] {
	if q.Pool != nil {
		q.m, _ = q.Pool.Get().(*Memory[T])
	}
	if q.m == nil {
		q.m = &Memory[T]{keys: make(map[string]Place)}
		q.m.slots = make([]slot[T], 1, grownCap(0))
	}
	return q.m
}

// giveBack returns the memory, whose slots and keys are cleared, to the pool.
func (q *Queue[T]) giveBack() {
	m := q.m
	q.m = nil
	if q.Pool != nil && cap(m.slots) <= lendCap {
		m.slots, m.free, m.len = m.slots[:1], 0, 0
		m.slots[0] = slot[T]{}
		q.Pool.Put(m)
	}
}

func (m *Memory[T]) becomeNewest(p Place) {
	newest := m.slots[0].older
	m.slots[p].newer, m.slots[p].older = 0, newest
	m.slots[newest].newer, m.slots[0].older = p, p
}

func (m *Memory[T]) forgetAge(p Place) {
	s := &m.slots[p]
	m.slots[s.older].newer, m.slots[s.newer].older = s.newer, s.older
}
