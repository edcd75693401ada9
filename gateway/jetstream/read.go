package jetstream

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/limpet-go/limpet/server"
)

const (
	maxReads  = 8       // of older messages at a time
	readCount = 512     // messages of one read
	readSize  = 4 << 20 // bytes of one read, about
)

// Read implements server.Store. It reads the newest messages from memory, and older ones from whichever server answers; there are eight
// such reads at a time, others wait.
func (s *Store) Read(ctx context.Context, from uint64, dst []*server.Entry) (n int, first uint64, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	at, before := from, ""
	for try := 0; ; try++ {
		n, first, next, epoch, done := s.readMemory(at, dst)
		if at != from && epoch != before {
			at = from
			continue
		}
		if done {
			if try == 0 {
				s.counts.hits.Add(1)
			}
			return n, first, nil
		}
		err := s.readOlder(ctx, next, epoch)
		if err == nil {
			at, before = next, epoch
			continue
		}
		if !silent(err) && !errors.Is(err, errBehind) || ctx.Err() != nil {
			return 0, 0, s.noAnswer(ctx, err)
		}
		if err := pause(ctx, try); err != nil {
			return 0, 0, s.noAnswer(ctx, err)
		}
	}
}

// readMemory reads what is in memory. done is false if the messages at next are not, and there is nothing to read between from and next.
func (s *Store) readMemory(from uint64, dst []*server.Entry) (n int, first, next uint64, epoch string, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = s.first()
	for next = max(from, first); next <= s.ring.head && next < s.ring.from; {
		r := s.older.find(next)
		if r == nil {
			return 0, first, next, s.epoch, false
		}
		if n = copy(dst, since(r.entries, next)); n > 0 || len(dst) == 0 {
			return n, first, next, s.epoch, true
		}
		next = r.to + 1 // the rest of it was left out
	}
	return copy(dst, since(s.ring.entries, next)), first, next, s.epoch, true
}

// errBehind means that a server has not yet, or no longer, what was read.
var errBehind = errors.New("the server that answered is behind")

// readOlder reads messages from the stream into memory.
func (s *Store) readOlder(ctx context.Context, from uint64, epoch string) error {
	s.counts.waiting.Add(1)
	defer s.counts.waiting.Add(-1)
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	there := s.older.find(from) != nil // another reader has read it
	s.mu.Unlock()
	if there {
		return nil
	}
	s.counts.reads.Add(1)
	all, err := s.direct(ctx, from, readCount, min(readSize, s.opt.RingBytes/8))
	if err != nil {
		return err
	}
	r := &run{from: from, bytes: 1 << 10} // without entries it takes room, too
	for _, m := range all {
		e, _, err := m.entry(&s.opt)
		if err != nil {
			continue // it is left out
		}
		r.entries = append(r.entries, e)
		r.bytes += sizeOf(e)
	}
	// The server may be behind, and it may have messages that were lost with another leader. If the leader has the last one, it has
	// those before it. The bounds are asked for after the read: trimmed messages are not missing.
	if n := len(all); n > 0 {
		last := all[n-1]
		r.to = last.seq
		m, err := s.get(ctx, wanted{Seq: last.seq})
		if err == nil && !m.same(last) || errors.Is(err, errNotFound) {
			return errBehind
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.look(ctx, false); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.epoch != epoch || s.limits.first > from: // read again, from where there is something
		return nil
	case len(all) == 0:
		return errBehind
	}
	s.older.add(r)
	return nil
}

// Tag implements server.Store.
func (s *Store) Tag(ctx context.Context, offset uint64) ([]byte, bool, error) {
	s.mu.Lock()
	var found *server.Entry
	all, certain := s.ring.entries, offset < s.first() || offset >= s.ring.from || offset > s.ring.head
	if r := s.older.find(offset); r != nil && !certain {
		all, certain = r.entries, true
	}
	if all = since(all, offset); certain && offset >= s.first() && len(all) > 0 && all[0].Offset == offset {
		found = all[0]
	}
	s.mu.Unlock()
	switch {
	case found != nil:
		return found.ID[:], true, nil
	case certain:
		return nil, false, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	m, err := s.get(ctx, wanted{Seq: offset})
	if errors.Is(err, errNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if _, _, e, err := m.outcome(&s.opt); err == nil && e != nil {
		return e.ID[:], true, nil
	}
	return nil, false, nil
}

// runs are older messages that were read, the oldest read first.
type runs struct {
	limit int
	bytes int
	all   []*run
}

// same reports whether two reads have found the same message.
func (m *stored) same(other *stored) bool {
	return m.seq == other.seq && m.subject == other.subject && m.at.Equal(other.at) && bytes.Equal(m.data, other.data)
}

// run has all entries with offsets from from up to to.
type run struct {
	from, to uint64
	entries  []*server.Entry
	bytes    int
}

func (r *runs) reset() { r.all, r.bytes = nil, 0 }

// find returns a run that has the entries at offset and after it; nil if there is none.
func (r *runs) find(offset uint64) *run {
	for _, one := range r.all {
		if one.from <= offset && offset <= one.to {
			return one
		}
	}
	return nil
}

// add keeps one. Runs without entries that follow each other become one: there may be many, and a reader must get over all of them.
func (r *runs) add(one *run) {
	for i, other := range r.all {
		if len(one.entries)+len(other.entries) == 0 && other.to+1 == one.from {
			one.from = other.from
			r.bytes -= other.bytes
			r.all = slices.Delete(r.all, i, i+1)
			break
		}
	}
	r.all = append(r.all, one)
	r.bytes += one.bytes
	for r.bytes > r.limit && len(r.all) > 1 {
		r.bytes -= r.all[0].bytes
		r.all[0] = nil
		r.all = r.all[1:]
	}
}
