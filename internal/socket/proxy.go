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

// ProxyError is a failure between here and the far side of an HTTP proxy. It
// names the proxy without its credentials.
type ProxyError struct {
	Host   string
	Status int // its answer to CONNECT, 0 if there was none
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
// section 4.1 demands. http.Transport does so for https alone; a ws:// upgrade
// it would hand to the proxy as a request of its own, which few understand.
type tunnel struct {
	transport *http.Transport // the caller's
	proxy     *url.URL
	waiting   atomic.Bool // for the answer to CONNECT
}

// viaProxy returns base, or what takes req through the proxy that base names
// for it.
func viaProxy(base http.RoundTripper, req *http.Request) (http.RoundTripper, error) {
	t, ok := base.(*http.Transport)
	if !ok || t.Proxy == nil {
		return base, nil
	}
	proxy, err := t.Proxy(req)
	if err != nil {
		// Its text may hold the proxy's address with its credentials.
		return nil, &ProxyError{Host: "unknown", Err: errors.New("Transport.Proxy cannot name it; check HTTP_PROXY or the function")}
	}
	if proxy == nil || req.URL.Scheme != "http" || proxy.Scheme != "http" && proxy.Scheme != "https" {
		return base, nil // none, or http.Transport knows how
	}
	return &tunnel{transport: t, proxy: proxy}, nil
}

func (t *tunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	through := t.transport.Clone()
	through.Proxy = nil
	through.DisableKeepAlives = true // nobody else will use it
	through.DialContext = t.dial
	resp, err := through.RoundTrip(req)
	var named *ProxyError
	if err != nil && !errors.As(err, &named) && t.waiting.Load() {
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
	t.waiting.Store(true)
	nc, err := dial(ctx, network, net.JoinHostPort(t.proxy.Hostname(), port))
	if err != nil {
		return nil, &ProxyError{Host: t.proxy.Host, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	whole := nc
	if t.proxy.Scheme == "https" {
		whole = tls.Client(nc, t.tlsConfig())
	}
	err = t.connect(ctx, whole, addr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	t.waiting.Store(false)
	return whole, nil
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

// connect asks the proxy at the other end of nc for addr.
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
	if err := connected(ctx, t.proxy, req, resp); err != nil {
		return err
	}
	if br.Buffered() > 0 {
		return fail(errors.New("it speaks before it is spoken to"))
	}
	return nil
}

// connected has the form of http.Transport.OnProxyConnectResponse, so that the
// refusals of wss:// get the same error.
func connected(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &ProxyError{Host: proxy.Host, Status: resp.StatusCode}
}
