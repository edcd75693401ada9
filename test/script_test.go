package test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// scriptedServer is a server for one test: it speaks limpet.v1 in JSON as the test
// tells it, right or wrong.
type scriptedServer struct {
	t    *testing.T
	host *limpettest.Host
	talk func(p *scriptedConn)

	mu     sync.Mutex
	closes []websocket.StatusCode // that the client closed with
	conns  int
}

// scriptedConn is one connection of a script.
type scriptedConn struct {
	ctx    context.Context
	ws     *websocket.Conn
	number int
	hello  *native.Hello
}

func newScriptedServer(t *testing.T, talk func(p *scriptedConn)) *scriptedServer {
	s := &scriptedServer{t: t, talk: talk}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	return s
}

func (s *scriptedServer) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{native.Subprotocol(native.JSON)}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	s.mu.Lock()
	s.conns++
	p := &scriptedConn{ctx: ctx, ws: ws, number: s.conns}
	s.mu.Unlock()
	if f := p.read(); len(f) == 0 || f[0].Hello == nil {
		return
	} else {
		p.hello = f[0].Hello
	}
	s.talk(p)
	for {
		if _, _, err := ws.Read(ctx); err != nil {
			s.mu.Lock()
			s.closes = append(s.closes, websocket.CloseStatus(err))
			s.mu.Unlock()
			return
		}
	}
}

func (s *scriptedServer) seen() (closes []websocket.StatusCode, conns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]websocket.StatusCode(nil), s.closes...), s.conns
}

func (p *scriptedConn) read() []native.Frame {
	_, data, err := p.ws.Read(p.ctx)
	if err != nil {
		return nil
	}
	frames, _ := native.Decode(nil, native.JSON, native.FromClient, data, native.DefaultLimits)
	return frames
}

func (p *scriptedConn) sendText(s string) { p.ws.Write(p.ctx, websocket.MessageText, []byte(s)) }

func (p *scriptedConn) sendFrames(frames ...native.Frame) {
	data, err := native.Append(nil, native.JSON, frames)
	if err != nil {
		panic(err)
	}
	p.sendText(string(data))
}

func (p *scriptedConn) welcome() native.Frame {
	return native.Frame{Type: native.TypeWelcome, Welcome: &native.Welcome{
		CN: p.hello.CN, SID: "s", Key: []byte("k"), SE: 1, Cr: native.Credit{N: 100, B: 1 << 20},
	}}
}

// confirmations confirms every subscription of the HELLO, as proved where it resumes.
func (p *scriptedConn) confirmations() []native.Frame {
	var fs []native.Frame
	for _, s := range p.hello.Subs {
		fs = append(fs, native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{
			Ch: s.Ch, Epoch: "e", O: s.O, Tag: s.Tag, Rec: s.From == native.FromResume}})
	}
	return fs
}

func dataFrame(s, prev uint64, body string) native.Frame {
	return native.Frame{Type: native.TypeMsg, Msg: native.Msg{Ch: 1, S: s, P: prev, HasP: true,
		ID: wire.ID{byte(s)}, Payload: []byte(body)}}
}

// start makes a client of s with one subscription before the first connection.
func (s *scriptedServer) start(o limpet.Options) (*limpet.Client, *limpet.Subscription) {
	o.HTTPClient = s.host.HTTPClient()
	s.host.Inject(limpettest.Stall(time.Millisecond)) // so that HELLO carries the subscription
	c, err := limpet.New(s.host.URL(), options(&o))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { closeAndWait(s.t, c) })
	sub, err := c.Subscribe(context.Background(), "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 8}})
	if err != nil {
		s.t.Fatal(err)
	}
	return c, sub
}
