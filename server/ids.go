package server

import (
	"context"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
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
	known map[idKey]*idEntry
	order []*idEntry // by time, from head on
	head  int

	// forgotten is when the newest id was accepted that had to go before its
	// time. A message first sent before it may have been accepted, too.
	forgotten time.Duration
}

// idKey is an id of one principal: whoever guesses another's ids, which rise in
// small steps or are made from the caller's data, must not have its messages
// taken for repetitions.
type idKey struct {
	id      wire.ID
	who     string // the principal's ID
	adopted bool   // from the log, which does not say who: counts for everybody
}

type idEntry struct {
	key     idKey
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
	return &ids{keep: horizon + idMargin, max: maximum, start: time.Now(), forgotten: -1 << 62, known: map[idKey]*idEntry{}}
}

// reserve returns the outcome of k if it is known. Otherwise the caller has
// the id for itself until it calls resolve or release. It waits while another
// connection has it, until ctx ends.
func (s *ids) reserve(ctx context.Context, k idKey) (o outcome, known bool, err error) {
	for {
		now := time.Since(s.start)
		s.mu.Lock()
		s.expire(now)
		e := s.known[k]
		if e == nil {
			e = s.known[idKey{id: k.id, adopted: true}]
		}
		if e == nil {
			s.known[k] = &idEntry{key: k, pending: true}
			s.mu.Unlock()
			return outcome{}, false, nil
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
func (s *ids) resolve(k idKey, o outcome) {
	now := time.Since(s.start)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[k]
	e.outcome, e.at = o, now
	e.settle()
	s.order = append(s.order, e)
	s.expire(now)
}

// release gives a reserved id back without an outcome.
func (s *ids) release(k idKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[k].settle()
	delete(s.known, k)
}

// remembers reports whether an id accepted age ago would still be known. A
// message may have been under way for long since its age was written.
func (s *ids) remembers(age time.Duration) bool {
	now := time.Since(s.start)
	s.mu.Lock()
	defer s.mu.Unlock()
	return now-age-idMargin > s.forgotten
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
		delete(s.known, e.key)
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
	k := idKey{id: entry.ID, adopted: true}
	if s.known[k] != nil {
		return
	}
	e := &idEntry{key: k, at: entry.Time.Sub(s.start), outcome: outcome{offset: entry.Offset}}
	s.known[k] = e
	s.order = append(s.order, e)
	s.expire(time.Since(s.start))
}
