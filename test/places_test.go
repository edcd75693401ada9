package test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// One subscription more than the server allows is an error at once, that names the limit
// and what to do. After a Close there is room for another one, which the server is asked
// for when it has confirmed the end: it never has more than it allows.
func TestNoMoreSubscriptionsThanTheServerAllows(t *testing.T) {
	for _, lag := range []time.Duration{0, 3 * time.Second, time.Minute} {
		for _, connected := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(t, 1000)
				g.places, g.lag = 3, lag
				c := g.client(t, g.language(wire.ConnectionLimits{Subscriptions: 3}), limpet.Options{})
				if connected {
					if err := c.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				subs := subscribeAll(t, c, 3)
				refuseOneMore(t, c, 3)
				allLive(t, subs, 1, 10*time.Second)
				for i := range 12 {
					subs[i%3].Close()
					subs[i%3] = subscribe(t, c, fmt.Sprintf("t%d", 3+i))
					refuseOneMore(t, c, 3)
				}
				if lag == time.Minute {
					g.places = 0 // it takes longer than the client waits
				}
				allLive(t, subs, 1, 60*time.Second)
				g.host.Network.CutAll()
				allLive(t, subs, 2, 10*time.Second)
				g.check(t, 2)
			})
		}
	}
}

func refuseOneMore(t *testing.T, c *limpet.Client, limit int) {
	t.Helper()
	_, err := c.Subscribe(t.Context(), "one-more", nil)
	var e *limpet.Error
	if !errors.Is(err, limpet.ErrTooManySubscriptions) || !errors.As(err, &e) || e.Class != limpet.ClassFull {
		t.Errorf("one more: %v", err)
	} else if text := err.Error(); !strings.Contains(text, fmt.Sprint(limit)) || !strings.Contains(text, "another Client") {
		t.Errorf("the text %q does not say what to do", text)
	}
}

// While one subscription waits for its place, a topic that the server serves already is
// asked for again, and a refused one frees its place.
func TestWaitingForAPlaceHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		g.places, g.lag, g.mute = 3, 8*time.Second, "t2"
		c := g.client(t, g.language(wire.ConnectionLimits{Subscriptions: 3}), limpet.Options{})
		subs := subscribeAll(t, c, 3)
		allLive(t, subs[:2], 1, time.Second)
		time.Sleep(9 * time.Second)
		subs[0].Close()
		other := subscribe(t, c, "t9") // waits 8 s for its place
		time.Sleep(5 * time.Second)
		if n := len(g.sent("sub t2")); n != 2 {
			t.Errorf("the topic without answers was asked for %d times, want 2", n)
		}
		if n := len(g.sent("sub t9")); n != 0 {
			t.Error("the other one did not wait")
		}
		if err := other.WaitLive(within(t, 10*time.Second)); err != nil {
			t.Error(err)
		}
		if err := subs[2].WaitLive(within(t, time.Minute)); !errors.Is(err, limpet.ErrUnanswered) {
			t.Error(err)
		}
		if err := subscribe(t, c, "t10").WaitLive(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		g.check(t, 1)
	})
}

// A subscription that waits for its place can be closed, and Shutdown does not wait for it.
func TestCloseWhileWaitingForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		g.places, g.lag = 2, 5*time.Second
		c := g.client(t, g.language(wire.ConnectionLimits{Subscriptions: 2}), limpet.Options{})
		subs := subscribeAll(t, c, 2)
		allLive(t, subs, 1, time.Second)
		subs[0].Close()
		subscribe(t, c, "t5").Close()
		subscribe(t, c, "t6")
		time.Sleep(10 * time.Second)
		if n := len(g.sent("sub t5")); n != 0 {
			t.Errorf("a closed one was asked for")
		}
		subs[1].Close()
		subscribe(t, c, "t7")
		if err := c.Shutdown(within(t, 2*time.Second)); err != nil {
			t.Error(err)
		}
		g.check(t, 1)
	})
}

// Where a subscription cannot be ended at the server, a closed one keeps its place until
// the connection ends. Its topic needs no second place.
func TestPlacesWithoutUnsubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		g.places = 2
		f := g.language(wire.ConnectionLimits{Subscriptions: 2})
		f.Unsubscribe, f.ConfirmsEnd = nil, false
		c := g.client(t, f, limpet.Options{})
		subs := subscribeAll(t, c, 2)
		allLive(t, subs, 1, time.Second)
		subs[0].Close()
		synctest.Wait()
		refuseOneMore(t, c, 2)
		subs[0] = subscribe(t, c, "t0")
		allLive(t, subs, 1, 20*time.Second)
		subs[0].Close()
		synctest.Wait()
		refuseOneMore(t, c, 2)
		g.host.Network.CutAll()
		if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 }); err != nil {
			t.Fatal(err)
		}
		subs[0] = subscribe(t, c, "t8")
		allLive(t, subs, 2, 10*time.Second)
		g.check(t, 2)
	})
}

