package native

import (
	"bytes"
	"encoding/base64"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// A reader takes fields out of a batch in either encoding. After the first
// fault nothing more is read: every loop ends and every value is zero.
type reader struct {
	data    []byte
	i, end  int // binary: end of the innermost message
	bin     bool
	dir     Dir
	lim     DecodeLimits
	wt      int    // binary: wire type of the field at i
	header  int    // bytes of the headers of the message being read
	scratch []byte // the last string that had escapes
	code    uint16
	reason  string
}

func (r *reader) fail(code uint16, reason string) {
	if r.code == 0 {
		r.code, r.reason = code, reason
	}
	r.i = r.end
}

func (r *reader) bad(reason string) { r.fail(CloseBadFrame, reason) }

// An object is the state of reading one JSON object or binary message.
type object struct {
	s     *schema
	top   bool // a JSON frame: t is its type
	n     int
	num   int // of the current field; 0: one to be skipped
	seen  uint32
	outer int // r.end of what surrounds it
	name  []byte
}

func (r *reader) open(s *schema) object {
	o := object{s: s, outer: r.end}
	if !r.bin {
		r.expect('{')
		return o
	}
	if n, ok := r.span(); ok {
		r.end = r.i + n
	}
	return o
}

// next moves to the next field of o. An unknown field has number 0.
func (r *reader) next(o *object) bool {
	for r.code == 0 {
		if r.bin {
			return r.nextBinary(o)
		}
		if !r.member(o.n) {
			return false
		}
		o.n++
		o.name = r.memberName()
		if o.top && len(o.name) == 1 && o.name[0] == 't' {
			r.once(o, 0)
			r.skip()
			continue
		}
		o.num = o.s.find(o.name, o.num+1)
		if o.num != 0 {
			r.once(o, o.num)
		}
		return r.code == 0
	}
	return false
}

func (r *reader) nextBinary(o *object) bool {
	if r.i == r.end {
		r.end = o.outer
		return false
	}
	num := r.field()
	o.num = 0
	if num < uint64(len(o.s.keys)) && o.s.keys[num] != "" {
		o.num = int(num)
		if o.s.repeated&(1<<num) == 0 {
			r.once(o, o.num)
		}
		o.seen |= 1 << num
	}
	return r.code == 0
}

// once refuses a second value of one field: two readers could disagree on it.
func (r *reader) once(o *object, num int) {
	if o.seen&(1<<num) != 0 {
		r.bad("a field is given twice")
	}
	o.seen |= 1 << num
}

// require refuses an object without its required fields.
func (r *reader) require(o *object) {
	need := o.s.up
	if r.dir == FromServer {
		need = o.s.down
	}
	if r.code == 0 && o.seen&need != need {
		r.bad("a required field is missing")
	}
}

// find returns the number of a key, 0 if it is unknown. It looks from first
// on, because keys usually come in the order of their numbers.
func (s *schema) find(name []byte, first int) int {
	for n := first; n < len(s.keys); n++ {
		if s.keys[n] == string(name) {
			return n
		}
	}
	for n := 1; n < first && n < len(s.keys); n++ {
		if s.keys[n] == string(name) {
			return n
		}
	}
	return 0
}

// field reads a binary field's key.
func (r *reader) field() uint64 {
	key := r.uvarint()
	r.wt = int(key & 7)
	if key>>3 == 0 || key>>3 > 1<<29-1 {
		r.bad("a field number is out of range")
	}
	return key >> 3
}

// uvarint reads a varint, which must be as short as it can be.
func (r *reader) uvarint() uint64 {
	var v uint64
	for shift := 0; r.i < r.end; shift += 7 {
		c := r.data[r.i]
		r.i++
		if shift == 63 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if c == 0 && shift > 0 {
				break
			}
			return v
		}
	}
	r.bad("a varint is cut short, too long or too large")
	return 0
}

// span reads the length of a binary field and leaves i at its first byte.
func (r *reader) span() (int, bool) {
	if r.wt != wireBytes {
		r.bad("a field has the wrong wire type")
		return 0, false
	}
	n := r.uvarint()
	if n > uint64(r.end-r.i) {
		r.bad("a length is beyond the end")
	}
	return int(n), r.code == 0
}

