package socket

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
)

// Limits for reading the body of a refused upgrade.
const (
	bodyTimeout = 500 * time.Millisecond
	bodyLimit   = 1 << 10
)

// Options configure Dial.
type Options struct {
	// HTTPClient makes the upgrade request. Nil means HTTPClient(nil).
	HTTPClient *http.Client

	// ReadLimit bounds the bytes of one received message.
	ReadLimit int64

	// LibraryFrames leaves the frames to the WebSocket library.
	LibraryFrames bool

	// Go runs f on a goroutine, or returns false if none may be started any
	// more.
	Go func(f func()) bool

	// OnKill is called by Kill before it closes the socket, more than once if
	// Kill is.
	OnKill func()
}

// upgrade makes one upgrade request and keeps the response. It lets only a 101
// through to the library, so redirects are never followed and the body of a
// refusal is bounded in size and time.
type upgrade struct {
	base    http.RoundTripper
	nc      net.Conn // carried the request
	stream  *stream
	library *detachableStream // the same stream, as the library has it
	status  int
	header  http.Header
	body    []byte
}

var errNot101 = errors.New("server refused the upgrade")

func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	base, err := throughProxy(u.base, req)
	if err != nil {
		return nil, err
	}
	resp, err := base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	u.status, u.header = resp.StatusCode, resp.Header
	if resp.StatusCode != http.StatusSwitchingProtocols {
		u.body = readBounded(resp.Body, bodyLimit)
		return nil, errNot101
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, errors.New("transport does not hand the upgraded connection over")
	}
	u.stream = newStream(rwc, u.nc)
	u.library = &detachableStream{u.stream}
	resp.Body = u.library
	return resp, nil
}

func readBounded(body io.ReadCloser, limit int64) []byte {
	timer := time.AfterFunc(bodyTimeout, func() { body.Close() })
	defer timer.Stop()
	defer body.Close()
	b, _ := io.ReadAll(io.LimitReader(body, limit))
	return b
}

// sharedTransport serves every client without an HTTPClient of its own. An
// upgraded connection leaves it; a refused one is not kept.
var sharedTransport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	t.DisableKeepAlives = true
	t.ForceAttemptHTTP2 = false
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.OnProxyConnectResponse = checkConnectResponse
	return t
}()

// HTTPClient returns a copy of client, which may be nil. A client without a
// transport gets the shared one.
func HTTPClient(client *http.Client) *http.Client {
	if client == nil {
		return &http.Client{Transport: sharedTransport}
	}
	copied := *client
	if copied.Transport == nil {
		copied.Transport = sharedTransport
	}
	return &copied
}

// Dial makes one connection. The failure is nil on success. ctx bounds the
// attempt, not the connection.
func Dial(ctx context.Context, a *wire.Attempt, o Options) (*Conn, *wire.Failure) {
	client := HTTPClient(o.HTTPClient)
	up := &upgrade{base: client.Transport}
	client.Transport = up
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { up.nc = info.Conn },
	})
	ws, err := handshake(ctx, client, a)
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
	c := &Conn{stream: up.stream, Subprotocol: ws.Subprotocol(), LibraryFrames: o.LibraryFrames, onKill: o.OnKill}
	if c.LibraryFrames {
		c.ctx, c.cancel = context.WithCancel(context.Background())
		ws.SetReadLimit(o.ReadLimit)
		c.stream.counter = new(messageCounter)
		c.frames = &libraryFrames{conn: c, ws: ws, limit: o.ReadLimit}
	} else {
		// The library has done its part, the handshake. Its connection has read
		// nothing yet; closing it ends its goroutine.
		up.library.detach()
		ws.CloseNow()
		c.frames = frame.New(c.stream, frame.Options{
			ReadLimit: o.ReadLimit, Kill: c.Kill, Go: o.Go, Grew: c.stream.messageGrew,
		})
	}
	return c, nil
}
