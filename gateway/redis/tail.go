package redis

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/redis/go-redis/v9"
)

const (
	beat       = time.Second     // after which the tail looks even if nothing was announced
	staleAfter = 5 * time.Second // without an answer
	retryAfter = 100 * time.Millisecond
	readCount  = 512     // entries of one read
	readBytes  = 1 << 20 // bytes of one read, and one message more
)

// tail is what this server has read of the log. Store.mu guards it.
type tail struct {
	epoch   string
	run     string // of the server that was read last
	base    []byte
	since   time.Time
	first   uint64
	head    uint64
	headID  string // id of the entry at head
	engine  uint64 // newest offset in Redis when it was last read
	strict  bool   // Redis is another one than before, so what was read must be found there
	changed chan struct{}

	ring      []*server.Entry // the newest up to head, without a gap
	ringFirst uint64
	ringBytes int

	heard  time.Time // when Redis last answered
	failed error     // what it answered since
	policy error
}

func (t *tail) view() server.View {
	return server.View{Epoch: t.epoch, Base: t.base, First: t.first, Head: t.head, Since: t.since}
}

func (t *tail) stale() error {
	if t.failed == nil {
		return ErrStale
	}
	return fmt.Errorf("%w (%w)", ErrStale, t.failed)
}

// round is one or more calls of Sync that wait for the same read.
type round struct {
	done chan struct{}
	err  error // set before done is closed
}

// Sync implements server.Store. All who call it while a read is in progress share the next one.
func (s *Store) Sync(ctx context.Context) error {
	began := time.Now()
	defer s.stats.pending.Begin(began)()
	defer func() { s.stats.syncs.Add(1); s.stats.syncTime.Add(int64(time.Since(began))) }()
	p := s.newPause(ctx)
	defer p.cancel()
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		if s.next == nil {
			s.next = &round{done: make(chan struct{})}
		}
		r := s.next
		s.mu.Unlock()
		s.ring()
		err := error(nil)
		select {
		case <-r.done:
			err = r.err
		case <-p.ctx.Done():
			err = p.ctx.Err()
		case <-s.ctx.Done():
			err = ErrClosed
		}
		if err == nil {
			return nil
		}
		if err = p.wait(s, err); err != nil {
			return err
		}
	}
}

// ring has the tail read at once.
func (s *Store) ring() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// listen waits for announcements. They say only that there is something, and may be lost: the tail looks once a second anyway.
func (s *Store) listen() {
	for range s.pubsub.ChannelWithSubscriptions(redis.WithChannelSize(1)) {
		s.ring()
	}
}

// follow reads what is new until the store is closed.
func (s *Store) follow() {
	timer := time.NewTimer(beat)
	defer timer.Stop()
	looked := time.Now()
	for {
		select {
		case <-s.kick:
		case <-timer.C:
		case <-s.ctx.Done():
			s.finish(s.takeRound(), ErrClosed)
			return
		}
		r := s.takeRound()
		due := time.Since(looked) >= beat
		_, err := try(s.ctx, s, func(ctx context.Context) (any, error) {
			if due {
				if err := s.beat(ctx); err != nil {
					return nil, err
				}
			}
			return nil, s.poll(ctx)
		})
		wait := beat
		if err == nil && due {
			looked = time.Now()
		}
		if err != nil {
			wait = 0
			looked = time.Time{} // it may be another server next time
			s.lost(err)
		}
		s.finish(r, err)
		if err != nil { // not at once, whoever asks
			select {
			case <-time.After(retryAfter):
			case <-s.ctx.Done():
			}
		}
		timer.Reset(wait)
	}
}

func (s *Store) takeRound() *round {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.next
	s.next = nil
	return r
}

func (s *Store) finish(r *round, err error) {
	if r != nil {
		r.err = err
		close(r.done)
	}
}

// lost keeps why Redis could not be read.
func (s *Store) lost(err error) {
	if errors.Is(err, ErrClosed) {
		return
	}
	f := s.failed(err)
	s.mu.Lock()
	s.tail.failed = f
	s.mu.Unlock()
}

