package server_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

func TestHelloTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: func(ctx context.Context, _ *http.Request, token string) (server.Principal, error) {
			if token == "deaf" {
				time.Sleep(time.Hour)
			}
			<-ctx.Done()
			return server.Principal{}, ctx.Err()
		}}})
		start := time.Now()
		c := r.connect(native.JSON)
		c.wantClose(native.CloseHelloTimeout)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("after %v", d)
		}
		for token, code := range map[string]int{"slow": native.CloseBackendUnavailable, "deaf": native.CloseInternal} {
			start := time.Now()
			c := r.connect(native.JSON)
			c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1, Tok: token}})
			c.wantClose(code)
			if d := time.Since(start); d > 15*time.Second {
				t.Errorf("%s: after %v", token, d)
			}
		}
		time.Sleep(2 * time.Hour)
		if st := r.srv.Stats(); st.Conns != 0 || st.Pending != 0 || st.NoHello != 1 {
			t.Errorf("%d connections, %d pending, %d without a HELLO", st.Conns, st.Pending, st.NoHello)
		}
	})
}

// A first frame other than HELLO, and every way to write a bad batch.
func TestBadBatches(t *testing.T) {
	hello := `{"t":"hello","cn":1}`
	good := `{"t":"msg","s":1,"id":"01980f0e-0000-7000-8000-000000000001","tp":"t","d":1}`
	cases := []struct {
		name   string
		before string
		data   string
		binary bool // as a binary message
		code   int
	}{
		{name: "no hello", data: good, code: native.CloseProtocolError},
		{name: "ping before hello", data: `{"t":"ping","n":1}`, code: native.CloseProtocolError},
		{name: "not JSON", data: `hello`, code: native.CloseBadFrame},
		{name: "nothing", data: ``, code: native.CloseBadFrame},
		{name: "binary to a JSON session", data: hello, binary: true, code: native.CloseBadFrame},
		{name: "cut", before: hello, data: "[" + good + `,{"t":"ping"`, code: native.CloseBadFrame},
		{name: "good ones first", before: hello, data: "[" + good + `,{"t":"msg","s":2}]`, code: native.CloseBadFrame},
		{name: "unknown type", before: hello, data: "[" + good + `,{"t":"hullo"}]`, code: native.CloseProtocolError},
		{name: "a frame of the server's", before: hello, data: "[" + good + `,{"t":"subok","ch":1,"ep":"x","o":0}]`, code: native.CloseProtocolError},
		{name: "not UTF-8", before: hello, data: "[" + good + ",{\"t\":\"sub\",\"ch\":1,\"tp\":\"\xff\",\"cr\":{}}]", code: native.CloseBadFrame},
		{name: "payload beyond its limit", before: hello, data: `{"t":"msg","s":1,"id":"01980f0e-0000-7000-8000-000000000001","tp":"t","d":"` + strings.Repeat("x", 1<<10) + `"}`, code: native.CloseFrameTooBig},
		{name: "message beyond the read limit", before: hello, data: `{"t":"msg","s":1,"id":"01980f0e-0000-7000-8000-000000000001","tp":"t","d":"` + strings.Repeat("x", 300<<10) + `"}`, code: int(websocket.StatusMessageTooBig)},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &server.Options{MaxPayload: 1 << 10})
				c := r.connect(native.JSON)
				if tc.before != "" {
					c.raw([]byte(tc.before))
					c.next(native.TypeWelcome)
				}
				typ := websocket.MessageText
				if tc.binary {
					typ = websocket.MessageBinary
				}
				go c.ws.Write(context.Background(), typ, []byte(tc.data))
				frames := c.wantClose(tc.code)
				if tc.code != int(websocket.StatusMessageTooBig) && (len(frames) != 1 || frames[0].Type != native.TypeErr) {
					t.Errorf("before the close: %+v", frames)
				}
				synctest.Wait()
				if st := r.srv.Stats(); st.Head != 0 || st.Conns != 0 {
					t.Errorf("head %d, %d connections", st.Head, st.Conns)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // ignored by name
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		c.raw([]byte(`[{"t":"hello","cn":1,"new":{"a":[1]}},{"t":"x-mine","a":1},{"t":"ping","n":3}]`))
		c.next(native.TypeWelcome)
		c.next(native.TypePong)
	})
}

