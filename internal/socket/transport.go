package socket

//lint:file-ignore SA1019 A caller's transport may still set Dial and DialTLS.

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"
)

// sharedTransport serves every client without an HTTPClient of its own. It does
// not start from http.DefaultTransport: a program may have replaced that. It has no
// timeouts of its own: the attempt has one, which grows.
var sharedTransport = &http.Transport{
	Proxy:                  http.ProxyFromEnvironment,
	DialContext:            defaultDialer.DialContext,
	TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	MaxResponseHeaderBytes: 64 << 10,
	DisableKeepAlives:      true,
}

// defaultDialer makes sockets that notice a dead path by themselves: one on which nothing
// moves after three questions, and one that does not take what was written after
// userTimeout. Heartbeats find both as well; the system finds them also where a dialect has
// no pings, and while this program does nothing.
var defaultDialer = &net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3},
	Control:         setLimits,
}

// userTimeout is how long written bytes may wait for an acknowledgement, or for room at the
// peer, where the system has such a limit. Linux otherwise tries for a quarter of an hour.
const userTimeout = 30 * time.Second

// unsentLimit is how many bytes that were not sent yet a socket takes, where the system has
// such a limit. Linux otherwise takes megabytes, and then nothing until a third of them is
// gone: on a slow link that takes minutes, in which a write under TLS shows no progress.
const unsentLimit = 16 << 10

// ownTransport returns a copy of t for one attempt. The copy pools nothing, so a
// refusal closes its socket and a stalled dial holds up no other attempt.
func (s *sockets) ownTransport(t *http.Transport) *http.Transport {
	own := t.Clone()
	own.DisableKeepAlives = true
	// By default a transport with a dial function does not try HTTP/2.
	own.ForceAttemptHTTP2 = t.TLSNextProto["h2"] != nil // Clone has set it if t tries HTTP/2
	own.DialContext, own.Dial = s.dialer("Transport.DialContext", plainDial(t)), nil
	if dial := tlsDial(t); dial != nil {
		own.DialTLSContext, own.DialTLS = s.dialer("Transport.DialTLSContext", dial), nil
	}
	if t.Proxy != nil {
		own.Proxy = func(r *http.Request) (*url.URL, error) { return proxyFor(t, r) }
	}
	if f := t.GetProxyConnectHeader; f != nil {
		own.GetProxyConnectHeader = func(ctx context.Context, proxy *url.URL, target string) (h http.Header, err error) {
			defer recoverPanic("Transport.GetProxyConnectHeader", &err)
			h, err = f(ctx, proxy, target)
			return h, checked(err)
		}
	}
	own.OnProxyConnectResponse = func(ctx context.Context, proxy *url.URL, req *http.Request, resp *http.Response) (err error) {
		if f := t.OnProxyConnectResponse; f != nil {
			defer recoverPanic("Transport.OnProxyConnectResponse", &err)
			if err := f(ctx, proxy, req, resp); err != nil {
				return checked(err)
			}
		}
		return checkConnectResponse(proxy, resp)
	}
	if own.TLSClientConfig == nil {
		own.TLSClientConfig = new(tls.Config)
	}
	guardTLS(own.TLSClientConfig)
	return own
}

// plainDial is how t dials without TLS.
func plainDial(t *http.Transport) dialFunc {
	switch {
	case t.DialContext != nil:
		return t.DialContext
	case t.Dial != nil:
		return func(_ context.Context, network, addr string) (net.Conn, error) { return t.Dial(network, addr) }
	}
	return new(net.Dialer).DialContext
}

// tlsDial is the function with which t dials TLS; nil if it has none.
func tlsDial(t *http.Transport) dialFunc {
	switch {
	case t.DialTLSContext != nil:
		return t.DialTLSContext
	case t.DialTLS != nil:
		return func(_ context.Context, network, addr string) (net.Conn, error) { return t.DialTLS(network, addr) }
	}
	return nil
}
