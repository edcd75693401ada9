package feed

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// text returns the value in a slot, which must be a string or a number, as text.
// It refers to the frame unless the string has escapes. It returns nil for a
// value that is absent or null.
func (s *scanner) text(slot int) ([]byte, error) {
	raw := s.raw(slot)
	if len(raw) == 0 {
		return nil, nil
	}
	if s.repeated != nil && s.repeated[slot] {
		return nil, s.twoMembers(slot)
	}
	if s.fault != nil && !json.Valid(raw) {
		return nil, errLoose
	}
	switch c := raw[0]; {
	case c == '"':
		return plainText(raw)
	case c == '-' || digit(c):
		return raw, nil
	case c == 'n':
		return nil, nil
	}
	return nil, invalid(s.member(slot) + " is neither a string nor a number")
}

// plainText returns the content of a JSON string.
func plainText(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var plain string
	if err := json.Unmarshal(raw, &plain); err != nil {
		return nil, invalid("a string that is not JSON")
	}
	return []byte(plain), nil
}

// raw returns the JSON text of the value in a slot, empty if it is absent.
func (s *scanner) raw(slot int) []byte {
	if slot < 0 {
		return nil
	}
	return s.data[s.found[slot].from:s.found[slot].to]
}

// count returns the value in a slot as a counter, and whether it is present.
func (s *scanner) count(slot int) (uint64, bool, error) {
	text, err := s.text(slot)
	if err != nil || text == nil {
		return 0, false, err
	}
	if len(text) == 0 {
		return 0, false, invalid(s.member(slot) + " is empty; want a number")
	}
	n, ok := parseCount(text)
	if !ok {
		return 0, false, invalid(s.member(slot) + " is not a whole number below 2^64")
	}
	return n, true, nil
}

// parseCount returns the whole number that text is.
func parseCount(text []byte) (n uint64, ok bool) {
	for _, c := range text {
		d := uint64(c - '0')
		if !digit(c) || n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(text) > 0
}

// member names the place of a slot, for errors.
func (s *scanner) member(slot int) string { return "member " + strconv.Quote(s.wanted.names[slot]) }

func (s *scanner) twoMembers(slot int) error {
	return invalid("a message with two members " + strconv.Quote(s.wanted.names[slot]))
}
