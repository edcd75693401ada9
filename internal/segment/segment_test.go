package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
)

var (
	errCorrupt = errors.New("corrupt")
	errForeign = errors.New("foreign")
	errNewer   = errors.New("newer")
)

var format = segment.Format{Magic: "limpetxy", Version: 2, Corrupt: errCorrupt, Foreign: errForeign, Newer: errNewer}

// What was encoded is decoded, and of anything shorter the decoder says that it is bad, at each byte.
func TestDecoder(t *testing.T) {
	when := time.Unix(-5, 123456789)
	b := segment.AppendBytes(nil, "topic")
	b = binary.AppendUvarint(b, math.MaxUint64)
	b = binary.AppendVarint(b, math.MinInt64)
	b = segment.AppendTime(b, when)
	b = append(b, 7)
	b = binary.AppendUvarint(b, 3) // three values
	b = segment.AppendBytes(segment.AppendBytes(segment.AppendBytes(b, []byte{1}), ""), "xy")
	decode := func(d *segment.Decoder) error {
		topic, big, small, at, one := string(d.Bytes()), d.Uvarint(), d.Varint(), d.Time(), d.Byte()
		var list []string
		for range d.Count(1) {
			list = append(list, string(d.Bytes()))
		}
		if topic != "topic" || big != math.MaxUint64 || small != math.MinInt64 || !at.Equal(when) || one != 7 || !slices.Equal(list, []string{"\x01", "", "xy"}) {
			return fmt.Errorf("decoded %q, %d, %d, %v, %d, %q", topic, big, small, at, one, list)
		}
		return nil
	}
	d := segment.Decoder{B: append(slices.Clone(b), make([]byte, segment.Alignment-1)...)}
	if err := decode(&d); err != nil || d.Bad || !d.Padding() {
		t.Errorf("%v, bad %v, left %v", err, d.Bad, d.B)
	}
	for n := range b {
		d := segment.Decoder{B: slices.Clone(b[:n])}
		if _ = decode(&d); !d.Bad {
			t.Errorf("cut at %d: not bad", n)
		}
	}
}

// Lengths and numbers of values that cannot be are bad, and cost no memory.
func TestDecoderOfNonsense(t *testing.T) {
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	endless := bytes.Repeat([]byte{0xff}, 11)
	for name, use := range map[string]func(d *segment.Decoder){
		"a length":              func(d *segment.Decoder) { d.Bytes() },
		"a number of values":    func(d *segment.Decoder) { d.Count(2) },
		"a number of big bytes": func(d *segment.Decoder) { d.Take(1 << 40) },
	} {
		d := segment.Decoder{B: slices.Clone(huge)}
		if use(&d); !d.Bad {
			t.Errorf("%s: not bad", name)
		}
	}
	for _, number := range []func(d *segment.Decoder){func(d *segment.Decoder) { d.Uvarint() }, func(d *segment.Decoder) { d.Varint() }} {
		d := segment.Decoder{B: slices.Clone(endless)}
		if number(&d); !d.Bad || d.B != nil {
			t.Error("a number without an end: not bad")
		}
	}
	d := segment.Decoder{B: []byte{2, 0, 0, 0, 0}}
	if n := d.Count(2); n != 2 || d.Bad {
		t.Errorf("two values of two bytes in four: %d, bad %v", n, d.Bad)
	}
	if d = (segment.Decoder{B: []byte{3, 0, 0, 0, 0, 0}}); d.Count(2) != 0 || !d.Bad {
		t.Error("three values of two bytes in five: not bad")
	}
	for _, left := range [][]byte{make([]byte, segment.Alignment), {0, 0, 1}} {
		if d = (segment.Decoder{B: left}); d.Padding() {
			t.Errorf("%v is no padding", left)
		}
	}
	d = segment.Decoder{B: []byte{1, 2, 3}}
	if part := d.Take(1); cap(part) != 1 {
		t.Error("to append to what was taken changes what follows")
	}
}

func header() *segment.Header {
	return &segment.Header{
		Version: 2, Number: 7, First: 5, PrevEnd: 4096, Size: 65536, Seed: 99,
		Numbers: [4]uint64{1, math.MaxUint64, 3, 4}, Tag: [16]byte{1, 15: 2}, State: []byte("the state of a store"),
	}
}

// A header comes back, also with files of the version before. Without a state it is another one than with an empty state.
func TestHeader(t *testing.T) {
	for _, version := range []uint32{1, 2} {
		for _, state := range [][]byte{nil, {}, []byte("state"), make([]byte, 100<<10)} {
			want := header()
			want.Version, want.State = version, state
			b := format.Encode(want)
			got, err := format.Decode("x", append(b, 1, 2, 3))
			if err != nil || len(b) != want.Length() || len(b)%segment.Alignment != 0 {
				t.Fatal(err)
			}
			if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", *want) {
				t.Errorf("%#v, want %#v", got, *want)
			}
		}
	}
}

