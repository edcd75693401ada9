// Package ids makes the message ids of a client.
package ids

import (
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Generator makes UUIDv7s (RFC 9562, section 5.7) for one client: 48 bits of
// milliseconds, a counter in rand_a that orders those of one millisecond
// (section 6.2, method 1), and 62 random bits that are drawn once and tell the
// clients apart. A full counter borrows from the next millisecond, so ids rise
// strictly at any rate, even if the clock is set back. It is safe for concurrent
// use.
type Generator struct {
	last   atomic.Uint64 // milliseconds<<12 | counter
	now    atomic.Uint64 // milliseconds; 0: to be read
	random uint64
}

// NewGenerator returns a Generator with random bits of its own.
func NewGenerator() *Generator {
	var b [8]byte
	rand.Read(b[:])
	return &Generator{random: binary.BigEndian.Uint64(b[:])>>2 | 1<<63}
}

// Reserve reserves n consecutive ids and returns the number of the first.
func (g *Generator) Reserve(n int) (first uint64) {
	now := g.now.Load()
	if now == 0 {
		now = uint64(time.Now().UnixMilli())
		g.now.Store(now)
	}
	for {
		last := g.last.Load()
		first = max(last+1, now<<12)
		if g.last.CompareAndSwap(last, first+uint64(n)-1) {
			return first
		}
	}
}

// ExpireClock makes the next Reserve read the clock. The loop calls it in every
// round, after it has taken the events: a message whose id is reserved later is
// posted later, and so causes another round.
func (g *Generator) ExpireClock() { g.now.Store(0) }

// ID returns the id with a reserved number.
func (g *Generator) ID(number uint64) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], number>>12<<16|0x7000|number&0xfff)
	binary.BigEndian.PutUint64(id[8:], g.random)
	return id
}
