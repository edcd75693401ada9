package feed

import (
	"encoding/binary"
	"math/bits"
)

// plain holds the bytes that a string may hold as they are, if it is UTF-8: see faultOf.
var plain = func() (p [256]bool) {
	for c := range p {
		p[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return p
}()

const ones, tops = 0x0101010101010101, 0x8080808080808080

// special returns where the bytes are, of the eight, that a string may not hold as they
// are: the highest bit of the first of them is set, counted from the lowest byte. It looks
// at all eight at once: the highest bit of a byte of x-n is set where the byte of x is
// less than n, as far as no lower byte was. That holds for bytes below 0x80; the others
// are plain. To flip bit 1 swaps '"' with the space, which makes the quote the first byte
// after those below the space.
func special(eight uint64) uint64 {
	return (((eight ^ ones*2) - ones*(' '+1)) | ((eight ^ ones*'\\') - ones)) &^ eight & tops
}

// plainBytes returns how many of the first 16 bytes a string may hold as they are. It does
// not branch: the lengths of strings cannot be predicted.
func plainBytes(one, two uint64) int {
	low, high := bits.TrailingZeros64(special(one)), bits.TrailingZeros64(special(two))
	return (low + high&-(low>>6)) / 8 // low is 64 if all of its bytes are plain
}

// str skips a string.
func (s *scanner) str(at int) int {
	if s.byteAt(at) != '"' {
		return s.fail(at)
	}
	s.escape = false
	at++
	for data := s.data; ; {
		if at+16 <= len(data) {
			one, two := binary.LittleEndian.Uint64(data[at:]), binary.LittleEndian.Uint64(data[at+8:])
			s.all |= one | two
			n := plainBytes(one, two)
			if at += n; n == 16 {
				continue
			}
		} else {
			for at < len(data) && plain[data[at]] {
				s.all |= uint64(data[at])
				at++
			}
			if at == len(data) {
				return s.fail(at)
			}
		}
		c := data[at]
		at++
		if c == '"' {
			return at
		}
		if c != '\\' {
			return s.fail(at)
		}
		s.escape = true
		if at = s.escaped(at); at < 0 {
			return at
		}
	}
}

// escaped skips what follows a backslash.
func (s *scanner) escaped(at int) int {
	switch s.byteAt(at) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return at + 1
	case 'u':
		for range 4 {
			if at++; !hex(s.byteAt(at)) {
				return s.fail(at)
			}
		}
		return at + 1
	}
	return s.fail(min(at+1, len(s.data)))
}

func hex(c byte) bool { return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
