package server_test

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// hijackedWriter changes what Hijack of another one returns.
type hijackedWriter struct {
	http.ResponseWriter
	change func(net.Conn, *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter)
}

func (w hijackedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	if err == nil {
		conn, rw = w.change(conn, rw)
	}
	return conn, rw, err
}

type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) { panic("broken") }

// upgradeBehind sends an upgrade request and returns the answer.
func upgradeBehind(t *testing.T, r *rig, header http.Header) (*http.Response, error) {
	t.Helper()
	conn, err := r.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	req, _ := http.NewRequest("GET", "http://localhost/", nil)
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": native.Subprotocol(native.JSON)} {
		req.Header.Set(k, v)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	return http.ReadResponse(bufio.NewReader(conn), req)
}

// What a middleware makes of Hijack costs no connection that can be served, and leaves none
// open that cannot.
func TestHijackOfAMiddleware(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(net.Conn, *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter)
		status int // 0: the connection ends
	}{
		"a deadline is set": {func(c net.Conn, rw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
			c.SetDeadline(time.Now().Add(time.Second))
			return c, rw
		}, 101},
		"no reader":     {func(c net.Conn, _ *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) { return c, nil }, 101},
		"no connection": {func(c net.Conn, _ *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) { c.Close(); return nil, nil }, 0},
		"a panic": {func(c net.Conn, rw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
			return brokenConn{c}, rw
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				r := newRigBehind(t, &server.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))}, wrapping(func(w http.ResponseWriter) http.ResponseWriter {
					return hijackedWriter{w, tc.change}
				}))
				at := time.Now()
				res, err := upgradeBehind(t, r, nil)
				if took := time.Since(at); (err != nil) != (tc.status == 0) || res != nil && res.StatusCode != tc.status || took > time.Second {
					t.Fatalf("after %v: %v, %v", took, res, err)
				}
				synctest.Wait()
				if tc.status == 0 {
					if st := r.srv.Stats(); st.Refused != 1 || st.Conns != 0 || st.Pending != 0 {
						t.Errorf("stats %+v", st)
					}
					if text := out.String(); name == "no connection" && strings.Count(text, "level=ERROR") != 1 {
						t.Errorf("log: %s", text)
					}
					return
				}
				c := r.connect(native.JSON)
				c.hello(native.Hello{CN: 1})
				time.Sleep(5 * time.Second)
				c.publish(1, "t", "x")
				c.acked(1)
			})
		})
	}
}

// A 101 has nothing of a body, of an extension or of another connection, whatever a
// middleware has set before.
func TestHeadersOfAMiddleware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigBehind(t, nil, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				for k, v := range map[string]string{"Content-Encoding": "gzip", "Sec-Websocket-Extensions": "permessage-deflate", "connection": "close",
					"Keep-Alive": "timeout=5", "Content-Length": "7", "Transfer-Encoding": "chunked", "Sec-WebSocket-Protocol": "x", "Vary": "Accept-Encoding"} {
					w.Header()[k] = []string{v}
				}
				h.ServeHTTP(w, req)
			})
		})
		res, err := upgradeBehind(t, r, http.Header{"Upgrade": {"h2c, WebSocket"}})
		if err != nil || res.StatusCode != 101 {
			t.Fatalf("%v, %v", res, err)
		}
		var got bytes.Buffer
		res.Header.Write(&got)
		want := "Connection: Upgrade\r\nSec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-Websocket-Protocol: " +
			native.Subprotocol(native.JSON) + "\r\nUpgrade: websocket\r\nVary: Accept-Encoding\r\n"
		if got.String() != want {
			t.Errorf("%s", got.String())
		}
	})
}

// timelessLog is a durable log that does not keep when its entries were accepted, or whose
// clock was ahead.
type timelessLog struct {
	server.Log
	at time.Time
}

func (l timelessLog) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	n, first, err := l.Log.Read(from, dst)
	for i, e := range dst[:n] {
		other := *e
		other.Time = l.at
		dst[i] = &other
	}
	return n, first, err
}

// A server on a log without usable times still knows the ids in it, and forgets them in time.
func TestRestartOnALogWithoutTimes(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"no times": 0, "a clock that was ahead": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := server.NewMemoryLog(server.Retention{Count: 3})
				r := newRig(t, &server.Options{Log: log, Heartbeat: time.Hour})
				c := r.connect(native.JSON)
				w := c.hello(native.Hello{CN: 1})
				for s := uint64(1); s <= 4; s++ {
					c.publish(s, "t", "x")
				}
				c.reached(4)
				r.srv.Close()

				late := timelessLog{Log: log}
				if ahead > 0 {
					late.at = time.Now().Add(ahead)
				}
				time.Sleep(time.Minute)
				r = newRig(t, &server.Options{Log: late, Heartbeat: 100 * time.Hour})
				time.Sleep(10 * time.Minute)
				c = r.connect(native.JSON)
				c.hello(resume(w, 2, 1, 6))
				c.send(
					aged(1, idOf(1), 660_000),                                                       // trimmed, and so unknown
					aged(2, idOf(2), 660_000), aged(3, idOf(3), 660_000), aged(4, idOf(4), 660_000), // in the log
					aged(5, idOf(5), 300_000), // first sent to this server
				)
				nak, _ := c.acked(5)
				if len(nak) != 1 || nak[0] != (native.Reject{S: 1, Code: native.CodeUnknownOutcome}) || log.View().Head != 5 {
					t.Fatalf("rejections %v, head %d", nak, log.View().Head)
				}
				time.Sleep(90 * time.Minute)
				r.srv.Publish(context.Background(), "t", nil, nil)
				if n := r.srv.Stats().IDs; n != 1 {
					t.Errorf("%d ids known after the horizon", n)
				}
			})
		})
	}
}
