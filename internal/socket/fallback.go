package socket

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strings"

	"github.com/limpet-go/limpet/internal/fallback"
	"github.com/limpet-go/limpet/wire"
)

// ErrNoFallback means that what answered the GET does not speak the fallback.
var ErrNoFallback = errors.New("what answers at this URL does not speak the fallback over HTTP")

// RefusedByPath reports whether f, the failure of an upgrade, is one after which the
// fallback is worth a request: an answer of something that does not pass an upgrade on, or
// of a filter. A server that refuses the client itself refuses the GET too. In clear text it
// may also be a proxy that opens no tunnels: the fallback needs none.
func RefusedByPath(f *wire.Failure, clear bool) bool {
	var proxy *ProxyError
	if clear && errors.As(f.Err, &proxy) && proxy.Status/100 >= 4 && proxy.Status != http.StatusProxyAuthRequired {
		return true
	}
	switch f.Status {
	case http.StatusSwitchingProtocols: // without what makes it one; or a proxy ends it
		return true
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusUpgradeRequired, http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return true
	}
	return f.Stage == wire.StageUpgrade && f.Status/100 == 2
}

// Fallback makes one connection over plain HTTP requests (docs/protocol.md, section 12):
// the frames are those of a WebSocket connection. The failure is nil on success; its Err is
// ErrNoFallback if the server does not speak it. The context of r bounds the attempt, not
// the connection.
func (r *Requests) Fallback(a *wire.Attempt, o Options) (*Conn, *wire.Failure) {
	if !canHash() {
		return nil, &wire.Failure{Stage: wire.StageDial, Err: ErrSHA1}
	}
	c := r.newCarrier(a, o)
	client := *r.client
	client.Transport = c
	ws, err := handshake(r.ctx, &client, a)
	if err != nil {
		c.Close()
		f := &wire.Failure{Stage: wire.StageDial, Err: withoutURL(err)}
		if c.answer.status != 0 {
			f.Stage, f.Status, f.Header, f.Body = wire.StageUpgrade, c.answer.status, c.answer.header, c.answer.body
		}
		return nil, f
	}
	kill := o.OnKill
	o.OnKill = func() { c.cancel(); kill() }
	conn := newConn(c.stream, c.library, ws, o)
	conn.Fallback = true
	return conn, nil
}

// carrier carries the bytes of a WebSocket connection over plain HTTP requests: those of
// the server in the body of the answer to one GET, those of the client in the bodies of
// POSTs, one at a time. One goroutine reads, one at a time writes.
type carrier struct {
	ctx      context.Context // of all requests; ends with Close
	cancel   context.CancelFunc
	requests *Requests // of the attempt
	attempt  *wire.Attempt
	sockets  *sockets     // of the connection
	client   *http.Client // for the POSTs; its transport is that of the GET
	own      *http.Transport
	stream   *stream
	library  *detachableStream
	body     io.ReadCloser // of the answer to the GET
	answer   struct {      // to a GET that was refused
		status int
		header http.Header
		body   []byte
	}
	posts posts
}

// newCarrier returns a carrier with a transport of its own, which keeps connections for
// the next POST.
func (r *Requests) newCarrier(a *wire.Attempt, o Options) *carrier {
	c := &carrier{requests: r, attempt: a, client: new(http.Client)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	*c.client = *r.client
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.sockets = &sockets{ctx: c.ctx, dials: r.sockets.dials, open: make(map[net.Conn]struct{}), reused: true}
	if t, ok := r.client.Transport.(*http.Transport); ok {
		c.own = c.sockets.ownTransport(t)
		c.own.DisableKeepAlives = false
		c.own.MaxConnsPerHost = 0 // the GET has one for itself
		c.own.ResponseHeaderTimeout = 0
		if clearText(a.URL) && !r.insecure {
			c.own.Proxy = nil
		}
		c.client.Transport = c.own
	}
	c.posts = posts{c: c, url: httpURL(cmp.Or(o.PostURL, a.URL)), spawn: o.Go, size: firstPost, room: make(chan struct{}, 1)}
	if c.own == nil {
		c.posts.spawn = func(f func()) bool { go f(); return true } // it may outlive the client, as the transport may
	}
	return c
}

// RoundTrip makes the GET for an upgrade request of the library. Where the server speaks
// the fallback it returns what the library expects of an upgrade.
func (c *carrier) RoundTrip(upgrade *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(upgrade.Context(), c.cancel)
	defer stop()
	ctx, traced, err := c.requests.traceIn(c.ctx, c.attempt.URL)
	if err != nil {
		return nil, err
	}
	traced.anyVersion = true
	if c.own != nil {
		traced.noteProxy(c.own)
	}
	get := upgrade.Clone(ctx)
	c.asGet(get.Header)
	resp, err := c.roundTrip(get)
	if err != nil {
		if cause := upgrade.Context().Err(); cause != nil {
			err = cause
		}
		return nil, traced.explain(err)
	}
	resp.Header = CanonicalHeader(resp.Header)
	id := resp.Header.Get(fallback.HeaderConnection)
	if _, ok := fallback.ParseConnectionID(id); resp.StatusCode != http.StatusOK || !ok || !fallback.IsStream(resp.Header.Values("Content-Type")) {
		c.refuse(resp)
		return nil, c.whyRefused()
	}
	if !stop() {
		closeBody(resp.Body)
		return nil, upgrade.Context().Err()
	}
	c.body = resp.Body
	c.stream = newStream(c, nil, false)
	c.stream.whole, c.stream.flush, c.stream.closeSoon = true, c.posts.flush, c.posts.closeSoon
	c.library = &detachableStream{stream: c.stream}
	c.preparePosts(get, resp, id)
	return c.asUpgraded(upgrade, resp), nil
}

// roundTrip makes one request with the transport of the carrier.
func (c *carrier) roundTrip(req *http.Request) (resp *http.Response, err error) {
	defer recoverPanic("the Transport of Options.HTTPClient", &err)
	resp, err = c.client.Transport.RoundTrip(req)
	if err == nil && (resp == nil || resp.Body == nil) {
		return nil, &TransportError{"its Transport returned no response"}
	}
	return resp, checked(err)
}

// asGet makes h, the headers of an upgrade request, those of the GET.
func (c *carrier) asGet(h http.Header) {
	offered := strings.Join(h.Values("Sec-Websocket-Protocol"), ", ")
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Version", "Sec-Websocket-Key", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
		h.Del(name)
	}
	h.Set(fallback.HeaderProtocol, offered)
	h.Set("Accept", fallback.MediaType)
	h.Set("Accept-Encoding", "identity") // what compresses, buffers
	h.Set("Cache-Control", "no-store")
}

