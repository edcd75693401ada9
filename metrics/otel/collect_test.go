package limpetotel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	limpetotel "github.com/limpet-go/limpet/metrics/otel"
	"github.com/limpet-go/limpet/server"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Histograms have the buckets of the client. They are cumulative since the client was added,
// for a reader of deltas too, and belong to clients that measure.
func TestHistograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, temporality := range []sdkmetric.TemporalitySelector{sdkmetric.CumulativeTemporalitySelector, sdkmetric.DeltaTemporalitySelector} {
			m, reader := newReader(t, sdkmetric.WithTemporalitySelector(temporality))
			srv, c := newOrders(t, limpet.Options{Histograms: true})
			added := time.Now()
			assert.NoError(t, m.AddClient("measures", c))
			silent := scene.Dial(t, srv, limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Token: secret}, nil
			}})
			assert.NoError(t, m.AddClient("does not", silent))
			for i := range 3 {
				for _, c := range []*limpet.Client{c, silent} {
					_, err := c.Send(t.Context(), "x", []byte("1"), nil)
					assert.NoError(t, err)
				}
				time.Sleep(time.Second)
				found := 0
				for _, metrics := range metricsOf(t, reader) {
					h, ok := metrics.Data.(metricdata.Histogram[float64])
					if !ok {
						continue
					}
					if metrics.Unit != "s" || h.Temporality != metricdata.CumulativeTemporality || len(h.DataPoints) != 1 {
						t.Fatalf("%+v", metrics)
					}
					if metrics.Name != "limpet.publish.duration" {
						continue
					}
					found++
					d, want := h.DataPoints[0], c.Histograms().Publish
					if d.Count != uint64(i+1) || d.Sum != want.SumSeconds || !d.StartTime.Equal(added) || !d.Time.Equal(time.Now()) ||
						!d.Attributes.Equals(new(attribute.NewSet(attribute.String("limpet.client", "measures")))) {
						t.Errorf("%+v, want %+v", d, want)
					}
					bound, _ := slices.BinarySearch(d.Bounds, 0.05)
					if len(d.Bounds)+1 != len(d.BucketCounts) || !slices.IsSorted(d.Bounds) || d.Bounds[bound] != 0.05 || d.BucketCounts[bound] != d.Count || !slices.Equal(d.BucketCounts, want.Buckets[:]) {
						t.Errorf("bounds %v, counts %v", d.Bounds, d.BucketCounts)
					}
				}
				if found != 1 {
					t.Errorf("%d histograms of publishes", found)
				}
			}
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := m.Produce(canceled); !errors.Is(err, context.Canceled) {
				t.Errorf("canceled: %v", err)
			}
			m.RemoveClient("measures")
			if produced, err := m.Produce(t.Context()); err != nil || produced != nil {
				t.Errorf("nothing measured: %v, %v", produced, err)
			}
		}
	})
}

// Collections run at the same time as each other, as changes of what is collected and as the
// client. In each of them what was received is accounted for.
func TestConcurrentCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		m, reader := newReader(t)
		c := scene.Dial(t, srv, limpet.Options{Histograms: true})
		assert.NoError(t, m.AddClient("a", c))
		s := scene.Subscribe(t, c, "x", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: limpet.DropOldest}})
		var all sync.WaitGroup
		all.Go(func() { scene.Publish(t, srv, "x", 2000) })
		all.Go(func() {
			for range 100 {
				scene.Take(t, s, 1)
			}
		})
		all.Go(func() {
			for i := range 200 {
				name := fmt.Sprint("b", i)
				if err := errors.Join(m.AddClient(name, c), m.AddServer(name, srv.Server)); err != nil {
					t.Error(err)
				}
				m.RemoveClient(name)
				m.RemoveServer(name)
			}
		})
		for range 4 {
			all.Go(func() {
				for range 50 {
					p := collect(t, reader)
					sum := p["limpet.delivered.messages limpet.client=a"] + p["limpet.dropped.messages limpet.client=a reason=overflow"] +
						p["limpet.dropped.messages limpet.client=a reason=closed"] + p["limpet.waiting.messages limpet.client=a"]
					if received, there := p["limpet.received.messages limpet.client=a"]; !there || received != sum {
						t.Errorf("received %v (there: %v), accounted for %v", received, there, sum)
					}
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if p := collect(t, reader); p["limpet.received.messages limpet.client=a"] != 2000 || p.of("limpet.client=a") != len(p) {
			t.Errorf("%v received, %d values of a of %d", p["limpet.received.messages limpet.client=a"], p.of("limpet.client=a"), len(p))
		}
	})
}

// A subscription that the server refuses for good has failed.
func TestFailedSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(server.Principal, server.Verb, string) error { return errors.New("never") },
		}}})
		client := scene.Dial(t, srv, limpet.Options{})
		m, reader := newReader(t)
		assert.NoError(t, m.AddClient("a", client))
		_, err := client.Subscribe(t.Context(), "private", nil)
		assert.NoError(t, err)
		synctest.Wait()
		collect(t, reader).check(t, page{"limpet.subscription.failures limpet.client=a": 1})
	})
}

// The SDK has room for 120 clients, as the package comment says, and not for 130.
func TestCardinalityLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := scene.Dial(t, limpettest.NewServer(t, nil), limpet.Options{})
		for _, o := range []struct {
			clients  int
			option   []sdkmetric.Option
			overflow bool
		}{
			{120, nil, false},
			{130, nil, true},
			{130, []sdkmetric.Option{sdkmetric.WithCardinalityLimit(3000)}, false},
		} {
			m, reader := limpetotel.New(), sdkmetric.NewManualReader()
			_, err := m.Register(sdkmetric.NewMeterProvider(append(o.option, sdkmetric.WithReader(reader))...))
			assert.NoError(t, err)
			for i := range o.clients {
				assert.NoError(t, m.AddClient(fmt.Sprint(i), c))
			}
			p := collect(t, reader)
			if _, overflow := p["limpet.connect.attempts otel.metric.overflow="]; overflow != o.overflow || len(p) < 100*o.clients/2 {
				t.Errorf("%d clients, %v: overflow %v, %d values", o.clients, o.option != nil, overflow, len(p))
			}
		}
	})
}

// BenchmarkCollect measures one collection of a hundred clients that measure durations.
func BenchmarkCollect(b *testing.B) {
	m, reader := newReader(b)
	srv := limpettest.NewServer(b, nil)
	c := scene.Dial(b, srv, limpet.Options{Histograms: true})
	if _, err := c.Send(b.Context(), "x", []byte("1"), nil); err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		assert.NoError(b, m.AddClient(fmt.Sprint(i), c))
	}
	b.ReportAllocs()
	var rm metricdata.ResourceMetrics
	for b.Loop() {
		assert.NoError(b, reader.Collect(b.Context(), &rm))
	}
}
