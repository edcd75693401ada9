package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Entry is one message of a log. An Entry that a log has returned is shared by all
// its readers and must not be changed.
type Entry struct {
	Offset  uint64            // set by Append
	Time    time.Time         // when it was accepted; where a log does not keep it, its ids count from the start of the server
	ID      wire.ID           // message id
	Topic   string            // topic, without wildcards
	Payload []byte            // at most Options.MaxPayload bytes
	Type    string            // content type
	Header  map[string]string // application headers
	TTL     time.Duration     // lifetime given by the publisher; 0: no end
	Hash    uint64            // HashOf topic and payload, set by the server; 0: not known
}

// View is a consistent snapshot of the bounds of a log.
type View struct {
	// Epoch names the incarnation of the log's numbering: 1 to 255 bytes of
	// UTF-8. Positions of different epochs are unrelated.
	Epoch string

	// Base is a tag that stands for every position of this incarnation at which
	// no entry is held, such as the one before First. It must change whenever the
	// log may have lost its newest entries. Without one such a position cannot be
	// proved: a subscription that resumes there gets a Reset.
	Base []byte

	// First is the offset of the oldest entry held; Head+1 if there is none.
	First uint64

	// Head is the offset of the newest entry ever appended; 0 if there is none.
	Head uint64

	// NoRewind means that the log cannot lose its newest entries within an
	// epoch, so that a position older than First is known to have existed.
	NoRewind bool

	// Since is when the memory of a Store begins: of what was accepted before, it may
	// know nothing. Zero means that it knows all. A Log leaves it out.
	Since time.Time
}

// Log holds the messages of a server in one order, for a server that keeps its sessions
// in its own memory: Store is what outlives a server. Topics are filters on it. An
// implementation must be safe for concurrent use. To change a single method, embed
// one Log in another.
type Log interface {
	// Append stores e at the end and returns its offset, which is at least 1 and
	// greater than all earlier ones. When it returns no error, e must be as
	// durable as this log can make it: the acknowledgement to the publisher
	// follows. The log owns e.Payload and e.Header. After an error the publisher
	// sends the message again under the same ID. A log that several servers share
	// may return the offset of an entry with this ID that it has already, instead of
	// storing it again: a server knows only the ids that it has accepted itself.
	Append(ctx context.Context, e Entry) (uint64, error)

	// Read fills dst with entries in order, beginning with the first one at or
	// after from, and returns how many it has read. It also returns the offset of
	// the oldest entry held at that moment; if that is greater than from, the
	// entries in between are gone. Read does not wait for new entries.
	Read(from uint64, dst []*Entry) (n int, first uint64, err error)

	// View returns the bounds of the log.
	View() View

	// Tag returns the tag of the entry at offset, and false if no entry is held
	// there. The tag must be the 16 bytes of Entry.ID, because messages are
	// delivered without a tag.
	Tag(offset uint64) ([]byte, bool)

	// Changed returns a channel that is closed once an entry is appended after
	// the call.
	Changed() <-chan struct{}
}

// Retention bounds a memory log, which drops its oldest entries to keep every
// bound. A negative field means no bound.
type Retention struct {
	// Count bounds the entries. Defaults to 100,000.
	Count int

	// Bytes bounds payloads, topics, content types and headers together.
	// Defaults to 64 MiB.
	Bytes int

	// Age bounds the age of an entry. Defaults to no bound.
	Age time.Duration
}

// MemoryLog is a Log in memory. Its epoch is random, so it never rewinds within an
// epoch. It is safe for concurrent use.
type MemoryLog struct {
	epoch string
	base  []byte
	keep  Retention

	mu      sync.Mutex // leaf
	entries []*Entry   // contiguous offsets, the oldest first
	head    uint64
	bytes   int
	changed chan struct{} // nil until Changed is called
}

// NewMemoryLog returns an empty log that is bounded by keep.
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

// Append implements Log. It does not block and does not fail.
func (l *MemoryLog) Append(_ context.Context, e Entry) (uint64, error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(&e, now)
	l.added(now)
	return e.Offset, nil
}

// add appends e. The caller holds mu and calls added then.
func (l *MemoryLog) add(e *Entry, now time.Time) {
	l.head++
	e.Offset = l.head
	e.Time = now
	l.entries = append(l.entries, e)
	l.bytes += e.size()
}

// added follows when entries were added. The caller holds mu.
func (l *MemoryLog) added(now time.Time) {
	l.trim(now)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
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

// first returns the offset of the oldest entry held. The caller holds mu.
func (l *MemoryLog) first() uint64 { return l.head + 1 - uint64(len(l.entries)) }

// trim drops the oldest entries until every bound is kept. The caller holds mu.
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
	clear(l.entries[:n]) // the backing array lives until append replaces it
	l.entries = l.entries[n:]
}

// size returns how many bytes of Retention.Bytes e takes.
func (e *Entry) size() int {
	n := len(e.Payload) + len(e.Topic) + len(e.Type)
	for k, v := range e.Header {
		n += len(k) + len(v)
	}
	return n
}
