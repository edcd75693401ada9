package server_test

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

const token = "limpet.v1.json"

func TestHostAndOrigin(t *testing.T) {
	opt := &server.Options{
		Hosts:   []string{"feed.example.com", "exact.example.com:8443"},
		Origins: []string{"https://app.example.com", "https://dev.example.com:3000"},
	}
	cases := []struct {
		host    string
		origins []string
		status  int
	}{
		{"localhost:8080", nil, 101},
		{"LOCALHOST", nil, 101},
		{"127.0.0.1:1", nil, 101},
		{"[::1]:8080", nil, 101},
		{"[::1]", nil, 101},
		{"feed.example.com", nil, 101},
		{"feed.example.com:9000", nil, 101},
		{"exact.example.com:8443", nil, 101},
		{"exact.example.com", nil, 403},
		{"exact.example.com:80", nil, 403},
		{"evil.example", nil, 403},
		{"localhost.evil.example", nil, 403},
		{"127.0.0.1.evil.example:80", nil, 403},
		{"localhost.:80", nil, 101}, // the same hosts in other spellings
		{"127.9.9.9", nil, 101},
		{"[::ffff:127.0.0.1]:80", nil, 101},
		{"FEED.example.com.:9000", nil, 101},
		{"feed.example.com.evil.", nil, 403},
		{"128.0.0.1", nil, 403},
		{"feed.example.com", []string{"https://app.example.com."}, 101},

		{"evil.example", []string{"http://evil.example"}, 403}, // DNS rebinding
		{"localhost:8080", []string{"http://localhost:8080"}, 101},
		{"localhost:8080", []string{"http://localhost:9090"}, 403},
		{"localhost:8080", []string{"http://127.0.0.1:8080"}, 403},
		{"localhost", []string{"http://localhost"}, 101},
		{"localhost:80", []string{"http://localhost"}, 101},
		{"feed.example.com", []string{"https://feed.example.com"}, 101},
		{"feed.example.com:443", []string{"https://feed.example.com"}, 101},
		{"feed.example.com:443", []string{"http://feed.example.com"}, 403},
		{"feed.example.com", []string{"https://app.example.com"}, 101},
		{"feed.example.com", []string{"https://APP.example.com:443"}, 101},
		{"feed.example.com", []string{"http://app.example.com"}, 403},
		{"feed.example.com", []string{"https://app.example.com:444"}, 403},
		{"feed.example.com", []string{"https://dev.example.com:3000"}, 101},
		{"feed.example.com", []string{"https://dev.example.com"}, 403},
		{"feed.example.com", []string{"https://evil.example"}, 403},
		{"feed.example.com", []string{"https://feed.example.com.evil.example"}, 403},
		{"feed.example.com", []string{"https://feed.example.com@evil.example"}, 403},
		{"feed.example.com", []string{"https://user@feed.example.com"}, 403},
		{"localhost", []string{"null"}, 403},
		{"localhost", []string{""}, 403},
		{"localhost", []string{"file://"}, 403},
		{"localhost", []string{"http://localhost", "http://evil.example"}, 403},
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, opt)
		refused := uint64(0)
		opt.Hosts[0], opt.Origins[0] = "evil.example", "https://evil.example" // the server has its own copy
		for _, tc := range cases {
			if got := r.status(upgradeTo(tc.host, token, tc.origins...)); got.StatusCode != tc.status {
				t.Errorf("Host %q, Origin %q: %d, want %d", tc.host, tc.origins, got.StatusCode, tc.status)
			}
			if tc.status == http.StatusForbidden {
				refused++
			}
		}
		if st := r.srv.Stats(); st.RefusedOrigin != refused || st.Refused != refused || st.RefusedBusy != 0 {
			t.Errorf("%d refused: %+v", refused, st)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Hosts: []string{"*"}})
		if got := r.status(upgradeTo("any.example", token)); got.StatusCode != 101 {
			t.Errorf("%d with every host allowed", got.StatusCode)
		}
	})
}

func upgradeTo(host, protocols string, origins ...string) *http.Request {
	req, _ := http.NewRequest("GET", "http://localhost/", nil)
	req.Host = host
	req.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Origin": origins,
	}
	if protocols != "" {
		req.Header.Set("Sec-WebSocket-Protocol", protocols)
	}
	return req
}

// status makes one request on a connection of its own and closes it.
func (r *rig) status(req *http.Request) *http.Response {
	r.t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx) }}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	return res
}

