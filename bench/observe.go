package main

import (
	"context"
	"fmt"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/prometheus/client_golang/prometheus"
)

// observeRow is what it costs to observe a client: histograms, an observer, and a scrape of
// its metrics each second.
var observeRow = row{
	id: "F11", title: "receive with observation (F11)", metric: "cpu", unit: "client CPU ns a message",
	variants: []variant{{name: "64 B", with: sized(64, 400_000)}, {name: "512 B", with: sized(512, 200_000)}},
	candidates: []contender{
		{"limpet Messages", "blast", limpetReceive(receiveAs{})},
		{"limpet Messages, observed", "blast", limpetReceive(receiveAs{observed: true})},
		{"limpet Batches", "blast", limpetReceive(receiveAs{batches: true})},
		{"limpet Batches, observed", "blast", limpetReceive(receiveAs{batches: true, observed: true})},
	},
	compare: observeVerdicts("64 B", "512 B"),
}

func observeVerdicts(variants ...string) (list []comparison) {
	for _, v := range variants {
		for _, way := range []string{"limpet Messages", "limpet Batches"} {
			list = append(list, comparison{variant: v, ours: way + ", observed", against: way, floor: 1.1, goal: 1.05})
		}
		list = append(list, comparison{variant: v, ours: "limpet Messages, observed", metric: "allocs", floor: 1.1, goal: 1.1})
	}
	return list
}

// observing makes o observe the client.
func observing(o *limpet.Options) { o.Histograms, o.Observer = true, ignored{} }

type ignored struct{}

func (ignored) Observe(limpet.Event) {}

// scrape gathers the metrics of c now and each second until stop is called, which
// returns what went wrong.
func scrape(c *limpet.Client) (stop func() error, err error) {
	collector := prom.NewCollector(nil)
	if err := collector.AddClient("bench", c); err != nil {
		return nil, err
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(collector); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			families, err := registry.Gather()
			if err == nil && len(families) < 30 {
				err = fmt.Errorf("%d metrics", len(families))
			}
			if err != nil {
				done <- err
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				done <- nil
				return
			}
		}
	}()
	return func() error { cancel(); return <-done }, nil
}
