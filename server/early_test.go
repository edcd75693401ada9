package server_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// helloHeader is the header of an upgrade request that holds frames.
func helloHeader(t testing.TB, enc native.Encoding, frames ...native.Frame) http.Header {
	t.Helper()
	data, err := native.Append(nil, enc, frames)
	if err != nil {
		t.Fatal(err)
	}
	return http.Header{native.HelloHeader: {base64.RawURLEncoding.EncodeToString(data)}}
}

func frameOf(h native.Hello) native.Frame {
	return native.Frame{Type: native.TypeHello, Hello: &h}
}

// announce connects with h in the upgrade request.
func (r *rig) announce(enc native.Encoding, h native.Hello) *client {
	r.t.Helper()
	return r.connectWith(enc, helloHeader(r.t, enc, frameOf(h)))
}

func (r *rig) connectWith(enc native.Encoding, header http.Header) *client {
	r.t.Helper()
	ws, _, err := r.upgrade(header, native.Subprotocol(enc))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ws.CloseNow() })
	return &client{t: r.t, ws: ws, enc: enc}
}

// A HELLO in the upgrade request is answered without another one. The one that follows is
// skipped, and what comes after it counts.
func TestAnnouncedHello(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		for range 3 {
			r.srv.Publish(context.Background(), "t", []byte(`1`), nil)
		}
		h := native.Hello{CN: 1, Subs: []native.Sub{{Ch: 1, Topic: "t", From: native.FromFirst, Cr: native.Credit{N: 3, B: 99}}}}
		c := r.announce(enc, h)
		if w := c.next(native.TypeWelcome).Welcome; w.CN != 1 || w.Res {
			t.Errorf("%+v", w)
		}
		c.next(native.TypeSubOK)
		for range 3 {
			c.next(native.TypeMsg)
		}
		c.send(frameOf(h), native.Frame{Type: native.TypePing, N: 5})
		if f := c.next(native.TypePong); f.N != 5 {
			t.Errorf("%+v", f)
		}
		c.publish(1, "t", `2`)
		c.acked(1)
		if n := r.srv.Stats().Subscriptions; n != 1 {
			t.Errorf("%d subscriptions", n)
		}
		c.send(frameOf(h)) // once
		c.wantClose(native.CloseProtocolError)
	})
}

// After a HELLO in the upgrade request the first frame is still that HELLO.
func TestAnnouncedHelloFollows(t *testing.T) {
	for name, f := range map[string]native.Frame{
		"another number": frameOf(native.Hello{CN: 2}), "a ping": {Type: native.TypePing}, "a message": msg(1, idOf(1), "t", `1`),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.announce(native.Binary, native.Hello{CN: 1})
			c.next(native.TypeWelcome)
			c.send(f)
			c.wantClose(native.CloseProtocolError)
			if st := r.srv.Stats(); st.Accepted != 0 {
				t.Errorf("%d accepted", st.Accepted)
			}
		})
	}
}

// A header that cannot be read counts for nothing: the frame decides.
func TestHelloThatCannotBeRead(t *testing.T) {
	hello := frameOf(native.Hello{CN: 7})
	good := helloHeader(t, native.Binary, hello)
	for name, header := range map[string]http.Header{
		"not base64":       {native.HelloHeader: {"{}"}},
		"the other coding": helloHeader(t, native.JSON, hello),
		"two frames":       helloHeader(t, native.Binary, hello, hello),
		"twice":            {native.HelloHeader: {good.Get(native.HelloHeader), good.Get(native.HelloHeader)}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newRig(t, nil).connectWith(native.Binary, header)
			if w := c.hello(native.Hello{CN: 3}); w.CN != 3 {
				t.Errorf("%+v", w)
			}
		})
	}
}

// A HELLO in the upgrade request is refused as a frame is.
func TestAnnouncedHelloIsRefused(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: func(_ context.Context, req *http.Request, token string) (server.Principal, error) {
			if req.Header.Get(native.HelloHeader) != "" || token == "bad" {
				return server.Principal{}, &server.Error{Code: native.CloseAuthInvalid}
			}
			return server.Principal{ID: "p"}, nil
		}}})
		first := r.connect(enc)
		w := first.hello(native.Hello{CN: 4})
		again := func(cn uint64, key []byte, token string) native.Hello {
			return native.Hello{CN: cn, SID: w.SID, Key: key, SE: w.SE, Tok: token}
		}
		for name, tc := range map[string]struct {
			h    native.Hello
			code int
			says uint64
		}{
			"no number":          {native.Hello{}, native.CloseProtocolError, native.CodeBadRequest},
			"another credential": {again(5, w.Key, "bad"), native.CloseAuthInvalid, 0},
			"another key":        {again(5, []byte("key"), ""), native.CloseForbidden, 0},
			"the same number":    {again(4, w.Key, ""), native.CloseSuperseded, native.CodeConflict},
		} {
			c := r.announce(enc, tc.h)
			frames := c.wantClose(tc.code)
			if says := len(frames) > 0; says != (tc.says != 0) || says && frames[0].Err.Code != tc.says {
				t.Errorf("%s: %v", name, frames)
			}
		}
		first.publish(1, "t", `1`) // none of them was the owner of the session
		first.acked(1)
	})
}

