package interop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// haproxy is docs/deploying/haproxy.cfg at work.
type haproxy struct {
	*program
	addr   string
	url    string // of a client
	file   string
	config *tls.Config
}

// newHAProxy makes the configuration for up to three nodes, with further changes.
func newHAProxy(t *testing.T, nodes []string, oldNew ...string) *haproxy {
	t.Helper()
	pem, config := certificate(t)
	h := &haproxy{addr: freeAddr(t), config: config}
	h.url = "wss://" + h.addr
	changes := []string{"bind :443", "bind " + h.addr, "/etc/haproxy/feed.example.com.pem", pem, "inter 1s", "inter 50ms", "maxconn 20000", "maxconn 500"}
	for i := range 3 {
		line, server := fmt.Sprintf("server node%d 10.0.0.%d:8080", i+1, i+1), ""
		if i < len(nodes) {
			server = fmt.Sprintf("server node%d %s", i+1, nodes[i])
		}
		changes = append(changes, line, server)
	}
	h.file = configure(t, "../docs/deploying/haproxy.cfg", append(changes, oldNew...)...)
	return h
}

// start starts HAProxy. One that runs already hands its port over and ends, as with a reload.
func (h *haproxy) start(t *testing.T) {
	t.Helper()
	command := []string{"/usr/sbin/haproxy", "-db", "-f", h.file}
	if h.program != nil {
		command = append(command, "-sf", fmt.Sprint(h.cmd.Process.Pid))
	}
	h.program = startProgram(t, h.addr, command...)
}

// A node that is down is a 503 of HAProxy, and passes. The limit of HAProxy is a 429 with a time.
func TestHAProxyRefuses(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	h := newHAProxy(t, []string{addr}, "gt 100", "gt 5", "http_req_rate(10s)", "http_req_rate(2s)")
	h.start(t)
	began := time.Now()
	c := newClient(t, h.url, h.config, limpet.Options{Backoff: limpet.Backoff{First: -1, Initial: 10 * time.Millisecond, Max: 10 * time.Millisecond}})
	st := waitFor(t, c, func(s limpet.State) bool { return s.Cause != nil })
	var e *limpet.Error
	if !errors.As(st.Cause, &e) || e.Code != 503 || e.Class != limpet.ClassOverload {
		t.Errorf("%v", st.Cause)
	}
	st = waitFor(t, c, func(s limpet.State) bool {
		return s.Phase == limpet.Waiting && errors.As(s.Cause, &e) && e.Code == 429
	})
	if e.Class != limpet.ClassOverload || st.NextAttempt.Sub(began) < 2*time.Second {
		t.Errorf("next attempt after %v: %v", st.NextAttempt.Sub(began), st.Cause)
	}
	startBackend(t, addr, newSharedLog())
	ready(t, c, 1)
}

// After a reload the old process ends the connections that it still has. Nothing is lost or
// doubled.
func TestHAProxyReload(t *testing.T) {
	t.Parallel()
	log := newSharedLog()
	a := startBackend(t, "", log)
	h := newHAProxy(t, []string{a.addr}, "hard-stop-after 30s", "hard-stop-after 500ms")
	h.start(t)
	tr := startTraffic(t, h.url, h.config)
	for i := range uint64(2) {
		tr.more(t, 100)
		old := h.program
		h.start(t)
		<-old.ended
		ready(t, tr.publisher, i+2)
		ready(t, tr.consumer, i+2)
	}
	tr.more(t, 100)
	tr.finish(t, log)
}

// Each of three nodes leaves in turn and comes back, under load. Nothing is lost and nothing
// doubled, although the nodes share nothing but the log: what a node has accepted it
// acknowledges before it leaves.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	testRestarts(t, server.NewMemoryLog(server.Retention{}), func(n *backend) { n.stop(t) })
}

// A node that is killed acknowledges nothing, and its client sends the messages again to another
// node. A log that knows the ids of all nodes takes each once.
func TestNodesAreKilled(t *testing.T) {
	t.Parallel()
	testRestarts(t, newSharedLog(), (*backend).kill)
}

// testRestarts ends each of three nodes behind HAProxy twice and starts it again.
func testRestarts(t *testing.T, log server.Log, end func(*backend)) {
	var nodes []*backend
	var addrs []string
	for range 3 {
		nodes = append(nodes, startBackend(t, "", log))
		addrs = append(addrs, nodes[len(nodes)-1].addr)
	}
	h := newHAProxy(t, addrs)
	h.start(t)
	tr := startTraffic(t, h.url, h.config)
	for range 2 {
		for i, n := range nodes {
			tr.more(t, 100)
			end(n)
			nodes[i] = startBackend(t, n.addr, log)
		}
	}
	tr.more(t, 100)
	if n := tr.publisher.Stats().Connections + tr.consumer.Stats().Connections; n < 4 {
		t.Errorf("%d connections: the nodes that ended had none", n)
	}
	tr.finish(t, log)
}
