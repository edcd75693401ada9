// Package flush knows what calls of Flush, and streams, wait for.
package flush

import "slices"

// Points are what calls of Flush wait for. They belong to one goroutine. The zero value has none.
type Points struct {
	list []*Point // by ascending seq
}

// Point stands for the messages up to a number. Calls without a message between them share one.
type Point struct {
	seq       uint64
	waiters   int
	completed chan struct{}
}

// Completed is closed when all of the messages have their outcomes.
func (p *Point) Completed() <-chan struct{} { return p.completed }

// Reached reports whether the messages are complete, or none of them is behind seq.
func (p *Point) Reached(seq uint64) bool {
	select {
	case <-p.completed:
		return true
	default:
		return p.seq <= seq
	}
}

// Len returns how many there are.
func (p *Points) Len() int { return len(p.list) }

// Add returns the point for the messages up to seq, the last one so far.
func (p *Points) Add(seq uint64) *Point {
	if n := len(p.list); n == 0 || p.list[n-1].seq != seq {
		p.list = append(p.list, &Point{seq: seq, completed: make(chan struct{})})
	}
	point := p.list[len(p.list)-1]
	point.waiters++
	return point
}

// Leave removes a point for which nothing waits any more: the outcomes may take long.
func (p *Points) Leave(point *Point) {
	if point.waiters--; point.waiters > 0 {
		return
	}
	if i := slices.Index(p.list, point); i >= 0 {
		p.list = slices.Delete(p.list, i, i+1)
	}
}

// Complete completes the points below seq.
func (p *Points) Complete(seq uint64) {
	for len(p.list) > 0 && p.list[0].seq < seq {
		close(p.list[0].completed)
		p.list = p.list[1:]
	}
	if len(p.list) == 0 {
		p.list = nil
	}
}

// Renumber gives the point of message seq, if there is one from index next on, the number to. It returns the
// index for the messages that follow.
func (p *Points) Renumber(next int, seq, to uint64) int {
	for next < len(p.list) && p.list[next].seq == seq {
		p.list[next].seq = to
		next++
	}
	return next
}
