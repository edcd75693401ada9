package jetstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// Store is a server.Store on a stream. Create one with Open. It is safe for concurrent use.
type Store struct {
	opt    Options
	conn   *nats.Conn
	ctx    context.Context // of the store; its cause says why it ended
	cancel context.CancelCauseFunc
	work   sync.WaitGroup
	denied atomic.Pointer[denial] // the newest
	reads  chan struct{}          // has a place for each read of older messages
	moved  chan struct{}          // tells the tail that the epoch has changed
	counts counters

	mu      sync.Mutex // leaf
	epoch   string
	base    []byte
	version uint64 // generation of the epoch, in the place that it has in a version
	made    time.Time
	limits  limits
	known   uint64 // the greatest sequence of which this store knows that it was committed
	ring    ring
	older   runs
	ids     idMemory
	at      uint64    // sequence of the newest message that the tail has delivered
	heard   time.Time // when the tail has last heard of its consumer
	refused error     // why the newest message of a plain publisher that was left out was; nil: there was none
	failed  error     // of the newest look at the stream; nil: it was answered
	changed chan struct{}
	arrived chan struct{} // closed when at rises; nil unless a Sync waits
	waiting *flight       // Syncs that have not begun; nil: none
	flying  bool          // a goroutine runs them
}

// denial is that the servers refuse a subject.
type denial struct {
	text string // names the subject
	at   time.Time
}

// limits are what the newest look at the stream has shown.
type limits struct {
	first     uint64    // sequence of the oldest message, of any kind
	firstTime time.Time // of it
	trimmed   bool      // messages may have been trimmed before their age
	last      uint64    // newest sequence
}

// generationShift is where the generation of the epoch is in a version. The sequence is below.
const generationShift = 48

func newStore(opt Options) *Store {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Store{
		opt: opt, ctx: ctx, cancel: cancel, reads: make(chan struct{}, maxReads), moved: make(chan struct{}, 1),
		ring: ring{limit: opt.RingBytes}, older: runs{limit: opt.RingBytes / 4}, ids: newIDMemory(opt.MaxIDs, opt.Dedup+keepMargin),
		heard: time.Now(), limits: limits{first: 1},
	}
}

// adopt begins the epoch that i has, if it is another one.
func (s *Store) adopt(i *jetstream.StreamInfo) {
	epoch := epochOf(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch == s.epoch {
		return
	}
	if s.epoch != "" {
		s.counts.epochs.Add(1)
	}
	generation, _ := strconv.ParseUint(i.Config.Metadata[metaGeneration], 10, 15)
	sum := sha256.Sum256([]byte("base " + epoch))
	s.epoch, s.base, s.version, s.made = epoch, sum[:16], generation<<generationShift, i.Created
	s.known, s.at = i.State.LastSeq, 0
	s.limits = limitsOf(i)
	s.ring.reset(i.State.LastSeq+1, i.State.FirstSeq)
	s.older.reset()
	s.ids.reset()
	s.wake()
	s.reached()
	s.restart()
}

func limitsOf(i *jetstream.StreamInfo) limits {
	bounded := i.Config.MaxMsgs > 0 || i.Config.MaxBytes > 0
	l := limits{first: max(i.State.FirstSeq, 1), firstTime: i.State.FirstTime, last: i.State.LastSeq}
	l.trimmed = bounded && l.first > 1
	return l
}

// wake closes what Changed has returned. The caller holds mu.
func (s *Store) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// reached wakes what waits for the tail. The caller holds mu.
func (s *Store) reached() {
	if s.arrived != nil {
		close(s.arrived)
		s.arrived = nil
	}
}

// Changed implements server.Store.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// View implements server.Store. A stream may lose its newest messages when servers lose power or are restored, so NoRewind is
// not set; another epoch says that it has.
func (s *Store) View() server.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return server.View{Epoch: s.epoch, Base: s.base, First: s.first(), Head: max(s.ring.head, s.limits.first-1), Since: s.made}
}

// first returns View.First: from there on this store can read all messages. The caller holds mu.
func (s *Store) first() uint64 { return min(s.limits.first, s.ring.head+1) }

