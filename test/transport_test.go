package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// A panic of any function of the transport is the failure of an attempt.
func TestPanicInTheDial(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	broken := func() { panic("broken") }
	for name, spoil := range map[string]func(*http.Client, *http.Transport, string){
		"Proxy": func(_ *http.Client, tr *http.Transport, _ string) {
			tr.Proxy = func(*http.Request) (*url.URL, error) { broken(); return nil, nil }
		},
		"DialContext": func(_ *http.Client, tr *http.Transport, _ string) {
			tr.DialContext = func(context.Context, string, string) (net.Conn, error) { broken(); return nil, nil }
		},
		"Dial": func(_ *http.Client, tr *http.Transport, _ string) {
			//lint:ignore SA1019 callers still set it
			tr.Dial = func(string, string) (net.Conn, error) { broken(); return nil, nil }
		},
		"DialTLSContext": func(_ *http.Client, tr *http.Transport, _ string) {
			tr.DialTLSContext = func(context.Context, string, string) (net.Conn, error) { broken(); return nil, nil }
		},
		"VerifyConnection": func(_ *http.Client, tr *http.Transport, _ string) {
			tr.TLSClientConfig.VerifyConnection = func(tls.ConnectionState) error { broken(); return nil }
		},
		"GetProxyConnectHeader": func(_ *http.Client, tr *http.Transport, addr string) {
			tr.Proxy = proxyAt("http", addr)
			tr.GetProxyConnectHeader = func(context.Context, *url.URL, string) (http.Header, error) { broken(); return nil, nil }
		},
		"Jar": func(c *http.Client, _ *http.Transport, _ string) { c.Jar = brokenJar{} },
		"RoundTripper": func(c *http.Client, _ *http.Transport, _ string) {
			c.Transport = roundTripper(func(*http.Request) (*http.Response, error) { broken(); return nil, nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, func(_ int, nc net.Conn) {
				answerUpgrade(tls.Server(nc, &tls.Config{Certificates: donor.TLS.Certificates}), upgradeResponse)
			})
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			client := &http.Client{Transport: transport}
			spoil(client, transport, l.addr)
			c, err := limpet.New("wss://"+l.addr, options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			st, err := c.WaitState(realContext(t), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
			assert.NoError(t, err)
			var p *limpet.PanicError
			if !errors.Is(st.Cause, limpet.ErrPanic) || !errors.As(st.Cause, &p) || p.Value != "broken" || limpet.ClassOf(st.Cause) != limpet.ClassUser ||
				!strings.Contains(st.Cause.Error(), "HTTPClient") {
				t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
			}
		})
	}
}

type brokenJar struct{}

func (brokenJar) SetCookies(*url.URL, []*http.Cookie) {}
func (brokenJar) Cookies(*url.URL) []*http.Cookie     { panic("broken") }

// A RoundTripper that ignores its context: the attempt times out, there is only
// one call at a time, and Done closes. What it returns later is closed.
func TestTransportThatIgnoresItsContext(t *testing.T) {
	for _, what := range []string{"round trip", "body of a step"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				release := make(chan struct{})
				late := &lateBody{release: release}
				transport := roundTripper(func(r *http.Request) (*http.Response, error) {
					calls.Add(1)
					status := 101
					if what == "round trip" {
						<-release
					} else {
						status = 200
					}
					return &http.Response{StatusCode: status, Body: late, Request: r}, nil
				})
				var dialect wire.Dialect = rawDialect{}
				if what != "round trip" {
					dialect = stepDialect{url: "https://far.example"}
				}
				c, err := limpet.New("wss://far.example", options(&limpet.Options{Dialect: dialect, HTTPClient: &http.Client{Transport: transport}}))
				assert.NoError(t, err)
				at := time.Now()
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				assert.NoError(t, err)
				if took := time.Since(at); took > 10*time.Second+100*time.Millisecond || limpet.ClassOf(st.Cause) != limpet.ClassUser ||
					!strings.Contains(st.Cause.Error(), "Options.HTTPClient") {
					t.Errorf("after %v, class %q: %v", took, limpet.ClassOf(st.Cause), st.Cause)
				}
				time.Sleep(5 * time.Minute)
				if n := calls.Load(); n != 1 {
					t.Errorf("%d calls at once", n)
				}
				at = time.Now()
				closeAndWait(t, c)
				if took := time.Since(at); took > 100*time.Millisecond {
					t.Errorf("Close took %v", took)
				}
				close(release)
				synctest.Wait()
				if !late.closed.Load() {
					t.Error("what came late was not closed")
				}
			})
		})
	}
}

// lateBody returns from Read once release is closed, whatever else happens.
type lateBody struct {
	release chan struct{}
	closed  atomic.Bool
}

func (b *lateBody) Read([]byte) (int, error) { <-b.release; return 0, io.EOF }
func (b *lateBody) Close() error             { b.closed.Store(true); return nil }

