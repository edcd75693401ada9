package jetstream_test

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/gateway/jetstream"
)

// pass waits: a fault must last, or a load must go on, for some time.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// leader returns the server that leads the stream.
func leader(t *testing.T, c *nats.Conn, stream string, all []*process) (found *process) {
	t.Helper()
	eventually(t, time.Minute, "the stream has a leader", func() bool {
		var i struct {
			Cluster struct{ Leader string }
		}
		m, err := c.Request("$JS.API.STREAM.INFO."+stream, nil, time.Second)
		if err != nil || json.Unmarshal(m.Data, &i) != nil {
			return false
		}
		for _, p := range all {
			if p.name == i.Cluster.Leader && p.cmd != nil {
				found = p
			}
		}
		return found != nil
	})
	return found
}

// Whichever server dies, and if all die: what was acknowledged is there once and in order, and only the owner of a session
// writes.
func TestKilledServers(t *testing.T) {
	all, urls := cluster(t)
	o := &jetstream.Options{Log: "kills", RingBytes: 64 << 10}
	a, b := open(t, urls, o), open(t, urls, o)
	c := connect(t, urls)
	l := startLoad(t, 10, uint64(time.Now().UnixNano()), a, b)
	pass(t, 2*time.Second)
	first := leader(t, c, o.Log, all)
	t.Logf("%s is killed", first.name)
	first.kill()
	second := leader(t, c, o.Log, all)
	t.Logf("%s leads", second.name)
	pass(t, 2*time.Second)
	first.start()
	pass(t, 2*time.Second)
	for _, p := range all {
		p.kill()
	}
	for _, p := range all {
		p.start()
	}
	leader(t, c, o.Log, all)
	pass(t, 2*time.Second)
	l.stop()
	for _, s := range []*jetstream.Store{a, b} {
		t.Logf("%+v", s.Stats())
		eventually(t, time.Minute, "a store is healthy again", func() bool { return s.Health() == nil })
		if n := s.Stats(); n.Epochs != 0 || n.Rewinds != 0 {
			t.Errorf("%d epochs, %d rewinds: nothing was lost", n.Epochs, n.Rewinds)
		}
		l.check(s)
	}
	l.check(open(t, urls, o))
	if l.fenced.Load() == 0 {
		t.Error("no Commit was fenced: the test has tried nothing of it")
	}
}

// A leader that stands still for two seconds.
func TestFrozenLeader(t *testing.T) {
	all, urls := cluster(t)
	o := &jetstream.Options{Log: "frozen"}
	a, b := open(t, urls, o), open(t, urls, o)
	c := connect(t, urls)
	l := startLoad(t, 10, uint64(time.Now().UnixNano()), a, b)
	for range 2 {
		pass(t, time.Second)
		p := leader(t, c, o.Log, all)
		p.signal(syscall.SIGSTOP)
		pass(t, 2*time.Second)
		p.signal(syscall.SIGCONT)
	}
	pass(t, time.Second)
	l.stop()
	t.Logf("%+v", a.Stats())
	for _, s := range []*jetstream.Store{a, b} {
		if n := s.Stats(); n.Epochs != 0 {
			t.Errorf("%d epochs: nothing was lost", n.Epochs)
		}
		l.check(s)
	}
	l.check(open(t, urls, o))
}
