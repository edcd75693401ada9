package redis

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/redis/go-redis/v9"
)

// expiryMargin is how much longer a record is kept than it must: the time for which its Commit was on the way.
const expiryMargin = time.Second

// request is a Change as the script commit gets it.
type request struct {
	keys    []string
	args    []any
	ids     []wire.ID // of the keys from the fourth on
	version uint64    // of the new record; 0: there is none
	size    int
}

// Places in args that each try sets.
const (
	argEpoch = 6
	argHead  = 7
	argID    = 8
)

// Commit implements server.Store. When an answer is lost it tries again until Options.Timeout: the new version of the record
// tells whether the change was done. If that remains open, the error wraps ErrUncertain. Errors
// that wrap ErrFull, ErrDenied, ErrForeign or ErrClosed alone mean that nothing was done.
func (s *Store) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	q, err := s.request(c)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && s.ctx.Err() != nil {
		err = ErrClosed
	}
	if err != nil {
		return server.Committed{}, err
	}
	began := time.Now()
	defer s.stats.pending.Begin(began)()
	done, err := s.commit(ctx, q)
	s.stats.committed(c, q.size, time.Since(began), err)
	return done, err
}

// request encodes a Change. It keeps nothing of it.
func (s *Store) request(c *server.Change) (*request, error) {
	if n := len(c.Entries) + len(c.Refused); n > maxMessages {
		return nil, fmt.Errorf("gateway/redis: a change of %d messages, at most %d", n, maxMessages)
	}
	q := &request{size: len(c.Record)}
	session, lifetime, value := s.keys.session(c.Session), c.TTL, string(kindRecord)+string(c.Record)
	version := nextVersion(c.Version)
	switch {
	case c.Session == "": // what recognises the change is under a random name
		var nonce [16]byte
		_, _ = rand.Read(nonce[:]) // never fails
		session, lifetime, value = s.keys.prefix+"p:"+string(nonce[:]), s.opt.Timeout, string(kindNone)
		version = nextVersion(0)
	case c.Record == nil:
		lifetime, value = max(s.opt.Timeout, time.Minute), string(kindNone)
	default:
		q.version = version
	}
	oldest, before := "", c.Version
	if !c.Oldest.IsZero() {
		oldest = strconv.FormatInt(c.Oldest.UnixMilli(), 10)
	}
	if c.Session == "" {
		before = 0
	}
	q.keys = append(make([]string, 0, 3+len(c.Entries)+len(c.Refused)), s.keys.meta, s.keys.log, session)
	q.args = append(make([]any, 0, 12+len(c.Entries)+len(c.Refused)),
		hexVersion(before), hexVersion(version), milliseconds(lifetime+expiryMargin), value, milliseconds(c.Keep), oldest,
		"", uint64(0), "", max(s.opt.MaxLen, 0), s.keys.bell, len(c.Entries))
	for i := range c.Entries {
		e := &c.Entries[i]
		q.ids, q.keys = append(q.ids, e.ID), append(q.keys, s.keys.id(e.ID, c.Who))
		text := appendEntry(make([]byte, 0, sizeOf(e)+16), e)
		q.args = append(q.args, text)
		q.size += len(text)
	}
	for i := range c.Refused {
		r := &c.Refused[i]
		q.ids, q.keys = append(q.ids, r.ID), append(q.keys, s.keys.id(r.ID, c.Who))
		q.args = append(q.args, refusedValue(r))
	}
	if q.size > maxChange {
		return nil, fmt.Errorf("gateway/redis: a change of %d bytes, at most %d", q.size, maxChange)
	}
	return q, nil
}

// nextVersion returns a version after v that cannot be guessed. So it recognises the change, and a server that has
// a version which Redis has lost in a crash cannot meet the same version again.
func nextVersion(v uint64) uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	n := binary.BigEndian.Uint64(b[:])
	if v == 0 {
		return n>>2 | 1
	}
	return v + 1 + n>>32
}

// milliseconds returns d as Redis takes a lifetime.
func milliseconds(d time.Duration) int64 {
	if d < 0 { // a sum that has overflowed
		d = math.MaxInt64
	}
	return max(d.Milliseconds(), 1)
}

