package server

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// socket is one WebSocket connection. This file is the only one that uses the library, which
// does the handshake; package frame does the rest. One goroutine reads, another writes and
// closes; abort may be called from any goroutine.
type socket struct {
	frames   *frame.Conn
	raw      *rawConn
	in       []wire.Frame  // received, and valid until the next read of frames
	out      [1]wire.Frame // in the write in progress
	answered atomic.Bool   // the peer sent a close frame
	aborted  atomic.Bool   // abort was called
}

func newSocket(raw *rawConn, limit int64) *socket {
	s := &socket{raw: raw}
	s.frames = frame.New(raw, frame.Options{Server: true, ReadLimit: limit, Kill: func() { raw.abort() }})
	return s
}

// accept upgrades a request that has passed all checks of the server. limit bounds
// a received message, in bytes; stall is Options.WriteTimeout. With hold the 101 leaves together
// with what is written first, which must follow soon.
func accept(w http.ResponseWriter, r *http.Request, token string, limit int64, stall time.Duration, hold bool) (*socket, error) {
	if !canHash() {
		http.Error(w, "this server cannot upgrade connections", http.StatusInternalServerError)
		return nil, &mountError{"GODEBUG=fips140=only forbids SHA-1, which every WebSocket handshake needs; use fips140=on"}
	}
	h := &hijacker{ResponseWriter: w, stall: stall, hold: hold}
	upgraded := false
	defer func() { // even if a middleware panics: net/http does not close what was hijacked
		if !upgraded && h.raw != nil {
			h.raw.abort()
		}
	}()
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols:       []string{token},
		InsecureSkipVerify: true, // Options.Origins was applied before
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	upgraded = true
	ws.CloseNow() // ends its goroutine: see handshaken
	return newSocket(h.raw, limit), nil
}

// read returns the next message, which is valid until the next call, or an error when the
// connection has ended. If the peer broke RFC 6455 or the limit, it was sent a close frame.
func (s *socket) read() (wire.FrameType, []byte, error) {
	for len(s.in) == 0 {
		in, err := s.frames.Receive(true)
		if err != nil {
			s.end(err)
			return 0, nil, err
		}
		s.in = in
	}
	f := s.in[0]
	s.in = s.in[1:]
	return f.Type, f.Data, nil
}

// end ends a connection from which nothing more can be read.
func (s *socket) end(err error) {
	var refused *wire.CodeError
	switch {
	case s.frames.Closed():
		s.answered.Store(true)
		s.frames.Close(0, "", closeGrace)
	case errors.As(err, &refused):
		s.frames.Close(refused.Code, refused.Reason, closeGrace)
	}
}

// write sends one message. A long one is sent in fragments, so that a ping that
// arrives in between can be answered (docs/protocol.md, section 1).
func (s *socket) write(t wire.FrameType, data []byte) error {
	s.out[0] = wire.Frame{Type: t, Data: data}
	err := s.frames.Send(s.out[:])
	s.out[0] = wire.Frame{}
	return err
}

// close performs the close handshake, then closes the connection. It reports
// whether the peer sent a close frame. It takes closeGrace at the longest.
func (s *socket) close(code uint16, reason string) bool {
	s.frames.Close(code, reason, closeGrace)
	if s.frames.Closed() && !s.aborted.Load() {
		s.answered.Store(true)
	}
	s.abort()
	return s.answered.Load()
}

// abort closes the connection at once.
func (s *socket) abort() {
	s.aborted.Store(true)
	s.raw.abort()
}

