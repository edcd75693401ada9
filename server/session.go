package server

import (
	"container/list"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

const (
	conflictCount  = 3           // evictions of a live peer within conflictWindow are answered 4007
	conflictWindow = time.Minute // docs/protocol.md, section 4
	maxSack        = 32          // ranges in sack and ack.x
)

// session is a record and the connection that owns it.
type session struct {
	ttl time.Duration

	mu        sync.Mutex // leaf
	rec       record
	owner     *peer                    // nil: detached
	busy      bool                     // the owner is between begin and finish
	idle      chan struct{}            // closed when busy ends; nil unless a fence waits for it
	gone      bool                     // no longer in the table
	discard   bool                     // the client sent goaway{fin}: drop the session when it detaches
	expiry    *time.Timer              // of a detached session
	conflicts [conflictCount]time.Time // last evictions of a live peer, the oldest first
}

var errGone = errors.New("session is gone")

// fence makes p the owner, shuts out the old owner and returns WELCOME from the
// record, as one atomic step for all other connections (docs/protocol.md, D5 and
// section 4). It holds the lock twice, to change the owner and to read the
// record. In between at most the old owner's last acceptance ends, which began
// before the first.
func (s *session) fence(ctx context.Context, p *peer, h *native.Hello, principal string) (*native.Welcome, error) {
	s.mu.Lock()
	r := &s.rec
	if err := s.refuse(h, principal); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	r.cn = h.CN
	old := s.owner
	s.owner, s.discard = p, false
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	var idle chan struct{}
	if s.busy {
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle = s.idle
	}
	s.mu.Unlock()

	if old != nil {
		old.supersede()
	}
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != p {
		return nil, &fault{code: native.CloseSuperseded, reason: "superseded by a newer connection"}
	}
	if r.rolledBack(h.Up) {
		return nil, errRolledBack
	}
	if up := h.Up; up != nil {
		if up.Lo > r.ack+1 {
			p.server.stats.uplinkGaps.Add(up.Lo - 1 - r.ack)
			p.log.Warn("client gave up messages", "from", r.ack+1, "to", up.Lo-1)
			r.giveUp(up.Lo, up)
		}
		r.settled(up.Lo)
	}
	return s.welcome(r.rotate(h.Key), true), nil
}

var errRolledBack = &fault{code: native.CloseRolledBack, reason: "the client's state is older than the session's"}

// refuse returns why a HELLO may not have this session, or nil.
func (s *session) refuse(h *native.Hello, principal string) error {
	r := &s.rec
	switch {
	case s.gone || h.SE != 0 && h.SE != r.se:
		return errGone
	case !r.matches(h.Key) || r.principal != principal:
		return &fault{code: native.CloseForbidden, reason: "not the owner of this session"}
	case h.CN <= r.cn && r.rolledBack(h.Up):
		return errRolledBack
	case h.CN <= r.cn:
		return &fault{code: native.CloseSuperseded, reason: "connection number is not the newest",
			say: &native.Err{Code: native.CodeConflict, Msg: "connection number is not the newest", S: r.cn, HasS: true}}
	case s.owner != nil && time.Since(s.conflicts[0]) < conflictWindow:
		return &fault{code: native.CloseSessionConflict, reason: "two connections of one session keep superseding each other"}
	}
	return nil
}

// welcome returns WELCOME as far as the record determines it.
func (s *session) welcome(key []byte, resumed bool) *native.Welcome {
	r := &s.rec
	w := &native.Welcome{CN: r.cn, SID: r.sid, Key: key, SE: r.se, Res: resumed, Ack: r.ack, Sack: r.sack(maxSack)}
	w.Tag, w.HasTag = r.tag, r.hasTag
	w.Out = append(w.Out, r.rejected...)
	w.Cr.N = r.ack + r.window
	return w
}

// conflicted records that an evicted owner was alive.
func (s *session) conflicted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.conflicts[:], s.conflicts[1:])
	s.conflicts[conflictCount-1] = time.Now()
}

// proved records that the client has the newest resume key, so that the one before
// it is no longer valid.
func (s *session) proved(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == p {
		s.rec.prev = keyHash{}
	}
}

// standingOf returns what the record knows about seq.
func (s *session) standingOf(p *peer, seq uint64) (st standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.rec
	st.current = s.owner == p
	st.known = r.has(seq)
	st.next = seq == r.next()
	st.id, st.hasID = r.idOf(seq)
	st.code = r.outcomeOf(seq)
	st.carried = seq <= r.carried
	return st
}

// standing is what a record knows about a sequence number.
type standing struct {
	current bool    // the connection owns the session
	known   bool    // the number has an outcome: code
	next    bool    // the number is the next one expected
	carried bool    // the message may have been sent first in an earlier epoch
	id      wire.ID // id of the message, if hasID
	hasID   bool
	code    uint64 // code of a rejection; 0: accepted
}

// begin starts an acceptance. Until finish or giveBack no other connection can read
// the record. It returns false if p is not the owner.
func (s *session) begin(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != p {
		return false
	}
	s.busy = true
	return true
}

