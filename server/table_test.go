package server

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// idlePeer is a connection that is never read or written.
func idlePeer(s *Server) *peer {
	conn, _ := net.Pipe()
	p := &peer{server: s, sock: &socket{raw: &rawConn{Conn: conn, start: time.Now()}}, log: s.opt.Logger, wake: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.hooks, p.endHooks = context.WithCancel(context.Background())
	return p
}

// Whatever the order in which connections of a session come and go, a detached
// session is one that the store can drop: otherwise a full store would refuse new
// clients because of sessions that no one uses.
func TestDetachedSessionsCanBeDropped(t *testing.T) {
	srv, err := New(&Options{MaxSessions: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	table, store := srv.sessions, srv.store.(safely).Store.(*MemoryStore)
	first := idlePeer(srv)
	s, w, err := table.create(first.ctx, first, &native.Hello{CN: 1}, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if store.parked.Len() != 0 {
		t.Fatal("a session with a connection can be dropped")
	}
	table.leave(s)
	var cn, bound atomic.Uint64
	cn.Store(1)
	const rounds, connections = 2_000, 3
	for round := range rounds {
		var all sync.WaitGroup
		for range connections {
			all.Add(1)
			go func() {
				defer all.Done()
				p := idlePeer(srv)
				if s, _, err := table.bind(p.ctx, p, &native.Hello{CN: cn.Add(1), SID: w.SID, Key: w.Key}, "", time.Hour); err == nil {
					bound.Add(1)
					table.leave(s)
				}
				p.mu.Lock()
				if p.end != nil {
					p.end.timer.Stop()
					p.end.hooks.Stop()
				}
				p.mu.Unlock()
			}()
		}
		all.Wait()
		if store.parked.Len() != 1 || table.len() != 0 {
			t.Fatalf("round %d: %d detached sessions, %d here", round, store.parked.Len(), table.len())
		}
	}
	if bound.Load() < rounds {
		t.Fatalf("only %d connections were bound", bound.Load())
	}
	p := idlePeer(srv)
	if _, _, err := table.create(p.ctx, p, &native.Hello{CN: 1}, "", time.Hour); err != nil || srv.Stats().Sessions != 1 {
		t.Fatalf("a new session: %v; %d sessions", err, srv.Stats().Sessions)
	}
}

// The session that has been detached for longest is dropped first, even if another
// one was detached before and used since.
func TestOldestDetachedIsDropped(t *testing.T) {
	srv, err := New(&Options{MaxSessions: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	table := srv.sessions
	var all [2]*native.Welcome
	for i := range all {
		p := idlePeer(srv)
		s, w, err := table.create(p.ctx, p, &native.Hello{CN: 1}, "", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		table.leave(s)
		all[i] = w
	}
	p := idlePeer(srv)
	s, _, err := table.bind(p.ctx, p, &native.Hello{CN: 2, SID: all[0].SID, Key: all[0].Key}, "", time.Hour)
	if err != nil || s.sid != all[0].SID {
		t.Fatalf("bind: %v", err)
	}
	table.leave(s)
	if _, _, err := table.create(p.ctx, idlePeer(srv), &native.Hello{CN: 1}, "", time.Hour); err != nil {
		t.Fatal(err)
	}
	for i, kept := range []bool{true, false} {
		if _, version, _ := srv.load(t.Context(), all[i].SID); version != 0 != kept {
			t.Errorf("session %d is kept: %v, want %v", i, version != 0, kept)
		}
	}
}
