package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/redis/go-redis/v9"
)

// Store is a server.Store in Redis. Create one with Open. It is safe for concurrent use. It has two goroutines, which
// end with Close, and one for each call of Redis in progress.
type Store struct {
	client  redis.UniversalClient
	opt     Options
	keys    keys
	secret  string // the password, to be removed from texts
	ctx     context.Context
	cancel  context.CancelFunc
	calls   sync.WaitGroup
	kick    chan struct{} // the tail reads at once
	history history
	stats   counters
	opened  atomic.Bool // Open has returned it

	mu     sync.Mutex // leaf
	closed bool
	tail   tail
	next   *round // what waits for the next read of the tail; nil: nothing
	pubsub *redis.PubSub
}

// keys are the names of what is kept.
type keys struct{ prefix, meta, log, scratch, bell string }

func newKeys(log string) keys {
	p := "{" + log + "}:"
	return keys{prefix: p, meta: p + "meta", log: p + "log", scratch: p + "scratch", bell: p + "bell"}
}

// session returns the key of a record.
func (k *keys) session(sid string) string { return k.prefix + "s:" + sid }

// id returns the key of an id, which has a fixed length and comes first: no principal can be taken for another one.
func (k *keys) id(id wire.ID, who string) string { return k.prefix + "i:" + string(id[:]) + who }

func newStore(client redis.UniversalClient, opt Options, secret string) *Store {
	s := &Store{client: client, opt: opt, keys: newKeys(opt.Log), secret: secret, kick: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.history = history{store: s, loading: map[uint64]*loading{}, slots: make(chan struct{}, maxReaders)}
	s.tail.changed = make(chan struct{})
	return s
}

// start finds out whether this Redis can be used, and begins to read.
func (s *Store) start(ctx context.Context) error {
	s.mu.Lock()
	s.tail.heard = time.Now()
	s.mu.Unlock()
	_, err := call(ctx, s, func(ctx context.Context) (struct{}, error) {
		about, err := s.look(ctx)
		if err != nil {
			return struct{}{}, err
		}
		if about.policy != nil {
			return struct{}{}, about.policy
		}
		s.adoptServer(about)
		if _, err := s.openLog(ctx); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, s.poll(ctx)
	})
	if err != nil {
		return err
	}
	s.pubsub = s.client.Subscribe(s.ctx, s.keys.bell)
	if _, err := call(ctx, s, func(ctx context.Context) (any, error) { return s.pubsub.ReceiveTimeout(ctx, tryTimeout) }); err != nil {
		return err
	}
	s.calls.Go(s.follow)
	s.calls.Go(s.listen)
	return nil
}

// Load implements server.Store.
func (s *Store) Load(ctx context.Context, session string) ([]byte, uint64, error) {
	defer s.stats.pending.Begin(time.Now())()
	text, err := call(ctx, s, func(ctx context.Context) (string, error) {
		text, err := loadScript.Run(ctx, s.client, []string{s.keys.session(session)}).Text()
		if err == redis.Nil {
			return "", nil
		}
		return text, err
	})
	if err != nil || text == "" {
		return nil, 0, err
	}
	return s.decodeRecord(text)
}

// Known implements server.Store.
func (s *Store) Known(ctx context.Context, who string, ids []wire.ID) (known []server.KnownID, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	defer s.stats.pending.Begin(time.Now())()
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = s.keys.id(id, who)
	}
	values, err := call(ctx, s, func(ctx context.Context) ([]any, error) { return s.client.MGet(ctx, names...).Result() })
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			continue
		}
		k, err := s.decodeID(ids[i], text)
		if err != nil {
			return nil, err
		}
		known = append(known, k)
	}
	return known, nil
}

// Read implements server.Store. The newest messages are in memory; at most eight reads of older ones are in progress at a
// time, and who wants the same ones shares them.
func (s *Store) Read(ctx context.Context, from uint64, dst []*server.Entry) (n int, first uint64, err error) {
	for {
		s.mu.Lock()
		v, t := s.tail.view(), &s.tail
		if from > v.Head || len(dst) == 0 {
			s.mu.Unlock()
			return 0, v.First, nil
		}
		from = max(from, v.First)
		if at := from - t.ringFirst; from >= t.ringFirst && at < uint64(len(t.ring)) {
			n = copy(dst, t.ring[at:])
			s.mu.Unlock()
			s.stats.ringHits.Add(1)
			return n, v.First, nil
		}
		s.mu.Unlock()
		c, err := s.history.read(ctx, v.Epoch, from)
		switch {
		case err != nil:
			return 0, 0, err
		case c.epoch != v.Epoch: // the log has changed under the read
			if err := s.Sync(ctx); err != nil {
				return 0, 0, err
			}
			continue
		}
		first = max(v.First, c.first)
		from = max(from, first)
		for n < len(dst) && from <= v.Head && from < c.from+uint64(len(c.entries)) {
			dst[n] = c.entries[from-c.from]
			n++
			from++
		}
		return n, first, nil
	}
}

// View implements server.Store. Redis can lose its newest messages, so NoRewind is not set. Epoch changes when a server has seen that
// they are lost, or that messages are missing in between; Base also when Redis was restarted or another primary took over.
func (s *Store) View() server.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tail.view()
}

// Tag implements server.Store.
func (s *Store) Tag(ctx context.Context, offset uint64) ([]byte, bool, error) {
	v := s.View()
	if offset < v.First || offset > v.Head {
		return nil, false, nil
	}
	var one [1]*server.Entry
	n, _, err := s.Read(ctx, offset, one[:])
	if err != nil || n == 0 || one[0].Offset != offset {
		return nil, false, err
	}
	id := one[0].ID
	return id[:], true, nil
}

// Changed implements server.Store.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tail.changed
}

// Health returns why clients should be at another server: an error that wraps ErrClosed, ErrPolicy, or ErrStale and what
// Redis last answered. It does not block.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t := &s.tail; {
	case s.closed:
		return ErrClosed
	case time.Since(t.heard) > staleAfter:
		return t.stale()
	default:
		return t.policy
	}
}

// Close ends the goroutines and the connections of the store. What is in progress fails with ErrClosed. Close may be called more than
// once. A command that cannot be interrupted is waited for, two seconds at most. Call it after Server.Close.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if !again {
		s.cancel()
		if s.pubsub != nil {
			_ = s.pubsub.Close()
		}
		_ = s.client.Close() // which ends the commands in progress
	}
	s.calls.Wait()
	return nil
}

// newEpoch returns a random name for a log.
func newEpoch() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
