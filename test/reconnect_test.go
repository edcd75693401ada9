package test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// bound is v of docs/reconnect.md, section 1, computed independently of the
// library that draws.
func bound(k int) time.Duration {
	if k >= 20 {
		return time.Minute
	}
	v := 500 * time.Millisecond
	for i := 1; i < k; i++ {
		v = v * 3 / 2
	}
	return min(v, 15*time.Second)
}

// checkEnvelope demands that no attempt starts earlier than half its bound
// after the failure before it. Failures here take no time.
func checkEnvelope(t *testing.T, dials []limpettest.Dial) {
	t.Helper()
	for i := 2; i < len(dials); i++ {
		gap := dials[i].At.Sub(dials[i-1].At)
		if least := bound(i) / 2; gap < least-time.Microsecond {
			t.Errorf("attempt %d started %v after failure %d, the envelope allows %v", i+1, gap, i, least)
		}
	}
}

func TestAcceptThenDropForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.CutAfterFrames(limpettest.Up, 1) })
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		time.Sleep(time.Hour)
		dials := srv.Network.Dials()
		// v reaches 15 s at the tenth failure and 60 s at the twentieth.
		if n := len(dials); n < 60 || n > 150 {
			t.Errorf("%d attempts in an hour", n)
		}
		checkEnvelope(t, dials)
		if s := c.State(); s.Phase == limpet.Ended {
			t.Errorf("client gave up: %v", c.Err())
		}
	})
}

// Connections of 3 s are not stable by default, so the waits grow to those of an outage. Where
// such a server is normal, a shorter StableAfter keeps the client connected.
func TestConnectionsOfThreeSeconds(t *testing.T) {
	for _, tc := range []struct {
		stableAfter time.Duration
		least, most float64 // share of time that it is ready
	}{{0, 0.04, 0.12}, {12 * time.Second, 0.8, 1}} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Backoff: limpet.Backoff{StableAfter: tc.stableAfter},
				Observer: observer(func(e limpet.Event) {
					if s, ok := e.(limpet.StateChanged); ok && s.State.Phase == limpet.Ready {
						time.AfterFunc(3*time.Second, srv.Network.CutAll)
					}
				})}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			s, err := c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			go func() {
				for range s.Messages(t.Context()) {
				}
			}()
			ready, all := 0, 0
			period := reduced(500*time.Millisecond, 2*time.Second)
			for range 2 * time.Hour / period {
				publish(t, srv, "a", "1")
				time.Sleep(period)
				if all++; c.State().Phase == limpet.Ready {
					ready++
				}
			}
			share := float64(ready) / float64(all)
			t.Logf("StableAfter %v: ready for %.3f of two hours", tc.stableAfter, share)
			if share < tc.least || share > tc.most {
				t.Errorf("StableAfter %v: ready for %.3f of two hours, want %v to %v", tc.stableAfter, share, tc.least, tc.most)
			}
		})
	}
}

func TestOutageOfThirtyMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		ctx := context.Background()
		c, err := limpet.Dial(ctx, srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		time.Sleep(time.Minute) // stable
		before := len(srv.Network.Dials())
		srv.Stop()
		time.Sleep(30 * time.Minute)
		if s := c.State(); s.Phase == limpet.Ready || s.Phase == limpet.Ended {
			t.Fatalf("phase %v during the outage, cause %v", s.Phase, s.Cause)
		}
		checkEnvelope(t, srv.Network.Dials()[before:])
		srv.Start()
		back := time.Now()
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(back); took > time.Minute {
			t.Errorf("ready %v after the end of the outage", took)
		}
		if _, err := c.Send(ctx, "a", []byte("1"), nil); err != nil {
			t.Error(err)
		}
	})
}

func TestRetryAfterIsNeverUndercut(t *testing.T) {
	for name, h := range map[string]http.Header{
		"seconds":      {"Retry-After": {"90"}},
		"decimal":      {"Retry-After": {"90.25"}},
		"date":         {"Retry-After": {"Mon, 01 Jan 2024 00:01:30 GMT"}, "Date": {"Mon, 01 Jan 2024 00:00:00 GMT"}},
		"milliseconds": {"X-Limpet-Retry-Ms": {"90000"}, "Retry-After": {"1"}},

		// As servers and proxies in the field write it.
		"RFC 850":       {"Retry-After": {"Monday, 01-Jan-24 00:01:30 GMT"}, "Date": {"Mon, 01 Jan 2024 00:00:00 GMT"}},
		"UTC":           {"Retry-After": {"Mon, 01 Jan 2024 00:01:30 UTC"}, "Date": {"Mon, 01 Jan 2024 00:00:00 UTC"}},
		"a zone":        {"Retry-After": {"Mon, 1 Jan 2024 02:01:30 +0200"}, "Date": {"Mon, 01 Jan 2024 00:00:00 GMT"}},
		"RFC 3339":      {"Retry-After": {"2024-01-01T00:01:30Z"}, "Date": {"Mon, 01 Jan 2024 00:00:00 GMT"}},
		"a unit":        {"Retry-After": {"90s"}},
		"a word":        {"Retry-After": {"90 seconds"}},
		"a sign":        {"Retry-After": {"+90"}},
		"quoted":        {"Retry-After": {"\"90\""}},
		"no fraction":   {"Retry-After": {"90."}},
		"twice":         {"Retry-After": {"5", "90"}},
		"a list":        {"Retry-After": {"90, 5"}},
		"a bad one too": {"Retry-After": {"soon", "90"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				srv.Inject(limpettest.RefuseUpgrade(503, h))
				c, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				d := srv.Network.Dials()
				if gap := d[1].At.Sub(d[0].At); gap < 90*time.Second || gap > 100*time.Second {
					t.Errorf("second attempt after %v", gap)
				}
			})
		})
	}
}

