package redis_test

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
)

var all = &redis.Options{MaxLen: -1, Log: "load"}

func loaded(t *testing.T, e *engine, sessions int, lossy bool) *load {
	l := &load{t: t, stores: []*redis.Store{open(t, e.url(), all), open(t, e.url(), all)}, sessions: sessions, lossy: lossy}
	l.start()
	return l
}

// killed kills Redis three times under load, and returns how many acknowledged messages the records no longer had.
func killed(t *testing.T, fsync string, lossy bool) *load {
	e := start(t, "--appendonly", "yes", "--appendfsync", fsync)
	l := loaded(t, e, 16, lossy)
	for range 3 {
		l.waitFor(1000)
		e.kill()
		<-time.After(100 * time.Millisecond)
		e.again()
	}
	l.waitFor(1000)
	l.end()
	l.check(open(t, e.url(), all))
	for i, s := range l.stores {
		t.Logf("store %d: %+v", i, s.Stats())
		if err := s.Health(); err != nil {
			t.Error(err)
		}
	}
	return l
}

// A Redis that syncs each write loses nothing when it is killed, and no subscription is reset.
func TestKilledRedis(t *testing.T) {
	l := killed(t, "always", false)
	for _, s := range l.stores {
		if st := s.Stats(); st.Epochs != 0 {
			t.Errorf("the epoch has changed, and nothing was lost: %+v", st)
		}
	}
	if l.zombies.Load() == 0 {
		t.Error("no server was fenced")
	}
}

// A Redis that syncs each second postpones its writes while a sync lasts, and loses them when it is killed. Then the log is
// still whole, and all servers have another epoch.
func TestKilledRedisThatSyncsLater(t *testing.T) {
	l := killed(t, "everysec", true)
	if l.rewound.Load() == 0 {
		t.Log("this time nothing was lost")
		return
	}
	for _, s := range l.stores {
		if st := s.Stats(); st.Epochs == 0 {
			t.Errorf("messages were lost, and the epoch is the same: %+v", st)
		}
	}
}

// A Redis that stands still for two seconds loses nothing, and the Commits that it has done without an answer are found.
func TestStoppedRedis(t *testing.T) {
	e := start(t)
	l := loaded(t, e, 16, false)
	for range 2 {
		l.waitFor(500)
		if err := e.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		<-time.After(2200 * time.Millisecond)
		if err := e.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	l.waitFor(500)
	l.end()
	l.check(open(t, e.url(), all))
	resolved := uint64(0)
	for _, s := range l.stores {
		resolved += s.Stats().Resolved
	}
	if resolved == 0 || l.failures.Load() != 0 {
		t.Errorf("%d resolved, %d Commits of the one who had the session have failed", resolved, l.failures.Load())
	}
}

// A Commit whose answer is lost is found to be done, once. If another server has built on it since, nothing can be said for
// sure: that is not a conflict, which would mean that nothing was done.
func TestLostAnswer(t *testing.T) {
	e, l := start(t), &load{t: t, sessions: 1, acked: make([]atomic.Uint64, 1)}
	p := newProxy(t, e.addr())
	near, far := open(t, e.url(), all), open(t, "redis://"+p.addr(), all)
	version := uint64(0)
	for n, builds := range []bool{false, true} {
		have := uint64(n) * 2
		p.loseAnswers("\ndone\r")
		type result struct {
			version uint64
			err     error
		}
		results := make(chan result)
		go func() {
			done, err := far.Commit(context.Background(), l.change(0, have, version, 2))
			results <- result{done.Version, err}
		}()
		eventually(t, "it is done", 30*time.Second, func() bool { now, _ := l.load(near, "session 0"); return now == have+2 })
		_, now := l.load(near, "session 0")
		if builds {
			if _, err := near.Commit(t.Context(), l.change(0, have+2, now, 0)); err != nil {
				t.Fatal(err)
			}
		}
		p.loseAnswers("")
		r := <-results
		switch {
		case builds && (!errors.Is(r.err, redis.ErrUncertain) || errors.Is(r.err, server.ErrConflict)):
			t.Errorf("another server has built on it: %v", r.err)
		case !builds && (r.err != nil || r.version != now):
			t.Errorf("version %d, the record has %d, %v", r.version, now, r.err)
		}
		version = now
	}
	l.check(near)
	if st := far.Stats(); st.Unknown != 2 || st.Resolved != 1 {
		t.Errorf("%+v", st)
	}
}
