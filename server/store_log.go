package server

import (
	"context"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// logStore is the Store of a server with Options.Log: the log is the program's, records
// and ids are in memory. Append is one entry, so a Change has one at most (runLimit).
type logStore struct {
	log Log

	mu      sync.Mutex // leaf: never held during Append
	memory  memory
	busy    map[string]struct{}     // sessions with an Append in progress
	pending map[messageKey]struct{} // ids with an Append in progress
	wait    chan struct{}           // closed when an Append ends; nil unless a Commit waits for it
}

// newLogStore returns a store on l, of which it learns the ids.
func newLogStore(l Log, maxSessions, maxIDs int, keep time.Duration) (*logStore, error) {
	s := &logStore{log: l, memory: newMemory(maxSessions, maxIDs), busy: map[string]struct{}{}, pending: map[messageKey]struct{}{}}
	return s, s.memory.ids.load(l, keep)
}

// Load implements Store.
func (s *logStore) Load(_ context.Context, session string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, version := s.memory.load(session, time.Now())
	return data, version, nil
}

// Commit implements Store. While the log appends a message, another Commit for the
// same session or the same id waits for the end.
func (s *logStore) Commit(ctx context.Context, c *Change) (Committed, error) {
	done, err := s.begin(ctx, c)
	if err != nil || len(c.Entries) == 0 {
		return done, err
	}
	var first uint64
	err = errGoexit
	defer func() { // also if the log panics or ends this goroutine
		if err != nil {
			s.mu.Lock()
			s.release(c)
			s.mu.Unlock()
		}
	}()
	if first, err = s.log.Append(ctx, c.Entries[0]); err != nil {
		return Committed{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(c)
	return s.memory.apply(c, s.memory.records[c.Session], first, time.Now()), nil
}

// begin does a change without an entry, and reserves the session and the id of one that has
// an entry.
func (s *logStore) begin(ctx context.Context, c *Change) (Committed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inUse(c) {
		if s.wait == nil {
			s.wait = make(chan struct{})
		}
		wait := s.wait
		s.mu.Unlock()
		var err error
		select {
		case <-wait:
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		if err != nil {
			return Committed{}, err
		}
	}
	now := time.Now()
	k, err := s.memory.check(c, now)
	if err != nil {
		return Committed{}, err
	}
	if len(c.Entries) == 0 {
		return s.memory.apply(c, k, 0, now), nil
	}
	if c.Session != "" {
		s.busy[c.Session] = struct{}{}
	}
	s.pending[messageKey{id: c.Entries[0].ID, who: c.Who}] = struct{}{}
	return Committed{}, nil
}

// inUse reports whether c has to wait for another one. The caller holds mu.
func (s *logStore) inUse(c *Change) bool {
	_, busy := s.busy[c.Session]
	for i := range c.Entries {
		_, pending := s.pending[messageKey{id: c.Entries[i].ID, who: c.Who}]
		busy = busy || pending
	}
	for _, r := range c.Refused {
		_, pending := s.pending[messageKey{id: r.ID, who: c.Who}]
		busy = busy || pending
	}
	return busy
}

// release ends what begin has reserved. The caller holds mu.
func (s *logStore) release(c *Change) {
	delete(s.busy, c.Session)
	delete(s.pending, messageKey{id: c.Entries[0].ID, who: c.Who})
	if s.wait != nil {
		close(s.wait)
		s.wait = nil
	}
}

// Known implements Store.
func (s *logStore) Known(_ context.Context, who string, ids []wire.ID) ([]KnownID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.ids.knownAmong(who, ids), nil
}

// Sync implements Store.
func (s *logStore) Sync(context.Context) error { return nil }

// Read implements Store.
func (s *logStore) Read(_ context.Context, from uint64, dst []*Entry) (int, uint64, error) {
	return s.log.Read(from, dst)
}

// View implements Store.
func (s *logStore) View() View {
	v := s.log.View()
	v.Since = s.memory.ids.since() // never changes
	return v
}

// Tag implements Store.
func (s *logStore) Tag(_ context.Context, offset uint64) ([]byte, bool, error) {
	tag, held := s.log.Tag(offset)
	return tag, held, nil
}

// Changed implements Store.
func (s *logStore) Changed() <-chan struct{} { return s.log.Changed() }

// Counts implements Counter.
func (s *logStore) Counts() (sessions, ids int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory.expire(time.Now())
	return len(s.memory.records), len(s.memory.ids.known)
}
