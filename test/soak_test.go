package test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
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

var (
	soakSeed  = flag.Uint64("seed", 1, "first seed of the soak")
	soakSeeds = flag.Uint64("seeds", uint64(reduced(16, 8)), "how many seeds the soak tries")
)

// TestSoak runs publishers and subscribers through random faults, in both
// encodings and on both connection paths, and has the oracle decide I1 to I6, I9, I10 and I13.
func TestSoak(t *testing.T) {
	for seed := *soakSeed; seed < *soakSeed+*soakSeeds; seed++ {
		for _, plain := range bothFrameLayers() {
			t.Run(fmt.Sprintf("seed=%d/plain=%v", seed, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { soak(t, seed, plain) })
			})
		}
	}
}

func soak(t *testing.T, seed uint64, plain bool) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	small := rnd.IntN(2) == 0
	netOpts := &limpettest.NetworkOptions{Capture: true, Up: time.Duration(rnd.IntN(20)) * time.Millisecond, Down: time.Duration(rnd.IntN(20)) * time.Millisecond}
	if small {
		netOpts.Buffer = 256
	}
	keep := server.Retention{}
	if rnd.IntN(3) == 0 {
		keep.Count = 20 // so short that outages make gaps
	}
	log := &ledger{MemoryLog: server.NewMemoryLog(keep)}
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{
		Network: netOpts,
		Server: &server.Options{
			Log: log, Heartbeat: time.Second, SessionTTL: time.Duration(1+rnd.IntN(60)) * time.Second, Window: 64,
			Hooks: server.Hooks{OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if m.Type == "bad" {
					return &server.Error{Code: native.CodeForbidden}
				}
				return nil
			}},
		},
	})
	script := limpettest.Schedule(seed, 40)
	srv.Inject(script...)
	if testing.Verbose() {
		t.Logf("script:\n%s", script)
	}
	encoding := native.JSON
	if seed%2 == 0 {
		encoding = native.Binary
	}
	opts := &limpet.Options{
		Dialect:     native.New(&native.Options{Encoding: encoding}),
		HTTPClient:  srv.HTTPClient(),
		PlainFrames: plain,
		Heartbeat:   limpet.Heartbeat{Interval: time.Second},
		Backoff:     limpet.Backoff{First: 50 * time.Millisecond, Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond},
		Window:      limpet.Window{Messages: 200},
	}
	newClient := func() *limpet.Client {
		c, err := limpet.New(srv.URL(), options(opts))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var rec limpettest.Recorder
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()

	subscriber := newClient()
	var consumers sync.WaitGroup
	delivered := make(chan string, 10_000)
	topics := map[string]string{"exact": "t/1", "level": "t/*", "all": "**"}
	for name, topic := range topics {
		s, err := subscriber.Subscribe(ctx, topic, &limpet.SubscribeOptions{From: limpet.FromFirst, Delivery: limpet.Delivery{Buffer: 1 + rnd.IntN(30)}})
		if err != nil {
			t.Fatal(err)
		}
		if keep.Count == 0 { // else it begins where the log does by then
			rec.Record(limpettest.Subscribed{Sub: name, Epoch: log.View().Epoch})
		}
		consumers.Go(func() {
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					t.Errorf("subscription %s ended: %v", name, err)
					return
				}
				recordDelivery(&rec, name, m)
				if p := s.Committed(); p.Epoch != "" {
					rec.Record(limpettest.Committed{Sub: name, Epoch: p.Epoch, Offset: p.Offset})
				}
				switch {
				case m.Kind == limpet.Reset, m.Kind == limpet.Gap && keep.Count == 0:
					t.Errorf("subscription %s: a %s after %v, and nothing was lost", name, m.Kind, m.Loss.After)
				case name == "all":
					delivered <- m.Topic
				}
			}
		})
	}

	const publishers, each = 3, 100
	var publishing sync.WaitGroup
	strikes := []limpettest.Fault{limpettest.CutAfterBytes(limpettest.Both, 0), limpettest.ResetAfterBytes(limpettest.Both, 0),
		limpettest.BlackHole(limpettest.Both), limpettest.BlackHole(limpettest.Up), limpettest.BlackHole(limpettest.Down),
		limpettest.Stall(time.Second).AfterBytes(limpettest.Both, 0)}
	chaos := rand.New(rand.NewPCG(seed, 1))
	publishing.Go(func() {
		for range 8 {
			time.Sleep(time.Duration(chaos.IntN(3000)) * time.Millisecond)
			if chaos.IntN(8) == 0 {
				srv.Reboot(nil) // its sessions are lost, its log is not
				continue
			}
			srv.Network.Strike(strikes[chaos.IntN(len(strikes))])
		}
	})
	var clients []*limpet.Client
	for p := range publishers {
		c, closes := newClient(), p == 0 // in the middle, with messages under way
		clients = append(clients, c)
		pause := time.Duration(50+rnd.IntN(200)) * time.Millisecond
		publishing.Go(func() {
			var receipts sync.WaitGroup
			for i := range each {
				id := uuid.Must(uuid.NewV7())
				payload := limpettest.Stamp(fmt.Sprintf("p%d", p), uint64(i+1), []byte(fmt.Sprintf("%d", i)))
				rec.Record(limpettest.NewSent(id, payload))
				o := &limpet.PublishOptions{ID: id}
				switch i % 10 {
				case 3:
					o.Type = "bad"
				case 7:
					o.TTL = time.Second
				}
				r, err := c.Publish(ctx, fmt.Sprintf("t/%d", i%3), payload, o)
				if closes && err != nil {
					rec.Record(limpettest.Outcome{ID: id, Kind: "Unsent"})
					continue
				}
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				receipts.Go(func() {
					_, err := r.Wait(ctx)
					if (err == nil) != (r.Outcome() == limpet.Acked) {
						t.Errorf("%v with error %v", r.Outcome(), err)
					}
					rec.Record(limpettest.Outcome{ID: r.ID(), Kind: r.Outcome().String()})
				})
				time.Sleep(pause)
				if closes && i == each/2 {
					c.Close()
				}
			}
			receipts.Wait()
		})
	}
	publishing.Wait()
	if ctx.Err() != nil {
		t.Errorf("no end after an hour: %+v", subscriber.State())
	}
	// A last message, beyond the faults, so that the subscriber catches up.
	rec.Record(limpettest.NewSent(uuid.Nil, limpettest.Stamp("server", 1, nil)))
	srv.Server.Publish(ctx, "last", limpettest.Stamp("server", 1, nil), nil)
	for topic := ""; topic != "last"; {
		select {
		case topic = <-delivered:
		case <-ctx.Done():
			t.Errorf("no end after an hour: %+v", subscriber.State())
			topic = "last"
		}
	}
	time.Sleep(time.Minute)
	for _, c := range append(clients, subscriber) {
		stopped, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := c.Shutdown(stopped); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		cancel()
		<-c.Done()
	}
	consumers.Wait()
	for name, topic := range topics {
		rec.Record(log.held(name, topic))
	}
	rec.Verify(t, srv.Network)
	if dials := len(srv.Network.Dials()); dials < 10 {
		t.Errorf("the faults broke little: %d dials", dials)
	}
}

