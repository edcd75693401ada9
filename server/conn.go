package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// socket is one WebSocket connection. This file is the only one that uses the
// library. One goroutine reads, another writes and closes; abort may be called
// from any goroutine.
//
// The library's Close may block for ever when the peer stalls within a frame, and
// its CloseNow waits for Close. Both return at once when the raw connection is
// closed. So hijacker keeps that, and whoever closes sets a timer to abort.
type socket struct {
	ws       *websocket.Conn
	raw      *rawConn
	answered atomic.Bool // the peer sent a close frame
	aborted  atomic.Bool // abort was called
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
	ws.SetReadLimit(limit)
	return &socket{ws: ws, raw: h.raw}, nil
}

// adopt makes conn, which carries the bytes of a WebSocket connection that needs no upgrade,
// a socket. r has passed all checks and has the headers of an upgrade request. It closes
// conn if it fails.
func adopt(conn net.Conn, r *http.Request, token string, limit int64, stall time.Duration) (*socket, error) {
	if !canHash() {
		conn.Close()
		return nil, &mountError{"GODEBUG=fips140=only forbids SHA-1, which the WebSocket library needs; use fips140=on"}
	}
	h := &adopter{header: http.Header{}, raw: &rawConn{Conn: conn, stall: stall, start: time.Now()}}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols: []string{token}, InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	ws.SetReadLimit(limit)
	return &socket{ws: ws, raw: h.raw}, nil
}

// adopter gives the library a connection that was made otherwise. What the library answers
// goes nowhere.
type adopter struct {
	header http.Header
	raw    *rawConn
}

func (a *adopter) Header() http.Header         { return a.header }
func (a *adopter) Write(p []byte) (int, error) { return len(p), nil }
func (a *adopter) WriteHeader(int)             {}

func (a *adopter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return a.raw, bufio.NewReadWriter(bufio.NewReader(a.raw), bufio.NewWriter(a.raw)), nil
}

// read returns the next message, or an error when the connection has ended. If the
// peer broke RFC 6455 or the limit, the library has then sent it a close frame.
func (s *socket) read() (wire.FrameType, []byte, error) {
	typ, data, err := s.ws.Read(context.Background())
	if err == nil && s.raw.failed.Load() {
		err = io.ErrUnexpectedEOF // the library takes EOF for the end of the message
	}
	if err != nil { // data may be set: the beginning of a message beyond the limit
		if websocket.CloseStatus(err) != -1 {
			s.answered.Store(true)
		} else if !s.raw.failed.Load() {
			s.drain()
		}
		return 0, nil, err
	}
	if typ == websocket.MessageBinary {
		return wire.Binary, data, nil
	}
	return wire.Text, data, nil
}

// drain continues to read for a moment. Closing with unread bytes would cause a
// reset, in which the close frame that the library has just written could be
// lost.
func (s *socket) drain() {
	s.raw.Conn.SetReadDeadline(time.Now().Add(closeGrace))
	io.CopyN(io.Discard, s.raw.Conn, 1<<20)
}

// write sends one message. A long one is sent in fragments, so that a ping that
// arrives in between can be answered (docs/protocol.md, section 1).
func (s *socket) write(t wire.FrameType, data []byte) error {
	typ := websocket.MessageText
	if t == wire.Binary {
		typ = websocket.MessageBinary
	}
	if len(data) <= writeFragment {
		return s.ws.Write(context.Background(), typ, data)
	}
	w, err := s.ws.Writer(context.Background(), typ)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), writeFragment)
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return w.Close()
}

// close performs the close handshake, then closes the connection. It reports
// whether the peer sent a close frame. The caller must bound it with abort.
func (s *socket) close(code uint16, reason string) bool {
	err := s.ws.Close(websocket.StatusCode(code), cut(reason, 123))
	if err == nil && !s.aborted.Load() && !s.raw.failed.Load() {
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

// finish ends the library's goroutine. The connection must be closed already.
func (s *socket) finish() { s.ws.CloseNow() }

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
	if rw == nil || rw.Reader == nil {
		rw = &bufio.ReadWriter{Reader: bufio.NewReader(h.raw)}
	}
	return h.raw, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(h.raw)), nil
}

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

// rawConn is the connection below the library. It records when bytes arrive and
// gives every writePiece of output a deadline of its own, so that a slow peer
// survives and a stalled one does not.
type rawConn struct {
	net.Conn
	stall  time.Duration
	start  time.Time
	heard  atomic.Int64 // time.Duration since start
	failed atomic.Bool  // a read failed
	held   []byte       // to be written before anything else; the library lets one goroutine write at a time
}

// writePiece is how many bytes must be written within Options.WriteTimeout.
const writePiece = 4 << 10

func (c *rawConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.touch()
		return n, nil // an error is returned again by the next Read
	}
	if err != nil {
		c.failed.Store(true)
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

// Close is called by the library and must not block.
func (c *rawConn) Close() error { return c.abort() }

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
