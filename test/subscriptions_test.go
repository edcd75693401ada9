package test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
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
	"github.com/limpet-go/limpet/wire"
)

func topicsOf(c *limpet.Client) string {
	var topics []string
	for _, s := range c.Subscriptions() {
		topics = append(topics, s.Topic())
	}
	return strings.Join(topics, " ")
}

// Subscriptions are those that have not ended, in the order of Subscribe, connected or
// not, also when an Observer asks.
func TestSubscriptionsAreTheOpenOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := make(chan struct{}) // closed once all are requested
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(_ server.Principal, _ server.Verb, topic string) error {
				if topic == "refused" {
					<-all
					return errors.New("not for you")
				}
				return nil
			},
		}}})
		var c *limpet.Client
		var observed []string
		c = dial(t, srv, &limpet.Options{Observer: observer(func(e limpet.Event) {
			if e, ok := e.(limpet.SubscriptionChanged); ok && e.State.Phase == limpet.SubEnded {
				observed = append(observed, e.Topic+": "+topicsOf(c))
			}
		})})
		if got := topicsOf(c); got != "" {
			t.Errorf("before Subscribe: %s", got)
		}
		subs := map[string]*limpet.Subscription{}
		for _, topic := range strings.Fields("z refused a m b") {
			s, err := c.Subscribe(t.Context(), topic, nil)
			if err != nil {
				t.Fatal(err)
			}
			subs[topic] = s
		}
		if got := c.Subscriptions(); len(got) != 5 || got[0] != subs["z"] || got[len(got)-1] != subs["b"] {
			t.Errorf("after Subscribe: %v", got)
		}
		close(all)
		synctest.Wait()
		if got := topicsOf(c); subs["refused"].Err() == nil || got != "z a m b" {
			t.Errorf("after a refusal: %s", got)
		}
		subs["a"].Close()
		synctest.Wait() // the Observer has seen it
		if got := topicsOf(c); got != "z m b" {
			t.Errorf("after Close of one: %s", got)
		}
		snapshot := c.Subscriptions()
		snapshot[0] = nil // it belongs to the caller
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.Refuse(1) })
		srv.Network.CutAll()
		if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting }); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe(t.Context(), "n", nil); err != nil {
			t.Fatal(err)
		}
		if got := topicsOf(c); got != "z m b n" {
			t.Errorf("without a connection: %s", got)
		}
		c.Close()
		if got := c.Subscriptions(); len(got) != 0 {
			t.Errorf("right after Close: %v", got)
		}
		<-c.Done()
		if got := c.Subscriptions(); len(got) != 0 {
			t.Errorf("after the end: %v", got)
		}
		synctest.Wait()
		want := []string{"refused: z a m b", "a: z m b", "z: ", "m: ", "b: ", "n: "}
		if !slices.Equal(observed, want) {
			t.Errorf("an Observer saw %q; want %q", observed, want)
		}
	})
}

// While Shutdown waits there are none, and many callers may ask at any time.
func TestSubscriptionsWhileMuchHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		var saw, ended sync.WaitGroup
		for range 4 {
			saw.Add(1)
			ended.Go(func() {
				for first := true; c.Err() == nil; {
					for _, s := range c.Subscriptions() {
						if s.Topic() == "" {
							t.Error("a subscription without a topic")
						}
						if first {
							first = false
							saw.Done()
						}
					}
				}
			})
		}
		for i := range 50 {
			s := subscribeLive(t, c, fmt.Sprint("t/", i), nil)
			if i%2 == 0 {
				s.Close()
			}
		}
		publish(t, srv, "t/1", "waits")
		if got := len(c.Subscriptions()); got != 25 {
			t.Errorf("%d subscriptions", got)
		}
		saw.Wait() // each caller has seen one
		ctx, cancel := context.WithCancel(t.Context())
		shutdown := make(chan error, 1)
		go func() { shutdown <- c.Shutdown(ctx) }()
		if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Draining }); err != nil {
			t.Fatal(err)
		}
		if got := c.Subscriptions(); len(got) != 0 {
			t.Errorf("during Shutdown: %v", got)
		}
		cancel()
		if err := <-shutdown; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		ended.Wait()
	})
}

// An op has the topic in Op.Name where events have it in Event.Name: also if the server
// confirms nothing, and after a subscription that the server ended and the client
// requested again.
func TestOpsNameTheirTopic(t *testing.T) {
	for _, tc := range []struct {
		name   string
		traits wire.Traits
		ends   bool // the server ends the subscription once
		heard  string
	}{
		{"without confirmation", wire.Traits{Unsubscribe: true}, false, "subscribe one, unsubscribe one"},
		{"with confirmation", wire.Traits{Unsubscribe: true, Confirms: true, ConfirmsEnd: true}, false, "subscribe one, unsubscribe one"},
		{"ended by the server", wire.Traits{Unsubscribe: true, Confirms: true, ConfirmsEnd: true}, true, "subscribe one, subscribe one, unsubscribe one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := flexDialect{traits: tc.traits, encode: func(op wire.Op, out *wire.Frames) error {
					if op.Kind == wire.OpUnsubscribe {
						out.Append(wire.Text, []byte("unsubscribe "+op.Name))
						return errNoFrame
					}
					return nil
				}}
				about := func(kind wire.EventKind) string { return eventText(wire.Event{Kind: kind, Name: "one"}) }
				srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
					hear() // open
					first := true
					for text := hear(); text != ""; text = hear() {
						if tc.traits.Confirms && strings.HasPrefix(text, "subscribe") {
							say(about(wire.EventSubscribed))
							say(about(wire.EventData))
						}
						if tc.ends && first || tc.traits.ConfirmsEnd && strings.HasPrefix(text, "unsubscribe") {
							say(about(wire.EventUnsubscribed))
						}
						first = false
					}
				})
				c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				s, err := c.Subscribe(t.Context(), "one", nil)
				assert.NoError(t, err)
				time.Sleep(time.Minute)
				assert.NoError(t, s.Close())
				time.Sleep(time.Minute)
				if got := strings.Join(strings.Split(srv.all(), "\n")[2:], ", "); got != tc.heard {
					t.Errorf("the server heard %q, want %q", got, tc.heard)
				}
			})
		})
	}
}

// BenchmarkSubscriptions subscribes many times, each time when the server has
// confirmed the subscription before, and then closes them all. One operation is
// one subscription: what it costs must not depend on how many there are.
func BenchmarkSubscriptions(b *testing.B) {
	for _, n := range []int{2_000, 20_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for done := 0; done < b.N; done += n {
				manySubscriptions(b, min(n, b.N-done))
			}
		})
	}
}

func manySubscriptions(b testing.TB, n int) {
	srv := limpettest.NewServer(b, &limpettest.ServerOptions{Server: &server.Options{MaxSubs: n}})
	c, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
	if err != nil {
		b.Fatal(err)
	}
	subs := make([]*limpet.Subscription, n)
	for i := range subs {
		if subs[i], err = c.Subscribe(context.Background(), "bench/"+strconv.Itoa(i), nil); err != nil {
			b.Fatal(err)
		}
		if err := subs[i].WaitLive(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	for _, s := range subs {
		s.Close()
	}
	if err := c.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
	<-c.Done()
	srv.Stop()
}

// The cost of a subscription must not grow with their number. Allocated bytes show
// it without a clock.
func TestManySubscriptionsAllocate(t *testing.T) {
	each := func(n int) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		manySubscriptions(t, n)
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / uint64(n)
	}
	if few, many := each(250), each(4000); many > 2*few {
		t.Errorf("one of 4000 subscriptions allocates %d bytes, one of 250 %d", many, few)
	}
}
