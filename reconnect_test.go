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
			c.inbox.Post(step(func(l *loop) { timeout = l.policy.DialTimeout }))
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
