package redis_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// fleet are servers with a Store each behind one address, which leads to any of them.
type fleet struct {
	t       *testing.T
	stores  []*redis.Store
	servers []*server.Server
	web     *httptest.Server
	rec     limpettest.Recorder
	rnd     *rand.Rand // of the test's goroutine

	mu      sync.Mutex
	open    []net.Conn
	clients []*limpet.Client
	resets  map[string]int // by subscription
}

func newFleet(t *testing.T, url string, seed uint64) *fleet {
	f := &fleet{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), resets: map[string]int{}}
	t.Logf("seed %d", seed)
	for range 2 {
		s := open(t, url, all)
		srv, err := server.New(&server.Options{Store: s, Heartbeat: time.Second, SessionTTL: time.Minute, Window: 64})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = srv.Close() })
		f.stores, f.servers = append(f.stores, s), append(f.servers, srv)
	}
	f.web = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.servers[rand.IntN(len(f.servers))].ServeHTTP(w, r)
	}))
	f.web.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			f.mu.Lock()
			f.open = append(f.open, c)
			f.mu.Unlock()
		}
	}
	f.web.Start()
	t.Cleanup(f.web.Close)
	return f
}

func (f *fleet) client() *limpet.Client {
	encoding := native.JSON
	if f.rnd.IntN(2) == 0 {
		encoding = native.Binary
	}
	c, err := limpet.New("ws"+strings.TrimPrefix(f.web.URL, "http"), &limpet.Options{
		Dialect: native.New(&native.Options{Encoding: encoding}), Heartbeat: limpet.Heartbeat{Interval: time.Second},
		Backoff: limpet.Backoff{First: 10 * time.Millisecond, Initial: 10 * time.Millisecond, Max: 200 * time.Millisecond}, Window: limpet.Window{Messages: 64},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.clients = append(f.clients, c)
	return c
}

// cut breaks a connection, so that its client comes back, here or at the other server.
func (f *fleet) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.open); n > 0 {
		i := f.rnd.IntN(n)
		_ = f.open[i].Close()
		f.open = append(f.open[:i], f.open[i+1:]...)
	}
}

// subscribe records what two subscriptions of a client get, until both have had the last message.
func (f *fleet) subscribe(ctx context.Context, consumers *sync.WaitGroup, number int) {
	c := f.client()
	for _, topic := range []string{"t/1", "**"} {
		name := fmt.Sprint(topic, " of ", number)
		sub, err := c.Subscribe(ctx, topic, &limpet.SubscribeOptions{From: limpet.FromFirst})
		if err != nil {
			f.t.Fatal(err)
		}
		f.rec.Record(limpettest.Subscribed{Sub: name, Epoch: f.stores[0].View().Epoch})
		consumers.Go(func() {
			for m, err := range sub.Messages(ctx) {
				if err != nil {
					f.t.Errorf("subscription %s ended: %v", name, err)
					return
				}
				f.deliver(name, m)
				if strings.HasPrefix(m.Topic, "last") || string(m.Type) == "last" {
					return
				}
			}
		})
	}
}

func (f *fleet) deliver(sub string, m limpet.Message) {
	switch m.Kind {
	case limpet.Gap:
		f.rec.Record(limpettest.Gap{Sub: sub, Epoch: m.Position.Epoch, From: m.Loss.After.Offset, To: m.Loss.To.Offset})
		f.t.Errorf("%s: a gap after %v", sub, m.Loss.After)
	case limpet.Reset:
		f.rec.Record(limpettest.Reset{Sub: sub, Epoch: m.Position.Epoch, Offset: m.Position.Offset})
		f.mu.Lock()
		f.resets[sub]++
		f.mu.Unlock()
	default:
		f.rec.Record(limpettest.NewDelivered(sub, m.Position, m.ID, m.Payload))
	}
}

// publish publishes until stop is closed, and returns when all have their outcome.
func (f *fleet) publish(ctx context.Context, c *limpet.Client, number int, stop <-chan struct{}, acked *atomic.Uint64) {
	var receipts sync.WaitGroup
	defer receipts.Wait()
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
		id, payload := uuid.Must(uuid.NewV7()), limpettest.Stamp(fmt.Sprintf("p%d", number), n, nil)
		f.rec.Record(limpettest.NewSent(id, payload))
		r, err := c.Publish(ctx, fmt.Sprintf("t/%d", n%3), payload, &limpet.PublishOptions{ID: id})
		if err != nil {
			f.t.Errorf("publish: %v", err)
			return
		}
		receipts.Go(func() {
			_, err := r.Wait(ctx)
			f.rec.Record(limpettest.Outcome{ID: r.ID(), Kind: r.Outcome().String()})
			if r.Outcome() == limpet.Acked {
				acked.Add(1)
			} else {
				f.t.Logf("outcome %s of %s: %v", r.Outcome(), r.ID(), err)
			}
		})
	}
}

