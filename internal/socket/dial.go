package socket

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Limits for reading the body of a refused upgrade.
const (
	bodyTimeout = 500 * time.Millisecond
	bodyLimit   = 1 << 10
)

// Options configure Upgrade.
type Options struct {
	// ReadLimit bounds the bytes of one received message.
	ReadLimit int64

	// LibraryFrames leaves the frames to the WebSocket library.
	LibraryFrames bool

	// Go runs f on a goroutine, or returns false if none may be started any
	// more.
	Go func(f func()) bool

	// OnKill is called by Kill before it closes the socket.
	OnKill func()

	// PostURL is where the POSTs of Fallback go: the URL of the attempt without what can
	// be used once. Defaults to the URL of the attempt.
	PostURL string
}

// upgrade makes one upgrade request and keeps the response. It lets only a 101
// through to the library, so the library follows no redirect and the body of a
// refusal is bounded in size and time.
type upgrade struct {
	requests *Requests
	jar      http.CookieJar
	traced   *traced
	stream   *stream
	library  *detachableStream // the same stream, as the library has it
	status   int
	header   http.Header
	body     []byte
}

var errNot101 = errors.New("server refused the upgrade")

// ErrConnectionClose means that a 101 says "Connection: close". net/http then
// does not hand the connection over.
var ErrConnectionClose = errors.New("the 101 says Connection: close; a proxy in between may have added it")

// ErrSHA1 means that this process must not compute SHA-1, which RFC 6455, section
// 4.1 requires of a client.
var ErrSHA1 = errors.New("GODEBUG=fips140=only forbids SHA-1, which every WebSocket handshake needs; use fips140=on")

func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, direct, err := u.requests.roundTripUpgrade(req)
	switch {
	case err != nil:
		return nil, err
	case resp == nil || resp.Body == nil:
		return nil, &TransportError{"its Transport returned no response"}
	case !direct:
		resp.Header = CanonicalHeader(resp.Header)
	}
	u.status, u.header = resp.StatusCode, resp.Header
	if resp.StatusCode != http.StatusSwitchingProtocols {
		keepCookies(u.jar, req.URL, resp)
		u.body = readBounded(resp.Body, bodyLimit)
		u.traced.close() // the caller's pool may keep it, to the same instance that refused
		return nil, errNot101
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		closeBody(resp.Body)
		switch {
		case resp.Close:
			return nil, ErrConnectionClose
		case !direct && switches(resp.Header): // net/http would have handed the connection over
			u.status = 0
			return nil, &TransportError{fmt.Sprintf("its Transport has replaced the body of the 101 with a %T, which cannot be written to; "+
				"leave it as it is, or wrap it in an io.ReadWriteCloser", resp.Body)}
		}
		return nil, errors.New("the 101 lacks Connection: Upgrade or Upgrade: websocket")
	}
	if offered := strings.Join(resp.Header.Values("Sec-WebSocket-Extensions"), ","); strings.Trim(offered, ", ") != "" {
		closeBody(rwc)
		return nil, fmt.Errorf("the 101 has Sec-WebSocket-Extensions: %s, which the client has not offered (RFC 6455, section 9.1)", offered)
	}
	nc := u.traced.conn()
	if !u.requests.sockets.release(nc) {
		rwc.Close()
		return nil, net.ErrClosed
	}
	if !direct {
		rwc = guardedBody{rwc}
	}
	u.stream = newStream(rwc, nc, direct)
	u.library = &detachableStream{stream: u.stream}
	resp.Body = u.library
	return resp, nil
}

// keepCookies keeps the cookies of a refusal, which net/http does not see.
func keepCookies(jar http.CookieJar, u *url.URL, resp *http.Response) {
	if cookies := resp.Cookies(); jar != nil && len(cookies) > 0 {
		jar.SetCookies(u, cookies)
	}
}

// switches reports whether a 101 with these headers hands its connection over.
func switches(h http.Header) bool {
	return h.Get("Upgrade") != "" && strings.Contains(strings.ToLower(strings.Join(h.Values("Connection"), ",")), "upgrade")
}

func readBounded(body io.ReadCloser, limit int64) []byte {
	timer := time.AfterFunc(bodyTimeout, func() { closeBody(body) })
	defer timer.Stop()
	defer closeBody(body)
	b, _ := io.ReadAll(io.LimitReader(body, limit))
	return b
}

// canHash reports whether this process may compute SHA-1.
func canHash() (ok bool) {
	defer func() { ok = recover() == nil }()
	sha1.Sum(nil)
	return true
}

// Upgrade makes one connection. The failure is nil on success. The context of r
// bounds the attempt, not the connection.
func (r *Requests) Upgrade(a *wire.Attempt, o Options) (*Conn, *wire.Failure) {
	if !canHash() {
		return nil, &wire.Failure{Stage: wire.StageDial, Err: ErrSHA1}
	}
	client := *r.client
	ctx, traced, err := r.trace(a.URL)
	if err != nil {
		return nil, &wire.Failure{Stage: wire.StageDial, Err: err}
	}
	up := &upgrade{requests: r, jar: client.Jar, traced: traced}
	if _, own := client.Transport.(*http.Transport); !own {
		traced.sockets = r.sockets
	}
	client.Transport = up
	ws, err := handshake(ctx, &client, a)
	if client.Timeout > 0 && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("not connected within Options.HTTPClient.Timeout (%v): %w", client.Timeout, withoutURL(err))
	}
	explained := traced.explain(err)
	if remote := (*RemoteError)(nil); up.status == 0 || errors.As(explained, &remote) {
		err = explained
	}
	if err != nil {
		if up.stream != nil {
			up.stream.kill()
		}
		f := &wire.Failure{Stage: wire.StageDial, Err: err}
		if up.status != 0 {
			f.Stage, f.Status, f.Header, f.Body = wire.StageUpgrade, up.status, up.header, up.body
		}
		return nil, f
	}
	return newConn(up.stream, up.library, ws, o), nil
}