// Where SHA-1 is forbidden the client ends with an error that says so, and the
// process lives. A server answers 500.
func TestFIPSOnly(t *testing.T) {
	if os.Getenv("LIMPET_TEST_FIPS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFIPSOnly$", "-test.v")
		cmd.Env = append(os.Environ(), "LIMPET_TEST_FIPS=1", "GODEBUG=fips140=only")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("PASS: TestFIPSOnly")) {
			t.Errorf("%v\n%.2000s", err, out)
		}
		return
	}
	l := listen(t, func(_ int, nc net.Conn) {
		answerUpgrade(nc, func(string) string {
			return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
		})
	})
	_, err := limpet.Dial(realContext(t), "ws://"+l.addr, options(&limpet.Options{Dialect: rawDialect{}}))
	var p *limpet.PermanentError
	if !errors.As(err, &p) || limpet.ClassOf(err) != limpet.ClassUnsupported || !strings.Contains(err.Error(), "fips140") {
		t.Errorf("class %q: %v", limpet.ClassOf(err), err)
	}
	var log bytes.Buffer
	backend, err := server.New(&server.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	assert.NoError(t, err)
	defer backend.Close()
	web := httptest.NewServer(backend)
	defer web.Close()
	req, err := http.NewRequest("GET", web.URL, nil)
	assert.NoError(t, err)
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": native.Subprotocol(native.JSON)} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	assert.NoError(t, err)
	resp.Body.Close()
	if resp.StatusCode != 500 || strings.Count(log.String(), "fips140=only") != 1 {
		t.Errorf("status %d: %s", resp.StatusCode, log.String())
	}
}

// A body that a transport has wrapped may hide that a write ran into a deadline.
// The connection survives a peer that reads slowly.
func TestWrappedBodySurvivesASlowPeer(t *testing.T) {
	assert.NoLeaks(t)
	l := listen(t, func(_ int, nc net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(nc))
		if err != nil {
			return
		}
		nc.(*net.TCPConn).SetReadBuffer(64 << 10)
		io.WriteString(nc, upgradeResponse(req.Header.Get("Sec-WebSocket-Key")))
		<-time.After(1500 * time.Millisecond) // more than a second passes within a write
		drain(nc)
	})
	var failed atomic.Int32
	transport := &http.Transport{}
	wrapping := roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := transport.RoundTrip(r)
		if err == nil {
			resp.Body = &forgetful{resp.Body.(io.ReadWriteCloser), &failed}
		}
		return resp, err
	})
	c, err := limpet.Dial(realContext(t), "ws://"+l.addr, options(&limpet.Options{Dialect: bulkDialect{}, HTTPClient: &http.Client{Transport: wrapping}}))
	assert.NoError(t, err)
	defer closeAndWait(t, c)
	_, err = c.Send(realContext(t), "a", make([]byte, 12<<20), nil)
	assert.NoError(t, err)
	if c.Stats().Connections != 1 || failed.Load() != 0 {
		t.Errorf("%d connections, %d writes failed: %v", c.Stats().Connections, failed.Load(), c.State().Cause)
	}
}

// forgetful loses the identity of errors.
type forgetful struct {
	io.ReadWriteCloser
	failed *atomic.Int32
}

func (f *forgetful) Write(p []byte) (int, error) {
	n, err := f.ReadWriteCloser.Write(p)
	if err != nil {
		f.failed.Add(1)
		err = errors.New("wrapped: " + err.Error())
	}
	return n, err
}

// bulkDialect sends payloads as they are.
type bulkDialect struct{ rawDialect }

func (bulkDialect) Traits() wire.Traits {
	return wire.Traits{StartSubs: 1, Ping: wire.PingNone, Publish: true}
}

func (bulkDialect) Open(wire.Resume) (wire.Codec, error) { return new(bulkCodec), nil }

type bulkCodec struct{ rawCodec }

func (*bulkCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		if op.Message != nil {
			out.Append(wire.Binary, append(out.Buffer(len(op.Message.Payload)), op.Message.Payload...))
		}
	}
	return nil
}

// A connection of a dial function may be of any type, one that cannot be compared
// too.
func TestConnectionOfAnyType(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		for _, status := range []int{101, 503} {
			synctest.Test(t, func(t *testing.T) {
				refused := false
				host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if refused = !refused; refused && status != 101 {
						w.WriteHeader(status)
						return
					}
					rawServer(drain).ServeHTTP(w, r)
				}), nil)
				transport := host.HTTPClient().Transport.(*http.Transport)
				dial := transport.DialContext
				transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := dial(ctx, network, addr)
					return incomparable{nc, nil}, err
				}
				client := &http.Client{Transport: transport}
				if wrapped {
					client.Transport = roundTripper(transport.RoundTrip)
				}
				c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client}))
				assert.NoError(t, err)
				closeAndWait(t, c)
			})
		}
	}
}

