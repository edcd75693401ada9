package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/limpet-go/limpet/outbox"
)

// recover reads what is there, and makes it durable: what a crash left may be in the memory of the
// system only.
func (s *Store) recover() error {
	numbers, err := s.numbers()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		s.current, err = s.begin(header{number: 1, first: 1}, nil, 0)
		return err
	}
	newest := numbers[len(numbers)-1]
	name := segmentName(newest)
	f, err := s.system.open(name)
	if err != nil {
		return err
	}
	s.current = &segment{file: f}
	if s.current.header, err = readHeader(name, f); err != nil {
		return err
	}
	if n := s.current.number; n != newest {
		return copied(newest, n)
	}
	s.ledger.bounds = s.current.bounds
	s.ledger.last = s.ledger.through
	r := replay{s: s, newest: s.current, open: true}
	err = r.run(func(c *outbox.Change, segment uint64) { s.ledger.apply(c, segment) })
	if err != nil {
		return err
	}
	if err := s.confirm(&r); err != nil {
		return err
	}
	for _, n := range numbers {
		if n < s.current.first { // not needed since a later segment has begun
			_ = s.system.remove(segmentName(n))
		}
	}
	return nil
}

// confirm writes the last record again and syncs it. If a sync of it failed in the process before, the
// system takes it for written although it is not, and a sync alone would do nothing.
func (s *Store) confirm(r *replay) error {
	at := s.current
	again := bytes.Clone(r.lastRecord)
	if !r.closed {
		again = append(again, make([]byte, frameSize)...) // what a crash interrupted is taken back
	}
	if _, err := at.file.WriteAt(again, at.end-int64(len(r.lastRecord))); err != nil {
		return err
	}
	return errors.Join(at.file.sync(), s.system.sync())
}

