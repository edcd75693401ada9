package test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/native"
)

// Sizes and durations that no machine has are refused by name; they must not
// overflow into their opposite.
func TestAbsurdBoundsAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		for _, o := range []limpet.SubscribeOptions{
			{Delivery: limpet.Delivery{Buffer: math.MaxInt}},
			{Token: limpet.Secret(strings.Repeat("x", 8<<10+1))},
			{Token: "\xff"},
		} {
			s, err := c.Subscribe(context.Background(), "a", &o)
			var e *limpet.Error
			if !errors.As(err, &e) || e.Field == "" {
				t.Errorf("Subscribe: %v", err)
				if s != nil {
					s.Close()
				}
			}
		}
		for _, o := range []limpet.Options{
			{Backoff: limpet.Backoff{Max: math.MaxInt64}},
			{Backoff: limpet.Backoff{Initial: math.MaxInt64, Max: math.MaxInt64}},
			{Backoff: limpet.Backoff{First: math.MaxInt64}},
			{Heartbeat: limpet.Heartbeat{Interval: math.MaxInt64}},
		} {
			o.HTTPClient = srv.HTTPClient()
			c, err := limpet.New(srv.URL(), options(&o))
			var e *limpet.Error
			if !errors.As(err, &e) || e.Field == "" {
				t.Errorf("New: %v", err)
				if c != nil {
					closeAndWait(t, c)
				}
			}
		}
	})
}

// Printing what the caller holds shows no secret that it gave.
func TestPrintedClientsShowNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		o := limpet.Options{Header: map[string][]string{"Authorization": {"canary"}}, HTTPClient: srv.HTTPClient()}
		c, err := limpet.Dial(context.Background(), srv.URL()+"/?key=canary", options(&o))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s, err := c.Subscribe(context.Background(), "a", &limpet.SubscribeOptions{Token: "canary"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, v := range []any{c, s} {
			for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
				if text := fmt.Sprintf(format, v); strings.Contains(text, "canary") {
					t.Errorf("%s of a %T prints a secret", format, v)
				}
			}
		}
	})
}

// A credit is no acknowledged message: a server that only grants and drops is
// not stable after five seconds.
func TestCreditIsNoProofOfStability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(p *scripted) {
			p.say(append([]native.Frame{p.welcome()}, p.subok()...)...)
			p.say(native.Frame{Type: native.TypeAck, Ack: &native.Ack{Cr: &native.Credit{N: 200, B: 1 << 20}}})
			time.Sleep(6 * time.Second)
			p.ws.CloseNow()
		})
		c, _ := s.start(limpet.Options{})
		time.Sleep(2 * time.Minute)
		if a := c.State().Attempt; a < 5 {
			t.Errorf("%d failures in a row after two minutes of drops", a)
		}
	})
}

// What waits when the server ended a subscription survives the permanent end
// of the client, as everything else that waits does.
func TestPermanentEndKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(p *scripted) {
			p.say(append([]native.Frame{p.welcome()}, p.subok()...)...)
			p.say(message(1, 0, "1"), message(2, 1, "2"))
			p.say(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1, Code: native.CodeRevoked}})
			time.Sleep(time.Second)
			p.ws.Close(4008, "")
		})
		c, sub := s.start(limpet.Options{})
		<-c.Done()
		if got := payloads(collect(t, sub, 2)); got != "1 2" {
			t.Errorf("%q", got)
		}
	})
}

func TestTenThousandSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		subs := make([]*limpet.Subscription, 10_000)
		for i := range subs {
			s, err := c.Subscribe(context.Background(), fmt.Sprint("t/", i), nil)
			if err != nil {
				t.Fatal(err)
			}
			subs[i] = s
		}
		check := func(payload string) {
			for _, s := range subs {
				if err := s.WaitLive(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; i < len(subs); i += 100 {
				publish(t, srv, fmt.Sprint("t/", i), payload)
			}
			for i := 0; i < len(subs); i += 100 {
				if got := payloads(collect(t, subs[i], 1)); got != payload {
					t.Fatalf("subscription %d: %q", i, got)
				}
			}
		}
		check("1")
		srv.Network.CutAll()
		check("2")
		if err := c.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// Close and Shutdown end a client within their bounds in every phase, from
// wherever they are called, and leave no goroutine: the bubble would not end.
func TestEndInEveryPhase(t *testing.T) {
	phases := map[string]func(srv *limpettest.Server, o *limpet.Options){
		"connecting": func(srv *limpettest.Server, _ *limpet.Options) { srv.Inject(limpettest.Stall(time.Hour)) },
		"black hole": func(srv *limpettest.Server, _ *limpet.Options) { srv.Inject(limpettest.BlackHole(limpettest.Both)) },
		"handshaking": func(srv *limpettest.Server, _ *limpet.Options) {
			srv.Inject(limpettest.BlackHole(limpettest.Down).AfterFrames(limpettest.Up, 1))
		},
		"ready": func(*limpettest.Server, *limpet.Options) {},
		"dead uplink": func(srv *limpettest.Server, _ *limpet.Options) {
			srv.Inject(limpettest.BlackHole(limpettest.Up).AfterFrames(limpettest.Down, 1))
		},
		"waiting": func(srv *limpettest.Server, _ *limpet.Options) {
			srv.Inject(limpettest.RefuseUpgrade(503, map[string][]string{"Retry-After": {"600"}}))
		},
		"auth panics": func(_ *limpettest.Server, o *limpet.Options) {
			o.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) { panic("canary") }
		},
		"auth hangs": func(_ *limpettest.Server, o *limpet.Options) {
			o.Auth = func(ctx context.Context, _ limpet.AttemptInfo) (limpet.Credential, error) {
				<-ctx.Done()
				return limpet.Credential{}, ctx.Err()
			}
		},
		"observer panics": func(_ *limpettest.Server, o *limpet.Options) {
			o.Observer = observer(func(limpet.Event) { panic("x") })
		},
	}
	ends := map[string]func(c *limpet.Client) time.Duration{
		"close": func(c *limpet.Client) time.Duration { c.Close(); return 100 * time.Millisecond },
		"shutdown": func(c *limpet.Client) time.Duration {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c.Shutdown(ctx)
			return 1100 * time.Millisecond
		},
		"both, many times": func(c *limpet.Client) time.Duration {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			for range 10 {
				go c.Shutdown(ctx)
				go c.Publish(ctx, "a", []byte("x"), nil)
				go func() {
					if s, err := c.Subscribe(ctx, "b", nil); err == nil {
						for range s.C() {
						}
					}
				}()
				go c.Close()
				go c.Retry()
			}
			c.Close()
			<-c.Done()
			cancel()
			return 100 * time.Millisecond
		},
	}
	for phase, prepare := range phases {
		for end, do := range ends {
			t.Run(phase+"/"+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, nil)
					o := limpet.Options{HTTPClient: srv.HTTPClient()}
					prepare(srv, &o)
					c, err := limpet.New(srv.URL(), options(&o))
					if err != nil {
						t.Fatal(err)
					}
					s, err := c.Subscribe(context.Background(), "a", nil)
					if err != nil {
						t.Fatal(err)
					}
					s.C() // a deliverer that nobody relieves
					receipts, err := c.PublishBatch(context.Background(), outgoing("a", 50))
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(5 * time.Second)
					at := time.Now()
					limit := do(c)
					<-c.Done()
					if took := time.Since(at); took > limit {
						t.Errorf("took %v", took)
					}
					for _, r := range receipts {
						if r.Outcome() == limpet.Pending {
							t.Fatal("a receipt without an outcome")
						}
					}
					for range s.C() {
					}
					if st := s.Stats(); st.Waiting != 0 || st.Received != st.Delivered+st.Dropped {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

func outgoing(topic string, n int) []limpet.Outgoing {
	ms := make([]limpet.Outgoing, n)
	for i := range ms {
		ms[i] = limpet.Outgoing{Topic: topic, Payload: []byte(fmt.Sprint(i))}
	}
	return ms
}