// Each flipped bit of a header is noticed, and so is each byte that is missing. No damage counts as a newer version.
func TestDamagedHeader(t *testing.T) {
	b := format.Encode(header())
	for bit := range 8 * len(b) {
		flipped := slices.Clone(b)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := format.Decode("x", flipped); !errors.Is(err, errCorrupt) {
			t.Fatalf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
	}
	for n := range b {
		want := errCorrupt
		if 0 < n && n < 12 { // too little to know whose it is
			want = errForeign
		}
		if _, err := format.Decode("x", b[:n]); !errors.Is(err, want) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	newer := slices.Clone(b)
	newer[8]++
	newer[segment.FixedSize-1] ^= 1 // its checksum
	if _, err := format.Decode("x", newer); !errors.Is(err, errNewer) {
		t.Errorf("a newer version: %v", err)
	}
	other := format
	other.Magic = "limpetzz"
	if _, err := format.Decode("x", other.Encode(header())); !errors.Is(err, errForeign) {
		t.Errorf("a file of another store: %v", err)
	}
	for name, change := range map[string]func(h *segment.Header){
		"no number":                func(h *segment.Header) { h.Number = 0 },
		"no first":                 func(h *segment.Header) { h.First = 0 },
		"needs what comes after":   func(h *segment.Header) { h.First = h.Number + 1 },
		"an end before the begin":  func(h *segment.Header) { h.PrevEnd = -1 },
		"the version that is none": func(h *segment.Header) { h.Version = 0 },
	} {
		h := header()
		change(h)
		if _, err := format.Decode("x", format.Encode(h)); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// record returns a record with a body, as it is written at an offset.
func record(h *segment.Header, body string, kind uint32, offset int) []byte {
	return h.Finish(append(make([]byte, segment.FrameSize), body...), kind, int64(offset))
}

// A record counts whole, unchanged, in its place and in its file only.
func TestRecord(t *testing.T) {
	h := header()
	const offset = 160
	data := append(make([]byte, offset), record(h, "the body of a record", segment.Changes, offset)...)
	kind, body := h.RecordAt(data, offset)
	if kind != segment.Changes || !bytes.HasPrefix(body, []byte("the body of a record")) || len(body)%segment.Alignment != 0 {
		t.Fatalf("%d, %q", kind, body)
	}
	for bit := 8 * offset; bit < 8*len(data); bit++ {
		flipped := slices.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		if kind, _ := h.RecordAt(flipped, offset); kind != 0 {
			t.Fatalf("bit %d of byte %d: a record of kind %d", bit%8, bit/8-offset, kind)
		}
	}
	for n := range len(data) {
		if kind, _ := h.RecordAt(data[:n], offset); kind != 0 {
			t.Errorf("cut at %d: a record of kind %d", n, kind)
		}
	}
	moved := append(make([]byte, segment.Alignment), data...)
	if kind, _ := h.RecordAt(moved, offset+segment.Alignment); kind != 0 {
		t.Error("a record in another place counts")
	}
	other := *h
	other.Seed++
	if kind, _ := other.RecordAt(data, offset); kind != 0 {
		t.Error("a record of an earlier use of the file counts")
	}
	if h.FrameAfter(data, 0) != offset || h.FrameAfter(data, offset) != 0 || h.FrameAfter(moved, 0) != 0 {
		t.Errorf("frames after 0 and after the record: %d, %d", h.FrameAfter(data, 0), h.FrameAfter(data, offset))
	}
	for _, kind := range []uint32{0, segment.Closed + 1} {
		if got, _ := h.RecordAt(append(make([]byte, offset), record(h, "x", kind, offset)...), offset); got != 0 {
			t.Errorf("a record of the unknown kind %d counts", kind)
		}
	}
}

// What ends the newest segment is a mark, a torn record, or nothing. Everything else is damage.
func TestEnd(t *testing.T) {
	h := header()
	files := segment.Files{Format: &format}
	first := record(h, "first", segment.Changes, 160)
	end := 160 + len(first)
	log := func(parts ...[]byte) []byte {
		data := slices.Concat(append([][]byte{make([]byte, 160), first}, parts...)...)
		return append(data, make([]byte, 256)...)
	}
	torn := record(h, "second", segment.Changes, end)
	torn[segment.FrameSize] ^= 1
	for name, row := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":                      {log(), nil},
		"a torn record":                {log(torn), nil},
		"the mark of Close":            {log(record(h, "", segment.Closed, end)), nil},
		"old records behind that mark": {log(record(h, "", segment.Closed, end), record(h, "old", segment.Changes, end+segment.FrameSize)), nil},
		"the next segment is missing":  {log(record(h, "", segment.Sealed, end)), errCorrupt},
		"damage before a record":       {log(torn, record(h, "third", segment.Changes, end+len(torn))), errCorrupt},
		"damage before a mark":         {log(torn, record(h, "", segment.Closed, end+len(torn))), errCorrupt},
	} {
		if err := files.End(h, row.data, int64(end)); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
}
