package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// A process that crashes in any of its commits, which takes longer than its heartbeats, has sent
// nothing that the next one does not know: that one resumes the session at its first attempt, with a
// key and a number that the server accepts, and no message is lost or sent twice.
func TestOutboxCrashInEachCommit(t *testing.T) {
	for n, more := 1, true; more; n++ {
		for _, lost := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) { more = crashInCommit(t, n, lost) })
		}
		if n > 50 {
			t.Fatal("the commits do not end")
		}
	}
}

// crashInCommit crashes in commit n. It reports false if there were fewer.
func crashInCommit(t *testing.T, n int, lost bool) (crashed bool) {
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Heartbeat: 2 * time.Second}})
	store := newFaultyStore()
	c := start(t, srv, store, limpet.Options{})
	assert.NoError(t, c.WaitReady(context.Background()))
	synctest.Wait() // the session is durable
	commits := 0
	store.fault(func(*outbox.Change) error {
		if commits++; commits < n {
			return nil
		}
		time.Sleep(4 * time.Second) // the server ends the connection after five
		crashed = true
		return outbox.ErrClosed
	})
	var kept []string
	for i := range 9 {
		if i%3 == 2 {
			srv.Network.ResetAll()
			time.Sleep(2 * time.Second)
		}
		payload := fmt.Sprint(i)
		if _, err := c.Publish(context.Background(), "a", []byte(payload), nil); err == nil {
			kept = append(kept, payload)
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(10 * time.Second)
	next := store.crash(lost)
	srv.Network.ResetAll()
	closeAndWait(t, c)
	c = start(t, srv, next, limpet.Options{})
	assert.NoError(t, c.WaitReady(context.Background()))
	flushed(t, c)
	time.Sleep(time.Second)
	if st := c.Stats(); st.Resumes != 1 || st.Attempts != 1 || st.Connections != 1 {
		t.Errorf("commit %d, lost %v: %d attempts, %d connections, %d resumed", n, lost, st.Attempts, st.Connections, st.Resumes)
	}
	if got := logged(t, srv); !slices.Equal(got, kept) {
		t.Errorf("commit %d, lost %v: the server has %v, want %v", n, lost, got, kept)
	}
	return crashed
}

// numbering notes the numbers of connections.
type numbering struct {
	flexDialect
	seen *[]uint64
}

func (d numbering) Open(r wire.Resume) (wire.Codec, error) {
	*d.seen = append(*d.seen, r.Conn)
	return d.flexDialect.Open(r)
}

// No number of a connection is used twice, however many connections fail before a welcome: more are
// reserved in time.
func TestOutboxConnectionNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) { hear() })
		srv.host.Network.Each(func(int) limpettest.Fault { return limpettest.CutAfterFrames(limpettest.Up, 1) })
		var seen []uint64
		d := numbering{flexDialect{traits: wire.Traits{Publish: true, Sessions: true, Acks: true, Greeting: true}}, &seen}
		store := newFaultyStore()
		o := limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, Outbox: store, Backoff: limpet.Backoff{Max: 500 * time.Millisecond}}
		for range reduced(2, 1) { // the second one starts on what the first one has left
			before := len(seen) // no client runs
			c, err := limpet.New(srv.host.URL(), options(&o))
			assert.NoError(t, err)
			time.Sleep(30 * time.Minute)
			next := store.crash(true)
			closeAndWait(t, c)
			if n := len(seen) - before; n < 1050 {
				t.Errorf("%d connections: this proves nothing", n)
			}
			store, o.Outbox = next, next
		}
		for i := range seen[1:] {
			if seen[i+1] <= seen[i] {
				t.Fatalf("connection %d after %d", seen[i+1], seen[i])
			}
		}
	})
}

// Shutdown waits for the outcomes; what has none when its ctx ends is Stored.
func TestOutboxShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		rs := publishAll(t, c, "a", numbers(1, 50)...)
		assert.NoError(t, c.Shutdown(context.Background()))
		for _, r := range rs {
			if o := r.Outcome(); o != limpet.Acked {
				t.Errorf("after Shutdown: %v", o)
			}
		}
		store.settled(t)
		srv.Stop()
		c = start(t, srv, store, limpet.Options{})
		r := publishAll(t, c, "a", "51")[0]
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := c.Shutdown(ctx); err == nil || r.Outcome() != limpet.Stored || c.Stats().Stored != 1 {
			t.Errorf("without a server: %v, %v, %+v", err, r.Outcome(), c.Stats())
		}
	})
}

// SendStream has nothing that an outbox could keep, and a dialect that sends nothing needs none.
func TestOutboxRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(int, func(string), func() string) {})
		d := flexDialect{traits: wire.Traits{Publish: true, Streams: true, Ping: wire.PingControl, ByKey: true}}
		o := limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, Outbox: outbox.Memory()}
		c, err := limpet.New(srv.host.URL(), options(&o))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		if _, err := c.SendStream(context.Background(), "a", strings.NewReader("x"), nil); !errors.Is(err, limpet.ErrUnsupported) || !strings.Contains(err.Error(), "Options.Outbox") {
			t.Errorf("SendStream: %v", err)
		}
		d.traits = wire.Traits{Ping: wire.PingControl, ByKey: true}
		o.Dialect = d
		if _, err := limpet.New(srv.host.URL(), options(&o)); !errors.Is(err, limpet.ErrUnsupported) || !strings.Contains(err.Error(), "Options.Outbox") {
			t.Errorf("New: %v", err)
		}
	})
}

// A client that was restored from an old copy of its outbox uses numbers again that its predecessor has
// used for other messages. The server sees that, and takes none of them for a repetition.
func TestOutboxRestoredFromACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		publishAll(t, c, "a", numbers(1, 3)...)
		flushed(t, c)
		time.Sleep(time.Second)
		copied := outbox.Memory()
		assert.NoError(t, fillStore(copied, store.content(t)))
		publishAll(t, c, "a", numbers(4, 6)...)
		flushed(t, c)
		closeAndWait(t, c)
		srv.Stop()
		c = start(t, srv, copied, limpet.Options{})
		rs := publishAll(t, c, "a", "x", "y", "z")
		srv.Start()
		flushed(t, c)
		for _, r := range rs {
			if o := r.Outcome(); o != limpet.Acked {
				t.Errorf("outcome %v", o)
			}
		}
		if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5 6 x y z" || c.Stats().Resumes > 0 {
			t.Errorf("%d connections resumed, the server has %s", c.Stats().Resumes, got)
		}
	})
}
