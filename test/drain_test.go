package test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// A server that is drained ten times while messages go both ways: each client moves each
// time, nothing is missing, nothing comes twice, and there is no outage.
func TestDrainMovesClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var clients []*limpet.Client
		for i := range 3 {
			c := dial(t, srv, &limpet.Options{})
			clients = append(clients, c)
			sub := subscribeLive(t, c, "feed", nil)
			next := 0
			go func() {
				for m, err := range sub.Messages(ctx) {
					if err != nil {
						return
					}
					if m.Loss != nil || string(m.Payload) != fmt.Sprint(next) {
						t.Errorf("client %d: %v %q, want %d", i, m.Kind, m.Payload, next)
					}
					next++
				}
			}()
		}
		moves := reduced(10, 3)
		n := 0
		for range moves {
			if asked := srv.Server.Drain(&server.DrainOptions{After: time.Second, Spread: 10 * time.Second}); asked != len(clients) {
				t.Errorf("%d connections were asked", asked)
			}
			for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(200 * time.Millisecond) {
				_, err := clients[0].Send(ctx, "feed", fmt.Append(nil, n), nil)
				assert.NoError(t, err)
				n++
			}
		}
		for i, c := range clients {
			st := c.Stats()
			if st.Connections != uint64(moves)+1 || st.Attempts != uint64(moves)+1 || st.Outages != 0 || st.Lost != (limpet.ClassCounts{}) || int(st.Messages.Delivered) != n {
				t.Errorf("client %d: %d connections, %d attempts, %d outages, lost %v, %d of %d messages", i, st.Connections, st.Attempts, st.Outages, st.Lost, st.Messages.Delivered, n)
			}
		}
	})
}

// A server may ask again and again: the connections that take over the session are no duel of
// two clients.
func TestDrainIsNoDuel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Backoff: limpet.Backoff{First: -1, Initial: time.Millisecond, Max: 10 * time.Millisecond}})
		for n := range uint64(10) {
			srv.Server.Drain(nil)
			time.Sleep(time.Second)
			if st := c.State(); st.Phase != limpet.Ready || st.Generation != n+2 {
				t.Fatalf("after %d calls: %+v", n+1, st)
			}
		}
	})
}

// A client that does not leave is closed at the deadline.
func TestDrainHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{})
		began := time.Now()
		srv.Server.Drain(&server.DrainOptions{After: time.Hour, Deadline: 10 * time.Second})
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase != limpet.Ready })
		assert.NoError(t, err)
		if left := st.Since.Sub(began); left < 10*time.Second || left > 11*time.Second {
			t.Errorf("closed after %v, want 10 s", left)
		}
	})
}

// Two nodes share a log and no sessions: a message that the first one has accepted is
// acknowledged before the client leaves, so it stands in the log once.
func TestDrainToAnotherNodeDoublesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := server.NewMemoryLog(server.Retention{Count: 100_000})
		var nodes [2]*server.Server
		for i := range nodes {
			node, err := server.New(&server.Options{Log: log, Hosts: []string{"*"}})
			assert.NoError(t, err)
			defer node.Close()
			nodes[i] = node
		}
		var current atomic.Int32
		network := limpettest.NewNetwork(&limpettest.NetworkOptions{Up: 20 * time.Millisecond, Down: 20 * time.Millisecond})
		defer network.Close()
		host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			nodes[current.Load()].ServeHTTP(w, r)
		}), &limpettest.HostOptions{On: network})
		c, err := limpet.Dial(withinAnHour(t), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), AllowInsecure: true}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		const moves = 10
		n := 0
		for move := range moves {
			for at := range 1000 {
				_, err := c.Publish(t.Context(), "feed", fmt.Append(nil, n), nil)
				assert.NoError(t, err)
				n++
				if at == 500 {
					from := current.Load()
					current.Store(1 - from)
					nodes[from].Drain(nil)
				}
				time.Sleep(time.Millisecond)
			}
			assert.NoError(t, c.Flush(t.Context()))
			time.Sleep(2 * time.Minute)
			if st := c.State(); st.Generation != uint64(move)+2 {
				t.Fatalf("after %d moves: %+v", move+1, st)
			}
		}
		seen := map[string]int{}
		sub, err := c.Subscribe(t.Context(), "feed", &limpet.SubscribeOptions{From: limpet.FromFirst})
		assert.NoError(t, err)
		for m, err := range sub.Messages(t.Context()) {
			assert.NoError(t, err)
			if m.Loss != nil {
				t.Fatalf("%v", m.Loss)
			}
			seen[string(m.Payload)]++
			if string(m.Payload) == fmt.Sprint(n-1) {
				break
			}
		}
		doubled := 0
		for _, times := range seen {
			doubled += times - 1
		}
		if len(seen) != n || doubled != 0 || c.Stats().Outages != 0 {
			t.Errorf("%d of %d messages in the log, %d of them doubled, %d outages", len(seen), n, doubled, c.Stats().Outages)
		}
	})
}
