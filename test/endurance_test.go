package test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

var enduranceFlag = flag.Duration("endurance", 2*time.Hour, "virtual time of TestADayOfFaults, at least an hour; with 24h the test of many reconnects makes 100,000")

const (
	faultEvery     = 5 * time.Second
	faultsPerHour  = int(time.Hour / faultEvery)
	quietAfter     = time.Minute // for what the last connection has left to end
	enduranceTopic = "t/1"
)

// TestADayOfFaults has a fault every 5 seconds, of every kind. At the end of each hour, the
// oracle decides about the messages of that hour, and what the client has left behind is
// measured.
func TestADayOfFaults(t *testing.T) {
	hours := int(*enduranceFlag / time.Hour)
	if hours < 1 {
		t.Fatal("-endurance: at least an hour")
	}
	each, least := faultsPerHour, time.Duration(hours)*time.Hour
	if raceEnabled { // which takes six times as long
		each, least = each/4, least/4
	}
	synctest.Test(t, func(t *testing.T) {
		e := newEndurance(t, *soakSeed, nil)
		began := time.Now()
		for hour := 1; hour <= hours; hour++ {
			e.faultsAndVerdict(each)
			m := e.marks[len(e.marks)-1]
			t.Logf("hour %d, seed %d: %d of %d faults took effect, %d connections, %d messages, %d goroutines, heap %d bytes",
				hour, *soakSeed, e.effective(), e.struck, m.connections, e.sent, m.goroutines, m.heap)
		}
		took := time.Since(began)
		if took < least || e.effective() < 98*e.struck/100 {
			t.Errorf("%d of %d faults took effect in %v", e.effective(), e.struck, took)
		}
		for i, f := range e.faults {
			t.Logf("%5d of %5d: %s", e.took[i], e.tried[i], f.name)
			if e.took[i] < 100*hours/24 {
				t.Errorf("%d of %d faults %q took effect", e.took[i], e.tried[i], f.name)
			}
		}
		for _, growth := range e.growth() {
			t.Error(growth)
		}
		e.end()
		t.Logf("network: %+v; client: %d acked, %d expired, %d unknown, %d resent; lost %d, doubled or out of order %d",
			e.srv.Network.Effects(), e.stats.Acked, e.stats.Expired, e.stats.Unknown, e.stats.Resent, e.lost, e.misplaced)
	})
}

// The measurement notices one goroutine, or 1 KiB, for each reconnect.
func TestADayOfFaultsNoticesLeaks(t *testing.T) {
	if raceEnabled {
		t.Skip("the measurement is the same without the race detector, which takes half a minute")
	}
	for what, want := range map[string]string{"nothing": "", "goroutine": "goroutines", "memory": "bytes of heap", "timer": "bytes of heap"} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var kept [][]byte
			stop := make(chan struct{})
			var leaks sync.WaitGroup
			e := newEndurance(t, *soakSeed, func() {
				switch what {
				case "goroutine":
					leaks.Go(func() { <-stop })
				case "timer":
					time.AfterFunc(1000*time.Hour, func() { close(stop) })
				case "memory":
					mu.Lock()
					kept = append(kept, make([]byte, 1024))
					mu.Unlock()
				}
			})
			for range 3 {
				e.faultsAndVerdict(faultsPerHour / 3)
			}
			found := strings.Join(e.growth(), "; ")
			t.Logf("%s: %+v", what, e.marks)
			if (found != "") != (want != "") || !strings.Contains(found, want) {
				t.Errorf("%s: found %q", what, found)
			}
			e.end()
			close(stop)
			leaks.Wait()
			runtime.KeepAlive(kept)
		})
	}
}

// endurance is one client, and the server that it depends on.
type endurance struct {
	t   *testing.T
	rnd *rand.Rand
	srv *limpettest.Server
	log *ledger
	c   *limpet.Client

	rec       atomic.Pointer[limpettest.Recorder]
	consumers sync.WaitGroup
	receipts  sync.WaitGroup
	sent      uint64 // by the client and by the server, each
	slow      atomic.Bool
	slowed    atomic.Int64 // handshakes
	goneAway  atomic.Int64 // that the client has noticed

	struck      int
	faults      []enduranceFault
	tried, took []int // by fault
	marks       []mark
	stats       limpet.Stats
	lost        int
	misplaced   int
}

