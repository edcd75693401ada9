package file

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/limpet-go/limpet/outbox"
)

// spareName is the name of a file that becomes the next segment.
const spareName = "spare"

func segmentName(number uint64) string { return fmt.Sprintf("%016x.log", number) }

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
	next := header{number: old.number + 1, prevEnd: old.end, bounds: s.ledger.bounds}
	next.first = s.ledger.needed(next.number)
	// Few messages that are old would otherwise keep all segments since.
	garbage := int64(next.number-next.first)*s.segmentSize - 2*s.ledger.live
	var records [][]byte
	removed := s.ledger.gone > uint64(len(s.ledger.entries))/2 // else their entries would stay behind one old message
	if snapshot = snapshot || removed || garbage > 4*s.segmentSize; snapshot {
		k, err := s.content()
		if err != nil {
			return err
		}
		records = snapshotOf(k)
		next.first, next.through, next.removed = next.number, k.Through, 0
		next.last = next.through
	}
	begun, err := s.begin(next, records, record)
	if err != nil {
		return err
	}
	s.current, s.record = begun, s.record[:frameSize]
	if snapshot {
		s.ledger.renumber(begun.number)
	}
	if !old.failed && next.first <= old.number {
		// If this fails, only the loss of the files after this one is not noticed.
		if _, err := old.file.WriteAt(old.finish(make([]byte, frameSize), sealed, old.end), old.end); err == nil {
			old.failed = old.file.sync() != nil
		}
	}
	if old.failed {
		s.spoilt = old.number
	}
	_ = old.file.Close()
	s.drop(old, next.first)
	return nil
}

// drop removes the segments before first. What stays after an error does no harm, and Open removes it.
func (s *Store) drop(old *segment, first uint64) {
	recycled := false
	for n := old.first; n < first; n++ {
		if !recycled && n > s.spoilt {
			// Blocks that were written before are faster than new ones, and are there when the disk is full.
			recycled = s.system.rename(segmentName(n), spareName) == nil
			if recycled {
				continue
			}
		}
		_ = s.system.remove(segmentName(n))
	}
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
		records = append(records, appendChange(make([]byte, frameSize), &outbox.Change{Messages: messages[:n]}))
		messages = messages[n:]
	}
	return records
}

// begin creates a segment with records, and with room for one more. Once it returns a segment, Open finds
// it. After an error Open does not, or the store refuses all further calls.
func (s *Store) begin(h header, records [][]byte, room int64) (*segment, error) {
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	h.version, h.seed = version, binary.LittleEndian.Uint64(seed[:])
	length := int64(h.length())
	for _, r := range records {
		length += int64(padded(len(r)))
	}
	h.size = max(s.segmentSize, length+room+frameSize)
	f, err := s.spare(h.size)
	if err != nil {
		return nil, err
	}
	b := h.encode()
	for _, r := range records {
		b = append(b, h.finish(r, changes, int64(len(b)))...)
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), s.system.remove(spareName))
	}
	name := segmentName(h.number)
	if err := s.system.rename(spareName, name); err != nil {
		happened := s.system.present(name, f)
		err = errors.Join(err, f.Close())
		if happened {
			return nil, s.refuse(err)
		}
		return nil, err
	}
	if err := s.system.sync(); err != nil {
		return nil, s.refuse(errors.Join(err, f.Close()))
	}
	return &segment{header: h, file: f, end: int64(len(b))}, nil
}

// spare returns a file of a size, whose name is spareName.
func (s *Store) spare(size int64) (handle, error) {
	f, err := s.system.open(spareName)
	if err == nil {
		if has, err := f.size(); err == nil && has == size {
			return f, nil
		}
		err = errors.Join(f.Close(), s.system.remove(spareName))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err = s.system.create(spareName, size)
	if err != nil {
		_ = s.system.remove(spareName) // an incomplete one
		return nil, err
	}
	return f, nil
}
