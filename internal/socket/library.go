package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// No other file of the client uses the WebSocket library.

// handshake dials and checks the response.
func handshake(ctx context.Context, client *http.Client, a *wire.Attempt) (*websocket.Conn, error) {
	ws, _, err := websocket.Dial(ctx, a.URL, &websocket.DialOptions{
		HTTPClient:      client,
		HTTPHeader:      a.Header,
		Host:            a.Header.Get("Host"), // a dialect may set one; net/http ignores it among the headers
		Subprotocols:    a.Subprotocols,
		CompressionMode: websocket.CompressionDisabled,
	})
	return ws, err
}

// newConn returns a connection on stream after the handshake of ws, which has it as
// library.
func newConn(stream *stream, library *detachableStream, ws *websocket.Conn, o Options) *Conn {
	c := &Conn{stream: stream, Subprotocol: ws.Subprotocol(), LibraryFrames: o.LibraryFrames, onKill: o.OnKill}
	if c.LibraryFrames {
		c.ctx, c.cancel = context.WithCancel(context.Background())
		ws.SetReadLimit(o.ReadLimit)
		c.stream.counter = new(messageCounter)
		library.upgraded = true
		c.frames = &libraryFrames{conn: c, ws: ws, limit: o.ReadLimit}
		return c
	}
	// The library has done its part, the handshake. Its connection has read nothing yet;
	// closing it ends its goroutine.
	library.detach()
	ws.CloseNow()
	c.frames = frame.New(c.stream, frame.Options{
		ReadLimit: o.ReadLimit, Kill: c.Kill, Go: o.Go, Grew: c.stream.messageGrew, Ponged: c.stream.ponged, Pinged: c.stream.pinged,
	})
	return c
}

const (
	fragmentSize  = 4 << 10  // of a sent message: a pong must get its turn within 5 s, on a link of 8 kbit/s too
	readStep      = 2 << 10  // of a message that is not complete yet
	batchSize     = 32 << 10 // messages are received together up to it
	batchMessages = 64
)

// libraryFrames reads and writes messages with the frames of the library.
type libraryFrames struct {
	conn  *Conn
	ws    *websocket.Conn
	limit int64
	buf   []byte
	batch []wire.Frame
	taken uint64         // messages read from the library
	part  io.WriteCloser // of the message that SendPart writes
	err   error          // returned after the batch that came before it

	refused atomic.Bool // the library has refused what the peer sent, with a close frame
}

// Receive returns as many messages as the library has complete.
func (l *libraryFrames) Receive(idle bool) ([]wire.Frame, error) {
	clear(l.batch) // it holds the buffers of the last messages
	if idle || cap(l.buf) > 2*batchSize {
		l.buf = nil
	}
	l.buf, l.batch = l.buf[:0], l.batch[:0]
	for l.err == nil {
		complete := l.conn.stream.counter.complete.Load() > l.taken
		if len(l.batch) > 0 && (!complete || len(l.batch) == batchMessages || len(l.buf) >= batchSize) {
			return l.batch, nil
		}
		l.err = l.classify(l.readMessage(complete))
	}
	if len(l.batch) > 0 {
		return l.batch, nil
	}
	return nil, l.err
}

// classify makes a violation by the peer a *wire.CodeError, as with our own frames. The
// errors of the library have no type, but while the stream works nothing else ends a read.
func (l *libraryFrames) classify(err error) error {
	var closed websocket.CloseError
	var detected *wire.CodeError
	stream := l.conn.stream
	switch {
	case err == nil, errors.As(err, &closed), errors.As(err, &detected):
		return err
	case stream.readFailed.Load(), stream.isOfWrite(err), l.conn.killed.Load(), errors.Is(err, net.ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded): // of a pong that waited for a write
		return err
	}
	l.refused.Store(true)
	var code *frame.CloseCodeError
	if errors.As(frame.ParseClose(stream.counter.closed), &code) {
		return code
	}
	return &wire.CodeError{Code: 1002, Reason: err.Error()}
}

