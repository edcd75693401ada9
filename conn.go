package limpet

import (
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

const (
	closeTimeout = time.Second      // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second // a write must move bytes within it
	maxPosted    = 8                // batches of events that the reader has posted and the loop has not applied
)

// conn is one connection as the loop sees it.
type conn struct {
	*socket.Conn
	gen   uint64
	slots postSlots
}

func newConn() *conn {
	c := new(conn)
	c.slots.freed.L = &c.slots.mu
	return c
}

// abandon closes without a close frame, except for the answer to the peer's.
func (c *conn) abandon() { c.Close(0, "", closeFrameTimeout) }

// postSlots bounds the batches of events that the reader posts ahead of the
// loop. Its lock is a leaf.
type postSlots struct {
	mu     sync.Mutex
	freed  sync.Cond
	used   int
	closed bool
}

// acquire waits for a slot. It returns false once the connection is dead.
func (p *postSlots) acquire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.used == maxPosted && !p.closed {
		p.freed.Wait()
	}
	p.used++
	return !p.closed
}

// release frees a slot: the loop has applied a batch.
func (p *postSlots) release() {
	p.mu.Lock()
	p.used--
	p.mu.Unlock()
	p.freed.Signal()
}

func (p *postSlots) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.freed.Signal()
}

// writer makes one write, on a goroutine of its own.
type writer struct {
	conn     *conn
	inbox    *inbox
	counters *counters
}

// write writes frames, whose highest sequence number is through, and posts how
// it went.
func (w writer) write(frames *wire.Frames, through uint64) {
	err := w.conn.Send(frames.List)
	n := 0
	for _, f := range frames.List {
		n += len(f.Data)
	}
	if err == nil {
		w.counters.bytesWritten.Add(uint64(n))
	}
	frames.Reset()
	framesPool.Put(frames)
	w.inbox.post(wrote{w.conn, asCallersFault(err), through, n})
}

// goroutines starts the goroutines that Done waits for, and none after close.
type goroutines struct {
	connections sync.WaitGroup // dialers, readers, writers and all others that serve a connection
	deliverers  sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// spawn starts f, which serves a connection. It reports false after close.
func (g *goroutines) spawn(f func()) bool { return g.spawnIn(&g.connections, f) }

// spawnDeliverer starts f, which hands messages to a consumer. It reports false
// after close.
func (g *goroutines) spawnDeliverer(f func()) bool { return g.spawnIn(&g.deliverers, f) }

func (g *goroutines) spawnIn(group *sync.WaitGroup, f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	group.Go(f)
	return true
}

// hold makes Done wait until release is called. It reports false after close.
func (g *goroutines) hold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.connections.Add(1)
	}
	return !g.closed
}

// release ends what hold began.
func (g *goroutines) release() { g.connections.Done() }

func (g *goroutines) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
