package stomp

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// version is a version of STOMP. It decides how headers are escaped, and how messages
// are acknowledged.
type version int

const (
	v10 version = 10
	v11 version = 11
	v12 version = 12
)

// frame is one frame of the server.
type frame struct {
	command string
	header  map[string]string // the first of each name counts: STOMP 1.2, "Repeated Header Entries"
	body    []byte            // lent
	fault   string            // why the frame cannot be read, one of the constants below; empty if it can
}

// The reasons of EventMalformed.
const (
	badHead     = "a frame without the end of its headers"
	badHeader   = "a header without a colon, or with an unknown escape"
	badLength   = "a content-length that is no number"
	badCommand  = "a frame with an unknown command"
	badOrder    = "a frame out of order: before CONNECTED, or a second CONNECTED"
	badReceipt  = "a RECEIPT for no request of this connection"
	badMessage  = "a MESSAGE without a subscription, or without what acknowledges it"
	badEncoding = "a header that is not UTF-8"
	badNumber   = "a frame with more than 1024 headers"
)

// scanner cuts frames out of a stream of bytes: one WebSocket message may hold several
// frames, and one frame may take several messages. It looks at each byte once.
type scanner struct {
	limit   int // bytes of one frame
	version version

	buf      []byte // the beginning of a frame that is not complete
	searched int    // bytes of it that hold no end
	head     *frame // its headers, once they are complete
	bodyAt   int    // where its body begins
	length   int    // of its body; -1: up to the next NUL
}

// cut returns the first frame of data and how many bytes it takes, 0 if data does not
// hold all of it. Data begins where it began at the last call that returned 0.
func (s *scanner) cut(data []byte) (f *frame, n int, err error) {
	if s.head == nil {
		end, bodyAt := s.endOfHead(data)
		switch {
		case end < 0 && bodyAt > 0: // a NUL among the headers
			s.searched = 0
			return &frame{fault: badHead}, bodyAt, nil
		case end > maxHead || end < 0 && len(data) > maxHead:
			return nil, 0, &wire.CodeError{Code: 1009, Reason: "the headers of a STOMP frame have more than 65536 bytes"}
		case end < 0:
			return nil, 0, s.checkSize(len(data))
		}
		s.head, s.length = parseHead(data[:end], s.version)
		s.bodyAt, s.searched = bodyAt, bodyAt
	}
	if s.length >= 0 {
		n = s.bodyAt + s.length + 1
		if err := s.checkSize(n); err != nil {
			return nil, 0, err
		}
		if len(data) < n {
			return nil, 0, nil
		}
		if data[n-1] != 0 {
			return nil, 0, &wire.CodeError{Code: 1002, Reason: "the body of a STOMP frame is not as long as its content-length"}
		}
	} else {
		i := bytes.IndexByte(data[s.searched:], 0)
		if i < 0 {
			s.searched = len(data)
			return nil, 0, s.checkSize(len(data))
		}
		n = s.searched + i + 1
	}
	f = s.head
	f.body = data[s.bodyAt : n-1]
	s.head, s.searched = nil, 0
	return f, n, nil
}

func (s *scanner) checkSize(n int) error {
	if n > s.limit {
		return &wire.CodeError{Code: 1009, Reason: fmt.Sprintf("a STOMP frame of %d bytes or more exceeds Options.ReadLimit, %d bytes; raise it or send less", n, s.limit)}
	}
	return nil
}

// endOfHead returns where the headers end and where the body begins. Without an end yet
// both are -1. For a NUL before the end, the second is where the next frame begins.
func (s *scanner) endOfHead(data []byte) (end, bodyAt int) {
	for i := s.searched; i < len(data); i++ {
		switch {
		case data[i] == 0:
			return -1, i + 1
		case data[i] != '\n':
		case i+1 < len(data) && data[i+1] == '\n':
			return i, i + 2
		case i+2 < len(data) && data[i+1] == '\r' && data[i+2] == '\n':
			return i, i + 3
		case i+1 == len(data) || i+2 == len(data) && data[i+1] == '\r':
			s.searched = i // the rest decides
			return -1, -1
		}
	}
	s.searched = len(data)
	return -1, -1
}

// keep remembers the beginning of a frame. rest is what is left of data.
func (s *scanner) keep(rest []byte, whole bool) {
	switch {
	case len(rest) == 0:
		s.buf = nil
	case whole: // rest is s.buf
	default:
		s.buf = bytes.Clone(rest)
	}
}

// parseHead reads the command and the headers, without their end, and returns the length
// of the body, -1 if they do not say.
func parseHead(data []byte, v version) (f *frame, length int) {
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	f = &frame{command: string(bytes.TrimSuffix(line, []byte("\r"))), header: map[string]string{}}
	if f.command == "CONNECTED" {
		v = v10 // no escapes: STOMP 1.2, "Value Encoding"
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		name, value, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\r")), []byte(":"))
		key, ok1 := unescape(name, v)
		text, ok2 := unescape(value, v)
		if !found || !ok1 || !ok2 {
			f.fault = badHeader
			continue
		}
		_, repeated := f.header[key]
		switch {
		case repeated:
		case len(f.header) < maxHeaders || framing(key):
			f.header[key] = text
		default:
			f.fault = badNumber // each takes far more memory than in the frame
		}
	}
	length = -1
	if !utf8.Valid(data) {
		f.fault = badEncoding
	}
	if text, found := f.header["content-length"]; found {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
		if err != nil {
			f.fault = badLength
			return f, -1
		}
		length = int(n)
	}
	return f, length
}

// framing reports whether name is a header without which a frame cannot be skipped.
func framing(name string) bool {
	return name == "content-length" || name == "subscription" || name == "ack" || name == "message-id"
}

// unescape reads a name or a value of a header (STOMP 1.2, "Value Encoding").
func unescape(b []byte, v version) (text string, ok bool) {
	if v == v10 || bytes.IndexByte(b, '\\') < 0 {
		return string(b), true
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		if i++; i == len(b) {
			return "", false
		}
		switch b[i] {
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 'c':
			out = append(out, ':')
		case '\\':
			out = append(out, '\\')
		default:
			return "", false
		}
	}
	return string(out), true
}

var (
	escapes12 = strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r", ":", "\\c")
	escapes11 = strings.NewReplacer("\\", "\\\\", "\n", "\\n", ":", "\\c")
)

// appendHeader appends a header. It fails if the version cannot carry it.
func appendHeader(b []byte, name, value string, v version) ([]byte, error) {
	switch {
	case name == "" || len(name) > maxHead || len(value) > maxHead:
		return b, &HeaderError{name[:min(len(name), 255)], "is empty or longer than 65536 bytes"}
	case strings.ContainsRune(name, 0) || strings.ContainsRune(value, 0):
		return b, &HeaderError{name[:min(len(name), 255)], "holds a NUL, which ends a frame"}
	case v == v12:
		name, value = escapes12.Replace(name), escapes12.Replace(value)
	case v == v11 && !strings.Contains(name+value, "\r"):
		name, value = escapes11.Replace(name), escapes11.Replace(value)
	case strings.ContainsAny(name, "\r\n:") || strings.ContainsAny(value, "\r\n"):
		return b, &HeaderError{name[:min(len(name), 255)], "holds a character that the server's version of STOMP cannot carry; remove line breaks, and colons in the name"}
	}
	b = append(b, name...)
	b = append(b, ':')
	b = append(b, value...)
	return append(b, '\n'), nil
}
