// Package lend keeps payloads in blocks of memory that are used again once nothing in them
// is needed.
package lend

import (
	"bytes"
	"math/bits"
	"sort"
	"sync"

	"github.com/limpet-go/limpet/internal/fifo"
)

const (
	// MaxPayload is the size in bytes of the largest payload that is put in a block.
	MaxPayload = 4 << 10

	minBlock = 1 << 10
	maxBlock = 32 << 10
	sizes    = 6 // of blocks, each twice the one before
)

// pools hold blocks that are not in use, by size. They share them among all memories.
var pools [sizes]sync.Pool

// block holds payloads of messages with numbers that increase.
type block struct {
	size    int // of pools
	used    int
	last    uint64 // the number of its last message
	waiting int    // messages in it that wait
	taken   int    // batches that have a message in it
	data    []byte
}

// Memory holds the payloads of messages that wait and of batches that were taken. The zero
// value is empty. It is not safe for concurrent use, but for the payloads themselves.
type Memory struct {
	blocks fifo.Queue[*block] // with messages that wait; new payloads go into the last one
	held   int64              // bytes of blocks
	own    int64              // bytes of payloads with memory of their own
}

// Batch is what one batch has taken. The zero value has nothing.
type Batch struct {
	blocks   []*block
	payloads [][]byte // if Poisons is set
}

// Fits reports whether a payload of size bytes is put in a block.
func Fits(size int) bool { return size > 0 && size <= MaxPayload }

// Copy copies the payload of message number, which is higher than that of every message
// before it. One that does not fit a block is taken over: it must have memory of its own.
func (m *Memory) Copy(number uint64, payload []byte) []byte {
	if !Fits(len(payload)) {
		m.own += int64(len(payload))
		return payload
	}
	b := m.last()
	if b == nil || len(b.data)-b.used < len(payload) {
		b = m.add(len(payload))
	}
	lent := b.data[b.used : b.used+len(payload) : b.used+len(payload)]
	copy(lent, payload)
	b.used += len(payload)
	b.last = number
	b.waiting++
	return lent
}

func (m *Memory) last() *block {
	if n := m.blocks.Len(); n > 0 {
		return *m.blocks.At(n - 1)
	}
	return nil
}

// add adds a block for payloads of size bytes and more: at most half as large as all that is
// held, unless that is little.
func (m *Memory) add(size int) *block {
	b := take(m.sizeOfNext(size))
	m.blocks.Push(b)
	m.held += int64(len(b.data))
	return b
}

// sizeOfNext returns the size of the block that add would add.
func (m *Memory) sizeOfNext(size int) int {
	half := min(m.held/2, maxBlock)
	return max(bits.Len(uint(size-1)/minBlock), bits.Len(uint(half)/minBlock)-1)
}

// take returns an empty block.
func take(size int) *block {
	if b, _ := pools[size].Get().(*block); b != nil {
		return b
	}
	return &block{size: size, data: make([]byte, minBlock<<size)}
}

// Held returns how many bytes the payloads take that wait: their blocks, and those with
// memory of their own.
func (m *Memory) Held() int64 { return m.held + m.own }

// CostOf returns how many bytes more that would be with one more payload, of size bytes.
func (m *Memory) CostOf(size int) int64 {
	if !Fits(size) {
		return int64(size)
	}
	if b := m.last(); b != nil && size <= len(b.data)-b.used {
		return 0
	}
	return minBlock << m.sizeOfNext(size)
}

// MostFor returns how many bytes more at most that would be with payloads that fit blocks, of
// size bytes together.
func (m *Memory) MostFor(size int) int64 {
	if b := m.last(); size == 0 || b != nil && size <= len(b.data)-b.used {
		return 0
	}
	// Less than half of each block is lost at its end, but for the last one.
	more := 2 * int64(size)
	return more + minBlock + min((m.held+more)/2, maxBlock)
}

// Drop follows when message number, with a payload of size bytes, is dropped.
func (m *Memory) Drop(number uint64, size int) {
	if !Fits(size) {
		m.own -= int64(size)
		return
	}
	i := m.find(number)
	b := *m.blocks.At(i)
	if b.waiting--; b.waiting == 0 {
		m.remove(i)
		b.free()
	}
}

// Release returns a payload that Copy has returned, in memory of its own, and gives a block
// back.
func (m *Memory) Release(number uint64, payload []byte) []byte {
	own := payload
	if Fits(len(payload)) {
		own = bytes.Clone(payload)
	}
	m.Drop(number, len(payload))
	if Poisons && Fits(len(payload)) {
		poison(payload)
	}
	return own
}

// find returns the place of the block of message number.
func (m *Memory) find(number uint64) int {
	if (*m.blocks.At(0)).last >= number {
		return 0
	}
	return sort.Search(m.blocks.Len(), func(i int) bool { return (*m.blocks.At(i)).last >= number })
}

// remove removes the block at i, in which nothing waits.
func (m *Memory) remove(i int) {
	m.held -= int64(len((*m.blocks.At(i)).data))
	m.blocks.Remove(i)
}

// Take follows when message number goes into batch, with the payload that Copy has returned.
func (m *Memory) Take(batch *Batch, number uint64, payload []byte) {
	if !Fits(len(payload)) {
		m.own -= int64(len(payload))
		return
	}
	if Poisons {
		batch.payloads = append(batch.payloads, payload)
	}
	i := m.find(number)
	b := *m.blocks.At(i)
	if n := len(batch.blocks); n == 0 || batch.blocks[n-1] != b {
		batch.blocks = append(batch.blocks, b)
		b.taken++
	}
	if b.waiting--; b.waiting == 0 {
		m.remove(i)
	}
}

// Return ends the use of what batch has taken, and empties it.
func (m *Memory) Return(batch *Batch) {
	for i, b := range batch.blocks {
		batch.blocks[i] = nil
		b.taken--
		b.free()
	}
	batch.blocks = batch.blocks[:0]
	for _, p := range batch.payloads {
		poison(p)
	}
	batch.payloads = nil
}

// Reset follows when nothing waits any more.
func (m *Memory) Reset() {
	for i := range m.blocks.Len() {
		b := *m.blocks.At(i)
		b.waiting = 0
		b.free()
	}
	m.blocks.Reset()
	m.held, m.own = 0, 0
}

// free makes b available if nothing in it is needed.
func (b *block) free() {
	if b.waiting > 0 || b.taken > 0 {
		return
	}
	if Poisons {
		return // it is not used again, so that a payload that was kept stays spoiled
	}
	b.used = 0
	pools[b.size].Put(b)
}

// poison overwrites what must not be read any more. The race detector remembers a copy as
// a whole; of single bytes it would soon forget the first.
func poison(data []byte) {
	for len(data) > 0 {
		data = data[copy(data, poisoned[:]):]
	}
}

var poisoned = [64]byte(bytes.Repeat([]byte{Poison}, 64))

// Poison is what a payload holds that was kept too long, if Poisons is set.
const Poison = 0xdb
