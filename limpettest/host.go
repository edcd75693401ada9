package limpettest

import (
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
)

// HostOptions configures NewHandler. The zero value, or nil, is a host on a new
// network.
type HostOptions struct {
	// On is an existing network, which the Host does not close. Defaults to a
	// new one.
	On *Network

	// Network configures the new network.
	Network *NetworkOptions

	// Addr is the "host:port" to listen on. Defaults to a free port of
	// 127.0.0.1.
	Addr string

	// Loopback makes the host reachable through a real port of 127.0.0.1. It
	// does not work in a synctest bubble.
	Loopback bool
}

// Host is an HTTP server on a Network. It is safe for concurrent use.
type Host struct {
	// Network is the network that the host listens on.
	Network *Network

	tb       testing.TB
	addr     string // on the network
	owned    bool   // the host closes the network
	loopback *loopback
	handler  http.Handler
	serves   sync.WaitGroup // of HTTP servers

	mu      sync.Mutex
	idle    sync.Cond    // signals that running has changed
	running int          // handlers
	server  *http.Server // nil while stopped
	ln      net.Listener
	ended   bool
}

// NewHandler serves h on an in-memory network; o may be nil. Everything that it
// starts ends in a Cleanup of tb. In a synctest bubble tb must be the bubble's own
// T, whose cleanups run inside the bubble. A handler that hijacks its connection
// must return once that connection fails.
func NewHandler(tb testing.TB, h http.Handler, o *HostOptions) *Host {
	tb.Helper()
	var opt HostOptions
	if o != nil {
		opt = *o
	}
	host := &Host{Network: opt.On, tb: tb, handler: h, addr: opt.Addr}
	host.idle.L = &host.mu
	if host.Network == nil {
		host.Network, host.owned = NewNetwork(opt.Network), true
	}
	if host.addr == "" {
		host.addr = "127.0.0.1:0"
	}
	if err := host.listen(); err != nil {
		tb.Fatalf("limpettest: %v", err)
	}
	tb.Cleanup(host.end)
	if opt.Loopback {
		var err error
		if host.loopback, err = newLoopback(host.Network, host.addr); err != nil {
			tb.Fatalf("limpettest: %v", err)
		}
	}
	return host
}

// listen starts an HTTP server on h.addr, to which it adds the port.
func (h *Host) listen() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server != nil || h.ended {
		return nil
	}
	ln, err := h.Network.Listen(h.addr)
	if err != nil {
		return err
	}
	if l, ok := ln.(*listener); ok {
		h.addr = l.key
	}
	srv := &http.Server{
		Handler:  http.HandlerFunc(h.serve),
		ErrorLog: log.New(io.Discard, "", 0), // it may log after the test has ended
	}
	h.server, h.ln = srv, ln
	h.serves.Go(func() { _ = srv.Serve(ln) }) // it ends with ErrServerClosed
	return nil
}

// serve counts the running handlers.
func (h *Host) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if h.ended {
		h.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h.running++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.running--
		h.idle.Broadcast()
		h.mu.Unlock()
	}()
	h.handler.ServeHTTP(w, r)
}

// Addr returns the "host:port" that clients dial.
func (h *Host) Addr() string {
	if h.loopback != nil {
		return h.loopback.ln.Addr().String()
	}
	return h.addr
}

// URL returns the ws:// address of the host, without a path.
func (h *Host) URL() string { return "ws://" + h.Addr() }

// HTTPURL returns the http:// address of the host, without a path.
func (h *Host) HTTPURL() string { return "http://" + h.Addr() }

// HTTPClient returns a client that reaches the host: see Network.HTTPClient.
func (h *Host) HTTPClient() *http.Client {
	if h.loopback != nil {
		return httpClient((&net.Dialer{}).DialContext)
	}
	return h.Network.HTTPClient()
}

// Inject appends faults to the network's script: see Network.Inject.
func (h *Host) Inject(faults ...Fault) { h.Network.Inject(faults...) }

// Stop begins an outage: every connection to the host is reset and dials are
// refused. It does not block. On a stopped host it has no effect.
func (h *Host) Stop() {
	h.mu.Lock()
	srv, ln := h.server, h.ln
	h.server, h.ln = nil, nil
	h.mu.Unlock()
	if srv != nil {
		_ = ln.Close()  // it never fails
		_ = srv.Close() // connections that are not hijacked
		h.Network.strike(Fault{kind: KindReset}, h.addr)
	}
}

// Start ends an outage: the host listens on the same address again, with the same
// handler.
func (h *Host) Start() {
	if err := h.listen(); err != nil {
		h.tb.Errorf("limpettest: start: %v", err)
	}
}

// Restart is Stop and Start.
func (h *Host) Restart() {
	h.Stop()
	h.Start()
}

// end stops the host for good and waits for its goroutines.
func (h *Host) end() {
	if h.loopback != nil {
		h.loopback.close()
	}
	h.Stop()
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	if h.owned {
		h.Network.Close()
	}
	h.serves.Wait()
	h.mu.Lock()
	for h.running > 0 {
		h.idle.Wait()
	}
	h.mu.Unlock()
}
