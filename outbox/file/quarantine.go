package file

import (
	"errors"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
)

// Quarantine moves the files of an outbox that Open refuses into a new folder in its directory, so that Open
// begins a new outbox, with a new session. It changes nothing in the files, and deletes none. It returns the
// path of the folder, and the messages without an outcome that it could read: a program may publish them
// again. Messages in damaged records are missing. One whose outcome was in a damaged record is among them, so
// that it may be sent twice.
//
// If there is no file to move, folder is empty. It takes the lock, and its errors are those of Open, but for
// outbox.ErrCorrupt. Files that limpet has not written stay where they are.
func Quarantine(dir string) (folder string, messages []outbox.Message, err error) {
	path, err := filepath.Abs(dir)
	if err != nil || dir == "" {
		return "", nil, failure("quarantine", dir, errors.Join(err, fs.ErrInvalid))
	}
	system, err := segment.OpenFolder(path)
	if err != nil {
		return "", nil, failure("quarantine", path, err)
	}
	name, messages, err := quarantine(system)
	if err = errors.Join(err, system.Close()); err != nil {
		return "", nil, failure("quarantine", path, err)
	}
	if name == "" {
		return "", nil, nil
	}
	return filepath.Join(path, name), messages, nil
}

func quarantine(system segment.System) (name string, messages []outbox.Message, err error) {
	files := filesOn(system, 0)
	found := salvage{messages: map[uint64]outbox.Message{}}
	name, err = files.Quarantine(found.segment)
	for _, seq := range slices.Sorted(maps.Keys(found.messages)) {
		messages = append(messages, found.messages[seq])
	}
	return name, messages, err
}

// salvage collects the messages without an outcome in records that are whole.
type salvage struct {
	epoch    uint64
	messages map[uint64]outbox.Message
}

func (v *salvage) segment(h *segment.Header, records iter.Seq[[]byte]) {
	b, err := boundsOf(segment.Name(h.Number), h)
	if err != nil {
		return
	}
	if b.epoch != v.epoch {
		v.epoch = b.epoch
		clear(v.messages)
	}
	if h.First == h.Number { // it needs none before it, and may give the messages other numbers
		clear(v.messages)
	}
	maps.DeleteFunc(v.messages, func(seq uint64, _ outbox.Message) bool { return seq <= b.through })
	for body := range records {
		_ = decodeChanges(body, func(c *outbox.Change) error { v.change(c); return nil })
	}
}

func (v *salvage) change(c *outbox.Change) {
	if c.Reset {
		v.epoch++
		clear(v.messages)
	}
	for i := range c.Messages {
		m := cloneOf(&c.Messages[i])
		if !m.Void && !m.Settled {
			v.messages[m.Seq] = m
		}
	}
	v.within(outbox.Range{Lo: 1, Hi: c.Sent.Seq}, func(m outbox.Message) {
		if m.Sent.IsZero() {
			m.Sent = c.Sent.Time
			v.messages[m.Seq] = m
		}
	})
	for _, r := range slices.Concat(c.Void, c.Settled, c.Removed) {
		v.within(r, func(m outbox.Message) { delete(v.messages, m.Seq) })
	}
}

// within calls each for the messages in a range.
func (v *salvage) within(r outbox.Range, each func(outbox.Message)) {
	if r.Hi-r.Lo > uint64(len(v.messages)) {
		for seq, m := range v.messages {
			if r.Lo <= seq && seq <= r.Hi {
				each(m)
			}
		}
		return
	}
	for seq := r.Lo; ; seq++ {
		if m, ok := v.messages[seq]; ok {
			each(m)
		}
		if seq == r.Hi { // which may be the greatest number
			return
		}
	}
}
