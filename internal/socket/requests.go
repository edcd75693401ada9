package socket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
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
	ctx, traced, err := r.trace(s.URL)
	if err != nil {
		return nil, err
	}
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
		traced.noteProxy(own)
		r.own = append(r.own, own)
		client.Transport = own
	}
	resp, err := client.Do(req)
	if err = traced.explain(err); err != nil {
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
	return &wire.Response{Status: resp.StatusCode, Header: CanonicalHeader(resp.Header), Body: body}, nil
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

// Loopback reports whether host can be this machine. Of a name the address that is
// dialled decides.
func Loopback(host string) bool {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host) // with or without a zone
	return err == nil && addr.Unmap().IsLoopback()
}

// RemoteError means that clear text would have reached another machine. Nothing
// was sent.
type RemoteError struct{ Addr string }

func (e *RemoteError) Error() string {
	return "the host is " + e.Addr + ", another machine, and the connection would not be encrypted; use wss:// or set Options.AllowInsecure"
}

// traced is the connection that carries a request.
type traced struct {
	local   bool     // only this machine may be reached
	sockets *sockets // that take the connection in: of an upgrade by a transport of the caller's type

	anyVersion bool // of HTTP will do: nothing is upgraded

	mu       sync.Mutex
	nc       net.Conn
	remote   *RemoteError
	tls      error    // why the TLS handshake failed
	proxy    *url.URL // that net/http uses
	answered bool     // the first byte of an answer has come

	certificate string // what the server got that asked for a certificate of the client
}

// trace returns a context for a request to rawURL and what becomes known of its
// connection. What counts as this machine is the address that was dialled, and it is
// checked before anything is sent; a name that cannot be this machine is not dialled.
func (r *Requests) trace(rawURL string) (context.Context, *traced, error) {
	return r.traceIn(r.ctx, rawURL)
}

// traceIn is trace for a request that does not end with the attempt but with parent.
func (r *Requests) traceIn(parent context.Context, rawURL string) (context.Context, *traced, error) {
	t := &traced{local: clearText(rawURL) && !r.insecure}
	if u, err := url.Parse(rawURL); err == nil && t.local && !Loopback(u.Hostname()) {
		return nil, nil, &RemoteError{u.Hostname()}
	}
	return httptrace.WithClientTrace(context.WithValue(parent, tracedKey{}, t), &httptrace.ClientTrace{
		GotConn: t.gotConn, TLSHandshakeDone: t.tlsDone, GotFirstResponseByte: t.gotByte,
	}), t, nil
}

type tracedKey struct{} // of a *traced in the context of its request

// chooseCertificate answers the server's request for a certificate with what choose returns.
func chooseCertificate(info *tls.CertificateRequestInfo, choose func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	c, err := choose()
	t, ok := info.Context().Value(tracedKey{}).(*traced)
	if !ok { // of a proxy
		return c, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.certificate = "the server asked for a client certificate and got one, which it may have refused"
	if c == nil || len(c.Certificate) == 0 {
		t.certificate = "the server asked for a client certificate and got none; set TLSClientConfig of the Transport in Options.HTTPClient"
	}
	return c, err
}

func (t *traced) gotByte() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered = true
}

func (t *traced) tlsDone(_ tls.ConnectionState, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tls = err
}

// noteProxy makes t know the proxy that transport uses.
func (t *traced) noteProxy(transport *http.Transport) {
	if f := transport.Proxy; f != nil {
		transport.Proxy = func(r *http.Request) (*url.URL, error) {
			proxy, err := f(r)
			t.mu.Lock()
			t.proxy = proxy
			t.mu.Unlock()
			return proxy, err
		}
	}
}

// explain returns err, the error of the request, with how far the request came.
func (t *traced) explain(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var known *ProxyError
	var op *net.OpError
	switch {
	case t.remote != nil:
		return t.remote
	case err == nil || errors.As(err, &known):
		return err
	case t.proxy != nil && errors.As(err, &op) && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		return &ProxyError{Host: t.proxy.Host, Err: op.Err}
	case t.tls != nil:
		return &TLSError{withoutURL(err), t.certificate}
	case errors.As(err, &op) && op.Op == "remote error": // an alert after the handshake, as TLS 1.3 sends it for a certificate
		return &TLSError{op, t.certificate}
	case !t.anyVersion && speaksHTTP2(t.nc) || strings.Contains(err.Error(), "http2: invalid Upgrade request header"): // of net/http, which has no value for it
		return &TransportError{"it speaks HTTP/2, where no connection can be upgraded: let its Transport, or the function that dials TLS in it, offer HTTP/1.1 alone"}
	case t.sockets != nil && t.answered && errors.Is(err, net.ErrClosed):
		return &TransportError{"its Transport did not return although the server had answered: it must not read the body of a 101, which is the connection"}
	case t.nc != nil:
		broken := &AnswerError{withoutURL(err)}
		if t.certificate != "" && !t.answered && broken.ended() {
			return &TLSError{broken, t.certificate} // a reset overtakes the alert
		}
		return broken
	}
	return err
}

