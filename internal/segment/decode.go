package segment

import (
	"encoding/binary"
	"time"
)

// AppendBytes appends a string with its length.
func AppendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// AppendTime appends a time without its zone.
func AppendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

// Decoder reads what B still has. What it returns means nothing once Bad is set.
type Decoder struct {
	B   []byte
	Bad bool
}

// Padding reports whether nothing but the padding of a record is left.
func (d *Decoder) Padding() bool {
	for _, b := range d.B {
		if b != 0 {
			return false
		}
	}
	return len(d.B) < Alignment
}

// Time reads what AppendTime has written.
func (d *Decoder) Time() time.Time {
	seconds := d.Varint()
	return time.Unix(seconds, int64(d.Uvarint()%1e9))
}

// Count returns how many values of at least a number of bytes follow.
func (d *Decoder) Count(least int) int {
	n := d.Uvarint()
	if n > uint64(len(d.B)/least) {
		d.Bad = true
		return 0
	}
	return int(n)
}

// Uvarint reads a number.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.B)
	d.skip(n)
	return v
}

// Varint reads a number that may be negative.
func (d *Decoder) Varint() int64 {
	v, n := binary.Varint(d.B)
	d.skip(n)
	return v
}

func (d *Decoder) skip(n int) {
	if n <= 0 {
		d.Bad, d.B = true, nil
		return
	}
	d.B = d.B[n:]
}

// Byte reads a byte.
func (d *Decoder) Byte() byte {
	if b := d.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// Bytes reads what AppendBytes has written. It shares the memory of B.
func (d *Decoder) Bytes() []byte { return d.Take(d.Uvarint()) }

// Take reads n bytes. They share the memory of B.
func (d *Decoder) Take(n uint64) []byte {
	if n > uint64(len(d.B)) {
		d.Bad, d.B = true, nil
		return nil
	}
	taken := d.B[:n:n]
	d.B = d.B[n:]
	return taken
}
