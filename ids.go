package limpet

import (
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// ids makes UUIDv7s (RFC 9562, section 5.7) for one client: 48 bits of
// milliseconds, a counter in rand_a that orders those of one millisecond
// (section 6.2, method 1), and 62 random bits that are drawn once and tell the
// clients apart. The counter borrows from the future when it is full, so ids
// rise strictly however fast they are made and wherever the clock goes.
type ids struct {
	last   atomic.Uint64 // milliseconds<<12 | counter
	now    atomic.Uint64 // milliseconds; 0: to be read
	random uint64
}

func newIDs() *ids {
	var b [8]byte
	rand.Read(b[:])
	return &ids{random: binary.BigEndian.Uint64(b[:])>>2 | 1<<63}
}

// take reserves n ids, in a row from number first on.
func (g *ids) take(n int) (first uint64) {
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

// tick has the clock read again. The loop calls it in every round, after it took
// the events: whoever takes an id later posts the message later, and there is
// another round.
func (g *ids) tick() { g.now.Store(0) }

// id is the id of a number that was taken.
func (g *ids) id(number uint64) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], number>>12<<16|0x7000|number&0xfff)
	binary.BigEndian.PutUint64(id[8:], g.random)
	return id
}
