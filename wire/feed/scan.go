package feed

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// maxDepth bounds the nesting of a message, and with it the scanner's stack.
const maxDepth = 32

// scanner checks one JSON text (RFC 8259) in one pass and notes where the wanted
// members of its top-level objects are. It allocates nothing.
type scanner struct {
	data   []byte
	at     int      // index of the next byte
	wanted []string // names of members
	found  []span   // by index in wanted, of the object scanned last

	notText  bool   // data is not UTF-8
	fault    error  // why the object scanned last must not be used, though it was scanned to its end
	repeated []bool // by index in wanted: it occurs twice in that object; nil: none
}

// span is the place of a member's value; zero if the member is absent.
type span struct{ from, to int }

// space skips white space.
func (s *scanner) space() {
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
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

// message scans an object and fills s.found, after errSyntax with what was read.
func (s *scanner) message() error {
	clear(s.found)
	s.fault, s.repeated = nil, nil
	return s.object(1, true)
}

// object scans an object; with note it records the wanted members.
func (s *scanner) object(depth int, note bool) error {
	if depth > maxDepth || !s.take('{') {
		return errSyntax
	}
	s.space()
	if s.take('}') {
		return nil
	}
	for {
		s.space()
		from := s.at
		if err := s.str(); err != nil {
			return err
		}
		name := s.data[from:s.at]
		s.space()
		if !s.take(':') {
			return errSyntax
		}
		s.space()
		from = s.at
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if note {
			if err := s.note(name, span{from, s.at}); err != nil {
				return err
			}
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

// note records the place of a wanted member.
func (s *scanner) note(quoted []byte, value span) error {
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		var plain string
		if err := json.Unmarshal(quoted, &plain); err != nil {
			return errSyntax
		}
		name = []byte(plain)
	}
	for i, w := range s.wanted {
		if w != string(name) {
			continue
		}
		if s.found[i] != (span{}) {
			s.twice(i)
			return nil
		}
		s.found[i] = value
		return nil
	}
	return nil
}

func (s *scanner) value(depth int) error {
	from := s.at
	var err error
	switch c := s.peek(); {
	case c == '"':
		return s.str()
	case c == '{':
		return s.object(depth, false)
	case c == '[':
		return s.array(depth)
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

func (s *scanner) array(depth int) error {
	if depth > maxDepth || !s.take('[') {
		return errSyntax
	}
	s.space()
	if s.take(']') {
		return nil
	}
	for {
		s.space()
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.space()
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
	}
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
	for digit(s.peek()) {
		s.at++
	}
	return s.at > from
}

// str skips a string. The text has been checked for UTF-8.
func (s *scanner) str() error {
	if !s.take('"') {
		return errSyntax
	}
	for s.at < len(s.data) {
		c := s.data[s.at]
		s.at++
		switch {
		case c == '"':
			return nil
		case c < ' ':
			return errSyntax
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return errSyntax
}

func (s *scanner) escape() error {
	c := s.peek()
	s.at++
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

// text returns the value of member i, which must be a string or a number, as text.
// It refers to the frame unless the string has escapes. It returns nil for a
// member that is absent or null.
func (s *scanner) text(i int) ([]byte, error) {
	raw := s.raw(i)
	if len(raw) == 0 {
		return nil, nil
	}
	if s.repeated != nil && s.repeated[i] {
		return nil, s.twoMembers(i)
	}
	if s.fault != nil && !json.Valid(raw) {
		return nil, errLoose
	}
	switch c := raw[0]; {
	case c == '"' && bytes.IndexByte(raw, '\\') < 0:
		return raw[1 : len(raw)-1], nil
	case c == '"':
		var plain string
		if err := json.Unmarshal(raw, &plain); err != nil {
			return nil, invalid("a string that is not JSON")
		}
		return []byte(plain), nil
	case c == '-' || digit(c):
		return raw, nil
	case c == 'n':
		return nil, nil
	}
	return nil, invalid("member " + strconv.Quote(s.wanted[i]) + " is neither a string nor a number")
}

// raw returns the JSON text of member i, empty if it is absent.
func (s *scanner) raw(i int) []byte {
	if i < 0 {
		return nil
	}
	return s.data[s.found[i].from:s.found[i].to]
}

// count returns the value of member i as a counter, and whether it is present.
func (s *scanner) count(i int) (uint64, bool, error) {
	text, err := s.text(i)
	if err != nil {
		return 0, false, err
	}
	if text == nil {
		return 0, false, nil
	}
	var n uint64
	for _, c := range text {
		d := uint64(c - '0')
		if !digit(c) || n > (1<<64-1-d)/10 {
			return 0, false, invalid("member " + strconv.Quote(s.wanted[i]) + " is not a whole number below 2^64")
		}
		n = n*10 + d
	}
	if len(text) == 0 {
		return 0, false, invalid("member " + strconv.Quote(s.wanted[i]) + " is empty; want a number")
	}
	return n, true, nil
}
