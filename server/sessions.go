package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// sessions are those that have a connection here, so that a newer one ends the older one at
// once. Which one has a session is decided by the store.
type sessions struct {
	server *Server

	mu sync.Mutex          // leaf
	m  map[string]*session // by session id
}

// bind finds or creates the session of a HELLO and makes p its owner: it raises the
// connection number and reads the record in one atomic step (docs/protocol.md, D5 and section 4).
func (t *sessions) bind(ctx context.Context, p *peer, h *native.Hello, principal string, ttl time.Duration) (*session, *native.Welcome, error) {
	if h.SID != "" {
		s, w, err := t.resume(ctx, p, h, principal, ttl)
		if !errors.Is(err, errGone) {
			return s, w, err
		}
	}
	return t.create(ctx, p, h, principal, ttl)
}

// resume makes p the owner of a session. As long as others write the record between
// Load and Commit, it begins again.
func (t *sessions) resume(ctx context.Context, p *peer, h *native.Hello, principal string, ttl time.Duration) (*session, *native.Welcome, error) {
	server := t.server
	s := &session{server: server, sid: h.SID, peer: p, cn: h.CN, slot: make(chan struct{}, 1)}
	bound := false
	defer func() {
		if !bound {
			t.forget(s)
		}
	}()
	for synced := false; ; {
		r, version, err := server.load(ctx, h.SID)
		if err != nil {
			return nil, nil, p.storeFailed(err)
		}
		if err = errGone; version != 0 {
			err = r.refuse(h, principal, time.Now(), !server.store.View().NoRewind)
		}
		if err != nil && !synced { // the record may be an old one
			if err := server.store.Sync(ctx); err != nil {
				return nil, nil, p.storeFailed(err)
			}
			synced = true
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if newer := t.claim(s); newer != 0 {
			return nil, nil, notNewest(newer)
		}
		lost := r.takenBy(h, ttl)
		key := r.rotate(h.Key)
		w := r.welcome(key, true)
		done, err := server.store.Commit(ctx, &Change{
			Session: h.SID, Version: version, Record: r.append(nil), TTL: ttl + boundTTL, Bound: true, Who: principal,
		})
		switch {
		case err == nil:
			bound = true
			s.bound(&r, done.Version)
			if lost > 0 {
				server.stats.uplinkGaps.Add(lost)
				p.log.Warn("client gave up messages", "from", h.Up.Lo-lost, "to", h.Up.Lo-1)
			}
			return s, w, nil
		case !errors.Is(err, ErrConflict):
			return nil, nil, p.storeFailed(err)
		}
	}
}

// takenBy changes the record for the connection of h and returns how many messages the client
// has given up.
func (r *record) takenBy(h *native.Hello, ttl time.Duration) (lost uint64) {
	r.cn, r.ttl, r.bound = h.CN, ttl, true
	up := h.Up
	if up == nil {
		return 0
	}
	if up.Lo > r.ack+1 {
		lost = up.Lo - 1 - r.ack
		r.giveUp(up.Lo, up)
	}
	r.settled(up.Lo)
	return lost
}

// bound follows the Commit that has made the connection the owner.
func (s *session) bound(r *record, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec, s.spare, s.version, s.written = r, new(record), version, time.Now()
}

// create makes a new session.
func (t *sessions) create(ctx context.Context, p *peer, h *native.Hello, principal string, ttl time.Duration) (*session, *native.Welcome, error) {
	r := &record{
		principal: principal, cn: h.CN, se: h.SE + 1, window: uint64(t.server.opt.Window), carried: ^uint64(0), ttl: ttl, bound: true,
	}
	if h.Up != nil {
		r.carried = h.Up.Hi - h.Up.Lo + 1
	}
	key := r.rotate(nil)
	for {
		r.sid = newSID()
		s := &session{server: t.server, sid: r.sid, peer: p, cn: h.CN, slot: make(chan struct{}, 1)}
		done, err := t.server.store.Commit(ctx, &Change{Session: r.sid, Record: r.append(nil), TTL: ttl + boundTTL, Bound: true, Who: principal})
		switch {
		case err == nil:
			s.bound(r, done.Version)
			t.claim(s)
			return s, r.welcome(key, false), nil
		case errors.Is(err, ErrFull):
			return nil, nil, &fault{code: native.CloseOverloaded, reason: "too many sessions",
				say: &native.Err{Code: native.CodeUnavailable, Msg: "too many sessions", Retry: uint64(p.server.slots.next().Milliseconds())}}
		case !errors.Is(err, ErrConflict):
			return nil, nil, p.storeFailed(err)
		}
	}
}

// claim makes s the newest connection of its session here, and ends the older one. If there is
// a newer one, it returns the number of that instead.
func (t *sessions) claim(s *session) (newer uint64) {
	t.mu.Lock()
	old := t.m[s.sid]
	if old != nil && old != s && old.cn >= s.cn {
		t.mu.Unlock()
		return old.cn
	}
	t.m[s.sid] = s
	t.mu.Unlock()
	if old != nil && old != s {
		old.fence()
	}
	return 0
}

// forget follows when a connection no longer has its session.
func (t *sessions) forget(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[s.sid] == s {
		delete(t.m, s.sid)
	}
}

// leave detaches a connection from its session, which expires after its TTL. A store that does
// not answer keeps the session longer.
func (t *sessions) leave(s *session) {
	ctx, cancel := context.WithTimeout(t.server.ctx, leaveTimeout)
	defer cancel()
	defer t.forget(s)
	err := s.update(ctx, detached{})
	if err != nil && !errors.Is(err, errSuperseded) {
		s.peer.log.Debug("the session could not be detached in the store", "error", quote(err.Error()))
	}
}

func (t *sessions) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// storeFailed returns the fault for an error of the store, after which nothing is certain.
func (p *peer) storeFailed(err error) error {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	if p.ctx.Err() == nil {
		p.log.Error("the store failed", "error", quote(err.Error()))
	}
	return &fault{code: native.CloseBackendUnavailable, reason: "the store is not available"}
}
