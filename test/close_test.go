package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Close ends everything within 100 ms in every phase, whatever the peer does
// and wherever a consumer stands (docs/protocol.md, invariant I15).
func TestCloseInEveryPhase(t *testing.T) {
	stallInFrame := func(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
		subscribeLive(t, c, "big", nil)
		srv.Network.Strike(limpettest.Stall(time.Hour).AfterBytes(limpettest.Down, 1))
		publish(t, srv, "big", strings.Repeat("x", 200<<10))
		synctest.Wait()
	}
	for name, tc := range map[string]struct {
		fault limpettest.Fault
		setup func(t *testing.T, srv *limpettest.Server, c *limpet.Client)
	}{
		"dialling":    {limpettest.Stall(time.Hour), nil},
		"upgrading":   {limpettest.BlackHole(limpettest.Down), nil},
		"handshaking": {limpettest.BlackHole(limpettest.Both).AfterFrames(limpettest.Up, 0), nil},
		"waiting":     {limpettest.Refuse(1000), nil},
		"ready":       {limpettest.Clean(), waitReady},
		"peer stalls": {limpettest.Clean(), stallInFrame},
		"half-open": {limpettest.Clean(), func(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
			waitReady(t, srv, c)
			srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		}},
		"stuck writing": {limpettest.Clean(), stuckWriting},
		"C is not read": {limpettest.Clean(), func(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
			s := subscribeLive(t, c, "a", nil)
			publish(t, srv, "a", "1", "2")
			s.C()
			synctest.Wait()
		}},
	} {
		for _, way := range []string{"Close", "Shutdown", "both"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Buffer: 4096}})
					srv.Inject(tc.fault)
					c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond)
					if tc.setup != nil {
						tc.setup(t, srv, c)
					}
					at, limit := time.Now(), 100*time.Millisecond
					if way != "Close" {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						limit += time.Second
						if way == "both" {
							time.AfterFunc(time.Millisecond, func() { c.Close() })
						}
						c.Shutdown(ctx)
					} else {
						c.Close()
					}
					if took := time.Since(at); took > limit {
						t.Errorf("%s returned after %v", way, took)
					}
					<-c.Done()
					if took := time.Since(at); took > limit {
						t.Errorf("done after %v", took)
					}
				})
			})
		}
	}
}

func waitReady(t *testing.T, _ *limpettest.Server, c *limpet.Client) {
	if err := c.WaitReady(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func stuckWriting(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
	waitReady(t, srv, c)
	srv.Network.Strike(limpettest.Stall(time.Hour).AfterBytes(limpettest.Up, 1))
	for i := range 10 {
		if _, err := c.Publish(context.Background(), fmt.Sprint("a/", i), make([]byte, 100<<10), nil); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

func TestShutdownFlushesAndDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", numbers(1, 5)...)
		synctest.Wait()
		r, _ := c.Publish(context.Background(), "b", []byte("x"), nil)
		var got []limpet.Message
		consumed := make(chan struct{})
		go func() {
			defer close(consumed)
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					t.Error(err)
				}
				got = append(got, m)
				time.Sleep(time.Second)
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		<-consumed
		if payloads(got) != "1 2 3 4 5" || r.Outcome() != limpet.Acked {
			t.Errorf("consumed %q, receipt %v", payloads(got), r.Outcome())
		}
		synctest.Wait()
		if n := srv.Server.Stats().Sessions; n != 0 {
			t.Errorf("server keeps %d sessions after an ordered end", n)
		}
	})
}

// consumeSlowly takes everything in one of several ways, a second for each element.
func consumeSlowly(s *limpet.Subscription, way string) {
	ctx := context.Background()
	switch way {
	case "Messages":
		for range s.Messages(ctx) {
			time.Sleep(time.Second)
		}
	case "Batches":
		for range s.Batches(ctx) {
			time.Sleep(time.Second)
		}
	case "a break at the end":
		for m := range s.Messages(ctx) {
			if time.Sleep(time.Second); m.Position.Tag == "t29" {
				break
			}
		}
	case "C":
		for range s.C() {
			time.Sleep(time.Second)
		}
	case "Ack by workers":
		for m := range s.Messages(ctx) {
			time.AfterFunc(10*time.Second, m.Ack)
		}
	}
}

// What consumers process during Shutdown is acknowledged at the server before the
// subscription and the connection end, whatever way they consume.
func TestShutdownAcknowledgesWhatIsProcessed(t *testing.T) {
	for _, way := range []struct {
		name   string
		manual bool
		acked  int // of 30
	}{
		{"Messages", false, 30}, {"Batches", false, 30}, {"a break at the end", false, 29}, {"C", false, 29}, {"Ack by workers", true, 30},
	} {
		for _, processed := range []wire.Processed{wire.ProcessedEach, wire.ProcessedCumulative} {
			t.Run(fmt.Sprint(way.name, "/", processed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
						for hear() != "answer 1" {
							say("challenge 1")
						}
						say("is 1 n")
						for i := range 30 {
							say(fmt.Sprint("n t", i))
						}
						say("ready")
					})
					srv.host.Inject(limpettest.Clean(), limpettest.Stall(1))
					d := newToyDialect()
					d.traits.Processed, d.traits.Unsubscribe = processed, true
					c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
					if err != nil {
						t.Fatal(err)
					}
					defer closeAndWait(t, c)
					s, err := c.Subscribe(context.Background(), "a", &limpet.SubscribeOptions{ManualAck: way.manual})
					if err != nil {
						t.Fatal(err)
					}
					if err := c.WaitReady(context.Background()); err != nil {
						t.Fatal(err)
					}
					consumed := make(chan struct{})
					go func() {
						defer close(consumed)
						consumeSlowly(s, way.name)
					}()
					time.Sleep(time.Millisecond)
					if err := c.Shutdown(within(t, time.Minute)); err != nil {
						t.Errorf("Shutdown: %v", err)
					}
					<-consumed
					synctest.Wait()
					heard := srv.all()
					last := fmt.Sprint("ack n t", way.acked-1, "\n")
					if n := strings.Count(heard, "ack n"); processed == wire.ProcessedEach && n != way.acked {
						t.Errorf("%d messages were acknowledged, want %d", n, way.acked)
					}
					if at := strings.Index(heard, last); at < 0 || strings.Index(heard, "unsub n") < at {
						t.Errorf("the last acknowledgement does not come before the end of the subscription:\n%s", heard)
					}
				})
			})
		}
	}
}

func TestShutdownIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "not taken")
		synctest.Wait()
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		synctest.Wait()
		c.Publish(context.Background(), "b", []byte("x"), nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		at := time.Now()
		err := c.Shutdown(ctx)
		if took := time.Since(at); took > time.Second+100*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
		const want = "limpet: Shutdown: the caller's context ended before the client had finished " +
			"(messages: 1 waited for a consumer, 1 had no outcome): context deadline exceeded"
		if err == nil || err.Error() != want || limpet.ClassOf(err) != limpet.ClassTimeout {
			t.Errorf("%v, want %s", err, want)
		}
		<-c.Done()
		if st := s.Stats(); st.Dropped != 1 {
			t.Errorf("%+v", st)
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
				go c.ReconnectNow()
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
					s.C() // a deliverer without a consumer
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

// What waits when the server ended a subscription survives the permanent end
// of the client, as everything else that waits does.
func TestPermanentEndKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			p.sendFrames(dataFrame(1, 0, "1"), dataFrame(2, 1, "2"))
			p.sendFrames(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1, Code: native.CodeRevoked}})
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

func outgoing(topic string, n int) []limpet.Outgoing {
	ms := make([]limpet.Outgoing, n)
	for i := range ms {
		ms[i] = limpet.Outgoing{Topic: topic, Payload: []byte(fmt.Sprint(i))}
	}
	return ms
}

// After a permanent failure every call says why the client ended.
func TestCallsAfterAPermanentFailure(t *testing.T) {
	for name, fault := range map[string]struct {
		err   error
		class limpet.ErrorClass
	}{
		"Auth":       {nil, limpet.ClassAuth},
		"MaxElapsed": {context.DeadlineExceeded, limpet.ClassTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &limpet.Options{Backoff: limpet.Backoff{MaxElapsed: time.Minute}, HTTPClient: &http.Client{
					Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, fault.err }),
				}}
				subscribed := make(chan struct{})
				if fault.err == nil {
					o.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
						<-subscribed
						return limpet.Credential{}, limpet.Permanent(fmt.Errorf("account closed: %w", context.Canceled))
					}
				}
				c, err := limpet.New("wss://far.example", options(o))
				assert.NoError(t, err)
				before, err := c.Subscribe(t.Context(), "a", nil)
				assert.NoError(t, err)
				close(subscribed)
				<-c.Done()
				ctx := t.Context()
				_, publish := c.Publish(ctx, "a", nil, nil)
				_, batch := c.PublishBatch(ctx, []limpet.Outgoing{{Topic: "a"}})
				_, subscribe := c.Subscribe(ctx, "b", nil)
				for call, err := range map[string]error{
					"Err": c.Err(), "WaitReady": c.WaitReady(ctx), "Publish": publish, "PublishBatch": batch, "Subscribe": subscribe,
					"WaitLive": before.WaitLive(ctx), "Subscription.Err": before.Err(), "Shutdown": c.Shutdown(ctx),
				} {
					var p *limpet.PermanentError
					if !errors.As(err, &p) || p != c.Err() || limpet.ClassOf(err) != fault.class || strings.Contains(err.Error(), "the caller's context") {
						t.Errorf("%s: class %q: %v", call, limpet.ClassOf(err), err)
					}
				}
			})
		})
	}
}

// What a caller sees has ended at once: after Close, and after a failure that is
// permanent, while the goroutines of the client still end.
func TestWaitsSeeTheEndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), nil)
		s := subscribeLive(t, c, "a", nil)
		c.Close()
		if err := s.WaitLive(t.Context()); !errors.Is(err, limpet.ErrClosed) {
			t.Errorf("WaitLive after Close: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
			<-time.After(time.Second)
			nc.Write(rawFrame(0x88, closePayload(1003, "")))
			drain(nc) // the socket stays open: the client closes it a second later
		}), nil)
		c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: host.HTTPClient()}))
		assert.NoError(t, err)
		time.Sleep(1050 * time.Millisecond)
		select {
		case <-c.Done():
			if !*plainFlag {
				t.Error("every goroutine has ended: the test proves nothing")
			}
		default:
		}
		var p *limpet.PermanentError
		if err := c.WaitReady(t.Context()); !errors.As(err, &p) || !errors.As(c.Err(), &p) || c.State().Phase != limpet.Ended {
			t.Errorf("%v, Err %v, WaitReady: %v", c.State().Phase, c.Err(), err)
		}
		<-c.Done()
	})
}