// ledger remembers every append, also what retention has taken since.
type ledger struct {
	*server.MemoryLog
	mu      sync.Mutex
	entries []server.Entry
}

func (l *ledger) Append(ctx context.Context, e server.Entry) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, err := l.MemoryLog.Append(ctx, e)
	e.Offset = offset
	l.entries = append(l.entries, e)
	return offset, err
}

func (l *ledger) held(sub, pattern string) limpettest.Held {
	h := limpettest.Held{Sub: sub, Epoch: l.View().Epoch, Complete: true}
	for _, e := range l.entries {
		if native.Match(pattern, e.Topic) {
			h.Entries = append(h.Entries, limpettest.HeldEntry{Offset: e.Offset, ID: uuid.UUID(e.ID)})
		}
	}
	return h
}

// recordDelivery tells the oracle what a consumer got.
func recordDelivery(rec *limpettest.Recorder, sub string, m limpet.Message) {
	switch m.Kind {
	case limpet.Gap:
		rec.Record(limpettest.Gap{Sub: sub, Epoch: m.Position.Epoch, From: m.Loss.After.Offset, To: m.Loss.To.Offset})
	case limpet.Reset:
		rec.Record(limpettest.Reset{Sub: sub, Epoch: m.Position.Epoch, Offset: m.Position.Offset})
	default:
		rec.Record(limpettest.NewDelivered(sub, m.Position, m.ID, m.Payload))
	}
}
