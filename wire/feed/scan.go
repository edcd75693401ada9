package feed

import (
	"bytes"
	"encoding/json"
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

	all      uint64 // its highest bit of a byte is set if a string of that message has a byte above 0x7f
	fault    error  // why the message scanned last must not be used, though it was scanned to its end
	repeated []bool // by slot: it occurs twice in that message; nil: none
}

// span is the place of a value; zero if there is none.
type span struct{ from, to int }

// space skips white space.
func (s *scanner) space() { s.at = s.skip(s.at) }

// take skips c if it is the next byte.
func (s *scanner) take(c byte) bool {
	if s.byteAt(s.at) != c {
		return false
	}
	s.at++
	return true
}

// message scans a message and fills s.found, after errSyntax with what was read.
func (s *scanner) message() error {
	clear(s.found)
	s.all, s.fault, s.repeated, s.first = 0, nil, nil, span{}
	if s.wanted.arrays && s.byteAt(s.at) == '[' {
		return s.to(s.array(s.at, 1, s.wanted.root))
	}
	return s.to(s.object(s.at, 1, s.wanted.root))
}

// nextEntry scans an entry after the first one. It was scanned before as a part of its
// message, so that it is well formed.
func (s *scanner) nextEntry() error {
	for _, slot := range s.wanted.inEntry {
		s.found[slot] = span{}
	}
	s.fault, s.repeated = nil, nil
	return s.to(s.value(s.at, 2, s.wanted.entry))
}

// to ends a scan at the index that one of the methods below returned.
//
// Each of them takes the index of the next byte and returns that after what it has
// scanned. So the index stays in a register: kept in s, it would make each step wait for
// the one before to reach memory. After an error they return -1, and fail has noted
// where it is.
func (s *scanner) to(at int) error {
	if at < 0 {
		return errSyntax
	}
	s.at = at
	return nil
}

func (s *scanner) fail(at int) int {
	s.at = at
	return -1
}

// byteAt returns a byte, or 0 at the end: no JSON token begins with 0.
func (s *scanner) byteAt(at int) byte {
	if at < len(s.data) {
		return s.data[at]
	}
	return 0
}

// skip skips white space.
func (s *scanner) skip(at int) int {
	if at < len(s.data) && s.data[at] > ' ' {
		return at
	}
	return s.spaces(at)
}

func (s *scanner) spaces(at int) int {
	for at < len(s.data) {
		switch s.data[at] {
		case ' ', '\t', '\n', '\r':
			at++
		default:
			return at
		}
	}
	return at
}

// comma skips a comma, or the end of a list or an object.
func (s *scanner) comma(at int, end byte) (after int, more bool) {
	c := s.byteAt(at)
	if c == ',' {
		return at + 1, true
	}
	if c <= ' ' {
		at = s.spaces(at)
		c = s.byteAt(at)
	}
	switch c {
	case ',':
		return at + 1, true
	case end:
		return at + 1, false
	}
	return s.fail(at), false
}

// object scans an object. n says what is wanted of it; nil for nothing.
func (s *scanner) object(at, depth int, n *node) int {
	if depth > maxDepth || s.byteAt(at) != '{' {
		return s.fail(at)
	}
	at = s.skip(at + 1)
	if s.byteAt(at) == '}' {
		return at + 1
	}
	for more := true; more; {
		if s.byteAt(at) != '"' {
			at = s.skip(at)
		}
		name := at
		if at = s.str(at); at < 0 {
			return at
		}
		var inner *node
		if n != nil && len(n.inner) > 0 {
			var ok bool
			if inner, ok = n.member(s.data[name:at], s.escape); !ok {
				return s.fail(at)
			}
		}
		if s.byteAt(at) != ':' {
			if at = s.skip(at); s.byteAt(at) != ':' {
				return s.fail(at)
			}
		}
		at = s.skip(at + 1)
		switch {
		case inner != nil:
			at = s.wantedValue(at, depth+1, inner)
		case s.byteAt(at) == '"':
			at = s.str(at)
		default:
			at = s.value(at, depth+1, nil)
		}
		if at < 0 {
			return at
		}
		at, more = s.comma(at, '}')
	}
	return at
}

