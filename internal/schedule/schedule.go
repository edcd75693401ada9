// Package schedule keeps things in the order in which they are due.
package schedule

import (
	"container/heap"
	"time"
)

// Slot is the place of a thing in a List: a field of the thing. The zero value is no place.
type Slot struct {
	at    time.Time
	index int // from 1; 0: not in the list
}

// At returns when the thing is due; zero if it is in no list.
func (s *Slot) At() time.Time { return s.at }

// List has things that are due at a time, each at most once. What concerns one costs the
// logarithm of their number. Make one with New. It is not safe for concurrent use.
type List[T any] struct {
	slot   func(T) *Slot
	things []T // a heap: the first is due first
}

// New returns an empty list. slot returns the field of a thing that holds its place.
func New[T any](slot func(T) *Slot) List[T] { return List[T]{slot: slot} }

// Set makes a thing due at a time, instead of at an earlier one; zero takes it out.
func (l *List[T]) Set(thing T, at time.Time) {
	s, h := l.slot(thing), (*things[T])(l)
	s.at = at
	switch {
	case at.IsZero() && s.index > 0:
		heap.Remove(h, s.index-1)
	case at.IsZero():
	case s.index > 0:
		heap.Fix(h, s.index-1)
	default:
		heap.Push(h, thing)
	}
}

// Next returns when the first thing is due; zero if there is none.
func (l *List[T]) Next() time.Time {
	if len(l.things) == 0 {
		return time.Time{}
	}
	return l.slot(l.things[0]).at
}

// Take takes out what is due now, the first due first.
func (l *List[T]) Take(now time.Time) (due []T) {
	for next := l.Next(); !next.IsZero() && !now.Before(next); next = l.Next() {
		first := l.things[0]
		l.Set(first, time.Time{})
		due = append(due, first)
	}
	return due
}

// things is a List as a heap.
type things[T any] List[T]

func (h *things[T]) at(i int) *Slot { return h.slot(h.things[i]) }

func (h *things[T]) Len() int           { return len(h.things) }
func (h *things[T]) Less(i, j int) bool { return h.at(i).at.Before(h.at(j).at) }

func (h *things[T]) Swap(i, j int) {
	h.things[i], h.things[j] = h.things[j], h.things[i]
	h.at(i).index, h.at(j).index = i+1, j+1
}

func (h *things[T]) Push(x any) {
	h.things = append(h.things, x.(T))
	h.at(len(h.things) - 1).index = len(h.things)
}

func (h *things[T]) Pop() any {
	last := len(h.things) - 1
	thing := h.things[last]
	h.at(last).index = 0
	clear(h.things[last:])
	h.things = h.things[:last]
	return thing
}
