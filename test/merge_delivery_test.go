package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// Pace, ManualAck and losses are those of each subscription.
func TestMergeKeepsTheDeliveryOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		paced := subscribeLive(t, c, "p", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Every: time.Second}})
		manual := subscribeLive(t, c, "m", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 2}})
		drops := subscribeLive(t, c, "d", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 1, Overflow: limpet.DropOldest}})
		start := time.Now()
		var got []string
		var taken []limpet.Message
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for m, err := range limpet.Merge(ctx, paced, manual, drops) {
				if err != nil {
					return
				}
				text := m.Topic + string(m.Payload)
				if m.Loss != nil {
					text = m.Topic + m.Kind.String()
				}
				got = append(got, fmt.Sprintf("%s@%v", text, time.Since(start)))
				if m.Topic == "m" {
					taken = append(taken, m)
				}
				if text == "m1" {
					publish(t, srv, "d", "1", "2", "3")
					synctest.Wait()
				}
			}
		}()
		synctest.Wait()
		publish(t, srv, "p", "1")
		synctest.Wait()
		publish(t, srv, "p", "2", "3")
		publish(t, srv, "m", "1", "2", "3")
		<-time.After(2 * time.Second)
		synctest.Wait()
		if text := strings.Join(got, " "); text != "p1@0s m1@0s m2@0s dgap@0s d3@0s p2@1s p3@1s" && text != "p1@0s m1@0s dgap@0s m2@0s d3@0s p2@1s p3@1s" {
			t.Errorf("yielded %s", text)
		}
		got = nil
		taken[0].Ack()
		synctest.Wait()
		if text := strings.Join(got, " "); text != "m3@2s" || manual.Stats().Unacked != 2 {
			t.Errorf("after an acknowledgement: %s", text)
		}
		got = nil
		publish(t, srv, "p", "4")
		synctest.Wait()
		publish(t, srv, "p", "5")
		<-time.After(2 * time.Second)
		synctest.Wait()
		if text := strings.Join(got, " "); text != "p4@2s p5@3s" {
			t.Errorf("yielded after a second wait: %s", text)
		}
		cancel()
		<-done
	})
}

// A loop that was left counts no longer as a consumer at work: the streams that stand
// still after it are reported.
func TestMergeThatWasLeftIsNoConsumer(t *testing.T) {
	for _, way := range []string{"break", "panic", "context", "goes on"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				seen := &stops{start: time.Now()}
				c := dial(t, srv, &limpet.Options{Observer: seen})
				o := &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 2, Overflow: limpet.Block}}
				a, b := subscribeLive(t, c, "a", o), subscribeLive(t, c, "b", o)
				publish(t, srv, "a", numbers(1, 9)...)
				publish(t, srv, "b", "1")
				if way == "goes on" {
					publish(t, srv, "b", numbers(2, 9)...)
				}
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				func() {
					defer func() { _ = recover() }()
					for m := range limpet.Merge(ctx, a, b) {
						switch {
						case m.Topic == "a" && way == "goes on":
						case m.Topic == "b" && way != "goes on":
						case way == "break":
							return
						case way == "panic":
							panic("in the body")
						case way == "context":
							cancel()
						default:
							time.Sleep(time.Minute)
							return
						}
					}
				}()
				if way != "goes on" {
					time.Sleep(time.Minute)
				}
				want := "a 30s: waiting 2, unacked 1, take"
				switch way {
				case "context":
					want = "a 30s: waiting 2, unacked 0, take"
				case "goes on": // with a message of b
					want = "a 30s: waiting 2, unacked 0, take"
				}
				if got := seen.String(); got != want {
					t.Errorf("reported %q; want %q", got, want)
				}
			})
		})
	}
}

// An iteration that waits for many subscriptions has no goroutine for them, and
// nothing is left of it after its end.
func TestMergeNeedsNoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		var subs []*limpet.Subscription
		for i := range 100 {
			subs = append(subs, subscribeLive(t, c, fmt.Sprint("t/", i), &limpet.SubscribeOptions{Delivery: limpet.Delivery{Every: time.Hour}}))
		}
		for _, s := range subs {
			publish(t, srv, s.Topic(), "1", "2")
		}
		<-time.After(time.Second)
		before := goroutinesAtMost(0)
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		ended := make(chan error, 1)
		go func() {
			for _, err := range limpet.Merge(ctx, subs...) {
				if n++; err != nil {
					ended <- err
				}
			}
		}()
		<-time.After(time.Second)
		if during := goroutinesAtMost(before + 1); during > before+1 || before < 3 || n != 200 {
			t.Errorf("%d goroutines while it waits, %d before; %d messages", during, before, n)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if after := goroutinesAtMost(before); after > before {
			t.Errorf("%d goroutines after it, %d before", after, before)
		}
	})
}

// goroutinesAtMost returns the number of goroutines of this bubble, once it is at most n: the
// runtime may count one that has ended for a moment. Those of other tests do not count.
func goroutinesAtMost(n int) (got int) {
	stacks := make([]byte, 4<<20)
	own := regexp.MustCompile(`synctest bubble \d+`).Find(stacks[:runtime.Stack(stacks, false)])
	for range 100 {
		synctest.Wait()
		all := stacks[:runtime.Stack(stacks, true)]
		if got = bytes.Count(all, append(slices.Clone(own), ']')) + bytes.Count(all, append(slices.Clone(own), ',')); got <= n {
			break
		}
		runtime.Gosched()
	}
	return got
}