// token skips space and returns the byte at i, 0 at the end.
func (r *reader) token() byte {
	for r.i < r.end {
		if c := r.data[r.i]; !isSpace(c) {
			return c
		}
		r.i++
	}
	return 0
}

func (r *reader) expect(c byte) bool {
	if r.token() != c {
		r.bad("the JSON is not what was expected")
		return false
	}
	r.i++
	return true
}

// member moves to member n of a JSON object, false at its end.
func (r *reader) member(n int) bool { return r.more(n, '}') }

// item moves to item n of a list, false at its end. In binary each item is a
// field of its own.
func (r *reader) item(n int) bool {
	if r.bin {
		return n == 0 && r.code == 0
	}
	return (n > 0 || r.expect('[')) && r.more(n, ']')
}

func (r *reader) more(n int, end byte) bool {
	if r.code != 0 {
		return false
	}
	switch c := r.token(); {
	case c == end:
		r.i++
		return false
	case n == 0:
		return true
	default:
		return r.expect(',')
	}
}

func (r *reader) memberName() []byte {
	name := r.text()
	r.expect(':')
	return name
}

// skip passes the value of an unknown field.
func (r *reader) skip() {
	if !r.bin {
		r.value()
		return
	}
	switch r.wt {
	case wireVarint:
		r.uvarint()
	case wireBytes:
		if n, ok := r.span(); ok {
			r.i += n
		}
	case wireI64:
		r.advance(8)
	case wireI32:
		r.advance(4)
	default:
		r.bad("a field has the wrong wire type")
	}
}

func (r *reader) advance(n int) {
	if r.end-r.i < n {
		r.bad("a field is cut short")
		return
	}
	r.i += n
}

// value passes a JSON value and returns its bytes.
func (r *reader) value() []byte {
	r.token()
	start := r.i
	end := scan(r.data[:r.end], start, r.lim.Depth)
	if end < 0 {
		r.bad("a JSON value is malformed or nested too deep")
		return nil
	}
	r.i = end
	return r.data[start:end]
}

func (r *reader) uint() uint64 {
	if r.bin {
		if r.wt != wireVarint {
			r.bad("a field has the wrong wire type")
			return 0
		}
		return r.uvarint()
	}
	if r.token() == '"' {
		return r.decimal(r.text())
	}
	start := r.i
	for r.i < r.end && r.data[r.i]-'0' <= 9 {
		r.i++
	}
	v := r.decimal(r.data[start:r.i])
	if v > maxJSONNumber {
		r.bad("a number above 2^53-1 is not a string")
	}
	return v
}

// decimal reads a number as strconv.FormatUint would write it.
func (r *reader) decimal(b []byte) uint64 {
	if len(b) == 0 || len(b) > 20 || len(b) > 1 && b[0] == '0' {
		r.bad("a number is malformed")
		return 0
	}
	var v uint64
	for _, c := range b {
		d := uint64(c - '0')
		if d > 9 || v > (1<<64-1-d)/10 {
			r.bad("a number is malformed or too large")
			return 0
		}
		v = v*10 + d
	}
	return v
}

func (r *reader) bool() bool {
	if r.bin {
		v := r.uint()
		if v > 1 {
			r.bad("a truth value is neither 0 nor 1")
		}
		return v == 1
	}
	r.token()
	for _, word := range [...]string{"true", "false"} {
		if end := scanWord(r.data[:r.end], r.i, word); end > 0 {
			r.i = end
			return word == "true"
		}
	}
	r.bad("a truth value is neither true nor false")
	return false
}

// word reads an enumeration.
func (r *reader) word(words []string) uint8 {
	if r.bin {
		v := r.uint()
		if v >= uint64(len(words)) {
			r.bad("an enumeration has no such value")
			return 0
		}
		return uint8(v)
	}
	name := r.text()
	for v, w := range words {
		if string(name) == w {
			return uint8(v)
		}
	}
	r.bad("an enumeration has no such value")
	return 0
}

func (r *reader) string() string { return string(r.text()) }

// bounded reads a string of most bytes at most.
func (r *reader) bounded(most int, reason string) string {
	b := r.text()
	if len(b) > most {
		r.bad(reason)
		return ""
	}
	return string(b)
}

