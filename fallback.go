package limpet

import (
	"errors"
	"log/slog"
	"net/url"

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
	if l.dialer.path.Ready(k.conn.Fallback) {
		l.c.notify.post(TransportChanged{Host: l.state.Host, Transport: k.conn.transport(), Status: k.conn.refusal})
	}
}

// fallBack is a connector. A redirect of its GET is not followed.
func (*dialer) fallBack(requests *socket.Requests, w *wire.Attempt, _ url.Values, o socket.Options) (*socket.Conn, *wire.Failure) {
	return requests.Fallback(w, o)
}

// upgradeOrFallBack tries WebSocket, and plain HTTP requests where the path refuses that.
func (x *dialing) upgradeOrFallBack() dialed {
	p, host := &x.path, x.task.url.Host
	skip := p.SkipsUpgrade(host)
	var upgraded dialed
	if !skip {
		upgraded = x.make((*dialer).upgrade)
		if upgraded.failure == nil || !p.RefusesUpgrade(x.ctx, upgraded.failure, x.task.url.Scheme == "ws") {
			return upgraded
		}
	}
	result := x.make((*dialer).fallBack)
	switch {
	case result.failure == nil:
		if p.FellBack(host, skip); !skip {
			result.conn.refusal = upgraded.failure.Status
		}
		return result
	case errors.Is(result.failure.Err, socket.ErrNoFallback) && skip:
		p.Forget()
		return x.make((*dialer).upgrade)
	case errors.Is(result.failure.Err, socket.ErrNoFallback):
		return upgraded
	}
	p.Forget() // the next attempt tries both
	return result
}
