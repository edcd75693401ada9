package test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// brokenError is an error whose methods panic if it is a nil pointer, which is an
// error that is not nil.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// brokenText is the same without Unwrap.
type brokenText struct{ text string }

func (e *brokenText) Error() string { return e.text }

// wrapping has a text of its own, so that only Unwrap leads to the broken error.
type wrapping struct{ inner *brokenError }

func (wrapping) Error() string   { return "wrapping" }
func (e wrapping) Unwrap() error { return e.inner }

// An error of the caller's code whose methods panic fails an attempt or a
// connection, wherever it comes from.
func TestErrorWhoseMethodsPanic(t *testing.T) {
	for _, broken := range []error{(*brokenError)(nil), (*brokenText)(nil), wrapping{}} {
		for where, option := range map[string]string{"Auth": "Auth", "RoundTrip": "HTTPClient", "DialContext": "HTTPClient", "Read": "HTTPClient",
			"Attempt": "Dialect", "Open": "Dialect", "Start": "Dialect", "Decode": "Dialect"} {
			t.Run(fmt.Sprintf("%T %s", broken, where), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) { nc.Write(rawFrame(0x81, "a")); drain(nc) }), nil)
					failed := false
					fault := func(at string) error {
						if at != where || failed {
							return nil
						}
						failed = true
						return broken
					}
					c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: faultyDialect{fault: fault}, HTTPClient: faultyTransport(host, fault),
						Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
							return limpet.Credential{}, fault("Auth")
						}}))
					assert.NoError(t, err)
					defer closeAndWait(t, c)
					st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
					assert.NoError(t, err)
					if !errors.Is(st.Cause, limpet.ErrPanic) || limpet.ClassOf(st.Cause) != limpet.ClassUser || !strings.Contains(st.Cause.Error(), "Options."+option) {
						t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
					}
					assert.NoError(t, c.WaitReady(t.Context()))
				})
			})
		}
	}
}

// faultyTransport fails where fault returns an error.
func faultyTransport(h *limpettest.Host, fault func(at string) error) *http.Client {
	transport := h.HTTPClient().Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := fault("DialContext"); err != nil {
			return nil, err
		}
		nc, err := dial(ctx, network, addr)
		return &faultyConn{nc, fault}, err
	}
	if err := fault("RoundTrip"); err != nil {
		first := true
		return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if first {
				first = false
				return nil, err
			}
			return transport.RoundTrip(r)
		})}
	}
	return &http.Client{Transport: transport}
}

type faultyConn struct {
	net.Conn
	fault func(string) error
}

func (c *faultyConn) Read(p []byte) (int, error) {
	if err := c.fault("Read"); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

type faultyDialect struct {
	rawDialect
	fault func(string) error
}

func (d faultyDialect) Attempt(a *wire.Attempt) error { a.Dial = true; return d.fault("Attempt") }
func (d faultyDialect) Open(wire.Resume) (wire.Codec, error) {
	return &faultyCodec{d: d}, d.fault("Open")
}

type faultyCodec struct {
	rawCodec
	d faultyDialect
}

func (c *faultyCodec) Start(*wire.Frames) error { return c.d.fault("Start") }
func (c *faultyCodec) Decode(f wire.Frame, out *wire.Events) error {
	if err := c.d.fault("Decode"); err != nil {
		return err
	}
	return c.rawCodec.Decode(f, out)
}

// A connection of a dial function may be of the caller's type: a panic of it fails
// the attempt or ends the connection, in net/http's goroutines and in limpet's.
func TestPanicOfAConnection(t *testing.T) {
	for _, method := range []string{"Read", "Write", "Close", "NetConn"} {
		for _, upgraded := range []bool{false, true} {
			t.Run(fmt.Sprint(method, " upgraded=", upgraded), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
						<-time.After(time.Second)
						nc.Write(rawFrame(0x81, "a"))
						<-time.After(time.Second)
						nc.Close()
					}), nil)
					transport := host.HTTPClient().Transport.(*http.Transport)
					dial := transport.DialContext
					var broken *brokenConn
					transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						nc, err := dial(ctx, network, addr)
						if broken == nil {
							broken = &brokenConn{brokenBody{ReadWriteCloser: nc, method: method}, nc}
							broken.armed.Store(!upgraded)
							return broken, err
						}
						return nc, err
					}
					c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: bulkDialect{}, HTTPClient: &http.Client{Transport: transport}}))
					assert.NoError(t, err)
					defer closeAndWait(t, c)
					synctest.Wait()
					broken.armed.Store(true)
					if method == "Write" {
						_, err := c.Publish(t.Context(), "a", []byte("b"), nil)
						assert.NoError(t, err)
					}
					st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
					assert.NoError(t, err)
					if method != "Close" && method != "NetConn" && !errors.Is(st.Cause, limpet.ErrPanic) {
						t.Errorf("%v", st.Cause)
					}
					generation := st.Generation
					_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > generation })
					assert.NoError(t, err)
					if broken.panics.Load() == 0 && !(method == "NetConn" && upgraded) {
						t.Error("the connection did not panic")
					}
				})
			})
		}
	}
}

type brokenConn struct {
	brokenBody
	net.Conn
}

