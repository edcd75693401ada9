package native

import (
	"bytes"
	"encoding/base64"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// uint reads a number. In JSON it is a decimal, which must be a string above
// 2^53-1 and may be one below (docs/protocol.md, section 1).
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
		r.bad("a number above 2^53-1 must be a string")
	}
	return v
}

// decimal parses a number in the form that strconv.FormatUint writes.
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

// bool reads a boolean: in JSON true or false, in binary the varint 1 or 0.
func (r *reader) bool() bool {
	if r.bin {
		v := r.uint()
		if v > 1 {
			r.bad("a boolean is neither 0 nor 1")
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
	r.bad("a boolean is neither true nor false")
	return false
}

// word reads an enumeration: in JSON one of words, in binary its index.
func (r *reader) word(words []string) uint8 {
	if r.bin {
		v := r.uint()
		if v >= uint64(len(words)) {
			r.bad("unknown enumeration value")
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
	r.bad("unknown enumeration value")
	return 0
}

// string reads a string.
func (r *reader) string() string { return string(r.text()) }

// bounded reads a string of at most limit bytes.
func (r *reader) bounded(limit int, reason string) string {
	b := r.text()
	if len(b) > limit {
		r.bad(reason)
		return ""
	}
	return string(b)
}

// name reads a session id or an epoch.
func (r *reader) name() string { return r.bounded(MaxName, "a session id or an epoch is too long") }

// text reads a string and returns its bytes, which are valid until the next call.
// A JSON batch has been checked for UTF-8 as a whole.
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
		c := r.data[i]
		if plain[c] {
			continue
		}
		switch {
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
	r.bad("a string is not terminated")
	return nil
}

// unescape resolves the escapes of s, which scanString has accepted. Unpaired
// surrogates are refused.
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
					r.bad("a string contains an unpaired surrogate")
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

// base64url is the encoding of bytes in JSON, in its canonical form
// (docs/protocol.md, section 1).
var base64url = base64.RawURLEncoding.Strict()

// bytes reads a field of at most limit bytes and returns a copy; nil if it is
// empty. It fails with code and reason if the field is longer.
func (r *reader) bytes(limit int, code uint16, reason string) []byte {
	if r.bin {
		n, ok := r.span()
		if !ok {
			return nil
		}
		b := r.data[r.i : r.i+n]
		r.i += n
		return r.copied(b, limit, code, reason)
	}
	text := r.text()
	n := base64url.DecodedLen(len(text))
	if n > limit {
		r.fail(code, reason)
	}
	if r.code != 0 || len(text) == 0 {
		return nil
	}
	b := make([]byte, n)
	// The decoder skips line breaks, which are not base64url.
	if _, err := base64url.Decode(b, text); err != nil || bytes.ContainsAny(text, "\r\n") {
		r.bad("bytes are not base64url")
		return nil
	}
	return b
}

// copied returns a copy of b; nil if it is empty. It fails if b is too long.
func (r *reader) copied(b []byte, limit int, code uint16, reason string) []byte {
	if len(b) > limit {
		r.fail(code, reason)
	}
	if r.code != 0 || len(b) == 0 {
		return nil
	}
	c := make([]byte, len(b))
	copy(c, b)
	return c
}

// opaque reads bytes without a limit of their own.
func (r *reader) opaque() []byte { return r.bytes(Unlimited, 0, "") }

// tag reads the tag of a position.
func (r *reader) tag() []byte { return r.bytes(MaxTag, CloseBadFrame, "a tag is too long") }

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
	if len(text) != uuidLen || !parseUUID(id, (*[uuidLen]byte)(text)) {
		r.bad("an id is not a UUID")
	}
}

const uuidLen = len("00000000-0000-0000-0000-000000000000")

// uuidBytes is the index of each byte of a UUID in its text.
var uuidBytes = [16]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// parseUUID reads the text of a UUID, in either case (RFC 9562, section 4).
func parseUUID(id *wire.ID, text *[uuidLen]byte) bool {
	if text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return false
	}
	all := uint8(0)
	for i, at := range uuidBytes {
		hi, lo := unhex[text[at]], unhex[text[at+1]]
		all |= hi | lo
		id[i] = hi<<4 | lo
	}
	return all != noHex
}

// tagID reads a tag that is a message id: 16 bytes, in JSON as base64url.
func (r *reader) tagID(id *wire.ID) {
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