// finish ends an acceptance with the outcome of seq.
func (s *session) finish(seq uint64, id wire.ID, code uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.mark(seq, id, code)
	s.release()
}

// giveBack ends an acceptance without an outcome.
func (s *session) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
}

// release ends an acceptance. The caller holds mu.
func (s *session) release() {
	s.busy = false
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// acked returns the ack and the ranges above it. It returns false if p is not the
// owner: then p must not send them.
func (s *session) acked(p *peer) (ack uint64, sack []wire.Range, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != p {
		return 0, nil, false
	}
	return s.rec.ack, s.rec.sack(maxSack), true
}

// forget makes the session end when its connection ends.
func (s *session) forget(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == p {
		s.discard = true
	}
}

// sessions is the table of all sessions.
type sessions struct {
	max    int
	window uint64

	mu     sync.Mutex                 // leaf; never held together with that of a session
	m      map[string]*session        // by session id
	parked list.List                  // *session: detached for longest first; includes every detached one, and some that are bound again
	at     map[*session]*list.Element // place in parked
	closed bool
}

// bind finds or creates the session of a HELLO and makes p its owner.
func (t *sessions) bind(ctx context.Context, p *peer, h *native.Hello, principal string, ttl time.Duration) (*session, *native.Welcome, error) {
	if h.SID != "" {
		t.mu.Lock()
		s := t.m[h.SID]
		t.mu.Unlock()
		if s != nil {
			w, err := s.fence(ctx, p, h, principal)
			if !errors.Is(err, errGone) {
				return s, w, err
			}
		}
	}
	return t.create(p, h, principal, ttl)
}

// create makes a new session. If the table is full, the session that has been
// detached for longest is dropped.
func (t *sessions) create(p *peer, h *native.Hello, principal string, ttl time.Duration) (*session, *native.Welcome, error) {
	s := &session{ttl: ttl, owner: p, rec: record{
		sid: newSID(), principal: principal, cn: h.CN, se: h.SE + 1, window: t.window, carried: ^uint64(0),
	}}
	if h.Up != nil {
		s.rec.carried = h.Up.Hi - h.Up.Lo + 1
	}
	w := s.welcome(s.rec.rotate(nil), false)
	for {
		t.mu.Lock()
		if len(t.m) < t.max {
			t.m[s.rec.sid] = s
			t.mu.Unlock()
			return s, w, nil
		}
		front := t.parked.Front()
		if front == nil {
			t.mu.Unlock()
			return nil, nil, &fault{code: native.CloseOverloaded, reason: "too many sessions",
				say: &native.Err{Code: native.CodeUnavailable, Msg: "too many sessions", Retry: uint64(p.server.slots.next().Milliseconds())}}
		}
		oldest := t.parked.Remove(front).(*session)
		delete(t.at, oldest)
		t.mu.Unlock()
		if oldest.drop() {
			t.remove(oldest)
		}
	}
}

// leave detaches p from its session, which expires after its TTL.
func (t *sessions) leave(s *session, p *peer) {
	s.mu.Lock()
	if s.owner != p {
		s.mu.Unlock()
		return
	}
	s.owner = nil
	if s.discard {
		s.gone = true
		s.mu.Unlock()
		t.remove(s)
		return
	}
	s.expiry = time.AfterFunc(s.ttl, func() {
		if s.drop() {
			t.remove(s)
		}
	})
	s.mu.Unlock()
	t.park(s)
}

// drop ends a detached session. It returns false if the session is bound or already
// gone.
func (s *session) drop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != nil || s.gone {
		return false
	}
	s.gone = true
	if s.expiry != nil {
		s.expiry.Stop()
	}
	return true
}

// park lists a detached session as the one detached last. It stays listed until it is
// dropped, even while it is bound: by the time that bind could take it from the list,
// a newer connection may have taken it over and detached it again, and then nothing
// would list it (spec/sessions.pml). drop decides by the owner.
func (t *sessions) park(s *session) {
	t.mu.Lock()
	closed := t.closed
	if e := t.at[s]; e != nil {
		t.parked.MoveToBack(e)
	} else if t.m[s.rec.sid] == s { // sid never changes
		t.at[s] = t.parked.PushBack(s)
	}
	t.mu.Unlock()
	if closed {
		s.drop()
	}
}

// remove removes a session from the table.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.at[s]; e != nil {
		t.parked.Remove(e)
		delete(t.at, s)
	}
	delete(t.m, s.rec.sid)
}

// close ends the timers of all sessions, including those that are detached later.
func (t *sessions) close() {
	t.mu.Lock()
	t.closed = true
	all := make([]*session, 0, len(t.m))
	for _, s := range t.m {
		all = append(all, s)
	}
	t.mu.Unlock()
	for _, s := range all {
		s.drop()
	}
}

func (t *sessions) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// newSID returns 128 random bits. A session id is a name, not a credential.
func newSID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}
