package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// dice are random numbers for several goroutines.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.IntN(n)
}

func (d *dice) milliseconds(n int) time.Duration { return time.Duration(d.below(n)) * time.Millisecond }

// Whatever happens, at each moment what was received is accounted for, gauges are not
// negative and no counter falls. In the end gauges are 0, and events, counters and histograms
// agree.
func TestStatsOfARandomClient(t *testing.T) {
	for seed := range uint64(reduced(3, 1)) {
		synctest.Test(t, func(t *testing.T) {
			d := &dice{rnd: rand.New(rand.NewPCG(seed, 10))}
			var seen outages
			srv := limpettest.NewServer(t, &limpettest.ServerOptions{
				Network: &limpettest.NetworkOptions{Up: 3 * time.Millisecond, Down: 3 * time.Millisecond},
				Server: &server.Options{Retention: server.Retention{Count: 100}, Hooks: server.Hooks{Authorize: func(_ server.Principal, v server.Verb, _ string) error {
					switch n := d.below(40); {
					case n == 0:
						return fmt.Errorf("no %v", v) // for good
					case n < 3 && v == server.VerbSubscribe:
						return context.DeadlineExceeded // for now; of a message it ends the connection
					}
					return nil
				}}},
			})
			c := dial(t, srv, &limpet.Options{
				Histograms: true, Observer: &seen, Heartbeat: limpet.Heartbeat{Interval: time.Second},
				Backoff: limpet.Backoff{First: 20 * time.Millisecond, Initial: 20 * time.Millisecond, Max: 100 * time.Millisecond},
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var all sync.WaitGroup
			for i := range 5 {
				all.Go(func() { consumeAtRandom(ctx, d, c, fmt.Sprint(i)) })
			}
			all.Go(func() { publishAtRandom(ctx, d, c, srv) })
			all.Go(func() { breakAtRandom(ctx, d, srv) })
			for range 2 {
				all.Go(func() { watchStats(ctx, t, d, c) })
			}
			all.Wait()
			time.Sleep(10 * time.Second)
			checkIdle(t, c, seen.all())
			closeAndWait(t, c)
			checkHistograms(t, c)
			time.Sleep(2 * time.Second)
			if st := srv.Server.Stats(); st.Conns != 0 || st.Pending != 0 || st.Subscriptions != 0 {
				t.Errorf("the server: %+v", st)
			}
		})
	}
}

// consumeAtRandom opens and closes subscriptions to topic, and takes messages in each way.
func consumeAtRandom(ctx context.Context, d *dice, c *limpet.Client, topic string) {
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		overflow := []limpet.Overflow{limpet.Block, limpet.DropOldest, limpet.DropNewest}[d.below(3)]
		s, err := c.Subscribe(ctx, topic, &limpet.SubscribeOptions{ManualAck: d.below(3) == 0, Delivery: limpet.Delivery{Buffer: 1 + d.below(50), Overflow: overflow}})
		if err != nil {
			continue // ErrDuplicate, until the earlier one is closed, or ctx has ended
		}
		period, stop := context.WithTimeout(ctx, d.milliseconds(2000))
		switch d.below(3) {
		case 0:
			for m, err := range s.Messages(period) {
				if err == nil && d.below(2) == 0 {
					m.Ack()
				}
				time.Sleep(d.milliseconds(2))
			}
		case 1:
			for _, err := range s.Batches(period) {
				if err != nil || d.below(30) == 0 {
					break
				}
			}
		case 2:
			for open := true; open && period.Err() == nil; {
				select {
				case _, open = <-s.C():
				case <-period.Done():
				}
			}
		}
		stop()
		s.Close()
	}
}

func publishAtRandom(ctx context.Context, d *dice, c *limpet.Client, srv *limpettest.Server) {
	for ; ctx.Err() == nil; time.Sleep(d.milliseconds(3)) {
		_, _ = srv.Server.Publish(ctx, fmt.Sprint(d.below(5)), []byte("x"), nil)
		if d.below(3) == 0 {
			_, _ = c.Publish(ctx, "up", []byte("abc"), &limpet.PublishOptions{TTL: time.Millisecond + d.milliseconds(100)})
		}
	}
}

func breakAtRandom(ctx context.Context, d *dice, srv *limpettest.Server) {
	for ; ctx.Err() == nil; time.Sleep(d.milliseconds(800)) {
		switch d.below(3) {
		case 0:
			srv.Network.CutAll()
		case 1:
			srv.Network.ResetAll()
		case 2:
			srv.Stop()
			time.Sleep(d.milliseconds(500))
			srv.Start()
		}
	}
}

// watchStats compares each Stats with the one before.
func watchStats(ctx context.Context, t *testing.T, d *dice, c *limpet.Client) {
	var last limpet.Stats
	for ; ctx.Err() == nil && !t.Failed(); time.Sleep(d.milliseconds(3)) {
		st := c.Stats()
		m := st.Messages
		if m.Received != m.Delivered+m.Dropped+m.Waiting || m.Unacked > m.Delivered || st.Live > st.Subscriptions || st.Outage > st.OutageTime ||
			min(st.Silence, st.OldestPending, st.PingRTT, st.Outage) < 0 || min(st.Window, st.WindowBytes) < 0 {
			t.Errorf("%+v", st)
		}
		if n := c.Histograms().Delivery.Count; n > c.Stats().Messages.Delivered {
			t.Errorf("%d measured, %d delivered before", n, m.Delivered)
		}
		checkGrowth(t, reflect.ValueOf(last), reflect.ValueOf(st))
		last = st
	}
}

// checkGrowth checks that no counter in after is lower than in before. Counters are the fields
// of type uint64, but for the gauges, and OutageTime.
func checkGrowth(t *testing.T, before, after reflect.Value) {
	for i := range after.NumField() {
		name, a, b := after.Type().Field(i).Name, before.Field(i), after.Field(i)
		switch {
		case name == "Messages":
			checkGrowth(t, a, b)
		case name == "Waiting", name == "WaitingBytes", name == "Unacked", name == "SubPhases":
		case b.Kind() == reflect.Uint64 && b.Uint() < a.Uint(), name == "OutageTime" && b.Int() < a.Int():
			t.Errorf("%s fell from %v to %v", name, a, b)
		case b.Kind() == reflect.Array:
			for class := range b.Len() {
				if b.Index(class).Uint() < a.Index(class).Uint() {
					t.Errorf("%s fell from %v to %v", name, a, b)
				}
			}
		}
	}
}

// checkIdle checks a client without subscriptions whose server is there.
func checkIdle(t *testing.T, c *limpet.Client, ended []limpet.OutageEnded) {
	st, h := c.Stats(), c.Histograms()
	if st.Outage != 0 || st.Outages < 3 || st.Subscriptions != 0 || st.Messages.Unacked != 0 || st.Messages.Waiting != 0 || st.Messages.WaitingBytes != 0 || st.Window != 0 || st.OldestPending != 0 {
		t.Errorf("idle: %+v", st)
	}
	var lasted time.Duration
	for _, o := range ended {
		lasted += o.Duration
	}
	if int(st.Outages) != len(ended) || lasted != st.OutageTime || h.Outage.Count != st.Outages || h.Outage.Sum != lasted {
		t.Errorf("%d outages in %v; events: %d in %v; histogram: %d in %v", st.Outages, st.OutageTime, len(ended), lasted, h.Outage.Count, h.Outage.Sum)
	}
}

// checkHistograms checks an ended client.
func checkHistograms(t *testing.T, c *limpet.Client) {
	st, h := c.Stats(), c.Histograms()
	outcomes := st.Acked + st.Written + st.Rejected + st.Expired + st.Unsent + st.Unknown
	assert.Equal(t, h.Delivery.Count, st.Messages.Delivered)
	assert.Equal(t, h.Publish.Count, outcomes)
	assert.Equal(t, outcomes, st.Published)
	assert.Equal(t, h.Connection.Count, st.Connections)
}