// numbers returns the numbers of the segments in the directory, in order.
func (s *Store) numbers() (numbers []uint64, err error) {
	names, err := s.system.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var n uint64
		if _, scan := fmt.Sscanf(name, "%x.log", &n); scan == nil && segmentName(n) == name {
			numbers = append(numbers, n)
		} else if name != spareName {
			err = fmt.Errorf("%w (its directory has the file %q)", outbox.ErrForeign, name)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// content returns what is kept.
func (s *Store) content() (*outbox.Content, error) {
	at := s.current
	k := content{Content: outbox.Content{State: bytes.Clone(at.state), Through: at.through, Tag: at.tag}, before: at.removed}
	r := replay{s: s, newest: at}
	if err := r.run(func(c *outbox.Change, _ uint64) { k.apply(c) }); err != nil {
		return nil, err
	}
	err := decodeChanges(s.record[frameSize:], func(c *outbox.Change) error { k.apply(c); return nil })
	return k.renumbered(), err
}

// replay reads the changes in all segments that are needed. It passes on only what the header of the newest
// does not have already.
type replay struct {
	s      *Store
	newest *segment
	open   bool // the end of the newest is not known yet
	each   func(c *outbox.Change, segment uint64)

	epoch, last uint64 // where the log is
	known       uint64 // the highest number of the newest epoch that was passed on
	data        []byte
	lastRecord  []byte // of the newest segment
	closed      bool   // it ends with the mark of Close
}

func (r *replay) run(each func(c *outbox.Change, segment uint64)) error {
	r.each, r.known = each, r.newest.through
	next, err := r.header(r.newest.first)
	for n := r.newest.first; err == nil; n++ {
		h := next
		if n == r.newest.first {
			r.epoch, r.last = h.epoch, h.last
		}
		if h.epoch != r.epoch || h.last != r.last {
			return corrupt(segmentName(n), 16, "it does not continue the segment before it")
		}
		if n == r.newest.number {
			if r.known != h.last {
				return corrupt(segmentName(n), 16, "messages before it are missing")
			}
			return r.segment(&h, -1)
		}
		if next, err = r.header(n + 1); err == nil {
			err = r.segment(&h, next.prevEnd)
		}
	}
	return err
}

// header returns the header of a segment.
func (r *replay) header(number uint64) (h header, err error) {
	name := segmentName(number)
	f := r.newest.file
	if number != r.newest.number {
		f, err = r.s.system.open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return h, corrupt(name, 0, "the file is missing")
		}
		if err != nil {
			return h, err
		}
		defer f.Close()
	}
	if h, err = readHeader(name, f); err != nil {
		return h, err
	}
	size, err := f.size()
	switch {
	case err != nil:
		return h, err
	case h.number != number:
		return h, copied(number, h.number)
	case h.size != size:
		return h, corrupt(name, size, fmt.Sprintf("it has %d bytes, and had %d", size, h.size))
	}
	return h, nil
}

func copied(number, of uint64) error {
	return corrupt(segmentName(number), 16, "it is a copy of "+segmentName(of))
}

// readHeader reads a header without trust in its length.
func readHeader(name string, f handle) (h header, err error) {
	b := make([]byte, minSegment)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	h, err = decodeHeader(name, b[:n])
	if err == nil || n < len(b) {
		return h, err
	}
	size, sizeErr := f.size()
	if sizeErr != nil {
		return h, sizeErr
	}
	b = make([]byte, min(size, maxRecord)) // a state that is bigger than usual
	if n, err = f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	return decodeHeader(name, b[:n])
}

// segment passes on the changes of a segment, whose records end at an offset; -1: it is the newest.
func (r *replay) segment(h *header, end int64) error {
	name, newest, f := segmentName(h.number), end < 0, r.newest.file
	if newest && !r.open {
		end = r.newest.end
	}
	if !newest {
		var err error
		if f, err = r.s.system.open(name); err != nil {
			return err
		}
		defer f.Close()
	}
	size := h.size
	if end >= 0 {
		size = min(size, end)
	}
	if int64(len(r.data)) < size {
		r.data = make([]byte, size)
	}
	data := r.data[:size]
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	offset := int64(h.length())
	for offset != end {
		kind, body := h.recordAt(data, offset)
		switch {
		case kind == changes && (end < 0 || offset < end):
		case end >= 0:
			return corrupt(name, offset, "a record is damaged")
		case kind == sealed:
			return corrupt(name, offset, "the file after it is missing: "+segmentName(h.number+1))
		default:
			return r.tail(h, data, offset, kind == closed)
		}
		err := decodeChanges(body, func(c *outbox.Change) error { return r.change(h, c) })
		if err != nil {
			return corrupt(name, offset, err.Error())
		}
		if newest {
			r.lastRecord = data[offset : offset+frameSize+int64(len(body))]
		}
		offset += frameSize + int64(len(body))
	}
	return nil
}

// tail ends the newest segment at an offset where no record is. That is the end of the log, or a record
// that a crash interrupted, and then nothing follows it: the next one is written when the one before is
// durable.
func (r *replay) tail(h *header, data []byte, offset int64, closed bool) error {
	if after := h.frameAfter(data, offset); after != 0 && !closed {
		return corrupt(segmentName(h.number), offset, fmt.Sprintf("a record is damaged, and another follows at %d", after))
	}
	r.newest.end, r.closed = offset, closed
	return nil
}

var errOrder = errors.New("its messages do not continue those before it")

// change passes on what the header of the newest segment does not have.
func (r *replay) change(h *header, c *outbox.Change) error {
	if c.Reset {
		r.epoch, r.last = r.epoch+1, 0
	}
	for i := range c.Messages {
		if r.last++; c.Messages[i].Seq != r.last {
			return errOrder
		}
	}
	if h.number != r.newest.number {
		if r.epoch != r.newest.epoch {
			return nil
		}
		c.Reset, c.State = false, nil
		c.Messages = slices.DeleteFunc(c.Messages, func(m outbox.Message) bool { return m.Seq <= r.newest.through })
		for i := range c.Messages {
			if r.known++; c.Messages[i].Seq != r.known {
				return errOrder
			}
		}
	}
	r.each(c, h.number)
	return nil
}
