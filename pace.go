package limpet

import "time"

// pace tells wake-ups that follow each other closely from rare ones. A goroutine
// that is woken rarely ends and leaves the waiting to a new one, or to none: the
// runtime never shrinks a stack back to its first size, and many idle clients
// are mostly stacks.
type pace struct {
	last time.Time
	row  int // wake-ups in a row, each soon after the one before
}

const (
	soon   = 100 * time.Millisecond
	inARow = 32 // connecting takes fewer
)

func (p *pace) steady(now time.Time) bool {
	if now.Sub(p.last) > soon {
		p.row = 0
	}
	p.last = now
	p.row++
	return p.row > inARow
}
