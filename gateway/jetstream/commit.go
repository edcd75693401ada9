package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

const (
	maxWalk  = 64 // records that are read back to find a Commit
	maxAsked = 16 // questions about ids at a time
)

// attempt is a Commit in progress. It is sent again until it is known what became of it, always with the same nonce.
type attempt struct {
	c        *server.Change
	messages []*nats.Msg // the refusals, the entries, the record
	nonce    string
	expected uint64 // sequence of the record that is replaced
	epoch    string
	known    uint64 // committed when it began
	doubt    bool   // an earlier try may have been done, or may yet be
}

// Commit implements server.Store. It is one atomic batch, whose last message is the record, with the condition that the record before it
// is the last one of its subject. If there is no answer it is sent again, until Options.Timeout is over: what was done
// is recognised by a nonce. Then the error wraps ErrUnknown, or ErrUnreachable if it was never sent.
//
// ErrFull, ErrTooBig and an error about Change.TTL or Change.Keep mean that nothing was done.
func (s *Store) Commit(ctx context.Context, c *server.Change) (done server.Committed, err error) {
	began := time.Now()
	defer s.counts.pending.Begin(began)()
	defer func() { s.counts.commit(c, time.Since(began), err) }()
	if err := s.allows(c); err != nil || len(c.Entries)+len(c.Refused) == 0 && c.Session == "" {
		return server.Committed{}, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	s.mu.Lock()
	a := &attempt{c: c, nonce: nuid.Next(), epoch: s.epoch, known: s.known}
	generation := s.version
	s.mu.Unlock()
	if c.Session != "" && c.Version != 0 {
		if c.Version&^(1<<generationShift-1) != generation {
			return server.Committed{}, server.ErrConflict // of a time before the stream lost something
		}
		a.expected = c.Version &^ generation
	}
	if !c.Oldest.IsZero() && !s.remembers(c.Oldest) {
		return server.Committed{}, s.forgotten(ctx, a)
	}
	s.encode(a)
	seq, err := s.decide(ctx, a)
	if err != nil {
		return server.Committed{}, err
	}
	if c.Session == "" {
		return server.Committed{Offset: seq}, nil
	}
	if len(c.Entries) > 0 {
		done.Offset = seq - 1
	}
	if c.Record != nil {
		done.Version = generation | seq
	}
	return done, nil
}

// allows returns why c cannot be kept for as long as it must be.
func (s *Store) allows(c *server.Change) error {
	switch {
	case s.ctx.Err() != nil:
		return s.ended()
	case len(c.Session) > maxSession:
		return fmt.Errorf("gateway/jetstream: a session id of %d bytes; use %d at most", len(c.Session), maxSession)
	case c.Session != "" && c.Record != nil && c.TTL > s.opt.Retention.Age:
		return fmt.Errorf("gateway/jetstream: a record must be kept for %v, and Options.Retention.Age is %v; raise it", c.TTL, s.opt.Retention.Age)
	case c.Keep > s.opt.Dedup+keepMargin:
		return fmt.Errorf("gateway/jetstream: ids must be remembered for %v, and Options.Dedup is %v; raise it", c.Keep, s.opt.Dedup)
	}
	return nil
}

// encode makes the messages of a.
func (s *Store) encode(a *attempt) {
	log, c := s.opt.Log, a.c
	a.messages = make([]*nats.Msg, 0, len(c.Refused)+len(c.Entries)+1)
	for i := range c.Refused {
		a.messages = append(a.messages, encodeRefusal(log, c.Who, &c.Refused[i]))
	}
	for i := range c.Entries {
		a.messages = append(a.messages, encodeEntry(log, c.Who, &c.Entries[i]))
	}
	if c.Session != "" {
		a.messages = append(a.messages, encodeRecord(log, a.nonce, a.expected, c))
		return
	}
	for _, m := range a.messages { // there is no record that has the nonce
		m.Header.Set(headerNonce, a.nonce)
	}
}

// decide sends a until it is known what became of it, and returns the sequence of its last message.
func (s *Store) decide(ctx context.Context, a *attempt) (uint64, error) {
	for try := 0; ; try++ {
		if ctx.Err() != nil {
			return 0, s.gaveUp(ctx, a, ctx.Err())
		}
		seq, err := s.send(ctx, a)
		if err == nil {
			s.acknowledged(a, seq)
			return seq, nil
		}
		var refused *jetstream.APIError
		switch {
		case errors.Is(err, errDuplicate):
			seq, err = s.resolve(ctx, a, codeKnownID)
		case errors.As(err, &refused):
			switch refused.ErrorCode {
			case codeWrongLast, codeKnownID:
				seq, err = s.resolve(ctx, a, int(refused.ErrorCode))
			case codeWrongLastNow, codeNotReady, codeIDInProcess, codeManyBatches, codeIncomplete:
				s.counts.inProcess.Add(1)
				err = errAgain
			case codeUnavailable:
				a.doubt, err = true, errAgain
			default:
				return 0, s.gaveUp(ctx, a, typed(refused))
			}
		case errors.Is(err, ErrTooBig):
			return 0, s.gaveUp(ctx, a, err)
		case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrNoResponders): // no server has it
			err = errAgain
		case silent(err) && ctx.Err() == nil:
			a.doubt, err = true, errAgain
		default:
			a.doubt = true
		}
		if err == nil {
			if a.doubt {
				s.counts.resolved.Add(1)
			}
			return seq, nil
		}
		if !errors.Is(err, errAgain) {
			return 0, s.gaveUp(ctx, a, err)
		}
		if pause(ctx, try) != nil {
			return 0, s.gaveUp(ctx, a, ctx.Err())
		}
	}
}