// readMessage appends one message to buf and to the batch. While the message is
// not complete its growth is recorded.
func (l *libraryFrames) readMessage(complete bool) error {
	// A context that can end costs the library more on each call, and killing
	// the stream ends its wait as well.
	typ, r, err := l.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	stream := l.conn.stream
	if !complete {
		stream.messageGrew(true)
		defer stream.messageGrew(false)
	}
	b, start := l.buf, len(l.buf)
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, 512)
		}
		step := b[len(b):cap(b)]
		if !complete {
			// The library returns only when it has filled a step, and until
			// then nothing shows that the message grows.
			step = step[:min(len(step), readStep)]
		}
		n, err := r.Read(step)
		if n > 0 {
			b = b[:len(b)+n]
			if !complete {
				stream.messageGrew(true)
			}
		}
		if int64(len(b)-start) > l.limit {
			return &wire.CodeError{Code: 1009, Reason: fmt.Sprintf("message of %d bytes or more exceeds Options.ReadLimit, %d bytes; raise it or send less", len(b)-start, l.limit)}
		}
		if err == io.EOF {
			if stream.readFailed.Load() && !complete {
				// The library takes the end of the stream for the end of the
				// message.
				return io.ErrUnexpectedEOF
			}
			break
		}
		if err != nil {
			return err
		}
	}
	l.buf = b
	l.taken++
	f := wire.Frame{Type: wire.Binary, Data: b[start:len(b):len(b)]}
	if typ == websocket.MessageText {
		// The library does not check (RFC 6455, section 8.1).
		if f.Type = wire.Text; !utf8.Valid(f.Data) {
			return &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
		}
	}
	l.batch = append(l.batch, f)
	return nil
}

func (l *libraryFrames) Send(frames []wire.Frame) error {
	ctx := l.conn.ctx
	for _, f := range frames {
		typ := websocket.MessageBinary
		if f.Type == wire.Text {
			typ = websocket.MessageText
		}
		if len(f.Data) <= fragmentSize {
			if err := l.ws.Write(ctx, typ, f.Data); err != nil {
				return err
			}
			continue
		}
		w, err := l.ws.Writer(ctx, typ)
		if err != nil {
			return err
		}
		for b := f.Data; len(b) > 0; {
			n := min(len(b), fragmentSize)
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return nil
}

// SendPart leaves up to 4 KiB in a buffer of the library, until more comes or a control frame is
// sent.
func (l *libraryFrames) SendPart(t wire.FrameType, p []byte, first, last bool) (err error) {
	if first {
		typ := websocket.MessageBinary
		if t == wire.Text {
			typ = websocket.MessageText
		}
		if l.part, err = l.ws.Writer(l.conn.ctx, typ); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		n := min(len(p), fragmentSize)
		if _, err := l.part.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	if last {
		return l.part.Close()
	}
	return nil
}

// Ping blocks until the peer answers or the connection dies.
func (l *libraryFrames) Ping() error {
	err := l.ws.Ping(l.conn.ctx)
	if err == nil {
		l.conn.stream.ponged()
	}
	return err
}

func (l *libraryFrames) Close(code uint16, reason string, timeout time.Duration) {
	if code != 0 && !l.refused.Load() {
		timer := time.AfterFunc(timeout, l.conn.Kill)
		l.ws.Close(websocket.StatusCode(code), frame.CloseReason(reason))
		timer.Stop()
	}
	if l.conn.stream.flush != nil {
		l.conn.stream.flush(timeout) // the answer to the peer's close frame
	}
	l.conn.Kill()
	l.ws.CloseNow() // ends the library's goroutine
}

// UnusualCode returns the code and the reason of the peer's close frame, and true if err is
// one with a code that no close frame may carry.
func UnusualCode(err error) (code uint16, reason string, unusual bool) {
	var e *frame.CloseCodeError
	if errors.As(err, &e) {
		return e.Code, e.Reason, true
	}
	return 0, "", false
}

// CloseCode returns the code and the reason of the peer's close frame, if err
// is one with a code that a close frame may carry. The code is 0 if it is not.
func CloseCode(err error) (code uint16, reason string) {
	var ours *frame.CloseError
	var library websocket.CloseError
	switch {
	case errors.As(err, &ours):
		return ours.Code, ours.Reason
	case errors.As(err, &library) && library.Code > 0:
		return uint16(library.Code), library.Reason
	}
	return 0, ""
}
