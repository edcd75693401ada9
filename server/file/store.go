package file

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

const (
	maxBatch  = 16 << 20  // bytes that wait for a sync, before a Commit waits as well
	maxCommit = 512 << 20 // bytes of one Commit
)

// Store is a server.Store in a directory. Create one with Open. It is safe for concurrent use.
type Store struct {
	path string
	tag  [16]byte // names the log: see View.Epoch
	base []byte   // a new one with each Open: the directory may be an older copy
	made time.Time
	turn chan struct{} // held by the one who writes

	mu      sync.Mutex // leaf: not held during I/O
	state   state      // as decided; what is not durable yet is in pending or in writing
	pending *batch     // nil: nothing
	writing *batch     // nil: nothing
	visible uint64     // offset of the newest message that is durable
	stuck   bool       // a batch waits until the file system has room
	refused error      // why nothing more is written
	changed chan struct{}

	// Those below belong to the one who has the turn.
	files   segment.Files
	current segment.Header
	file    segment.Handle // of the newest segment
	end     int64          // of its records
	written bounds
}

// bounds are what the header of a segment needs to know of those before it.
type bounds struct {
	head, newest uint64
	forgotten    int64
}

// batch is what becomes durable with one sync.
type batch struct {
	record []byte // after room for its frame
	bounds        // after it
	done   chan struct{}
	err    error // set before done is closed
}

func newBatch() *batch {
	return &batch{record: make([]byte, segment.FrameSize), done: make(chan struct{})}
}

// Load implements server.Store. It waits until what it returns is durable.
func (s *Store) Load(ctx context.Context, session string) ([]byte, uint64, error) {
	if err := s.usable(ctx); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	r := s.state.find(session, time.Now())
	var data []byte
	var version uint64
	if r != nil {
		data, version = bytes.Clone(r.data), r.version
	}
	b := s.last()
	s.mu.Unlock()
	if err := s.settle(ctx, b); err != nil {
		return nil, 0, err
	}
	return data, version, nil
}

// Commit implements server.Store. Those that come during a sync share the next one. A change is decided in memory and then
// written, so also a refusal waits until what it follows from is durable. ctx does not end a write that has begun.
//
// An error that wraps ErrFull means that the change is done when there is room, or never; the next Commit tries. After an error that wraps
// ErrUncertain all later calls but View, Read, Tag and Changed return it.
func (s *Store) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	size := len(c.Record) + overhead
	for i := range c.Entries {
		size += sizeOf(&c.Entries[i]) + len(c.Who) + 2*overhead + 20*len(c.Entries[i].Header)
	}
	if size += len(c.Refused) * (len(c.Who) + overhead); size > maxCommit {
		return server.Committed{}, fmt.Errorf("server/file: a change of %d bytes, at most %d", size, maxCommit)
	}
	for {
		if err := s.usable(ctx); err != nil {
			return server.Committed{}, err
		}
		s.mu.Lock()
		if s.pending == nil || len(s.pending.record) < maxBatch {
			break
		}
		b := s.pending
		s.mu.Unlock()
		if err := s.settle(ctx, b); err != nil {
			return server.Committed{}, err
		}
	}
	now := time.Now()
	err := s.refused
	if err == nil {
		err = s.state.check(c, now)
	}
	var done server.Committed
	if err == nil {
		done = s.apply(c, now)
	}
	b := s.last()
	s.mu.Unlock()
	if failed := s.settle(ctx, b); failed != nil {
		return server.Committed{}, failed
	}
	return done, err
}

// apply does c, which state.check allows, in memory, and adds it to the batch. The caller holds mu.
func (s *Store) apply(c *server.Change, now time.Time) (done server.Committed) {
	if s.pending == nil {
		s.pending = newBatch()
	}
	number, st := s.current.Number, &s.state
	b, until := s.pending.record, now.Add(c.Keep)
	for i := range c.Entries {
		e := &c.Entries[i]
		e.Offset, e.Time = st.head+1, now
		done.Offset = e.Offset
		st.add(e, number)
		b = appendEntry(b, isMessage, e)
		k := &id{idKey: idKey{e.ID, c.Who}, at: now, until: until, segment: number}
		k.KnownID = server.KnownID{ID: e.ID, Hash: e.Hash, Offset: e.Offset}
		st.remember(k)
		b = appendID(b, k)
	}
	for _, r := range c.Refused {
		k := &id{idKey: idKey{r.ID, c.Who}, at: now, until: until, segment: number}
		k.KnownID = server.KnownID{ID: r.ID, Hash: r.Hash, Code: r.Code}
		st.remember(k)
		b = appendID(b, k)
	}
	if c.Session != "" {
		done.Version, b = s.record(b, c, now)
	}
	st.forget(now)
	st.trim(now)
	s.pending.record, s.pending.bounds = b, bounds{st.head, st.newest, st.forgotten}
	return done
}

