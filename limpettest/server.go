package limpettest

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// ServerOptions configures NewServer. The zero value, or nil, is a reference
// server with its own defaults on an in-memory network of its own.
type ServerOptions struct {
	Server   *server.Options // copied; a nil Log becomes a memory log
	On       *Network        // an existing network, which the Server does not close; nil: a new one
	Network  *NetworkOptions // of the new network
	Addr     string          // "host:port" to listen on; empty: a free port of 127.0.0.1
	Loopback bool            // reachable through a real port of 127.0.0.1: not for a synctest bubble
}

// Server is the reference server on a Host. It is safe for concurrent use but
// for Reboot, which must not run beside anything that uses the fields.
type Server struct {
	*Host
	Server *server.Server
	Log    server.Log

	tb      testing.TB
	opt     server.Options
	current atomic.Pointer[server.Server]
}

// NewServer starts a reference server; o may be nil. Everything ends in a
// Cleanup of tb, which inside a synctest bubble must be the bubble's own T.
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
	if s.opt.Log == nil {
		s.opt.Log = server.NewMemoryLog(s.opt.Retention)
	}
	s.boot()
	s.Host = NewHandler(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.current.Load().ServeHTTP(w, r)
	}), &HostOptions{On: opt.On, Network: opt.Network, Addr: opt.Addr, Loopback: opt.Loopback})
	tb.Cleanup(func() { _ = s.current.Load().Close() }) // it never fails
	return s
}

func (s *Server) boot() {
	s.tb.Helper()
	srv, err := server.New(&s.opt)
	if err != nil {
		s.tb.Fatalf("limpettest: %v", err)
	}
	s.Server, s.Log = srv, s.opt.Log
	s.current.Store(srv)
}

// Restart resets the connections and goes on at once, with the sessions and the
// log that there were: the network failed, the server did not. Stop and Start
// make an outage of any length of it.
func (s *Server) Restart() { s.Host.Restart() }

// Reboot is a crash of the server: its sessions and the ids it knew from before
// the log are lost. It goes on with log; nil means the log that there was.
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

// Held reads from the log what matches pattern, as an event for a Recorder; sub
// is the subscription it is compared with.
func (s *Server) Held(sub, pattern string) Held {
	s.tb.Helper()
	h := Held{Sub: sub, Epoch: s.Log.View().Epoch}
	buf := make([]*server.Entry, 256)
	for from := uint64(1); ; {
		n, _, err := s.Log.Read(from, buf)
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
