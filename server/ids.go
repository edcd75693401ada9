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
	owners  map[string]*owner // by principal
	numbers uint64            // the last one of an owner
	last    *owner            // that was asked for
	adopted owner             // of the ids from the log

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
// not be taken for repetitions. It is flat: the hash of a string costs more than all of it.
type idKey struct {
	id    wire.ID
	owner uint64
}

// messageKey is an id together with the name of its principal.
type messageKey struct {
	id  wire.ID
	who string
}

// owner is a principal with ids. The log does not name one: its ids are those of the
// owner with number 0, and match all others.
type owner struct {
	name   string
	number uint64
	ids    int // in known; with the last one an owner is forgotten
}

// idEntry is what is known about an id.
type idEntry struct {
	id      wire.ID
	owner   *owner
	at      time.Duration // time of the outcome, since start
	until   time.Duration // when it is forgotten, since start
	outcome outcome
}

// idMargin is how much longer than the announced horizon an id is remembered: the
// age of a message was exact when it was written, not when it arrived.
const idMargin = time.Minute

func newIDs(maximum int) *ids {
	return &ids{max: maximum, start: time.Now(), forgotten: -1 << 62, known: map[idKey]*idEntry{}, owners: map[string]*owner{}}
}

// owner returns the owner with a name; nil if it has no id.
func (s *ids) owner(who string) *owner {
	if s.last == nil || s.last.ids == 0 || s.last.name != who {
		s.last = s.owners[who]
	}
	return s.last
}

// find returns what is known of an id of owner, which may be nil.
func (s *ids) find(o *owner, id wire.ID) (KnownID, bool) {
	var e *idEntry
	if o != nil {
		e = s.known[idKey{id, o.number}]
	}
	if e == nil && s.adopted.ids > 0 {
		e = s.known[idKey{id: id}]
	}
	if e == nil {
		return KnownID{}, false
	}
	return KnownID{ID: id, Hash: e.outcome.hash, Code: e.outcome.code, Offset: e.outcome.offset}, true
}

// remember stores outcomes of ids of the principal who. It keeps entries.
func (s *ids) remember(who string, entries []idEntry, now time.Time, keep time.Duration) {
	o := s.owner(who)
	if o == nil {
		s.numbers++
		o = &owner{name: who, number: s.numbers}
		s.owners[who] = o
	}
	at := now.Sub(s.start)
	for i := range entries {
		e := &entries[i]
		e.owner, e.at, e.until = o, at, at+keep
		s.add(e)
	}
	s.expire(at)
}

func (s *ids) add(e *idEntry) {
	s.known[idKey{e.id, e.owner.number}] = e
	s.order = append(s.order, e)
	e.owner.ids++
}

// remove forgets an id, and its owner with the last one.
func (s *ids) remove(e *idEntry) {
	delete(s.known, idKey{e.id, e.owner.number})
	if e.owner.ids--; e.owner.ids == 0 && e.owner != &s.adopted {
		delete(s.owners, e.owner.name)
	}
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
		s.remove(e)
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
	if s.known[idKey{id: entry.ID}] != nil {
		return
	}
	hash := entry.Hash
	if hash == 0 {
		hash = HashOf(entry.Topic, entry.Payload)
	}
	at := s.age(entry)
	s.add(&idEntry{id: entry.ID, owner: &s.adopted, at: at, until: at + keep, outcome: outcome{offset: entry.Offset, hash: hash}})
	s.expire(time.Since(s.start))
}

// knownAmong is Store.Known. The caller holds the lock.
func (s *ids) knownAmong(who string, all []wire.ID) (known []KnownID) {
	s.expire(time.Since(s.start))
	o := s.owner(who)
	for _, id := range all {
		if k, ok := s.find(o, id); ok {
			known = append(known, k)
		}
	}
	return known
}
