package interop

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet/server"
)

// serve serves feed on l until ctx ends, then leaves in order. settle is longer than the proxy needs
// to notice what /readyz says; the clients leave within spread.
func serve(ctx context.Context, l net.Listener, feed *server.Server, settle, spread time.Duration) error {
	var leaving atomic.Bool
	mux := http.NewServeMux()
	mux.Handle("/", feed)
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if leaving.Load() {
			http.Error(w, "leaving", http.StatusServiceUnavailable)
		}
	})
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer web.Close()
	served := make(chan error, 1)
	go func() { served <- web.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done(): // of signal.NotifyContext, with SIGTERM
	}
	leaving.Store(true)  // from now on the proxy sends new clients to other nodes
	<-time.After(settle) // it has noticed
	feed.Drain(&server.DrainOptions{Spread: spread})
	<-time.After(spread + time.Second) // they have left
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(feed.Shutdown(end), web.Shutdown(end))
}

// backend is a node that runs serve.
type backend struct {
	addr   string
	server *server.Server
	listen net.Listener
	leave  context.CancelFunc
	err    error
	served chan struct{}
}

// startBackend starts a node on addr, or on a free port.
func startBackend(t *testing.T, addr string, log server.Log) *backend {
	t.Helper()
	feed, err := server.New(&server.Options{Log: log, Heartbeat: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if addr == "" {
		addr = freeAddr(t)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n := &backend{addr: l.Addr().String(), server: feed, listen: l, served: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	n.leave = cancel
	go func() {
		defer close(n.served)
		n.err = serve(ctx, l, feed, 200*time.Millisecond, 200*time.Millisecond) // HAProxy checks each 50 ms here
	}()
	t.Cleanup(n.kill)
	return n
}

// kill ends the node at once: what it would still say is lost.
func (n *backend) kill() {
	n.server.Close()
	n.listen.Close()
	n.leave()
	<-n.served
}

// stop lets the node leave in order and waits for its end.
func (n *backend) stop(t *testing.T) {
	t.Helper()
	n.leave()
	<-n.served
	if n.err != nil {
		t.Error(n.err)
	}
}
