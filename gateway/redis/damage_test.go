package redis_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// Whatever is taken from the log by others, or by an operator's mistake, gives all servers another epoch. What is left is
// read from there on, without a hole, and new messages follow.
func TestDamagedLog(t *testing.T) {
	e := start(t, "--enable-debug-command", "local")
	for name, c := range map[string]struct {
		damage      func()
		first, head uint64 // then
	}{
		"FLUSHALL":                 {func() { e.do("FLUSHALL") }, 1, 0},
		"the stream is removed":    {func() { e.do("DEL", "{load}:log") }, 101, 100},
		"entries are removed":      {func() { e.do("XDEL", "{load}:log", "40-0", "41-0", "70-0") }, 71, 100},
		"the newest is removed":    {func() { e.do("XDEL", "{load}:log", "100-0") }, 101, 100},
		"others trim the stream":   {func() { e.do("XTRIM", "{load}:log", "MAXLEN", 10) }, 91, 100},
		"others trim all of it":    {func() { e.do("XTRIM", "{load}:log", "MAXLEN", 0) }, 101, 100},
		"an older copy comes back": {func() { e.do("DEBUG", "RELOAD", "NOSAVE") }, 1, 50},
	} {
		t.Run(name, func(t *testing.T) {
			e.do("FLUSHALL")
			l := &load{t: t, sessions: 1}
			o := *all
			o.RingCount, o.RingBytes = 1, 1 // nothing is in memory
			stores := []*redis.Store{open(t, e.url(), &o), open(t, e.url(), &o)}
			version := uint64(0)
			for n := uint64(0); n < 100; n += 10 {
				done, err := commit(stores[0], version, l, n, 10)
				if err != nil {
					t.Fatal(err)
				}
				version = done.Version
				if n == 40 && c.head == 50 {
					e.do("SAVE")
				}
			}
			epoch := stores[0].View().Epoch
			for _, s := range stores {
				if v := s.View(); s.Sync(t.Context()) != nil || v.Epoch != epoch {
					t.Fatalf("%+v", v)
				}
			}
			c.damage()
			var views []server.View
			for _, s := range stores {
				readAll(t, s)
				views = append(views, s.View())
			}
			for i, s := range stores {
				if err := s.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
				if v := s.View(); v.Epoch == epoch || v.First != c.first || v.Head != c.head {
					t.Errorf("server %d: view %+v, then %+v; want first %d, head %d", i, views[i], v, c.first, c.head)
				}
				if n := len(readAll(t, s)); n != int(c.head+1-c.first) {
					t.Errorf("server %d reads %d entries", i, n)
				}
			}
			have, now := l.load(stores[1], "session 0")
			done, err := commit(stores[1], now, l, have+1000, 2)
			if err != nil || done.Offset != c.head+2 {
				t.Errorf("%+v, %v", done, err)
			}
		})
	}
}

// readAll reads from the beginning of the view. It must not find a hole.
func readAll(t *testing.T, s *redis.Store) (all []*server.Entry) {
	t.Helper()
	buf := make([]*server.Entry, 64)
	for from := s.View().First; ; {
		n, first, err := s.Read(t.Context(), from, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return all
		}
		if first > from {
			all, from = nil, first
		}
		for _, e := range buf[:n] {
			if e.Offset != from {
				t.Errorf("offset %d after %d", e.Offset, from-1)
			}
			from = e.Offset + 1
			all = append(all, e)
		}
	}
}

// The name of the log is gone, and its stream is not: nothing can be known of it.
func TestLogWithoutMeta(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1}
	o := *all
	o.Timeout = 500 * time.Millisecond
	s := open(t, e.url(), &o)
	done, err := commit(s, 0, l, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	e.do("DEL", "{load}:meta")
	if _, err := commit(s, done.Version, l, 3, 1); !errors.Is(err, redis.ErrForeign) || errors.Is(err, redis.ErrUncertain) && s.Stats().Unknown == 0 {
		t.Errorf("Commit: %v", err)
	}
	if err := s.Sync(t.Context()); !errors.Is(err, redis.ErrForeign) {
		t.Errorf("Sync: %v", err)
	}
}

// Messages leave after MaxAge, by the clock of Redis, without any Commit.
func TestMaxAge(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1}
	s := open(t, e.url(), &redis.Options{Log: "load", MaxAge: 300 * time.Millisecond})
	done, err := commit(s, 0, l, 0, 250)
	if err != nil || s.Sync(t.Context()) != nil {
		t.Fatal(err)
	}
	changed := s.Changed()
	eventually(t, "all messages leave", 10*time.Second, func() bool { v := s.View(); return v.First == 251 && v.Head == 250 })
	select {
	case <-changed:
	default:
		t.Error("Changed was not closed")
	}
	if n, first, err := s.Read(t.Context(), 1, make([]*server.Entry, 1)); n != 0 || first != 251 || err != nil {
		t.Errorf("read: %d, first %d, %v", n, first, err)
	}
	if done, err = commit(s, done.Version, l, 250, 1); err != nil || done.Offset != 251 {
		t.Errorf("%+v, %v", done, err)
	}
	if v := s.View(); v.Epoch == "" || s.Stats().Epochs != 0 {
		t.Errorf("the epoch has changed: %+v", v)
	}
	if length := e.do("XLEN", "{load}:log").(int64); length > 110 {
		t.Errorf("Redis still has %d entries", length)
	}
}

