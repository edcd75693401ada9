package file

import (
	"bytes"
	"errors"
	"slices"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
)

// recover reads what is there, and makes it durable: what a crash left may be in the memory of the
// system only.
func (s *Store) recover() error {
	numbers, err := s.files.Numbers()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		s.current, err = s.begin(segment.Header{Number: 1, First: 1}, bounds{}, nil, 0)
		return err
	}
	number := numbers[len(numbers)-1]
	name := segment.Name(number)
	f, err := s.files.OpenFile(name)
	if err != nil {
		return err
	}
	s.current = &newest{file: f}
	if s.current.Header, err = s.files.ReadHeader(name, f); err != nil {
		return err
	}
	if n := s.current.Number; n != number {
		return s.files.Copied(number, n)
	}
	if s.ledger.bounds, err = boundsOf(name, &s.current.Header); err != nil {
		return err
	}
	s.ledger.last = s.ledger.through
	r := replay{s: s, newest: s.current, bounds: s.ledger.bounds, open: true}
	err = r.run(func(c *outbox.Change, segment uint64) { s.ledger.apply(c, segment) })
	if err != nil {
		return err
	}
	if err := s.files.Confirm(f, s.current.end, r.lastRecord, r.closed); err != nil {
		return err
	}
	for _, n := range numbers {
		if n < s.current.First { // not needed since a later segment has begun
			_ = s.files.Remove(segment.Name(n))
		}
	}
	return nil
}

// content returns what is kept.
func (s *Store) content() (*outbox.Content, error) {
	at := s.current
	b, err := boundsOf(segment.Name(at.Number), &at.Header)
	if err != nil {
		return nil, err
	}
	k := content{outbox.Content{State: bytes.Clone(b.state), Through: b.through, Tag: b.tag}}
	r := replay{s: s, newest: at, bounds: b}
	if err := r.run(func(c *outbox.Change, _ uint64) { k.apply(c) }); err != nil {
		return nil, err
	}
	err = decodeChanges(s.record[segment.FrameSize:], func(c *outbox.Change) error { k.apply(c); return nil })
	return &k.Content, err
}

// replay reads the changes in all segments that are needed. It passes on only what the header of the newest
// does not have already.
type replay struct {
	s      *Store
	newest *newest
	bounds bounds // of the newest
	open   bool   // the end of the newest is not known yet
	each   func(c *outbox.Change, segment uint64)

	epoch, last uint64 // where the log is
	known       uint64 // the highest number of the newest epoch that was passed on
	data        []byte
	lastRecord  []byte // of the newest segment
	closed      bool   // it ends with the mark of Close
}

func (r *replay) run(each func(c *outbox.Change, segment uint64)) error {
	r.each, r.known = each, r.bounds.through
	next, nextBounds, err := r.header(r.newest.First)
	for n := r.newest.First; err == nil; n++ {
		h, b := next, nextBounds
		if n == r.newest.First {
			r.epoch, r.last = b.epoch, b.last
		}
		if b.epoch != r.epoch || b.last != r.last {
			return format.Damaged(segment.Name(n), 16, "it does not continue the segment before it")
		}
		if n == r.newest.Number {
			if r.known != b.last {
				return format.Damaged(segment.Name(n), 16, "messages before it are missing")
			}
			return r.segment(&h, -1)
		}
		if next, nextBounds, err = r.header(n + 1); err == nil {
			err = r.segment(&h, next.PrevEnd)
		}
	}
	return err
}

// header returns the header of a segment, and what it has for the store.
func (r *replay) header(number uint64) (h segment.Header, b bounds, err error) {
	var f segment.Handle
	if number == r.newest.Number {
		f = r.newest.file
	}
	if h, err = r.s.files.Header(number, f); err == nil {
		b, err = boundsOf(segment.Name(number), &h)
	}
	return h, b, err
}

// segment passes on the changes of a segment, whose records end at an offset; -1: it is the newest.
func (r *replay) segment(h *segment.Header, end int64) error {
	name, newest, f := segment.Name(h.Number), end < 0, r.newest.file
	if newest && !r.open {
		end = r.newest.end
	}
	if !newest {
		var err error
		if f, err = r.s.files.OpenFile(name); err != nil {
			return err
		}
		defer f.Close()
	}
	data, err := r.s.files.Read(h, f, end, r.data)
	if err != nil {
		return err
	}
	r.data = data[:cap(data)]
	offset := int64(h.Length())
	for offset != end {
		kind, body := h.RecordAt(data, offset)
		switch {
		case kind == segment.Changes && (end < 0 || offset < end):
		case end >= 0:
			return format.Damaged(name, offset, "a record is damaged")
		default:
			r.newest.end, r.closed = offset, kind == segment.Closed
			return r.s.files.End(h, data, offset)
		}
		err := decodeChanges(body, func(c *outbox.Change) error { return r.change(h, c) })
		if err != nil {
			return format.Damaged(name, offset, err.Error())
		}
		if newest {
			r.lastRecord = data[offset : offset+segment.FrameSize+int64(len(body))]
		}
		offset += segment.FrameSize + int64(len(body))
	}
	return nil
}

var errOrder = errors.New("its messages do not continue those before it")

// change passes on what the header of the newest segment does not have.
func (r *replay) change(h *segment.Header, c *outbox.Change) error {
	if c.Reset {
		r.epoch, r.last = r.epoch+1, 0
	}
	for i := range c.Messages {
		if r.last++; c.Messages[i].Seq != r.last {
			return errOrder
		}
	}
	if h.Number != r.newest.Number {
		if r.epoch != r.bounds.epoch {
			return nil
		}
		c.Reset, c.State = false, nil
		c.Messages = slices.DeleteFunc(c.Messages, func(m outbox.Message) bool { return m.Seq <= r.bounds.through })
		for i := range c.Messages {
			if r.known++; c.Messages[i].Seq != r.known {
				return errOrder
			}
		}
	}
	r.each(c, h.Number)
	return nil
}
