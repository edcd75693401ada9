package feed

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
)

// maxDepth bounds the nesting of a message, and with it the scanner's stack.
const maxDepth = 32

// scanner checks one JSON text (RFC 8259) in one pass and notes where the wanted
// values are. It allocates nothing.
type scanner struct {
	data   []byte
	at     int     // index of the next byte
	escape bool    // the last string has an escape
	wanted *layout // immutable
	found  []span  // by slot, of the message scanned last

	first span // the first entry, where a list of entries was found and is not empty

	notText  bool   // data is not UTF-8
	fault    error  // why the message scanned last must not be used, though it was scanned to its end
	repeated []bool // by slot: it occurs twice in that message; nil: none
}

// span is the place of a value; zero if there is none.
type span struct{ from, to int }

// space skips white space.
func (s *scanner) space() {
	if s.at < len(s.data) && s.data[s.at] > ' ' {
		return
	}
	s.spaces()
}

func (s *scanner) spaces() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end: no JSON token begins with 0.
func (s *scanner) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

// take skips c if it is the next byte.
func (s *scanner) take(c byte) bool {
	if s.at >= len(s.data) || s.data[s.at] != c {
		return false
	}
	s.at++
	return true
}

// message scans a message and fills s.found, after errSyntax with what was read.
func (s *scanner) message() error {
	clear(s.found)
	s.fault, s.repeated, s.first = nil, nil, span{}
	if s.wanted.arrays && s.peek() == '[' {
		return s.array(1, s.wanted.root)
	}
	return s.object(1, s.wanted.root)
}

// nextEntry scans an entry after the first one. It was scanned before as a part of its
// message, so that it is well formed.
func (s *scanner) nextEntry() error {
	for _, slot := range s.wanted.inEntry {
		s.found[slot] = span{}
	}
	s.fault, s.repeated = nil, nil
	return s.value(2, s.wanted.entry)
}

// object scans an object. n says what is wanted of it; nil for nothing.
func (s *scanner) object(depth int, n *node) error {
	if depth > maxDepth || !s.take('{') {
		return errSyntax
	}
	s.space()
	if s.take('}') {
		return nil
	}
	for {
		if s.peek() != '"' {
			s.space()
		}
		from := s.at
		if err := s.str(); err != nil {
			return err
		}
		var inner *node
		if n != nil && len(n.inner) > 0 {
			var err error
			if inner, err = n.member(s.data[from:s.at], s.escape); err != nil {
				return err
			}
		}
		if !s.take(':') {
			s.space()
			if !s.take(':') {
				return errSyntax
			}
		}
		s.space()
		var err error
		switch {
		case inner != nil:
			err = s.wantedValue(depth+1, inner)
		case s.peek() == '"':
			err = s.str()
		default:
			err = s.value(depth+1, nil)
		}
		if err != nil {
			return err
		}
		if s.take(',') {
			continue
		}
		s.space()
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
	}
}

// member returns the wanted member with that name, nil if it is not wanted.
func (n *node) member(quoted []byte, escape bool) (*node, error) {
	name := quoted[1 : len(quoted)-1]
	if escape {
		var plain string
		if err := json.Unmarshal(quoted, &plain); err != nil {
			return nil, errSyntax
		}
		name = []byte(plain)
	}
	for _, m := range n.inner {
		if m.name == string(name) && !m.element {
			return m, nil
		}
	}
	return nil, nil
}

// wantedValue scans a value and notes where it is, if n is not nil.
func (s *scanner) wantedValue(depth int, n *node) error {
	if n == nil {
		return s.value(depth, nil)
	}
	from := s.at
	if s.found[n.slot] != (span{}) {
		s.twice(n.slot)
		return s.value(depth, nil)
	}
	if err := s.value(depth, n); err != nil {
		return err
	}
	s.found[n.slot] = span{from, s.at}
	return nil
}

func (s *scanner) value(depth int, n *node) error {
	from := s.at
	var err error
	switch c := s.peek(); {
	case c == '"':
		return s.str()
	case c == '{':
		return s.object(depth, n)
	case c == '[':
		return s.array(depth, n)
	case c == 't':
		err = s.word("true")
	case c == 'f':
		err = s.word("false")
	case c == 'n':
		err = s.word("null")
	case c == '-' || digit(c):
		err = s.number()
	default:
		return s.loose(from)
	}
	if err != nil || s.at < len(s.data) && wordByte(s.data[s.at]) {
		return s.loose(from)
	}
	return nil
}

