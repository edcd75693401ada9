package file

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
)

var errRemoved = errors.New("the directory, or a file in it, was removed or replaced while it was in use")

// usable returns why nothing can be done. A batch for which there was no room is tried again first.
func (s *Store) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	refused, stuck, b := s.refused, s.stuck, s.pending
	s.mu.Unlock()
	if refused == nil && stuck && b != nil {
		return s.settle(ctx, b)
	}
	return refused
}

// last returns the newest batch that is not durable yet; nil if there is none. The caller holds mu.
func (s *Store) last() *batch {
	if s.pending != nil {
		return s.pending
	}
	return s.writing
}

// settle waits until a batch is durable; nil is none. Whoever has the turn writes for all. If ctx ends before, the batch is written
// nevertheless: there may be no other caller to do it.
func (s *Store) settle(ctx context.Context, b *batch) error {
	if b == nil {
		return nil
	}
	for {
		select {
		case <-b.done:
			return b.err
		case s.turn <- struct{}{}:
			s.write()
			<-s.turn
		case <-ctx.Done():
			go func() { _ = s.settle(context.WithoutCancel(ctx), b) }()
			return ctx.Err()
		}
	}
}

// write makes the batch that is pending durable. The caller has the turn.
func (s *Store) write() {
	s.mu.Lock()
	b := s.pending
	if b == nil {
		s.mu.Unlock()
		return
	}
	s.pending, s.writing = nil, b
	err := s.refused
	var carried *carried
	size := int64(segment.Padded(len(b.record)))
	if err == nil && s.end+size+segment.FrameSize > s.current.Size {
		carried = s.carry()
	}
	s.mu.Unlock()

	full := false
	switch {
	case err != nil:
	case carried != nil:
		full, err = s.rotate(b, carried)
	default:
		err = s.add(b)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing, s.stuck = nil, full
	switch {
	case full:
		err = failure("commit", s.path, err)
		s.retain(b)
	case err != nil && s.refused == nil:
		err = failure("commit", s.path, fmt.Errorf("%w (%w)", ErrUncertain, err))
		s.refused = err
	case err == nil:
		s.moved(b, carried)
		s.written = b.bounds
		if s.visible < b.head {
			s.visible = b.head
			if s.changed != nil {
				close(s.changed)
				s.changed = nil
			}
		}
	}
	b.err = err
	close(b.done)
}

// retain puts a batch for which there was no room before those that came after it. The caller holds mu.
func (s *Store) retain(b *batch) {
	if next := s.pending; next != nil {
		next.record = append(b.record, next.record[segment.FrameSize:]...)
		return
	}
	s.pending = &batch{record: b.record, bounds: b.bounds, done: make(chan struct{})}
}

// add writes a batch into the current segment. Whatever fails, the record may be there or not.
func (s *Store) add(b *batch) error {
	whole := s.current.Finish(b.record, segment.Changes, s.end)
	if _, err := s.file.WriteAt(whole, s.end); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if !s.files.Present(segment.Name(s.current.Number), s.file) {
		return errRemoved
	}
	s.end += int64(len(whole))
	return nil
}

// mark writes a mark after the last record, so that damage to it is noticed.
func (s *Store) mark() error {
	if _, err := s.file.WriteAt(s.current.Finish(make([]byte, segment.FrameSize), segment.Closed, s.end), s.end); err != nil {
		return err
	}
	return s.file.Sync()
}

// carried is what the next segment takes over from segments that are then not needed.
type carried struct {
	first   uint64 // the oldest segment that is needed
	offset  uint64 // of the oldest message that is needed
	records [][]byte
	ids     []*id
	kept    []*record
}

// carry decides which segments go with the next one, and encodes what they have that is still needed. The caller holds mu.
func (s *Store) carry() *carried {
	now, st := time.Now(), &s.state
	st.sweep(now)
	st.forget(now)
	st.trim(now)
	live, all := map[uint64]int64{}, int64(0)
	count := func(number uint64, size int) {
		live[number] += int64(size + overhead)
		all += int64(size + overhead)
	}
	for i := range st.entries {
		count(st.entries[i].segment, sizeOf(st.entries[i].Entry))
	}
	for _, k := range st.order {
		count(k.segment, len(k.who))
	}
	for _, r := range st.records {
		count(r.segment, len(r.session)+len(r.data))
	}
	next := s.current.Number + 1
	c := &carried{first: s.current.First, offset: min(st.first(), s.written.head+1)}
	for c.first < next && (live[c.first] == 0 || int64(next-c.first)*s.files.SegmentSize > 2*all+4*s.files.SegmentSize) {
		c.first++
	}
	c.collect(st, s.written.head)
	return c
}

// collect encodes what is in segments before first. Messages after head are in the batch that comes with it; ids and records
// of that batch do no harm.
func (c *carried) collect(st *state, head uint64) {
	const chunk = 16 << 20 // bytes, about
	b := make([]byte, segment.FrameSize)
	cut := func() {
		if len(b) >= chunk {
			c.records = append(c.records, b)
			b = make([]byte, segment.FrameSize)
		}
	}
	for i := range st.entries {
		if e := &st.entries[i]; e.segment < c.first && e.Offset <= head {
			b = appendEntry(b, isEntry, e.Entry)
			cut()
		}
	}
	for _, k := range st.order {
		if k.segment < c.first {
			b = appendID(b, k)
			c.ids = append(c.ids, k)
			cut()
		}
	}
	for _, r := range st.records {
		if r.segment < c.first {
			b = appendRecord(b, r)
			c.kept = append(c.kept, r)
			cut()
		}
	}
	if len(b) > segment.FrameSize {
		c.records = append(c.records, b)
	}
}

// moved notes that a batch, and what was carried with it, is in the current segment. The caller holds mu.
func (s *Store) moved(b *batch, c *carried) {
	number, all := s.current.Number, s.state.entries
	first := s.state.first()
	if c != nil {
		for i := range all {
			if all[i].Offset <= s.written.head && all[i].segment < c.first {
				all[i].segment = number
			}
		}
		for _, k := range c.ids {
			k.segment = number
		}
		for _, r := range c.kept {
			r.segment = number
		}
	}
	for offset := max(first, s.written.head+1); offset <= b.head; offset++ {
		all[offset-first].segment = number
	}
}

// rotate begins the next segment with what it takes over and with a batch, in one step. With full set, nothing was
// done, and it may be tried again.
func (s *Store) rotate(b *batch, c *carried) (full bool, err error) {
	next := segment.Header{Number: s.current.Number + 1, First: c.first, PrevEnd: s.end}
	s.put(&next, c.offset, b.forgotten)
	records := append(c.records, b.record)
	f, end, uncertain, err := s.files.Begin(&next, records, 0)
	if err != nil {
		return !uncertain, err
	}
	old, oldFirst := s.file, s.current.First
	if c.first <= s.current.Number {
		// If this fails, only the loss of the files after this one is not noticed.
		seal := s.current.Finish(make([]byte, segment.FrameSize), segment.Sealed, s.end)
		_, err := old.WriteAt(seal, s.end)
		if err == nil {
			err = old.Sync()
		}
		if err != nil {
			s.files.Spoilt = s.current.Number
		}
	}
	_ = old.Close()
	s.mu.Lock() // Commits look at the number
	s.current = next
	s.mu.Unlock()
	s.file, s.end = f, end
	s.files.Drop(oldFirst, next.First)
	return false, nil
}

// put writes what the header of a new segment needs, with the offset of the oldest message that is needed. Segments with the ids that
// the first batch in it makes the store forget may be gone: so forgotten is what it is after that batch.
func (s *Store) put(h *segment.Header, first uint64, forgotten int64) {
	h.Tag, h.Numbers = s.tag, [4]uint64{s.written.head, s.written.newest, uint64(forgotten)}
	h.State = binary.LittleEndian.AppendUint64(nil, uint64(s.made.UnixNano()))
	h.State = binary.LittleEndian.AppendUint64(h.State, first)
}
