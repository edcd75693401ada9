package test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// Clients on the fallback are drained while messages go both ways: nothing is missing, nothing
// comes twice, and the next connection is a WebSocket again once the path permits that.
func TestDrainOfTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		c := p.client(t, nil)
		sub := subscribeLive(t, c, "numbers", nil)
		awaitReady(t, c, limpet.TransportHTTP)
		n, received := 0, 0
		for move, open := range []bool{false, true, true} {
			if open {
				time.Sleep(2 * time.Minute) // the path is asked again after a minute
				p.set(func() { p.upgrade = nil })
			}
			if asked := p.server.Drain(&server.DrainOptions{After: time.Second}); asked != 1 {
				t.Errorf("%d were asked", asked)
			}
			p.server.Drain(&server.DrainOptions{After: time.Second}) // one more time
			for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
				r, err := c.Publish(t.Context(), "numbers", []byte(strconv.Itoa(n)), nil)
				assert.NoError(t, err)
				go func() {
					if _, err := r.Wait(t.Context()); err != nil {
						t.Errorf("message: %v", err)
					}
				}()
				n++
			}
			assert.NoError(t, c.Flush(t.Context()))
			for _, m := range collect(t, sub, n-received) {
				if m.Kind != limpet.Data || string(m.Payload) != strconv.Itoa(received) {
					t.Fatalf("message %d is %v %q", received, m.Kind, m.Payload)
				}
				received++
			}
			want := limpet.TransportHTTP
			if open {
				want = limpet.TransportWebSocket
			}
			if st := c.State(); st.Transport != want || st.Generation != uint64(move+2) || c.Stats().Outages != 0 {
				t.Errorf("move %d: %+v, %d outages", move, st, c.Stats().Outages)
			}
		}
	})
}

// Subscriptions that are closed and opened while two connections overlap. The second connection,
// or both, may be lost in that time.
func TestSubscriptionsDuringTheOverlap(t *testing.T) {
	for _, what := range []string{"", "both", "second"} {
		lost := what != ""
		t.Run("lost: "+what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &movingFeed{confirms: 3 * time.Second}
				f.began, f.pubs = time.Now(), map[string]int{}
				srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
					if conn == 2 && what == "second" {
						time.Sleep(1500 * time.Millisecond)
						panic(http.ErrAbortHandler)
					}
					f.talk(conn, say, hear)
				})
				c := f.client(t, srv)
				streams := map[string]*limpet.Subscription{}
				open := func(topic string) *limpet.Subscription {
					sub, err := c.Subscribe(t.Context(), topic, nil)
					assert.NoError(t, err)
					return sub
				}
				streams["a"] = open("a")
				gone, again := open("gone"), open("again")
				_, err := c.WaitState(withinAnHour(t), func(s limpet.State) bool { return s.Generation == 2 && s.Phase == limpet.Ready })
				assert.NoError(t, err)
				time.Sleep(time.Second) // both connections are there
				gone.Close()
				again.Close()
				streams["again"], streams["new"] = open("again"), open("new")
				if what == "both" {
					time.Sleep(time.Second)
					srv.host.Network.CutAll()
				}
				time.Sleep(20 * time.Second)
				if st := c.State(); lost != (st.Generation > 2) {
					t.Errorf("%+v", st)
				}
				for topic, sub := range streams {
					var last uint64
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					for m, err := range sub.Messages(ctx) {
						if err != nil {
							break
						}
						if m.Loss != nil {
							if !lost {
								t.Errorf("%s: %v", topic, m.Loss)
							}
							last = 0
							continue
						}
						if o := m.Position.Offset; last != 0 && o != last+1 {
							t.Errorf("%s: %d after %d", topic, o, last)
						}
						last = m.Position.Offset
					}
					cancel()
					if now := uint64(time.Since(f.began) / (100 * time.Millisecond)); last < now-3 {
						t.Errorf("%s: the last one is %d of %d", topic, last, now)
					}
				}
			})
		})
	}
}