// member returns the wanted member with that name, nil if it is not wanted. It returns
// false if the name is not JSON.
func (n *node) member(quoted []byte, escape bool) (*node, bool) {
	name := quoted[1 : len(quoted)-1]
	if escape {
		var plain string
		if err := json.Unmarshal(quoted, &plain); err != nil {
			return nil, false
		}
		name = []byte(plain)
	}
	for _, m := range n.inner {
		if m.name == string(name) && !m.element {
			return m, true
		}
	}
	return nil, true
}

// wantedValue scans a value and notes where it is, if n is not nil.
func (s *scanner) wantedValue(from, depth int, n *node) int {
	if n == nil {
		return s.value(from, depth, nil)
	}
	if s.found[n.slot] != (span{}) {
		s.twice(n.slot)
		return s.value(from, depth, nil)
	}
	at := s.value(from, depth, n)
	if at >= 0 {
		s.found[n.slot] = span{from, at}
	}
	return at
}

func (s *scanner) value(from, depth int, n *node) int {
	var at int
	switch c := s.byteAt(from); {
	case c == '"':
		return s.str(from)
	case c == '{':
		return s.object(from, depth, n)
	case c == '[':
		return s.array(from, depth, n)
	case c == 't':
		at = s.word(from, "true")
	case c == 'f':
		at = s.word(from, "false")
	case c == 'n':
		at = s.word(from, "null")
	case c == '-' || digit(c):
		at = s.number(from)
	default:
		return s.loose(from)
	}
	if at < 0 || wordByte(s.byteAt(at)) {
		return s.loose(from)
	}
	return at
}

// array scans a list. n says what is wanted of it; nil for nothing.
func (s *scanner) array(at, depth int, n *node) int {
	if n == nil {
		return s.unwantedArray(at, depth)
	}
	if depth > maxDepth || s.byteAt(at) != '[' {
		return s.fail(at)
	}
	at = s.skip(at + 1)
	if s.byteAt(at) == ']' {
		return at + 1
	}
	var last [-minIndex]span // the last elements, the last one first
	more := true
	for i := 0; more; i++ {
		at = s.skip(at)
		from := at
		if n.entry != nil && i == 0 {
			at = s.value(at, depth+1, n.entry)
			s.first = span{from, at}
		} else {
			at = s.wantedValue(at, depth+1, n.indexed(i))
		}
		if at < 0 {
			return at
		}
		if len(n.tail) > 0 {
			copy(last[1:], last[:])
			last[0] = span{from, at}
		}
		if at, more = s.comma(at, ']'); at < 0 {
			return at
		}
	}
	for _, t := range n.tail {
		s.found[t.slot] = last[-1-t.index]
	}
	return at
}

// unwantedArray scans a list of which nothing is wanted: most of a message, so that it
// does no more than it must.
func (s *scanner) unwantedArray(at, depth int) int {
	if depth > maxDepth || s.byteAt(at) != '[' {
		return s.fail(at)
	}
	at = s.skip(at + 1)
	if s.byteAt(at) == ']' {
		return at + 1
	}
	for more := true; more; {
		if at = s.skip(at); s.byteAt(at) == '"' {
			at = s.str(at)
		} else {
			at = s.value(at, depth+1, nil)
		}
		if at < 0 {
			return at
		}
		at, more = s.comma(at, ']')
	}
	return at
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

// word skips a word, and number a number. They return -1 if it is another value, which
// need not be a fault.
func (s *scanner) word(at int, w string) int {
	if !bytes.HasPrefix(s.data[at:], []byte(w)) {
		return -1
	}
	return at + len(w)
}

func (s *scanner) number(at int) int {
	if s.byteAt(at) == '-' {
		at++
	}
	if s.byteAt(at) == '0' {
		at++
	} else if at = s.digits(at); at < 0 {
		return at
	}
	if s.byteAt(at) == '.' {
		if at = s.digits(at + 1); at < 0 {
			return at
		}
	}
	if s.byteAt(at)|0x20 != 'e' {
		return at
	}
	at++
	if c := s.byteAt(at); c == '+' || c == '-' {
		at++
	}
	return s.digits(at)
}

// digits skips digits; -1 if there is none.
func (s *scanner) digits(from int) int {
	at := from
	for digit(s.byteAt(at)) {
		at++
	}
	if at == from {
		return -1
	}
	return at
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