// A record is kept for its TTL, and goes after it. A Commit for the version that it had is refused then.
func TestRecordExpires(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1}
	s := open(t, e.url(), all)
	c := l.change(0, 0, 0, 1)
	c.TTL = 200 * time.Millisecond
	done, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "the record goes", 20*time.Second, func() bool {
		_, version, err := s.Load(t.Context(), "session 0")
		return err == nil && version == 0
	})
	if kept := time.Since(began); kept < c.TTL {
		t.Errorf("it was kept for %v", kept)
	}
	if _, err := commit(s, done.Version, l, 1, 1); !errors.Is(err, server.ErrConflict) {
		t.Errorf("a version that is gone: %v", err)
	}
}

// Many who read the same old messages share what was read: Redis sees each part once.
func TestHistoryIsShared(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1}
	o := *all
	o.RingCount = 100
	s := open(t, e.url(), &o)
	version := uint64(0)
	for n := uint64(0); n < 5000; n += 500 {
		done, err := commit(s, version, l, n, 500)
		if err != nil {
			t.Fatal(err)
		}
		version = done.Version
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for range 50 {
		readers.Go(func() {
			if n := len(readAll(t, s)); n != 5000 {
				t.Errorf("%d entries", n)
			}
		})
	}
	readers.Wait()
	if st := s.Stats(); st.Reads > 30 || st.HistoryHits == 0 || st.RingHits == 0 || st.Waiting != 0 {
		t.Errorf("%+v", st)
	}
}

// Calls of Sync that wait at the same time share a read.
func TestSyncsShareReads(t *testing.T) {
	e := start(t)
	s := open(t, e.url(), all)
	reads := func() float64 {
		for line := range strings.Lines(fmt.Sprint(e.do("INFO", "commandstats"))) {
			var calls float64
			if n, _ := fmt.Sscanf(line, "cmdstat_evalsha:calls=%g,", &calls); n == 1 {
				return calls
			}
		}
		return 0
	}
	before := reads()
	_ = e.cmd.Process.Signal(syscall.SIGSTOP)
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			if err := s.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	<-time.After(300 * time.Millisecond)
	_ = e.cmd.Process.Signal(syscall.SIGCONT)
	all.Wait()
	if n := reads() - before; n > 100 || s.Stats().Syncs != 300 {
		t.Errorf("%v reads, %+v", n, s.Stats())
	}
}

// A Redis that no longer answers is an error of every call within Options.Timeout, a context ends a call sooner, and Health
// says it after five seconds. It goes on when Redis does.
func TestSilentRedis(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1}
	o := *all
	o.Timeout, o.RingCount, o.RingBytes = time.Second, 1, 1
	s := open(t, e.url(), &o)
	done, err := commit(s, 0, l, 0, 3)
	if err != nil || s.Sync(t.Context()) != nil || s.Health() != nil {
		t.Fatal(err)
	}
	_ = e.cmd.Process.Signal(syscall.SIGSTOP)
	for _, c := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"Commit", func(ctx context.Context) error {
			_, err := s.Commit(ctx, l.change(0, 3, done.Version, 1))
			if !errors.Is(err, redis.ErrUncertain) {
				t.Errorf("Commit: %v", err)
			}
			return err
		}},
		{"Load", func(ctx context.Context) error { _, _, err := s.Load(ctx, "session 0"); return err }},
		{"Sync", s.Sync},
		{"Read", func(ctx context.Context) error { _, _, err := s.Read(ctx, 1, make([]*server.Entry, 1)); return err }},
		{"Tag", func(ctx context.Context) error { _, _, err := s.Tag(ctx, 1); return err }},
		{"Known", func(ctx context.Context) error { _, err := s.Known(ctx, "who", []wire.ID{messageID(0, 1)}); return err }},
	} {
		began := time.Now()
		if err := c.call(t.Context()); !errors.Is(err, redis.ErrUnreachable) || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v after %v", c.name, err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-time.After(20 * time.Millisecond); cancel() }()
		if err := c.call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a context that ends: %v", c.name, err)
		}
		cancel()
	}
	eventually(t, "Health says it", 20*time.Second, func() bool { return errors.Is(s.Health(), redis.ErrStale) })
	if v := s.View(); v.Head != 3 {
		t.Errorf("%+v", v)
	}
	_ = e.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, "Health is good again", 20*time.Second, func() bool { return s.Health() == nil })
	have, now := l.load(s, "session 0")
	if have != 3 && have != 4 {
		t.Errorf("the record has %d", have)
	}
	if _, err := commit(s, now, l, have, 1); err != nil {
		t.Error(err)
	}
	l.acked = make([]atomic.Uint64, 1)
	l.check(s)
}

// Close ends what is in progress, and all goroutines.
func TestClose(t *testing.T) {
	e := start(t)
	before := runtime.NumGoroutine()
	s, err := redis.Open(t.Context(), e.url(), all)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, sessions: 1}
	_ = e.cmd.Process.Signal(syscall.SIGSTOP)
	failed := make(chan error, 2)
	go func() { _, err := commit(s, 0, l, 0, 1); failed <- err }()
	go func() { failed <- s.Sync(context.Background()) }()
	<-time.After(50 * time.Millisecond)
	began := time.Now()
	if err := errors.Join(s.Close(), s.Close()); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("Close: %v after %v", err, time.Since(began))
	}
	for range 2 {
		if err := <-failed; !errors.Is(err, redis.ErrClosed) {
			t.Errorf("a call in progress: %v", err)
		}
	}
	_, _, err = s.Load(t.Context(), "x")
	for name, err := range map[string]error{"Load": err, "Sync": s.Sync(t.Context()), "Health": s.Health()} {
		if !errors.Is(err, redis.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if _, err := commit(s, 0, l, 0, 1); !errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrUncertain) && s.Stats().Unknown == 0 {
		t.Errorf("Commit after Close: %v", err)
	}
	_ = s.View()
	eventually(t, fmt.Sprint("there are ", before, " goroutines again"), 10*time.Second, func() bool { return runtime.NumGoroutine() <= before })
}