// array scans a list. n says what is wanted of it; nil for nothing.
func (s *scanner) array(depth int, n *node) error {
	if n == nil {
		return s.unwantedArray(depth)
	}
	if depth > maxDepth || !s.take('[') {
		return errSyntax
	}
	s.space()
	if s.take(']') {
		return nil
	}
	var last [-minIndex]span // the last elements, the last one first
	for i := 0; ; i++ {
		s.space()
		from := s.at
		var err error
		switch {
		case n.entry != nil && i == 0:
			err = s.value(depth+1, n.entry)
			s.first = span{from, s.at}
		default:
			err = s.wantedValue(depth+1, n.indexed(i))
		}
		if err != nil {
			return err
		}
		if len(n.tail) > 0 {
			copy(last[1:], last[:])
			last[0] = span{from, s.at}
		}
		if s.take(',') {
			continue
		}
		s.space()
		if s.take(',') {
			continue
		}
		if !s.take(']') {
			return errSyntax
		}
		for _, t := range n.tail {
			s.found[t.slot] = last[-1-t.index]
		}
		return nil
	}
}

// unwantedArray scans a list of which nothing is wanted: most of a message, so that it
// does no more than it must.
func (s *scanner) unwantedArray(depth int) error {
	if depth > maxDepth || !s.take('[') {
		return errSyntax
	}
	s.space()
	if s.take(']') {
		return nil
	}
	for {
		s.space()
		var err error
		if s.peek() == '"' {
			err = s.str()
		} else {
			err = s.value(depth+1, nil)
		}
		if err != nil {
			return err
		}
		if s.take(',') {
			continue
		}
		s.space()
		if s.take(',') {
			continue
		}
		if !s.take(']') {
			return errSyntax
		}
		return nil
	}
}

// indexed returns the wanted element i, counted from the beginning; nil if it is not
// wanted.
func (n *node) indexed(i int) *node {
	if i > maxIndex {
		return nil
	}
	for _, e := range n.inner {
		if e.element && e.index == i {
			return e
		}
	}
	return nil
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.data[s.at:], []byte(w)) {
		return errSyntax
	}
	s.at += len(w)
	return nil
}

func (s *scanner) number() error {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return errSyntax
	}
	if s.take('.') && !s.digits() {
		return errSyntax
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return errSyntax
		}
	}
	return nil
}

// digits skips digits and reports whether there was one.
func (s *scanner) digits() bool {
	from := s.at
	for s.at < len(s.data) && digit(s.data[s.at]) {
		s.at++
	}
	return s.at > from
}

// plain holds the bytes that a string may hold as they are. The text has been checked
// for UTF-8.
var plain = func() (p [256]bool) {
	for c := range p {
		p[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return p
}()

const ones, tops = 0x0101010101010101, 0x8080808080808080

// plainBytes returns how many of the eight bytes, from the lowest on, a string may hold
// as they are. It looks at all of them at once: below, the highest bit of a byte of x-n
// is set where the byte of x is less than n, as far as no lower byte was. That holds for
// bytes below 0x80; the others are plain. To flip bit 1 swaps '"' with the space, which
// makes the quote the first byte after those below the space.
func plainBytes(eight uint64) int {
	special := ((eight^ones*2 - ones*(' '+1)) | (eight^ones*'\\' - ones)) &^ eight & tops
	return bits.TrailingZeros64(special) / 8
}

// ascii reports whether text has no byte above 0x7f. It is faster than utf8.Valid.
func ascii(text []byte) bool {
	var all uint64
	at := 0
	for ; at+8 <= len(text); at += 8 {
		all |= binary.LittleEndian.Uint64(text[at:])
	}
	for ; at < len(text); at++ {
		all |= uint64(text[at])
	}
	return all&tops == 0
}

// str skips a string.
func (s *scanner) str() error {
	if !s.take('"') {
		return errSyntax
	}
	s.escape = false
	data, at := s.data, s.at
	for {
		if at+8 <= len(data) {
			n := plainBytes(binary.LittleEndian.Uint64(data[at:]))
			if at += n; n == 8 {
				continue
			}
		} else {
			for at < len(data) && plain[data[at]] {
				at++
			}
			if at == len(data) {
				s.at = at
				return errSyntax
			}
		}
		c := data[at]
		s.at = at + 1
		if c == '"' {
			return nil
		}
		if c != '\\' {
			return errSyntax
		}
		s.escape = true
		if err := s.escaped(); err != nil {
			return err
		}
		at = s.at
	}
}

// escaped skips what follows a backslash.
func (s *scanner) escaped() error {
	c := s.peek()
	s.at = min(s.at+1, len(s.data))
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		for range 4 {
			if !hex(s.peek()) {
				return errSyntax
			}
			s.at++
		}
		return nil
	}
	return errSyntax
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func hex(c byte) bool { return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