type incomparable struct {
	net.Conn
	_ []byte
}

// wrapBody returns a client whose upgraded connections are what wrap makes of them.
func wrapBody(h *limpettest.Host, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) *http.Client {
	transport := h.HTTPClient().Transport.(*http.Transport)
	return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := transport.RoundTrip(r)
		if err == nil {
			resp.Body = wrap(resp.Body.(io.ReadWriteCloser))
		}
		return resp, err
	})}
}

// A body that a transport has wrapped belongs to the caller: its panics end the
// connection, never the process.
func TestPanicOfTheBody(t *testing.T) {
	for _, method := range []string{"Read", "Write", "Close"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
					<-time.After(time.Second)
					nc.Write(rawFrame(0x81, "a"))
					<-time.After(time.Second)
					nc.Close()
				}), nil)
				var broken *brokenBody
				client := wrapBody(host, func(body io.ReadWriteCloser) io.ReadWriteCloser {
					if broken == nil {
						broken = &brokenBody{ReadWriteCloser: body, method: method}
						return broken
					}
					return body
				})
				c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: bulkDialect{}, HTTPClient: client}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				broken.armed.Store(true)
				if method == "Write" {
					_, err := c.Publish(t.Context(), "a", []byte("b"), nil)
					assert.NoError(t, err)
				}
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				assert.NoError(t, err)
				if method != "Close" && !errors.Is(st.Cause, limpet.ErrPanic) {
					t.Errorf("%v", st.Cause)
				}
				_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
				assert.NoError(t, err)
				if broken.panics.Load() == 0 {
					t.Error("the body did not panic")
				}
			})
		})
	}
}

// brokenBody panics in one method, once it is armed.
type brokenBody struct {
	io.ReadWriteCloser
	method string
	armed  atomic.Bool
	panics atomic.Int32
}

func (b *brokenBody) called(method string) {
	if b.armed.Load() && method == b.method {
		b.panics.Add(1)
		if method != "Write" { // the reader would notice first
			b.ReadWriteCloser.Close()
		}
		panic("broken")
	}
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	b.called("Read")
	return n, err
}

func (b *brokenBody) Write(p []byte) (int, error) {
	b.called("Write")
	return b.ReadWriteCloser.Write(p)
}

func (b *brokenBody) Close() error {
	b.called("Close")
	return b.ReadWriteCloser.Close()
}

// A body that takes its time to close delays no call of the client.
func TestSlowCloseAfterAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, rawServer(drain), nil)
		slow := make(chan *slowBody, 10)
		client := wrapBody(host, func(body io.ReadWriteCloser) io.ReadWriteCloser {
			b := &slowBody{ReadWriteCloser: body, closing: make(chan struct{}, 10)}
			slow <- b
			return b
		})
		c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: bulkDialect{}, HTTPClient: client}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		first := <-slow
		_, err = c.Publish(t.Context(), "a", []byte("b"), nil)
		assert.NoError(t, err)
		<-first.closing
		at := time.Now()
		_, err = c.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		if took := time.Since(at); took > 0 {
			t.Errorf("a call waited %v for the body to close", took)
		}
	})
}

// slowBody refuses every write, and Close takes five seconds.
type slowBody struct {
	io.ReadWriteCloser
	closing chan struct{}
}

func (*slowBody) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func (b *slowBody) Close() error {
	b.closing <- struct{}{}
	<-time.After(5 * time.Second)
	return b.ReadWriteCloser.Close()
}

// A peer that has closed and keeps the socket open delays the end of the client no longer
// than one that the client closes: 100 ms.
func TestEndDuringAClose(t *testing.T) {
	for _, frames := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				nc.Write(rawFrame(0x88, "\x03\xe9"))
				drain(nc)
			}), nil)
			c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, PlainFrames: frames, Backoff: limpet.Backoff{First: time.Hour}}))
			assert.NoError(t, err)
			_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
			assert.NoError(t, err)
			time.Sleep(50 * time.Millisecond)
			at := time.Now()
			closeAndWait(t, c)
			if took := time.Since(at); took > 100*time.Millisecond {
				t.Errorf("plain frames %v: ended after %v", frames, took)
			}
		})
	}
}

// The answer to the peer's close frame has a second to arrive before the socket is
// closed, on limpet's own frames. The library closes the socket itself.
func TestAnswerToACloseFrameHasASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 10)
		host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
			nc.Write(rawFrame(0x88, "\x03\xe9"))
			at := time.Now()
			drain(nc)
			took <- time.Since(at)
		}), nil)
		c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}}))
		assert.NoError(t, err)
		if got := <-took; !*plainFlag && got != time.Second {
			t.Errorf("the client closed the socket after %v", got)
		}
		closeAndWait(t, c)
	})
}
