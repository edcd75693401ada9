package file

import (
	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
)

// rotate begins the next segment, which has room for a record, and removes those that are not needed any
// more. With a snapshot it has all that is kept, and no segment before it is needed. Lazy changes are
// durable then. After an error the store continues in the old segment, or refuses all further calls.
func (s *Store) rotate(snapshot bool, record int64) error {
	old := s.current
	if !snapshot {
		if err := s.flush(); err != nil {
			return err
		}
	}
	next := segment.Header{Number: old.Number + 1, PrevEnd: old.end}
	bounds := s.ledger.bounds
	next.First = s.ledger.needed(next.Number)
	// Few messages that are old would otherwise keep all segments since.
	garbage := int64(next.Number-next.First)*s.files.SegmentSize - 2*s.ledger.live
	var records [][]byte
	if snapshot = snapshot || garbage > 4*s.files.SegmentSize; snapshot {
		k, err := s.content()
		if err != nil {
			return err
		}
		records = snapshotOf(k)
		next.First, bounds.last = next.Number, bounds.through
	}
	begun, err := s.begin(next, bounds, records, record)
	if err != nil {
		return err
	}
	s.current, s.record = begun, s.record[:segment.FrameSize]
	if snapshot {
		for i := range s.ledger.entries {
			s.ledger.entries[i].segment = begun.Number
		}
	}
	if !old.failed && next.First <= old.Number {
		// If this fails, only the loss of the files after this one is not noticed.
		if _, err := old.file.WriteAt(old.Finish(make([]byte, segment.FrameSize), segment.Sealed, old.end), old.end); err == nil {
			old.failed = old.file.Sync() != nil
		}
	}
	if old.failed {
		s.files.Spoilt = old.Number
	}
	_ = old.file.Close()
	s.files.Drop(old.First, next.First)
	return nil
}

// snapshotOf returns records that add all messages.
func snapshotOf(k *outbox.Content) (records [][]byte) {
	const chunk = 16 << 20 // bytes, about
	messages := k.Messages
	for len(messages) > 0 {
		n, size := 0, 0
		for n < len(messages) && size < chunk {
			size += len(messages[n].Payload)
			n++
		}
		records = append(records, appendChange(make([]byte, segment.FrameSize), &outbox.Change{Messages: messages[:n]}))
		messages = messages[n:]
	}
	return records
}

// begin creates a segment with records, and with room for one more. Once it returns a segment, Open finds
// it. After an error Open does not, or the store refuses all further calls.
func (s *Store) begin(h segment.Header, b bounds, records [][]byte, room int64) (*newest, error) {
	b.put(&h)
	f, end, uncertain, err := s.files.Begin(&h, records, room)
	switch {
	case uncertain:
		return nil, s.refuse(err)
	case err != nil:
		return nil, err
	}
	return &newest{Header: h, file: f, end: end}, nil
}