// A topic that the server goes on serving has one place, whether the program has it again
// or only asks for it.
func TestServedTopicHasOnePlace(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			g := newGauge(t, 1000)
			g.places = 3
			f := g.language(wire.ConnectionLimits{Subscriptions: 3})
			f.Unsubscribe, f.ConfirmsEnd = nil, false
			c := g.client(t, f, limpet.Options{})
			subs := subscribeAll(t, c, 2)
			allLive(t, subs, 1, time.Second)
			subs[0].Close()
			subs[0] = subscribe(t, c, "t0")
			time.Sleep(pause)
			subs = append(subs, subscribe(t, c, "t9"))
			allLive(t, subs, 1, 20*time.Second)
			refuseOneMore(t, c, 3)
			g.check(t, 1)
		})
	}
}

// A request without an answer may hold the only place. Its subscription ends all the same,
// and one that the server serves goes on.
func TestUnansweredWithoutAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{ByKey: true, Confirms: true, Connection: wire.ConnectionLimits{Subscriptions: 2}}}
		srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
			for line := hear(); line != "" && !strings.Contains(line, "subscribe good"); {
				line = hear()
			}
			say(eventText(wire.Event{Kind: wire.EventSubscribed, Key: 1}))
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		t.Cleanup(func() { closeAndWait(t, c) })
		good, mute := subscribe(t, c, "good"), subscribe(t, c, "mute")
		time.Sleep(time.Minute)
		if err := mute.Err(); !errors.Is(err, limpet.ErrUnanswered) {
			t.Errorf("%v; %+v", err, mute.State())
		}
		if st := good.State(); st.Phase != limpet.SubLive || strings.Count(srv.all(), "subscribe mute") != 1 {
			t.Errorf("%+v\n%s", st, srv.all())
		}
	})
}

// Before the server ends a connection for its age, the client has a new one: without a
// failure, at once, at a moment of its own, and not in the middle of messages if there is
// a pause.
func TestConnectionsAreRenewedInTime(t *testing.T) {
	const age = 2 * time.Hour
	var lives []time.Duration
	for _, busy := range []bool{false, true} {
		for _, plain := range bothFrameLayers() {
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(t, 1000)
				var mu sync.Mutex
				var told time.Time // when the last message was sent on the first connection
				connections := 0
				g.greet = func(say func(byte, string)) {
					mu.Lock()
					connections++
					first := connections == 1
					mu.Unlock()
					go func() {
						for began := time.Now(); time.Since(began) < age; time.Sleep(reduced(300*time.Millisecond, 900*time.Millisecond)) {
							if !busy && time.Now().Second() >= 50 {
								continue // a pause of ten seconds a minute
							}
							mu.Lock()
							if first {
								told = time.Now()
							}
							mu.Unlock()
							say(opText, "t0 data")
						}
						say(8, closePayload(1001, "too old"))
					}()
				}
				var left limpet.State // the first that is not ready after one that is: it may last no time
				ready := false
				watch := observer(func(e limpet.Event) {
					mu.Lock()
					defer mu.Unlock()
					if s, ok := e.(limpet.StateChanged); ok && left.Since.IsZero() {
						if s.State.Phase == limpet.Ready {
							ready = true
						} else if ready {
							left = s.State
						}
					}
				})
				c := g.client(t, g.language(wire.ConnectionLimits{Age: age}), limpet.Options{Observer: watch, PlainFrames: plain, Backoff: limpet.Backoff{First: time.Minute}})
				subs := subscribeAll(t, c, 3)
				allLive(t, subs, 1, time.Second)
				began := time.Now()
				if _, err := c.WaitState(within(t, age), func(s limpet.State) bool { return s.Generation == 2 }); err != nil {
					t.Fatal("it was not renewed in time")
				}
				synctest.Wait()
				mu.Lock()
				life := left.Since.Sub(began)
				if lives = append(lives, life); life < age*9/10-time.Second || life > age*39/40+time.Second {
					t.Errorf("renewed after %v of %v", life, age)
				}
				if !errors.Is(left.Cause, limpet.ErrConnectionAge) {
					t.Errorf("the cause is %v", left.Cause)
				}
				if pause := left.Since.Sub(told); !busy && pause < time.Second {
					t.Errorf("left %v after a message", pause)
				}
				mu.Unlock()
				allLive(t, subs, 2, time.Second)
				st := c.Stats()
				if st.Connections != 2 || st.Lost != (limpet.ClassCounts{}) || st.Attempts != 2 || c.State().Attempt != 0 {
					t.Errorf("%+v, attempt %d", st, c.State().Attempt)
				}
				time.Sleep(age) // it goes on
				if st := c.Stats(); st.Connections != 3 || st.Lost != (limpet.ClassCounts{}) {
					t.Errorf("%d connections, lost %v", st.Connections, st.Lost)
				}
				closeAndWait(t, c)
				time.Sleep(age)
			})
		}
	}
	slices.Sort(lives)
	if len(slices.Compact(lives)) == 1 {
		t.Errorf("all clients leave after %v", lives[0])
	}
}

