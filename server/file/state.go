package file

import (
	"container/list"
	"slices"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// state is what is kept. Its owner has the lock.
type state struct {
	opt Options

	head    uint64 // offset of the newest message
	entries []held // with offsets up to head, without a gap
	bytes   int    // of the entries

	newest  uint64 // version of a record
	records map[string]*record
	parked  list.List // *record: not bound, the one that was detached first in front
	swept   time.Time // when records were last looked at for their time

	known     map[idKey]*id
	order     []*id // by time
	forgotten int64 // when the newest of the ids was accepted that were forgotten early, in Unix nanoseconds
}

// held is a message. Its segment, as that of records and ids, is the one that has it or an earlier one.
type held struct {
	*server.Entry
	segment uint64
}

type record struct {
	session string
	data    []byte
	version uint64
	expires time.Time
	bound   bool
	place   *list.Element // in parked; nil while bound
	segment uint64
}

type idKey struct {
	id  wire.ID
	who string
}

type id struct {
	idKey
	at, until time.Time
	server.KnownID
	segment uint64
}

func newState(o *Options) state {
	return state{opt: *o, records: map[string]*record{}, known: map[idKey]*id{}}
}

// check returns why c cannot be done.
func (s *state) check(c *server.Change, now time.Time) error {
	s.forget(now)
	if c.Session != "" {
		r := s.find(c.Session, now)
		switch {
		case r == nil && c.Version != 0, r != nil && r.version != c.Version:
			return server.ErrConflict
		case r == nil && c.Record != nil && !s.room(now) && s.parked.Len() == 0:
			return server.ErrFull
		}
	}
	var known []server.KnownID
	for i := range c.Entries {
		if k := s.known[idKey{c.Entries[i].ID, c.Who}]; k != nil {
			known = append(known, k.KnownID)
		}
	}
	for i := range c.Refused {
		if k := s.known[idKey{c.Refused[i].ID, c.Who}]; k != nil {
			known = append(known, k.KnownID)
		}
	}
	if known != nil {
		return &server.KnownError{IDs: known}
	}
	if !c.Oldest.IsZero() && c.Oldest.UnixNano() <= s.forgotten {
		return server.ErrForgotten
	}
	return nil
}

// find returns the record of a session, if its time is not over.
func (s *state) find(session string, now time.Time) *record {
	r := s.records[session]
	if r != nil && !now.Before(r.expires) {
		s.drop(r)
		return nil
	}
	return r
}

// room reports whether one more record may be kept.
func (s *state) room(now time.Time) bool {
	if len(s.records) >= s.opt.MaxSessions && now.Sub(s.swept) >= time.Second {
		s.sweep(now)
	}
	return len(s.records) < s.opt.MaxSessions
}

// sweep drops the records whose time is over.
func (s *state) sweep(now time.Time) {
	s.swept = now
	for _, r := range s.records {
		if !now.Before(r.expires) {
			s.drop(r)
		}
	}
}

// put keeps a record in the place of another one.
func (s *state) put(r *record) {
	if old := s.records[r.session]; old != nil {
		s.drop(old)
	}
	s.records[r.session] = r
	s.newest = max(s.newest, r.version)
	if !r.bound {
		r.place = s.parked.PushBack(r)
	}
}

// drop removes a record.
func (s *state) drop(r *record) {
	if r.place != nil {
		s.parked.Remove(r.place)
		r.place = nil
	}
	delete(s.records, r.session)
}

// add keeps a message at its offset.
func (s *state) add(e *server.Entry, segment uint64) {
	s.head = max(s.head, e.Offset)
	s.entries = append(s.entries, held{e, segment})
	s.bytes += sizeOf(e)
}

// remember keeps an id.
func (s *state) remember(k *id) {
	if old := s.known[k.idKey]; old != nil {
		*old = *k // an id that was carried to a later segment
		return
	}
	s.known[k.idKey] = k
	s.order = append(s.order, k)
}

// forget forgets the oldest ids: those beyond their horizon, and those beyond the bound.
func (s *state) forget(now time.Time) {
	n := 0
	for ; n < len(s.order); n++ {
		k := s.order[n]
		old := !now.Before(k.until)
		if !old && len(s.order)-n <= s.opt.MaxIDs {
			break
		}
		if !old {
			s.forgotten = max(s.forgotten, k.at.UnixNano())
		}
		delete(s.known, k.idKey)
	}
	clear(s.order[:n]) // the backing array lives until append replaces it
	s.order = s.order[n:]
}

// first returns the offset of the oldest message.
func (s *state) first() uint64 { return s.head + 1 - uint64(len(s.entries)) }

// trim drops the oldest messages until every bound is kept.
func (s *state) trim(now time.Time) {
	n, keep := 0, s.opt.Retention
	for n < len(s.entries) {
		over := keep.Count > 0 && len(s.entries)-n > keep.Count ||
			keep.Bytes > 0 && s.bytes > keep.Bytes ||
			keep.Age > 0 && now.Sub(s.entries[n].Time) >= keep.Age
		if !over {
			break
		}
		s.bytes -= sizeOf(s.entries[n].Entry)
		n++
	}
	clear(s.entries[:n])
	s.entries = s.entries[n:]
}

// sizeOf returns how many bytes of Retention.Bytes a message takes.
func sizeOf(e *server.Entry) int {
	n := len(e.Payload) + len(e.Topic) + len(e.Type)
	for k, v := range e.Header {
		n += len(k) + len(v)
	}
	return n
}

// sort brings what was read from segments into the order of messages and of times. Messages before a gap were not needed any more.
func (s *state) sort() {
	slices.SortStableFunc(s.order, func(a, b *id) int { return a.at.Compare(b.at) })
	slices.SortFunc(s.entries, func(a, b held) int {
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	n := len(s.entries)
	for n > 0 && s.entries[n-1].Offset == s.head-uint64(len(s.entries)-n) {
		n--
	}
	for _, e := range s.entries[:n] {
		s.bytes -= sizeOf(e.Entry)
	}
	s.entries = s.entries[n:]
}
