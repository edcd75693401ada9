package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/limpet-go/limpet/wire"
)

// script is a stream that delivers given bytes in pieces, then EOF, and keeps what is
// written to it.
type script struct {
	mu     sync.Mutex
	in     []byte
	piece  int // bytes of one read; 0: all there are
	out    bytes.Buffer
	writes int
	fail   error // of writes
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(s.in))
	if s.piece > 0 {
		n = min(n, s.piece)
	}
	n = copy(p, s.in[:n])
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	s.writes++
	return s.out.Write(p)
}

func (s *script) Close() error { return nil }

func (s *script) written() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.out.Bytes())
}

// server appends an unmasked frame, as a server sends it.
func server(b []byte, first byte, payload string) []byte {
	switch n := len(payload); {
	case n < 126:
		b = append(b, first, byte(n))
	case n < 1<<16:
		b = append(b, first, 126, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
	}
	return append(b, payload...)
}

func closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// sent is one frame that the client wrote.
type sent struct {
	first   byte
	payload string
}

func (f sent) String() string {
	payload := fmt.Sprintf("%q", f.payload)
	if len(f.payload) > 40 {
		payload = fmt.Sprintf("%d bytes", len(f.payload))
	}
	return fmt.Sprintf("%#x %s", f.first, payload)
}

var errCut = errors.New("cut frame")

// clientFrames parses frames as a server must: masked, with minimal lengths.
func clientFrames(b []byte) (frames []sent, err error) {
	for len(b) > 0 {
		if len(b) < 6 {
			return frames, errCut
		}
		if b[1]&0x80 == 0 {
			return frames, errors.New("not masked")
		}
		f, n, h := sent{first: b[0]}, int(b[1]&0x7f), 2
		switch n {
		case 126:
			n, h = int(binary.BigEndian.Uint16(b[2:])), 4
			if n < 126 {
				return frames, errors.New("length not minimal")
			}
		case 127:
			if len(b) < 14 {
				return frames, errCut
			}
			n, h = int(binary.BigEndian.Uint64(b[2:])), 10
			if n < 1<<16 {
				return frames, errors.New("length not minimal")
			}
		}
		if len(b) < h+4+n {
			return frames, errCut
		}
		key, payload := b[h:h+4], bytes.Clone(b[h+4:h+4+n])
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		f.payload = string(payload)
		frames = append(frames, f)
		b = b[h+4+n:]
	}
	return frames, nil
}

// heard is the result of a Conn that reads a script.
type heard struct {
	messages []string // "t:…" or "b:…"
	err      error
	sent     []sent
}

func (h heard) String() string {
	return fmt.Sprintf("%q, %v, sent %v", h.messages, h.err, h.sent)
}

func show(f wire.Frame) string {
	if f.Type == wire.Text {
		return "t:" + string(f.Data)
	}
	return "b:" + string(f.Data)
}

// short abbreviates long strings of one character.
func short(s string) string {
	if len(s) < 100 {
		return s
	}
	if rest := strings.TrimLeft(s[2:], s[2:3]); rest == "" {
		return fmt.Sprintf("%s%s*%d", s[:2], s[2:3], len(s)-2)
	}
	return fmt.Sprintf("%s… %d", s[:20], len(s))
}

// hear reads everything and closes as a client would.
func hear(s *script, limit int64) heard {
	c := New(s, Options{ReadLimit: limit, Kill: func() {}, Go: func(f func()) bool {
		f() // at once, so that the order of writes is fixed
		return true
	}})
	var h heard
	for {
		batch, err := c.Receive(false)
		for _, f := range batch {
			h.messages = append(h.messages, show(f))
		}
		if err != nil {
			h.err = err
			break
		}
	}
	var refused *wire.CodeError
	code, reason := uint16(0), ""
	if errors.As(h.err, &refused) {
		code, reason = refused.Code, refused.Reason
	}
	c.Close(code, reason, 1<<40)
	frames, err := clientFrames(s.written())
	if err != nil {
		h.err = fmt.Errorf("%w; the client wrote rubbish: %w", h.err, err)
	}
	h.sent = frames
	return h
}
