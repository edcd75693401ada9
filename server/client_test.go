package server_test

import (
	"context"
	"net"
	"net/http"
	"testing"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// rig is a server on a network in memory.
type rig struct {
	t       testing.TB
	srv     *server.Server
	http    *http.Server
	network *limpettest.Network
	done    chan struct{}
}

func newRig(t testing.TB, o *server.Options) *rig {
	t.Helper()
	return newRigBehind(t, o, func(h http.Handler) http.Handler { return h })
}

// newRigBehind is newRig with middleware around the server.
func newRigBehind(t testing.TB, o *server.Options, middleware func(http.Handler) http.Handler) *rig {
	t.Helper()
	srv, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	network := limpettest.NewNetwork(nil)
	l, err := network.Listen("localhost:80")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, srv: srv, network: network, done: make(chan struct{})}
	r.http = &http.Server{Handler: middleware(srv), ErrorLog: nil}
	go func() {
		defer close(r.done)
		r.http.Serve(l)
	}()
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	r.srv.Close()
	r.http.Close()
	<-r.done
	r.network.Close()
}

func (r *rig) dial(ctx context.Context) (net.Conn, error) {
	return r.network.DialContext(ctx, "tcp", "localhost:80")
}

// upgrade dials with header and the subprotocols given.
func (r *rig) upgrade(header http.Header, protocols ...string) (*websocket.Conn, *http.Response, error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx) }}
	defer tr.CloseIdleConnections()
	o := &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: tr},
		HTTPHeader:   header,
		Subprotocols: protocols,
	}
	if host := header.Get("Host"); host != "" {
		o.Host = host
	}
	return websocket.Dial(context.Background(), "ws://localhost/", o)
}

// client is a client that sends and receives single frames.
type client struct {
	t   testing.TB
	ws  *websocket.Conn
	enc native.Encoding
	in  []native.Frame
}

func (r *rig) connect(enc native.Encoding) *client {
	r.t.Helper()
	ws, _, err := r.upgrade(nil, native.Subprotocol(enc))
	if err != nil {
		r.t.Fatal(err)
	}
	ws.SetReadLimit(1 << 20)
	c := &client{t: r.t, ws: ws, enc: enc}
	r.t.Cleanup(func() { ws.CloseNow() })
	return c
}

func (c *client) send(frames ...native.Frame) {
	c.t.Helper()
	data, err := native.Append(nil, c.enc, frames)
	if err != nil {
		c.t.Fatal(err)
	}
	c.raw(data)
}

func (c *client) raw(data []byte) {
	c.t.Helper()
	typ := websocket.MessageText
	if c.enc == native.Binary {
		typ = websocket.MessageBinary
	}
	if err := c.ws.Write(context.Background(), typ, data); err != nil {
		c.t.Fatal("write:", err)
	}
}

// read returns the next frame that is not a ping, or the error of the connection.
func (c *client) read() (native.Frame, error) {
	for {
		for len(c.in) > 0 {
			f := c.in[0]
			c.in = c.in[1:]
			if f.Type != native.TypePing {
				return f, nil
			}
		}
		_, data, err := c.ws.Read(context.Background())
		if err != nil {
			return native.Frame{}, err
		}
		if c.in, err = native.Decode(nil, c.enc, native.FromServer, data, native.DefaultLimits); err != nil {
			c.t.Fatalf("the server sent what cannot be decoded: %v", err)
		}
	}
}

// next returns the next frame, which must be of type want.
func (c *client) next(want native.Type) native.Frame {
	c.t.Helper()
	f, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for %v: %v", want, err)
	}
	if f.Type != want {
		c.t.Fatalf("got %v, want %v: %+v", f.Type, want, show(f))
	}
	return f
}

// closed reads to the end and returns the close code, -1 for none, and the
// frames before it.
func (c *client) closed() (int, []native.Frame) {
	c.t.Helper()
	var got []native.Frame
	for {
		f, err := c.read()
		if err != nil {
			return int(websocket.CloseStatus(err)), got
		}
		got = append(got, f)
	}
}

// wantClose fails unless the connection ends with code.
func (c *client) wantClose(code int) []native.Frame {
	c.t.Helper()
	got, frames := c.closed()
	if got != code {
		c.t.Fatalf("closed with %d, want %d", got, code)
	}
	return frames
}

func (c *client) hello(h native.Hello) *native.Welcome {
	c.t.Helper()
	c.send(native.Frame{Type: native.TypeHello, Hello: &h})
	return c.next(native.TypeWelcome).Welcome
}

func (c *client) publish(seq uint64, topic, payload string) wire.ID {
	c.t.Helper()
	id := idOf(seq)
	c.send(msg(seq, id, topic, payload))
	return id
}

// acked reads acks until one reaches to and returns all rejections seen.
func (c *client) acked(to uint64) (nak []native.Reject, last *native.Ack) {
	c.t.Helper()
	for {
		a := c.next(native.TypeAck).Ack
		nak = append(nak, a.Nak...)
		if a.HasTo && a.To >= to {
			if a.To != to {
				c.t.Fatalf("ack of %d, want %d", a.To, to)
			}
			return nak, a
		}
	}
}

// echo returns the ack and the delivery of a message that the client itself is
// subscribed to; either may come first.
func (c *client) echo() (ack *native.Ack, m native.Msg) {
	c.t.Helper()
	for range 2 {
		f, err := c.read()
		switch {
		case err == nil && f.Type == native.TypeAck && ack == nil:
			ack = f.Ack
		case err == nil && f.Type == native.TypeMsg && m.S == 0:
			m = f.Msg
		default:
			c.t.Fatalf("waiting for an ack and a message: %v %v", show(f), err)
		}
	}
	return ack, m
}

func msg(seq uint64, id wire.ID, topic, payload string) native.Frame {
	return native.Frame{Type: native.TypeMsg, Msg: native.Msg{S: seq, ID: id, Topic: topic, Payload: []byte(payload)}}
}

func idOf(n uint64) wire.ID {
	return wire.ID{0: 1, 8: byte(n >> 56), 9: byte(n >> 48), 10: byte(n >> 40), 11: byte(n >> 32), 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
}

func sub(ch uint64, topic string, from native.From, n uint64) native.Frame {
	return native.Frame{Type: native.TypeSub, Sub: &native.Sub{Ch: ch, Topic: topic, From: from, Cr: native.Credit{N: n, B: 1 << 30}}}
}

func credit(ch, n, b uint64) native.Frame {
	return native.Frame{Type: native.TypeAck, Ack: &native.Ack{Dcr: []native.ChCredit{{Ch: ch, N: n, B: b}}}}
}

func show(f native.Frame) string {
	b, _ := native.Append(nil, native.JSON, []native.Frame{f})
	return string(b)
}

func dialURL(url string, h *http.Client) (*websocket.Conn, *http.Response, error) {
	return websocket.Dial(context.Background(), url, &websocket.DialOptions{HTTPClient: h, Subprotocols: []string{"limpet.v1.json"}})
}
