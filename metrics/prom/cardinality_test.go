package prom_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/limpet-go/limpet/server"
)

// topics is the number of live subscriptions, and names that of different names for them.
const topics, names = 10_000, 100_000

// values returns the values of the label subscription of client a, each with the number of
// its open subscriptions.
func (p page) values() map[string]float64 {
	open := map[string]float64{}
	for series, v := range p {
		if rest, ok := strings.CutPrefix(series, `limpet_subscription_open client="a" subscription=`); ok {
			open[rest] = v
		}
	}
	return open
}

// 10,000 live subscriptions have the series of one. With Options.Subscription they have
// MaxSubscriptions values and one more, also if the same topic gets a new name each time,
// and after they have made place for others.
func TestTopicsMakeNoSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{MaxSubs: topics}})
		client := scene.Dial(t, srv, limpet.Options{Histograms: true})
		var called atomic.Int64
		fixed, named := prom.NewCollector(nil), prom.NewCollector(&prom.Options{
			MaxSubscriptions: 50,
			Subscription:     func(topic string) string { return fmt.Sprint(topic, " ", called.Add(1)) },
		})
		assert.NoError(t, fixed.AddClient("a", client))
		assert.NoError(t, named.AddClient("a", client))
		registry, namedRegistry := newRegistry(t, fixed), newRegistry(t, named)

		scene.Subscribe(t, client, "first", nil)
		scene.Publish(t, srv, "first", 1)
		synctest.Wait()
		one := gather(t, registry)
		check(t, one, map[string]float64{`limpet_received_messages_total client="a"`: 1})

		var open []*limpet.Subscription
		for i := range topics - 1 {
			s, err := client.Subscribe(t.Context(), fmt.Sprint("topic/", i), nil)
			assert.NoError(t, err)
			open = append(open, s)
		}
		for _, s := range open {
			assert.NoError(t, s.WaitLive(t.Context()))
		}
		for i := range 1000 {
			scene.Publish(t, srv, fmt.Sprint("topic/", i*(topics/1000)), 1)
		}
		synctest.Wait()
		all := gather(t, registry)
		check(t, all, map[string]float64{
			`limpet_live_subscriptions client="a"`:         topics,
			`limpet_received_messages_total client="a"`:    1001,
			`limpet_unrequested_messages_total client="a"`: 0,
		})
		if len(all) != len(one) {
			t.Errorf("%d series, with one subscription %d", len(all), len(one))
		}

		var known map[string]float64
		for called.Load() < names {
			p := gather(t, namedRegistry)
			values := p.values()
			if known == nil {
				if known = values; len(known) != 51 || known[`"other"`] != topics-50 || len(p) != len(one)+6*51 {
					t.Fatalf("%d values, %v subscriptions as other, %d series", len(known), known[`"other"`], len(p))
				}
			} else if len(values) != 1 || values[`"other"`] != topics {
				t.Fatalf("new names: %d values", len(values))
			}
		}
		for _, s := range open {
			s.Close()
		}
		for i := range 100 {
			scene.Subscribe(t, client, fmt.Sprint("later/", i), nil)
		}
		synctest.Wait()
		if values := gather(t, namedRegistry).values(); len(values) != 1 || values[`"other"`] != 101 {
			t.Errorf("%v", values)
		}
	})
}

