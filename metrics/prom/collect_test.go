package prom_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/limpet-go/limpet/server"
	"github.com/prometheus/client_golang/prometheus"
)

// While messages arrive, are dropped and delivered, connections break and subscriptions come
// and go, every page adds up, and no counter falls from one page to the next.
func TestPagesAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := scene.Dial(t, srv, limpet.Options{Histograms: true, Backoff: limpet.Backoff{First: 50 * time.Millisecond, Initial: 50 * time.Millisecond}})
		s := scene.Subscribe(t, client, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 8, Overflow: limpet.DropOldest}})
		c := prom.NewCollector(&prom.Options{Subscription: func(topic string) string { return topic }})
		assert.NoError(t, c.AddClient("a", client))
		assert.NoError(t, c.AddServer("a", srv.Server))
		registry := newRegistry(t, c)

		stop := make(chan struct{})
		var all sync.WaitGroup
		repeat := func(every time.Duration, f func()) {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(every):
						f()
					}
				}
			})
		}
		repeat(time.Millisecond, func() { scene.Publish(t, srv, "a", 20) })
		repeat(time.Millisecond, func() {
			if other, err := client.Subscribe(t.Context(), "b", nil); err == nil {
				other.Close()
			}
		})
		repeat(time.Millisecond, func() { scene.Take(t, s, 2) })
		repeat(300*time.Millisecond, srv.Network.CutAll)
		kinds, err := registry.Gather()
		assert.NoError(t, err)
		counters := map[string]bool{}
		for _, f := range kinds {
			counters[f.GetName()] = f.GetType().String() == "COUNTER"
		}
		for range 3 {
			var last page
			repeat(5*time.Millisecond, func() {
				p := gather(t, registry)
				received := p.value(t, `limpet_received_messages_total client="a"`)
				if sum := p.value(t, `limpet_delivered_messages_total client="a"`) + p.value(t, `limpet_dropped_messages_total client="a" reason="overflow"`) +
					p.value(t, `limpet_dropped_messages_total client="a" reason="closed"`) +
					p.value(t, `limpet_waiting_messages client="a"`); sum != received {
					t.Errorf("received %v, the sum of delivered, dropped and waiting is %v", received, sum)
				}
				for series, v := range last {
					if counters[name(series)] && p[series] < v {
						t.Errorf("%s fell from %v to %v", series, v, p[series])
					}
				}
				last = p
			})
		}
		time.Sleep(time.Second)
		close(stop)
		all.Wait()
		p := gather(t, registry)
		for _, series := range []string{`limpet_delivered_messages_total client="a"`, `limpet_dropped_messages_total client="a" reason="overflow"`, `limpet_outages_total client="a"`} {
			if p.value(t, series) < 2 {
				t.Errorf("%s is %v: too little happened", series, p[series])
			}
		}
	})
}

// Names are checked where they are given. What was refused changes nothing.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := scene.Dial(t, srv, limpet.Options{})
		c := prom.NewCollector(nil)
		long := strings.Repeat("x", 128)
		for _, ok := range []string{"a", long, "größe", "a\nb\"", "other"} {
			assert.NoError(t, c.AddClient(ok, client))
			assert.NoError(t, c.AddServer(ok, srv.Server))
		}
		before := gather(t, newRegistry(t, c))
		for _, bad := range []struct{ name, says string }{
			{"", "name is empty"},
			{"a", `name "a" is taken`},
			{long, "is taken"},
			{"\xff", `name "\xff" is not a label value; use UTF-8 of at most 128 bytes`},
			{"a\xff", "is not a label value"},
			{long + "x", "is not a label value"},
			{strings.Repeat("x", 1<<20), "is not a label value"},
		} {
			for method, err := range map[string]error{"AddClient": c.AddClient(bad.name, client), "AddServer": c.AddServer(bad.name, srv.Server)} {
				if err == nil || !strings.HasPrefix(err.Error(), "prom: "+method+": name ") || !strings.Contains(err.Error(), bad.says) || len(err.Error()) > 300 {
					t.Errorf("%.20q: %v", bad.name, err)
				}
			}
		}
		for method, err := range map[string]error{"AddClient": c.AddClient("b", nil), "AddServer": c.AddServer("b", nil)} {
			if err == nil || !strings.HasPrefix(err.Error(), "prom: "+method+": ") || !strings.Contains(err.Error(), `"b" is nil`) {
				t.Error(err)
			}
		}
		if after := gather(t, newRegistry(t, c)); len(after) != len(before) || len(after.of(`client="a\nb\""`)) == 0 {
			t.Errorf("%d series, before %d", len(after), len(before))
		}
	})
}

