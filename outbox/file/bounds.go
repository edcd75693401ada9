package file

import (
	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
)

var format = segment.Format{
	Magic: "limpetob", Version: 1,
	Corrupt: outbox.ErrCorrupt, Foreign: outbox.ErrForeign, Newer: outbox.ErrFormat,
}

func filesOn(system segment.System, size int64) segment.Files {
	return segment.Files{System: system, Format: &format, SegmentSize: size}
}

// bounds are what is kept, but for the messages.
type bounds struct {
	epoch   uint64 // how often the messages were forgotten
	through uint64
	last    uint64 // the highest number so far
	tag     outbox.ID
	state   []byte
}

// put writes b into a header.
func (b *bounds) put(h *segment.Header) {
	h.Numbers, h.Tag, h.State = [3]uint64{b.epoch, b.through, b.last}, b.tag, b.state
}

// boundsOf reads what put has written into the header of a file.
func boundsOf(name string, h *segment.Header) (bounds, error) {
	b := bounds{epoch: h.Numbers[0], through: h.Numbers[1], last: h.Numbers[2], tag: h.Tag, state: h.State}
	if b.through > b.last {
		return b, format.Damaged(name, 16, "its header makes no sense")
	}
	return b, nil
}