func TestSubprotocol(t *testing.T) {
	cases := []struct {
		offered string
		status  int
		chosen  string
	}{
		{"limpet.v1.json", 101, "limpet.v1.json"},
		{"limpet.v1.bin, limpet.v1.json", 101, "limpet.v1.bin"},
		{"limpet.v1.json,limpet.v1.bin", 101, "limpet.v1.json"},
		{"limpet.v2.bin, limpet.v1.json", 101, "limpet.v1.json"},
		{"", 400, ""},
		{"graphql-ws", 400, ""},
		{"LIMPET.v1.json", 400, ""},
		{"limpet.v1.jsonx", 400, ""},
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, tc := range cases {
			res := r.status(upgradeTo("localhost", tc.offered))
			if got := res.Header.Get("Sec-WebSocket-Protocol"); res.StatusCode != tc.status || got != tc.chosen {
				t.Errorf("offered %q: %d with %q, want %d with %q", tc.offered, res.StatusCode, got, tc.status, tc.chosen)
			}
		}
		plain, _ := http.NewRequest("GET", "http://localhost/", nil)
		if res := r.status(plain); res.StatusCode != 426 || res.Header.Get("Upgrade") != "websocket" {
			t.Errorf("no upgrade: %d", res.StatusCode)
		}
		if n := r.srv.Stats().Refused; n != 5 {
			t.Errorf("%d refused, want 5", n)
		}
	})
}

// Over the limit each refused client gets a slot of its own.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{MaxConns: 2, ReconnectRate: 2})
		a := r.connect(native.JSON)
		a.hello(native.Hello{CN: 1})
		r.connect(native.JSON).hello(native.Hello{CN: 1})
		last := 0
		for range 4 {
			res := r.status(upgradeTo("localhost", token))
			ms, err := strconv.Atoi(res.Header.Get("X-Limpet-Retry-Ms"))
			s, err2 := strconv.Atoi(res.Header.Get("Retry-After"))
			if res.StatusCode != 503 || err != nil || err2 != nil || ms < 500 || s*1000 < ms || (s-1)*1000 >= ms {
				t.Fatalf("%d, Retry-After %d, %d ms", res.StatusCode, s, ms)
			}
			if step := ms - last; last != 0 && step != 666 && step != 667 {
				t.Errorf("slot at %d ms after one at %d: a quarter of the rate is for those without", ms, last)
			}
			last = ms
		}
		if st := r.srv.Stats(); st.RefusedBusy != 4 || st.Refused != 4 {
			t.Errorf("4 refused: %+v", st)
		}
		a.ws.CloseNow()
		synctest.Wait()
		if res := r.status(upgradeTo("localhost", token)); res.StatusCode != 101 {
			t.Errorf("%d once there is room", res.StatusCode)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{MaxConns: 1, ReconnectRate: 1})
		r.connect(native.JSON).hello(native.Hello{CN: 1})
		last := 0
		for range 300 { // more than there are slots in the longest window
			last, _ = strconv.Atoi(r.status(upgradeTo("localhost", token)).Header.Get("X-Limpet-Retry-Ms"))
			if last > 300_000 {
				t.Fatalf("a slot in %d ms, want five minutes at most", last)
			}
		}
		if last < 299_000 {
			t.Errorf("the last slot is in %d ms: this proves nothing", last)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{MaxPending: 1})
		c := r.connect(native.JSON)
		if res := r.status(upgradeTo("localhost", token)); res.StatusCode != 503 {
			t.Errorf("%d with one connection waiting for HELLO", res.StatusCode)
		}
		c.hello(native.Hello{CN: 1})
		if res := r.status(upgradeTo("localhost", token)); res.StatusCode != 101 {
			t.Errorf("%d after its HELLO", res.StatusCode)
		}
	})
}

