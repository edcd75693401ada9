package endpoint

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

const (
	upgradeRefusedFor = time.Minute // no upgrade is tried after a refused one, if the fallback worked
	maxDied           = 3           // WebSocket connections in a row that may die in the handshake
)

// Path is what a client knows about the path to its servers, for Options.Fallback. Ready and
// Lost belong to one goroutine, and the other methods to attempts, one at a time; both may use
// it at once.
type Path struct {
	fallback  bool         // the connection that was ready last was over the fallback
	died      atomic.Int32 // WebSocket connections in a row that died before they were ready
	refusedAt time.Time    // when an upgrade was refused, and the fallback worked
	host      string       // which host that was

	refusals map[string]*wire.Failure // by host: of upgrades whose fallback is still to be tried
}

// Ready follows when a connection is ready. It reports whether that is over another transport
// than the one before it; WebSocket is before the first.
func (p *Path) Ready(fallback bool) (changed bool) {
	changed = fallback != p.fallback
	p.fallback = fallback
	if !fallback {
		p.died.Store(0)
	}
	return changed
}

// Lost counts a WebSocket connection that died before it was ready and had received
// nothing: a close code or a violation shows that the path carries frames.
func (p *Path) Lost(f *wire.Failure) {
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

// SkipsUpgrade reports whether an attempt to connect to host should not begin with an
// upgrade.
func (p *Path) SkipsUpgrade(host string) bool {
	return p.died.Load() >= maxDied || p.refusals[host] != nil || p.host == host && !p.refusedAt.IsZero() && time.Since(p.refusedAt) < upgradeRefusedFor
}

// KeepRefusal follows when an upgrade to host was refused with f, and the attempt has no turn for
// the fallback: the next one begins with that.
func (p *Path) KeepRefusal(host string, f *wire.Failure) {
	if p.refusals == nil || len(p.refusals) >= maxEndpoints {
		p.refusals = make(map[string]*wire.Failure)
	}
	p.refusals[host] = f
}

// TakeRefusal returns what KeepRefusal has kept for host, once.
func (p *Path) TakeRefusal(host string) *wire.Failure {
	f := p.refusals[host]
	delete(p.refusals, host)
	return f
}

// Forget makes the next attempt begin with an upgrade.
func (p *Path) Forget() {
	p.died.Store(0)
	p.refusedAt = time.Time{}
}

// RefusesUpgrade reports whether the path, and not the server or the caller, is why an
// upgrade failed, and there is time for another request. ctx is that of the attempt. clearText is of a ws:// URL.
func (p *Path) RefusesUpgrade(ctx context.Context, f *wire.Failure, clearText bool) bool {
	var user *fault.User // of Ticket or the dialect: the upgrade was not tried
	var answer *socket.AnswerError
	switch {
	case errors.As(f.Err, &user), errors.Is(ctx.Err(), context.Canceled): // or it was given up
		return false
	case errors.As(f.Err, &answer): // it was connected, and the upgrade had no answer
		return p.died.Add(1) >= maxDied && ctx.Err() == nil
	}
	return socket.RefusedByPath(f, clearText)
}

// FellBack follows when the fallback works. skipped is whether no upgrade was refused before it.
func (p *Path) FellBack(host string, skipped bool) {
	if !skipped || p.died.Load() >= maxDied {
		p.host, p.refusedAt = host, time.Now()
	}
	p.died.Store(0)
}