// A connection that cannot be replaced at its age is kept. That has a warning: once, however
// many attempts fail.
func TestFailedRenewalIsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		var down atomic.Bool
		server := rawServer(g.talk)
		g.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			server.ServeHTTP(w, r)
		}), nil)
		var log lockedBuffer
		c := g.client(t, g.language(wire.ConnectionLimits{Age: 5 * time.Minute}), limpet.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		allLive(t, subscribeAll(t, c, 1), 1, time.Second)
		time.Sleep(9 * time.Minute) // one renewal succeeds
		if text := log.String(); strings.Contains(text, "to replace") || c.Stats().Connections != 2 {
			t.Errorf("after %d connections:\n%s", c.Stats().Connections, text)
		}
		down.Store(true)
		time.Sleep(15 * time.Minute)
		if lines := slices.DeleteFunc(strings.Split(log.String(), "\n"), func(l string) bool {
			return !strings.Contains(l, "level=WARN") || strings.Contains(l, "cause=unverifiable") // of the renewal that succeeded
		}); len(lines) != 1 || !strings.Contains(lines[0], "503") || !strings.Contains(lines[0], "replace") {
			t.Errorf("%d warnings: %s", len(lines), lines)
		}
		if st := c.Stats(); st.Connections != 2 || st.Attempts < 5 || st.Outages != 0 || c.State().Phase != limpet.Ready {
			t.Errorf("%d connections, %d attempts, %d outages, %v; want 2, 5 or more, 0, Ready", st.Connections, st.Attempts, st.Outages, c.State())
		}
	})
}

// A connection is not left for its age while a message has no outcome, while Shutdown
// works, or when it ends anyway.
func TestRenewalWaitsForWhatIsInProgress(t *testing.T) {
	const age = 100 * time.Minute
	for _, kind := range []string{"pending", "shutdown"} {
		synctest.Test(t, func(t *testing.T) {
			g := newGauge(t, 1000)
			f := g.language(wire.ConnectionLimits{Age: age})
			f.Acks = true // the server never answers a message
			c := g.client(t, f, limpet.Options{})
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(age * 89 / 100)
			if _, err := c.Publish(t.Context(), "t0", []byte("x"), nil); err != nil {
				t.Fatal(err)
			}
			switch kind {
			case "pending":
				time.Sleep(age * 8 / 100)
				if n := c.Stats().Connections; n != 1 {
					t.Errorf("%s: %d connections after 97 %% of the time", kind, n)
				}
				time.Sleep(age * 2 / 100)
				if n := c.Stats().Connections; n != 2 {
					t.Errorf("%s: %d connections after 99 %% of the time", kind, n)
				}
			case "shutdown":
				if err := c.Shutdown(within(t, age)); err == nil || c.Stats().Attempts != 1 {
					t.Errorf("%s: %v, %d attempts", kind, err, c.Stats().Attempts)
				}
			}
		})
	}
}

// A server that has named the time after which to come back ends the connection by itself:
// it is not left for its age before.
func TestRenewalRespectsGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			time.Sleep(44 * time.Minute)
			p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, After: 400_000}})
			time.Sleep(5 * time.Minute)
			p.ws.CloseNow()
		})
		c, err := limpet.New(s.host.URL(), options(&limpet.Options{
			HTTPClient: s.host.HTTPClient(), Heartbeat: rareHeartbeats,
			Dialect: traitsOf{native.New(nil), func(t *wire.Traits) { t.Connection.Age = 50 * time.Minute }},
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		time.Sleep(48*time.Minute + 50*time.Second)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(20 * time.Second)
		if st := c.State(); st.Phase != limpet.Waiting || errors.Is(st.Cause, limpet.ErrConnectionAge) {
			t.Errorf("%+v", st)
		}
	})
}