// beat looks at the server itself, and drops messages that are too old.
func (s *Store) beat(ctx context.Context) error {
	a, err := s.look(ctx)
	if err != nil {
		return err
	}
	s.adoptServer(a)
	if s.opt.MaxAge > 0 {
		return trimScript.Run(ctx, s.client, []string{s.keys.meta, s.keys.log}, milliseconds(s.opt.MaxAge), s.keys.bell).Err()
	}
	return nil
}

// adoptServer keeps what the server has said of itself.
func (s *Store) adoptServer(a about) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.tail
	t.policy = a.policy
	if t.run != a.run {
		t.strict = t.run != ""
		t.run = a.run
		t.base = baseOf(t.epoch, t.run)
	}
}

// baseOf returns View.Base. All servers on one Redis have the same; after a restart of Redis, which may have lost entries, it is another.
func baseOf(epoch, run string) []byte {
	sum := sha256.Sum256([]byte(epoch + " " + run))
	return sum[:16]
}

// poll reads all that is new. Only one may run.
func (s *Store) poll(ctx context.Context) error {
	for {
		s.mu.Lock()
		from := s.tail.head + 1
		if s.tail.epoch == "" {
			from = 1 << 52 // nothing: it begins at the end
		} else if t := &s.tail; t.engine > t.head+uint64(s.opt.RingCount) {
			from = t.engine - uint64(s.opt.RingCount) // too far behind to read it all
		}
		s.mu.Unlock()
		r, err := s.read(ctx, from, readCount, readBytes)
		if err != nil {
			return err
		}
		if r.repaired {
			continue
		}
		entries, err := decodeAll(&r)
		if err != nil {
			return err
		}
		if s.adopt(&r, entries) {
			return nil
		}
	}
}

func decodeAll(r *reading) (all []*server.Entry, err error) {
	for i := 0; i+1 < len(r.texts); i += 2 {
		e, err := decodeEntry(r.from+uint64(i/2), word(r.texts, i), word(r.texts, i+1))
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// adopt makes what was read visible, and reports whether that is all there was.
func (s *Store) adopt(r *reading, entries []*server.Entry) (all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.tail
	t.heard, t.failed, t.strict = time.Now(), nil, false
	if r.epoch == t.epoch && r.first == t.first && r.head == t.head {
		return true
	}
	close(t.changed)
	t.changed = make(chan struct{})
	t.engine = r.head
	if r.epoch != t.epoch {
		if t.epoch != "" {
			s.stats.epochs.Add(1)
		}
		t.epoch, t.base, t.since = r.epoch, baseOf(r.epoch, t.run), time.UnixMilli(r.since)
		t.first, t.head, t.headID = r.first, r.head, r.last
		t.empty(r.head + 1)
		return true
	}
	t.first = r.first
	if len(entries) > 0 {
		if r.from != t.head+1 {
			t.empty(r.from)
		}
		for _, e := range entries {
			t.ring = append(t.ring, e)
			t.ringBytes += sizeOf(e)
		}
		last := entries[len(entries)-1]
		t.head, t.headID = last.Offset, string(last.ID[:])
	} else if r.first > t.head { // all was trimmed
		t.head, t.headID = r.head, r.last
		t.empty(r.head + 1)
	}
	t.shrink(s.opt.RingCount, s.opt.RingBytes)
	return t.head >= r.head
}

func (t *tail) empty(first uint64) { t.ring, t.ringBytes, t.ringFirst = nil, 0, first }

// shrink drops the oldest messages of the ring.
func (t *tail) shrink(count, bytes int) {
	n := 0
	for n < len(t.ring) && (len(t.ring)-n > count || t.ringBytes > bytes || t.ring[n].Offset < t.first) {
		t.ringBytes -= sizeOf(t.ring[n])
		n++
	}
	clear(t.ring[:n]) // the backing array lives until append replaces it
	t.ring = t.ring[n:]
	t.ringFirst += uint64(n)
}
