package server

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// outcome is what became of a message.
type outcome struct {
	code   uint64 // 0: accepted
	offset uint64
	hash   uint64 // of the message; 0: not known
}

// ids remembers the outcome of every message id for the horizon dedup
// (docs/protocol.md, sections 3 and 4), and at most max of them. Its owner has the lock.
type ids struct {
	max   int
	start time.Time

	known   map[idKey]*idEntry
	order   []*idEntry // by time, from head on
	head    int
	adopted int // of known, those from the log

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
	until   time.Duration // when it is forgotten, since start
	outcome outcome
}

// idMargin is how much longer than the announced horizon an id is remembered: the
// age of a message was exact when it was written, not when it arrived.
const idMargin = time.Minute

func newIDs(maximum int) *ids {
	return &ids{max: maximum, start: time.Now(), forgotten: -1 << 62, known: map[idKey]*idEntry{}}
}

// lookup returns the outcome of an id.
func (s *ids) lookup(who string, id wire.ID) (outcome, bool) {
	e := s.known[idKey{id: id, who: who}]
	if e == nil && s.adopted > 0 {
		e = s.known[idKey{id: id, adopted: true}]
	}
	if e == nil {
		return outcome{}, false
	}
	return e.outcome, true
}

// find returns what is known of an id, for a caller of the store.
func (s *ids) find(who string, id wire.ID) (KnownID, bool) {
	o, known := s.lookup(who, id)
	return KnownID{ID: id, Hash: o.hash, Code: o.code, Offset: o.offset}, known
}

// remember stores outcomes, which it keeps.
func (s *ids) remember(entries []idEntry, now time.Time, keep time.Duration) {
	at := now.Sub(s.start)
	for i := range entries {
		e := &entries[i]
		e.at, e.until = at, at+keep
		s.known[e.key] = e
		s.order = append(s.order, e)
	}
	s.expire(at)
}

// remembers reports whether all ids that were accepted since then are known.
func (s *ids) remembers(since time.Time) bool { return since.Sub(s.start) > s.forgotten }

// since returns View.Since.
func (s *ids) since() time.Time {
	if s.complete {
		return time.Time{}
	}
	return s.start
}

// expire forgets the oldest ids: those beyond their horizon, and those beyond max.
func (s *ids) expire(now time.Duration) {
	for s.head < len(s.order) {
		e := s.order[s.head]
		old := now >= e.until
		if !old && len(s.order)-s.head <= s.max {
			break
		}
		if !old {
			s.forgotten = max(s.forgotten, e.at)
		}
		if e.key.adopted {
			s.adopted--
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

// load remembers the ids in a log for keep, so that a message that an earlier server on the
// same log accepted is not accepted again.
func (s *ids) load(l Log, keep time.Duration) error {
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
				s.forgotten = s.age(e)
			}
			s.adopt(e, keep)
		}
		from = buf[n-1].Offset + 1
	}
}

// age returns when an entry of an earlier server was accepted, since start: before it. A
// log that does not keep the time, or whose clock was ahead, must cost neither the ids nor
// the outcomes of the messages after it.
func (s *ids) age(entry *Entry) time.Duration {
	if entry.Time.IsZero() {
		return 0
	}
	return min(entry.Time.Sub(s.start), 0)
}

// adopt remembers the id of a log entry.
func (s *ids) adopt(entry *Entry, keep time.Duration) {
	k := idKey{id: entry.ID, adopted: true}
	if s.known[k] != nil {
		return
	}
	hash := entry.Hash
	if hash == 0 {
		hash = HashOf(entry.Topic, entry.Payload)
	}
	at := s.age(entry)
	e := &idEntry{key: k, at: at, until: at + keep, outcome: outcome{offset: entry.Offset, hash: hash}}
	s.known[k] = e
	s.adopted++
	s.order = append(s.order, e)
	s.expire(time.Since(s.start))
}

// knownAmong is Store.Known. The caller holds the lock.
func (s *ids) knownAmong(who string, all []wire.ID) (known []KnownID) {
	s.expire(time.Since(s.start))
	for _, id := range all {
		if k, ok := s.find(who, id); ok {
			known = append(known, k)
		}
	}
	return known
}
