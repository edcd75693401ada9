package socket

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
)

// ProxyError is a failure to get through an HTTP proxy. It names the proxy
// without its credentials.
type ProxyError struct {
	Host   string
	Status int         // of the proxy's answer to CONNECT; 0 if there was none
	Header http.Header // of that answer
	Err    error
}

func (e *ProxyError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("proxy %s answered %d %s", e.Host, e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("proxy %s: %v", e.Host, e.Err)
}

func (e *ProxyError) Unwrap() error { return e.Err }

// proxyFor returns the proxy that t names for req; nil if there is none.
func proxyFor(t *http.Transport, req *http.Request) (proxy *url.URL, err error) {
	if t.Proxy == nil {
		return nil, nil
	}
	defer recoverPanic("Transport.Proxy", &err)
	if proxy, err = t.Proxy(req); err != nil {
		// The text of err may hold the proxy's address with its credentials.
		return nil, &ProxyError{Host: "unknown", Err: errors.New("Transport.Proxy cannot name it; check HTTP_PROXY or the function")}
	}
	if proxy != nil && !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, proxy.Scheme) {
		return nil, &ProxyError{Host: proxy.Host, Err: fmt.Errorf("its scheme %q is not supported; use http, https, socks5 or socks5h", proxy.Scheme)}
	}
	return proxy, nil
}

// tunnel takes an upgrade through an HTTP proxy with CONNECT, as RFC 6455,
// section 4.1 requires. http.Transport uses CONNECT for https only: it would send
// a ws:// upgrade to the proxy as a plain request, which few proxies understand.
// Its errors for https do not name the proxy.
type tunnel struct {
	transport  *http.Transport // of the attempt
	proxy      *url.URL
	sockets    *sockets
	connecting atomic.Bool // the tunnel is not open yet
}

// throughProxy returns a transport of the attempt that takes req through the
// proxy that base names for it, if any. With direct it uses no proxy.
func (s *sockets) throughProxy(base *http.Transport, req *http.Request, direct bool) (http.RoundTripper, *http.Transport, error) {
	var proxy *url.URL
	if !direct {
		var err error
		if proxy, err = proxyFor(base, req); err != nil {
			return nil, nil, err
		}
	}
	own := s.ownTransport(base)
	own.Proxy = nil
	switch {
	case proxy == nil:
		return own, own, nil
	case proxy.Scheme == "http" || proxy.Scheme == "https":
		return &tunnel{transport: own, proxy: proxy, sockets: s}, own, nil
	}
	own.Proxy = http.ProxyURL(proxy)
	return &socks{own, proxy}, own, nil
}

// socks names the proxy in the errors of http.Transport, which speaks SOCKS.
type socks struct {
	transport *http.Transport
	proxy     *url.URL
}

func (s *socks) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.transport.RoundTrip(req)
	if op := (*net.OpError)(nil); errors.As(err, &op) && (op.Op == "socks connect" || op.Op == "proxyconnect") {
		return nil, &ProxyError{Host: s.proxy.Host, Err: op.Err}
	}
	return resp, err
}

func (t *tunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	dial, dialTLS := t.transport.DialContext, t.transport.DialTLSContext
	if t.proxy.Scheme == "https" && dialTLS != nil {
		dial = dialTLS
	}
	transport := t.transport.Clone()
	transport.DialTLSContext = nil // it is for the proxy; TLS to the server runs inside the tunnel
	transport.DialContext = func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
		defer recoverPanic("Transport", &err)
		return t.dial(ctx, network, addr, dial, t.proxy.Scheme == "https" && dialTLS == nil)
	}
	t.connecting.Store(true)
	resp, err := transport.RoundTrip(req)
	var known *ProxyError
	if err != nil && !errors.As(err, &known) && t.connecting.Load() {
		return nil, &ProxyError{Host: t.proxy.Host, Err: err}
	}
	return resp, err
}

// dial opens a tunnel to addr. withTLS means that dial leaves the TLS to the
// proxy to this method.
func (t *tunnel) dial(ctx context.Context, network, addr string, dial dialFunc, withTLS bool) (net.Conn, error) {
	port := t.proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[t.proxy.Scheme]
	}
	nc, err := dial(ctx, network, net.JoinHostPort(t.proxy.Hostname(), port))
	if err != nil {
		return nil, &ProxyError{Host: t.proxy.Host, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { closeSocket(nc) })
	proxyConn := nc
	if withTLS {
		proxyConn = tls.Client(nc, t.tlsConfig())
	}
	err = t.connect(ctx, proxyConn, addr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		closeSocket(nc)
		return nil, err
	}
	t.connecting.Store(false)
	return proxyConn, nil
}

func (t *tunnel) tlsConfig() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.transport.TLSClientConfig != nil {
		cfg = t.transport.TLSClientConfig.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = t.proxy.Hostname()
	}
	cfg.NextProtos = nil
	return cfg
}

// connect asks the proxy at the other end of nc to open a tunnel to addr.
func (t *tunnel) connect(ctx context.Context, nc net.Conn, addr string) error {
	fail := func(err error) error { return &ProxyError{Host: t.proxy.Host, Err: err} }
	header := t.transport.ProxyConnectHeader.Clone()
	if f := t.transport.GetProxyConnectHeader; f != nil {
		h, err := f(ctx, t.proxy, addr)
		if err != nil {
			return fail(err)
		}
		header = h.Clone()
	}
	if header == nil {
		header = http.Header{}
	}
	if u := t.proxy.User; u != nil {
		password, _ := u.Password()
		header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: header}
	if err := req.Write(nc); err != nil {
		return fail(err)
	}
	br := bufio.NewReader(io.LimitReader(nc, 64<<10))
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return fail(err)
	}
	if err := t.transport.OnProxyConnectResponse(ctx, t.proxy, req, resp); err != nil {
		return err
	}
	if br.Buffered() > 0 {
		return fail(errors.New("sent data before the tunnel was open"))
	}
	return nil
}

// checkConnectResponse returns an error for a refusal. It is behind OnProxyConnectResponse of
// every transport that ownTransport makes (transport.go).
func checkConnectResponse(proxy *url.URL, resp *http.Response) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &ProxyError{Host: proxy.Host, Status: resp.StatusCode, Header: resp.Header}
}
