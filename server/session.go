package server

import (
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
	conflictCount  = 3            // evictions of a live peer within conflictWindow are answered 4007
	conflictWindow = time.Minute  // docs/protocol.md, section 4
	maxSack        = 32           // ranges in sack and ack.x
	boundTTL       = time.Hour    // how much longer a record is kept while a connection has its session
	touchAfter     = boundTTL / 2 // when a record that was not written since is written again
	touchRetry     = time.Minute  // after that failed
	lazyWrite      = time.Second  // after which a key that is no longer valid is removed from the store
	writeAttempts  = 8            // of a Commit that others come before
	leaveTimeout   = closeGrace   // for the last write of a connection
)

// session is what one connection has of a session: the record as it has read and written it.
// The version of the record is the fence: once another connection has written it, here or
// at another server, no Commit of this one succeeds.
type session struct {
	server  *Server
	sid     string
	peer    *peer
	cn      uint64
	slot    chan struct{} // holds a value during a Commit: there is one at a time
	change  Change        // the one in progress; belongs to the holder of slot
	encoded []byte        // its record

	mu       sync.Mutex // leaf
	rec      *record    // as it is in the store
	spare    *record    // for the next one; belongs to the holder of slot
	version  uint64
	fenced   bool      // a newer connection has the session
	discard  bool      // the client sent goaway{fin}: remove the record in the end
	proven   time.Time // when the client proved that it has the newest key; zero: not yet
	written  time.Time // of the last Commit
	touching bool      // touch runs
	notUntil time.Time // when touch may run again after a failure
}

var errGone = errors.New("session is gone")

var errRolledBack = &fault{code: native.CloseRolledBack, reason: "the client's state is older than the session's"}

// errLost ends the connection if the store no longer has what it said it had. The client
// comes back, and the record that is there decides. It must not be 4006, which ends a client.
var errLost = &fault{code: native.CloseBackendUnavailable, reason: "the record of the session is not what was written"}

// notNewest refuses a connection number that is not above cn.
func notNewest(cn uint64) *fault {
	return &fault{code: native.CloseSuperseded, reason: "connection number is not the newest",
		say: &native.Err{Code: native.CodeConflict, Msg: "connection number is not the newest", S: cn, HasS: true}}
}

// refuse returns why a HELLO may not have this session, or nil. With rewinds the store may
// have an older record than it had, with an older key.
func (r *record) refuse(h *native.Hello, principal string, now time.Time, rewinds bool) error {
	switch {
	case h.SE != 0 && h.SE != r.se:
		return errGone
	case r.principal == principal && rewinds && h.CN > r.cn && !r.matches(h.Key):
		return errGone
	case !r.matches(h.Key) || r.principal != principal:
		return &fault{code: native.CloseForbidden, reason: "not the owner of this session"}
	case h.CN <= r.cn && r.rolledBack(h.Up):
		return errRolledBack
	case h.CN <= r.cn:
		return notNewest(r.cn)
	case r.bound && now.UnixMilli()-r.conflicts[0] < conflictWindow.Milliseconds():
		return &fault{code: native.CloseSessionConflict, reason: "two connections of one session keep superseding each other"}
	case r.rolledBack(h.Up):
		return errRolledBack
	}
	return nil
}

