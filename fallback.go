package limpet

import (
	"errors"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// Transport is what carries a connection: see State.Transport.
type Transport string

// The transports.
const (
	TransportWebSocket Transport = "websocket"
	TransportHTTP      Transport = "http" // plain requests: see Options.Fallback
)

// ErrAffinity means that a POST of the fallback has reached another server than its GET. A
// balancer must send all requests of a client to one server, by its address or by a cookie:
// see docs/fallback.md. The client backs off and tries again.
var ErrAffinity = socket.ErrOtherServer

// TransportChanged reports that a connection is ready over another transport than the one
// before it, or that the first one is over plain HTTP requests.
type TransportChanged struct {
	// Host is the host and port of the endpoint: State.Host.
	Host string
	// Transport carries the connection.
	Transport Transport
	// Status is the HTTP status that refused the upgrade; 0 if nothing did in this attempt.
	Status int
}

func (e TransportChanged) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("host", e.Host), slog.String("transport", string(e.Transport))}
	if e.Transport != TransportHTTP {
		return slog.LevelInfo, "limpet: fallback ends", attrs
	}
	if e.Status != 0 {
		attrs = append(attrs, slog.Int("status", e.Status))
	}
	return slog.LevelInfo, "limpet: fallback begins", attrs
}

func (v *validation) fallback(c *config) {
	if c.Fallback && !c.traits.Fallback {
		v.refuse("Options.Fallback", "needs a dialect whose servers speak it, which is limpet.v1; remove it for %s", c.Dialect.Name())
	}
}

func (c *conn) transport() Transport {
	if c.Fallback {
		return TransportHTTP
	}
	return TransportWebSocket
}

// followTransport follows when a connection is ready.
func (l *loop) followTransport(k *link) {
	path := &l.dialer.path
	now, before := k.conn.transport(), path.readyOver
	path.readyOver = now
	if now == TransportWebSocket {
		path.died.Store(0)
	}
	if now != before && (before != "" || now == TransportHTTP) {
		l.c.notify.post(TransportChanged{Host: l.state.Host, Transport: now, Status: k.conn.refusal})
	}
}

const (
	upgradeRefusedFor = time.Minute // no upgrade is tried after a refused one, if the fallback worked
	maxDied           = 3           // WebSocket connections in a row that may die in the handshake
)

// pathMemory is what a client knows about the path to its servers. The dialer uses it, one
// attempt at a time; the loop counts in died, and readyOver is the loop's.
type pathMemory struct {
	readyOver Transport    // of the connection that was ready last
	died      atomic.Int32 // WebSocket connections in a row that died before they were ready
	refusedAt time.Time    // when an upgrade was refused, and the fallback worked
	host      string       // which host that was
}

// follow counts a WebSocket connection that died before it was ready and had received
// nothing: a close code or a violation shows that the path carries frames.
func (p *pathMemory) follow(k *link, f *wire.Failure) {
	if k == nil || f.Stage != wire.StageHandshake || k.conn.Fallback {
		return
	}
	var violation *wire.CodeError
	var user *fault.User
	switch {
	case f.Code != 0 || errors.As(f.Err, &violation):
		p.died.Store(0)
	case !errors.As(f.Err, &user):
		p.died.Add(1)
	}
}

// skipsUpgrade reports whether an attempt to connect to host should not begin with an
// upgrade.
func (p *pathMemory) skipsUpgrade(host string) bool {
	return p.died.Load() >= maxDied || p.host == host && !p.refusedAt.IsZero() && time.Since(p.refusedAt) < upgradeRefusedFor
}

func (p *pathMemory) forget() {
	p.died.Store(0)
	p.refusedAt = time.Time{}
}

// refusesUpgrade reports whether the path, and not the server or the caller, refused an
// upgrade, and there is time for another request.
func (x *dialing) refusesUpgrade(r dialed) bool {
	if r.failure == nil {
		return false
	}
	var user *fault.User // of Ticket or the dialect: the upgrade was not tried
	var answer *socket.AnswerError
	switch {
	case errors.As(r.failure.Err, &user):
		return false
	case errors.As(r.failure.Err, &answer): // it was connected, and the upgrade had no answer
		return x.path.died.Add(1) >= maxDied && x.ctx.Err() == nil
	}
	return socket.RefusedByPath(r.failure, x.task.url.Scheme == "ws")
}

// fallBack is a connector. A redirect of its GET is not followed.
func (*dialer) fallBack(requests *socket.Requests, w *wire.Attempt, _ url.Values, o socket.Options) (*socket.Conn, *wire.Failure) {
	return requests.Fallback(w, o)
}

// upgradeOrFallBack tries WebSocket, and plain HTTP requests where the path refuses that.
func (x *dialing) upgradeOrFallBack() dialed {
	p, host := &x.path, x.task.url.Host
	skip := p.skipsUpgrade(host)
	var upgraded dialed
	if !skip {
		if upgraded = x.make((*dialer).upgrade); !x.refusesUpgrade(upgraded) {
			return upgraded
		}
	}
	result := x.make((*dialer).fallBack)
	switch {
	case result.failure == nil:
		if !skip || p.died.Load() >= maxDied {
			p.host, p.refusedAt = host, time.Now()
		}
		if !skip {
			result.conn.refusal = upgraded.failure.Status
		}
		p.died.Store(0)
		return result
	case errors.Is(result.failure.Err, socket.ErrNoFallback) && skip:
		p.forget()
		return x.make((*dialer).upgrade)
	case errors.Is(result.failure.Err, socket.ErrNoFallback):
		return upgraded
	}
	p.forget() // the next attempt tries both
	return result
}
