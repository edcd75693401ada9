package limpet

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

const (
	fragment     = 4 << 10                // bytes of one frame on the plain path: a pong must get its turn within 5 s, on 8 kbit/s too
	piece        = 2 << 10                // of a message read at once on the plain path
	joined       = 32 << 10               // bytes of messages handed over together on the plain path
	closeTimeout = time.Second            // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second       // a write must move bytes within it
	bodyTimeout  = 500 * time.Millisecond // for the body of a refused upgrade
	bodyLimit    = 1 << 10
)

// conn is one WebSocket connection: a socket, the byte stream below it, which
// says when bytes came and went, and what the client keeps beside them. Its
// reader, its writer and the loop use disjoint methods; kill is for everybody.
type conn struct {
	socket
	gen         uint64
	subprotocol string
	plain       bool
	stream      *stream
	ctx         context.Context // on the plain path; ends with kill: the library must never wait for longer
	cancel      context.CancelFunc
	ahead       ahead

	// Of the reader.
	codec wire.Codec
	names names
	pace  pace
}

// socket reads and writes messages. There are two: tapped, whose frames are our
// own, and plain, whose frames are those of the library (Options.PlainFrames).
type socket interface {
	// receive blocks until data messages have come, all that are at hand. They
	// are valid until the next call. With rest nothing is expected soon, and it
	// holds little memory. The reader's goroutine only.
	receive(rest bool) ([]wire.Frame, error)

	// send writes messages, the big ones in fragments, so that a ping of the
	// peer can be answered in between. The writer's goroutine only.
	send(frames []wire.Frame) error

	// ping asks the peer for a sign of life. It may block until that comes.
	ping() error

	// shut says closeFrameTimeout with code and closes, within timeout whatever the peer
	// does. With code 0 it says nothing but the answer to a closeFrameTimeout of the
	// peer's. Nobody else may be writing.
	shut(code uint16, reason string, timeout time.Duration)
}

// lastRead is when the peer last gave a sign of life. A message whose payload
// does not grow is none, however many empty frames it is cut into.
func (k *conn) lastRead() time.Time {
	at := k.stream.read.Load()
	if m := k.stream.message.Load(); m != 0 {
		at = min(at, m)
	}
	return k.stream.epoch.Add(time.Duration(at))
}

func (k *conn) lastWrote() time.Time {
	return k.stream.epoch.Add(time.Duration(k.stream.wrote.Load()))
}

// abandon closes without a word of ours.
func (k *conn) abandon() { k.shut(0, "", closeFrameTimeout) }

// kill ends everything that waits on the connection. It does not block on the
// peer.
func (k *conn) kill() {
	if k.cancel != nil {
		k.cancel()
	}
	k.ahead.end()
	k.stream.kill()
}

// upgrade is the answer to one upgrade request. As RoundTripper it lets only a
// 101 through to the library, so redirects are never followed and the body of
// a refusal is bounded in size and time.
type upgrade struct {
	base   http.RoundTripper
	nc     net.Conn
	stream *stream
	lent   *lent // to the library
	status int
	header http.Header
	body   []byte
}

var errNot101 = errors.New("server refused the upgrade")

func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	base, err := viaProxy(u.base, req)
	if err != nil {
		return nil, err
	}
	resp, err := base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	u.status, u.header = resp.StatusCode, resp.Header
	if resp.StatusCode != http.StatusSwitchingProtocols {
		u.body = readBounded(resp.Body, bodyLimit)
		return nil, errNot101
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, errors.New("transport does not hand the upgraded connection over")
	}
	u.stream = newStream(rwc, u.nc)
	u.lent = &lent{u.stream}
	resp.Body = u.lent
	return resp, nil
}

func readBounded(body io.ReadCloser, limit int64) []byte {
	timer := time.AfterFunc(bodyTimeout, func() { body.Close() })
	defer timer.Stop()
	defer body.Close()
	b, _ := io.ReadAll(io.LimitReader(body, limit))
	return b
}

