package redis_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// load commits through several Stores, as servers do whose clients move about.
type load struct {
	t        *testing.T
	stores   []*redis.Store
	sessions int
	lossy    bool // records may go back
	seed     uint64

	stop                                      chan struct{}
	workers                                   sync.WaitGroup
	acked                                     []atomic.Uint64 // by session: newest message whose Commit has returned
	total, fenced, zombies, failures, rewound atomic.Uint64
}

func messageID(session int, n uint64) (id wire.ID) {
	binary.BigEndian.PutUint32(id[:], uint32(session+1))
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func (l *load) start() {
	if l.seed == 0 {
		l.seed = rand.Uint64()
	}
	l.t.Logf("seed %d", l.seed)
	l.stop, l.acked = make(chan struct{}), make([]atomic.Uint64, l.sessions)
	for i := range l.sessions {
		l.workers.Go(func() { l.work(i, rand.New(rand.NewPCG(l.seed, uint64(i)))) })
	}
}

func (l *load) end() {
	close(l.stop)
	l.workers.Wait()
}

// waitFor waits until n more messages were acknowledged.
func (l *load) waitFor(n uint64) {
	l.t.Helper()
	n += l.total.Load()
	eventually(l.t, fmt.Sprintf("%d messages", n), time.Minute, func() bool { return l.total.Load() >= n })
}

func (l *load) work(session int, rnd *rand.Rand) {
	ctx, name := context.Background(), fmt.Sprint("session ", session)
	s := l.stores[session%len(l.stores)]
	have, version := l.load(s, name)
	for moves := rnd.IntN(20); ; moves-- {
		select {
		case <-l.stop:
			return
		default:
		}
		if moves == 0 {
			l.move(&s, name, &have, &version, rnd)
			moves = 1 + rnd.IntN(20)
		}
		c := l.change(session, have, version, 1+rnd.IntN(4))
		next := have + uint64(len(c.Entries))
		done, err := s.Commit(ctx, c)
		if err == nil {
			have, version = next, done.Version
			l.acked[session].Store(have)
			l.total.Add(uint64(len(c.Entries)))
			continue
		}
		var known *server.KnownError
		if errors.As(err, &known) || errors.Is(err, server.ErrConflict) && !l.lossy {
			l.t.Errorf("session %d after %d: %v", session, have, err)
			return
		}
		l.failures.Add(1)
		found, now := l.load(s, name)
		switch {
		case found == next && !l.lossy: // the answer was lost: acknowledged with the next Commit
		case l.lossy:
			if found < have {
				l.rewound.Add(1)
			}
			l.acked[session].Store(found)
		case found != have:
			l.t.Errorf("session %d: the record has %d after %d and %d more: %v", session, found, have, len(c.Entries), err)
			return
		}
		have, version = found, now
	}
}

func (l *load) change(session int, have, version uint64, n int) *server.Change {
	c := &server.Change{
		Session: fmt.Sprint("session ", session), Version: version, TTL: time.Hour, Bound: true, Who: fmt.Sprint("who ", session), Keep: time.Hour,
		Record: binary.BigEndian.AppendUint64(nil, have+uint64(n)),
	}
	for i := range n {
		at := have + 1 + uint64(i)
		c.Entries = append(c.Entries, server.Entry{ID: messageID(session, at), Topic: "t/a", Payload: fmt.Append(nil, session, " ", at), Hash: at})
	}
	return c
}

// load returns the record of a session. It waits while Redis is away.
func (l *load) load(s *redis.Store, name string) (have, version uint64) {
	for {
		record, version, err := s.Load(context.Background(), name)
		if err == nil {
			if version == 0 {
				return 0, 0
			}
			return binary.BigEndian.Uint64(record), version
		}
		select {
		case <-l.stop:
			return 0, 0
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// move continues a session at another server, which fences the server that had it.
func (l *load) move(s **redis.Store, name string, have, version *uint64, rnd *rand.Rand) {
	old, stale := *s, *version
	*s = l.stores[rnd.IntN(len(l.stores))]
	var session int
	_, _ = fmt.Sscanf(name, "session %d", &session)
	found, now := l.load(*s, name)
	fence := l.change(session, found, now, 0)
	done, err := (*s).Commit(context.Background(), fence)
	if err != nil {
		*have, *version = l.load(*s, name)
		return
	}
	if found < *have && !l.lossy {
		l.t.Errorf("%s: the record has %d after %d", name, found, *have)
	}
	*have, *version = found, done.Version
	l.fenced.Add(1)
	_, err = old.Commit(context.Background(), l.change(session, found, stale, 1)) // the zombie
	if err == nil && !l.lossy {                                                   // unless the fence was lost
		l.t.Errorf("%s: a Commit of a server that was fenced was done", name)
	}
	if errors.Is(err, server.ErrConflict) {
		l.zombies.Add(1)
	}
}

// check reads the whole log: every acknowledged message once and in the order of its session, and nothing else but what a record has. It
// returns how many there are.
func (l *load) check(s *redis.Store) (count int) {
	l.t.Helper()
	ctx := context.Background()
	if err := s.Sync(ctx); err != nil {
		l.t.Fatal(err)
	}
	next := make([]uint64, l.sessions)
	buf := make([]*server.Entry, 300)
	for from := uint64(1); ; {
		n, first, err := s.Read(ctx, from, buf)
		if err != nil || first > 1 {
			l.t.Fatalf("read from %d: first %d, %v", from, first, err)
		}
		if n == 0 {
			break
		}
		for _, e := range buf[:n] {
			if e.Offset != from {
				l.t.Fatalf("offset %d after %d", e.Offset, from-1)
			}
			from++
			session, at := int(binary.BigEndian.Uint32(e.ID[:]))-1, binary.BigEndian.Uint64(e.ID[8:])
			if next[session]++; at != next[session] || e.Hash != at || string(e.Payload) != string(fmt.Append(nil, session, " ", at)) {
				l.t.Fatalf("offset %d: message %d of session %d, %q, in the place of message %d", e.Offset, at, session, e.Payload, next[session])
			}
			count++
		}
	}
	for i := range l.sessions {
		have, _ := l.load(s, fmt.Sprint("session ", i))
		if acked := l.acked[i].Load(); next[i] != have || have < acked {
			l.t.Errorf("session %d: %d messages, the record has %d, acknowledged were %d", i, next[i], have, acked)
		}
	}
	l.t.Logf("%d messages, %d fences, %d zombies refused, %d failures, %d records went back", count, l.fenced.Load(), l.zombies.Load(), l.failures.Load(), l.rewound.Load())
	return count
}
