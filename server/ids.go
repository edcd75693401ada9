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

// ids remembers the outcome of every message id for the horizon dedup
// (docs/protocol.md, sections 3 and 4), and at most max of them.
type ids struct {
	keep  time.Duration // how long an id is remembered
	max   int
	start time.Time

	mu    sync.Mutex // leaf
	known map[idKey]*idEntry
	order []*idEntry // by time, from head on
	head  int

	// forgotten is when the newest of the ids was accepted that were forgotten
	// early, since start. A message first sent before it may have been accepted.
	forgotten time.Duration

	// complete means that the log shows every message that was ever accepted:
	// it has lost none. Otherwise an earlier server may have accepted messages
	// before start of which nothing is known.
	complete bool
}

// idKey is an id of one principal. Ids can be guessed, because they rise in small
// steps or are derived from the caller's data; messages of another principal must
// not be taken for repetitions.
type idKey struct {
	id      wire.ID
	who     string // the principal's ID
	adopted bool   // from the log, which does not name a principal: matches all of them
}

// idEntry is what is known about an id.
type idEntry struct {
	key     idKey
	at      time.Duration // time of the outcome, since start
	outcome outcome
	pending bool          // reserved, without an outcome
	wait    chan struct{} // closed when pending ends; nil unless reserve waits for it
}

// settle ends pending.
func (e *idEntry) settle() {
	e.pending = false
	if e.wait != nil {
		close(e.wait)
		e.wait = nil
	}
}

// idMargin is how much longer than the announced horizon an id is remembered: the
// age of a message was exact when it was written, not when it arrived.
const idMargin = time.Minute

func newIDs(horizon time.Duration, maximum int) *ids {
	return &ids{keep: horizon + idMargin, max: maximum, start: time.Now(), forgotten: -1 << 62, known: map[idKey]*idEntry{}}
}

// reserve returns the outcome of k if it is known. Otherwise it reserves the id for
// the caller, who must call resolve or release. It blocks while another caller
// has reserved the id, until ctx ends.
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

// release ends a reservation without an outcome.
func (s *ids) release(k idKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[k].settle()
	delete(s.known, k)
}

// remembers reports whether an id that was accepted age ago would still be known,
// with idMargin for the time in which the message was in transit.
func (s *ids) remembers(age time.Duration) bool {
	now := time.Since(s.start)
	s.mu.Lock()
	defer s.mu.Unlock()
	return now-age-idMargin > s.forgotten
}

// certain reports whether an unknown id that was first sent age ago, and would still
// be remembered, was certainly not accepted by an earlier server.
func (s *ids) certain(age time.Duration) bool {
	return s.complete || time.Since(s.start)-age-idMargin > 0
}

func (s *ids) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known)
}

// expire forgets the oldest ids: those beyond their horizon, and those beyond max.
// The caller holds mu.
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

// load remembers the ids in a log, so that a message that an earlier server on the
// same log accepted is not accepted again.
func (s *ids) load(l Log) error {
	v := l.View()
	s.complete = v.Head > 0 && v.NoRewind // an empty log may be one that was lost
	if v.First > 1 {
		s.forgotten = 0 // trimmed messages may have been accepted until now
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
				s.forgotten = s.since(e)
			}
			s.adopt(e)
		}
		from = buf[n-1].Offset + 1
	}
}

// since returns when an entry of an earlier server was accepted, since start: before it. A
// log that does not keep the time, or whose clock was ahead, must cost neither the ids nor
// the outcomes of the messages after it.
func (s *ids) since(entry *Entry) time.Duration {
	if entry.Time.IsZero() {
		return 0
	}
	return min(entry.Time.Sub(s.start), 0)
}

// adopt remembers the id of a log entry.
func (s *ids) adopt(entry *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := idKey{id: entry.ID, adopted: true}
	if s.known[k] != nil {
		return
	}
	e := &idEntry{key: k, at: s.since(entry), outcome: outcome{offset: entry.Offset}}
	s.known[k] = e
	s.order = append(s.order, e)
	s.expire(time.Since(s.start))
}
