package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// Two servers share a store that fails in every way that it may, and clients are moved from
// one to the other at random: nothing is lost, doubled or out of order, no loss is reported that did
// not happen, and no client ends.
func TestTwoServersOnAFaultyStore(t *testing.T) {
	faults := map[string]int{}
	missing := func() (missing []string) {
		for _, fault := range []string{"lost before", "lost after", "late", "twice", "conflict", "stale", "tag"} {
			if faults[fault] == 0 {
				missing = append(missing, fault)
			}
		}
		return missing
	}
	n := *soakSeeds / 4
	for i := uint64(0); i < n || len(missing()) > 0 && i < 8*n; i++ { // which faults have an effect depends on the schedule
		seed := *soakSeed + i
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { shareAStore(t, seed, faults) })
		})
	}
	if missing := missing(); missing != nil {
		t.Errorf("the faults %q never took effect: %v", missing, faults)
	}
}

// shared are two servers on one store.
type shared struct {
	t     *testing.T
	store *sharedStore
	host  *limpettest.Host
	rec   limpettest.Recorder
	rnd   *rand.Rand
	opts  *limpet.Options

	// rewinds means that records of sessions go back. Then an ack goes back, too, of which the
	// client did not know yet, and the messages on the wire show that.
	rewinds bool
}

func shareAStore(t *testing.T, seed uint64, faults map[string]int) {
	s := &shared{t: t, rewinds: seed%4 == 3, store: newSharedStore(t, seed), rnd: rand.New(rand.NewPCG(seed, 5))}
	var servers []*server.Server
	for range 2 {
		n := newStoreNode(s.store)
		srv, err := server.New(&server.Options{Store: n, Heartbeat: time.Second, SessionTTL: time.Minute, Window: 64})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, srv)
		defer close(n.stop)
		defer srv.Close()
	}
	var mu sync.Mutex
	route := rand.New(rand.NewPCG(seed, 6))
	s.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		srv := servers[route.IntN(2)]
		mu.Unlock()
		srv.ServeHTTP(w, r)
	}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Capture: true, Up: 5 * time.Millisecond, Down: 5 * time.Millisecond}})
	encoding := native.JSON
	if seed%2 == 0 {
		encoding = native.Binary
	}
	s.opts = &limpet.Options{
		Dialect: native.New(&native.Options{Encoding: encoding}), HTTPClient: s.host.HTTPClient(), Heartbeat: limpet.Heartbeat{Interval: time.Second},
		Backoff: limpet.Backoff{First: 50 * time.Millisecond, Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond}, Window: limpet.Window{Messages: 64},
	}
	s.useTheStore()
	for fault, n := range s.store.faults {
		faults[fault] += n
	}
}

func (s *shared) client() *limpet.Client {
	c, err := limpet.New(s.host.URL(), options(s.opts))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *shared) useTheStore() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	subscriber, last := s.client(), make(chan struct{})
	var consumers, publishing sync.WaitGroup
	for _, topic := range []string{"t/1", "**"} {
		sub, err := subscriber.Subscribe(ctx, topic, &limpet.SubscribeOptions{From: limpet.FromFirst})
		if err != nil {
			s.t.Fatal(err)
		}
		s.rec.Record(limpettest.Subscribed{Sub: topic, Epoch: s.store.View().Epoch})
		consumers.Go(func() {
			for m, err := range sub.Messages(context.Background()) {
				if err != nil {
					s.t.Errorf("subscription %s ended: %v", topic, err)
					return
				}
				recordDelivery(&s.rec, topic, m)
				if m.Kind != limpet.Data {
					s.t.Errorf("subscription %s: a %s after %v, and nothing was lost", topic, m.Kind, m.Loss.After)
				}
				if m.Topic == "last" {
					close(last)
				}
			}
		})
	}
	publishing.Go(func() { s.breakTheStore() })
	clients := []*limpet.Client{subscriber}
	for p := range 3 {
		c := s.client()
		clients = append(clients, c)
		publishing.Go(func() { s.publishThrough(ctx, c, p) })
	}
	publishing.Wait()
	s.store.settle()
	stamp := limpettest.Stamp("end", 1, nil)
	s.rec.Record(limpettest.NewSent(uuid.Nil, stamp))
	if _, err := clients[1].Send(ctx, "last", stamp, nil); err != nil {
		s.t.Errorf("the last message: %v", err)
	}
	select {
	case <-last:
	case <-ctx.Done():
		s.t.Errorf("no end after an hour: %+v", subscriber.State())
	}
	for _, c := range clients {
		if err := c.Err(); err != nil {
			s.t.Errorf("a client has ended: %v", err)
		}
		if err := c.Shutdown(ctx); err != nil {
			s.t.Errorf("shutdown: %v", err)
		}
		<-c.Done()
	}
	consumers.Wait()
	s.check()
}

