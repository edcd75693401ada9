package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet"
)

var rotateRow = row{
	id: "F12", title: "longest pause while a connection is replaced (F12)", metric: "p99", unit: "µs, 99th percentile of 100 windows of 250 ms", rounds: 3,
	variants: []variant{{name: "1 ms feed", with: func(s *spec) { s.Kills = 100 }}},
	candidates: []contender{
		{"limpet, replaced in each", "limpet", pauses(true)},
		{"limpet, left alone", "limpet", pauses(false)},
	},
	compare: []comparison{
		{variant: "1 ms feed", ours: "limpet, replaced in each", floor: 20_000, goal: 5_000},
		{variant: "1 ms feed", ours: "limpet, replaced in each", against: "limpet, left alone", floor: 4, goal: 2},
	},
}

// pauses measures the longest time between two messages in each of s.Kills windows. With
// drained, the server asks for another connection at the beginning of each.
func pauses(drained bool) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		c, err := limpet.New("ws://"+s.Addr+"/", &limpet.Options{
			// A server that asks again within a minute is obeyed after a wait of Backoff.
			Backoff: limpet.Backoff{First: -1, Initial: time.Millisecond, Max: 10 * time.Millisecond, StableAfter: time.Millisecond},
		})
		if err != nil {
			return nil, err
		}
		defer func() { c.Close(); <-c.Done() }()
		sub, err := c.Subscribe(context.Background(), "tick", nil)
		if err != nil {
			return nil, err
		}
		var w pauseWatch
		go w.follow(sub)
		<-time.After(500 * time.Millisecond)
		before := c.Stats().Connections
		var all []time.Duration
		for range s.Kills {
			w.take()
			if drained {
				resp, err := http.Post("http://"+s.Addr+"/drain", "", nil)
				if err != nil {
					return nil, err
				}
				resp.Body.Close()
			}
			<-time.After(250 * time.Millisecond)
			all = append(all, w.take())
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		wrong := w.wrong
		if n := int(c.Stats().Connections - before); wrong == nil && drained != (n == s.Kills) || !drained && n != 0 {
			wrong = fmt.Errorf("%d connections in %d windows", n, s.Kills)
		}
		slices.Sort(all)
		return outcome{
			"p50": float64(all[len(all)/2]) / 1e3, "p99": float64(all[len(all)*99/100]) / 1e3, "max": float64(all[len(all)-1]) / 1e3,
		}, wrong
	}
}

// pauseWatch finds the longest time between two messages, and what is wrong with them.
type pauseWatch struct {
	mu      sync.Mutex
	longest time.Duration
	last    time.Time
	newest  uint64
	wrong   error
}

// take returns the longest time since the last call.
func (w *pauseWatch) take() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := w.longest
	w.longest = 0
	return longest
}

func (w *pauseWatch) follow(sub *limpet.Subscription) {
	for m, err := range sub.Messages(context.Background()) {
		if err != nil {
			return
		}
		w.mu.Lock()
		switch {
		case m.Loss != nil:
			w.wrong = fmt.Errorf("a loss: %+v", *m.Loss)
		case binary.BigEndian.Uint64(m.Payload) <= w.newest:
			w.wrong = fmt.Errorf("a message came twice")
		default:
			w.newest = binary.BigEndian.Uint64(m.Payload)
		}
		if !w.last.IsZero() {
			w.longest = max(w.longest, m.ReceivedAt.Sub(w.last))
		}
		w.last = m.ReceivedAt
		w.mu.Unlock()
	}
}
