package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

const proxyAddr = "proxy.test:3128"

// proxy is an HTTP proxy that knows CONNECT and nothing else. answer writes
// what the proxy says to the n-th request, from 1, and reports whether it
// carries on.
type proxy struct {
	mu    sync.Mutex
	asked []*http.Request
}

func newProxy(t *testing.T, n *limpettest.Network, answer func(n int, nc net.Conn) bool) *proxy {
	l, err := n.Listen(proxyAddr)
	if err != nil {
		t.Fatal(err)
	}
	return newProxyOn(t, n, l, answer)
}

func newProxyOn(t *testing.T, n *limpettest.Network, l net.Listener, answer func(n int, nc net.Conn) bool) *proxy {
	p := &proxy{}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(n, nc, answer) })
		}
	})
	t.Cleanup(func() { l.Close(); n.ResetAll(); all.Wait() })
	return p
}

func (p *proxy) serve(n *limpettest.Network, nc net.Conn, answer func(int, net.Conn) bool) {
	defer nc.Close()
	br := bufio.NewReader(nc)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req)
	count := len(p.asked)
	p.mu.Unlock()
	if req.Method != http.MethodConnect {
		io.WriteString(nc, "HTTP/1.1 501 Not Implemented\r\n\r\n")
		return
	}
	if !answer(count, nc) {
		return
	}
	far, err := n.DialContext(context.Background(), "tcp", req.Host)
	if err != nil {
		return
	}
	defer far.Close()
	var up sync.WaitGroup
	up.Go(func() { io.Copy(far, br); far.Close() })
	io.Copy(nc, far)
	nc.Close()
	up.Wait()
}

func answers(s string) func(int, net.Conn) bool {
	return func(_ int, nc net.Conn) bool {
		io.WriteString(nc, s)
		return strings.HasPrefix(s, "HTTP/1.1 2")
	}
}

func clientThroughProxy(srv *limpettest.Server) *http.Client {
	client := srv.HTTPClient()
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxyAddr, User: url.UserPassword("user", "canary-password")})
	return client
}

func TestProxyTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		p := newProxy(t, srv.Network, answers("HTTP/1.1 200 Connection established\r\n\r\n"))
		c, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{HTTPClient: clientThroughProxy(srv), AllowInsecure: true}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "through")
		if got := payloads(collect(t, s, 1)); got != "through" {
			t.Errorf("delivered %q", got)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:canary-password"))
		if len(p.asked) != 1 || p.asked[0].Method != "CONNECT" || p.asked[0].Host != srv.Addr() || p.asked[0].Header.Get("Proxy-Authorization") != want {
			t.Errorf("the proxy was asked %+v", p.asked)
		}
	})
}

func TestProxyRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(n int, nc net.Conn) bool
		final  bool
		text   string
		took   time.Duration
	}{
		"407":                {answers("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n"), true, "407", 0},
		"401":                {answers("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"), true, "401", 0}, // of tinyproxy, to a wrong password
		"502":                {answers("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), false, "502", 0},
		"redirect":           {answers("HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n"), false, "302", 0},
		"not HTTP":           {answers("SSH-2.0-proxy\r\n"), false, "malformed", 0},
		"head without end":   {answers("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100_000)), false, "EOF", 0},
		"closes":             {func(int, net.Conn) bool { return false }, false, "EOF", 0},
		"speaks out of turn": {answers("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n"), false, "before the tunnel was open", 0},
		"stalls":             {func(_ int, nc net.Conn) bool { io.Copy(io.Discard, nc); return false }, false, "deadline", 10 * time.Second},
		"stalls after a part": {func(_ int, nc net.Conn) bool {
			io.WriteString(nc, "HTTP/1.1 200")
			io.Copy(io.Discard, nc)
			return false
		}, false, "deadline", 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				newProxy(t, srv.Network, func(n int, nc net.Conn) bool {
					if n == 1 {
						return tc.answer(n, nc)
					}
					return answers("HTTP/1.1 200 OK\r\n\r\n")(n, nc)
				})
				c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: clientThroughProxy(srv), AllowInsecure: true}))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				at := time.Now()
				st, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
				if err != nil {
					t.Fatal(err)
				}
				if limpet.ClassOf(st.Cause) != limpet.ClassProxy || !strings.Contains(st.Cause.Error(), tc.text) || !strings.Contains(st.Cause.Error(), proxyAddr) {
					t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
				}
				if text := fmt.Sprintf("%+v %#v", st, st.Cause); strings.Contains(text, "canary") {
					t.Errorf("the credential shows: %s", text)
				}
				if took := time.Since(at); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if err := c.WaitReady(context.Background()); (err != nil) != tc.final {
					t.Errorf("then: %v", err)
				}
			})
		})
	}
}

// The way to the proxy may itself be TLS.
func TestProxyTLS(t *testing.T) {
	donor := httptest.NewTLSServer(nil) // its certificate is valid for example.com
	donor.Close()
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		l, err := srv.Network.Listen("example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		p := newProxyOn(t, srv.Network, tls.NewListener(l, &tls.Config{Certificates: donor.TLS.Certificates}), answers("HTTP/1.1 200 OK\r\n\r\n"))
		client := srv.HTTPClient()
		transport := client.Transport.(*http.Transport)
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: "example.com"})
		transport.GetProxyConnectHeader = func(context.Context, *url.URL, string) (http.Header, error) {
			return http.Header{"X-Extra": {"1"}}, nil
		}
		_, err = limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{HTTPClient: client, AllowInsecure: true}))
		if limpet.ClassOf(err) != limpet.ClassTLS {
			t.Errorf("unknown authority: %v", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		transport.TLSClientConfig.RootCAs.AddCert(donor.Certificate())
		c, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{HTTPClient: client, AllowInsecure: true}))
		if err != nil {
			t.Fatal(err)
		}
		subscribeLive(t, c, "a", nil)
		closeAndWait(t, c)
		if p.asked[0].Header.Get("X-Extra") != "1" {
			t.Errorf("the proxy was asked %+v", p.asked[0])
		}
	})
}

func TestProxyIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := limpet.Dial(ctx, srv.URL(), options(&limpet.Options{HTTPClient: clientThroughProxy(srv), AllowInsecure: true}))
		if err == nil || !strings.Contains(err.Error(), "proxy "+proxyAddr) {
			t.Errorf("%v", err)
		}
	})
}

// The error of a Proxy function may hold the proxy's URL, credentials included.
func TestProxyFunctionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := srv.HTTPClient()
		client.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) {
			return nil, errors.New("invalid proxy address http://user:canary@proxy")
		}
		for _, url := range []string{srv.URL(), "wss" + strings.TrimPrefix(srv.URL(), "ws")} {
			c, err := limpet.New(url, options(&limpet.Options{HTTPClient: client, AllowInsecure: true}))
			if err != nil {
				t.Fatal(err)
			}
			st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
			if text := fmt.Sprintf("%+v", st); limpet.ClassOf(st.Cause) != limpet.ClassProxy || strings.Contains(text, "canary") {
				t.Errorf("%s: %s", url, text)
			}
			closeAndWait(t, c)
		}
	})
}

// Without AllowInsecure ws:// goes to this machine, past the proxy.
func TestLocalClearTextUsesNoProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		p := newProxy(t, srv.Network, answers("HTTP/1.1 200 OK\r\n\r\n"))
		c, err := limpet.Dial(t.Context(), srv.URL(), options(&limpet.Options{HTTPClient: clientThroughProxy(srv)}))
		assert.NoError(t, err)
		closeAndWait(t, c)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.asked) != 0 {
			t.Errorf("the proxy was asked %+v", p.asked)
		}
	})
}

// wss through a refusing proxy, with a transport of the user: the class, the name
// of the proxy and its Retry-After are those of ws.
func TestProxyRefusesWSS(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		final  bool
		wait   time.Duration
	}{
		"407":                      {"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", true, 0},
		"503":                      {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", false, 0},
		"503 and a time":           {"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n", false, 90 * time.Second},
		"not HTTP":                 {"SSH-2.0-proxy\r\n", false, 0},
		"closes without an answer": {"", false, 0},
	} {
		for _, scheme := range []string{"ws", "wss"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, nil)
					p := newProxy(t, srv.Network, answers(tc.answer))
					c, err := limpet.New(scheme+"://"+srv.Addr(), options(&limpet.Options{HTTPClient: clientThroughProxy(srv), AllowInsecure: true}))
					assert.NoError(t, err)
					defer closeAndWait(t, c)
					at := time.Now()
					st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting || s.Phase == limpet.Ended })
					assert.NoError(t, err)
					if (st.Phase == limpet.Ended) != tc.final || limpet.ClassOf(st.Cause) != limpet.ClassProxy || !strings.Contains(st.Cause.Error(), proxyAddr) {
						t.Errorf("%v, class %q: %v", st.Phase, limpet.ClassOf(st.Cause), st.Cause)
					}
					if wait := st.NextAttempt.Sub(at); tc.wait > 0 && wait < tc.wait {
						t.Errorf("next attempt after %v", wait)
					}
					p.mu.Lock()
					defer p.mu.Unlock()
					if len(p.asked) != 1 || strings.Contains(fmt.Sprintf("%+v %#v", st, st.Cause), "canary") {
						t.Errorf("%d requests: %+v", len(p.asked), st)
					}
				})
			})
		}
	}
}

// The dial functions of a transport are used for the proxy too.
func TestTunnelUsesTheDialFunctions(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, func(_ int, nc net.Conn) {
				if scheme == "https" {
					nc = tls.Server(nc, &tls.Config{Certificates: donor.TLS.Certificates})
				}
				br := bufio.NewReader(nc)
				if req, err := http.ReadRequest(br); err != nil || req.Method != "CONNECT" {
					return
				}
				io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n")
				answerUpgrade(nc, upgradeResponse)
			})
			var dials atomic.Int32
			transport := &http.Transport{Proxy: proxyAt(scheme, "proxy.invalid:1")}
			//lint:ignore SA1019 callers still set it
			transport.Dial = func(network, _ string) (net.Conn, error) { dials.Add(1); return net.Dial(network, l.addr) }
			if scheme == "https" {
				//lint:ignore SA1019 callers still set it
				transport.DialTLS = func(network, _ string) (net.Conn, error) {
					dials.Add(1)
					return tls.Dial(network, l.addr, &tls.Config{InsecureSkipVerify: true})
				}
			}
			c, err := limpet.Dial(realContext(t), "ws://far.example", options(&limpet.Options{Dialect: rawDialect{}, AllowInsecure: true, HTTPClient: &http.Client{Transport: transport}}))
			assert.NoError(t, err)
			closeAndWait(t, c)
			if n := dials.Load(); n != 1 {
				t.Errorf("%d calls of the dial function", n)
			}
		})
	}
}
