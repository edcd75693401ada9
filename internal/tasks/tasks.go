// Package tasks starts goroutines, waits for them, bounds their work and says which are worth
// keeping.
package tasks

import "sync"

// Group starts the goroutines that the end of a client waits for, and none after Close.
// The zero value is ready for use. Its lock is a leaf.
type Group struct {
	connections sync.WaitGroup // dialers, readers, writers and all others that serve a connection
	deliverers  sync.WaitGroup // of messages to consumers

	mu     sync.Mutex
	closed bool
}

// Go starts f, which serves a connection. It reports false after Close.
func (g *Group) Go(f func()) bool { return g.start(&g.connections, f) }

// GoDeliverer starts f, which hands messages to a consumer. It reports false
// after Close.
func (g *Group) GoDeliverer(f func()) bool { return g.start(&g.deliverers, f) }

func (g *Group) start(group *sync.WaitGroup, f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	group.Go(f)
	return true
}

// Hold makes WaitConnections wait until Release is called. It reports false after Close.
func (g *Group) Hold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.connections.Add(1)
	}
	return !g.closed
}

// Release ends what Hold began.
func (g *Group) Release() { g.connections.Done() }

// Close makes the group start nothing more.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// WaitConnections waits for what Go and Hold began.
func (g *Group) WaitConnections() { g.connections.Wait() }

// WaitDeliverers waits for what GoDeliverer began.
func (g *Group) WaitDeliverers() { g.deliverers.Wait() }

// maxUsed is how many slots there are.
const maxUsed = 8

// Slots bounds how far one goroutine is ahead of another. Use NewSlots. Its lock is a leaf.
type Slots struct {
	mu     sync.Mutex
	freed  sync.Cond
	used   int
	closed bool
}

// NewSlots returns slots that are all free.
func NewSlots() *Slots {
	p := new(Slots)
	p.freed.L = &p.mu
	return p
}

// Acquire waits for a slot. It returns false after Close.
func (p *Slots) Acquire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.used == maxUsed && !p.closed {
		p.freed.Wait()
	}
	p.used++
	return !p.closed
}

// Release frees a slot.
func (p *Slots) Release() {
	p.mu.Lock()
	p.used--
	p.mu.Unlock()
	p.freed.Signal()
}

// Close ends every wait for a slot.
func (p *Slots) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.freed.Signal()
}