// mark is what the process holds while nothing happens.
type mark struct {
	connections uint64
	goroutines  int
	heap        int64
}

func newEndurance(t *testing.T, seed uint64, reconnected func()) *endurance {
	e := &endurance{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), log: &ledger{MemoryLog: server.NewMemoryLog(server.Retention{Count: 2000})}}
	e.faults = enduranceFaults()
	e.tried, e.took = make([]int, len(e.faults)), make([]int, len(e.faults))
	e.srv = limpettest.NewServer(t, &limpettest.ServerOptions{
		Network: &limpettest.NetworkOptions{Up: time.Millisecond, Down: time.Millisecond, Dials: 16},
		Server: &server.Options{
			Log: e.log, Heartbeat: time.Second, SessionTTL: 20 * time.Second, Dedup: 5 * time.Minute,
			Hooks: server.Hooks{Authenticate: e.authenticate},
		},
	})
	c, err := limpet.New(e.srv.URL(), options(&limpet.Options{
		HTTPClient: e.srv.HTTPClient(),
		Heartbeat:  limpet.Heartbeat{Interval: time.Second},
		Backoff:    limpet.Backoff{First: 50 * time.Millisecond, Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond, StableAfter: time.Second},
		Observer: observer(func(ev limpet.Event) {
			s, ok := ev.(limpet.StateChanged)
			if !ok {
				return
			}
			var why *limpet.Error
			if s.State.Phase != limpet.Ready && errors.As(s.State.Cause, &why) && (why.Code == 4300 || errors.Is(why, limpet.ErrGoAway)) {
				e.goneAway.Add(1)
			}
			if s.State.Phase == limpet.Ready && reconnected != nil {
				reconnected()
			}
		}),
	}))
	if err != nil {
		t.Fatal(err)
	}
	e.c = c
	e.rec.Store(new(limpettest.Recorder))
	for name, topic := range enduranceSubs {
		s := subscribeLive(t, c, topic, nil)
		e.consumers.Go(func() {
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					if !errors.Is(err, limpet.ErrClosed) {
						t.Errorf("subscription %s ended: %v", name, err)
					}
					return
				}
				recordDelivery(e.rec.Load(), name, m)
				if m.Kind != limpet.Data {
					t.Errorf("subscription %s: a %s after %v, and nothing was lost", name, m.Kind, m.Loss.After)
				}
			}
		})
	}
	return e
}

var enduranceSubs = map[string]string{"exact": enduranceTopic, "all": "**"}

func (e *endurance) authenticate(ctx context.Context, _ *http.Request, _ string) (server.Principal, error) {
	if e.slow.Load() {
		e.slow.Store(false)
		select {
		case <-time.After(time.Second):
			e.slowed.Add(1)
		case <-ctx.Done():
		}
	}
	return server.Principal{}, nil
}

// faultsAndVerdict strikes n times, waits until nothing happens, and has the oracle decide.
func (e *endurance) faultsAndVerdict(n int) {
	view := e.log.View()
	rec := new(limpettest.Recorder)
	for name := range enduranceSubs {
		rec.Record(limpettest.Subscribed{Sub: name, Epoch: view.Epoch, Offset: view.Head})
	}
	e.rec.Store(rec)
	var order []int
	for range n {
		if len(order) == 0 {
			order = e.rnd.Perm(len(e.faults))
		}
		e.strikeOnce(order[0])
		order = order[1:]
	}
	e.quiesce()
	for name, topic := range enduranceSubs {
		rec.Record(e.log.held(name, topic))
	}
	for _, v := range limpettest.Check(rec.Trace()) {
		if v.Invariant == "I2" || v.Invariant == "I3" {
			e.misplaced++
		} else {
			e.lost++
		}
		if e.lost+e.misplaced < 20 {
			e.t.Errorf("seed %d: %v", *soakSeed, v)
		}
	}
	e.log.mu.Lock()
	e.log.entries = nil
	e.log.mu.Unlock()
	e.rec.Store(new(limpettest.Recorder))
	rec = nil
	runtime.GC() // and once more: pools give up what they hold in two collections
	e.marks = append(e.marks, mark{e.c.Stats().Connections, runtime.NumGoroutine(), limpettest.HeapInUse()})
}