// stalled reports whether a write failed because the peer accepted no bytes.
func stalled(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// cut shortens s to at most n bytes, at a character boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// hijacker gives the library a rawConn in place of the connection. It writes the 101
// itself, to the hijacked connection: a middleware may hold back what it is given
// with WriteHeader, and after Hijack it can no longer send it.
type hijacker struct {
	http.ResponseWriter
	stall time.Duration
	hold  bool
	raw   *rawConn
}

// WriteHeader does nothing with 101, which Hijack writes.
func (h *hijacker) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err == nil && conn == nil {
		err = errors.New("its Hijack returned no connection")
	}
	if err != nil {
		for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"} {
			h.Header().Del(name) // set for the 101, which is not sent
		}
		return nil, nil, &mountError{fmt.Sprintf("the http.ResponseWriter, a %T, has no Hijack: serve WebSocket requests over HTTP/1.1 and "+
			"without middlewares that hide it, such as http.TimeoutHandler (%v)", h.ResponseWriter, err)}
	}
	conn.SetDeadline(time.Time{}) // one may be set already: see http.Hijacker
	h.raw = &rawConn{Conn: conn, stall: h.stall, start: time.Now()}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Header().WriteSubset(&head, notIn101(h.Header()))
	head.WriteString("\r\n")
	if h.hold {
		h.raw.held = head.Bytes()
	} else if _, err := h.raw.Write(head.Bytes()); err != nil {
		return nil, nil, err
	}
	if rw != nil && rw.Reader != nil {
		early, _ := rw.Reader.Peek(rw.Reader.Buffered())
		h.raw.early = bytes.Clone(early)
		*rw.Reader = bufio.Reader{} // net/http keeps it, with its buffer, until the handler returns
	}
	c := handshaken{h.raw}
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16)), nil
}

// handshaken is what the library gets of a connection. It reads and writes nothing, and
// does not close the connection when it is closed itself.
type handshaken struct{ net.Conn }

func (handshaken) Close() error { return nil }

// notIn101 returns the names in h that a 101 must not have: those of a body, an extension
// that the server does not speak, and what a middleware says about the connection beside
// Connection: Upgrade.
func notIn101(h http.Header) map[string]bool {
	without := make(map[string]bool)
	for name := range h {
		switch canonical := http.CanonicalHeaderKey(name); canonical {
		case "Content-Length", "Content-Encoding", "Transfer-Encoding", "Trailer", "Sec-Websocket-Extensions", "Keep-Alive":
			without[name] = true
		case "Connection", "Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Protocol":
			without[name] = name != canonical
		}
	}
	return without
}

// mountError means that no connection can be upgraded where the server is mounted.
type mountError struct{ text string }

func (e *mountError) Error() string { return e.text }

// canHash reports whether this process may compute SHA-1, which RFC 6455, section
// 4.2.2 requires of a server.
func canHash() (ok bool) {
	defer func() { ok = recover() == nil }()
	sha1.Sum(nil)
	return true
}

// rawConn is the connection below the frames. It records when bytes arrive and
// gives every writePiece of output a deadline of its own, so that a slow peer
// survives and a stalled one does not.
type rawConn struct {
	net.Conn
	stall time.Duration
	start time.Time
	heard atomic.Int64 // time.Duration since start
	early []byte       // came with the upgrade request: read before anything else
	held  []byte       // to be written before anything else; one goroutine writes at a time
}

// writePiece is how many bytes must be written within Options.WriteTimeout.
const writePiece = 4 << 10

func (c *rawConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.touch()
	}
	return n, err
}

func (c *rawConn) Write(p []byte) (written int, err error) {
	if held := len(c.held); held > 0 {
		p = append(c.held, p...)
		c.held = nil
		defer func() { written = max(0, written-held) }()
	}
	for len(p) > 0 && err == nil {
		n := min(len(p), writePiece)
		c.Conn.SetWriteDeadline(time.Now().Add(c.stall))
		n, err = c.Conn.Write(p[:n])
		written += n
		p = p[n:]
	}
	return written, err
}

// abort closes the connection below TLS, whose own Close may block for 5 s.
func (c *rawConn) abort() error {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn().Close()
	}
	return c.Conn.Close()
}

// touch counts now as a sign of life.
func (c *rawConn) touch() { c.heard.Store(int64(time.Since(c.start))) }

// silence returns the time since the last sign of life.
func (c *rawConn) silence() time.Duration {
	return time.Since(c.start) - time.Duration(c.heard.Load())
}
