package server

import (
	"bytes"
	"container/heap"
	"container/list"
	"context"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// MemoryStoreOptions bounds a MemoryStore. A zero field means its default.
type MemoryStoreOptions struct {
	// Retention bounds the log.
	Retention Retention

	// MaxSessions bounds the sessions: see Options.MaxSessions. Defaults to 100,000.
	MaxSessions int

	// MaxIDs bounds the message ids: see Options.MaxIDs. Defaults to 262,144.
	MaxIDs int
}

// MemoryStore is a Store in memory, for the servers of one process. It never rewinds.
// It is safe for concurrent use.
type MemoryStore struct {
	log    *MemoryLog
	memory // guarded by log.mu
}

// NewMemoryStore returns an empty store; o may be nil.
func NewMemoryStore(o *MemoryStoreOptions) *MemoryStore {
	var opt MemoryStoreOptions
	if o != nil {
		opt = *o
	}
	if opt.MaxSessions <= 0 {
		opt.MaxSessions = defaultSessions
	}
	if opt.MaxIDs <= 0 {
		opt.MaxIDs = defaultIDs
	}
	return &MemoryStore{log: NewMemoryLog(opt.Retention), memory: newMemory(opt.MaxSessions, opt.MaxIDs)}
}

// storeOn returns a store on a log that may hold messages, whose ids it learns and keeps.
func storeOn(l *MemoryLog, maxSessions, maxIDs int, keep time.Duration) (*MemoryStore, error) {
	s := &MemoryStore{log: l, memory: newMemory(maxSessions, maxIDs)}
	return s, s.ids.load(l, keep)
}

// Load implements Store.
func (s *MemoryStore) Load(_ context.Context, session string) ([]byte, uint64, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	data, version := s.load(session, time.Now())
	return data, version, nil
}

// Commit implements Store. It does not block.
func (s *MemoryStore) Commit(_ context.Context, c *Change) (Committed, error) {
	now := time.Now()
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	k, err := s.check(c, now)
	if err != nil {
		return Committed{}, err
	}
	var first uint64
	if len(c.Entries) > 0 {
		first = s.log.head + 1
		for i := range c.Entries {
			s.log.add(&c.Entries[i], now)
		}
		s.log.added(now)
	}
	return s.apply(c, k, first, now), nil
}

// Known implements Store.
func (s *MemoryStore) Known(_ context.Context, who string, ids []wire.ID) ([]KnownID, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.ids.knownAmong(who, ids), nil
}

// Sync implements Store. There is nothing to wait for.
func (s *MemoryStore) Sync(context.Context) error { return nil }

// Read implements Store.
func (s *MemoryStore) Read(_ context.Context, from uint64, dst []*Entry) (int, uint64, error) {
	return s.log.Read(from, dst)
}

// View implements Store.
func (s *MemoryStore) View() View {
	v := s.log.View()
	v.Since = s.ids.since() // never changes
	return v
}

// Tag implements Store.
func (s *MemoryStore) Tag(_ context.Context, offset uint64) ([]byte, bool, error) {
	tag, held := s.log.Tag(offset)
	return tag, held, nil
}

// Changed implements Store.
func (s *MemoryStore) Changed() <-chan struct{} { return s.log.Changed() }

// Counts implements Counter.
func (s *MemoryStore) Counts() (sessions, ids int) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.expire(time.Now())
	return len(s.records), len(s.ids.known)
}

// memory is what a store keeps besides its log. Its owner has the lock.
type memory struct {
	max     int
	records map[string]*kept
	due     dues      // all records
	parked  list.List // *kept: not bound, the one that was detached first in front
	newest  uint64    // version
	ids     *ids
}

// kept is a record in memory.
type kept struct {
	session string
	data    []byte
	version uint64
	expires time.Time
	bound   bool
	place   *list.Element // in parked; nil while bound

	looked time.Time // when expire looks at it: at expires or before
	index  int       // in due
}

func newMemory(maxSessions, maxIDs int) memory {
	return memory{max: maxSessions, records: map[string]*kept{}, ids: newIDs(maxIDs)}
}

// load is Store.Load.
func (m *memory) load(session string, now time.Time) ([]byte, uint64) {
	m.expire(now)
	k := m.records[session]
	if k == nil {
		return nil, 0
	}
	return bytes.Clone(k.data), k.version
}

