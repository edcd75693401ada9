package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
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

// inAHurry is a policy that tries again as early as it may.
var inAHurry = limpet.Backoff{First: -1, Initial: time.Millisecond, Max: time.Millisecond}

// listener serves connections of a real port of 127.0.0.1 until the test ends.
type listener struct {
	addr string
	open atomic.Int32 // connections
	seen atomic.Int32
}

func listen(t *testing.T, serve func(n int, nc net.Conn)) *listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(t, err)
	s := &listener{addr: l.Addr().String()}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, nc)
			mu.Unlock()
			s.open.Add(1)
			n := int(s.seen.Add(1))
			all.Go(func() {
				defer s.open.Add(-1)
				defer nc.Close()
				serve(n, nc)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, nc := range conns {
			nc.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return s
}

// silent never answers.
func silent(_ int, nc net.Conn) { drain(nc) }

// answerUpgrade answers a request with what response makes of its key, then reads.
func answerUpgrade(nc net.Conn, response func(key string) string) {
	req, err := http.ReadRequest(bufio.NewReader(nc))
	if err != nil {
		return
	}
	io.WriteString(nc, response(req.Header.Get("Sec-WebSocket-Key")))
	drain(nc)
}

// eventually waits for what happens on real sockets.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.After(10 * time.Second); !ok(); {
		select {
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func proxyAt(scheme, addr string) func(*http.Request) (*url.URL, error) {
	return http.ProxyURL(&url.URL{Scheme: scheme, Host: addr})
}

// realContext ends a test on real sockets that would hang.
func realContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// stepDialect makes an HTTP request to url before each dial.
type stepDialect struct {
	rawDialect
	url string
}

func (d stepDialect) Attempt(a *wire.Attempt) error {
	if a.Response == nil {
		a.Request = &wire.Request{Method: "GET", URL: d.url}
		return nil
	}
	a.Dial = true
	return nil
}

// Whatever stalls during an attempt, its sockets end with it, under a transport
// without any timeout too. The peers never close.
func TestStalledDialLeavesNothing(t *testing.T) {
	for name, setUp := range map[string]func(addr string) (string, wire.Dialect, *http.Transport){
		"HTTP": func(a string) (string, wire.Dialect, *http.Transport) {
			return "ws://" + a, rawDialect{}, &http.Transport{}
		},
		"CONNECT": func(a string) (string, wire.Dialect, *http.Transport) {
			return "ws://far.example", rawDialect{}, &http.Transport{Proxy: proxyAt("http", a)}
		},
		"CONNECT for wss": func(a string) (string, wire.Dialect, *http.Transport) {
			return "wss://far.example", rawDialect{}, &http.Transport{Proxy: proxyAt("http", a)}
		},
		"TLS to a proxy": func(a string) (string, wire.Dialect, *http.Transport) {
			return "ws://far.example", rawDialect{}, &http.Transport{Proxy: proxyAt("https", a)}
		},
		"SOCKS": func(a string) (string, wire.Dialect, *http.Transport) {
			return "ws://far.example", rawDialect{}, &http.Transport{Proxy: proxyAt("socks5", a)}
		},
		"SOCKS for wss": func(a string) (string, wire.Dialect, *http.Transport) {
			return "wss://far.example", rawDialect{}, &http.Transport{Proxy: proxyAt("socks5", a)}
		},
		"TLS": func(a string) (string, wire.Dialect, *http.Transport) {
			return "wss://" + a, rawDialect{}, &http.Transport{}
		},
		"TLS of a dial function": func(a string) (string, wire.Dialect, *http.Transport) {
			return "wss://" + a, rawDialect{}, &http.Transport{DialTLS: func(network, addr string) (net.Conn, error) {
				nc, err := net.Dial(network, addr)
				return tls.Client(nc, &tls.Config{InsecureSkipVerify: true}), err
			}}
		},
		"TLS of an HTTP step": func(a string) (string, wire.Dialect, *http.Transport) {
			return "wss://far.example", stepDialect{url: "https://" + a}, &http.Transport{}
		},
		"an HTTP step through a proxy": func(a string) (string, wire.Dialect, *http.Transport) {
			return "wss://far.example", stepDialect{url: "https://far.example"}, &http.Transport{Proxy: proxyAt("http", a)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, silent)
			url, dialect, transport := setUp(l.addr)
			c, err := limpet.New(url, options(&limpet.Options{Dialect: dialect, HTTPClient: &http.Client{Transport: transport},
				AllowInsecure: true, DialTimeout: 30 * time.Millisecond, Backoff: inAHurry}))
			assert.NoError(t, err)
			eventually(t, "the third attempt stalls", func() bool { return l.seen.Load() >= 3 })
			if n := l.open.Load(); n > 2 {
				t.Errorf("%d sockets are open during one attempt", n)
			}
			closeAndWait(t, c)
			eventually(t, "every socket is closed", func() bool { return l.open.Load() == 0 })
		})
	}
}

// A stalled dial does not hold up the next ones: the server is well from its
// second connection on.
func TestStalledDialHoldsUpNoOther(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	for _, most := range []int{0, 1} {
		assert.NoLeaks(t)
		l := listen(t, func(n int, nc net.Conn) {
			if n == 1 {
				drain(nc)
				return
			}
			answerUpgrade(tls.Server(nc, &tls.Config{Certificates: donor.TLS.Certificates}), upgradeResponse)
		})
		transport := &http.Transport{MaxConnsPerHost: most, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		c, err := limpet.Dial(realContext(t), "wss://"+l.addr, options(&limpet.Options{Dialect: rawDialect{},
			HTTPClient: &http.Client{Transport: transport}, DialTimeout: 200 * time.Millisecond, Backoff: inAHurry}))
		if err != nil {
			t.Errorf("MaxConnsPerHost %d: %v", most, err)
			continue
		}
		closeAndWait(t, c)
	}
}

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
				release, calls := make(chan struct{}), 0
				late := &lateBody{release: release}
				transport := roundTripper(func(r *http.Request) (*http.Response, error) {
					calls++
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
				if calls != 1 {
					t.Errorf("%d calls at once", calls)
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

// A program may have replaced http.DefaultTransport before limpet is initialised.
func TestReplacedDefaultTransport(t *testing.T) {
	out, err := exec.Command("go", "run", "./testdata/replaced").CombinedOutput()
	if err != nil || string(out) != "replaced: true error: <nil>\n" {
		t.Errorf("%v\n%.2000s", err, out)
	}
}

// What counts as this machine is the address that was dialled. Nothing is sent to
// another one in clear text.
func TestClearTextStaysOnThisMachine(t *testing.T) {
	for name, tc := range map[string]struct {
		addr net.Addr
		ok   bool
	}{
		"loopback":      {&net.TCPAddr{IP: net.IPv4(127, 9, 9, 9), Port: 80}, true},
		"loopback, v6":  {&net.TCPAddr{IP: net.IPv6loopback, Port: 80, Zone: "lo"}, true},
		"a Unix socket": {&net.UnixAddr{Name: "/run/x"}, true},
		"elsewhere":     {&net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 80}, false},
		"elsewhere, v6": {&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 80, Zone: "eth0"}, false},
	} {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " wrapped=", wrapped), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewHandler(t, rawServer(drain), nil)
					var wrote atomic.Int64
					transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
						nc, err := srv.Network.DialContext(ctx, network, srv.Addr())
						return &elsewhere{nc, tc.addr, &wrote}, err
					}}
					var rt http.RoundTripper = transport
					if wrapped {
						rt = roundTripper(transport.RoundTrip)
					}
					c, err := limpet.New("ws://api.localhost", options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{Transport: rt}, Header: http.Header{"X-Key": {"canary"}}}))
					assert.NoError(t, err)
					defer closeAndWait(t, c)
					st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
					assert.NoError(t, err)
					if (st.Phase == limpet.Ready) != tc.ok || (wrote.Load() > 0) != tc.ok {
						t.Errorf("%v, %d bytes written: %v", st.Phase, wrote.Load(), st.Cause)
					}
					if !tc.ok && (limpet.ClassOf(st.Cause) != limpet.ClassInput || !strings.Contains(st.Cause.Error(), "AllowInsecure")) {
						t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
					}
				})
			})
		}
	}
}