// The series of a client that has ended stay until it is removed. Its name is free then.
func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		a, b := scene.Dial(t, srv, limpet.Options{}), scene.Dial(t, srv, limpet.Options{})
		c := prom.NewCollector(nil)
		assert.NoError(t, c.AddClient("a", a))
		assert.NoError(t, c.AddClient("b", b))
		assert.NoError(t, c.AddServer("a", srv.Server))
		registry := newRegistry(t, c)
		scene.Subscribe(t, a, "x", nil)
		scene.Publish(t, srv, "x", 3)
		synctest.Wait()
		live := gather(t, registry)
		scene.End(a)
		ended := gather(t, registry)
		if before, after := live.of(`client="a"`), ended.of(`client="a"`); len(before) < 40 || !slices.Equal(before, after) {
			t.Errorf("before the end %q, after it %q", before, after)
		}
		check(t, ended, map[string]float64{
			`limpet_connection_state client="a" state="ended"`:         1,
			`limpet_connection_state client="a" state="ready"`:         0,
			`limpet_connected_seconds client="a"`:                      0,
			`limpet_next_attempt_seconds client="a"`:                   0,
			`limpet_live_subscriptions client="a"`:                     0,
			`limpet_received_messages_total client="a"`:                3,
			`limpet_dropped_messages_total client="a" reason="closed"`: 3,
			`limpet_connection_state client="b" state="ready"`:         1,
		})

		c.RemoveClient("a")
		c.RemoveClient("a")
		c.RemoveClient("no such client")
		p := gather(t, registry)
		if len(p.of(`client="a"`)) != 0 || len(p.of(`client="b"`)) != len(ended.of(`client="b"`)) || len(p.of(`server="a"`)) == 0 {
			t.Errorf("client a is removed: %d series of it, %d of b, %d of the server", len(p.of(`client="a"`)), len(p.of(`client="b"`)), len(p.of(`server="a"`)))
		}
		c.RemoveServer("a")
		c.RemoveServer("b")
		if p := gather(t, registry); len(p.of(`server="a"`)) != 0 || len(p.of(`client="b"`)) == 0 {
			t.Errorf("server a is removed: %d series of it", len(p.of(`server="a"`)))
		}
		assert.NoError(t, c.AddClient("a", b))
		assert.NoError(t, c.AddServer("a", srv.Server))
	})
}

// Histograms are there from the beginning if the client measures, and not at all otherwise.
func TestHistogramsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Stop()
		c := prom.NewCollector(nil)
		for _, measures := range []bool{true, false} {
			client, err := limpet.New(srv.URL(), &limpet.Options{Histograms: measures, HTTPClient: srv.HTTPClient()})
			assert.NoError(t, err)
			defer scene.End(client)
			assert.NoError(t, c.AddClient(fmt.Sprint(measures), client))
		}
		p := gather(t, newRegistry(t, c))
		for _, h := range []string{"delivery_lag", "source_lag", "publish_duration", "heartbeat_rtt", "connection_duration", "outage"} {
			if n := p.value(t, "limpet_"+h+`_seconds_count client="true"`); n != 0 {
				t.Errorf("%s has counted %v", h, n)
			}
			if _, there := p["limpet_"+h+`_seconds_count client="false"`]; there {
				t.Errorf("%s of a client that measures none", h)
			}
		}
	})
}

