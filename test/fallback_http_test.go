package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// echoOver publishes and receives over the fallback, on real sockets.
func echoOver(t *testing.T, url string, o limpet.Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o.Fallback = true
	c, err := limpet.Dial(ctx, "ws"+strings.TrimPrefix(url, "http"), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAndWait(t, c)
	if s := c.State(); s.Transport != limpet.TransportHTTP {
		t.Fatalf("the transport is %q", s.Transport)
	}
	s, err := c.Subscribe(ctx, "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		payload := strconv.Itoa(i)
		if i%100 == 99 {
			payload += strings.Repeat(" ", 200<<10)
		}
		if _, err := c.Publish(ctx, "echo", []byte(payload), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range collect(t, s, 300) {
		if m.Kind != limpet.Data || strings.TrimRight(string(m.Payload), " ") != strconv.Itoa(i) {
			t.Fatalf("message %d is %v with %d bytes", i, m.Kind, len(m.Payload))
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// withoutUpgrade is h behind something that does not know upgrades and removes the headers.
func withoutUpgrade(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		h.ServeHTTP(w, r)
	})
}

// newReference returns a reference server, which ends with the test.
func newReference(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	srv, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// The fallback works over HTTP/1.1 and HTTP/2, and in both with TLS.
func TestFallbackOverEachHTTP(t *testing.T) {
	for name, secure := range map[string]struct{ tls, two bool }{"HTTP/1.1": {}, "HTTP/1.1 with TLS": {tls: true}, "HTTP/2": {true, true}} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			versions, sockets := map[string]bool{}, map[string]bool{}
			srv := newReference(t, nil)
			host := httptest.NewUnstartedServer(withoutUpgrade(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				versions[r.Method+" "+r.Proto] = true
				if r.Header.Get("Sec-Websocket-Key") == "" {
					sockets[r.RemoteAddr] = true
				}
				mu.Unlock()
				srv.ServeHTTP(w, r)
			})))
			host.EnableHTTP2 = secure.two
			if secure.tls {
				host.StartTLS()
			} else {
				host.Start()
			}
			defer host.Close()
			defer srv.Close()
			echoOver(t, host.URL, limpet.Options{HTTPClient: host.Client()})
			mu.Lock()
			defer mu.Unlock()
			if secure.two != versions["POST HTTP/2.0"] || secure.two == versions["POST HTTP/1.1"] {
				t.Errorf("requests: %v", versions)
			}
			if want := map[bool]int{false: 2, true: 1}[secure.two]; len(sockets) != want {
				t.Errorf("the GET and the POSTs came over %d sockets, want %d", len(sockets), want)
			}
		})
	}
}

// Through a reverse proxy that removes the headers of the upgrade.
func TestFallbackThroughAReverseProxy(t *testing.T) {
	srv := newReference(t, &server.Options{Hosts: []string{"*"}})
	host := httptest.NewServer(srv)
	defer host.Close()
	defer srv.Close()
	target, err := url.Parse(host.URL)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer // of one request at a time: the GET
	proxy := httptest.NewServer(withoutUpgrade(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ErrorLog: log.New(&out, "", 0)}))
	defer proxy.Close()
	echoOver(t, proxy.URL, limpet.Options{})
	proxy.Close()
	// At the end the client may leave before the server has ended the GET.
	if got := strings.ReplaceAll(out.String(), "http: proxy error: context canceled\n", ""); got != "" {
		t.Errorf("the proxy reports %s", got)
	}
}

// Through a forward proxy for plain requests, which forbids tunnels.
func TestFallbackThroughAForwardProxy(t *testing.T) {
	srv := newReference(t, nil)
	host := httptest.NewServer(srv)
	defer host.Close()
	defer srv.Close()
	forward := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			http.Error(w, "no tunnels", http.StatusMethodNotAllowed)
			return
		}
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}).ServeHTTP(w, r)
	}))
	defer forward.Close()
	through, err := url.Parse(forward.URL)
	if err != nil {
		t.Fatal(err)
	}
	echoOver(t, host.URL, limpet.Options{AllowInsecure: true, HTTPClient: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(through)}}})
}

// A client certificate is shown for each request, and a connection is bound to it.
func TestFallbackWithAClientCertificate(t *testing.T) {
	srv := newReference(t, &server.Options{Hooks: server.Hooks{Authenticate: func(_ context.Context, r *http.Request, _ string) (server.Principal, error) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return server.Principal{}, errors.New("no certificate")
		}
		return server.Principal{ID: r.TLS.PeerCertificates[0].Subject.String()}, nil
	}}})
	host := httptest.NewUnstartedServer(withoutUpgrade(srv))
	host.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	host.StartTLS()
	defer host.Close()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(host.Certificate())
	cfg := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{host.TLS.Certificates[0]}}
	echoOver(t, host.URL, limpet.Options{HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}})
}

// wrappedTransport is of a type of the caller's.
type wrappedTransport struct{ http.RoundTripper }

// A transport of the caller's type, a timeout of its client, and one connection for each host
// do not stop the fallback.
func TestFallbackWithTheCallersTransport(t *testing.T) {
	srv := newReference(t, nil)
	host := httptest.NewServer(withoutUpgrade(srv))
	defer host.Close()
	defer srv.Close()
	pool := &http.Transport{}
	defer pool.CloseIdleConnections()
	for name, client := range map[string]*http.Client{
		"its type":              {Transport: wrappedTransport{pool}},
		"a timeout":             {Timeout: 5 * time.Second},
		"one connection a host": {Transport: &http.Transport{MaxConnsPerHost: 1, DisableKeepAlives: true}},
	} {
		t.Run(name, func(t *testing.T) { echoOver(t, host.URL, limpet.Options{HTTPClient: client}) })
	}
}