// elsewhere is a connection that claims another remote address.
type elsewhere struct {
	net.Conn
	addr  net.Addr
	wrote *atomic.Int64
}

func (e *elsewhere) RemoteAddr() net.Addr { return e.addr }
func (e *elsewhere) Write(p []byte) (int, error) {
	n, err := e.Conn.Write(p)
	e.wrote.Add(int64(n))
	return n, err
}

// A refusal sets its cookies, and the next attempt has a socket of its own: the
// instance that refused may be on its way out.
func TestRefusedUpgrade(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		assert.NoLeaks(t)
		var mu sync.Mutex
		var cookies, remotes []string
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			cookies, remotes = append(cookies, r.Header.Get("Cookie")), append(remotes, r.RemoteAddr)
			http.SetCookie(w, &http.Cookie{Name: "route", Value: "b"})
			w.WriteHeader(503)
			io.WriteString(w, "going")
		}))
		jar, err := cookiejar.New(nil)
		assert.NoError(t, err)
		transport := &http.Transport{}
		client := &http.Client{Jar: jar, Transport: transport}
		if wrapped {
			client.Transport = roundTripper(transport.RoundTrip)
		}
		c, err := limpet.New("ws"+strings.TrimPrefix(web.URL, "http"), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client, Backoff: inAHurry}))
		assert.NoError(t, err)
		eventually(t, "three attempts", func() bool { mu.Lock(); defer mu.Unlock(); return len(remotes) >= 3 })
		closeAndWait(t, c)
		web.Close()
		if cookies[0] != "" || cookies[1] != "route=b" || remotes[0] == remotes[1] || remotes[1] == remotes[2] {
			t.Errorf("wrapped=%v: cookies %q from %q", wrapped, cookies, remotes)
		}
	}
}

