package server

import (
	"context"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// outcome is what became of a message.
type outcome struct {
	code   uint64 // 0: accepted
	offset uint64
}

// ids remembers the outcome of every message id for the horizon `dedup`
// (docs/protocol.md, sections 3 and 4), and at most max of them.
type ids struct {
	keep  time.Duration
	max   int
	start time.Time

	mu    sync.Mutex // leaf
	known map[wire.ID]*idEntry
	order []*idEntry // by time, from head on
	head  int

	// forgotten is when the newest id was accepted that had to go before its
	// time. A message first sent before it may have been accepted, too.
	forgotten time.Duration
}

type idEntry struct {
	id      wire.ID
	who     string        // the principal's ID
	adopted bool          // from the log, which does not say who
	at      time.Duration // since start
	outcome outcome
	pending bool          // reserved: no outcome yet
	wait    chan struct{} // closed when pending ends; nil while nobody waits
}

func (e *idEntry) settle() {
	e.pending = false
	if e.wait != nil {
		close(e.wait)
		e.wait = nil
	}
}

// idMargin is how much longer than the announced horizon an id is kept: the age
// of a message was true when it was written, not when it arrived.
const idMargin = time.Minute

func newIDs(horizon time.Duration, maximum int) *ids {
	return &ids{keep: horizon + idMargin, max: maximum, start: time.Now(), forgotten: -1 << 62, known: map[wire.ID]*idEntry{}}
}

// reserve returns the outcome of id if it is known. Otherwise the caller has
// the id for itself until it calls resolve or release. It waits while another
// connection of who has it, until ctx ends. The outcome of somebody else's id is
// not told.
func (s *ids) reserve(ctx context.Context, id wire.ID, who string) (o outcome, known bool, err error) {
	for {
		now := time.Since(s.start)
		s.mu.Lock()
		s.expire(now)
		e := s.known[id]
		if e == nil {
			s.known[id] = &idEntry{id: id, who: who, pending: true}
			s.mu.Unlock()
			return outcome{}, false, nil
		}
		if e.who != who && !e.adopted {
			s.mu.Unlock()
			return outcome{code: native.CodeUnknownOutcome}, true, nil
		}
		if !e.pending {
			o = e.outcome
			s.mu.Unlock()
			return o, true, nil
		}
		if e.wait == nil {
			e.wait = make(chan struct{})
		}
		wait := e.wait
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return outcome{}, false, ctx.Err()
		}
	}
}

// resolve stores the outcome of a reserved id.
func (s *ids) resolve(id wire.ID, o outcome) {
	now := time.Since(s.start)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[id]
	e.outcome, e.at = o, now
	e.settle()
	s.order = append(s.order, e)
	s.expire(now)
}

// release gives a reserved id back without an outcome.
func (s *ids) release(id wire.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[id].settle()
	delete(s.known, id)
}

// remembers reports whether an id accepted age ago would still be known.
func (s *ids) remembers(age time.Duration) bool {
	now := time.Since(s.start)
	s.mu.Lock()
	defer s.mu.Unlock()
	return now-age > s.forgotten
}

func (s *ids) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known)
}

func (s *ids) expire(now time.Duration) {
	for s.head < len(s.order) {
		e := s.order[s.head]
		old := now-e.at >= s.keep
		if !old && len(s.order)-s.head <= s.max {
			break
		}
		if !old {
			s.forgotten = max(s.forgotten, e.at)
		}
		delete(s.known, e.id)
		s.order[s.head] = nil
		s.head++
	}
	if s.head > 64 && s.head > len(s.order)/2 {
		n := copy(s.order, s.order[s.head:])
		clear(s.order[n:])
		s.order, s.head = s.order[:n], 0
	}
}

// load remembers the ids that a log already holds, so that a message accepted
// by an earlier server on the same log is not accepted again.
func (s *ids) load(l Log) error {
	v := l.View()
	if v.First > 1 {
		s.forgotten = 0 // what was trimmed may have been accepted until now
	}
	buf := make([]*Entry, 256)
	for from := v.First; ; {
		n, _, err := l.Read(from, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		for i, e := range buf[:n] {
			if i == 0 && from == v.First && v.First > 1 {
				s.forgotten = e.Time.Sub(s.start)
			}
			s.adopt(e)
		}
		from = buf[n-1].Offset + 1
	}
}

func (s *ids) adopt(entry *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[entry.ID] != nil {
		return
	}
	e := &idEntry{id: entry.ID, adopted: true, at: entry.Time.Sub(s.start), outcome: outcome{offset: entry.Offset}}
	s.known[e.id] = e
	s.order = append(s.order, e)
	s.expire(time.Since(s.start))
}
