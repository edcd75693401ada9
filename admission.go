package limpet

import (
	"context"
	"sync"
)

// gate admits messages to the window: first come, first served. Its lock is a
// leaf.
type gate struct {
	mu       sync.Mutex
	messages int // room left
	bytes    int
	waiting  []*waiter
	closed   error
}

type waiter struct {
	messages, bytes int
	ready           chan struct{}
	err             error
}

func (g *gate) fits(n, bytes int) bool { return n <= g.messages && bytes <= g.bytes }

// enter takes room for n messages of so many bytes together; with wait it
// blocks until there is room or ctx ends.
func (g *gate) enter(ctx context.Context, n, bytes int, wait bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	if g.closed != nil {
		defer g.mu.Unlock()
		return g.closed
	}
	if len(g.waiting) == 0 && g.fits(n, bytes) {
		g.messages -= n
		g.bytes -= bytes
		g.mu.Unlock()
		return nil
	}
	if !wait {
		g.mu.Unlock()
		return ErrWindowFull
	}
	w := &waiter{messages: n, bytes: bytes, ready: make(chan struct{})}
	g.waiting = append(g.waiting, w)
	g.mu.Unlock()

	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiting {
		if other == w {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			g.admit()
			return ctx.Err()
		}
	}
	// Admitted, or refused by close, at the same moment.
	if w.err != nil {
		return w.err
	}
	g.messages += n
	g.bytes += bytes
	g.admit()
	return ctx.Err()
}

func (g *gate) leave(n, bytes int) {
	if n == 0 && bytes == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.messages += n
	g.bytes += bytes
	g.admit()
}

func (g *gate) admit() {
	for len(g.waiting) > 0 && g.fits(g.waiting[0].messages, g.waiting[0].bytes) {
		w := g.waiting[0]
		g.waiting[0] = nil
		g.waiting = g.waiting[1:]
		g.messages -= w.messages
		g.bytes -= w.bytes
		close(w.ready)
	}
}

// close refuses whoever waits and whoever comes.
func (g *gate) close(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		return
	}
	g.closed = err
	for _, w := range g.waiting {
		w.err = err
		close(w.ready)
	}
	g.waiting = nil
}