// record stores or removes the record of c, and returns its version and b with it. The caller holds mu.
func (s *Store) record(b []byte, c *server.Change, now time.Time) (uint64, []byte) {
	st := &s.state
	old := st.find(c.Session, now)
	if c.Record == nil {
		if old != nil {
			st.drop(old)
			b = segment.AppendBytes(append(b, isRemoved), c.Session)
		}
		return 0, b
	}
	for old == nil && len(st.records) >= st.opt.MaxSessions && st.parked.Len() > 0 {
		gone := st.parked.Front().Value.(*record)
		st.drop(gone)
		b = segment.AppendBytes(append(b, isRemoved), gone.session)
	}
	r := &record{
		session: c.Session, data: bytes.Clone(c.Record), version: st.newest + 1, expires: now.Add(c.TTL), bound: c.Bound,
		segment: s.current.Number,
	}
	st.put(r)
	return r.version, appendRecord(b, r)
}

// Known implements server.Store. It waits until what it returns is durable.
func (s *Store) Known(ctx context.Context, who string, ids []wire.ID) (known []server.KnownID, err error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.state.forget(time.Now())
	for _, one := range ids {
		if k := s.state.known[idKey{one, who}]; k != nil {
			known = append(known, k.KnownID)
		}
	}
	b := s.last()
	s.mu.Unlock()
	if known == nil {
		return nil, nil
	}
	if err := s.settle(ctx, b); err != nil {
		return nil, err
	}
	return known, nil
}

// Sync implements server.Store.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	b := s.last()
	s.mu.Unlock()
	return s.settle(ctx, b)
}

// Read implements server.Store. It returns messages that are durable.
func (s *Store) Read(_ context.Context, from uint64, dst []*server.Entry) (n int, first uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.trim(time.Now())
	first = s.state.first()
	for offset := max(from, first); offset <= s.visible && n < len(dst); offset++ {
		dst[n] = s.state.entries[offset-first].Entry
		n++
	}
	return n, min(first, s.visible+1), nil
}

// View implements server.Store. The epoch stays the same as long as the directory lives. The directory may have been restored from
// a backup, which the store cannot see: so Base is another one after each Open, and NoRewind is not set.
func (s *Store) View() server.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.trim(time.Now())
	return server.View{
		Epoch: hex.EncodeToString(s.tag[:8]), Base: s.base, First: min(s.state.first(), s.visible+1), Head: s.visible, Since: s.made,
	}
}

// Tag implements server.Store.
func (s *Store) Tag(_ context.Context, offset uint64) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.state.first()
	if offset < first || offset > s.visible {
		return nil, false, nil
	}
	id := s.state.entries[offset-first].ID
	return id[:], true, nil
}

// Counts implements server.Counter. A session whose time is over may count for a second more.
func (s *Store) Counts() (sessions, ids int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.state.swept) >= time.Second {
		s.state.sweep(now)
	}
	s.state.forget(now)
	return len(s.state.records), len(s.state.known)
}

// Health returns why nothing is committed any more: an error that wraps ErrUncertain or ErrClosed. Restart the process then. It does not
// block, and it does not look at the disk: what is wrong there shows in the next Commit. ErrFull is no reason, because the next Commit
// tries again.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
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

// Close makes durable what was committed, and releases the lock. All calls but View, Read, Tag and Changed return ErrClosed from
// then on. Close may be called more than once. Call it after Server.Close.
func (s *Store) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	refused := s.refused
	s.mu.Unlock()
	if errors.Is(refused, ErrClosed) {
		return nil
	}
	s.write()
	s.mu.Lock()
	failed := s.refused
	s.refused = ErrClosed
	if s.pending != nil { // there is no room
		s.pending.err = ErrClosed
		close(s.pending.done)
		s.pending = nil
	}
	s.mu.Unlock()
	var err error
	if failed == nil {
		err = s.mark()
	}
	if err = errors.Join(err, s.file.Close(), s.files.Close()); err != nil {
		return failure("close", s.path, err)
	}
	return nil
}

// newTag returns a random name for a log.
func newTag() (tag [16]byte) {
	_, _ = rand.Read(tag[:]) // never fails
	return tag
}
