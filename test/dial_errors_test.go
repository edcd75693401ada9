package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// firstCause returns why the first attempt of a client failed.
func firstCause(t *testing.T, url string, o limpet.Options) error {
	t.Helper()
	c, err := limpet.New(url, options(&o))
	assert.NoError(t, err)
	defer closeAndWait(t, c)
	st, err := c.WaitState(realContext(t), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
	assert.NoError(t, err)
	if st.Cause == nil {
		t.Fatal("the attempt did not fail")
	}
	return st.Cause
}

// The class and the text of a failure say how far the attempt had come.
func TestFailureSaysHowFarItCame(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	serveTLS := func(cfg *tls.Config) func(net.Conn) {
		cfg.Certificates = donor.TLS.Certificates
		return func(nc net.Conn) { answerUpgrade(tls.Server(nc, cfg), upgradeResponse) }
	}
	for name, tc := range map[string]struct {
		scheme string
		answer func(net.Conn)
		class  limpet.ErrorClass
		text   string
	}{
		"closes at once": {"ws", func(net.Conn) {}, limpet.ClassNetwork, "connected, but no answer"},
		"closes later":   {"ws", func(nc net.Conn) { http.ReadRequest(bufio.NewReader(nc)) }, limpet.ClassNetwork, "connected, but no answer"},
		"resets":         {"ws", func(nc net.Conn) { http.ReadRequest(bufio.NewReader(nc)); nc.(*net.TCPConn).SetLinger(0) }, limpet.ClassNetwork, "reset"},
		"is no HTTP": {"ws", func(nc net.Conn) {
			http.ReadRequest(bufio.NewReader(nc))
			io.WriteString(nc, "SSH-2.0-x\r\n")
			drain(nc)
		}, limpet.ClassNotWebSocket, "SSH"},
		"speaks first": {"ws", func(nc net.Conn) { io.WriteString(nc, "SSH-2.0-x\r\n"); drain(nc) }, limpet.ClassNotWebSocket, "connected, but no answer"},
		"TLS, closes":  {"wss", func(net.Conn) {}, limpet.ClassTLS, "TLS handshake"},
		"TLS, no certificate": {"wss", func(nc net.Conn) {
			tls.Server(nc, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}).Handshake()
		}, limpet.ClassTLS, "remote error: tls"},
		"TLS, too old":   {"wss", serveTLS(&tls.Config{MaxVersion: tls.VersionTLS11}), limpet.ClassTLS, "version"},
		"TLS, then none": {"wss", func(nc net.Conn) { tls.Server(nc, &tls.Config{Certificates: donor.TLS.Certificates}).Handshake() }, limpet.ClassNetwork, "connected, but no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, func(_ int, nc net.Conn) { tc.answer(nc) })
			cause := firstCause(t, tc.scheme+"://"+l.addr, limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{
				Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}})
			if limpet.ClassOf(cause) != tc.class || !strings.Contains(cause.Error(), tc.text) {
				t.Errorf("class %q: %v", limpet.ClassOf(cause), cause)
			}
		})
	}
	t.Run("TLS, refused by VerifyConnection", func(t *testing.T) {
		l := listen(t, func(_ int, nc net.Conn) { serveTLS(new(tls.Config))(nc) })
		cause := firstCause(t, "wss://"+l.addr, limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return errors.New("another key") }}}}})
		if limpet.ClassOf(cause) != limpet.ClassTLS || !strings.Contains(cause.Error(), "another key") {
			t.Errorf("class %q: %v", limpet.ClassOf(cause), cause)
		}
	})
}