// A namespace that is not UTF-8 is refused by the registry. Without it nothing panics either.
func TestNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := scene.Dial(t, srv, limpet.Options{Histograms: true})
		for namespace, says := range map[string]string{"feeds": "", "\xff": "is not a valid metric name"} {
			c := prom.NewCollector(&prom.Options{Namespace: namespace})
			assert.NoError(t, c.AddClient("a", client))
			err := prometheus.NewRegistry().Register(c)
			if (says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %v", namespace, err)
			}
			if says == "" {
				gather(t, newRegistry(t, c)).value(t, `feeds_outages_total client="a"`)
				continue
			}
			ch := make(chan prometheus.Metric)
			go func() {
				defer close(ch)
				c.Collect(ch)
			}()
			n := 0
			for range ch {
				n++
			}
			if n < 40 {
				t.Errorf("%d metrics, each with an error", n)
			}
		}
	})
}

// A class of errors that is not expected has a series only once it is counted; the others
// from the beginning.
func TestClassesFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{}})
		srv.Inject(limpettest.RefuseUpgrade(http.StatusInternalServerError, nil))
		client := scene.Dial(t, srv, limpet.Options{})
		c := prom.NewCollector(nil)
		assert.NoError(t, c.AddClient("a", client))
		p := gather(t, newRegistry(t, c))
		for class := range client.Stats().FailedAttempts.All() {
			_, attempts := p[fmt.Sprintf(`limpet_connect_attempts_total client="a" result=%q`, class)]
			_, lost := p[fmt.Sprintf(`limpet_disconnects_total class=%q client="a"`, class)]
			var want bool
			switch class {
			case limpet.ClassInput, limpet.ClassUnsupported, limpet.ClassFull, limpet.ClassClosed, limpet.ClassCanceled, limpet.ClassRejected, limpet.ClassOutcome:
			default:
				want = true
			}
			if attempts != want || lost != want {
				t.Errorf("%s has a series: %v and %v, want %v", class, attempts, lost, want)
			}
		}
		check(t, p, map[string]float64{`limpet_connect_attempts_total client="a" result="http"`: 1})
	})
}

// A subscription that the server refuses for good has failed.
func TestFailedSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(server.Principal, server.Verb, string) error { return errors.New("never") },
		}}})
		client := scene.Dial(t, srv, limpet.Options{})
		c := prom.NewCollector(nil)
		assert.NoError(t, c.AddClient("a", client))
		_, err := client.Subscribe(t.Context(), "private", nil)
		assert.NoError(t, err)
		synctest.Wait()
		check(t, gather(t, newRegistry(t, c)), map[string]float64{`limpet_failed_subscriptions_total client="a"`: 1})
	})
}

// Messages that Latest replaced are accounted for, and so are those that closing drops.
func TestConflated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := scene.Dial(t, srv, limpet.Options{})
		c := prom.NewCollector(nil)
		assert.NoError(t, c.AddClient("a", client))
		s := scene.Subscribe(t, client, "prices", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest}})
		scene.Publish(t, srv, "prices", 5)
		synctest.Wait()
		scene.Take(t, s, 1)
		scene.Publish(t, srv, "prices", 2)
		synctest.Wait()
		s.Close()
		check(t, gather(t, newRegistry(t, c)), map[string]float64{
			`limpet_received_messages_total client="a"`:                  7,
			`limpet_delivered_messages_total client="a"`:                 1,
			`limpet_conflated_messages_total client="a"`:                 5,
			`limpet_dropped_messages_total client="a" reason="closed"`:   1,
			`limpet_dropped_messages_total client="a" reason="overflow"`: 0,
		})
	})
}

// A client on the fallback counts as one over plain requests.
func TestTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, end := scene.OnFallback(t)
		c := prom.NewCollector(nil)
		assert.NoError(t, c.AddClient("a", client))
		registry := newRegistry(t, c)
		check(t, gather(t, registry), map[string]float64{
			`limpet_connection_transport client="a" transport="websocket"`: 0,
			`limpet_connection_transport client="a" transport="http"`:      1,
		})
		end()
		check(t, gather(t, registry), map[string]float64{
			`limpet_connection_transport client="a" transport="websocket"`: 0,
			`limpet_connection_transport client="a" transport="http"`:      0,
		})
	})
}
