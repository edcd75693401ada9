package test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
)

// A thousand clients of one process are no herd at a host that is overloaded, and are back
// soon once it is not.
func TestManyClientsAreNoHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 1000
		c := newCluster(t, 1)
		c.nodes[0].status.Store(http.StatusServiceUnavailable)
		httpClient := c.network.HTTPClient()
		began := time.Now()
		var all []*limpet.Client
		for range clients {
			client, err := limpet.New(c.urls()[0], options(&limpet.Options{HTTPClient: httpClient}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, client)
			all = append(all, client)
		}
		time.Sleep(time.Minute)
		perSecond := make(map[int]int)
		for _, d := range c.network.Dials() {
			perSecond[int(d.At.Sub(began).Seconds())]++
		}
		for second, n := range perSecond {
			if most := max(20>>min(second, 5), 1); second > 0 && n > most+2 {
				t.Errorf("%d attempts in second %d, want %d at most", n, second, most)
			}
		}
		if perSecond[0] == 0 || len(perSecond) < 55 {
			t.Errorf("attempts by the second: %v", perSecond)
		}
		c.nodes[0].status.Store(0)
		again := time.Now()
		for _, client := range all {
			if err := client.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(again); took > 30*time.Second {
			t.Errorf("all are ready after %v", took)
		}
	})
}

// A Governor of one's own bounds the first attempts too.
func TestGovernorOfOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		g, err := limpet.NewGovernor(10, 5)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var all []*limpet.Client
		var waits atomic.Int64
		count := observer(func(e limpet.Event) {
			if s, ok := e.(limpet.StateChanged); ok && s.State.Phase == limpet.Waiting {
				waits.Add(1)
			}
		})
		for i := range 100 {
			client, err := limpet.New(c.urls()[i%2], options(&limpet.Options{HTTPClient: c.network.HTTPClient(), Governor: g, Observer: count}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, client)
			all = append(all, client)
		}
		synctest.Wait()
		before := waits.Load()
		for _, client := range all {
			client.ReconnectNow() // does not jump the queue
		}
		synctest.Wait()
		if n := waits.Load() - before; n > 0 {
			t.Errorf("ReconnectNow has changed %d states while clients wait for their turn", n)
		}
		for _, client := range all {
			if err := client.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began).Round(10 * time.Millisecond); took != 4500*time.Millisecond {
			t.Errorf("50 clients for each host were ready after %v", took)
		}
	})
}
