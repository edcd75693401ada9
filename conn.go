package limpet

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

const (
	fragment     = 4 << 10                // bytes of one WebSocket frame: a pong must get its turn within 5 s, on 8 kbit/s too
	closeTimeout = time.Second            // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second       // a write must move bytes within it
	bodyTimeout  = 500 * time.Millisecond // for the body of a refused upgrade
	bodyLimit    = 1 << 10
)

// conn is one WebSocket connection. Its reader, its writer and the loop use
// disjoint methods; kill is for everybody. It wraps the byte stream below
// nhooyr.io/websocket: every received byte is a sign of life, and closing that
// stream releases whatever the library is waiting for.
type conn struct {
	gen         uint64
	subprotocol string
	ws          *websocket.Conn
	stream      *stream
	limit       int64
	buf         []byte
	ctx         context.Context // ends with kill: the library must never wait for longer
	cancel      context.CancelFunc
	ahead       chan struct{} // a slot for each batch of events posted and not applied
}

// stream is the byte stream of an upgraded connection.
type stream struct {
	io.ReadWriteCloser
	raw     net.Conn // the socket below TLS, nil if the transport did not tell
	epoch   time.Time
	read    atomic.Int64 // when bytes were last received, ns since epoch
	wrote   atomic.Int64 // when bytes were last accepted by the socket
	message atomic.Int64 // while a message is being received: when its payload last grew; else 0
}

func (s *stream) now() int64 { return int64(time.Since(s.epoch)) + 1 }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	if n > 0 {
		s.read.Store(s.now())
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Write(p)
	if n > 0 {
		s.wrote.Store(s.now())
	}
	return n, err
}

// kill closes the socket itself: tls.Conn.Close may wait for a stalled write.
func (s *stream) kill() {
	if s.raw != nil {
		s.raw.Close()
	}
	s.ReadWriteCloser.Close()
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

// upgrade is the answer to one upgrade request. As RoundTripper it lets only a
// 101 through to the library, so redirects are never followed and the body of
// a refusal is bounded in size and time.
type upgrade struct {
	base   http.RoundTripper
	raw    net.Conn
	stream *stream
	status int
	header http.Header
	body   []byte
}

var errNot101 = errors.New("server refused the upgrade")

func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := u.base.RoundTrip(req)
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
	u.stream = &stream{ReadWriteCloser: rwc, raw: u.raw, epoch: time.Now()}
	u.stream.read.Store(1)
	u.stream.wrote.Store(1)
	resp.Body = u.stream
	return resp, nil
}

func readBounded(body io.ReadCloser, limit int64) []byte {
	timer := time.AfterFunc(bodyTimeout, func() { body.Close() })
	defer timer.Stop()
	defer body.Close()
	b, _ := io.ReadAll(io.LimitReader(body, limit))
	return b
}

func socketOf(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

// sharedTransport serves every client without an HTTPClient of its own. An
// upgraded connection leaves it; a refused one is not kept.
var sharedTransport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	t.DisableKeepAlives = true
	t.ForceAttemptHTTP2 = false
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	return t
}()

// dialConn makes one connection. The failure is nil on success; ctx bounds the
// whole.
func dialConn(ctx context.Context, cfg *config, a *wire.Attempt) (*conn, *wire.Failure) {
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
		GotConn: func(info httptrace.GotConnInfo) { up.raw = socketOf(info.Conn) },
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
	ws.SetReadLimit(cfg.ReadLimit)
	k := &conn{ws: ws, stream: up.stream, limit: cfg.ReadLimit, subprotocol: ws.Subprotocol(), ahead: make(chan struct{}, readsAhead)}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k, nil
}

// receive blocks until a whole data message has come. Its data is valid until
// the next call. The reader's goroutine only.
func (k *conn) receive() (wire.Frame, error) {
	typ, r, err := k.ws.Reader(k.ctx)
	if err != nil {
		return wire.Frame{}, err
	}
	k.stream.message.Store(k.stream.now())
	defer k.stream.message.Store(0)
	if cap(k.buf) > 64<<10 {
		k.buf = nil
	}
	b := k.buf[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		if n > 0 {
			b = b[:len(b)+n]
			k.stream.message.Store(k.stream.now())
		}
		if int64(len(b)) > k.limit {
			return wire.Frame{}, &wire.CodeError{Code: 1009, Reason: "message exceeds Options.ReadLimit"}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return wire.Frame{}, err
		}
	}
	k.buf = b
	f := wire.Frame{Type: wire.Binary, Data: b}
	if typ == websocket.MessageText {
		// The library does not check (RFC 6455, section 8.1).
		if f.Type = wire.Text; !utf8.Valid(b) {
			return wire.Frame{}, &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
		}
	}
	return f, nil
}

