package limpettest

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// ServerOptions configures NewServer. The zero value, or nil, is a reference server
// with its default options on a new in-memory network.
type ServerOptions struct {
	// Server is the configuration of the reference server, which is copied. A
	// nil Log becomes a memory log, unless there is a Store.
	Server *server.Options

	// On is an existing network, which the Server does not close. Defaults to a
	// new one.
	On *Network

	// Network configures the new network.
	Network *NetworkOptions

	// Addr is the "host:port" to listen on. Defaults to a free port of
	// 127.0.0.1.
	Addr string

	// Loopback makes the server reachable through a real port of 127.0.0.1. It
	// does not work in a synctest bubble.
	Loopback bool
}

// Server is the reference server on a Host. It is safe for concurrent use, except
// for Reboot, which must not run concurrently with a use of the fields.
type Server struct {
	*Host

	// Server is the running reference server. Reboot replaces it.
	Server *server.Server

	// Log is the log of Server; nil with Options.Store. Reboot may replace it.
	Log server.Log

	tb      testing.TB
	opt     server.Options
	current atomic.Pointer[server.Server]
}

// NewServer starts a reference server; o may be nil. Everything ends in a Cleanup
// of tb. In a synctest bubble tb must be the bubble's own T.
func NewServer(tb testing.TB, o *ServerOptions) *Server {
	tb.Helper()
	var opt ServerOptions
	if o != nil {
		opt = *o
	}
	s := &Server{tb: tb}
	if opt.Server != nil {
		s.opt = *opt.Server
	}
	if s.opt.Log == nil && s.opt.Store == nil {
		s.opt.Log = server.NewMemoryLog(s.opt.Retention)
	}
	s.boot()
	s.Host = NewHandler(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.current.Load().ServeHTTP(w, r)
	}), &HostOptions{On: opt.On, Network: opt.Network, Addr: opt.Addr, Loopback: opt.Loopback})
	tb.Cleanup(func() { _ = s.current.Load().Close() }) // it never fails
	return s
}

// boot starts a reference server on the current options.
func (s *Server) boot() {
	s.tb.Helper()
	srv, err := server.New(&s.opt)
	if err != nil {
		s.tb.Fatalf("limpettest: %v", err)
	}
	s.Server, s.Log = srv, s.opt.Log
	s.current.Store(srv)
}

// Restart resets all connections. The server keeps its sessions and its log, and
// accepts new connections at once: the network failed, the server did not. For a
// longer outage use Stop and Start.
func (s *Server) Restart() { s.Host.Restart() }

// Reboot crashes the server: its sessions and the ids that are not in the log are
// lost; with Options.Store nothing is lost. It continues with log, or if that is nil with the
// old log.
func (s *Server) Reboot(log server.Log) {
	s.tb.Helper()
	s.Stop()
	_ = s.Server.Close() // it never fails
	if log != nil {
		s.opt.Log = log
	}
	s.boot()
	s.Start()
}

// Held returns the entries of the log that match pattern, as an event for a
// Recorder. sub is the subscription to compare them with.
func (s *Server) Held(sub, pattern string) Held {
	s.tb.Helper()
	view, read := server.View{}, func(from uint64, dst []*server.Entry) (int, uint64, error) {
		return s.opt.Store.Read(s.tb.Context(), from, dst)
	}
	if s.Log != nil {
		view, read = s.Log.View(), s.Log.Read
	} else {
		view = s.opt.Store.View()
	}
	h := Held{Sub: sub, Epoch: view.Epoch}
	buf := make([]*server.Entry, 256)
	for from := uint64(1); ; {
		n, _, err := read(from, buf)
		if err != nil {
			s.tb.Errorf("limpettest: read the log: %v", err)
			return h
		}
		if n == 0 {
			return h
		}
		for _, e := range buf[:n] {
			if native.Match(pattern, e.Topic) {
				h.Entries = append(h.Entries, HeldEntry{e.Offset, uuid.UUID(e.ID)})
			}
		}
		from = buf[n-1].Offset + 1
	}
}
