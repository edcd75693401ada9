package native

import (
	"math"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// A reader reads the fields of a batch in either encoding. After the first fault
// nothing more is read: every loop ends and every value is zero.
type reader struct {
	data    []byte
	i       int  // index of the next byte
	end     int  // binary: end of the innermost message; JSON: end of data
	bin     bool // the encoding is binary
	list    bool // JSON: the batch is an array
	sender  Sender
	lim     DecodeLimits
	wt      int    // binary: wire type of the field at i
	header  int    // bytes of the headers of the message being read
	scratch []byte // the last string that had escapes
	code    uint16 // close code of the first fault; 0: none
	reason  string // of the first fault
}

// fail records the first fault and moves to the end.
func (r *reader) fail(code uint16, reason string) {
	if r.code == 0 {
		r.code, r.reason = code, reason
	}
	r.i = r.end
}

// fault returns the error for the first fault.
func (r *reader) fault() error { return &wire.CodeError{Code: r.code, Reason: r.reason} }

// bad fails with 4001: the batch cannot be read.
func (r *reader) bad(reason string) { r.fail(CloseBadFrame, reason) }

// nextFrame moves to frame k of the batch. It returns false at the end.
func (r *reader) nextFrame(k int) bool {
	if r.bin {
		r.end = len(r.data)
		return r.i < r.end && r.code == 0
	}
	if k == 0 {
		if !utf8.Valid(r.data) {
			r.bad("the text is not UTF-8")
			return false
		}
		r.list = r.token() == '['
	}
	if r.list && r.item(k) || !r.list && k == 0 {
		return true
	}
	if r.code == 0 && (r.token() != 0 || r.i < r.end) {
		r.bad("data after the end of the batch")
	}
	return false
}

// countFrames fails if n frames are too many for a batch.
func (r *reader) countFrames(n int) {
	if n > r.lim.Frames {
		r.fail(CloseFrameTooBig, "too many frames in a batch")
	}
}

// An object is the state of reading one JSON object or binary message.
type object struct {
	s     *schema
	top   bool   // a JSON frame: its member t is the type
	n     int    // JSON: members read
	num   int    // number of the current field; 0: unknown, to be skipped
	seen  uint32 // mask of the fields read
	outer int    // binary: r.end of the enclosing message
	name  []byte // JSON: key of the current member
}

// open begins a nested object: in JSON at its brace, in binary at its length.
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

// nextBinary is next for the binary encoding.
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

// once fails if field num occurs a second time.
func (r *reader) once(o *object, num int) {
	if o.seen&(1<<num) != 0 {
		r.bad("a field occurs twice")
	}
	o.seen |= 1 << num
}

// require fails if a field is missing that the sender must set.
func (r *reader) require(o *object) {
	need := o.s.up
	if r.sender == FromServer {
		need = o.s.down
	}
	if r.code == 0 && o.seen&need != need {
		r.bad("a required field is missing")
	}
}

// find returns the number of the key name, or 0 if it is unknown. It begins at
// number first, because keys usually come in the order of their numbers.
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

// field reads the key of a binary field: it returns the number and sets r.wt.
func (r *reader) field() uint64 {
	key := r.uvarint()
	r.wt = int(key & 7)
	if key>>3 == 0 || key>>3 > 1<<29-1 {
		r.bad("a field number is out of range")
	}
	return key >> 3
}

// uvarint reads a varint, which must have its shortest form.
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

// span reads the length of a length-delimited field and leaves i at its first
// byte. It returns false after a fault.
func (r *reader) span() (int, bool) {
	if r.wt != wireBytes {
		r.bad("a field has the wrong wire type")
		return 0, false
	}
	n := r.uvarint()
	if n > uint64(r.end-r.i) {
		r.bad("a length exceeds the remaining data")
	}
	return int(n), r.code == 0
}

// token skips white space and returns the byte at i, or 0 at the end.
func (r *reader) token() byte {
	for r.i < r.end {
		if c := r.data[r.i]; !isSpace(c) {
			return c
		}
		r.i++
	}
	return 0
}

// expect reads c, after white space.
func (r *reader) expect(c byte) bool {
	if r.token() != c {
		r.bad("unexpected JSON")
		return false
	}
	r.i++
	return true
}

// member moves to member n of a JSON object. It returns false at its end.
func (r *reader) member(n int) bool { return r.more(n, '}') }

// item moves to item n of a list. It returns false at its end. In binary each
// item is a field of its own, so a list has one item.
func (r *reader) item(n int) bool {
	if r.bin {
		return n == 0 && r.code == 0
	}
	return (n > 0 || r.expect('[')) && r.more(n, ']')
}

// more reads the comma before item n, or end, and returns whether there is an
// item n.
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

// memberName reads a key and its colon. The result is valid until the next call
// of text.
func (r *reader) memberName() []byte {
	name := r.text()
	r.expect(':')
	return name
}

// skip skips the value of an unknown field.
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

// advance skips n bytes of a binary field.
func (r *reader) advance(n int) {
	if r.end-r.i < n {
		r.bad("a field is cut short")
		return
	}
	r.i += n
}

// value reads a JSON value and returns its text, without the white space around
// it.
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

// The conversions below map a value that the type in wire cannot hold to the
// largest one that it can.

func code16(v uint64) uint16 { return uint16(min(v, math.MaxUint16)) }

func clamp(v uint64) int { return int(min(v, math.MaxInt)) }

func millis(v uint64) time.Duration { return duration(v, time.Millisecond) }

func duration(v uint64, unit time.Duration) time.Duration {
	if v > uint64(math.MaxInt64/unit) {
		return math.MaxInt64
	}
	return time.Duration(v) * unit
}