func (f *movingFeed) client(t *testing.T, srv *toyServer) *limpet.Client {
	dialect := f.dialect(t, true)
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: dialect}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// The end of a client in each step of a change, with and without an overlap: nothing is left, and
// Shutdown has the outcome of each message.
func TestEndDuringTheChange(t *testing.T) {
	for step := time.Duration(0); step < 14*time.Second; step += 331 * time.Millisecond {
		for _, abrupt := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				i.answer = slowAuth(map[int]time.Duration{2: time.Second})
				f := &movingFeed{confirms: 3 * time.Second, answers: time.Second}
				f.began, f.pubs = time.Now(), map[string]int{}
				srv := newToyServer(t, f.talk)
				c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: f.dialect(t, true), Auth: i.auth}))
				assert.NoError(t, err)
				sub, err := c.Subscribe(t.Context(), "a", nil)
				assert.NoError(t, err)
				go func() {
					for range sub.Messages(t.Context()) {
					}
				}()
				time.Sleep(step)
				r, err := c.Publish(t.Context(), "a", []byte("m"), nil)
				assert.NoError(t, err)
				time.Sleep(10 * time.Millisecond)
				if abrupt {
					c.Close()
				} else {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					if err := c.Shutdown(ctx); err != nil {
						t.Errorf("after %v: Shutdown: %v", step, err)
					}
					if _, err := r.Wait(ctx); err != nil {
						t.Errorf("after %v: %v", step, err)
					}
				}
				began := time.Now()
				<-c.Done()
				if time.Since(began) > time.Second {
					t.Errorf("after %v: ended %v later", step, time.Since(began))
				}
			})
		}
	}
}

// Clients that are not welcomed yet, because a hook hangs, are asked to leave as well. They are
// served, and leave then.
func TestDrainBeforeTheWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		calls := 0
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(ctx context.Context, _ *http.Request, _ string) (server.Principal, error) {
				mu.Lock()
				calls++
				first := calls == 1
				mu.Unlock()
				if first {
					select {
					case <-ctx.Done():
						return server.Principal{}, ctx.Err()
					case <-time.After(3 * time.Second):
					}
				}
				return server.Principal{ID: "ann"}, nil
			}}}})
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(time.Second)
		asked := srv.Server.Drain(nil)
		time.Sleep(time.Minute)
		if st := c.State(); asked != 1 || st.Phase != limpet.Ready || st.Generation != 2 || st.Attempt != 0 || c.Stats().Attempts != 2 {
			t.Errorf("%d asked: %+v after %d attempts", asked, st, c.Stats().Attempts)
		}
	})
}

// Drain with a deadline, once more, and Shutdown in the middle: each ends what it has to.
func TestDrainAndShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{})
		srv.Server.Drain(&server.DrainOptions{After: time.Hour, Deadline: time.Hour})
		srv.Server.Drain(&server.DrainOptions{After: time.Minute, Deadline: 2 * time.Minute})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := srv.Server.Shutdown(ctx); err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if st := c.State(); st.Phase == limpet.Ended {
			t.Errorf("%+v", st)
		}
		srv.Server.Drain(&server.DrainOptions{Deadline: time.Second}) // of a server that has ended
		time.Sleep(reduced(2*time.Hour, 10*time.Minute))
	})
}

// A URL that no client can read costs no connection.
func TestDrainWithAUselessURL(t *testing.T) {
	for name, url := range map[string]string{
		"not UTF-8": "ws://a\xff/", "long": "ws://a/" + strings.Repeat("x", 10<<20), "NUL": "ws://a/\x00", "no WebSocket": "mailto:x",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{})
				srv.Server.Drain(&server.DrainOptions{URL: url})
				time.Sleep(time.Minute)
				if st := c.State(); st.Generation != 2 || st.Phase != limpet.Ready || !errors.Is(st.Cause, limpet.ErrGoAway) || c.Stats().Outages != 0 {
					t.Errorf("%+v, %d outages", st, c.Stats().Outages)
				}
			})
		})
	}
}