// Load implements server.Store. It asks the leader of the stream.
func (s *Store) Load(ctx context.Context, id string) ([]byte, uint64, error) {
	defer s.counts.pending.Begin(time.Now())()
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	s.mu.Lock()
	generation := s.version
	s.mu.Unlock()
	r, err := s.load(ctx, id)
	if err != nil || r.seq == 0 || r.gone {
		return nil, 0, err
	}
	return r.data, generation | r.seq, nil
}

// load returns the record of a session as the leader has it.
func (s *Store) load(ctx context.Context, id string) (*record, error) {
	if len(id) > maxSession {
		return &record{}, nil
	}
	m, err := s.get(ctx, wanted{Last: session(s.opt.Log, id)})
	switch {
	case errors.Is(err, errNotFound):
		return &record{}, nil
	case err != nil:
		return nil, err
	}
	return m.record(time.Now())
}

// Known implements server.Store. It knows the newest Options.MaxIDs ids that the Store has read from the stream.
func (s *Store) Known(_ context.Context, who string, ids []wire.ID) (known []server.KnownID, err error) {
	if s.ctx.Err() != nil {
		return nil, s.ended()
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if k, ok := s.ids.find(keyOf(who, id), now); ok {
			known = append(known, k)
		}
	}
	return known, nil
}

// remembers reports whether the stream knows all ids of messages that were accepted since t.
func (s *Store) remembers(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Before(s.made) || time.Since(t) > s.opt.Dedup+keepMargin {
		return false
	}
	// A server that starts learns the ids from the messages.
	return !s.limits.trimmed || t.After(s.limits.firstTime)
}

// ring has the newest messages of a log: all from the sequence from on, up to the newest one that was delivered.
type ring struct {
	limit   int
	bytes   int
	entries []*server.Entry
	from    uint64
	head    uint64 // offset of the newest entry ever; before there was one, the offset before the oldest that may come
}

// reset empties the ring. Entries that come have offsets of at least from; first is the oldest sequence of the stream.
func (r *ring) reset(from, first uint64) {
	clear(r.entries)
	r.entries, r.bytes, r.from, r.head = r.entries[:0], 0, from, max(first, 1)-1
}

func (r *ring) add(e *server.Entry) {
	r.entries = append(r.entries, e)
	r.bytes += sizeOf(e)
	r.head = e.Offset
	n := 0
	for r.bytes > r.limit && n < len(r.entries)-1 {
		r.bytes -= sizeOf(r.entries[n])
		r.from = r.entries[n].Offset + 1
		n++
	}
	clear(r.entries[:n]) // the backing array lives until append replaces it
	r.entries = r.entries[n:]
}

// since returns the entries with an offset of at least from.
func since(all []*server.Entry, from uint64) []*server.Entry {
	return all[sort.Search(len(all), func(i int) bool { return all[i].Offset >= from }):]
}

// sizeOf returns about how many bytes of memory e takes.
func sizeOf(e *server.Entry) int {
	n := 200 + len(e.Payload) + len(e.Topic) + len(e.Type)
	for k, v := range e.Header {
		n += 64 + len(k) + len(v)
	}
	return n
}

// idMemory has the newest ids that are known.
type idMemory struct {
	limit int
	keep  time.Duration
	known map[idKey]knownID
	order []idKey // the oldest first
}

type knownID struct {
	server.KnownID
	at time.Time
}

func newIDMemory(limit int, keep time.Duration) idMemory {
	return idMemory{limit: limit, keep: keep, known: map[idKey]knownID{}}
}

func (m *idMemory) reset() {
	clear(m.known)
	m.order = nil
}

func (m *idMemory) add(k idKey, known server.KnownID, at time.Time) {
	if _, ok := m.known[k]; !ok {
		m.order = append(m.order, k)
	}
	m.known[k] = knownID{known, at}
	for len(m.order) > m.limit {
		delete(m.known, m.order[0])
		m.order = m.order[1:]
	}
}

func (m *idMemory) find(k idKey, now time.Time) (server.KnownID, bool) {
	found, ok := m.known[k]
	return found.KnownID, ok && now.Sub(found.at) < m.keep
}
