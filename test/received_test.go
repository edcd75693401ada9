package test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// receivedAt shows elements with the time since start at which they were received.
func receivedAt(ms []limpet.Message, start time.Time) string {
	var got []string
	for _, m := range ms {
		text := string(m.Payload)
		if m.Loss != nil {
			text = m.Kind.String()
		}
		got = append(got, fmt.Sprintf("%s@%v", text, m.ReceivedAt.Sub(start)))
	}
	return strings.Join(got, " ")
}

// ReceivedAt is when the bytes came, not when they were sent or taken: here the
// consumer is an hour late, and the network holds the last message for five seconds.
func TestReceivedAtIsWhenTheBytesCame(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: 10 * time.Minute}})
				s := subscribeLive(t, c, "a", nil)
				start := time.Now()
				publish(t, srv, "a", "1")
				time.Sleep(time.Second)
				publish(t, srv, "a", "2")
				time.Sleep(1500 * time.Millisecond)
				publish(t, srv, "a", "3", "4")
				synctest.Wait()
				srv.Network.Strike(limpettest.Stall(5 * time.Second))
				publish(t, srv, "a", "5")
				synctest.Wait()
				if got := s.Stats().Received; got != 4 {
					t.Fatalf("%d messages received before the network lets the last one through", got)
				}
				time.Sleep(time.Hour)
				ms := collect(t, s, 5)
				if got := receivedAt(ms, start); got != "1@0s 2@1s 3@2.5s 4@2.5s 5@7.5s" {
					t.Errorf("received %s", got)
				}
				if got := c.Stats().PlainFrames; got != (plain || *plainFlag) {
					t.Errorf("PlainFrames is %v", got)
				}
			})
		})
	}
}

// The time has its monotonic reading. Virtual time has none.
func TestReceivedAtIsMonotonic(t *testing.T) {
	srv := limpettest.NewServer(t, nil)
	c := dial(t, srv, nil)
	s := subscribeLive(t, c, "a", nil)
	before := time.Now()
	publish(t, srv, "a", "1")
	m := collect(t, s, 1)[0]
	if m.ReceivedAt == m.ReceivedAt.Round(0) || m.ReceivedAt.Before(before) || m.ReceivedAt.After(time.Now()) {
		t.Errorf("received at %v", m.ReceivedAt)
	}
}

// The time of a loss is when the client learned of it or dropped the first message.
func TestReceivedAtOfLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 2}}})
		c := dial(t, srv, nil)
		oldest := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 2, Overflow: limpet.DropOldest}})
		newest := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 2, Overflow: limpet.DropNewest}})
		late := subscribeLive(t, c, "a", nil)
		start := time.Now()
		for _, p := range numbers(0, 4) {
			publish(t, srv, "a", p)
			time.Sleep(time.Second)
		}
		if got := receivedAt(collect(t, oldest, 3), start); got != "gap@2s 3@3s 4@4s" {
			t.Errorf("DropOldest: %s", got)
		}
		if got := receivedAt(collect(t, newest, 3), start); got != "0@0s 1@1s gap@2s" {
			t.Errorf("DropNewest: %s", got)
		}
		collect(t, late, 5)
		srv.Network.Inject(limpettest.Refuse(3))
		srv.Network.CutAll()
		synctest.Wait()
		publish(t, srv, "a", numbers(5, 9)...)
		if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 }); err != nil {
			t.Fatal(err)
		}
		ready := c.State().Since.Sub(start)
		time.Sleep(time.Minute)
		if got, want := receivedAt(collect(t, late, 3), start), fmt.Sprintf("gap@%v 8@%v 9@%v", ready, ready, ready); got != want || ready <= 5*time.Second {
			t.Errorf("after a reconnect: %s; want %s", got, want)
		}
	})
}