// commit tries until there is an answer.
func (s *Store) commit(ctx context.Context, q *request) (done server.Committed, err error) {
	doubt := false // an earlier try may have been done
	p := s.newPause(ctx)
	defer p.cancel()
	for {
		reply, err := try(p.ctx, s, func(ctx context.Context) ([]any, error) { return s.evalCommit(ctx, q) })
		if err == nil {
			switch word(reply, 0) {
			case "conflict":
				if doubt { // the change may have been done, and another one after it
					return done, uncertain(&failure{text: "another change came after a lost answer"})
				}
			case "done":
				if doubt {
					s.stats.resolved.Add(1)
				}
			}
			return s.answered(q, reply)
		}
		if p.ctx.Err() != nil || errors.Is(err, ErrClosed) || s.failed(err).fate == unknown {
			if !doubt {
				s.stats.unknown.Add(1)
			}
			doubt = true
		}
		if err = p.wait(s, err); err != nil {
			if doubt {
				err = uncertain(err)
			}
			return done, err
		}
	}
}

// uncertain wraps ErrUncertain together with what happened.
func uncertain(err error) error { return fmt.Errorf("%w: %w", ErrUncertain, err) }

// answered returns what the answer of the script means.
func (s *Store) answered(q *request, reply []any) (done server.Committed, err error) {
	switch word(reply, 0) {
	case "done":
		done.Version = q.version
		done.Offset, err = strconv.ParseUint(word(reply, 1), 10, 64)
		return done, err
	case "conflict":
		return done, server.ErrConflict
	case "forgotten":
		return done, server.ErrForgotten
	case "known":
		known := &server.KnownError{}
		for i := 1; i+1 < len(reply); i += 2 {
			at, err := strconv.Atoi(word(reply, i))
			if err != nil || at < 0 || at >= len(q.ids) {
				return done, fmt.Errorf("gateway/redis: an answer of another form")
			}
			k, err := s.decodeID(q.ids[at], word(reply, i+1))
			if err != nil {
				return done, err
			}
			known.IDs = append(known.IDs, k)
		}
		return done, known
	}
	return done, fmt.Errorf("gateway/redis: an answer of another form")
}

// evalCommit tries once.
func (s *Store) evalCommit(ctx context.Context, q *request) ([]any, error) {
	args := append([]any(nil), q.args...)
	s.mu.Lock()
	args[argEpoch], args[argHead], args[argID] = s.tail.epoch, s.tail.head, s.tail.headID
	s.mu.Unlock()
	var reply []any
	var err error
	if s.opt.Replicas == 0 {
		reply, err = commitScript.Run(ctx, s.client, q.keys, args...).Slice()
	} else {
		reply, err = s.evalAndWait(ctx, q, args)
	}
	if err != nil {
		return nil, err
	}
	switch word(reply, 0) {
	case "gone":
		_, err = s.openLog(ctx)
	case "mend":
		err = s.mend(ctx, word(reply, 1), "0")
	default:
		return reply, nil
	}
	s.ring()
	if err == nil {
		return nil, &failure{again, nil, "the log was damaged; it has another epoch now"}
	}
	f := s.failed(err)
	if f.fate == unknown { // the change was not done, in any case
		return nil, &failure{again, f.sentinel, f.text}
	}
	return nil, f
}

// evalAndWait also waits for the replicas, on the same connection. What the answer follows from must be at
// the replicas as well, since the server acts on it.
func (s *Store) evalAndWait(ctx context.Context, q *request, args []any) ([]any, error) {
	node, err := s.node(ctx)
	if err != nil {
		return nil, err
	}
	for _, whole := range []bool{false, true} {
		p := node.Pipeline()
		var answer *redis.Cmd
		if whole {
			answer = p.Eval(ctx, commitText, q.keys, args...)
		} else {
			answer = p.EvalSha(ctx, commitScript.Hash(), q.keys, args...)
		}
		wait := p.Do(ctx, "wait", s.opt.Replicas, milliseconds(s.opt.ReplicaTimeout))
		_, _ = p.Exec(ctx) // the error is that of a command
		reply, err := answer.Slice()
		switch {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			continue
		case err != nil:
			return nil, err
		}
		n, err := wait.Int()
		switch {
		case err != nil:
			return nil, &failure{unknown, s.failed(err).sentinel, s.clean(err.Error())}
		case n < s.opt.Replicas:
			return nil, &failure{unknown, ErrReplicas, fmt.Sprintf("%d of %d", n, s.opt.Replicas)}
		}
		return reply, nil
	}
	return nil, &failure{again, ErrUnreachable, "the script is not kept"}
}
