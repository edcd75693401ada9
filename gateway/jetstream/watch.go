package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/limpet-go/limpet/server"
)

const watchTime = time.Second

// seen is what a look at the stream has shown.
type seen struct {
	limits
	epoch  string
	newest *stored // entry; nil: none is held
}

// watch looks at the stream each second, from Open to Close.
func (s *Store) watch() {
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	for before := uint64(0); ; {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeoutCause(s.ctx, min(staleTime, s.opt.Timeout), errTimeUp)
		now, err := s.look(ctx, true)
		if err != nil {
			err = s.noAnswer(ctx, err)
		}
		cancel()
		s.mu.Lock()
		s.failed = err
		if at := s.at; err == nil {
			s.counts.lag.Store(0)
			if now.newest != nil && now.newest.seq > at {
				s.counts.lag.Store(now.newest.seq - at)
				if at == before && time.Since(s.heard) > staleTime {
					s.restart()
				}
			}
			before = at
		}
		s.mu.Unlock()
	}
}

// restart makes the tail begin with another consumer.
func (s *Store) restart() {
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// look asks the leader for the bounds of the stream and for its newest entry. It compares them with what the store has seen, and
// adopts another epoch. If the stream has lost what the store has seen, it gives the log another epoch. With deep it also reads the newest
// entry of the store again, if that is not the newest one of the stream.
func (s *Store) look(ctx context.Context, deep bool) (*seen, error) {
	for range 5 {
		s.mu.Lock()
		known, epoch := s.known, s.epoch
		var held *server.Entry
		if n := len(s.ring.entries); n > 0 {
			held = s.ring.entries[n-1]
		}
		s.mu.Unlock()
		i, err := s.info(ctx)
		if err != nil {
			return nil, err
		}
		if epochOf(i) != epoch {
			s.adopt(i)
			continue
		}
		newest, err := s.get(ctx, wanted{Last: messages(s.opt.Log) + ">"})
		if err != nil && !errors.Is(err, errNotFound) {
			return nil, err
		}
		suspect := i.State.LastSeq < known
		if held != nil && !suspect {
			switch {
			case newest != nil && newest.seq == held.Offset:
				suspect = !newest.is(held, &s.opt)
			case deep || newest == nil || newest.seq < held.Offset:
				if suspect, err = s.lost(ctx, held); err != nil {
					return nil, err
				}
			}
		}
		if !suspect {
			now := &seen{limits: limitsOf(i), epoch: epoch, newest: newest}
			s.note(now)
			return now, nil
		}
		rewound, err := s.prove(ctx, known, held)
		if err == nil && rewound {
			s.counts.rewinds.Add(1)
			err = s.renew(ctx, epoch)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, ErrUnreachable
}

// note keeps what a look has shown.
func (s *Store) note(now *seen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != now.epoch {
		return
	}
	s.known = max(s.known, now.last)
	if now.first < s.limits.first {
		return // a look that began later has ended before
	}
	if now.first > s.limits.first {
		s.wake()
	}
	s.limits = now.limits
}

// is reports whether m is the entry e.
func (m *stored) is(e *server.Entry, o *Options) bool {
	k, _, other, err := m.outcome(o)
	return err == nil && other != nil && k.id == e.ID
}

// lost reports whether the leader has something else in the place of e. If it has nothing there, e was trimmed or deleted.
func (s *Store) lost(ctx context.Context, e *server.Entry) (bool, error) {
	m, err := s.get(ctx, wanted{Seq: e.Offset})
	if errors.Is(err, errNotFound) {
		return false, nil
	}
	return err == nil && !m.is(e, &s.opt), err
}

// prove reports whether the stream has certainly lost something: a leader that was replaced and does not know it shows less, too. So it
// writes a message, which only the present leader can do: it gets a sequence that was in use before, or what the store holds has changed.
func (s *Store) prove(ctx context.Context, known uint64, held *server.Entry) (bool, error) {
	ack, err := s.mark(ctx)
	if err != nil || ack <= known {
		return err == nil, err
	}
	if held == nil {
		return false, nil
	}
	return s.lost(ctx, held)
}

// mark writes a message that means nothing and returns its sequence.
func (s *Store) mark(ctx context.Context) (uint64, error) {
	r, err := s.request(ctx, nats.NewMsg(check(s.opt.Log)))
	if err != nil {
		return 0, err
	}
	return parseAck(r.Data)
}

// parseAck returns the sequence of a message that was published.
func parseAck(data []byte) (uint64, error) {
	var a struct {
		Error     *jetstream.APIError `json:"error"`
		Seq       uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	err := json.Unmarshal(data, &a)
	switch {
	case err != nil || a.Error == nil && a.Seq == 0:
		return 0, errors.New("gateway/jetstream: an answer of the servers that is none of JetStream")
	case a.Error != nil:
		return 0, a.Error
	case a.Duplicate:
		return a.Seq, errDuplicate
	}
	return a.Seq, nil
}

// errDuplicate means that the stream has a message with this id.
var errDuplicate = errors.New("the id is known")

// flight is one run of Sync for all that wait for it.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// Sync implements server.Store. It asks the leader of the stream, and waits until the newest message has arrived. Those that are called
// while one runs share the next one.
func (s *Store) Sync(ctx context.Context) error {
	began := time.Now()
	s.mu.Lock()
	if s.ctx.Err() != nil { // Close waits for no goroutine that begins later
		s.mu.Unlock()
		return s.ended()
	}
	f := s.waiting
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.waiting = f
	}
	if !s.flying {
		s.flying = true
		s.work.Go(s.fly)
	}
	s.mu.Unlock()
	defer s.counts.pending.Begin(began)()
	defer func() { s.counts.syncTime.Add(int64(time.Since(began))); s.counts.syncs.Add(1) }()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fly runs what waits for Sync until nothing does.
func (s *Store) fly() {
	for {
		s.mu.Lock()
		f := s.waiting
		s.waiting = nil
		s.flying = f != nil
		s.mu.Unlock()
		if f == nil {
			return
		}
		ctx, cancel := s.bounded(s.ctx)
		if f.err = s.catchUp(ctx); f.err != nil {
			f.err = s.noAnswer(ctx, f.err)
		}
		cancel()
		s.counts.flights.Add(1)
		close(f.done)
	}
}

// catchUp returns once the tail has delivered all that was committed before the call.
func (s *Store) catchUp(ctx context.Context) error {
	now, err := s.look(ctx, false)
	if err != nil || now.newest == nil {
		return err
	}
	for {
		s.mu.Lock()
		moved, there := s.epoch != now.epoch, s.at >= now.newest.seq
		if s.arrived == nil {
			s.arrived = make(chan struct{})
		}
		arrived := s.arrived
		s.mu.Unlock()
		switch {
		case moved:
			return s.catchUp(ctx)
		case there:
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