// What this machine refuses is its own fault, and no sooner tried again than that.
func TestFaultOfThisMachine(t *testing.T) {
	for _, fault := range []syscall.Errno{syscall.EMFILE, syscall.EACCES, syscall.EPERM, syscall.ENOBUFS, syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH} {
		synctest.Test(t, func(t *testing.T) {
			c, err := limpet.New("ws://localhost", options(&limpet.Options{HTTPClient: &http.Client{Transport: &http.Transport{
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", fault)}
				}}}}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
			assert.NoError(t, err)
			if wait := time.Until(st.NextAttempt); limpet.ClassOf(st.Cause) != limpet.ClassLocal || wait < 7*time.Second {
				t.Errorf("class %q, next attempt in %v: %v", limpet.ClassOf(st.Cause), wait, st.Cause)
			}
		})
	}
}

// An attempt that the dialect cannot or does not prepare well is the dialect's fault.
func TestAttemptIsTheDialectsFault(t *testing.T) {
	for name, change := range map[string]func(*wire.Attempt){
		"no scheme":      func(a *wire.Attempt) { a.URL = "canary" },
		"another scheme": func(a *wire.Attempt) { a.URL = "ftp://localhost/canary" },
		"no such port":   func(a *wire.Attempt) { a.URL = "ws://localhost:99999/canary" },
		"no URL":         func(a *wire.Attempt) { a.URL = "ws://local\nhost/canary" },
		"a line break":   func(a *wire.Attempt) { a.Header.Set("Cookie", "canary\n") },
		"a step to ws":   func(a *wire.Attempt) { a.Request = &wire.Request{URL: "ws://localhost/canary"} },
	} {
		t.Run(name, func(t *testing.T) {
			d := changingDialect{change: change, steps: name == "a step to ws"}
			cause := firstCause(t, "ws://localhost", limpet.Options{Dialect: d})
			if limpet.ClassOf(cause) != limpet.ClassUser || !strings.Contains(cause.Error(), "Options.Dialect") || strings.Contains(cause.Error(), "canary") {
				t.Errorf("class %q: %v", limpet.ClassOf(cause), cause)
			}
		})
	}
}

// The HTTP requests of a dialect name a proxy that fails, as upgrades do. A scheme
// that no proxy of net/http has is named too.
func TestProxyOfAStepIsNamed(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5", "socks4"} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			client := srv.HTTPClient()
			client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: proxyAddr, User: url.UserPassword("user", "canary")})
			for _, d := range []wire.Dialect{rawDialect{}, stepDialect{url: "https://" + srv.Addr()}} {
				c, err := limpet.New("wss://"+srv.Addr(), options(&limpet.Options{Dialect: d, HTTPClient: client}))
				assert.NoError(t, err)
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				assert.NoError(t, err)
				text := st.Cause.Error()
				if limpet.ClassOf(st.Cause) != limpet.ClassProxy || !strings.Contains(text, "proxy "+proxyAddr) || strings.Contains(text, "canary") ||
					scheme == "socks4" && !strings.Contains(text, "not supported; use http") {
					t.Errorf("%s, %T: class %q: %v", scheme, d, limpet.ClassOf(st.Cause), st.Cause)
				}
				closeAndWait(t, c)
			}
		})
	}
}

// A dialect that names another machine in clear text is refused before the dial,
// also where the transport does not report its connections.
func TestClearTextOfADialect(t *testing.T) {
	for _, steps := range []bool{false, true} {
		var calls atomic.Int32
		d := changingDialect{steps: steps, change: func(a *wire.Attempt) {
			a.URL = "ws://far.example"
			if steps {
				a.Request = &wire.Request{Method: "GET", URL: "http://far.example"}
			}
		}}
		cause := firstCause(t, "wss://far.example", limpet.Options{Dialect: d, HTTPClient: &http.Client{
			Transport: roundTripper(func(*http.Request) (*http.Response, error) { calls.Add(1); return nil, errors.New("sent") })}})
		if limpet.ClassOf(cause) != limpet.ClassInput || calls.Load() != 0 {
			t.Errorf("steps=%v: %d requests, class %q: %v", steps, calls.Load(), limpet.ClassOf(cause), cause)
		}
	}
}
