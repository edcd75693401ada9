package test

import (
	"context"
	"fmt"
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
		const moves = 10
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
			if st.Connections != moves+1 || st.Attempts != moves+1 || st.Outages != 0 || st.Lost != (limpet.ClassCounts{}) || int(st.Messages.Delivered) != n {
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