// strikeOnce lets a fault take effect while messages flow, for faultEvery.
func (e *endurance) strikeOnce(number int) {
	f := e.faults[number]
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := e.c.WaitReady(ctx); err != nil {
		e.t.Fatalf("seed %d: fault %d, %s: %v", *soakSeed, e.struck, f.name, err)
	}
	before := e.seen()
	began := time.Now()
	e.publishBoth()
	f.strike(e)
	for time.Since(began) < faultEvery {
		time.Sleep(time.Duration(100+e.rnd.IntN(900)) * time.Millisecond)
		e.publishBoth()
	}
	if err := e.c.WaitReady(ctx); err != nil {
		e.t.Fatalf("seed %d: fault %d, %s: %v", *soakSeed, e.struck, f.name, err)
	}
	e.struck++
	e.tried[number]++
	if f.effect(before, e.seen()) {
		e.took[number]++
	}
}

func (e *endurance) effective() (n int) {
	for _, took := range e.took {
		n += took
	}
	return n
}

// publishBoth publishes a message at each end.
func (e *endurance) publishBoth() {
	e.sent++
	rec := e.rec.Load()
	payload := limpettest.Stamp("server", e.sent, make([]byte, e.rnd.IntN(300)))
	rec.Record(limpettest.NewSent(uuid.Nil, payload))
	if _, err := e.srv.Server.Publish(context.Background(), enduranceTopic, payload, nil); err != nil {
		e.t.Errorf("publish at the server: %v", err)
	}
	id := uuid.Must(uuid.NewV7())
	payload = limpettest.Stamp("client", e.sent, make([]byte, e.rnd.IntN(300)))
	rec.Record(limpettest.NewSent(id, payload))
	o := &limpet.PublishOptions{ID: id}
	if e.sent%20 == 0 {
		o.TTL = time.Second
	}
	r, err := e.c.Publish(context.Background(), fmt.Sprintf("t/%d", e.sent%3), payload, o)
	if err != nil {
		e.t.Errorf("publish: %v", err)
		return
	}
	e.receipts.Go(func() {
		r.Wait(context.Background())
		rec.Record(limpettest.Outcome{ID: id, Kind: r.Outcome().String()})
	})
}

// quiesce waits until nothing is in progress.
func (e *endurance) quiesce() {
	e.receipts.Wait()
	time.Sleep(quietAfter)
	synctest.Wait()
	if st := e.c.State(); st.Phase != limpet.Ready {
		e.t.Fatalf("seed %d: %+v after a quiet minute", *soakSeed, st)
	}
}

// growth returns what has grown between the first mark and the last one.
func (e *endurance) growth() (found []string) {
	first, last := e.marks[0], e.marks[len(e.marks)-1]
	reconnects := last.connections - first.connections
	if last.goroutines > first.goroutines+5 {
		found = append(found, fmt.Sprintf("%d goroutines after %d reconnects, %d before", last.goroutines, reconnects, first.goroutines))
	}
	if allowed := int64(32<<10 + 16*reconnects); last.heap > first.heap+allowed {
		found = append(found, fmt.Sprintf("%d bytes of heap after %d reconnects, %d before", last.heap, reconnects, first.heap))
	}
	return found
}

func (e *endurance) end() {
	e.stats = e.c.Stats()
	if e.stats.Unknown > 0 {
		e.t.Errorf("%d messages whose outcome is unknown", e.stats.Unknown)
	}
	closeAndWait(e.t, e.c)
	e.consumers.Wait()
}
