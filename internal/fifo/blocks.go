package fifo

import (
	"sync"
	"unsafe"
)

// BlockLen is how many elements a block of Blocks holds.
const BlockLen = 8

// keepBlocks is for how many blocks an empty queue keeps its list.
const keepBlocks = 8

// Blocks is a first-in, first-out queue that keeps its elements in blocks: it has no more
// memory than they need, and shares it with others. The zero value is empty. It is not
// safe for concurrent use.
type Blocks[T any] struct {
	// Pool takes blocks that are not needed, as *[BlockLen]T. It may be nil.
	Pool *sync.Pool

	list  []*[BlockLen]T
	first int // list[first:] are in use
	head  int // the place of the first element in the first block
	len   int
}

// Len returns the number of elements.
func (q *Blocks[T]) Len() int { return q.len }

// Memory returns how many bytes the blocks of the queue are.
func (q *Blocks[T]) Memory() int64 {
	return int64(len(q.list)-q.first) * int64(unsafe.Sizeof([BlockLen]T{}))
}

// MemoryFor returns how many bytes the blocks would be with more elements.
func (q *Blocks[T]) MemoryFor(more int) int64 {
	blocks := uint(q.head+q.len+more+BlockLen-1) / BlockLen
	return int64(blocks) * int64(unsafe.Sizeof([BlockLen]T{}))
}

// Aligned reports whether the first element is the first of its block, or none is left.
func (q *Blocks[T]) Aligned() bool { return q.head == 0 }

// At returns the element i places behind the head. The pointer is valid until the element
// is moved or removed.
func (q *Blocks[T]) At(i int) *T {
	at := uint(q.head + i)
	return &q.list[uint(q.first)+at/BlockLen][at%BlockLen]
}

// Push appends v.
func (q *Blocks[T]) Push(v T) { *q.Next() = v }

// Next appends a zero element and returns it to be filled in.
func (q *Blocks[T]) Next() *T {
	at := uint(q.head+q.len) % BlockLen
	if at == 0 {
		q.addBlock()
	}
	q.len++
	return &q.list[len(q.list)-1][at]
}

func (q *Blocks[T]) addBlock() {
	var b *[BlockLen]T
	if q.Pool != nil {
		b, _ = q.Pool.Get().(*[BlockLen]T)
	}
	if b == nil {
		b = new([BlockLen]T)
	}
	if len(q.list) == cap(q.list) && q.first > len(q.list)/2 {
		n := copy(q.list, q.list[q.first:])
		clear(q.list[n:])
		q.list, q.first = q.list[:n], 0
	}
	q.list = append(q.list, b)
}

// Take moves the first n elements to the end of list.
func (q *Blocks[T]) Take(list []T, n int) []T {
	if end := len(list); n == 1 && q.head < BlockLen-1 && q.len > 1 && end < cap(list) { // the block stays
		p := &q.list[q.first][q.head]
		list = list[:end+1]
		list[end] = *p
		var none T
		*p = none
		q.head++
		q.len--
		return list
	}
	for left := n; left > 0; {
		b := q.list[q.first][q.head:]
		b = b[:min(len(b), left)]
		list = append(list, b...)
		left -= len(b)
		q.Drop(len(b))
	}
	return list
}

// Drop removes n elements at the head.
func (q *Blocks[T]) Drop(n int) {
	for q.len -= n; n > 0; {
		b := q.list[q.first]
		end := min(BlockLen, q.head+n)
		clear(b[q.head:end])
		n -= end - q.head
		if q.head = end; end == BlockLen || q.len == 0 && n == 0 {
			q.head = 0
			q.list[q.first] = nil
			q.first++
			q.giveBack(b)
		}
	}
	if q.len == 0 {
		q.forgetList()
	}
}

// DropLast removes the last element.
func (q *Blocks[T]) DropLast() {
	at := uint(q.head+q.len-1) % BlockLen
	last := len(q.list) - 1
	b := q.list[last]
	clear(b[at : at+1])
	if q.len--; at == 0 || q.len == 0 {
		q.list[last] = nil
		q.list = q.list[:last]
		q.giveBack(b)
	}
	if q.len == 0 {
		q.forgetList()
	}
}

// Remove removes the element i places behind the head. It moves those before it or those
// behind it, whichever are fewer.
func (q *Blocks[T]) Remove(i int) {
	if i < q.len/2 {
		for ; i > 0; i-- {
			*q.At(i) = *q.At(i - 1)
		}
		q.Drop(1)
		return
	}
	for ; i < q.len-1; i++ {
		*q.At(i) = *q.At(i + 1)
	}
	q.DropLast()
}

// Reset empties the queue.
func (q *Blocks[T]) Reset() { q.Drop(q.len) }

// forgetList follows when the queue is empty.
func (q *Blocks[T]) forgetList() {
	q.list, q.first, q.head = q.list[:0], 0, 0
	if cap(q.list) > keepBlocks {
		q.list = nil
	}
}

// giveBack returns a block of zero elements to the pool.
func (q *Blocks[T]) giveBack(b *[BlockLen]T) {
	if q.Pool != nil {
		q.Pool.Put(b)
	}
}
