package redis_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
)

// pair is a primary, a replica, and the address that leads to whichever is the primary.
type pair struct {
	t                *testing.T
	primary, replica *engine
	address, link    *proxy
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, primary: start(t, "--repl-diskless-sync-delay", "0")}
	p.address, p.link = newProxy(t, p.primary.addr()), newProxy(t, p.primary.addr())
	p.replica = start(t, "--replicaof", "127.0.0.1 "+p.link.port())
	eventually(t, "the replica is in step", 20*time.Second, func() bool {
		return strings.Contains(fmt.Sprint(p.replica.do("INFO", "replication")), "master_link_status:up")
	})
	return p
}

func (p *pair) url() string { return "redis://" + p.address.addr() }

// promote kills the primary, and the replica takes its place.
func (p *pair) promote() {
	p.primary.kill()
	p.replica.do("REPLICAOF", "NO", "ONE")
	p.address.lead(p.replica.addr())
}

// A replica that is promoted a second behind has lost messages. All servers see it and change the epoch, the log is whole, and
// what was fenced stays fenced.
func TestPromotedReplica(t *testing.T) {
	p := newPair(t)
	l := &load{t: t, stores: []*redis.Store{open(t, p.url(), all), open(t, p.url(), all)}, sessions: 8, lossy: true}
	l.start()
	l.waitFor(500)
	before := l.stores[0].View()
	p.link.freeze()
	<-time.After(time.Second)
	l.waitFor(100)
	p.promote()
	l.waitFor(500)
	l.end()
	l.check(open(t, p.url(), all))
	if l.rewound.Load() == 0 {
		t.Error("the replica has lost nothing: the test shows nothing")
	}
	epochs := map[string]bool{before.Epoch: true}
	for i, s := range l.stores {
		if err := s.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		epochs[s.View().Epoch] = true
		t.Logf("store %d: %+v", i, s.Stats())
	}
	if len(epochs) != 2 {
		t.Errorf("the epochs before and after, at all servers: %v", epochs)
	}
}

// With Options.Replicas nothing is acknowledged that the replica does not have, so nothing is lost.
func TestReplicasThatHaveEverything(t *testing.T) {
	p := newPair(t)
	o := &redis.Options{MaxLen: -1, Log: "load", Replicas: 1, ReplicaTimeout: 100 * time.Millisecond, Timeout: 500 * time.Millisecond}
	l := &load{t: t, stores: []*redis.Store{open(t, p.url(), o), open(t, p.url(), o)}, sessions: 4}
	probe := open(t, p.url(), o)
	l.start()
	l.waitFor(200)
	p.link.freeze()
	<-time.After(200 * time.Millisecond)
	_, err := probe.Commit(t.Context(), l.change(100, 0, 0, 1))
	if !errors.Is(err, redis.ErrUncertain) || !errors.Is(err, redis.ErrReplicas) {
		t.Errorf("a Commit that no replica has: %v", err)
	}
	again := l.change(0, 0, 0, 1)
	again.Session = ""
	if _, err = probe.Commit(t.Context(), again); !errors.Is(err, redis.ErrReplicas) {
		t.Errorf("an id that may be known to the primary only: %v", err) // it must not be acknowledged as a repetition
	}
	acked := l.total.Load()
	<-time.After(200 * time.Millisecond)
	if now := l.total.Load(); now != acked {
		t.Errorf("%d messages were acknowledged that no replica has", now-acked)
	}
	l.end()
	p.promote()
	c := &load{t: t, sessions: l.sessions, acked: l.acked}
	s := open(t, p.url(), all)
	for i := range l.sessions {
		if have, _ := c.load(s, fmt.Sprint("session ", i)); have < l.acked[i].Load() {
			t.Errorf("session %d: acknowledged up to %d, the promoted replica has %d", i, l.acked[i].Load(), have)
		}
	}
	c.check(s)
}