// last publishes last messages until one is acknowledged: after a loss of records the outcome of some may be unknown.
func (f *fleet) last(ctx context.Context) {
	for n := uint64(1); ; n++ {
		stamp, id := limpettest.Stamp("end", n, nil), uuid.Must(uuid.NewV7())
		f.rec.Record(limpettest.NewSent(id, stamp))
		_, err := f.clients[0].Send(ctx, "t/1", stamp, &limpet.PublishOptions{ID: id, Type: "last"})
		switch {
		case err == nil:
			f.rec.Record(limpettest.Outcome{ID: id, Kind: limpet.Acked.String()})
			return
		case !errors.Is(err, limpet.ErrOutcomeUnknown):
			f.t.Errorf("the last message: %v", err)
			return
		}
		f.rec.Record(limpettest.Outcome{ID: id, Kind: limpet.Unknown.String()})
	}
}

// use has clients publish and subscribe while during runs, and returns how many messages were acknowledged.
func (f *fleet) use(during func(acked *atomic.Uint64)) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var consumers, publishers sync.WaitGroup
	for i := range 3 {
		f.subscribe(ctx, &consumers, i)
	}
	stop, acked := make(chan struct{}), &atomic.Uint64{}
	for i := range 4 {
		c := f.client()
		publishers.Go(func() { f.publish(ctx, c, i, stop, acked) })
	}
	during(acked)
	close(stop)
	publishers.Wait()
	f.last(ctx)
	consumers.Wait()
	for i, c := range f.clients {
		if err := c.Err(); err != nil {
			f.t.Errorf("client %d has ended: %v", i, err)
		}
		if err := c.Shutdown(ctx); err != nil {
			f.t.Errorf("shutdown: %v", err)
		}
	}
}

// check has the oracle decide, with a Store that was opened after the end. It returns the violations.
func (f *fleet) check(url string) []limpettest.Violation {
	s := open(f.t, url, all)
	entries := readAll(f.t, s)
	for sub := range 3 {
		for _, topic := range []string{"t/1", "**"} {
			h := limpettest.Held{Sub: fmt.Sprint(topic, " of ", sub), Epoch: s.View().Epoch, Complete: true}
			for _, e := range entries {
				if native.Match(topic, e.Topic) {
					h.Entries = append(h.Entries, limpettest.HeldEntry{Offset: e.Offset, ID: uuid.UUID(e.ID)})
				}
			}
			f.rec.Record(h)
		}
	}
	f.t.Logf("%d messages; %+v; %+v", len(entries), f.stores[0].Stats(), f.stores[1].Stats())
	return limpettest.Check(f.rec.Trace())
}

// Clients whose connections break again and again go from server to server, while Redis is killed, stands still and forgets its
// scripts: nothing is lost, doubled or out of order, and no subscription is reset.
func TestTwoServers(t *testing.T) {
	e := start(t, "--appendonly", "yes", "--appendfsync", "always")
	f := newFleet(t, e.url(), rand.Uint64())
	resumes := 0
	f.use(func(acked *atomic.Uint64) {
		for i := range 90 {
			<-time.After(30 * time.Millisecond)
			f.cut()
			switch i {
			case 20:
				e.kill()
				<-time.After(100 * time.Millisecond)
				e.again()
			case 40:
				e.do("SCRIPT", "FLUSH")
			case 60:
				_ = e.cmd.Process.Signal(syscall.SIGSTOP)
				<-time.After(2200 * time.Millisecond)
				_ = e.cmd.Process.Signal(syscall.SIGCONT)
			}
		}
		for _, c := range f.clients {
			resumes += int(c.Stats().Resumes)
		}
		t.Logf("%d acknowledged, %d resumes", acked.Load(), resumes)
		if acked.Load() < 200 || resumes < 20 {
			t.Error("too little has happened")
		}
	})
	for _, v := range f.check(e.url()) {
		t.Error(v)
	}
	if len(f.resets) > 0 {
		t.Errorf("resets, and nothing was lost: %v", f.resets)
	}
}

// A replica that is promoted while it is a second behind: every subscription gets one Reset, and what the promoted replica has. Messages
// that were acknowledged and lost are the only violations. All clients go on.
func TestTwoServersAndAPromotedReplica(t *testing.T) {
	p := newPair(t)
	f := newFleet(t, p.url(), rand.Uint64())
	f.use(func(acked *atomic.Uint64) {
		eventually(t, "messages", time.Minute, func() bool { return acked.Load() > 200 })
		p.link.freeze()
		<-time.After(time.Second)
		p.promote()
		n := acked.Load()
		eventually(t, "messages after the promotion", time.Minute, func() bool { return acked.Load() > n+200 })
	})
	lost := 0
	for _, v := range f.check(p.url()) {
		if v.Invariant == "I5" && strings.Contains(v.What, "was acknowledged, but no log holds it") {
			lost++
		} else {
			t.Error(v)
		}
	}
	gaps := f.servers[0].Stats().UplinkGaps + f.servers[1].Stats().UplinkGaps
	t.Logf("%d acknowledged messages lost, %d uplink gaps, resets %v", lost, gaps, f.resets)
	if lost == 0 {
		t.Error("nothing was lost: the test shows nothing")
	}
	if len(f.resets) != 6 {
		t.Errorf("resets of %v, want all 6 subscriptions", f.resets)
	}
}
