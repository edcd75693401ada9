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
	"sync/atomic"
)

// ProxyError is a failure to get through an HTTP proxy. It names the proxy
// without its credentials.
type ProxyError struct {
	Host   string
	Status int // of the proxy's answer to CONNECT; 0 if there was none
	Err    error
}

func (e *ProxyError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("proxy %s answered %d %s", e.Host, e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("proxy %s: %v", e.Host, e.Err)
}

func (e *ProxyError) Unwrap() error { return e.Err }

// tunnel takes a ws:// upgrade through an HTTP proxy with CONNECT, as RFC 6455,
// section 4.1 requires. http.Transport uses CONNECT for https only. It would send
// a ws:// upgrade to the proxy as a plain request, which few proxies understand.
type tunnel struct {
	transport  *http.Transport // the caller's
	proxy      *url.URL
	connecting atomic.Bool // the tunnel is not open yet
}

// throughProxy returns base, or a tunnel if base names a proxy for req.
func throughProxy(base http.RoundTripper, req *http.Request) (http.RoundTripper, error) {
	t, ok := base.(*http.Transport)
	if !ok || t.Proxy == nil {
		return base, nil
	}
	proxy, err := t.Proxy(req)
	if err != nil {
		// The text of err may hold the proxy's address with its credentials.
		return nil, &ProxyError{Host: "unknown", Err: errors.New("Transport.Proxy cannot name it; check HTTP_PROXY or the function")}
	}
	if proxy == nil || req.URL.Scheme != "http" || proxy.Scheme != "http" && proxy.Scheme != "https" {
		return base, nil // no proxy, or http.Transport handles it
	}
	return &tunnel{transport: t, proxy: proxy}, nil
}

func (t *tunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	transport := t.transport.Clone()
	transport.Proxy = nil
	transport.DisableKeepAlives = true // used once
	transport.DialContext = t.dial
	resp, err := transport.RoundTrip(req)
	var known *ProxyError
	if err != nil && !errors.As(err, &known) && t.connecting.Load() {
		return nil, &ProxyError{Host: t.proxy.Host, Err: err}
	}
	return resp, err
}

func (t *tunnel) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := t.transport.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	port := t.proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[t.proxy.Scheme]
	}
	t.connecting.Store(true)
	nc, err := dial(ctx, network, net.JoinHostPort(t.proxy.Hostname(), port))
	if err != nil {
		return nil, &ProxyError{Host: t.proxy.Host, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	proxyConn := nc
	if t.proxy.Scheme == "https" {
		proxyConn = tls.Client(nc, t.tlsConfig())
	}
	err = t.connect(ctx, proxyConn, addr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
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
	if f := t.transport.OnProxyConnectResponse; f != nil {
		if err := f(ctx, t.proxy, req, resp); err != nil {
			return err
		}
	}
	if err := checkConnectResponse(ctx, t.proxy, req, resp); err != nil {
		return err
	}
	if br.Buffered() > 0 {
		return fail(errors.New("sent data before the tunnel was open"))
	}
	return nil
}

// checkConnectResponse has the signature of http.Transport.OnProxyConnectResponse,
// so that a refused wss:// gets the same error.
func checkConnectResponse(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &ProxyError{Host: proxy.Host, Status: resp.StatusCode}
}
