package native

import (
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// A writer appends fields in either encoding. A method named after a type always
// writes the field; one whose name ends in Opt leaves out a zero value.
type writer struct {
	b     []byte
	bin   bool   // the encoding is binary
	fault string // the first value that could not be encoded; empty: none
}

// fail records the first fault.
func (w *writer) fail(what string) {
	if w.fault == "" {
		w.fault = what
	}
}

// The wire types of protobuf.
const (
	wireVarint = 0
	wireI64    = 1
	wireBytes  = 2
	wireI32    = 5
)

// maxJSONNumber is the largest number that every JSON reader keeps exactly.
const maxJSONNumber = 1<<53 - 1

// fieldKey writes the key of a binary field: its number and its wire type.
func (w *writer) fieldKey(num, wt int) {
	w.b = binary.AppendUvarint(w.b, uint64(num)<<3|uint64(wt))
}

// key begins a JSON member.
func (w *writer) key(s *schema, num int) { w.member(s.members[num]) }

// member writes m, the beginning of a member, without its comma if it is the first
// of its object. That is so exactly after an opening brace, because no value ends
// in one.
func (w *writer) member(m string) {
	if w.b[len(w.b)-1] == '{' {
		m = m[1:]
	}
	w.b = append(w.b, m...)
}

func (w *writer) uint(s *schema, num int, v uint64) {
	if w.bin {
		w.fieldKey(num, wireVarint)
		w.b = binary.AppendUvarint(w.b, v)
		return
	}
	w.key(s, num)
	w.jsonUint(v)
}

func (w *writer) jsonUint(v uint64) { w.b = appendNumber(w.b, v) }

// appendNumber appends a JSON number; above 2^53-1 it is a string
// (docs/protocol.md, section 1).
func appendNumber(b []byte, v uint64) []byte {
	if v <= maxJSONNumber {
		return strconv.AppendUint(b, v, 10)
	}
	return append(strconv.AppendUint(append(b, '"'), v, 10), '"')
}

func (w *writer) uintOpt(s *schema, num int, v uint64) {
	if v != 0 {
		w.uint(s, num, v)
	}
}

func (w *writer) bool(s *schema, num int, v bool) {
	if w.bin {
		n := uint64(0)
		if v {
			n = 1
		}
		w.uint(s, num, n)
		return
	}
	w.key(s, num)
	w.b = strconv.AppendBool(w.b, v)
}

func (w *writer) boolOpt(s *schema, num int, v bool) {
	if v {
		w.bool(s, num, v)
	}
}

// word writes an enumeration. Its zero value is left out.
func (w *writer) word(s *schema, num int, v uint8, words []string) {
	switch {
	case int(v) >= len(words):
		w.fail(s.keys[num] + " has no such value")
	case v == 0:
	case w.bin:
		w.uint(s, num, uint64(v))
	default:
		w.key(s, num)
		w.quote(words[v])
	}
}

func (w *writer) string(s *schema, num int, v string) {
	if !w.bin {
		w.key(s, num)
		w.quote(v)
		return
	}
	if !utf8.ValidString(v) {
		w.fail(notUTF8)
	}
	w.fieldKey(num, wireBytes)
	w.b = binary.AppendUvarint(w.b, uint64(len(v)))
	w.b = append(w.b, v...)
}

func (w *writer) stringOpt(s *schema, num int, v string) {
	if v != "" {
		w.string(s, num, v)
	}
}

const notUTF8 = "a string is not UTF-8"

const hexDigits = "0123456789abcdef"

// quote writes v as a JSON string.
func (w *writer) quote(v string) {
	b := append(w.b, '"')
	start := 0
	for i := 0; i < len(v); {
		c := v[i]
		if plain[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(v[i:])
			if r == utf8.RuneError && n == 1 {
				w.fail(notUTF8)
			}
			i += n
			continue
		}
		b = append(b, v[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	w.b = append(append(b, v[start:]...), '"')
}

func (w *writer) bytes(s *schema, num int, v []byte) {
	if w.bin {
		w.fieldKey(num, wireBytes)
		w.b = binary.AppendUvarint(w.b, uint64(len(v)))
		w.b = append(w.b, v...)
		return
	}
	w.key(s, num)
	w.base64(v)
}

// base64 writes bytes as a JSON string in base64url.
func (w *writer) base64(v []byte) {
	w.b = append(w.b, '"')
	w.b = base64.RawURLEncoding.AppendEncode(w.b, v)
	w.b = append(w.b, '"')
}

func (w *writer) bytesOpt(s *schema, num int, v []byte) {
	if len(v) != 0 {
		w.bytes(s, num, v)
	}
}

// tag writes the tag of a position.
func (w *writer) tag(s *schema, num int, tag []byte) {
	if len(tag) > MaxTag {
		w.fail("a tag is too long")
		return
	}
	w.bytes(s, num, tag)
}

func (w *writer) tagOpt(s *schema, num int, tag []byte) {
	if len(tag) != 0 {
		w.tag(s, num, tag)
	}
}

// appendUUID appends a message id as the text of a UUID, in quotes (RFC 9562,
// section 4).
func appendUUID(b []byte, id *wire.ID) []byte {
	b = append(b, `"00000000-0000-0000-0000-000000000000"`...)
	text := b[len(b)-uuidLen-1:]
	for i, at := range uuidBytes {
		binary.LittleEndian.PutUint16(text[at:], hexPairs[id[i]])
	}
	return b
}

// hexPairs are the two hex digits of each byte, the first in the low byte.
var hexPairs = func() (pairs [256]uint16) {
	for v := range pairs {
		pairs[v] = uint16(hexDigits[v>>4]) | uint16(hexDigits[v&15])<<8
	}
	return pairs
}()

// begin starts a nested object. Its result must be passed to end.
func (w *writer) begin(s *schema, num int) int {
	if w.bin {
		w.fieldKey(num, wireBytes)
		return w.length()
	}
	w.key(s, num)
	w.b = append(w.b, '{')
	return 0
}

// length reserves one byte for the length of the binary message that follows, and
// returns where that begins.
func (w *writer) length() int {
	w.b = append(w.b, 0)
	return len(w.b)
}

// end ends a nested object. In binary it writes the length into the reserved byte
// and moves the message if the length needs more.
func (w *writer) end(start int) {
	if !w.bin {
		w.b = append(w.b, '}')
		return
	}
	n := len(w.b) - start
	if n < 0x80 {
		w.b[start-1] = byte(n)
		return
	}
	more := uvarintLen(uint64(n)) - 1
	for range more {
		w.b = append(w.b, 0)
	}
	copy(w.b[start+more:], w.b[start:start+n])
	binary.PutUvarint(w.b[start-1:], uint64(n))
}

// list begins a list. In binary that writes nothing: each item carries the field's
// number.
func (w *writer) list(s *schema, num int) {
	if !w.bin {
		w.key(s, num)
		w.b = append(w.b, '[')
	}
}

// endList ends a list.
func (w *writer) endList() {
	if !w.bin {
		w.b = append(w.b, ']')
	}
}

// comma separates item i of a JSON list from the one before it.
func (w *writer) comma(i int) {
	if !w.bin && i > 0 {
		w.b = append(w.b, ',')
	}
}

// item begins item i of a list of objects. Its result must be passed to end.
func (w *writer) item(num, i int) int {
	if w.bin {
		w.fieldKey(num, wireBytes)
		return w.length()
	}
	w.comma(i)
	w.b = append(w.b, '{')
	return 0
}
