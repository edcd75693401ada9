package limpet

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/liveness"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// Three ways in which backoff goes wrong elsewhere: giving up after 15 minutes,
// a maximum that jitter exceeds, and jitter that vanishes at the cap.

func TestPolicyNeverGivesUp(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for k := 1; k <= 2000; k++ {
		d := p.nextDelay(verdict.Decision{}, 0, time.Now())
		if d < 0 {
			t.Fatalf("failure %d: stop", k)
		}
		v := p.delayBound()
		low := v / 2
		if k == 1 {
			low, v = 0, 500*time.Millisecond
		}
		if d < low-time.Microsecond || d > v+time.Microsecond {
			t.Fatalf("failure %d: waits %v, want [%v, %v]", k, d, low, v)
		}
	}
}

func TestPolicyJitterSurvivesTheCap(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	seen := map[time.Duration]bool{}
	for range 500 {
		seen[p.nextDelay(verdict.Decision{}, 0, time.Now()).Round(time.Millisecond)] = true
	}
	if len(seen) < 400 {
		t.Errorf("500 draws gave %d different waits", len(seen))
	}
}

func TestPolicySpread(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	const w = time.Minute
	if d := p.nextDelay(verdict.Decision{}, w, time.Now()); d > w {
		t.Errorf("first wait %v, window %v", d, w)
	}
	for k := 2; k < 19; k++ {
		if d := p.nextDelay(verdict.Decision{}, w, time.Now()); d < w/2 || d > w {
			t.Errorf("failure %d: waits %v outside [%v, %v]", k, d, w/2, w)
		}
	}
}

// Who was refused at its place in the window comes at the same place in the next one, at most
// 250 ms early, as long as the backoff interval is the shorter one. The place counts, not
// how long the attempt took.
func TestPolicyKeepsItsPlace(t *testing.T) {
	const w = time.Minute
	for range 100 {
		p, lost := newTestPolicy(), time.Now()
		place := lost.Add(p.nextDelay(verdict.Decision{}, w, lost))
		early := false
		for k := 2; k < longOutageFailures; k++ {
			ended := place.Add(time.Duration(k) * time.Second)
			next := ended.Add(p.nextDelay(verdict.Decision{}, w, ended))
			if after := next.Sub(place); after < w-maxPlaceShift || after > w {
				t.Fatalf("failure %d: %v after the place before, the window is %v", k, after, w)
			}
			early = early || next.Sub(place) < w-maxPlaceShift/2
			place = next
		}
		if !early {
			t.Fatal("the place never moves")
		}
	}
	short, now := newTestPolicy(), time.Now()
	now = now.Add(short.nextDelay(verdict.Decision{}, 2*time.Second, now))
	if d := short.nextDelay(verdict.Decision{}, 2*time.Second, now); d < 1800*time.Millisecond || d > 2*time.Second {
		t.Errorf("window of 2 s: the next place is in %v", d)
	}
}

// A client that has no place, or whose place does not fit, draws from the second half of the
// window: else those that fail at the same moment would come at the same moment.
func TestPolicyWithoutAPlace(t *testing.T) {
	const w = time.Minute
	for name, before := range map[string]func(p *policy, now time.Time) time.Time{
		"retried at once": func(p *policy, now time.Time) time.Time { p.countFailure(0); return now },
		"slot": func(p *policy, now time.Time) time.Time {
			now = now.Add(p.nextDelay(verdict.Decision{}, w, now))
			return now.Add(p.nextDelay(verdict.Decision{Verdict: wire.Verdict{After: 20 * time.Second}}, w, now))
		},
		"brought forward": func(p *policy, now time.Time) time.Time {
			for p.place.Sub(now) < time.Second {
				p.forgetFailures()
				p.nextDelay(verdict.Decision{}, w, now)
			}
			return now
		},
		"attempt of 40 s": func(p *policy, now time.Time) time.Time {
			return now.Add(p.nextDelay(verdict.Decision{}, w, now) + 40*time.Second)
		},
		"window of the past": func(p *policy, now time.Time) time.Time {
			p.nextDelay(verdict.Decision{}, w, now)
			return now.Add(time.Hour)
		},
	} {
		shortest, longest := w, time.Duration(0)
		for range 300 {
			p := newTestPolicy()
			d := p.nextDelay(verdict.Decision{}, w, before(&p, time.Now()))
			shortest, longest = min(shortest, d), max(longest, d)
		}
		if shortest < w/2 || shortest > w/2+w/20 || longest > w || longest < w-w/20 {
			t.Errorf("%s: 300 waits from %v to %v, want [%v, %v]", name, shortest, longest, w/2, w)
		}
	}
}

func TestPolicySlotReplacesTheDraw(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for range 100 {
		d := verdict.Decision{}
		d.After = 40 * time.Second
		if got := p.nextDelay(d, 0, time.Now()); got < 40*time.Second || got > 44*time.Second {
			t.Fatalf("slot of 40 s gave %v", got)
		}
	}
}