// speaksHTTP2 reports whether the TLS of nc has agreed on HTTP/2.
func speaksHTTP2(nc net.Conn) bool {
	layer, ok := nc.(*tls.Conn)
	return ok && layer.ConnectionState().NegotiatedProtocol == "h2"
}

// TransportError is a fault of the caller's transport. Its text goes on from the name of the
// option.
type TransportError struct{ text string }

func (e *TransportError) Error() string { return e.text }

// CanonicalHeader returns a copy of h in which each name has its canonical form. Where a
// name is there in another form as well, that one counts: it is not a default.
func CanonicalHeader(h http.Header) http.Header {
	own := make(http.Header, len(h))
	for name, values := range h {
		canonical := http.CanonicalHeaderKey(name)
		if _, set := own[canonical]; !set || name != canonical {
			own[canonical] = slices.Clone(values)
		}
	}
	return own
}

// MergeHeader returns the headers of an upgrade request. Those of the credential replace
// others of the same name, however it is spelled.
func MergeHeader(options, credential http.Header) http.Header {
	h := CanonicalHeader(options)
	maps.Copy(h, CanonicalHeader(credential))
	return h
}

// TLSError is a TLS handshake that failed. With TLS 1.3 the client has already begun to send
// the request when the server refuses its certificate.
type TLSError struct {
	Err         error
	Certificate string // what the server got that asked for one; empty if it did not ask
}

func (e *TLSError) Error() string {
	text := "TLS handshake: " + e.Err.Error()
	if e.Certificate != "" {
		text += " (" + e.Certificate + ")"
	}
	return text
}
func (e *TLSError) Unwrap() error { return e.Err }

// AnswerError means that a connection was made, and no HTTP answer came.
type AnswerError struct{ Err error }

func (e *AnswerError) Error() string {
	text := e.Err.Error()
	if strings.Contains(text, "readLoopPeekFailLocked") { // of net/http, which gives no reason here
		text = "the peer sent something before it had the request, so it is no HTTP server"
	}
	return "connected, but no answer to the request: " + text
}
func (e *AnswerError) Unwrap() error { return e.Err }

// Broken reports whether the connection broke, rather than that what came is not HTTP.
func (e *AnswerError) Broken() bool {
	var network net.Error
	return errors.Is(e.Err, io.EOF) || errors.Is(e.Err, io.ErrUnexpectedEOF) || errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, net.ErrClosed) ||
		errors.As(e.Err, &network) || strings.Contains(e.Err.Error(), "server closed idle connection") // net/http has no value for it
}

// ended reports whether the connection broke before its time was over.
func (e *AnswerError) ended() bool {
	return e.Broken() && !errors.Is(e.Err, context.Canceled) && !errors.Is(e.Err, context.DeadlineExceeded) && !isTimeout(e.Err)
}

// withoutURL returns the error in a *url.Error, which is itself a net.Error.
func withoutURL(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}

func (t *traced) gotConn(info httptrace.GotConnInfo) {
	var remote *RemoteError
	if addr := info.Conn.RemoteAddr(); t.local && !onThisMachine(addr) {
		remote = &RemoteError{addr.String()}
	}
	t.mu.Lock()
	t.nc, t.remote = info.Conn, remote
	t.mu.Unlock()
	late := t.sockets != nil && reflect.TypeOf(info.Conn).Comparable() && !t.sockets.add(info.Conn)
	if remote != nil || late {
		closeSocket(info.Conn)
	}
}

func (t *traced) conn() net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nc
}

func (t *traced) close() {
	if nc := t.conn(); nc != nil {
		closeSocket(nc)
	}
}

// machineName is the form of a name of DNS.
var machineName = regexp.MustCompile(`^[0-9A-Za-z._-]+$`)

// onThisMachine reports whether addr is a loopback address or a name of this machine, or
// none of an IP network: a Unix socket, or what a dial function of the caller made up.
func onThisMachine(addr net.Addr) bool {
	if addr == nil {
		return true
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		host = addr.String()
	}
	address, _, _ := strings.Cut(host, "%")
	if ip := net.ParseIP(address); ip != nil {
		return ip.IsLoopback()
	}
	return err != nil || !machineName.MatchString(host) || Loopback(host)
}