// text returns the bytes of a string, valid until the next call. JSON was
// checked for UTF-8 as a whole.
func (r *reader) text() []byte {
	if r.bin {
		n, ok := r.span()
		if !ok {
			return nil
		}
		b := r.data[r.i : r.i+n]
		r.i += n
		if !utf8.Valid(b) {
			r.bad("a string is not UTF-8")
			return nil
		}
		return b
	}
	if !r.expect('"') {
		return nil
	}
	start := r.i
	for i := start; i < r.end; i++ {
		switch c := r.data[i]; {
		case c == '"':
			r.i = i + 1
			return r.data[start:i]
		case c == '\\':
			end := scanString(r.data[:r.end], start-1)
			if end < 0 {
				r.bad("a string is malformed")
				return nil
			}
			r.i = end
			return r.unescape(r.data[start : end-1])
		case c < 0x20:
			r.bad("a string contains a control character")
			return nil
		}
	}
	r.bad("a string has no end")
	return nil
}

// unescape resolves the escapes of s, which scanString has accepted.
func (r *reader) unescape(s []byte) []byte {
	out := r.scratch[:0]
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			v, _ := hex4(s, i+1)
			i += 4
			if utf16.IsSurrogate(v) {
				low := rune(0)
				if i+2 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					low, _ = hex4(s, i+3)
				}
				if v = utf16.DecodeRune(v, low); v == utf8.RuneError {
					r.bad("a string contains half a character")
					return nil
				}
				i += 6
			}
			out = utf8.AppendRune(out, v)
		default:
			out = append(out, c)
		}
	}
	r.scratch = out
	return out
}

var base64url = base64.RawURLEncoding.Strict()

// bytes returns a copy of a field of most bytes at most, nil if it is empty.
// Beyond that it fails with code.
func (r *reader) bytes(most int, code uint16, reason string) []byte {
	if r.bin {
		n, ok := r.span()
		if !ok {
			return nil
		}
		b := r.data[r.i : r.i+n]
		r.i += n
		return r.copied(b, most, code, reason)
	}
	text := r.text()
	n := base64url.DecodedLen(len(text))
	if n > most {
		r.fail(code, reason)
	}
	if r.code != 0 || len(text) == 0 {
		return nil
	}
	b := make([]byte, n)
	// The decoder passes over line ends, which are no base64url.
	if _, err := base64url.Decode(b, text); err != nil || bytes.ContainsAny(text, "\r\n") {
		r.bad("bytes are not base64url")
		return nil
	}
	return b
}

func (r *reader) copied(b []byte, most int, code uint16, reason string) []byte {
	if len(b) > most {
		r.fail(code, reason)
	}
	if r.code != 0 || len(b) == 0 {
		return nil
	}
	c := make([]byte, len(b))
	copy(c, b)
	return c
}

// opaque reads bytes that only the message bounds.
func (r *reader) opaque() []byte { return r.bytes(Unlimited, 0, "") }

func (r *reader) mark() []byte { return r.bytes(MaxTag, CloseBadFrame, "a tag is too long") }

// id reads a message id; in JSON the text of a UUID (RFC 9562, section 4).
func (r *reader) id(id *wire.ID) {
	if r.bin {
		if n, ok := r.span(); ok {
			if n != len(id) {
				r.bad("an id is not 16 bytes")
				return
			}
			r.i += copy(id[:], r.data[r.i:r.end])
		}
		return
	}
	text := r.text()
	if r.code != 0 {
		return
	}
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		r.bad("an id is not a UUID")
		return
	}
	at := 0
	for i := range id {
		if text[at] == '-' {
			at++
		}
		hi, ok1 := unhex(text[at])
		lo, ok2 := unhex(text[at+1])
		if !ok1 || !ok2 {
			r.bad("an id is not a UUID")
			return
		}
		id[i] = hi<<4 | lo
		at += 2
	}
}

// markID reads a tag that is the id of a message.
func (r *reader) markID(id *wire.ID) {
	if r.bin {
		r.id(id)
		return
	}
	text := r.text()
	if len(text) != base64url.EncodedLen(len(id)) {
		r.bad("a tag is not 16 bytes")
		return
	}
	if _, err := base64url.Decode(id[:], text); err != nil || bytes.ContainsAny(text, "\r\n") {
		r.bad("bytes are not base64url")
	}
}
