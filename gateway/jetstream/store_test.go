package jetstream_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/storetest"
)

var (
	logs  atomic.Uint64
	names sync.Map // opened of each store
)

// opened is how a store was opened.
type opened struct {
	t *testing.T
	o jetstream.Options
}

// tries returns the options of storetest for a log of its own for each store.
func tries(urls string, o jetstream.Options) (openNew func(*testing.T) server.Store, opt *storetest.Options) {
	openWith := func(keep server.Retention) func(t *testing.T) server.Store {
		return func(t *testing.T) server.Store {
			one := o
			one.Log, one.Retention = fmt.Sprint("log", logs.Add(1)), keep
			s := open(t, urls, &one)
			names.Store(s, opened{t, one})
			return s
		}
	}
	return openWith(server.Retention{}), &storetest.Options{
		Small: openWith(server.Retention{Count: 5}),
		Beside: func(t *testing.T, store server.Store) server.Store {
			one, _ := names.Load(store)
			beside := one.(opened).o
			return open(t, urls, &beside)
		},
	}
}

func TestStore(t *testing.T) {
	p := single(t)
	openNew, o := tries(p.url, jetstream.Options{Memory: true})
	o.Rounds = 200
	o.Cut = func(s server.Store) {
		one, _ := names.Load(s)
		one.(opened).t.Cleanup(func() { p.signal(syscall.SIGCONT) })
		p.signal(syscall.SIGSTOP)
	}
	storetest.Run(t, openNew, o)
}

func TestStoreOnThreeServers(t *testing.T) {
	_, urls := cluster(t)
	openNew, o := tries(urls, jetstream.Options{})
	o.Rounds = 50
	storetest.Run(t, openNew, o)
}

// What may have been forgotten is an error that comes after the others.
func TestForgotten(t *testing.T) {
	s := open(t, single(t).url, &jetstream.Options{Log: "forgotten", Memory: true, Dedup: time.Minute})
	began := time.Now()
	commit := func(version uint64, oldest time.Time, all []server.Entry) (server.Committed, error) {
		return s.Commit(t.Context(), &server.Change{
			Session: "s", Version: version, Record: []byte("r"), TTL: time.Hour, Who: "who", Keep: time.Minute, Entries: all, Oldest: oldest,
		})
	}
	done, err := commit(0, began, entriesOf(1, 2)) // the stream is younger than the test
	if !is(err, server.ErrForgotten) && err != nil {
		t.Fatal(err)
	}
	if err != nil {
		if done, err = commit(0, time.Time{}, entriesOf(1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	long := began.Add(-3 * time.Minute)
	if _, err := commit(done.Version, long, entriesOf(2, 1)); !is(err, server.ErrForgotten) {
		t.Errorf("an id of the time before the stream: %v", err)
	}
	if _, err := commit(done.Version+1, long, entriesOf(2, 1)); !is(err, server.ErrConflict) {
		t.Errorf("with another version: %v", err)
	}
	var known *server.KnownError
	if _, err := commit(done.Version, long, entriesOf(1, 1)); !errors.As(err, &known) {
		t.Errorf("with an id that is known: %v", err)
	}
	if _, err := commit(done.Version, time.Now(), entriesOf(2, 1)); err != nil {
		t.Errorf("an id of a time that the stream knows: %v", err)
	}
	if n := len(readAll(t, s)); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// A record whose time is over is none, and another one takes its place.
func TestExpiredRecord(t *testing.T) {
	s := open(t, single(t).url, &jetstream.Options{Log: "expired", Memory: true})
	c := &server.Change{Session: "s", Record: []byte("old"), TTL: 50 * time.Millisecond}
	first, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the record is gone", func() bool {
		_, version, err := s.Load(t.Context(), "s")
		return err == nil && version == 0
	})
	c = &server.Change{Session: "s", Record: []byte("new"), TTL: time.Hour}
	done, err := s.Commit(t.Context(), c)
	if err != nil || done.Version <= first.Version {
		t.Fatalf("%+v after %+v, %v", done, first, err)
	}
	if record, version, err := s.Load(t.Context(), "s"); err != nil || string(record) != "new" || version != done.Version {
		t.Errorf("record %q, version %d, %v", record, version, err)
	}
}