// The HELLO that follows proves nothing: the client may have written it before WELCOME came, so
// the key that it has counts until it uses the new one.
func TestAnnouncedHelloProvesNoKey(t *testing.T) {
	for _, proved := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.connect(native.Binary)
			w := c.hello(native.Hello{CN: 1})
			c.ws.CloseNow()
			h := native.Hello{CN: 2, SID: w.SID, Key: w.Key, SE: w.SE}
			c = r.announce(native.Binary, h)
			c.send(frameOf(h))
			if proved {
				c.next(native.TypeWelcome)
				c.send(native.Frame{Type: native.TypePing})
			}
			synctest.Wait()
			c.ws.CloseNow()
			synctest.Wait()
			h.CN = 3
			c = r.announce(native.Binary, h)
			if proved {
				c.wantClose(native.CloseForbidden)
			} else if w := c.next(native.TypeWelcome).Welcome; !w.Res {
				t.Errorf("%+v", w)
			}
			r.close()
		})
	}
}

// A client that never sends the frame is connected: whether it is alive is for heartbeats.
func TestAnnouncedHelloAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{HelloTimeout: time.Second, Heartbeat: time.Minute})
		c := r.announce(native.JSON, native.Hello{CN: 1})
		c.next(native.TypeWelcome)
		began := time.Now()
		if code, _ := c.closed(); code != native.CloseHeartbeatTimeout || time.Since(began) != 150*time.Second {
			t.Errorf("closed with %d after %v", code, time.Since(began))
		}
		if st := r.srv.Stats(); st.NoHello != 0 || st.Dead != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// Connections that take a session from each other count, however their HELLO comes.
func TestAnnouncedConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.Binary)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); ; cn++ {
			closed := make(chan int, 1)
			go func(c *client) {
				code, _ := c.closed()
				closed <- code
			}(c)
			h := native.Hello{CN: cn, SID: w.SID, Key: w.Key, SE: w.SE}
			c = r.announce(native.Binary, h)
			f, err := c.read()
			if err != nil {
				if code := int(websocket.CloseStatus(err)); code != native.CloseSessionConflict || cn != 5 {
					t.Errorf("connection %d was closed with %d", cn, code)
				}
				break
			}
			w = f.Welcome
			c.send(frameOf(h))
			if code := <-closed; code != native.CloseSuperseded {
				t.Fatalf("connection %d was closed with %d", cn-1, code)
			}
			time.Sleep(time.Second) // it is counted
		}
		r.close()
	})
}

// countedWrites is what a server wrote to a hijacked connection, one string for each write.
type countedWrites struct {
	net.Conn
	mu     sync.Mutex
	writes []string
}

func (c *countedWrites) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, string(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// hijackCounted is an http.ResponseWriter whose connection counts writes.
type hijackCounted struct {
	http.ResponseWriter
	counted *countedWrites
}

func (h hijackCounted) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.counted.Conn = conn
	return h.counted, rw, err
}

// The 101 leaves with the answer to the HELLO of the upgrade request, unless a hook decides about it:
// the client does not wait for that before it is connected.
func TestAnswerLeavesWithTheUpgrade(t *testing.T) {
	accepts := func(context.Context, *http.Request, string) (server.Principal, error) { return server.Principal{}, nil }
	for name, tc := range map[string]struct {
		o         *server.Options
		cn        uint64
		announced bool
		together  bool
	}{
		"announced":          {nil, 1, true, true},
		"announced, refused": {nil, 0, true, true},
		"not announced":      {nil, 1, false, false},
		"a hook":             {&server.Options{Hooks: server.Hooks{Authenticate: accepts}}, 1, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			counted := &countedWrites{}
			r := newRigBehind(t, tc.o, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(hijackCounted{w, counted}, r) })
			})
			var c *client
			if tc.announced {
				c = r.announce(native.Binary, native.Hello{CN: tc.cn})
			} else {
				c = r.connect(native.Binary)
				c.send(frameOf(native.Hello{CN: tc.cn}))
			}
			if tc.cn == 0 {
				c.wantClose(native.CloseProtocolError)
			} else {
				c.next(native.TypeWelcome)
			}
			counted.mu.Lock()
			defer counted.mu.Unlock()
			if head, rest, _ := strings.Cut(counted.writes[0], "\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 101 ") || (rest != "") != tc.together {
				t.Errorf("the first write is %q", counted.writes[0])
			}
		})
	}
}
