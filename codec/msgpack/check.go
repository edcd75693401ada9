package msgpack

import (
	"encoding/binary"
	"errors"
)

const maxDepth = 10_000 // as in encoding/json

var (
	errShort  = errors.New("msgpack: the payload ends within a value")
	errRest   = errors.New("msgpack: bytes follow the value; a payload holds one")
	errDepth  = errors.New("msgpack: nested more than 10,000 levels deep")
	errUnused = errors.New("msgpack: the byte c1 begins no value")
)

// check returns an error unless payload is exactly one value. It neither recurses nor
// allocates in proportion to a length that the payload claims.
func check(payload []byte) error {
	var outer []int // values that are still to come in the enclosing arrays and maps
	open := 1       // in the innermost
	for {
		for open == 0 {
			if len(outer) == 0 {
				if len(payload) > 0 {
					return errRest
				}
				return nil
			}
			open, outer = outer[len(outer)-1], outer[:len(outer)-1]
		}
		size, values, err := head(payload)
		if err != nil {
			return err
		}
		// A value has at least one byte.
		if size > uint64(len(payload)) || values > uint64(len(payload))-size {
			return errShort
		}
		payload = payload[size:]
		open--
		if values > 0 {
			if len(outer) == maxDepth {
				return errDepth
			}
			outer, open = append(outer, open), int(values)
		}
	}
}

// head returns how many bytes the value at the start of b has, without the values that
// it contains, and how many those are.
func head(b []byte) (size, values uint64, err error) {
	if len(b) == 0 {
		return 0, 0, errShort
	}
	c := b[0]
	switch {
	case c < 0x80, c >= 0xe0: // small numbers
		return 1, 0, nil
	case c < 0x90: // a map
		return 1, 2 * uint64(c&0x0f), nil
	case c < 0xa0: // an array
		return 1, uint64(c & 0x0f), nil
	case c < 0xc0: // a string
		return 1 + uint64(c&0x1f), 0, nil
	}
	l := layouts[c]
	if l.fixed == 0 {
		return 0, 0, errUnused
	}
	n, err := length(b[1:], l.length)
	return l.fixed + l.bytes*n, l.values * n, err
}

// layout is how a value is laid out: fixed bytes with the code and the length, then
// bytes or values for each unit of the length.
type layout struct {
	fixed, bytes, values uint64
	length               int // bytes of the length
}

// layouts has the codes from 0xc0, of which 0xc1 is not used.
var layouts = [256]layout{
	0xc0: {fixed: 1}, 0xc2: {fixed: 1}, 0xc3: {fixed: 1}, // nil, false, true
	0xc4: {2, 1, 0, 1}, 0xc5: {3, 1, 0, 2}, 0xc6: {5, 1, 0, 4}, // bytes
	0xc7: {3, 1, 0, 1}, 0xc8: {4, 1, 0, 2}, 0xc9: {6, 1, 0, 4}, // extensions
	0xca: {fixed: 5}, 0xcb: {fixed: 9}, // floats
	0xcc: {fixed: 2}, 0xcd: {fixed: 3}, 0xce: {fixed: 5}, 0xcf: {fixed: 9}, // unsigned
	0xd0: {fixed: 2}, 0xd1: {fixed: 3}, 0xd2: {fixed: 5}, 0xd3: {fixed: 9}, // signed
	0xd4: {fixed: 3}, 0xd5: {fixed: 4}, 0xd6: {fixed: 6}, 0xd7: {fixed: 10}, 0xd8: {fixed: 18}, // extensions
	0xd9: {2, 1, 0, 1}, 0xda: {3, 1, 0, 2}, 0xdb: {5, 1, 0, 4}, // strings
	0xdc: {3, 0, 1, 2}, 0xdd: {5, 0, 1, 4}, // arrays
	0xde: {3, 0, 2, 2}, 0xdf: {5, 0, 2, 4}, // maps
}

// length reads a big-endian number of n bytes.
func length(b []byte, n int) (uint64, error) {
	if len(b) < n {
		return 0, errShort
	}
	switch n {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(b)), nil
	}
	return 0, nil
}