// A function that names every topic differently, and with text from a hostile peer, makes
// MaxSubscriptions values and one more, each a label of at most 128 bytes.
func TestHostileNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := scene.Dial(t, srv, limpet.Options{})
		var calls atomic.Int64
		long := strings.Repeat("x", 1<<20)
		kinds := []func(n int64) string{
			func(n int64) string { return fmt.Sprint("a\xff\xfe", n) },
			func(n int64) string { return fmt.Sprint("line 1\nlimpet_outages_total{client=\"b\"} ", n, "\r\n") },
			func(n int64) string { return fmt.Sprint(n, long) },
			func(n int64) string { return strings.Repeat("x", 127) + "ß" }, // cut in the middle of a rune
			func(n int64) string { return "\xff\xfe" },                     // nothing is left of it
			func(n int64) string { return "" },
			func(n int64) string { return "other" },
			func(n int64) string { panic(fmt.Sprint("topic ", n)) },
			func(n int64) string { panic(nil) },
			func(n int64) string { runtime.Goexit(); return "" },
		}
		c := prom.NewCollector(&prom.Options{MaxSubscriptions: 30, Subscription: func(topic string) string {
			n := calls.Add(1)
			return kinds[n%int64(len(kinds))](n)
		}})
		assert.NoError(t, c.AddClient("a", client))
		registry := newRegistry(t, c)
		for i := range 10 * len(kinds) {
			scene.Subscribe(t, client, fmt.Sprint("topic/", i), nil)
		}
		synctest.Wait()
		for range 50 {
			if p := gather(t, registry); len(p.values()) > 31 {
				t.Fatalf("%d values", len(p.values()))
			}
		}
		p := gather(t, registry)
		sum := 0.0
		for value, n := range p.values() {
			sum += n
			if len(value) > 4*130 || strings.Contains(value, `\xff`) || value == `""` {
				t.Errorf("%d bytes: %.200s", len(value), value)
			}
		}
		if p.values()[`"other"`] == 0 || sum != 5*10 { // five kinds have no series
			t.Errorf("series of %v subscriptions, want 50: %v", sum, p.values())
		}
		// In the text, a line is a metric: a new line in a name would begin one.
		for line := range strings.Lines(text(t, registry)) {
			if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "limpet_") || strings.HasPrefix(line, `limpet_outages_total{client="b"}`) {
				t.Errorf("a line of its own: %.200s", line)
			}
		}
	})
}

// What a client sends as a secret, and what servers and networks say, is in no label and no
// help text, whatever fails.
func TestNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "hunter2"
		var code atomic.Uint64
		code.Store(4203) // for now
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(_ context.Context, r *http.Request, token string) (server.Principal, error) {
				if token != secret || r.Header.Get("X-Key") != secret || r.URL.Query().Get("token") != secret {
					t.Errorf("the server got %q, %q and %v: this test shows nothing", token, r.Header, r.URL)
				}
				return server.Principal{}, &server.Error{Code: code.Load(), Reason: "refused " + secret}
			},
		}}})
		srv.Inject(limpettest.Refuse(1), limpettest.RefuseUpgrade(http.StatusBadGateway, http.Header{"X-Echo": {secret}}), limpettest.CloseWith(1011, secret, 0))
		client, err := limpet.New(srv.URL()+"/"+secret+"?token="+secret, &limpet.Options{
			HTTPClient: srv.HTTPClient(), Header: http.Header{"X-Key": {secret}}, Histograms: true,
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Token: secret}, nil
			},
		})
		assert.NoError(t, err)
		defer scene.End(client)
		_, err = client.Subscribe(t.Context(), "prices", &limpet.SubscribeOptions{Token: secret})
		assert.NoError(t, err)
		_, err = client.Publish(t.Context(), "orders", []byte(secret), nil)
		assert.NoError(t, err)
		time.Sleep(time.Minute)
		c := prom.NewCollector(&prom.Options{Subscription: func(topic string) string { return topic }})
		assert.NoError(t, c.AddClient("a", client))
		assert.NoError(t, c.AddServer("a", srv.Server))
		registry := newRegistry(t, c)
		for _, phase := range []limpet.Phase{limpet.Waiting, limpet.Ended} {
			if phase == limpet.Ended {
				code.Store(4101) // for good, after a few attempts
				<-client.Done()
			}
			_, err := client.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == phase })
			assert.NoError(t, err)
			p := gather(t, registry)
			check(t, p, map[string]float64{fmt.Sprintf("limpet_connection_state client=\"a\" state=%q", phase): 1})
			failed := 0.0
			for _, result := range []string{"dial", "overload", "auth", "session", "protocol", "other"} {
				failed += p.value(t, fmt.Sprintf(`limpet_connect_attempts_total client="a" result=%q`, result))
			}
			if failed < 5 {
				t.Errorf("%v attempts have failed: this test shows little", failed)
			}
			got := text(t, registry)
			for _, s := range []string{secret, "token", "127.0.0.1", "://", "X-Key", "refused "} {
				if strings.Contains(got, s) {
					t.Errorf("%s: %q is in\n%s", phase, s, got)
				}
			}
			if !strings.Contains(got, `subscription="prices"`) && phase != limpet.Ended {
				t.Error("no series of a subscription")
			}
		}
	})
}
