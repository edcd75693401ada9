package jetstream_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
)

// node is a server on a store.
func node(t *testing.T, s server.Store) (url string) {
	t.Helper()
	srv, err := server.New(&server.Options{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv)
	t.Cleanup(func() { srv.Close(); web.Close() })
	return "ws" + strings.TrimPrefix(web.URL, "http")
}

func dial(t *testing.T, url string, others ...string) *limpet.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := limpet.Dial(ctx, url, &limpet.Options{Endpoints: others})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Records of sessions that are lost end no client for good (4006), and lose and double no message.
func TestLostRecords(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "records", Memory: true}
	s, other := open(t, p.url, o), open(t, p.url, o)
	client := dial(t, node(t, s), node(t, other))
	conn := connect(t, p.url)
	const count = 300
	var receipts []*limpet.Receipt
	for n := range count {
		if n%100 == 50 {
			m, err := conn.Request("$JS.API.STREAM.PURGE."+o.Log, []byte(`{"filter":"records.s.*"}`), 5*time.Second)
			if err != nil || strings.Contains(string(m.Data), `"purged":0`) {
				t.Fatalf("purge: %v, %s", err, m.Data)
			}
		}
		r, err := client.Publish(t.Context(), "t", fmt.Append(nil, n), nil)
		if err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		receipts = append(receipts, r)
		if n%10 == 0 {
			wait(t, r)
		}
	}
	unknown := 0
	for _, r := range receipts {
		if err := wait(t, r); err != nil {
			unknown++ // a session is gone, so the outcome of what was under way may be unknown
		}
	}
	held := map[string]int{}
	for _, e := range readAll(t, s) {
		held[string(e.Payload)]++
	}
	for n, r := range receipts {
		switch times := held[fmt.Sprint(n)]; {
		case times > 1, times == 0 && r.Outcome() == limpet.Acked:
			t.Errorf("message %d is there %d times; its outcome is %v", n, times, r.Outcome())
		}
	}
	if client.Err() != nil || unknown > count/2 {
		t.Errorf("the client has ended with %v; %d outcomes are unknown", client.Err(), unknown)
	}
	if s.Stats().Conflicts+other.Stats().Conflicts == 0 {
		t.Error("no conflict: the test has tried nothing")
	}
}

func wait(t *testing.T, r *limpet.Receipt) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := r.Wait(ctx)
	if ctx.Err() != nil {
		t.Fatal("a message has no outcome after 30 seconds")
	}
	return err
}

// The power fails on a server that had not written its newest messages, and another one was behind: together they lead, without what
// was acknowledged. All stores show another epoch, and each subscriber gets a Reset.
func TestRewind(t *testing.T) {
	all, urls := cluster(t)
	o := &jetstream.Options{Log: "rewound"}
	stores := []*jetstream.Store{open(t, urls, o), open(t, urls, o)}
	epoch := stores[0].View().Epoch
	conn := connect(t, urls)
	a := leader(t, conn, o.Log, all)
	var others []*process
	for _, p := range all {
		if p != a {
			others = append(others, p)
		}
	}
	b, c := others[0], others[1]
	publish := func(from, to uint64) {
		t.Helper()
		for n := from; n < to; n++ {
			if _, err := stores[n%2].Commit(t.Context(), &server.Change{
				Entries: []server.Entry{{ID: messageID(0, n), Topic: "t", Payload: fmt.Append(nil, n), Hash: n}}, Keep: time.Minute,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(0, 100)
	var resets atomic.Int64
	const subscribers = 5
	for i := range subscribers {
		client := dial(t, node(t, stores[i%2]))
		sub, err := client.Subscribe(t.Context(), "t", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			for m, err := range sub.Messages(t.Context()) {
				if err == nil && m.Kind == limpet.Reset {
					resets.Add(1)
				}
			}
		}()
	}
	publish(100, 200)
	c.kill()
	b.kill() // a copy of its files as they are now
	copied := b.dir + ".copy"
	if out, err := exec.Command("cp", "-a", b.dir, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.start()
	leader(t, conn, o.Log, all)
	eventually(t, time.Minute, "two of three servers take a message", func() bool {
		_, err := stores[0].Commit(t.Context(), &server.Change{Entries: []server.Entry{{ID: messageID(1, 1), Topic: "t"}}, Keep: time.Minute})
		return err == nil || strings.Contains(err.Error(), "known")
	})
	publish(200, 300)
	for _, s := range stores {
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if resets.Load() != 0 || stores[0].View().Epoch != epoch {
		t.Fatal("a reset before anything was lost")
	}
	head := stores[0].View().Head
	a.kill()
	b.kill()
	if err := os.RemoveAll(b.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, b.dir); err != nil {
		t.Fatal(err)
	}
	b.start()
	c.start()
	for i, s := range stores {
		eventually(t, time.Minute, fmt.Sprintf("store %d shows another epoch", i), func() bool { return s.View().Epoch != epoch })
	}
	eventually(t, time.Minute, "both stores show the same epoch", func() bool { return stores[0].View().Epoch == stores[1].View().Epoch })
	t.Logf("%+v", stores[0].Stats())
	publish(300, 310)
	a.start()
	eventually(t, time.Minute, "each subscriber gets a Reset", func() bool { return resets.Load() >= subscribers })
	held := readAll(t, open(t, urls, o))
	if n := len(held); n >= 311 || held[n-1].Offset >= head {
		t.Fatalf("%d messages, the newest at %d: nothing was lost, so the test has tried nothing", n, held[n-1].Offset)
	}
	if n := stores[0].Stats().Rewinds + stores[1].Stats().Rewinds; n == 0 {
		t.Error("no store has found it")
	}
}

// A stream that was deleted is an error until another one is there, which has another epoch.
func TestDeletedStream(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "deleted", Memory: true, Timeout: 3 * time.Second}
	s := open(t, p.url, o)
	epoch := s.View().Epoch
	program := func(n uint64) error {
		_, err := s.Commit(t.Context(), &server.Change{Entries: []server.Entry{{ID: messageID(1, n), Topic: "t"}}, Keep: time.Minute})
		return err
	}
	if err := program(1); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, p.url).Request("$JS.API.STREAM.DELETE."+o.Log, nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := program(2); err == nil {
		t.Error("a Commit to a stream that was deleted is done")
	}
	if err := s.Sync(t.Context()); !is(err, jetstream.ErrGone) {
		t.Errorf("Sync: %v", err)
	}
	if _, _, err := s.Load(t.Context(), "session"); !is(err, jetstream.ErrGone) {
		t.Errorf("Load: %v", err)
	}
	eventually(t, 10*time.Second, "Health says that the stream is gone", func() bool { return is(s.Health(), jetstream.ErrGone) })
	open(t, p.url, o)
	eventually(t, 10*time.Second, "another epoch", func() bool { return s.View().Epoch != epoch && s.Health() == nil })
	if err := program(3); err != nil {
		t.Errorf("a Commit to the new stream: %v", err)
	}
	if all := readAll(t, s); len(all) != 1 || all[0].ID != messageID(1, 3) {
		t.Errorf("%d messages in the new stream", len(all))
	}
}
