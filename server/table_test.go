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
// session is one that create can drop: otherwise a full table would refuse new
// clients because of sessions that no one uses. spec/sessions.pml is the model.
func TestDetachedSessionsCanBeDropped(t *testing.T) {
	srv, err := New(&Options{MaxSessions: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	table := srv.sessions
	first := idlePeer(srv)
	s, w, err := table.create(first, &native.Hello{CN: 1}, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	table.leave(s, first)
	listed := func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return table.at[s] != nil
	}
	second := idlePeer(srv)
	if _, _, err := table.bind(second.ctx, second, &native.Hello{CN: 2, SID: w.SID, Key: w.Key}, "", time.Hour); err != nil || !listed() {
		t.Fatalf("a session that is bound again is not listed: a detachment at the same time would be lost; %v", err)
	}
	table.leave(s, second)
	var cn, bound atomic.Uint64
	cn.Store(2)
	const rounds, connections = 20_000, 3
	for round := range rounds {
		var all sync.WaitGroup
		for range connections {
			all.Add(1)
			go func() {
				defer all.Done()
				p := idlePeer(srv)
				if s, _, err := table.bind(p.ctx, p, &native.Hello{CN: cn.Add(1), SID: w.SID, Key: w.Key}, "", time.Hour); err == nil {
					bound.Add(1)
					table.leave(s, p)
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
		if !listed() {
			t.Fatalf("round %d: the detached session is not listed", round)
		}
	}
	if bound.Load() < rounds {
		t.Fatalf("only %d connections were bound", bound.Load())
	}
	p := idlePeer(srv)
	if _, _, err := table.create(p, &native.Hello{CN: 1}, "", time.Hour); err != nil || table.len() != 1 {
		t.Fatalf("a new session: %v; %d sessions", err, table.len())
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
	var all [2]*session
	for i := range all {
		p := idlePeer(srv)
		s, _, err := table.create(p, &native.Hello{CN: 1}, "", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		table.leave(s, p)
		all[i] = s
	}
	p := idlePeer(srv)
	key := all[0].rec.rotate(nil)
	s, _, err := table.bind(p.ctx, p, &native.Hello{CN: 2, SID: all[0].rec.sid, Key: key}, "", time.Hour)
	if err != nil || s != all[0] {
		t.Fatalf("bind: %v", err)
	}
	table.leave(s, p)
	if _, _, err := table.create(idlePeer(srv), &native.Hello{CN: 1}, "", time.Hour); err != nil {
		t.Fatal(err)
	}
	if all[0].gone || !all[1].gone {
		t.Errorf("dropped: %v and %v, want the second", all[0].gone, all[1].gone)
	}
}