// errAgain means that an attempt is to be sent again.
var errAgain = errors.New("again")

// gaveUp returns the error of an attempt that ends with err.
func (s *Store) gaveUp(ctx context.Context, a *attempt, err error) error {
	var known *server.KnownError
	if errors.Is(err, server.ErrConflict) || errors.As(err, &known) {
		return err
	}
	if err = s.noAnswer(ctx, err); a.doubt {
		s.counts.unknown.Add(1)
		return fmt.Errorf("%w (%w)", ErrUnknown, err)
	}
	return err
}

// acknowledged keeps what is known of an attempt that was done. A sequence that was in use before says that the stream has lost
// something: watch proves it.
func (s *Store) acknowledged(a *attempt, seq uint64) {
	now, c := time.Now(), a.c
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != a.epoch || seq <= a.known {
		return
	}
	s.known = max(s.known, seq)
	for i := range c.Refused {
		r := &c.Refused[i]
		s.ids.add(keyOf(c.Who, r.ID), server.KnownID{ID: r.ID, Hash: r.Hash, Code: r.Code}, now)
	}
	offset := seq
	if c.Session != "" {
		offset-- // of the last entry
	}
	for i := range c.Entries {
		e := &c.Entries[i]
		at := offset - uint64(len(c.Entries)-1-i)
		s.ids.add(keyOf(c.Who, e.ID), server.KnownID{ID: e.ID, Hash: e.Hash, Offset: at}, now)
	}
}

// send publishes the messages of a as one batch.
func (s *Store) send(ctx context.Context, a *attempt) (uint64, error) {
	last := len(a.messages) - 1
	if last > 0 {
		batch := nuid.Next()
		for i, m := range a.messages {
			m.Header.Set(headerBatch, batch)
			m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
			if i == last {
				m.Header.Set(headerCommit, "1")
				break
			}
			if err := s.conn.PublishMsg(m); err != nil {
				if errors.Is(err, nats.ErrMaxPayload) {
					return 0, ErrTooBig
				}
				return 0, err // without its last message a batch is dropped
			}
		}
	}
	r, err := s.request(ctx, a.messages[last])
	if err != nil {
		return 0, err
	}
	return parseAck(r.Data)
}

// resolve finds out why a was refused, or that it was done before. It returns errAgain if neither is so any more.
func (s *Store) resolve(ctx context.Context, a *attempt, code int) (uint64, error) {
	if a.c.Session == "" {
		return s.resolveIDs(ctx, a)
	}
	r, err := s.load(ctx, a.c.Session)
	if err != nil {
		return 0, err
	}
	switch {
	case r.seq != 0 && r.nonce == a.nonce:
		return r.seq, nil
	case a.doubt && r.seq > a.expected:
		if seq, err := s.walk(ctx, a, r); seq != 0 || err != nil {
			return seq, err
		}
	}
	vacant := r.seq == 0 || r.gone
	switch {
	case r.seq == a.expected:
	case a.c.Version == 0 && vacant: // a record that is gone is replaced
		a.expected = r.seq
		s.encode(a)
		return 0, errAgain
	case a.doubt && r.seq < a.expected:
		return 0, errLost
	default:
		return 0, server.ErrConflict
	}
	if code != codeKnownID {
		return 0, errAgain
	}
	return s.resolveIDs(ctx, a)
}

// errLost means that the record is older than the one that a Commit was to replace.
var errLost = errors.New("gateway/jetstream: the stream has lost the record of the session")

// walk looks for a among the records before r, which has replaced it or was committed in its place. It returns 0 if a was
// not done, and never will be.
func (s *Store) walk(ctx context.Context, a *attempt, r *record) (uint64, error) {
	for range maxWalk {
		if r.before <= a.expected {
			return 0, nil
		}
		m, err := s.get(ctx, wanted{Seq: r.before})
		if err != nil {
			return 0, err
		}
		if r, err = m.record(time.Now()); err != nil {
			return 0, err
		}
		if r.nonce == a.nonce {
			return r.seq, nil
		}
	}
	return 0, errLost
}

