package socket

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

const (
	fragment = 4 << 10  // bytes of one frame on the plain path: a pong must get its turn within 5 s, on 8 kbit/s too
	piece    = 2 << 10  // of a message read at once on the plain path
	joined   = 32 << 10 // bytes of messages handed over together on the plain path
	together = 64       // messages handed over together on the plain path
)

// handshake dials and checks the answer.
func handshake(ctx context.Context, client *http.Client, a *wire.Attempt) (*websocket.Conn, error) {
	ws, _, err := websocket.Dial(ctx, a.URL, &websocket.DialOptions{
		HTTPClient:      client,
		HTTPHeader:      a.Header,
		Subprotocols:    a.Subprotocols,
		CompressionMode: websocket.CompressionDisabled,
	})
	return ws, err
}

// plain is a socket on the library's frames.
type plain struct {
	conn  *Conn
	ws    *websocket.Conn
	limit int64
	buf   []byte
	batch []wire.Frame
	got   uint64 // messages taken off the library
	err   error  // to be told after a batch
}

// Receive takes as many messages as the library has whole.
func (p *plain) Receive(rest bool) ([]wire.Frame, error) {
	clear(p.batch) // it holds the buffers of the last messages
	if rest || cap(p.buf) > 2*joined {
		p.buf = nil
	}
	p.buf, p.batch = p.buf[:0], p.batch[:0]
	for p.err == nil {
		whole := p.conn.stream.whole.messages.Load() > p.got
		if len(p.batch) > 0 && (!whole || len(p.batch) == together || len(p.buf) >= joined) {
			return p.batch, nil
		}
		p.err = p.message(whole)
	}
	if len(p.batch) > 0 {
		return p.batch, nil
	}
	return nil, p.err
}

// message reads one message behind the others in buf. If it is not whole yet
// its progress is noted.
func (p *plain) message(whole bool) error {
	// The library pays for a context that can end, and killing the stream ends
	// its wait as well.
	typ, r, err := p.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	stream := p.conn.stream
	if !whole {
		stream.unfinished(true)
		defer stream.unfinished(false)
	}
	b, start := p.buf, len(p.buf)
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, 512)
		}
		step := b[len(b):cap(b)]
		if !whole {
			// The library returns only when it has filled a step, and what it
			// has of it is no sign of life.
			step = step[:min(len(step), piece)]
		}
		n, err := r.Read(step)
		if n > 0 {
			b = b[:len(b)+n]
			if !whole {
				stream.unfinished(true)
			}
		}
		if int64(len(b)-start) > p.limit {
			return &wire.CodeError{Code: 1009, Reason: "message exceeds Options.ReadLimit"}
		}
		if err == io.EOF {
			if stream.ended.Load() && !whole {
				// The library takes it for the end of the message.
				return io.ErrUnexpectedEOF
			}
			break
		}
		if err != nil {
			return err
		}
	}
	p.buf = b
	p.got++
	f := wire.Frame{Type: wire.Binary, Data: b[start:len(b):len(b)]}
	if typ == websocket.MessageText {
		// The library does not check (RFC 6455, section 8.1).
		if f.Type = wire.Text; !utf8.Valid(f.Data) {
			return &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
		}
	}
	p.batch = append(p.batch, f)
	return nil
}

func (p *plain) Send(frames []wire.Frame) error {
	ctx := p.conn.ctx
	for _, f := range frames {
		typ := websocket.MessageBinary
		if f.Type == wire.Text {
			typ = websocket.MessageText
		}
		if len(f.Data) <= fragment {
			if err := p.ws.Write(ctx, typ, f.Data); err != nil {
				return err
			}
			continue
		}
		w, err := p.ws.Writer(ctx, typ)
		if err != nil {
			return err
		}
		for b := f.Data; len(b) > 0; {
			n := min(len(b), fragment)
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

// Ping blocks until the peer answers or the connection dies.
func (p *plain) Ping() error { return p.ws.Ping(p.conn.ctx) }

func (p *plain) Close(code uint16, reason string, timeout time.Duration) {
	if code != 0 {
		timer := time.AfterFunc(timeout, p.conn.Kill)
		p.ws.Close(websocket.StatusCode(code), frame.CloseReason(reason))
		timer.Stop()
	}
	p.conn.Kill()
	p.ws.CloseNow() // lets the library's goroutine go
}

// CloseCode is what the peer closed with; 0 if it did not.
func CloseCode(err error) (code uint16, reason string) {
	var theirs websocket.CloseError
	var ours *frame.CloseError
	switch {
	case errors.As(err, &ours):
		return ours.Code, ours.Reason
	case errors.As(err, &theirs) && theirs.Code > 0:
		return uint16(theirs.Code), theirs.Reason
	}
	return 0, ""
}