// breakTheStore breaks connections, and takes the records of sessions away.
func (s *shared) breakTheStore() {
	strikes := []limpettest.Fault{limpettest.CutAfterBytes(limpettest.Both, 0), limpettest.BlackHole(limpettest.Both),
		limpettest.BlackHole(limpettest.Up), limpettest.BlackHole(limpettest.Down), limpettest.Stall(time.Second).AfterBytes(limpettest.Both, 0)}
	for i := range 12 {
		time.Sleep(time.Duration(s.rnd.IntN(2000)) * time.Millisecond)
		switch i {
		case 4, 8:
			s.store.purge(s.rewinds)
		default:
			s.host.Network.Strike(strikes[s.rnd.IntN(len(strikes))])
		}
	}
}

func (s *shared) publishThrough(ctx context.Context, c *limpet.Client, p int) {
	var receipts sync.WaitGroup
	for i := range 80 {
		id := uuid.Must(uuid.NewV7())
		payload := limpettest.Stamp(fmt.Sprintf("p%d", p), uint64(i+1), nil)
		s.rec.Record(limpettest.NewSent(id, payload))
		r, err := c.Publish(ctx, fmt.Sprintf("t/%d", i%3), payload, &limpet.PublishOptions{ID: id})
		if err != nil {
			s.t.Errorf("publish: %v", err)
			return
		}
		receipts.Go(func() {
			if _, err := r.Wait(ctx); err != nil {
				s.t.Errorf("message %d of %d: %v", i, p, err)
			}
			s.rec.Record(limpettest.Outcome{ID: r.ID(), Kind: r.Outcome().String()})
		})
		if i%4 == 3 {
			time.Sleep(time.Duration(100+p*100) * time.Millisecond)
		}
	}
	receipts.Wait()
}

// check has the oracle decide.
func (s *shared) check() {
	for _, topic := range []string{"t/1", "**"} {
		h := limpettest.Held{Sub: topic, Epoch: s.store.View().Epoch, Complete: true}
		buf := make([]*server.Entry, 1000)
		n, _, err := s.store.Read(context.Background(), 1, buf)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range buf[:n] {
			if native.Match(topic, e.Topic) {
				h.Entries = append(h.Entries, limpettest.HeldEntry{Offset: e.Offset, ID: uuid.UUID(e.ID)})
			}
		}
		s.rec.Record(h)
	}
	network := s.host.Network
	if s.rewinds {
		network = nil
	}
	s.rec.Verify(s.t, network)
}

// With a store a server that crashes loses no session, and Held reads the store.
func TestServerOnAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Store: server.NewMemoryStore(nil)}})
		c := dial(t, srv, nil)
		for range 3 {
			if _, err := c.Send(context.Background(), "t", nil, nil); err != nil {
				t.Fatal(err)
			}
			srv.Reboot(nil)
			synctest.Wait()
		}
		if err := c.WaitReady(context.Background()); err != nil || c.Stats().Resumes != 3 {
			t.Errorf("%d resumes, %v", c.Stats().Resumes, err)
		}
		if h := srv.Held("s", "t"); len(h.Entries) != 3 || h.Epoch == "" {
			t.Errorf("held: %+v", h)
		}
		closeAndWait(t, c)
	})
}
