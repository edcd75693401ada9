package test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// Rate, Burst and Every decide when messages are handed over: the moments are exact, in
// seconds since the first one, with the number of messages.
func TestRateAndEvery(t *testing.T) {
	second, of := time.Second, limpet.Delivery{}
	for _, row := range []struct {
		name     string
		delivery limpet.Delivery
		publish  int // messages at once
		want     string
	}{
		{"ten a second", with(of, 10, 1, 0), 5, "0s:1 100ms:1 200ms:1 300ms:1 400ms:1"},
		{"a burst", with(of, 10, 3, 0), 5, "0s:3 100ms:1 200ms:1"},
		{"a fraction", with(of, 0.5, 1, 0), 3, "0s:1 2s:1 4s:1"},
		{"the default burst is what 10 ms bring", with(of, 250, 0, 0), 6, "0s:3 4ms:1 8ms:1 12ms:1"},
		{"every interval what the rate allows", with(of, 3, 0, second), 10, "0s:3 1s:3 2s:3 3s:1"},
		{"a rate below one in an interval", with(of, 0.4, 0, second), 3, "0s:1 3s:1 6s:1"},
		{"every, without a rate", with(of, 0, 0, second), 10, "0s:10"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: row.delivery})
				publish(t, srv, "a", numbers(1, row.publish)...)
				synctest.Wait()
				var got []string
				n, began := 0, time.Now()
				for ms, err := range s.Batches(context.Background()) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("%v:%d", time.Since(began), len(ms)))
					if n += len(ms); n == row.publish {
						break
					}
				}
				if text := strings.Join(got, " "); text != row.want {
					t.Errorf("%s, want %s", text, row.want)
				}
			})
		})
	}
}

func with(d limpet.Delivery, rate float64, burst int, every time.Duration) limpet.Delivery {
	d.Rate, d.Burst, d.Every = rate, burst, every
	return d
}

// Latest with a pace: while messages wait they are conflated, so each hand-over has the
// newest of each key.
func TestLatestWithAPace(t *testing.T) {
	for name, d := range map[string]limpet.Delivery{"Every": {Every: time.Second}, "Rate": {Rate: 2, Burst: 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				d.Overflow, d.Key = limpet.Latest, symbol
				s := subscribeLive(t, dial(t, srv, nil), "q", &limpet.SubscribeOptions{Delivery: d})
				go func() {
					for i := range 100 { // five seconds, in which each key changes ten times a second
						publish(t, srv, "q", fmt.Sprintf("A %d", i), fmt.Sprintf("B %d", i))
						time.Sleep(50 * time.Millisecond)
					}
				}()
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				n, last, largest := 0, map[string]string{}, 0
				for ms, err := range s.Batches(ctx) {
					if err != nil {
						break
					}
					n, largest = n+len(ms), max(largest, len(ms))
					for _, m := range ms {
						last[symbol(m)] = string(m.Payload)
					}
				}
				if n < 10 || n > 14 || largest > 2 || last["A"] != "A 99" || last["B"] != "B 99" {
					t.Errorf("%d messages, at most %d at once, at last %v", n, largest, last)
				}
				if st := s.Stats(); st.Conflated != 200-uint64(n) || st.Dropped != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// A loss is no message: it comes at once, whatever the rate.
func TestLossCostsNoRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		d := limpet.Delivery{Overflow: limpet.DropOldest, Buffer: 1, Rate: 1, Burst: 1}
		s := subscribeLive(t, dial(t, srv, nil), "a", &limpet.SubscribeOptions{Delivery: d})
		publish(t, srv, "a", "1")
		began := time.Now()
		if got := payloads(collect(t, s, 1)); got != "1" {
			t.Fatal(got)
		}
		publish(t, srv, "a", "2", "3")
		synctest.Wait()
		if got := payloads(collect(t, s, 1)); got != "gap(1,2]" || time.Since(began) > 0 {
			t.Errorf("%s after %v", got, time.Since(began))
		}
		if got := payloads(collect(t, s, 1)); got != "3" || time.Since(began) != time.Second {
			t.Errorf("%s after %v", got, time.Since(began))
		}
	})
}

// A consumer that waits for the rate has not stopped; one that is gone has.
func TestRateIsNoStandstill(t *testing.T) {
	for _, leave := range []bool{false, true} {
		t.Run(fmt.Sprintf("leaves=%v", leave), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				seen := &stops{start: time.Now()}
				c := dial(t, srv, &limpet.Options{Observer: seen})
				d := limpet.Delivery{Overflow: limpet.Block, Buffer: 4, Rate: 1.0 / 60, Burst: 1}
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: d})
				publish(t, srv, "a", numbers(1, 20)...)
				synctest.Wait()
				go func() {
					n := 0
					for range s.Messages(context.Background()) {
						if n++; leave && n == 2 {
							return
						}
					}
				}()
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				want := ""
				if leave { // a token comes at 2m0s
					want = "a 2m30s: waiting 4, unacked 1, take"
				}
				if got := seen.String(); got != want {
					t.Errorf("reported %q, want %q", got, want)
				}
			})
		})
	}
}

// Once a stream ends, nothing more comes for which Every could wait: what waits is handed
// over at once, so that Shutdown loses nothing. A Rate, which protects the consumer, holds.
func TestShutdownEndsThePause(t *testing.T) {
	for name, row := range map[string]struct {
		delivery limpet.Delivery
		takes    time.Duration
	}{
		"Every":             {limpet.Delivery{Every: time.Hour}, 0},
		"Every with Latest": {limpet.Delivery{Every: time.Hour, Overflow: limpet.Latest, Key: firstByte}, 0},
		"Rate":              {limpet.Delivery{Rate: 1, Burst: 1}, 2 * time.Second},
		"Every and Rate":    {limpet.Delivery{Every: 2 * time.Second, Rate: 1, Burst: 2}, 3 * time.Second},
	} {
		for _, way := range []string{"Messages", "Batches", "C", "Merge"} {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: row.delivery})
				var taken sync.WaitGroup
				var got []limpet.Message
				taken.Go(func() {
					switch way {
					case "Messages":
						for m := range s.Messages(context.Background()) {
							got = append(got, m)
						}
					case "Batches":
						for ms := range s.Batches(context.Background()) {
							got = append(got, ms...)
						}
					case "C":
						for m := range s.C() {
							got = append(got, m)
						}
					case "Merge":
						for m := range limpet.Merge(context.Background(), s) {
							got = append(got, m)
						}
					}
				})
				publish(t, srv, "a", "a")
				time.Sleep(time.Second)
				publish(t, srv, "a", "b", "c", "d")
				synctest.Wait()
				began := time.Now()
				if err := c.Shutdown(within(t, time.Minute)); err != nil {
					t.Errorf("%s, %s: %v", name, way, err)
				}
				taken.Wait()
				if took := time.Since(began); took.Round(time.Second) != row.takes || payloads(got) != "a b c d" {
					t.Errorf("%s, %s: %q after %v", name, way, payloads(got), took)
				}
			})
		}
	}
}
