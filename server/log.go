package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Entry is one message of a log. An Entry that a log has handed out is shared
// by all its readers and never changed again.
type Entry struct {
	Offset  uint64 // set by Append
	Time    time.Time
	ID      wire.ID
	Topic   string
	Payload []byte
	Type    string
	Header  map[string]string
	TTL     time.Duration // as the publisher gave it; 0: none
}

// View is one consistent look at a log.
type View struct {
	Epoch string // UTF-8, 1 to 255 bytes; positions of different epochs have nothing in common

	// Base is a tag that stands for any position of this incarnation of the log
	// that holds no entry with a tag of its own, such as the one before First.
	// It must change whenever the log may have lost its newest entries.
	Base []byte

	First uint64 // offset of the oldest entry held; Head+1 if there is none
	Head  uint64 // offset of the newest entry ever appended; 0 if there is none

	// NoRewind says that the log cannot lose its newest entries within an
	// epoch, so a position older than First is known to have existed.
	NoRewind bool
}

// Log holds the messages of a server in one order. Topics are filters on it.
// The implementation must be safe for concurrent use. A caller may embed one
// Log in another to change a single method.
type Log interface {
	// Append stores e at the end and returns its offset, which is at least 1 and
	// greater than all before it. When it returns nil, e is held as durably as
	// this log ever holds it: the publisher's acknowledgement follows. The log
	// keeps e.Payload and e.Header. After an error the publisher sends the
	// message again under the same ID.
	Append(ctx context.Context, e Entry) (uint64, error)

	// Read fills dst with entries in order, beginning with the first one at from
	// or after it, and returns how many there were. It also returns the offset
	// of the oldest entry held at that moment; when that is greater than from,
	// the entries between them are gone. Read does not wait for new entries.
	Read(from uint64, dst []*Entry) (n int, first uint64, err error)

	// View returns the bounds of the log.
	View() View

	// Tag returns what identifies the entry at offset, and false if it is not
	// held. Messages are delivered without a tag of their own, so it must be the
	// 16 bytes of Entry.ID.
	Tag(offset uint64) ([]byte, bool)

	// Changed returns a channel that is closed once an entry is appended after
	// the call.
	Changed() <-chan struct{}
}

// Retention bounds a memory log. A zero field means the default, a negative
// one no bound. The newest entries that keep every bound are held.
type Retention struct {
	Count int           // entries; default 100,000
	Bytes int           // payloads, topics and headers; default 64 MiB
	Age   time.Duration // default: no bound
}

// MemoryLog is a Log in memory. Its epoch is random, so it never rewinds within
// one. It is safe for concurrent use.
type MemoryLog struct {
	epoch string
	base  []byte
	keep  Retention

	mu      sync.Mutex // leaf
	entries []*Entry   // contiguous offsets, the oldest first
	head    uint64
	bytes   int
	changed chan struct{} // nil while nobody asked
}

// NewMemoryLog returns an empty log.
func NewMemoryLog(keep Retention) *MemoryLog {
	if keep.Count == 0 {
		keep.Count = 100_000
	}
	if keep.Bytes == 0 {
		keep.Bytes = 64 << 20
	}
	var seed [24]byte
	rand.Read(seed[:]) // never fails (crypto/rand)
	return &MemoryLog{epoch: hex.EncodeToString(seed[:8]), base: seed[8:], keep: keep}
}

// Append implements Log. It does not wait and does not fail.
func (l *MemoryLog) Append(_ context.Context, e Entry) (uint64, error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head++
	e.Offset = l.head
	e.Time = now
	l.entries = append(l.entries, &e)
	l.bytes += e.size()
	l.trim(now)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return e.Offset, nil
}

// Read implements Log.
func (l *MemoryLog) Read(from uint64, dst []*Entry) (int, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trim(time.Now())
	first := l.first()
	if from > l.head {
		return 0, first, nil
	}
	return copy(dst, l.entries[max(from, first)-first:]), first, nil
}

// View implements Log.
func (l *MemoryLog) View() View {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trim(time.Now())
	return View{Epoch: l.epoch, Base: l.base, First: l.first(), Head: l.head, NoRewind: true}
}

// Tag implements Log.
func (l *MemoryLog) Tag(offset uint64) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.first()
	if offset < first || offset > l.head {
		return nil, false
	}
	id := l.entries[offset-first].ID
	return id[:], true
}

// Changed implements Log.
func (l *MemoryLog) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *MemoryLog) first() uint64 { return l.head + 1 - uint64(len(l.entries)) }

// trim drops the oldest entries that break a bound.
func (l *MemoryLog) trim(now time.Time) {
	n := 0
	for n < len(l.entries) {
		over := l.keep.Count > 0 && len(l.entries)-n > l.keep.Count ||
			l.keep.Bytes > 0 && l.bytes > l.keep.Bytes ||
			l.keep.Age > 0 && now.Sub(l.entries[n].Time) >= l.keep.Age
		if !over {
			break
		}
		l.bytes -= l.entries[n].size()
		n++
	}
	clear(l.entries[:n]) // the backing array lives on until append moves it
	l.entries = l.entries[n:]
}

func (e *Entry) size() int {
	n := len(e.Payload) + len(e.Topic) + len(e.Type)
	for k, v := range e.Header {
		n += len(k) + len(v)
	}
	return n
}
