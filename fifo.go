package limpet

import "sync"

// fifo is a queue that keeps its memory while it is in use: pushing and dropping
// cost no allocation once it has grown. The zero value is empty.
type fifo[T any] struct {
	s    []T
	head int        // s[head:] is in the queue
	pool *sync.Pool // of *[]T: where the memory of an empty fifo goes; nil: a little is kept
	lent *[]T
}

// keepCap is how much memory an empty fifo without a pool keeps, in elements.
const keepCap = 64

// lendCap is up to which size memory goes to the pool: the next fifo may need
// it for one element, and for long.
const lendCap = 4096

func (f *fifo[T]) len() int { return len(f.s) - f.head }

// at is the element i places behind the head. The pointer is valid until the
// next push.
func (f *fifo[T]) at(i int) *T { return &f.s[f.head+i] }

// all is what is in the queue, head first, valid until the next push.
func (f *fifo[T]) all() []T { return f.s[f.head:] }

func (f *fifo[T]) push(v T) { *f.next() = v }

// next pushes a zero element and returns it to be filled in.
func (f *fifo[T]) next() *T {
	if len(f.s) == cap(f.s) {
		f.grow()
	}
	n := len(f.s)
	f.s = f.s[:n+1]
	return &f.s[n]
}

// grow makes room for one element more. What lies behind the last element is
// always zero.
func (f *fifo[T]) grow() {
	if f.s == nil && f.pool != nil {
		if f.lent, _ = f.pool.Get().(*[]T); f.lent == nil {
			f.lent = new([]T)
		}
		f.s, *f.lent = (*f.lent)[:0], nil
		if cap(f.s) > 0 {
			return
		}
	}
	if f.head > len(f.s)/2 {
		n := copy(f.s, f.s[f.head:])
		clear(f.s[n:])
		f.s, f.head = f.s[:n], 0
		return
	}
	s := make([]T, len(f.s), max(2*len(f.s), 4))
	copy(s, f.s)
	f.s = s
}

// drop forgets n elements at the head.
func (f *fifo[T]) drop(n int) {
	clear(f.s[f.head : f.head+n])
	f.head += n
	if f.head == len(f.s) {
		f.reset()
	}
}

// remove takes the element i places behind the head out; it costs i.
func (f *fifo[T]) remove(i int) {
	copy(f.s[f.head+1:f.head+i+1], f.s[f.head:f.head+i])
	f.drop(1)
}

// insert puts v before the element i places behind the head; it costs what
// stands behind.
func (f *fifo[T]) insert(i int, v T) {
	f.push(v)
	s := f.all()
	copy(s[i+1:], s[i:])
	s[i] = v
}

// reset empties the queue.
func (f *fifo[T]) reset() {
	clear(f.s[f.head:])
	f.s, f.head = f.s[:0], 0
	if f.lent != nil {
		if cap(f.s) <= lendCap {
			*f.lent = f.s
			f.pool.Put(f.lent)
		}
		f.s, f.lent = nil, nil
	} else if cap(f.s) > keepCap {
		f.s = nil
	}
}
