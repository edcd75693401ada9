package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

const (
	watchEvery  = 500 * time.Millisecond  // how often the engine is asked for its health
	filesEvery  = 5 * time.Second         // how often the files of the certificate are looked at
	engineGrace = time.Second             // for which an engine may be away before the clients are sent elsewhere
	awaySpread  = 1500 * time.Millisecond // over which they leave then; one that waits for an answer of the engine is closed at the end

	leaveGrace   = time.Second     // for the last clients to leave, after half of their time more
	closeTimeout = 5 * time.Second // for connections that are closed
)

// errDraining is why a gateway that is about to end is not healthy.
var errDraining = errors.New("the gateway is shutting down")

// health is whether the gateway should get new connections.
type health struct {
	mu       sync.Mutex // leaf
	draining bool
	engine   error     // of the last look
	since    time.Time // when engine has become an error
	sent     bool      // the clients have been sent elsewhere since
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return errDraining
	}
	return h.engine
}

func (h *health) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// note takes up what the engine says now. changed reports whether it is another state than before, and leave whether
// the clients should go elsewhere.
func (h *health) note(err error, now time.Time) (changed, leave bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = (h.engine == nil) != (err == nil)
	h.engine = err
	switch {
	case err == nil:
		h.sent = false
	case changed:
		h.since = now
	case !h.sent && !h.draining && now.Sub(h.since) >= engineGrace:
		h.sent = true
		return changed, true
	}
	return changed, false
}

// watch looks at the engine until ctx ends. If it is away for longer than engineGrace, the clients are asked to go
// elsewhere: at another gateway it may be in reach.
func (n *Node) watch(ctx context.Context) {
	tick, files := time.NewTicker(watchEvery), time.NewTicker(filesEvery)
	defer tick.Stop()
	defer files.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			n.lookAtEngine(now)
			n.lookAtWork(now)
		case <-files.C:
			n.lookAtFiles()
		}
	}
}

func (n *Node) lookAtEngine(now time.Time) {
	err := n.engine.Health()
	n.admitted.EngineAway(err != nil) // a proxy that asks nothing learns it from the answer to an upgrade
	changed, leave := n.health.note(err, now)
	switch {
	case changed && err != nil:
		n.log.Error("the engine cannot be used", "engine", n.cfg.Engine, "error", err)
	case changed:
		n.log.Info("the engine can be used again", "engine", n.cfg.Engine)
	}
	if leave {
		clients := n.server.Drain(&server.DrainOptions{Spread: awaySpread, Deadline: awaySpread})
		n.log.Warn("clients are asked to go elsewhere, because the engine cannot be used", "clients", clients)
	}
}

// lookAtWork looks at whether the engine is over its budget, and at what NATS publishers have sent in vain.
func (n *Node) lookAtWork(now time.Time) {
	e, ok := n.engine.(shared)
	if !ok {
		return
	}
	switch changed, busy, why := n.admitted.Look(e.work(), now); {
	case changed && busy:
		n.log.Warn("new connections are refused: the engine is over engine-budget", "engine", n.cfg.Engine, "budget", n.cfg.EngineBudget, "reason", why)
	case changed:
		n.log.Info("new connections are taken again", "engine", n.cfg.Engine)
	}
	count, last := e.leftOut()
	if more := n.leftOut.note(count, now); more > 0 {
		n.log.Warn("messages of NATS publishers were left out", "messages", more, "last", last)
	}
}

// leftOut is what was said of messages that were left out: it is said once in logEvery at most.
type leftOut struct {
	said uint64
	at   time.Time
}

// logEvery bounds how often something that others can cause is logged.
const logEvery = time.Minute

// note returns how many messages are to be reported; 0: nothing is to be said now.
func (l *leftOut) note(count uint64, now time.Time) (more uint64) {
	if count == l.said || !l.at.IsZero() && now.Sub(l.at) < logEvery {
		return 0
	}
	more = count - l.said
	l.said, l.at = count, now
	return more
}

func (n *Node) lookAtFiles() {
	if n.certificate == nil {
		return
	}
	switch changed, err := n.certificate.reload(); {
	case err != nil:
		n.log.Error("the new certificate cannot be used; the one before stays", "error", err)
	case changed:
		n.log.Info("the certificate was read again")
	}
}

// healthz answers whether the gateway should get new connections.
func (n *Node) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := n.health.err(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// livez answers whether the process works: with the engine file not, after an error that only a restart can end.
func (n *Node) livez(w http.ResponseWriter, _ *http.Request) {
	if err := n.engine.Health(); errors.Is(err, file.ErrUncertain) {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// leave ends the service in order: clients get time to go elsewhere, and what is left is closed then.
func (n *Node) leave() error {
	began := time.Now()
	n.health.drain()
	n.log.Info("shutting down: /healthz fails now", "wait", n.cfg.DrainWait)
	<-time.After(n.cfg.DrainWait)
	if clients := n.server.Drain(&server.DrainOptions{Spread: n.cfg.DrainSpread}); clients > 0 {
		n.log.Info("clients are asked to leave", "clients", clients, "spread", n.cfg.DrainSpread)
	}
	tick := time.NewTicker(watchEvery / 10)
	defer tick.Stop()
	for end := time.Now().Add(n.cfg.DrainSpread + n.cfg.DrainSpread/2 + leaveGrace); n.server.Stats().Conns > 0 && time.Now().Before(end); {
		<-tick.C
	}
	left := n.server.Stats().Conns
	closing, stop := context.WithTimeout(context.Background(), closeTimeout)
	defer stop()
	err := n.server.Shutdown(closing)
	n.log.Info("shut down", "closed", left, "took", time.Since(began).Round(time.Millisecond))
	return err
}