// sharedTransport serves every client without an HTTPClient of its own. An
// upgraded connection leaves it; a refused one is not kept.
var sharedTransport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	t.DisableKeepAlives = true
	t.ForceAttemptHTTP2 = false
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.OnProxyConnectResponse = connected
	return t
}()

// dialConn makes one connection. The failure is nil on success; ctx bounds the
// whole. spawn starts goroutines for the connection's life.
func dialConn(ctx context.Context, cfg *config, a *wire.Attempt, spawn func(func()) bool) (*conn, *wire.Failure) {
	client := &http.Client{Transport: sharedTransport}
	if cfg.HTTPClient != nil {
		copied := *cfg.HTTPClient
		client = &copied
		if client.Transport == nil {
			client.Transport = sharedTransport
		}
	}
	up := &upgrade{base: client.Transport}
	client.Transport = up
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { up.nc = info.Conn },
	})
	ws, _, err := websocket.Dial(ctx, a.URL, &websocket.DialOptions{
		HTTPClient:      client,
		HTTPHeader:      a.Header,
		Subprotocols:    a.Subprotocols,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if up.stream != nil {
			up.stream.kill()
		}
		f := &wire.Failure{Stage: wire.StageDial, Err: err}
		if up.status != 0 {
			f.Stage, f.Status, f.Header, f.Body = wire.StageUpgrade, up.status, up.header, up.body
		}
		return nil, f
	}
	k := &conn{stream: up.stream, subprotocol: ws.Subprotocol(), plain: cfg.PlainFrames}
	k.ahead.cond.L = &k.ahead.mu
	if k.plain {
		k.ctx, k.cancel = context.WithCancel(context.Background())
		ws.SetReadLimit(cfg.ReadLimit)
		k.stream.whole = new(whole)
		k.socket = &plain{conn: k, ws: ws, limit: cfg.ReadLimit}
	} else {
		// The handshake is all we wanted of the library. Its connection has
		// read nothing yet; closing it ends its goroutine.
		up.lent.stream = nil
		ws.CloseNow()
		k.socket = newTapped(k, cfg.ReadLimit, spawn)
	}
	return k, nil
}

// plain is a socket on the library's frames.
type plain struct {
	conn  *conn
	ws    *websocket.Conn
	limit int64
	buf   []byte
	batch []wire.Frame
	got   uint64 // messages taken off the library
	err   error  // to be told after a batch
}

// receive takes as many messages as the library has whole.
func (p *plain) receive(rest bool) ([]wire.Frame, error) {
	clear(p.batch) // it holds the buffers of the last messages
	if rest || cap(p.buf) > 2*joined {
		p.buf = nil
	}
	p.buf, p.batch = p.buf[:0], p.batch[:0]
	for p.err == nil {
		whole := p.conn.stream.whole.messages.Load() > p.got
		if len(p.batch) > 0 && (!whole || len(p.batch) == routedAtOnce || len(p.buf) >= joined) {
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

func (p *plain) send(frames []wire.Frame) error {
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

// ping blocks until the peer answers or the connection dies.
func (p *plain) ping() error { return p.ws.Ping(p.conn.ctx) }

func (p *plain) shut(code uint16, reason string, timeout time.Duration) {
	if code != 0 {
		timer := time.AfterFunc(timeout, p.conn.kill)
		p.ws.Close(websocket.StatusCode(code), frame.CloseReason(reason))
		timer.Stop()
	}
	p.conn.kill()
	p.ws.CloseNow() // lets the library's goroutine go
}

// closeCode is what the peer closed with; 0 if it did not.
func closeCode(err error) (code uint16, reason string) {
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

// write writes frames and says how it went.
func (c *Client) write(k *conn, frames *wire.Frames, through uint64) {
	err := k.send(frames.List)
	if err == nil {
		n := 0
		for _, f := range frames.List {
			n += len(f.Data)
		}
		c.counters.bytesWritten.Add(uint64(n))
	}
	frames.Reset()
	framesPool.Put(frames)
	c.inbox.post(wrote{k, err, through})
}
