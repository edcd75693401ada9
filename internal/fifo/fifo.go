// Package fifo holds the container of the client's queues.
package fifo

import "sync"

// Queue is a first-in, first-out queue that keeps its memory while it is in
// use: pushing and dropping cost no allocation once it has grown. The zero
// value is empty. It is not safe for concurrent use.
type Queue[T any] struct {
	// Pool takes the memory of the queue while it is empty, as *[]T, and lends
	// it to the next queue that needs some. Without a Pool an empty queue keeps
	// a little memory of its own.
	Pool *sync.Pool

	s    []T
	head int // s[head:] is in the queue
	lent *[]T
}

const (
	keepCap = 64   // elements of memory that an empty queue without a Pool keeps
	lendCap = 4096 // elements; more is not pooled: the next queue may hold a single one for long
)

// Len returns the number of elements.
func (q *Queue[T]) Len() int { return len(q.s) - q.head }

// At returns the element i places behind the head. The pointer is valid until
// the next push.
func (q *Queue[T]) At(i int) *T { return &q.s[q.head+i] }

// All returns the elements, head first. The slice is valid until the next push.
func (q *Queue[T]) All() []T { return q.s[q.head:] }

// Push appends v.
func (q *Queue[T]) Push(v T) { *q.Next() = v }

// Next appends a zero element and returns it to be filled in.
func (q *Queue[T]) Next() *T {
	if len(q.s) == cap(q.s) {
		q.grow()
	}
	n := len(q.s)
	q.s = q.s[:n+1]
	return &q.s[n]
}

// grow makes room for one more element. What lies behind the last element is
// always zero.
func (q *Queue[T]) grow() {
	if q.s == nil && q.Pool != nil {
		if q.lent, _ = q.Pool.Get().(*[]T); q.lent == nil {
			q.lent = new([]T)
		}
		q.s, *q.lent = (*q.lent)[:0], nil
		if cap(q.s) > 0 {
			return
		}
	}
	if q.head > len(q.s)/2 {
		n := copy(q.s, q.s[q.head:])
		clear(q.s[n:])
		q.s, q.head = q.s[:n], 0
		return
	}
	s := make([]T, len(q.s), max(2*len(q.s), 4))
	copy(s, q.s)
	q.s = s
}

// Drop removes n elements at the head.
func (q *Queue[T]) Drop(n int) {
	clear(q.s[q.head : q.head+n])
	q.head += n
	if q.head == len(q.s) {
		q.Reset()
	}
}

// Filter removes the elements of a for which stays returns false, and what is in their places in b, which has as
// many. stays gets the place of an element, and how many before it are removed.
func Filter[A, B any](a *Queue[A], b *Queue[B], stays func(i, removed int, v A) bool) (removed int) {
	as, bs := a.All(), b.All()
	for i := range as {
		if stays(i, removed, as[i]) {
			as[i-removed], bs[i-removed] = as[i], bs[i]
		} else {
			removed++
		}
	}
	a.truncate(len(as) - removed)
	b.truncate(len(bs) - removed)
	return removed
}

// truncate removes all elements behind the first n.
func (q *Queue[T]) truncate(n int) {
	clear(q.s[q.head+n:])
	if q.s = q.s[:q.head+n]; n == 0 {
		q.Reset()
	}
}

// Remove removes the element i places behind the head. It moves i elements.
func (q *Queue[T]) Remove(i int) {
	copy(q.s[q.head+1:q.head+i+1], q.s[q.head:q.head+i])
	q.Drop(1)
}

// Insert puts v before the element i places behind the head. It moves the
// elements behind v.
func (q *Queue[T]) Insert(i int, v T) {
	q.Push(v)
	s := q.All()
	copy(s[i+1:], s[i:])
	s[i] = v
}

// Reset empties the queue.
func (q *Queue[T]) Reset() {
	clear(q.s[q.head:])
	q.s, q.head = q.s[:0], 0
	if q.lent != nil {
		if cap(q.s) <= lendCap {
			*q.lent = q.s
			q.Pool.Put(q.lent)
		}
		q.s, q.lent = nil, nil
	} else if cap(q.s) > keepCap {
		q.s = nil
	}
}