// retryNowDialect is a language that wants to be back at once, whatever happens.
type retryNowDialect struct{ toyDialect }

func (retryNowDialect) Verdict(wire.Failure) wire.Verdict {
	return wire.Verdict{Action: wire.ActionRetryNow}
}

func (retryNowDialect) Attempt(a *wire.Attempt) error {
	a.Dial = true
	return nil
}

func TestRetryNowIsNoHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(int, func(string), func() string) {})
		srv.host.Network.Each(func(int) limpettest.Fault { return limpettest.CutAfterFrames(limpettest.Up, 0) })
		d := retryNowDialect{newToyDialect()}
		d.traits.Greeting = false
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		time.Sleep(time.Minute)
		dials := srv.host.Network.Dials()
		if n := len(dials); n < 5 || n > 30 {
			t.Errorf("%d attempts in a minute", n)
		}
		checkEnvelope(t, dials)
	})
}

// A dialect that wants to be back at once is, after the first failure, however long the
// policy would wait.
func TestRetryNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(int, func(string), func() string) {})
		srv.host.Inject(limpettest.CutAfterFrames(limpettest.Up, 0))
		d := retryNowDialect{newToyDialect()}
		d.traits.Greeting = false
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{
			HTTPClient: srv.host.HTTPClient(), Dialect: d,
			Backoff: limpet.Backoff{First: time.Minute, Initial: time.Minute, Max: time.Minute},
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		srv.host.Network.CutAll()
		time.Sleep(time.Second)
		srv.host.Network.CutAll()
		time.Sleep(time.Second)
		dials := srv.host.Network.Dials()
		if len(dials) != 2 || dials[1].At.Sub(dials[0].At) > time.Second {
			t.Errorf("attempts: %v", dials)
		}
	})
}

// goaway.after holds for every way back.
func TestGoAwayIsNeverUndercut(t *testing.T) {
	for _, code := range []websocket.StatusCode{1000, 4100, 4200, 4300, 4400} {
		synctest.Test(t, func(t *testing.T) {
			s := newScriptedServer(t, func(p *scriptedConn) {
				p.sendFrames(p.welcome())
				p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, After: 40_000}})
				p.ws.Close(code, "")
			})
			c, _ := s.start(limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{}, nil
			}})
			st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
			if wait := time.Until(st.NextAttempt); wait < 40*time.Second {
				t.Errorf("after %d the next attempt is in %v, the server wants 40 s", code, wait)
			}
		})
	}
}

// Retry skips the policy's own wait, never the slot that the server gave.
func TestRetry(t *testing.T) {
	for name, tc := range map[string]struct {
		header http.Header
		least  time.Duration
		most   time.Duration
	}{
		"own wait": {nil, 100 * time.Millisecond, 100 * time.Millisecond},
		"slot":     {http.Header{"Retry-After": {"60"}}, time.Minute, 66 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				var faults []limpettest.Fault
				for range 30 {
					faults = append(faults, limpettest.RefuseUpgrade(502, tc.header))
				}
				srv.Inject(faults...)
				c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				for i := range 30 {
					if _, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Waiting && s.Attempt == i+1 }); err != nil {
						t.Fatal(err)
					}
					at, n := time.Now(), len(srv.Network.Dials())
					c.ReconnectNow()
					if _, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Attempt == i+2 || s.Phase == limpet.Ready }); err != nil {
						t.Fatal(err)
					}
					if gap := srv.Network.Dials()[n].At.Sub(at); gap > tc.most || gap < tc.least-time.Millisecond {
						t.Fatalf("attempt %d came %v after Retry, want %v to %v", i+2, gap, tc.least, tc.most)
					}
				}
			})
		})
	}
}

// A credit is no acknowledged message: a server that only grants and drops is
// not stable after five seconds.
func TestCreditIsNoProofOfStability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			p.sendFrames(native.Frame{Type: native.TypeAck, Ack: &native.Ack{Cr: &native.Credit{N: 200, B: 1 << 20}}})
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

// A client whose attempt fails at its place in the reconnect window comes again at the same
// place of the next one, however long the attempt took, so that a herd stays spread. After a
// slot it has none, and draws again.
func TestRefusedClientKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.Spread = 60_000
			p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
		})
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // stable
		net := s.host.Network
		net.Inject(limpettest.Refuse(1), limpettest.Stall(time.Hour), limpettest.RefuseUpgrade(502, nil),
			limpettest.RefuseUpgrade(503, http.Header{"Retry-After": {"20"}}), limpettest.Refuse(2))
		lost := time.Now()
		net.CutAll()
		time.Sleep(10 * time.Minute)
		waits := []struct{ least, most time.Duration }{
			{0, time.Minute},                        // anywhere in the window
			{59750 * time.Millisecond, time.Minute}, // refused
			{59750 * time.Millisecond, time.Minute}, // no answer for 10 s
			{59750 * time.Millisecond, time.Minute}, // 502
			{20 * time.Second, 22 * time.Second},    // a slot
			{30 * time.Second, time.Minute},         // refused, without a place
			{30 * time.Second, time.Minute},
		}
		dials := net.Dials()[1:]
		if len(dials) != len(waits) {
			t.Fatalf("%d attempts, want %d", len(dials), len(waits))
		}
		for i, want := range waits {
			wait := dials[i].At.Sub(lost)
			if wait < want.least || wait > want.most {
				t.Errorf("attempt %d: %v after the one before, want %v to %v", i+1, wait, want.least, want.most)
			}
			lost = dials[i].At
		}
	})
}
