package test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
	"github.com/limpet-go/limpet/server"
)

var outboxMessages = flag.Int("outboxmessages", 6000, "how many messages to publish through connections that are killed")

// Durable messages of 300 bytes pass a hundred connections, and three processes: what arrives is what was published, in
// order, and what is kept stays within the window: so does the live heap of client, outbox and server, which has a log
// of a thousand messages. The whole size is -outboxmessages 1000000.
func TestOutboxThroughKilledConnections(t *testing.T) {
	t.Run("files", func(t *testing.T) { // whose process ends in order: TestKill and ci/run kill have the others
		dir := t.TempDir()
		open := func() *file.Store {
			store, err := file.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			return store
		}
		synctest.Test(t, func(t *testing.T) {
			store := open()
			defer func() { _ = store.Close() }()
			throughKilledConnections(t, store, func(end func()) outbox.Store {
				end()
				if err := store.Close(); err != nil {
					t.Fatal(err)
				}
				store = open()
				return store
			})
		})
	})
	t.Run("crashes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newFaultyStore()
			throughKilledConnections(t, store, func(end func()) outbox.Store {
				next := store.crash(true)
				end()
				store = next
				return store
			})
		})
	})
}

// throughKilledConnections publishes through connections that are killed. Restart ends the client by its argument, and returns
// the outbox for the next one.
func throughKilledConnections(t *testing.T, store outbox.Store, restart func(end func()) outbox.Store) {
	const kills, publishers = 100, 8
	// Between two looks at the log at most a batch and a window are appended.
	window := limpet.Window{Messages: 256}
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 1000}, MaxIDs: 1000}})
	next := func() *limpet.Client { // nothing keeps the one before
		o := limpet.Options{HTTPClient: srv.HTTPClient(), Outbox: store, Window: window, Backoff: limpet.Backoff{First: -1, Initial: time.Millisecond, Max: time.Millisecond}}
		c, err := limpet.New(srv.URL(), options(&o))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := next()
	defer func() { closeAndWait(t, c) }()
	number, seen, most := 0, 0, 0
	heaps := []uint64(nil)
	for killed := range kills {
		for until := *outboxMessages * (killed + 1) / kills; number < until; {
			batch := make([]limpet.Outgoing, min(publishers*32, until-number))
			for i := range batch {
				number++
				batch[i] = limpet.Outgoing{Topic: "a", Payload: fmt.Appendf(nil, "%0300d", number)}
			}
			published := make(chan error, 1)
			go func() {
				_, err := c.PublishBatch(context.Background(), batch)
				published <- err
			}()
			if number == until {
				srv.Network.ResetAll()
			}
			if err := <-published; err != nil {
				t.Error(err)
			}
			most = max(most, c.Stats().Window)
			seen = look(t, srv, seen)
		}
		if killed%(kills/3) == 1 {
			store = restart(func() {
				srv.Network.ResetAll()
				closeAndWait(t, c)
			})
			c = next()
		}
		if killed%10 == 9 {
			flushed(t, c)
			heaps = append(heaps, liveHeap())
		}
	}
	flushed(t, c)
	if seen = look(t, srv, seen); seen != *outboxMessages || most > window.Messages {
		t.Errorf("the server has %d of %d messages; %d in the window", seen, *outboxMessages, most)
	}
	judgeHeaps(t, heaps)
}

// look fails unless the log goes on behind message seen, and returns the number of its last one.
func look(t *testing.T, srv *limpettest.Server, seen int) int {
	t.Helper()
	buf := make([]*server.Entry, 256)
	for {
		n, first, err := srv.Log.Read(uint64(seen+1), buf)
		if err != nil || n > 0 && first > uint64(seen+1) {
			t.Fatalf("message %d: the log begins at %d, %v", seen+1, first, err)
		}
		if n == 0 {
			return seen
		}
		for _, e := range buf[:n] {
			if seen++; string(e.Payload) != fmt.Sprintf("%0300d", seen) {
				t.Fatalf("message %d is %s", seen, e.Payload)
			}
		}
	}
}

// liveHeap returns the bytes that are in use.
func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools kept for one more cycle
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// judgeHeaps fails if the heap has grown since the first third of the run by more than half of a window.
func judgeHeaps(t *testing.T, heaps []uint64) {
	t.Helper()
	var text strings.Builder
	before, after := uint64(0), uint64(0)
	for i, heap := range heaps {
		fmt.Fprintf(&text, " %d", heap>>10)
		if i < len(heaps)/3 {
			before = max(before, heap)
		} else {
			after = max(after, heap)
		}
	}
	t.Logf("live heap in KiB after each tenth of the messages:%s", &text)
	if most := before + 256<<10; after > most && !raceEnabled { // the race detector keeps things alive
		t.Errorf("live heap of up to %d KiB in the first third, %d KiB later: more than messages in the window are kept", before>>10, after>>10)
	}
}
