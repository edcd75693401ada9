package file

import (
	"encoding/binary"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
)

// openOn opens the store on a system, which the caller closes after an error.
func openOn(system segment.System, path string, opt Options) (*Store, error) {
	base := newTag()
	s := &Store{
		path: path, tag: newTag(), base: base[:], made: time.Now(), turn: make(chan struct{}, 1), state: newState(&opt),
		files: segment.Files{System: system, Format: &format, SegmentSize: opt.SegmentSize},
	}
	numbers, err := s.files.Numbers()
	if err != nil {
		return nil, err
	}
	if len(numbers) > 0 {
		err = s.recover(numbers)
	} else {
		err = s.begin()
	}
	if err != nil {
		if s.file != nil {
			_ = s.file.Close()
		}
		return nil, err
	}
	now := time.Now()
	s.state.sweep(now)
	s.state.forget(now)
	s.state.trim(now)
	s.visible = s.state.head
	s.written = bounds{s.state.head, s.state.newest, s.state.forgotten}
	return s, nil
}

// begin creates the first segment.
func (s *Store) begin() (err error) {
	s.current = segment.Header{Number: 1, First: 1}
	s.put(&s.current, 1, s.written.forgotten)
	s.file, s.end, _, err = s.files.Begin(&s.current, nil, 0)
	return err
}

// recover reads what is there, and makes it durable: what a crash left may be in the memory of the
// system only.
func (s *Store) recover(numbers []uint64) error {
	newest := numbers[len(numbers)-1]
	name := segment.Name(newest)
	f, err := s.files.OpenFile(name)
	if err != nil {
		return err
	}
	s.file = f
	if s.current, err = s.files.Header(newest, f); err != nil {
		return err
	}
	if len(s.current.State) != 16 {
		return format.Damaged(name, 16, "its header makes no sense")
	}
	s.tag, s.made = s.current.Tag, time.Unix(0, int64(binary.LittleEndian.Uint64(s.current.State)))
	r := replay{s: s}
	if err := r.run(); err != nil {
		return err
	}
	s.state.sort()
	if s.state.first() > binary.LittleEndian.Uint64(s.current.State[8:]) {
		return format.Damaged(name, 16, "messages are missing")
	}
	if err := s.files.Confirm(f, s.end, r.lastRecord, r.closed); err != nil {
		return err
	}
	for _, n := range numbers {
		if n < s.current.First { // not needed since a later segment has begun
			_ = s.files.Remove(segment.Name(n))
		}
	}
	return nil
}

// replay reads all segments that are needed.
type replay struct {
	s          *Store
	data       []byte
	lastRecord []byte // of the newest segment
	closed     bool   // it ends with the mark of Close
}

func (r *replay) run() error {
	s, newest := r.s, &r.s.current
	h, err := r.header(newest.First)
	for n := newest.First; err == nil; n++ {
		if n == newest.First {
			s.state.head, s.state.newest, s.state.forgotten = h.Numbers[0], h.Numbers[1], int64(h.Numbers[2])
		}
		if h.Tag != s.tag || h.Numbers[0] != s.state.head || h.Numbers[1] != s.state.newest {
			return format.Damaged(segment.Name(n), 16, "it does not continue the segment before it")
		}
		s.state.forgotten = max(s.state.forgotten, int64(h.Numbers[2]))
		if n == newest.Number {
			return r.segment(&h, -1)
		}
		var next segment.Header
		if next, err = r.header(n + 1); err == nil {
			err = r.segment(&h, next.PrevEnd)
		}
		h = next
	}
	return err
}

// header returns the header of a segment.
func (r *replay) header(number uint64) (segment.Header, error) {
	if number == r.s.current.Number {
		return r.s.current, nil
	}
	return r.s.files.Header(number, nil)
}

// segment adds what a segment has, whose records end at an offset; -1: it is the newest.
func (r *replay) segment(h *segment.Header, end int64) error {
	s, name, newest := r.s, segment.Name(h.Number), end < 0
	f := s.file
	if !newest {
		var err error
		if f, err = s.files.OpenFile(name); err != nil {
			return err
		}
		defer f.Close()
	}
	data, err := s.files.Read(h, f, end, r.data)
	if err != nil {
		return err
	}
	r.data = data[:cap(data)]
	offset := int64(h.Length())
	for offset != end {
		kind, body := h.RecordAt(data, offset)
		switch {
		case kind == segment.Changes && (newest || offset < end):
		case !newest:
			return format.Damaged(name, offset, "a record is damaged")
		default:
			s.end, r.closed = offset, kind == segment.Closed
			return s.files.End(h, data, offset)
		}
		if err := s.state.decode(body, h.Number); err != nil {
			return format.Damaged(name, offset, err.Error())
		}
		if newest {
			r.lastRecord = data[offset : offset+segment.FrameSize+int64(len(body))]
		}
		offset += segment.FrameSize + int64(len(body))
	}
	return nil
}
