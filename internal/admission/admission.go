// Package admission admits messages to a window that has room for a number of them.
package admission

import (
	"container/list"
	"context"
	"sync"
)

// Gate admits messages to a window, in the order in which their publishers asked. Use New.
// Its lock is a leaf.
type Gate struct {
	mu           sync.Mutex
	freeMessages int
	freeBytes    int
	waiters      list.List // *waiter
	closeErr     error     // set by Close: why no message is admitted any more
}

type waiter struct {
	messages int
	bytes    int
	admitted chan struct{} // closed on admission, or by Close
	err      error         // set by Close before it closes admitted
}

// New returns a gate to a window with room for a number of messages and their bytes.
func New(messages, bytes int) *Gate { return &Gate{freeMessages: messages, freeBytes: bytes} }

// Free returns the room that is left.
func (g *Gate) Free() (messages, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.freeMessages, g.freeBytes
}

func (g *Gate) fits(messages, bytes int) bool {
	return messages <= g.freeMessages && bytes <= g.freeBytes
}

// Acquire reserves room for a number of messages and their bytes, all of it or none. If
// there is not enough, it reports that the window is full or, with wait, blocks until there
// is, ctx ends (full, with the error of ctx) or the gate is closed (the error of Close).
func (g *Gate) Acquire(ctx context.Context, messages, bytes int, wait bool) (full bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	g.mu.Lock()
	if g.closeErr != nil {
		defer g.mu.Unlock()
		return false, g.closeErr
	}
	if g.waiters.Len() == 0 && g.fits(messages, bytes) {
		g.freeMessages -= messages
		g.freeBytes -= bytes
		g.mu.Unlock()
		return false, nil
	}
	if !wait {
		g.mu.Unlock()
		return true, nil
	}
	w := &waiter{messages: messages, bytes: bytes, admitted: make(chan struct{})}
	place := g.waiters.PushBack(w)
	g.mu.Unlock()

	select {
	case <-w.admitted:
		return false, w.err
	case <-ctx.Done():
	}
	ctxErr := ctx.Err() // may be the caller's code: mu is not held
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.admitted: // at the moment at which ctx ended
		if w.err != nil {
			return false, w.err
		}
		g.freeMessages += messages
		g.freeBytes += bytes
	default:
		g.waiters.Remove(place)
	}
	g.admitWaiters() // a smaller request behind this one may fit
	return true, ctxErr
}

// Take takes room for a number of messages and their bytes, whether or not there is enough:
// nothing is admitted until they have left so much.
func (g *Gate) Take(messages, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.freeMessages -= messages
	g.freeBytes -= bytes
}

// Release returns room to the window and admits those who wait for it.
func (g *Gate) Release(messages, bytes int) {
	if messages == 0 && bytes == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.freeMessages += messages
	g.freeBytes += bytes
	g.admitWaiters()
}

// admitWaiters admits from the head of the list until a request does not fit.
// The caller holds the lock.
func (g *Gate) admitWaiters() {
	for first := g.waiters.Front(); first != nil; first = g.waiters.Front() {
		w := first.Value.(*waiter)
		if !g.fits(w.messages, w.bytes) {
			return
		}
		g.waiters.Remove(first)
		g.freeMessages -= w.messages
		g.freeBytes -= w.bytes
		close(w.admitted)
	}
}

// ClosedBy returns the error of Close, nil before it.
func (g *Gate) ClosedBy() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closeErr
}

// Close makes every present and later Acquire return err. The first error
// stays.
func (g *Gate) Close(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closeErr != nil {
		return
	}
	g.closeErr = err
	for e := g.waiters.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		w.err = err
		close(w.admitted)
	}
	g.waiters.Init()
}
