package native

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// deepest is the nesting that scan can follow: one bit per level.
const deepest = 64

// isSpace reports whether c is white space in JSON (RFC 8259, section 2).
func isSpace(c byte) bool { return c <= ' ' && (c == ' ' || c == '\n' || c == '\r' || c == '\t') }

// skipSpace returns the index of the first byte from i on that is not white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

// embeddable reports whether p can travel as a JSON value and keep its bytes.
// White space around it would be lost.
func embeddable(p []byte) bool {
	return scan(p, 0, MaxDepth) == len(p) && utf8.Valid(p)
}

// scan returns the index after the JSON value that begins at b[i] (RFC 8259), or
// -1 if there is none or it is nested deeper than depth. It does not check UTF-8
// and accepts unpaired surrogates in \u escapes, which the grammar allows.
func scan(b []byte, i, depth int) int {
	var objects uint64 // bit 0: the innermost container is an object
	level := 0
	for {
		// A value.
		if i >= len(b) {
			return -1
		}
		start := i
		switch c := b[i]; c {
		case '"':
			for i++; i < len(b) && plain[b[i]]; i++ {
			}
			if i < len(b) && b[i] == '"' {
				i++
			} else {
				i = scanString(b, start)
			}
		case '{', '[':
			if level == depth {
				return -1
			}
			level++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			if i = skipSpace(b, i+1); i >= len(b) {
				return -1
			}
			if b[i] != c+2 { // its end in ASCII
				if c == '{' {
					if i = scanKey(b, i); i < 0 {
						return -1
					}
				}
				continue
			}
			i++
			level--
			objects >>= 1
		case 't':
			i = scanWord(b, i, "true")
		case 'f':
			i = scanWord(b, i, "false")
		case 'n':
			i = scanWord(b, i, "null")
		default:
			i = scanNumber(b, i)
		}
		// What follows it.
		for {
			if i < 0 || level == 0 {
				return i
			}
			if i = skipSpace(b, i); i >= len(b) {
				return -1
			}
			c := b[i]
			i++
			if c == ',' {
				i = skipSpace(b, i)
				if objects&1 == 1 {
					if i = scanKey(b, i); i < 0 {
						return -1
					}
				}
				break
			}
			if c != '}' && c != ']' || (c == '}') != (objects&1 == 1) {
				return -1
			}
			level--
			objects >>= 1
		}
	}
}

// scanKey skips a member's name, its colon and the white space after it.
func scanKey(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	start := i
	for i++; i < len(b) && plain[b[i]]; i++ {
	}
	if i+2 < len(b) && b[i] == '"' && b[i+1] == ':' && b[i+2] > ' ' {
		return i + 2
	}
	if i = scanString(b, start); i < 0 {
		return -1
	}
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return -1
	}
	return skipSpace(b, i+1)
}

// plain is the set of ASCII bytes that stand for themselves in a JSON string.
var plain = func() (set [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		set[c] = c != '"' && c != '\\'
	}
	return set
}()

// plainEnd returns the index of the first byte from b[i] on that is not plain. It
// compares eight bytes at a time.
func plainEnd(b []byte, i int) int {
	for len(b)-i >= 8 {
		v := binary.LittleEndian.Uint64(b[i:])
		// The top bit of a byte of odd is set if that byte is not plain: below
		// 0x20, a quote, a backslash, or not ASCII. Borrows can set bits above the
		// first such byte only, so the lowest set bit is exact.
		odd := (v - ' '*ones) | (v ^ '"'*ones - ones) | (v ^ '\\'*ones - ones) | v
		if odd &= 0x80 * ones; odd != 0 {
			return i + bits.TrailingZeros64(odd)/8
		}
		i += 8
	}
	for i < len(b) && plain[b[i]] {
		i++
	}
	return i
}

const ones = 0x0101010101010101

// scanString returns the index after the string whose quote is b[i], or -1.
func scanString(b []byte, i int) int {
	for i = plainEnd(b, i+1); i < len(b); i = plainEnd(b, i+1) {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			i++
			if i >= len(b) {
				return -1
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if _, ok := hex4(b, i+1); !ok {
					return -1
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

// scanWord returns the index after word at b[i], or -1.
func scanWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// scanNumber returns the index after the number at b[i], or -1.
func scanNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i >= len(b):
		return -1
	case b[i] == '0':
		i++
	default:
		if i = scanDigits(b, i); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i] == '.' {
		if i = scanDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return scanDigits(b, i)
	}
	return i
}

// scanDigits returns the index after one or more digits at b[i], or -1.
func scanDigits(b []byte, i int) int {
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// hex4 reads the four hex digits at b[i].
func hex4(b []byte, i int) (rune, bool) {
	if len(b)-i < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[i : i+4] {
		d := unhex[c]
		if d == noHex {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

// unhex is the value of each hex digit, noHex for any other byte.
var unhex = func() (values [256]uint8) {
	for c := range values {
		values[c] = noHex
	}
	for v := range uint8(16) {
		values[hexDigits[v]] = v
		values["0123456789ABCDEF"[v]] = v
	}
	return values
}()

const noHex = 0xff