func (b *brokenConn) Read(p []byte) (int, error)  { return b.brokenBody.Read(p) }
func (b *brokenConn) Write(p []byte) (int, error) { return b.brokenBody.Write(p) }
func (b *brokenConn) Close() error                { return b.brokenBody.Close() }
func (b *brokenConn) NetConn() net.Conn           { b.called("NetConn"); return nil }

// A connection that names itself as what carries it is used like any other.
func TestConnectionThatCarriesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, rawServer(drain), nil)
		transport := host.HTTPClient().Transport.(*http.Transport)
		dial := transport.DialContext
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := dial(ctx, network, addr)
			return &carriesItself{nc}, err
		}
		c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{Transport: transport}}))
		assert.NoError(t, err)
		closeAndWait(t, c)
	})
}

type carriesItself struct{ net.Conn }

func (c *carriesItself) NetConn() net.Conn { return c }

// The body of a refusal that stalls is closed from another goroutine, where a panic
// would end the process.
func TestPanicOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &stalledBody{make(chan struct{})}
		c, err := limpet.New("ws://localhost", options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 503, Body: body, Request: r}, nil
			})}}))
		assert.NoError(t, err)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || !strings.Contains(st.Cause.Error(), "503") {
			t.Errorf("%v, %v", st.Cause, err)
		}
		closeAndWait(t, c)
	})
}

type stalledBody struct{ closed chan struct{} }

func (b *stalledBody) Read([]byte) (int, error) { <-b.closed; return 0, io.EOF }
func (b *stalledBody) Close() error {
	select {
	case <-b.closed:
	default:
		close(b.closed)
	}
	panic("broken")
}

// Functions of a TLS configuration that panic fail the attempt, or cost the
// resumption of a TLS session alone.
func TestPanicInTheTLSConfiguration(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	broken := func() { panic("broken") }
	for name, tc := range map[string]struct {
		spoil func(*tls.Config)
		ready bool
	}{
		"Time":          {func(c *tls.Config) { c.Time = func() time.Time { broken(); return time.Time{} } }, false},
		"KeyLogWriter":  {func(c *tls.Config) { c.KeyLogWriter = brokenIO{} }, false},
		"Rand":          {func(c *tls.Config) { c.Rand = brokenIO{} }, false},
		"cache, Get":    {func(c *tls.Config) { c.ClientSessionCache = brokenCache{"Get"} }, false},
		"cache, Put":    {func(c *tls.Config) { c.ClientSessionCache = brokenCache{"Put"} }, true},
		"a private key": {func(c *tls.Config) { c.Certificates = brokenKey(donor) }, false},
		"the key of GetClientCertificate": {func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &brokenKey(donor)[0], nil }
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, func(_ int, nc net.Conn) {
				answerUpgrade(tls.Server(nc, &tls.Config{Certificates: donor.TLS.Certificates, ClientAuth: tls.RequestClientCert}), upgradeResponse)
			})
			cfg := &tls.Config{RootCAs: roots, ServerName: "example.com"}
			tc.spoil(cfg)
			c, err := limpet.New("wss://"+l.addr, options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			st, err := c.WaitState(realContext(t), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
			assert.NoError(t, err)
			if (st.Phase == limpet.Ready) != tc.ready || !tc.ready && !strings.Contains(st.Cause.Error(), "TLSClientConfig") {
				t.Errorf("%v: %v", st.Phase, st.Cause)
			}
		})
	}
}

type brokenIO struct{}

func (brokenIO) Read([]byte) (int, error)  { panic("broken") }
func (brokenIO) Write([]byte) (int, error) { panic("broken") }

type brokenCache struct{ method string }

func (c brokenCache) at(method string) {
	if method == c.method {
		panic("broken")
	}
}
func (c brokenCache) Get(string) (*tls.ClientSessionState, bool) { c.at("Get"); return nil, false }
func (c brokenCache) Put(string, *tls.ClientSessionState)        { c.at("Put") }

// brokenKey is the certificate of donor with a key that panics.
func brokenKey(donor *httptest.Server) []tls.Certificate {
	c := donor.TLS.Certificates[0]
	c.PrivateKey = brokenSigner{c.PrivateKey.(crypto.Signer)}
	return []tls.Certificate{c}
}

type brokenSigner struct{ crypto.Signer }

func (brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { panic("broken") }

// A dial function that never returns holds up no other attempt, until eight calls
// hang; then an attempt fails at once and says why.
func TestDialFunctionThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		release := make(chan struct{})
		var calls atomic.Int32
		var mended atomic.Bool
		transport := &http.Transport{Dial: func(network, _ string) (net.Conn, error) {
			if mended.Load() {
				return srv.Network.DialContext(context.Background(), network, srv.Addr())
			}
			calls.Add(1)
			<-release
			return nil, errors.New("late")
		}}
		c, err := limpet.New("ws://localhost", options(&limpet.Options{HTTPClient: &http.Client{Transport: transport}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(time.Hour)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		assert.NoError(t, err)
		if n := calls.Load(); n != 8 || limpet.ClassOf(st.Cause) != limpet.ClassUser || !strings.Contains(st.Cause.Error(), "Transport.DialContext: 8 earlier calls have not returned") {
			t.Errorf("%d calls hang, class %q: %v", n, limpet.ClassOf(st.Cause), st.Cause)
		}
		mended.Store(true)
		close(release)
		assert.NoError(t, c.WaitReady(t.Context()))
	})
}