// resolveIDs returns the outcomes of the ids of a, or the sequence of its last message if they are its own.
func (s *Store) resolveIDs(ctx context.Context, a *attempt) (uint64, error) {
	known, own, err := s.outcomes(ctx, a)
	switch {
	case err != nil:
		return 0, err
	case own != 0:
		return own, nil
	case len(known) == 0:
		return 0, errAgain // it was forgotten just now
	}
	s.counts.knownIDs.Add(int64(len(known)))
	return 0, &server.KnownError{IDs: known}
}

// outcomes returns which ids of a have an outcome; own is the sequence of the last message of a if a was done.
func (s *Store) outcomes(ctx context.Context, a *attempt) (known []server.KnownID, own uint64, err error) {
	if err := s.Sync(ctx); err != nil {
		return nil, 0, err
	}
	ids := make([]wire.ID, 0, len(a.c.Entries)+len(a.c.Refused))
	for i := range a.c.Refused {
		ids = append(ids, a.c.Refused[i].ID)
	}
	for i := range a.c.Entries {
		ids = append(ids, a.c.Entries[i].ID)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for i, id := range ids {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			k, nonce, found, failed := s.outcome(ctx, keyOf(a.c.Who, id), a.doubt)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case failed != nil:
				err = failed
			case found && nonce == a.nonce && i == len(ids)-1:
				own = k.Offset
			case found:
				known = append(known, k)
			}
		})
	}
	all.Wait()
	return known, own, err
}

// outcome returns what became of the message with an id, and the nonce of its Commit if doubt is set. What is not in memory it asks the
// leader, with a message that cannot be accepted: of an id that is known, the leader of a replicated stream says so first.
func (s *Store) outcome(ctx context.Context, key idKey, doubt bool) (k server.KnownID, nonce string, found bool, err error) {
	s.mu.Lock()
	k, found = s.ids.find(key, time.Now())
	s.mu.Unlock()
	switch {
	case found && doubt && k.Offset != 0:
		return s.outcomeAt(ctx, key, k.Offset)
	case found:
		return k, "", true, nil
	}
	for try := 0; ; try++ {
		m := nats.NewMsg(check(s.opt.Log))
		m.Header.Set(headerID, key.text())
		m.Header.Set(headerExpected, strconv.FormatUint(1<<62, 10))
		r, err := s.request(ctx, m)
		var seq uint64
		if err == nil {
			seq, err = parseAck(r.Data)
		}
		var a *jetstream.APIError
		switch {
		case errors.Is(err, errDuplicate):
			return s.outcomeAt(ctx, key, seq)
		case errors.As(err, &a) && a.ErrorCode == codeWrongLast:
			return k, "", false, nil
		case err == nil:
			return k, "", false, errDamaged // it was accepted
		case a == nil && !silent(err):
			return k, "", false, err
		}
		if err := pause(ctx, try); err != nil {
			return k, "", false, err
		}
	}
}

// outcomeAt returns what the message at seq says of an id.
func (s *Store) outcomeAt(ctx context.Context, key idKey, seq uint64) (k server.KnownID, nonce string, found bool, err error) {
	m, err := s.get(ctx, wanted{Seq: seq})
	if errors.Is(err, errNotFound) { // it was trimmed
		s.mu.Lock()
		defer s.mu.Unlock()
		if k, found = s.ids.find(key, time.Now()); !found {
			k = server.KnownID{ID: key.id}
		}
		return k, "", true, nil
	}
	if err == nil {
		var of idKey
		if of, k, _, err = m.outcome(&s.opt); err == nil && of != key {
			err = errDamaged // a plain publisher has used what stores know an id by
		}
	}
	if err != nil {
		return k, "", false, err
	}
	return k, m.header.Get(headerNonce), true, nil
}

// forgotten returns the error of a Commit whose ids the stream may have forgotten: reasons that come before it count first.
func (s *Store) forgotten(ctx context.Context, a *attempt) error {
	if a.c.Session != "" {
		r, err := s.load(ctx, a.c.Session)
		vacant := err == nil && (r.seq == 0 || r.gone) && a.c.Version == 0
		switch {
		case err != nil:
			return s.noAnswer(ctx, err)
		case r.seq != a.expected && !vacant:
			return server.ErrConflict
		}
	}
	known, _, err := s.outcomes(ctx, a)
	switch {
	case err != nil:
		return s.noAnswer(ctx, err)
	case len(known) > 0:
		return &server.KnownError{IDs: known}
	}
	return server.ErrForgotten
}