// The server sends something every heartbeat and removes a client that is silent
// for 2.5 heartbeats.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		start := time.Now()
		for i := range 3 { // silent for just under 2.5 heartbeats
			time.Sleep(49 * time.Second)
			c.send(native.Frame{Type: native.TypePong, N: uint64(i)})
		}
		pings := 0
		for {
			_, data, err := c.ws.Read(context.Background())
			if err != nil {
				if code := websocket.CloseStatus(err); code != native.CloseHeartbeatTimeout {
					t.Fatal(err)
				}
				break
			}
			if !bytes.Contains(data, []byte(`"ping"`)) {
				t.Fatalf("got %s", data)
			}
			pings++
		}
		if d := time.Since(start); d != 3*49*time.Second+50*time.Second {
			t.Errorf("removed after %v", d)
		}
		if pings != 9 {
			t.Errorf("%d pings in 197 s", pings)
		}
		if st := r.srv.Stats(); st.Dead != 1 {
			t.Errorf("%d dead", st.Dead)
		}
	})
}

// A client can ask for a shorter interval in HELLO, within bounds. What the server
// expects from the client stays.
func TestHeartbeatOfTheClient(t *testing.T) {
	for _, tc := range []struct {
		wanted uint64 // ms
		pings  int    // within the 50 s after which a silent client is removed
	}{{0, 2}, {20_000, 2}, {30_000, 2}, {math.MaxUint64, 2}, {10_000, 5}, {1000, 50}, {100, 500}, {1, 500}} {
		both(t, func(t *testing.T, enc native.Encoding) {
			r := newRig(t, nil)
			c := r.connect(enc)
			c.hello(native.Hello{CN: 1, HB: tc.wanted})
			start, pings := time.Now(), 0
			for {
				if _, _, err := c.ws.Read(context.Background()); err != nil {
					break
				}
				pings++
			}
			if d := time.Since(start); pings != tc.pings || d != 50*time.Second {
				t.Errorf("hb %d: %d pings, want %d; removed after %v", tc.wanted, pings, tc.pings, d)
			}
		})
	}
}

// A peer that vanishes and does not even answer the close frame.
func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		start := time.Now()
		for r.srv.Stats().Conns > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		if d := time.Since(start); d < 50*time.Second || d > 52*time.Second {
			t.Errorf("removed after %v", d)
		}
		if st := r.srv.Stats(); st.Sessions != 1 {
			t.Errorf("%d sessions: it may come back", st.Sessions)
		}
	})
}

// A slow hook is not the peer's silence.
func TestSlowHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			time.Sleep(5 * time.Minute)
			return nil
		}}})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		c.acked(1)
	})
}

// A peer that does not read is removed; meanwhile the others are served.
func TestStalledPeer(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		stalled, fine := r.connect(enc), r.connect(enc)
		for _, c := range []*client{stalled, fine} {
			c.hello(native.Hello{CN: 1})
			c.send(sub(1, "t", native.FromNew, 1<<20))
			c.next(native.TypeSubOK)
		}
		start := time.Now()
		for range 100 {
			r.srv.Publish(context.Background(), "t", make([]byte, 10<<10), nil)
		}
		for range 100 {
			fine.next(native.TypeMsg)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("others waited %v", d)
		}
		for r.srv.Stats().Conns > 1 {
			time.Sleep(100 * time.Millisecond)
		}
		if d := time.Since(start); d < 15*time.Second || d > 17*time.Second {
			t.Errorf("removed after %v", d)
		}
		if st := r.srv.Stats(); st.Slow != 1 || st.Subscriptions != 1 {
			t.Errorf("%d slow, %d subscriptions", st.Slow, st.Subscriptions)
		}
	})
}

// From a peer that sends requests and does not read the answers nothing more is
// read, so its queue is bounded. It is removed like any other stalled peer.
func TestAsksAndDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.Binary)
		c.hello(native.Hello{CN: 1})
		batch := make([]native.Frame, 2000)
		for i := range batch {
			batch[i] = native.Frame{Type: native.TypePing, N: 1 << 60}
		}
		data, _ := native.Append(nil, native.Binary, batch)
		start, n := time.Now(), 0
		for ; n < 10_000; n++ {
			if c.ws.Write(context.Background(), websocket.MessageBinary, data) != nil {
				break
			}
		}
		if d := time.Since(start); n == 10_000 || d > 20*time.Second {
			t.Errorf("took %d batches in %v", n, d)
		}
		synctest.Wait()
		if st := r.srv.Stats(); st.Conns != 0 {
			t.Errorf("%d connections", st.Conns)
		}
	})
}