func TestPolicyDialTimeoutGrowsOnTimeoutsOnly(t *testing.T) {
	p := newPolicy(Backoff{First: 1, Initial: 1, Max: 1, Multiplier: 1}, 10*time.Second)
	p.nextDelay(verdict.Decision{}, 0, time.Now())
	if p.dialTimeout != 10*time.Second {
		t.Errorf("after a refusal: %v", p.dialTimeout)
	}
	for range 10 {
		p.extendDialTimeout()
	}
	if p.dialTimeout != time.Minute {
		t.Errorf("after ten time-outs: %v", p.dialTimeout)
	}
}

func newTestPolicy() policy {
	return newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
}

// However a failure is counted, the draws keep to the envelope: a refresh, an
// immediate retry, a floor of three, the cap.
func TestPolicyEnvelopeAfterAnyMixture(t *testing.T) {
	capped, overloaded, plain := verdict.Decision{AtCap: true}, verdict.Decision{MinFailures: 3}, verdict.Decision{}
	for name, mixture := range map[string][]any{
		"skipped":             {"skip", plain, plain, plain},
		"skipped over 20":     {"nineteen", "skip", plain, plain},
		"floor":               {overloaded, plain, plain, plain},
		"captive for hours":   {"nineteen", "nineteen", capped, capped, capped},
		"overloaded for long": {"nineteen", "nineteen", overloaded, overloaded},
	} {
		for range 200 {
			p := newTestPolicy()
			for i, step := range mixture {
				switch step {
				case "skip":
					p.countFailure(0)
					continue
				case "nineteen":
					for range 19 {
						p.nextDelay(plain, 0, time.Now())
					}
					continue
				}
				got, v := p.nextDelay(step.(verdict.Decision), 0, time.Now()), p.delayBound()
				if p.failures > 1 && (got < v/2-time.Microsecond || got > max(v, 15*time.Second)+time.Microsecond) {
					t.Fatalf("%s: step %d, failure %d waits %v, want [%v, %v]", name, i, p.failures, got, v/2, v)
				}
			}
		}
	}
}

func TestPolicyCapRespectsTheSpread(t *testing.T) {
	p := newTestPolicy()
	p.nextDelay(verdict.Decision{}, 0, time.Now())
	for range 50 {
		if got := p.nextDelay(verdict.Decision{AtCap: true}, 2*time.Minute, time.Now()); got < time.Minute || got > 2*time.Minute {
			t.Fatalf("waits %v, the window is 2 min", got)
		}
	}
}

// After the pause that a goaway asks for comes its window: the herd spreads
// (docs/protocol.md, section 8).
func TestPolicyGoAwaySpreads(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	var longest time.Duration
	for range 200 {
		d := verdict.Decision{SlotWindow: 30 * time.Second}
		d.After = 40 * time.Second
		wait := p.nextDelay(d, 0, time.Now())
		if wait < 40*time.Second || wait > 70*time.Second {
			t.Fatalf("waits %v, want 40 s and up to 30 s more", wait)
		}
		longest = max(longest, wait)
	}
	if longest < 60*time.Second {
		t.Errorf("the longest of 200 waits is %v: the window is not used", longest)
	}
}

// sleepFor makes the next look of c's loop find that this machine has slept for d: timers
// stood still, and the wall clock went on.
func sleepFor(c *Client, d time.Duration) {
	c.inbox.Post(step(func(l *loop) { l.clock.Jumped(l.now.Round(0).Add(-d), l.now.Sub(l.c.counters.origin)) }))
}

// firstWait keeps the first state in the phase Waiting.
type firstWait struct{ state *State }

func (w firstWait) Observe(e Event) {
	if s, ok := e.(StateChanged); ok && s.State.Phase == Waiting && w.state.Since.IsZero() {
		*w.state = s.State
	}
}

