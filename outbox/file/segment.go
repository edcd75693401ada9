package file

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/limpet-go/limpet/outbox"
)

// A segment is a header and records. All numbers are little-endian; header and records are padded to
// 16 bytes, so that the frame of a record is never in two sectors of a disk.
const (
	magic      = "limpetob"
	version    = 2 // 1 has no Removed
	alignment  = 16
	fixedSize  = 112 // bytes of the header before the state
	removedAt  = 100 // where the header has how many were removed; 0 in version 1
	frameSize  = 16
	sumAt      = 108 // where the header has its checksum
	noState    = math.MaxUint32
	maxRecord  = 1 << 30 // bytes
	maxSegment = 4 << 30 // bytes
)

// Kinds of records.
const (
	changes = 1 // changes follow
	sealed  = 2 // the next segment has begun
	closed  = 3 // the store was closed; the next record replaces this one
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a segment begins with. It has all that is needed of the segments before first, so
// that they can be removed.
type header struct {
	version uint32
	number  uint64
	first   uint64 // the oldest segment that is needed; its own number: none before it
	prevEnd int64  // where the records of the segment before it end
	size    int64  // of the file
	seed    uint64 // random: records of a file that is used again do not count
	bounds
}

// bounds are what is kept, but for the messages. A message that is removed keeps its number in the log: the number that
// the client knows is lower by those that were removed before it.
type bounds struct {
	epoch   uint64 // how often the messages were forgotten
	through uint64 // up to it they are settled or removed
	last    uint64 // the highest number so far
	removed uint64 // how many were, up to through
	tag     outbox.ID
	state   []byte
}

func padded(n int) int { return (n + alignment - 1) &^ (alignment - 1) }

func (h *header) length() int { return padded(fixedSize + len(h.state)) }

func (h *header) encode() []byte {
	b := make([]byte, h.length())
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], h.version)
	le.PutUint32(b[12:], uint32(len(b)))
	for i, v := range []uint64{h.number, h.first, uint64(h.prevEnd), uint64(h.size), h.seed, h.epoch, h.through, h.last} {
		le.PutUint64(b[16+8*i:], v)
	}
	copy(b[80:], h.tag[:])
	le.PutUint32(b[96:], uint32(len(h.state)))
	if h.state == nil {
		le.PutUint32(b[96:], noState)
	}
	le.PutUint64(b[removedAt:], h.removed)
	copy(b[fixedSize:], h.state)
	le.PutUint32(b[sumAt:], headerSum(b, h.version))
	return b
}

// headerSum is the checksum of a header with the right magic and a version, whatever it has there.
func headerSum(b []byte, version uint32) uint32 {
	sum := crc32.Checksum(binary.LittleEndian.AppendUint32([]byte(magic), version), castagnoli)
	sum = crc32.Update(sum, castagnoli, b[12:sumAt])
	return crc32.Update(sum, castagnoli, b[sumAt+4:])
}

// decodeHeader reads the header of the file name, which has the bytes b.
func decodeHeader(name string, b []byte) (h header, err error) {
	le := binary.LittleEndian
	known := len(b) >= 12 && string(b[:8]) == magic
	whole := len(b) >= fixedSize
	if whole {
		n := le.Uint32(b[12:])
		whole = n >= fixedSize && uint64(n) <= uint64(len(b)) && n%alignment == 0
		if whole {
			b = b[:n]
			for h.version = version; h.version > 0 && headerSum(b, h.version) != le.Uint32(b[sumAt:]); {
				h.version--
			}
			whole = h.version > 0
		}
	}
	switch {
	case !known && len(bytes.Trim(b, "\x00")) == 0:
		return h, corrupt(name, 0, "its header is lost")
	case !known && !whole:
		return h, fmt.Errorf("%w (%s)", outbox.ErrForeign, name)
	case !whole && le.Uint32(b[8:]) > version:
		return h, fmt.Errorf("%w (%s has version %d)", outbox.ErrFormat, name, le.Uint32(b[8:]))
	case !whole || !known || le.Uint32(b[8:]) != h.version:
		return h, corrupt(name, 0, "its header is damaged")
	}
	number := func(i int) uint64 { return le.Uint64(b[16+8*i:]) }
	h.number, h.first, h.prevEnd, h.size, h.seed = number(0), number(1), int64(number(2)), int64(number(3)), number(4)
	h.epoch, h.through, h.last, h.removed = number(5), number(6), number(7), le.Uint64(b[removedAt:])
	copy(h.tag[:], b[80:])
	if n := le.Uint32(b[96:]); n != noState {
		if uint64(n) > uint64(len(b)-fixedSize) {
			return h, corrupt(name, 96, "its header makes no sense")
		}
		h.state = append([]byte{}, b[fixedSize:fixedSize+int(n)]...)
	}
	if h.number == 0 || h.first == 0 || h.first > h.number || h.through > h.last || h.removed > h.through || h.prevEnd < 0 {
		return h, corrupt(name, 16, "its header makes no sense")
	}
	return h, nil
}

// finish fills in the frame of a record, which has frameSize bytes for it at its beginning, for the
// offset at which it is written, and pads it.
func (h *header) finish(record []byte, kind uint32, offset int64) []byte {
	for len(record)%alignment != 0 {
		record = append(record, 0)
	}
	le := binary.LittleEndian
	le.PutUint32(record, uint32(len(record)-frameSize))
	le.PutUint32(record[4:], crc32.Checksum(record[frameSize:], castagnoli))
	le.PutUint32(record[8:], kind)
	le.PutUint32(record[12:], h.frameSum(record, offset))
	return record
}

// frameSum binds a frame to its place: bytes in a payload, or of an earlier use of the file, are never
// taken for a record.
func (h *header) frameSum(frame []byte, offset int64) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], h.seed)
	binary.LittleEndian.PutUint64(place[8:], uint64(offset))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, frame[:12])
}

// frameAt returns the frame at an offset of a segment; kind 0 if there is none.
func (h *header) frameAt(data []byte, offset int64) (kind uint32, length int64) {
	if offset+frameSize > int64(len(data)) {
		return 0, 0
	}
	frame := data[offset : offset+frameSize]
	le := binary.LittleEndian
	kind = le.Uint32(frame[8:])
	if kind < changes || kind > closed || le.Uint32(frame[12:]) != h.frameSum(frame, offset) {
		return 0, 0
	}
	return kind, int64(le.Uint32(frame))
}

// recordAt returns the record at an offset of a segment; kind 0 if there is none that is whole.
func (h *header) recordAt(data []byte, offset int64) (kind uint32, body []byte) {
	kind, length := h.frameAt(data, offset)
	begin := offset + frameSize
	if kind == 0 || length > int64(len(data))-begin {
		return 0, nil
	}
	body = data[begin : begin+length]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(data[offset+4:]) {
		return 0, nil
	}
	return kind, body
}

// frameAfter returns the offset of the first frame after an offset; 0 if there is none.
func (h *header) frameAfter(data []byte, offset int64) int64 {
	for offset += alignment; offset+frameSize <= int64(len(data)); offset += alignment {
		if kind, _ := h.frameAt(data, offset); kind != 0 {
			return offset
		}
	}
	return 0
}

func corrupt(name string, offset int64, why string) error {
	return fmt.Errorf("%w (%s, offset %d: %s)", outbox.ErrCorrupt, name, offset, why)
}