// check returns why c cannot be done, and the record that it replaces.
func (m *memory) check(c *Change, now time.Time) (k *kept, err error) {
	m.ids.expire(now.Sub(m.ids.start))
	if c.Session != "" {
		m.expire(now)
		k = m.records[c.Session]
		switch {
		case k == nil && c.Version != 0, k != nil && k.version != c.Version:
			return nil, ErrConflict
		case k == nil && c.Record != nil && len(m.records) >= m.max && m.parked.Len() == 0:
			return nil, ErrFull
		}
	}
	var known []KnownID
	o := m.ids.owner(c.Who)
	for i := range c.Entries {
		if k, ok := m.ids.find(o, c.Entries[i].ID); ok {
			known = append(known, k)
		}
	}
	for i := range c.Refused {
		if k, ok := m.ids.find(o, c.Refused[i].ID); ok {
			known = append(known, k)
		}
	}
	if known != nil {
		return nil, &KnownError{known}
	}
	if !c.Oldest.IsZero() && !m.ids.remembers(c.Oldest) {
		return nil, ErrForgotten
	}
	return k, nil
}

// apply does c, which replaces k and whose entries are in the log from the offset first on.
func (m *memory) apply(c *Change, k *kept, first uint64, now time.Time) Committed {
	done := Committed{Version: m.record(c, k, now)}
	n := len(c.Entries)
	if n+len(c.Refused) == 0 {
		return done
	}
	out := make([]idEntry, n, n+len(c.Refused))
	for i := range c.Entries {
		e := &c.Entries[i]
		done.Offset = first + uint64(i)
		out[i] = idEntry{id: e.ID, outcome: outcome{offset: done.Offset, hash: e.Hash}}
	}
	for _, r := range c.Refused {
		out = append(out, idEntry{id: r.ID, outcome: outcome{code: r.Code, hash: r.Hash}})
	}
	m.ids.remember(c.Who, out, now, c.Keep)
	return done
}

// record stores the record of c in the place of k and returns its version.
func (m *memory) record(c *Change, k *kept, now time.Time) uint64 {
	if c.Session == "" {
		return 0
	}
	if c.Record == nil {
		if k != nil {
			m.drop(k)
		}
		return 0
	}
	m.newest++
	expires := now.Add(c.TTL)
	if k == nil {
		for len(m.records) >= m.max && m.parked.Len() > 0 {
			m.drop(m.parked.Front().Value.(*kept))
		}
		k = &kept{session: c.Session, looked: expires}
		m.records[c.Session] = k
		heap.Push(&m.due, k)
	} else if expires.Before(k.looked) {
		k.looked = expires
		heap.Fix(&m.due, k.index)
	}
	k.data, k.version, k.expires, k.bound = append(k.data[:0], c.Record...), m.newest, expires, c.Bound
	switch {
	case k.bound && k.place != nil:
		m.parked.Remove(k.place)
		k.place = nil
	case !k.bound && k.place == nil:
		k.place = m.parked.PushBack(k)
	case !k.bound:
		m.parked.MoveToBack(k.place)
	}
	return m.newest
}

// drop removes a record.
func (m *memory) drop(k *kept) {
	if k.place != nil {
		m.parked.Remove(k.place)
	}
	heap.Remove(&m.due, k.index)
	delete(m.records, k.session)
}

// expire drops the records whose time is over.
func (m *memory) expire(now time.Time) {
	for len(m.due) > 0 && !now.Before(m.due[0].looked) {
		k := m.due[0]
		if now.Before(k.expires) {
			k.looked = k.expires
			heap.Fix(&m.due, 0)
			continue
		}
		m.drop(k)
	}
}

// dues are records by the time at which expire looks at them.
type dues []*kept

func (d dues) Len() int           { return len(d) }
func (d dues) Less(i, j int) bool { return d[i].looked.Before(d[j].looked) }
func (d dues) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push implements heap.Interface.
func (d *dues) Push(x any) {
	k := x.(*kept)
	k.index = len(*d)
	*d = append(*d, k)
}

// Pop implements heap.Interface.
func (d *dues) Pop() any {
	old := *d
	k := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return k
}
