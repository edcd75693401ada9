package limpet

import (
	"context"
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
	if l.dialer.path.ready(k.conn.Fallback) {
		l.c.notify.post(TransportChanged{Host: l.state.Host, Transport: k.conn.transport(), Status: k.conn.refusal})
	}
}

const (
	upgradeRefusedFor = time.Minute // no upgrade is tried after a refused one, if the fallback worked
	maxDied           = 3           // WebSocket connections in a row that may die in the handshake
)

// pathMemory is what a client knows about the path to its servers. The dialer uses it, one
// attempt at a time; the loop counts in died, and fallback is the loop's.
type pathMemory struct {
	fallback  bool         // the connection that was ready last was over the fallback
	died      atomic.Int32 // WebSocket connections in a row that died before they were ready
	refusedAt time.Time    // when an upgrade was refused, and the fallback worked
	host      string       // which host that was
}

// ready follows when a connection is ready. It reports whether that is over another transport
// than the one before it; WebSocket is before the first.
func (p *pathMemory) ready(fallback bool) (changed bool) {
	changed = fallback != p.fallback
	p.fallback = fallback
	if !fallback {
		p.died.Store(0)
	}
	return changed
}

// lost counts a WebSocket connection that died before it was ready and had received
// nothing: a close code or a violation shows that the path carries frames.
func (p *pathMemory) lost(f *wire.Failure) {
	if f.Stage != wire.StageHandshake {
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

// forget makes the next attempt begin with an upgrade.
func (p *pathMemory) forget() {
	p.died.Store(0)
	p.refusedAt = time.Time{}
}

// refusesUpgrade reports whether the path, and not the server or the caller, is why an
// upgrade failed, and there is time for another request. clear is of a ws:// URL.
func (p *pathMemory) refusesUpgrade(ctx context.Context, f *wire.Failure, clear bool) bool {
	var user *fault.User // of Ticket or the dialect: the upgrade was not tried
	var answer *socket.AnswerError
	switch {
	case errors.As(f.Err, &user):
		return false
	case errors.As(f.Err, &answer): // it was connected, and the upgrade had no answer
		return p.died.Add(1) >= maxDied && ctx.Err() == nil
	}
	return socket.RefusedByPath(f, clear)
}

// fellBack follows when the fallback works. skipped is whether no upgrade was tried before it.
func (p *pathMemory) fellBack(host string, skipped bool) {
	if !skipped || p.died.Load() >= maxDied {
		p.host, p.refusedAt = host, time.Now()
	}
	p.died.Store(0)
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
		upgraded = x.make((*dialer).upgrade)
		if upgraded.failure == nil || !p.refusesUpgrade(x.ctx, upgraded.failure, x.task.url.Scheme == "ws") {
			return upgraded
		}
	}
	result := x.make((*dialer).fallBack)
	switch {
	case result.failure == nil:
		if p.fellBack(host, skip); !skip {
			result.conn.refusal = upgraded.failure.Status
		}
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