// A dialect may set the Host of its requests.
func TestHostOfTheDialect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hosts []string
		host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hosts = append(hosts, r.Host)
			if r.Header.Get("Upgrade") != "" {
				rawServer(drain).ServeHTTP(w, r)
			}
		}), nil)
		c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: hostDialect{stepDialect{url: host.HTTPURL()}}, HTTPClient: host.HTTPClient()}))
		assert.NoError(t, err)
		closeAndWait(t, c)
		if fmt.Sprint(hosts) != "[step.example upgrade.example]" {
			t.Errorf("%q", hosts)
		}
	})
}

type hostDialect struct{ stepDialect }

func (d hostDialect) Attempt(a *wire.Attempt) error {
	err := d.stepDialect.Attempt(a)
	if a.Dial {
		a.Header.Set("Host", "upgrade.example")
	} else {
		a.Request.Header = http.Header{"Host": {"step.example"}}
	}
	return err
}

// The answer to an HTTP step is bounded.
func TestHTTPStepIsBounded(t *testing.T) {
	for size, ok := range map[int]bool{64 << 10: true, 64<<10 + 1: false} {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != "" {
					rawServer(drain).ServeHTTP(w, r)
					return
				}
				w.Write(make([]byte, size))
			}), nil)
			c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: stepDialect{url: host.HTTPURL()}, HTTPClient: host.HTTPClient()}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
			assert.NoError(t, err)
			if (st.Phase == limpet.Ready) != ok || !ok && !strings.Contains(st.Cause.Error(), "more than 65536 bytes") {
				t.Errorf("%d bytes: %v, %v", size, st.Phase, st.Cause)
			}
		})
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
