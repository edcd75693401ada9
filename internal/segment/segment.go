// Package segment has what stores in files share: the files of a log, their headers and the frames of their
// records, which tell a record that a crash interrupted from damage, and the file system below them.
package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// A segment is a header and records. All numbers are little-endian; header and records are Padded to
// 16 bytes, so that the frame of a record is never in two sectors of a disk.
const (
	Alignment  = 16
	FixedSize  = 112 // bytes of the header before the state
	FrameSize  = 16
	sumAt      = 108 // where the header has its checksum
	noState    = math.MaxUint32
	MaxRecord  = 1 << 30 // bytes
	MaxSegment = 4 << 30 // bytes
)

// Kinds of records.
const (
	Changes = 1 // what a store has written follows
	Sealed  = 2 // the next segment has begun
	Closed  = 3 // the store was closed; the next record replaces this one
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Format is what distinguishes the files of one kind of store, and its errors.
type Format struct {
	Magic   string // 8 bytes
	Version uint32

	Corrupt, Foreign, Newer error // sentinels, which are wrapped
}

// Header is what a segment begins with. It has all that is needed of the segments before First, so
// that they can be removed.
type Header struct {
	Number  uint64
	First   uint64 // the oldest segment that is needed; its own number: none before it
	PrevEnd int64  // where the records of the segment before it end
	Size    int64  // of the file
	Seed    uint64 // random: records of a file that is used again do not count

	// What the store needs.
	Numbers [3]uint64
	Tag     [16]byte
	State   []byte
}

// Padded returns the size of n bytes with their padding.
func Padded(n int) int { return (n + Alignment - 1) &^ (Alignment - 1) }

// Length returns the bytes of the header with its padding.
func (h *Header) Length() int { return Padded(FixedSize + len(h.State)) }

// Encode returns the header of a file of a format.
func (f *Format) Encode(h *Header) []byte {
	b := make([]byte, h.Length())
	le := binary.LittleEndian
	copy(b, f.Magic)
	le.PutUint32(b[8:], f.Version)
	le.PutUint32(b[12:], uint32(len(b)))
	for i, v := range []uint64{h.Number, h.First, uint64(h.PrevEnd), uint64(h.Size), h.Seed, h.Numbers[0], h.Numbers[1], h.Numbers[2]} {
		le.PutUint64(b[16+8*i:], v)
	}
	copy(b[80:], h.Tag[:])
	le.PutUint32(b[96:], uint32(len(h.State)))
	if h.State == nil {
		le.PutUint32(b[96:], noState)
	}
	copy(b[FixedSize:], h.State)
	le.PutUint32(b[sumAt:], f.headerSum(b))
	return b
}

// headerSum is the checksum of a header with the right magic and version, whatever it has there.
func (f *Format) headerSum(b []byte) uint32 {
	sum := crc32.Checksum(binary.LittleEndian.AppendUint32([]byte(f.Magic), f.Version), castagnoli)
	sum = crc32.Update(sum, castagnoli, b[12:sumAt])
	return crc32.Update(sum, castagnoli, b[sumAt+4:])
}

// Decode reads the header of the file name, which has the bytes b.
func (f *Format) Decode(name string, b []byte) (h Header, err error) {
	le := binary.LittleEndian
	known := len(b) >= 12 && string(b[:8]) == f.Magic
	whole := len(b) >= FixedSize
	if whole {
		n := le.Uint32(b[12:])
		whole = n >= FixedSize && uint64(n) <= uint64(len(b)) && n%Alignment == 0
		if whole {
			b = b[:n]
			whole = f.headerSum(b) == le.Uint32(b[sumAt:])
		}
	}
	switch {
	case !known && len(bytes.Trim(b, "\x00")) == 0:
		return h, f.Damaged(name, 0, "its header is lost")
	case !known && !whole:
		return h, fmt.Errorf("%w (%s)", f.Foreign, name)
	case !whole && le.Uint32(b[8:]) > f.Version:
		return h, fmt.Errorf("%w (%s has version %d)", f.Newer, name, le.Uint32(b[8:]))
	case !whole || !known || le.Uint32(b[8:]) != f.Version:
		return h, f.Damaged(name, 0, "its header is damaged")
	}
	number := func(i int) uint64 { return le.Uint64(b[16+8*i:]) }
	h = Header{Number: number(0), First: number(1), PrevEnd: int64(number(2)), Size: int64(number(3)), Seed: number(4)}
	h.Numbers = [3]uint64{number(5), number(6), number(7)}
	copy(h.Tag[:], b[80:])
	if n := le.Uint32(b[96:]); n != noState {
		if uint64(n) > uint64(len(b)-FixedSize) {
			return h, f.Damaged(name, 96, "its header makes no sense")
		}
		h.State = append([]byte{}, b[FixedSize:FixedSize+int(n)]...)
	}
	if h.Number == 0 || h.First == 0 || h.First > h.Number || h.PrevEnd < 0 {
		return h, f.Damaged(name, 16, "its header makes no sense")
	}
	return h, nil
}

// Finish fills in the frame of a record, which has FrameSize bytes for it at its beginning, for the
// offset at which it is written, and pads it.
func (h *Header) Finish(record []byte, kind uint32, offset int64) []byte {
	for len(record)%Alignment != 0 {
		record = append(record, 0)
	}
	le := binary.LittleEndian
	le.PutUint32(record, uint32(len(record)-FrameSize))
	le.PutUint32(record[4:], crc32.Checksum(record[FrameSize:], castagnoli))
	le.PutUint32(record[8:], kind)
	le.PutUint32(record[12:], h.frameSum(record, offset))
	return record
}

// frameSum binds a frame to its place: bytes in a payload, or of an earlier use of the file, are never
// taken for a record.
func (h *Header) frameSum(frame []byte, offset int64) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], h.Seed)
	binary.LittleEndian.PutUint64(place[8:], uint64(offset))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, frame[:12])
}

// FrameAt returns the frame at an offset of a segment; kind 0 if there is none.
func (h *Header) FrameAt(data []byte, offset int64) (kind uint32, length int64) {
	if offset+FrameSize > int64(len(data)) {
		return 0, 0
	}
	frame := data[offset : offset+FrameSize]
	le := binary.LittleEndian
	kind = le.Uint32(frame[8:])
	if kind < Changes || kind > Closed || le.Uint32(frame[12:]) != h.frameSum(frame, offset) {
		return 0, 0
	}
	return kind, int64(le.Uint32(frame))
}

// RecordAt returns the record at an offset of a segment; kind 0 if there is none that is whole.
func (h *Header) RecordAt(data []byte, offset int64) (kind uint32, body []byte) {
	kind, length := h.FrameAt(data, offset)
	begin := offset + FrameSize
	if kind == 0 || length > int64(len(data))-begin {
		return 0, nil
	}
	body = data[begin : begin+length]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(data[offset+4:]) {
		return 0, nil
	}
	return kind, body
}

// FrameAfter returns the offset of the first frame after an offset; 0 if there is none.
func (h *Header) FrameAfter(data []byte, offset int64) int64 {
	for offset += Alignment; offset+FrameSize <= int64(len(data)); offset += Alignment {
		if kind, _ := h.FrameAt(data, offset); kind != 0 {
			return offset
		}
	}
	return 0
}

// Damaged returns the error for damage at an offset of a file.
func (f *Format) Damaged(name string, offset int64, why string) error {
	return fmt.Errorf("%w (%s, offset %d: %s)", f.Corrupt, name, offset, why)
}