// refuse keeps the answer to a GET that was refused.
func (c *carrier) refuse(resp *http.Response) {
	c.answer.status, c.answer.header = resp.StatusCode, resp.Header
	keepCookies(c.client.Jar, httpURL(c.attempt.URL), resp)
	c.answer.body = readBounded(resp.Body, bodyLimit)
}

// whyRefused returns ErrNoFallback if no server of the fallback can have answered so.
func (c *carrier) whyRefused() error {
	switch s := c.answer.status; {
	case s/100 == 2, s == http.StatusBadRequest, s == http.StatusNotFound, s == http.StatusMethodNotAllowed, s == http.StatusNotAcceptable,
		s == http.StatusUpgradeRequired, s == http.StatusNotImplemented:
		return ErrNoFallback
	}
	return errors.New("server refused the GET of the fallback")
}

// preparePosts makes what all POSTs have: the headers of the attempt, and the cookies that
// the answer to the GET has set, which may bind the client to one of several servers.
func (c *carrier) preparePosts(get *http.Request, resp *http.Response, id string) {
	p := &c.posts
	p.host = get.Host
	p.header = CanonicalHeader(c.attempt.Header)
	p.header.Del("Host")
	p.header.Set(fallback.HeaderConnection, id)
	p.header.Set("Content-Type", fallback.MediaType)
	if c.client.Jar == nil {
		c.client.Jar, _ = cookiejar.New(nil) // it never fails
		c.client.Jar.SetCookies(get.URL, resp.Cookies())
	}
}

// acceptGUID is from RFC 6455, section 1.3.
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// asUpgraded returns the answer that the library expects to its upgrade request.
func (c *carrier) asUpgraded(upgrade *http.Request, resp *http.Response) *http.Response {
	sum := sha1.Sum([]byte(upgrade.Header.Get("Sec-WebSocket-Key") + acceptGUID))
	h := resp.Header.Clone()
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	h.Del("Sec-WebSocket-Extensions")
	h.Del("Sec-WebSocket-Protocol")
	if chosen := h.Get(fallback.HeaderProtocol); chosen != "" {
		h.Set("Sec-WebSocket-Protocol", chosen)
	}
	return &http.Response{
		Status: "101 Switching Protocols", StatusCode: http.StatusSwitchingProtocols,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h, Body: c.library, Request: upgrade,
	}
}

// Read reads from the answer to the GET. After a refused POST it first reads what the
// server has still sent, such as a close frame.
func (c *carrier) Read(p []byte) (n int, err error) {
	defer recoverPanic(whereBody, &err)
	if n, err = c.body.Read(p); err != nil && n == 0 {
		CallMethods(err)
		if failed := c.posts.failure(); failed != nil {
			err = failed
		}
	}
	return n, err
}

// Write hands p to the POSTs and returns when they have room for all of it.
func (c *carrier) Write(p []byte) (int, error) { return c.posts.write(p) }

// Close ends every request and closes every socket. It never waits for the peer.
func (c *carrier) Close() error {
	c.cancel()
	c.posts.stop()
	c.sockets.close()
	if c.body != nil {
		closeBody(c.body)
	}
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
	return nil
}

// PostError is a POST that the server, or something in between, has refused.
type PostError struct {
	Status int
	Code   fallback.Code // "" if it was not the server
}

func (e *PostError) Error() string {
	switch {
	case e.Code == fallback.Misdirected:
		return ErrOtherServer.Error()
	case e.Code == "":
		return fmt.Sprintf("a POST of the fallback was answered %d %s, and not by the server", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("the server refused a POST of the fallback: %s (%d)", e.Code, e.Status)
}

// ErrOtherServer means that a POST has reached another server than the GET.
var ErrOtherServer = errors.New("a POST of the fallback has reached another server than its GET; " +
	"let the balancer send all requests of a client to one server, by its address or by a cookie")

// Is makes a misdirected POST ErrOtherServer.
func (e *PostError) Is(target error) bool {
	return target == ErrOtherServer && e.Code == fallback.Misdirected
}
