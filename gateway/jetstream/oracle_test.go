package jetstream_test

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

	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// load is sessions that write through several stores, and what they were promised. A session moves to another store now and
// then; the store that it left goes on for one Commit, as a server that does not know.
type load struct {
	t        *testing.T
	stores   []*jetstream.Store
	acked    []uint64 // the newest message of each session that was acknowledged; of its goroutine until wait
	fenced   atomic.Int64
	unknown  atomic.Int64
	longest  atomic.Int64 // Commit, in ns
	stopped  chan struct{}
	sessions sync.WaitGroup
}

// startLoad starts sessions that write every 5 ms, about. The seed is that of their choices.
func startLoad(t *testing.T, sessions int, seed uint64, stores ...*jetstream.Store) *load {
	t.Logf("seed %d", seed)
	l := &load{t: t, stores: stores, acked: make([]uint64, sessions), stopped: make(chan struct{})}
	for n := range sessions {
		l.sessions.Go(func() { l.session(n, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	return l
}

// stop ends the load. What a session is committing ends first.
func (l *load) stop() {
	close(l.stopped)
	l.sessions.Wait()
	l.t.Logf("%d fenced, %d unknown, longest Commit %v", l.fenced.Load(), l.unknown.Load(), time.Duration(l.longest.Load()).Round(time.Millisecond))
}

func messageID(session int, n uint64) (id wire.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(session)+1)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func (l *load) change(session int, version, acked uint64, count int) *server.Change {
	c := &server.Change{Session: fmt.Sprint("session ", session), Version: version, TTL: time.Hour, Who: "who", Keep: time.Hour}
	for range count {
		acked++
		c.Entries = append(c.Entries, server.Entry{
			ID: messageID(session, acked), Topic: fmt.Sprint("t/", session), Payload: fmt.Append(nil, acked), Hash: acked,
		})
	}
	c.Record = binary.BigEndian.AppendUint64(nil, acked)
	return c
}

func (l *load) session(n int, random *rand.Rand) {
	store := l.stores[random.IntN(len(l.stores))]
	version, acked := uint64(0), uint64(0)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.stopped:
			l.acked[n] = acked
			return
		}
		if random.IntN(20) == 0 && version != 0 { // it moves, and the store that it leaves does not know
			left, old := store, version
			store = l.stores[random.IntN(len(l.stores))]
			version, acked = l.load(n, store, acked)
			if version != old {
				continue // the last Commit was not known
			}
			done, err := store.Commit(context.Background(), l.change(n, version, acked, 0))
			if err != nil {
				version, acked = l.load(n, store, acked)
				continue
			}
			if _, err := left.Commit(context.Background(), l.change(n, old, acked, 1)); err == nil {
				l.t.Errorf("session %d: a Commit after the fence was accepted", n)
			} else if errors.Is(err, server.ErrConflict) {
				l.fenced.Add(1)
			}
			version = done.Version
		}
		began := time.Now()
		c := l.change(n, version, acked, 1+random.IntN(3))
		done, err := store.Commit(context.Background(), c)
		took := int64(time.Since(began))
		for old := l.longest.Load(); took > old && !l.longest.CompareAndSwap(old, took); old = l.longest.Load() {
		}
		if err == nil {
			version, acked = done.Version, acked+uint64(len(c.Entries))
			continue
		}
		if !errors.Is(err, server.ErrConflict) {
			l.unknown.Add(1)
		}
		version, acked = l.load(n, store, acked)
	}
}

// load finds out what became of the last Commit: like a client that comes back.
func (l *load) load(n int, store *jetstream.Store, acked uint64) (version, now uint64) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		record, version, err := store.Load(ctx, fmt.Sprint("session ", n))
		cancel()
		switch {
		case err != nil:
			l.t.Logf("session %d: Load: %v", n, err)
		case version == 0:
			return 0, 0
		default:
			return version, binary.BigEndian.Uint64(record)
		}
		select {
		case <-l.stopped:
			return 0, acked
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// check reads all messages with a store that is opened now. Each session has a row of messages from 1 on, each once and in
// order, which ends where its record says, and not before what was acknowledged.
func (l *load) check(s *jetstream.Store) {
	l.t.Helper()
	newest := make([]uint64, len(l.acked))
	total := 0
	for _, e := range readAll(l.t, s) {
		session := int(binary.BigEndian.Uint64(e.ID[:8])) - 1
		n := binary.BigEndian.Uint64(e.ID[8:])
		if n != newest[session]+1 || string(e.Payload) != fmt.Sprint(n) {
			l.t.Fatalf("session %d: message %d (%s) follows %d", session, n, e.Payload, newest[session])
		}
		newest[session] = n
		total++
	}
	for n := range l.acked {
		record, _, err := s.Load(l.t.Context(), fmt.Sprint("session ", n))
		if err != nil || len(record) != 8 {
			l.t.Fatalf("session %d: record %x, %v", n, record, err)
		}
		if said := binary.BigEndian.Uint64(record); said != newest[n] || newest[n] < l.acked[n] {
			l.t.Errorf("session %d: messages up to %d are there, the record says %d, acknowledged were %d", n, newest[n], said, l.acked[n])
		}
	}
	if total == 0 {
		l.t.Error("no messages")
	}
	l.t.Logf("%d messages", total)
}

// readAll reads all messages.
func readAll(t *testing.T, s server.Store) (all []*server.Entry) {
	t.Helper()
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	buf := make([]*server.Entry, 100)
	for from := s.View().First; ; {
		n, first, err := s.Read(t.Context(), from, buf)
		switch {
		case err != nil:
			t.Fatalf("Read from %d: %v", from, err)
		case first > from:
			t.Fatalf("Read from %d: what is before %d is gone", from, first)
		case n == 0:
			if head := s.View().Head; from <= head {
				t.Fatalf("nothing is read from %d on, and the head is %d", from, head)
			}
			return all
		}
		all = append(all, buf[:n]...)
		from = buf[n-1].Offset + 1
	}
}