// welcome returns WELCOME as far as the record determines it.
func (r *record) welcome(key []byte, resumed bool) *native.Welcome {
	w := &native.Welcome{CN: r.cn, SID: r.sid, Key: key, SE: r.se, Res: resumed, Ack: r.ack, Sack: r.sack(maxSack)}
	w.Tag, w.HasTag = r.tag, r.hasTag
	w.Out, w.Dup = split(r.rejected)
	w.Cr.N = r.ack + r.window
	return w
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

// standingOf returns what the record knows about seq, if the run in progress has given
// all numbers up to last an outcome.
func (s *session) standingOf(seq, last uint64) (st standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rec
	st.current = !s.fenced
	st.known = r.has(seq)
	st.next = seq == r.after(max(last, r.ack))
	if st.known {
		st.id, st.hasID = r.idOf(seq)
		st.code = r.outcomeOf(seq)
	}
	st.carried = seq <= r.carried
	return st
}

// amendment is what an update does.
type amendment interface {
	// amend changes the record, and the change that commits it. It may be called again.
	amend(next *record, c *Change, now time.Time)

	// told follows the Commit, before others can see the record.
	told()
}

// rewritten writes the record as it is.
type rewritten struct{}

func (rewritten) amend(*record, *Change, time.Time) {}
func (rewritten) told()                             {}

// detached lets go of the session.
type detached struct{ rewritten }

func (detached) amend(next *record, _ *Change, _ time.Time) { next.bound = false }

// update commits an amended record. Only one update runs at a time.
func (s *session) update(ctx context.Context, a amendment) error {
	select {
	case s.slot <- struct{}{}:
	default:
		select {
		case s.slot <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-s.slot }()
	for range writeAttempts {
		now := time.Now()
		c, next, discard, err := s.next()
		if err != nil {
			return err
		}
		a.amend(next, c, now)
		if c.Bound = next.bound; c.Bound {
			c.TTL = next.ttl + boundTTL
		}
		if c.Bound || !discard {
			s.encoded = next.append(s.encoded[:0])
			c.Record = s.encoded
		}
		done, err := s.server.store.Commit(ctx, c)
		switch {
		case err == nil:
			a.told()
			s.wrote(next, done.Version, now)
			return nil
		case !errors.Is(err, ErrConflict):
			return err
		}
		if err := s.reload(ctx); err != nil {
			return err
		}
	}
	return ErrConflict
}

// next returns a copy of the record to be changed, and the change without it. If discard is set,
// the client does not return: its session ends with the connection.
func (s *session) next() (c *Change, next *record, discard bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fenced {
		return nil, nil, false, errSuperseded
	}
	next = s.spare
	next.copy(s.rec)
	if !s.proven.IsZero() {
		next.prev = keyHash{}
	}
	s.change = Change{Session: s.sid, Version: s.version, TTL: next.ttl, Who: next.principal, Keep: s.server.opt.Dedup + idMargin}
	return &s.change, next, s.discard, nil
}

// wrote follows a Commit.
func (s *session) wrote(next *record, version uint64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec, s.spare = next, s.rec
	s.version, s.written = version, now
}

// reload finds out why a Commit met another version: a newer connection has the session, or one
// that it has evicted has added to the record (conflicted), or the store has lost a Commit.
func (s *session) reload(ctx context.Context) error {
	stored, version, err := s.server.load(ctx, s.sid)
	if err == nil && version != 0 && stored.cn <= s.cn {
		if err = s.server.store.Sync(ctx); err == nil { // it may have been old
			stored, version, err = s.server.load(ctx, s.sid)
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case version != 0 && stored.cn > s.cn:
		s.fenced = true
		return errSuperseded
	case version == 0 || stored.cn < s.cn || stored.ack != s.rec.ack || stored.key != s.rec.key:
		return errLost
	}
	s.version = version
	s.rec.conflicts = stored.conflicts
	return nil
}

// fence takes the session from the connection, because a newer one has it.
func (s *session) fence() {
	s.mu.Lock()
	s.fenced = true
	s.mu.Unlock()
	s.peer.supersede()
}

// proved records that the client has the newest resume key, so that the one before
// it is no longer valid.
func (s *session) proved() {
	s.mu.Lock()
	first := s.proven.IsZero()
	if first {
		s.proven = time.Now()
	}
	s.mu.Unlock()
	if first {
		s.peer.poke()
	}
}

// acked returns the ack and the ranges above it. It returns false if the connection no longer
// owns the session: then it must not send them.
func (s *session) acked() (ack uint64, sack []wire.Range, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fenced {
		return 0, nil, false
	}
	return s.rec.ack, s.rec.sack(maxSack), true
}

// forget makes the session end when its connection ends.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discard = true
}

// touch writes the record if it was not written for long, or must be because of the key, aside
// from the writer that calls it, and returns when to call it again.
func (s *session) touch(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fenced || s.touching {
		return boundTTL
	}
	at := s.written.Add(touchAfter)
	if !s.proven.IsZero() && s.rec.prev != (keyHash{}) && s.proven.Add(lazyWrite).Before(at) {
		at = s.proven.Add(lazyWrite)
	}
	if at.Before(s.notUntil) {
		at = s.notUntil
	}
	if left := at.Sub(now); left > 0 {
		return left
	}
	s.touching = true
	go s.rewrite()
	return boundTTL
}

// rewrite writes the record as it is.
func (s *session) rewrite() {
	ctx, cancel := context.WithTimeout(s.peer.ctx, authTimeout)
	defer cancel()
	err := errGoexit
	defer func() {
		s.mu.Lock()
		s.touching = false
		if err != nil {
			s.notUntil = time.Now().Add(touchRetry)
		}
		s.mu.Unlock()
		switch {
		case errors.Is(err, errSuperseded):
			s.peer.supersede()
		case errors.Is(err, errLost):
			s.peer.stop(errLost.code, errLost.reason, true)
		}
		s.peer.poke()
	}()
	err = s.update(ctx, rewritten{})
}

// conflicted records at the newer connection's record that this one, which it has evicted, was
// alive. It waits for the store, and for the newer one to be there, but not long.
func (s *session) conflicted() {
	ctx, cancel := context.WithTimeout(s.server.ctx, leaveTimeout)
	defer cancel()
	for attempt, wait := 0, time.Millisecond; attempt < writeAttempts; {
		r, version, err := s.server.load(ctx, s.sid)
		if err != nil || version == 0 {
			return
		}
		if r.cn <= s.cn { // the newer one is not in the store yet
			select {
			case <-time.After(wait):
				wait *= 2
				continue
			case <-ctx.Done():
				return
			}
		}
		attempt++
		copy(r.conflicts[:], r.conflicts[1:])
		r.conflicts[conflictCount-1] = time.Now().UnixMilli()
		c := &Change{Session: s.sid, Version: version, TTL: r.ttl, Bound: r.bound, Record: r.append(nil)}
		if r.bound {
			c.TTL += boundTTL
		}
		if _, err := s.server.store.Commit(ctx, c); !errors.Is(err, ErrConflict) {
			return
		}
	}
}

// load returns the record of a session.
func (s *Server) load(ctx context.Context, sid string) (record, uint64, error) {
	data, version, err := s.store.Load(ctx, sid)
	if err != nil || version == 0 {
		return record{}, 0, err
	}
	r, err := decodeRecord(sid, uint64(s.opt.Window), data)
	return r, version, err
}

// newSID returns 128 random bits. A session id is a name, not a credential.
func newSID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}
