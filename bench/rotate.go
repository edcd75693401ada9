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
		var mu sync.Mutex
		var longest time.Duration
		var last time.Time
		var newest uint64
		var wrong error
		go func() {
			for m, err := range sub.Messages(context.Background()) {
				if err != nil {
					return
				}
				mu.Lock()
				switch {
				case m.Loss != nil:
					wrong = fmt.Errorf("a loss: %+v", *m.Loss)
				case binary.BigEndian.Uint64(m.Payload) <= newest:
					wrong = fmt.Errorf("a message came twice")
				default:
					newest = binary.BigEndian.Uint64(m.Payload)
				}
				if !last.IsZero() {
					longest = max(longest, m.ReceivedAt.Sub(last))
				}
				last = m.ReceivedAt
				mu.Unlock()
			}
		}()
		<-time.After(500 * time.Millisecond)
		before := c.Stats().Connections
		var all []time.Duration
		for range s.Kills {
			mu.Lock()
			longest = 0
			mu.Unlock()
			if drained {
				resp, err := http.Post("http://"+s.Addr+"/drain", "", nil)
				if err != nil {
					return nil, err
				}
				resp.Body.Close()
			}
			<-time.After(250 * time.Millisecond)
			mu.Lock()
			all = append(all, longest)
			mu.Unlock()
		}
		mu.Lock()
		defer mu.Unlock()
		if n := int(c.Stats().Connections - before); wrong == nil && drained != (n == s.Kills) || !drained && n != 0 {
			wrong = fmt.Errorf("%d connections in %d windows", n, s.Kills)
		}
		slices.Sort(all)
		return outcome{
			"p50": float64(all[len(all)/2]) / 1e3, "p99": float64(all[len(all)*99/100]) / 1e3, "max": float64(all[len(all)-1]) / 1e3,
		}, wrong
	}
}