// send writes frames. Big ones go out in fragments, so that a ping of the peer
// can be answered in between. The writer's goroutine only.
func (k *conn) send(frames []wire.Frame) error {
	for _, f := range frames {
		typ := websocket.MessageBinary
		if f.Type == wire.Text {
			typ = websocket.MessageText
		}
		if len(f.Data) <= fragment {
			if err := k.ws.Write(k.ctx, typ, f.Data); err != nil {
				return err
			}
			continue
		}
		w, err := k.ws.Writer(k.ctx, typ)
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

// ping blocks until the peer answers a WebSocket ping or the connection dies.
func (k *conn) ping() error { return k.ws.Ping(k.ctx) }

// shut says goodbye with code and closes, within timeout whatever the peer
// does. Nobody else may be writing.
func (k *conn) shut(code uint16, reason string, timeout time.Duration) {
	timer := time.AfterFunc(timeout, k.kill)
	k.ws.Close(websocket.StatusCode(code), closeReason(reason))
	timer.Stop()
	k.abandon()
}

// abandon closes without a word and lets the library's goroutine go.
func (k *conn) abandon() {
	k.kill()
	k.ws.CloseNow()
}

// kill ends everything that waits on the connection. It does not block on the
// peer.
func (k *conn) kill() {
	k.cancel()
	k.stream.kill()
}

// closeReason fits a reason into a close frame: 123 bytes, whole runes.
func closeReason(s string) string {
	const most = 123
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// closeCode is what the peer closed with; 0 if it did not.
func closeCode(err error) (code uint16, reason string) {
	var ce websocket.CloseError
	if errors.As(err, &ce) && ce.Code > 0 {
		return uint16(ce.Code), ce.Reason
	}
	return 0, ""
}

// read takes frames off a connection until it ends. What belongs to a
// subscription goes straight to its queue, in wire order; the loop hears of
// everything else, and of what changes a subscription's state.
func (c *Client) read(k *conn, codec wire.Codec) {
	var names names
	for {
		f, err := k.receive()
		if err == nil {
			c.counters.frames.Add(1)
			c.counters.bytesRead.Add(uint64(len(f.Data)))
			events := eventPool.Get().(*wire.Events)
			err = codec.Decode(f, events)
			if err == nil {
				err = c.route(k, events, &names)
			} else {
				err = asViolation(err)
			}
			events.Reset()
			eventPool.Put(events)
		}
		if err != nil {
			c.inbox.post(downed{k, err})
			return
		}
	}
}

// eventPool lends the memory of events for one frame: an idle connection holds
// none.
var eventPool = sync.Pool{New: func() any { return new(wire.Events) }}

func (c *Client) route(k *conn, events *wire.Events, names *names) error {
	var forLoop []wire.Event
	var fault error
	routes := c.routes.Load()
	for rest := events.List; len(rest) > 0 && fault == nil; {
		ev := &rest[0]
		if !ev.Kind.OfSubscription() {
			forLoop = append(forLoop, *ev)
			rest = rest[1:]
			continue
		}
		n := run(rest)
		if ev.Key == 0 {
			ev.Key = names.keys[ev.Name]
		} else if ev.Kind == wire.EventSubscribed && ev.Name != "" {
			names.set(ev.Key, ev.Name)
		}
		if s := routes.find(ev); s != nil {
			var lost []wire.Event
			lost, fault = s.queue.offer(k.gen, rest[:n])
			for i := range lost {
				lost[i].Key = s.key
			}
			forLoop = append(forLoop, lost...)
		}
		if ev.Kind != wire.EventData && fault == nil {
			forLoop = append(forLoop, *ev)
		}
		rest = rest[n:]
	}
	if len(forLoop) > 0 {
		select {
		case k.ahead <- struct{}{}:
			c.inbox.post(received{k, forLoop})
		case <-k.ctx.Done():
		}
	}
	return fault
}

// names are what the server calls subscriptions on one connection: one name a
// key, the latest.
type names struct {
	keys  map[string]uint64
	names map[uint64]string
}

func (n *names) set(key uint64, name string) {
	if n.keys == nil {
		n.keys, n.names = make(map[string]uint64), make(map[uint64]string)
	}
	delete(n.keys, n.names[key])
	n.keys[name], n.names[key] = key, name
}

// run is how many events at the head are messages of one subscription; 1 if the
// first is something else.
func run(events []wire.Event) int {
	n := 1
	if events[0].Kind != wire.EventData {
		return n
	}
	for n < len(events) && events[n].Kind == wire.EventData && events[n].Key == events[0].Key && events[n].Name == events[0].Name {
		n++
	}
	return n
}

// readRoom is the loop's word that it applied one batch of events.
func (k *conn) readRoom() { <-k.ahead }

// write writes frames and says how it went.
func (c *Client) write(k *conn, frames []wire.Frame, through uint64) {
	err := k.send(frames)
	if err == nil {
		n := 0
		for i := range frames {
			n += len(frames[i].Data)
		}
		c.counters.bytesWritten.Add(uint64(n))
	}
	c.inbox.post(wrote{k, err, through})
}

func asViolation(err error) error {
	var ce *wire.CodeError
	if errors.As(err, &ce) {
		return ce
	}
	return &wire.CodeError{Code: 1002, Reason: err.Error()}
}
