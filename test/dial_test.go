package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
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
	"github.com/limpet-go/limpet/wire"
)

// inAHurry is a policy that tries again as early as it may.
var inAHurry = limpet.Backoff{First: -1, Initial: time.Millisecond, Max: time.Millisecond}

// listener serves connections of a real port of 127.0.0.1 until the test ends.
type listener struct {
	addr string
	open atomic.Int32 // connections
	seen atomic.Int32
}

func listen(t *testing.T, onConnection func(n int, nc net.Conn)) *listener {
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
				onConnection(n, nc)
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
		"loopback":         {&net.TCPAddr{IP: net.IPv4(127, 9, 9, 9), Port: 80}, true},
		"loopback, v6":     {&net.TCPAddr{IP: net.IPv6loopback, Port: 80, Zone: "lo"}, true},
		"a Unix socket":    {&net.UnixAddr{Name: "/run/x"}, true},
		"a pipe":           {namedAddr("pipe"), true},
		"VSOCK":            {namedAddr("vm(3):1024"), true},
		"a local name":     {namedAddr("api.localhost:80"), true},
		"another name":     {namedAddr("db.internal:80"), false},
		"without port":     {&net.IPAddr{IP: net.IPv4(10, 1, 2, 3)}, false},
		"without port, v6": {namedAddr("fd00::5"), false},
		"elsewhere":        {&net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 80}, false},
		"elsewhere, v6":    {&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 80, Zone: "eth0"}, false},
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
					synctest.Wait()
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

// namedAddr is an address as a dial function of the caller may spell it.
type namedAddr string

func (namedAddr) Network() string  { return "named" }
func (a namedAddr) String() string { return string(a) }

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
	for _, kind := range []string{"a Transport", "another RoundTripper", "another RoundTripper with connections that cannot be compared"} {
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
		if kind != "a Transport" {
			client.Transport = roundTripper(transport.RoundTrip)
		}
		if strings.HasSuffix(kind, "compared") {
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, address)
				return uncomparable{Conn: nc}, err
			}
		}
		c, err := limpet.New("ws"+strings.TrimPrefix(web.URL, "http"), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client, Backoff: inAHurry}))
		assert.NoError(t, err)
		eventually(t, "three attempts", func() bool { mu.Lock(); defer mu.Unlock(); return len(remotes) >= 3 })
		closeAndWait(t, c)
		web.Close()
		if cookies[0] != "" || cookies[1] != "route=b" || remotes[0] == remotes[1] || remotes[1] == remotes[2] {
			t.Errorf("%s: cookies %q from %q", kind, cookies, remotes)
		}
	}
}

// uncomparable is a connection that cannot be the key of a map.
type uncomparable struct {
	net.Conn
	_ []int
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
