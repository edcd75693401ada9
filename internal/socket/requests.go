package socket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Requests makes the HTTP requests of one attempt to connect: the steps of the
// dialect and the upgrade. Whatever they leave behind ends with End or with the
// context, except for the connection that was upgraded.
//
// A transport of another type than *http.Transport must end what it began when the context
// of its request ends: nothing else can.
type Requests struct {
	ctx      context.Context
	client   *http.Client
	insecure bool // clear text may reach other machines
	sockets  *sockets
	own      []*http.Transport
	stop     func() bool
}

// returnWithin is how long requests may take to return once their context has
// ended.
const returnWithin = 50 * time.Millisecond

// NewRequests begins an attempt that ends with ctx. client may be nil; without a
// transport it gets the shared one. insecure permits clear text to other machines.
// dials counts the calls of dial functions that are in progress, of all attempts.
func NewRequests(ctx context.Context, client *http.Client, insecure bool, dials *atomic.Int32) *Requests {
	r := &Requests{ctx: ctx, client: &http.Client{}, insecure: insecure}
	if client != nil {
		*r.client = *client
	}
	if r.client.Transport == nil {
		r.client.Transport = sharedTransport
	}
	r.sockets = &sockets{ctx: ctx, dials: dials, open: make(map[net.Conn]struct{})}
	// Until then the requests themselves return, with the error of ctx and not with
	// that of a closed socket.
	r.stop = context.AfterFunc(ctx, func() { time.AfterFunc(returnWithin, r.sockets.close) })
	return r
}

// End ends the attempt. It closes every socket that was not upgraded.
func (r *Requests) End() {
	r.stop()
	r.sockets.close()
	for _, t := range r.own {
		t.CloseIdleConnections()
	}
}

// maxStepBody bounds the body of the answer to a step.
const maxStepBody = 64 << 10

// Step makes one of the dialect's HTTP requests.
func (r *Requests) Step(s *wire.Request) (*wire.Response, error) {
	ctx, traced := r.trace(clearText(s.URL))
	req, err := http.NewRequestWithContext(ctx, s.Method, s.URL, bytes.NewReader(s.Body))
	if err != nil {
		return nil, err
	}
	for k, v := range s.Header {
		req.Header[k] = v
	}
	if host := s.Header.Get("Host"); host != "" {
		req.Host = host
	}
	client := *r.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if t, ok := client.Transport.(*http.Transport); ok {
		own := r.sockets.ownTransport(t)
		if traced.local {
			own.Proxy = nil
		}
		r.own = append(r.own, own)
		client.Transport = own
	}
	resp, err := client.Do(req)
	if refused := traced.refused(); refused != nil {
		err = refused
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStepBody+1)) // ends with ctx
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxStepBody:
		return nil, fmt.Errorf("the answer to an HTTP step has more than %d bytes", maxStepBody)
	}
	return &wire.Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// roundTripUpgrade makes the upgrade request. direct means that the body of the
// response is the socket itself, or TLS above it: nothing of the caller's.
func (r *Requests) roundTripUpgrade(req *http.Request) (resp *http.Response, direct bool, err error) {
	t, ok := r.client.Transport.(*http.Transport)
	if !ok {
		resp, err = r.client.Transport.RoundTrip(req)
		return resp, false, err
	}
	local := !r.insecure && req.URL.Scheme == "http"
	base, own, err := r.sockets.throughProxy(t, req, local)
	if err != nil {
		return nil, false, err
	}
	r.own = append(r.own, own)
	resp, err = base.RoundTrip(req)
	return resp, true, err
}

// clearText reports whether a request to rawURL is not encrypted.
func clearText(rawURL string) bool {
	u, err := url.Parse(rawURL)
	return err == nil && (strings.EqualFold(u.Scheme, "ws") || strings.EqualFold(u.Scheme, "http"))
}

// RemoteError means that clear text would have reached another machine. Nothing
// was sent.
type RemoteError struct{ Addr string }

func (e *RemoteError) Error() string {
	return "the host is " + e.Addr + ", another machine, and the connection would not be encrypted; use wss:// or set Options.AllowInsecure"
}

// traced is the connection that carries a request.
type traced struct {
	local bool // only this machine may be reached

	mu     sync.Mutex
	nc     net.Conn
	remote *RemoteError
}

// trace returns a context for one request and what becomes known of its
// connection. What counts as this machine is the address that was dialled, not a
// name, and it is checked before anything is sent.
func (r *Requests) trace(clear bool) (context.Context, *traced) {
	t := &traced{local: clear && !r.insecure}
	return httptrace.WithClientTrace(r.ctx, &httptrace.ClientTrace{GotConn: t.gotConn}), t
}

func (t *traced) gotConn(info httptrace.GotConnInfo) {
	var remote *RemoteError
	if addr := info.Conn.RemoteAddr(); t.local && !onThisMachine(addr) {
		remote = &RemoteError{addr.String()}
	}
	t.mu.Lock()
	t.nc, t.remote = info.Conn, remote
	t.mu.Unlock()
	if remote != nil {
		closeSocket(info.Conn)
	}
}

func (t *traced) conn() net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nc
}

func (t *traced) refused() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.remote == nil {
		return nil
	}
	return t.remote
}

func (t *traced) close() {
	if nc := t.conn(); nc != nil {
		closeSocket(nc)
	}
}

// onThisMachine reports whether addr is a loopback address, or none of an IP
// network: a Unix socket, or what a dial function of the caller made up.
func onThisMachine(addr net.Addr) bool {
	if addr == nil {
		return true
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return true
	}
	host, _, _ = strings.Cut(host, "%")
	ip := net.ParseIP(host)
	return ip == nil || ip.IsLoopback()
}