func TestShutdown(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c, deaf, silent := r.connect(enc), r.connect(enc), r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		deaf.hello(native.Hello{CN: 1})
		_ = silent // sends no HELLO, never reads
		c.publish(1, "t", "x")
		synctest.Wait()
		start := time.Now()
		done := make(chan error)
		go func() { done <- r.srv.Shutdown(context.Background()) }()
		c.acked(1)
		if g := c.next(native.TypeGoAway).GoAway; g.Code != native.CloseGoingAway || !g.Res {
			t.Errorf("goaway %+v", g)
		}
		c.wantClose(native.CloseGoingAway)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 1100*time.Millisecond {
			t.Errorf("took %v with peers that do not answer", d)
		}
		if res := r.status(upgradeTo("localhost", token)); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
			t.Errorf("%d after Shutdown", res.StatusCode)
		}
		if _, err := r.srv.Publish(context.Background(), "t", nil, nil); !errors.Is(err, server.ErrClosed) {
			t.Errorf("publish: %v", err)
		}
		_ = w
	})
}

// Shutdown ends with its context and Close within 100 ms, whatever a peer or a
// hook does.
func TestShutdownBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			<-release
			return nil
		}}})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		stalled := r.connect(native.JSON)
		stalled.hello(native.Hello{CN: 1, Subs: []native.Sub{{Ch: 1, Topic: "t", Cr: native.Credit{N: 1 << 20, B: 1 << 40}, From: native.FromFirst}}})
		for range 50 {
			r.srv.Publish(context.Background(), "t", make([]byte, 100<<10), nil)
		}
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if err := r.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		if d := time.Since(start); d > 400*time.Millisecond {
			t.Errorf("shutdown took %v", d)
		}
		start = time.Now()
		r.srv.Close()
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("close took %v", d)
		}
		close(release)
	})
}

// Nothing is left when the last connection has gone, however it went.
func TestNoGoroutineLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := stacks()
		r := newRig(t, nil)
		for i := range 12 {
			c := r.connect(native.JSON)
			switch i % 6 {
			case 0:
				c.hello(native.Hello{CN: 1})
				c.ws.CloseNow()
			case 1:
				c.hello(native.Hello{CN: 1})
				c.ws.Close(1000, "")
			case 2:
				c.raw([]byte("nonsense"))
				c.closed()
			case 3: // silent
			case 4:
				w := c.hello(native.Hello{CN: 1})
				d := r.connect(native.JSON)
				d.hello(resume(w, 2, 1, 0))
				d.ws.CloseNow()
			case 5:
				c.hello(native.Hello{CN: 1})
				c.send(sub(1, "t", native.FromNew, 9))
			}
		}
		r.srv.Close()
		r.http.Close()
		synctest.Wait()
		if after := stacks(); after != before {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines of the server before, %d after\n%s", before, after, buf[:runtime.Stack(buf, true)])
		}
	})
}

// stacks counts goroutines that run code of the server or its library's.
func stacks() int {
	buf := make([]byte, 4<<20)
	n := 0
	for _, s := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(s, "limpet/server.(") {
			n++
		}
	}
	return n
}

// The token expires: the client is asked to reconnect with a new one.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: func(context.Context, *http.Request, string) (server.Principal, error) {
			return server.Principal{Expires: time.Now().Add(7 * time.Second)}, nil
		}}})
		c := r.connect(native.JSON)
		start := time.Now()
		if w := c.hello(native.Hello{CN: 1}); w.Exp != 7000 {
			t.Errorf("exp %d", w.Exp)
		}
		c.wantClose(native.CloseAuthExpired)
		if d := time.Since(start); d != 7*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// No token, key or payload reaches the log, and no line of it is forged.
func TestLogIsClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := newRig(t, &server.Options{
			Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Hooks: server.Hooks{Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				return server.Principal{ID: token}, nil
			}},
		})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1, Tok: "canary-token"})
		c.publish(1, "t", `"canary-payload"`)
		for range 50 {
			c.send(native.Frame{Type: native.TypeErr, Err: &native.Err{Code: 1, Msg: "forged\nlevel=ERROR \x1b[31m\u202e" + strings.Repeat("x", 200)}})
		}
		c.acked(1)
		c.raw([]byte(`{"t":"msg","d":"canary-payload"}`))
		c.closed()
		h := resume(w, 2, 5, 9)
		h.Tok = "canary-token-2"
		d := r.connect(native.JSON)
		d.send(native.Frame{Type: native.TypeHello, Hello: &h})
		d.closed()
		r.srv.Close()
		synctest.Wait()
		text := out.String()
		if n := strings.Count(text, "client reports an error"); n != 1 {
			t.Fatalf("the client's error was logged %d times: %s", n, text)
		}
		for _, bad := range []string{"canary", string(w.Key), "\x1b", "\u202e", "\nlevel=ERROR"} {
			if strings.Contains(text, bad) {
				t.Errorf("the log contains %q:\n%s", bad, text)
			}
		}
	})
}
