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

// script is a server for one test: it speaks limpet.v1 in JSON as the test
// tells it, right or wrong.
type script struct {
	t    *testing.T
	host *limpettest.Host
	talk func(p *scripted)

	mu     sync.Mutex
	closes []websocket.StatusCode // that the client closed with
	conns  int
}

// scripted is one connection of a script.
type scripted struct {
	ctx    context.Context
	ws     *websocket.Conn
	number int
	hello  *native.Hello
}

func newScript(t *testing.T, talk func(p *scripted)) *script {
	s := &script{t: t, talk: talk}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	return s
}

func (s *script) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{native.Subprotocol(native.JSON)}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	s.mu.Lock()
	s.conns++
	p := &scripted{ctx: ctx, ws: ws, number: s.conns}
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

func (s *script) seen() (closes []websocket.StatusCode, conns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]websocket.StatusCode(nil), s.closes...), s.conns
}

func (p *scripted) read() []native.Frame {
	_, data, err := p.ws.Read(p.ctx)
	if err != nil {
		return nil
	}
	frames, _ := native.Decode(nil, native.JSON, native.FromClient, data, native.DefaultLimits)
	return frames
}

func (p *scripted) text(s string) { p.ws.Write(p.ctx, websocket.MessageText, []byte(s)) }

func (p *scripted) say(frames ...native.Frame) {
	data, err := native.Append(nil, native.JSON, frames)
	if err != nil {
		panic(err)
	}
	p.text(string(data))
}

func (p *scripted) welcome() native.Frame {
	return native.Frame{Type: native.TypeWelcome, Welcome: &native.Welcome{
		CN: p.hello.CN, SID: "s", Key: []byte("k"), SE: 1, Cr: native.Credit{N: 100, B: 1 << 20},
	}}
}

// subok confirms every subscription of the HELLO, as proved where it resumes.
func (p *scripted) subok() []native.Frame {
	var fs []native.Frame
	for _, s := range p.hello.Subs {
		fs = append(fs, native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{
			Ch: s.Ch, Epoch: "e", O: s.O, Tag: s.Tag, Rec: s.From == native.FromResume}})
	}
	return fs
}

func message(s, prev uint64, body string) native.Frame {
	return native.Frame{Type: native.TypeMsg, Msg: native.Msg{Ch: 1, S: s, P: prev, HasP: true,
		ID: wire.ID{byte(s)}, Payload: []byte(body)}}
}

// start makes a client of s with one subscription before the first connection.
func (s *script) start(o limpet.Options) (*limpet.Client, *limpet.Subscription) {
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