// The window grows with the clients that would come back together: one that is
// alone has none, and may return at once.
func TestSpreadIsOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{ReconnectRate: 2})
		for n := range uint64(4) {
			if w := r.connect(native.JSON).hello(native.Hello{CN: 1}); w.Spread != n*500 {
				t.Errorf("beside %d others: a window of %d ms, want %d", n, w.Spread, n*500)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	bad := []*server.Options{
		{Heartbeat: -1}, {Dedup: time.Microsecond}, {Window: 63}, {Window: 100}, {Window: 8192}, {MaxConns: -1},
		{Dedup: math.MaxInt64}, {Heartbeat: math.MaxInt64}, {MaxPayload: math.MaxInt},
		{MaxPayload: -1}, {Origins: []string{"example.com"}}, {Origins: []string{"https://example.com/path"}},
	}
	for _, o := range bad {
		if _, err := server.New(o); err == nil || !strings.Contains(err.Error(), "Options.") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := server.New(nil); err != nil {
		t.Error(err)
	}
}

// One test over real sockets, TLS included.
func TestRealSockets(t *testing.T) {
	for _, secure := range []bool{false, true} {
		srv, err := server.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		web := httptest.NewUnstartedServer(srv)
		if secure {
			web.StartTLS()
		} else {
			web.Start()
		}
		r := &rig{t: t, srv: srv}
		ws, _, err := dialURL(web.URL, web.Client())
		if err != nil {
			t.Fatal(err)
		}
		guard := time.AfterFunc(10*time.Second, func() { ws.CloseNow() }) // instead of hanging
		c := &client{t: r.t, ws: ws, enc: native.JSON}
		c.hello(native.Hello{CN: 1, Subs: []native.Sub{{Ch: 1, Topic: "t", From: native.FromNew, Cr: native.Credit{N: 1, B: 1}}}})
		c.next(native.TypeSubOK)
		c.publish(1, "t", `"hello"`)
		c.echo()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		done := make(chan error)
		go func() { done <- srv.Shutdown(ctx) }()
		c.next(native.TypeGoAway)
		c.wantClose(native.CloseGoingAway)
		if err := <-done; err != nil {
			t.Error(err)
		}
		cancel()
		guard.Stop()
		web.Close()
	}
}

// bufferedWriter is what some middlewares put before the http.ResponseWriter: the
// status is held back until something is written, and Hijack is passed on.
type bufferedWriter struct {
	http.ResponseWriter
	status int
}

func (w *bufferedWriter) WriteHeader(status int) { w.status = status }

func (w *bufferedWriter) Write(p []byte) (int, error) {
	if w.status != 0 {
		w.ResponseWriter.WriteHeader(w.status)
		w.status = 0
	}
	return w.ResponseWriter.Write(p)
}

func (w *bufferedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// hiddenWriter cannot be hijacked, like that of http.TimeoutHandler.
type hiddenWriter struct{ http.ResponseWriter }

// plainWriter hides that of another, as its Unwrap says.
type plainWriter struct{ w http.ResponseWriter }

func (w plainWriter) Header() http.Header         { return w.w.Header() }
func (w plainWriter) WriteHeader(status int)      { w.w.WriteHeader(status) }
func (w plainWriter) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w plainWriter) Unwrap() http.ResponseWriter { return w.w }

func TestBehindMiddleware(t *testing.T) {
	for name, tc := range map[string]struct {
		wrap   func(http.Handler) http.Handler
		status int
	}{
		"status held back":   {wrapping(func(w http.ResponseWriter) http.ResponseWriter { return &bufferedWriter{ResponseWriter: w} }), 101},
		"Unwrap":             {wrapping(func(w http.ResponseWriter) http.ResponseWriter { return plainWriter{w} }), 101},
		"cannot be hijacked": {wrapping(func(w http.ResponseWriter) http.ResponseWriter { return hiddenWriter{w} }), 500},
		"TimeoutHandler":     {func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "late") }, 500},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				var out bytes.Buffer
				r := newRigBehind(t, &server.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))}, tc.wrap)
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				conn, err := r.dial(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				req, _ := http.NewRequest("GET", "http://localhost/", nil)
				for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
					"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": native.Subprotocol(enc)} {
					req.Header.Set(k, v)
				}
				if err := req.Write(conn); err != nil {
					t.Fatal(err)
				}
				res, err := http.ReadResponse(bufio.NewReader(conn), req)
				if err != nil {
					t.Fatalf("no response: %v", err)
				}
				if res.StatusCode != tc.status {
					t.Fatalf("status %d, want %d", res.StatusCode, tc.status)
				}
				conn.Close()
				if tc.status != 101 {
					if text := out.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "Hijack") {
						t.Errorf("log: %s", text)
					}
					if st := r.srv.Stats(); st.Refused != 1 || st.Conns != 0 || st.Pending != 0 {
						t.Errorf("stats %+v", st)
					}
					return
				}
				h := res.Header
				if h.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || h.Get("Sec-WebSocket-Protocol") != native.Subprotocol(enc) ||
					h.Get("X-Middleware") != "was here" || h.Get("X-Bad") == "" || strings.Contains(h.Get("X-Bad"), "\n") || h.Get("X-Injected") != "" {
					t.Errorf("headers %v", h)
				}
				c := r.connect(enc)
				c.hello(native.Hello{CN: 1})
				c.publish(1, "t", "x")
				c.acked(1)
			})
		})
	}
}

func wrapping(wrap func(http.ResponseWriter) http.ResponseWriter) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "was here")
			w.Header().Set("X-Bad", "a\r\nX-Injected: yes")
			h.ServeHTTP(wrap(w), r)
		})
	}
}

// A middleware that panics in Hijack takes no place for ever.
func TestHijackPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigBehind(t, &server.Options{MaxPending: 1}, wrapping(func(w http.ResponseWriter) http.ResponseWriter {
			return &bufferedWriter{ResponseWriter: hiddenWriter{w}} // its Hijack panics
		}))
		for range 3 {
			if _, res, err := r.upgrade(nil, token); err == nil || res != nil && res.StatusCode == 503 {
				t.Fatalf("error %v, response %v", err, res)
			}
		}
		synctest.Wait()
		if st := r.srv.Stats(); st.Refused != 3 || st.Pending != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}