// After this machine has slept the client looks at its connection within five seconds, in
// whatever phase it is.
func TestSleepIsNoticed(t *testing.T) {
	t.Run("ready, and the path is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			var lost State
			c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient(), Heartbeat: Heartbeat{Interval: time.Hour}, Observer: firstWait{&lost}})
			sleepFor(c, 8*time.Hour)
			srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
			at := time.Now()
			_, err := c.WaitState(t.Context(), func(s State) bool { return s.Generation == 2 })
			if took := time.Since(at); err != nil || took > lookPause+probeTimeout+minBetweenAttempts {
				t.Errorf("connected again after %v: %v", took, err)
			}
			synctest.Wait()
			if took := lost.Since.Sub(at); took <= 0 || took > lookPause+probeTimeout || !errors.Is(lost.Cause, ErrHeartbeat) {
				t.Errorf("lost after %v: %v", took, lost.Cause)
			}
		})
	})
	t.Run("ready, and the path is there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient(), Heartbeat: Heartbeat{Interval: time.Hour}})
			sleepFor(c, shortSleep)
			time.Sleep(time.Minute)
			if st := c.State(); st.Generation != 1 || st.Phase != Ready || c.Stats().PingRTT == 0 {
				t.Errorf("%+v, ping %v", st, c.Stats().PingRTT)
			}
		})
	})
	t.Run("waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := offline(t)
			time.Sleep(10 * time.Second)
			sleepFor(c, time.Minute)
			time.Sleep(lookPause + time.Millisecond)
			if n := c.Stats().Attempts; n != 2 {
				t.Errorf("%d attempts, want a second one", n)
			}
		})
	})
	t.Run("connecting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startIn(t, "wss://limpet.test", &Options{HTTPClient: &http.Client{Transport: untilCancelled{}}, DialTimeout: time.Hour})
			sleepFor(c, time.Minute)
			time.Sleep(lookPause + minBetweenAttempts)
			if n := c.Stats().Attempts; n != 2 {
				t.Errorf("%d attempts, want a second one", n)
			}
		})
	})
}

// shortSleep is a little more than what the clocks may differ without a sleep.
const shortSleep = liveness.MaxDrift + time.Second

// standStill makes the loop of c, as if with its process, stand still for d.
func standStill(c *Client, d time.Duration) {
	c.inbox.Post(step(func(*loop) { time.Sleep(d) }))
	time.Sleep(d)
	synctest.Wait()
}

// A deadline that passed while this process stood still is no verdict on the peer.
func TestStandstillIsNoVerdict(t *testing.T) {
	t.Run("on an attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Inject(limpettest.Stall(time.Hour))
			c, err := New(srv.URL(), options(&Options{HTTPClient: srv.HTTPClient(), Backoff: Backoff{First: time.Hour, Initial: time.Hour, Max: time.Hour}}))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { c.Close(); <-c.Done() }()
			synctest.Wait()
			standStill(c, time.Minute)
			if st := c.State(); st.Phase != Ready || st.Attempt != 1 {
				t.Errorf("%+v", st)
			}
		})
	})
	t.Run("on its timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startIn(t, "wss://limpet.test", &Options{HTTPClient: &http.Client{Transport: untilCancelled{}}})
			standStill(c, time.Minute)
			var timeout time.Duration
			c.inbox.Post(step(func(l *loop) { timeout = l.policy.dialTimeout }))
			if synctest.Wait(); timeout != 10*time.Second {
				t.Errorf("the next attempt has %v, want 10 s", timeout)
			}
		})
	})
	t.Run("on a handshake", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Inject(limpettest.Stall(31*time.Second).AfterBytes(limpettest.Down, 1).Upgraded())
			c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
			standStill(c, 30*time.Second)
			time.Sleep(40 * time.Second)
			if st := c.State(); st.Phase != Ready || st.Generation != 1 {
				t.Errorf("%+v", st)
			}
		})
	})
	t.Run("on a subscription", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
			srv.Network.Strike(limpettest.Stall(13*time.Second).AfterBytes(limpettest.Up, 0))
			s, err := c.Subscribe(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			standStill(c, 12*time.Second)
			if st := s.State(); st.Err != nil {
				t.Errorf("%+v", st)
			}
		})
	})
	t.Run("on Backoff.MaxElapsed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startIn(t, "wss://limpet.test", &Options{HTTPClient: &http.Client{Transport: nowhere{}}, Backoff: Backoff{MaxElapsed: time.Minute}})
			c.inbox.Post(step(func(l *loop) { l.c.cfg.Backoff.MaxElapsed = time.Minute }))
			standStill(c, time.Hour)
			if st := c.State(); st.Phase == Ended {
				t.Errorf("%+v", st)
			}
			if time.Sleep(time.Minute); c.State().Phase != Ended {
				t.Errorf("a minute later: %+v", c.State())
			}
		})
	})
}

// A peer that stays silent after each of several standstills is dead all the same.
func TestStandstillsKeepNoDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		began := time.Now()
		for c.State().Phase == Ready && time.Since(began) < time.Hour {
			standStill(c, 9*time.Second)
		}
		if took := time.Since(began); took > 80*time.Second {
			t.Errorf("lost after %v", took)
		}
	})
}

// A connection that ends without a close frame is described in words, and errors.Is finds
// what was read.
func TestDroppedConnectionIsNamed(t *testing.T) {
	e := failureError(&wire.Failure{Stage: wire.StageOpen, Err: io.EOF}, verdict.Decision{})
	if !strings.Contains(e.Error(), "peer closed the connection without a close frame") || !errors.Is(e, io.EOF) {
		t.Errorf("%v", e)
	}
}
