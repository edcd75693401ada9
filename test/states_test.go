package test

import (
	"context"
	"errors"
	"fmt"
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
)

// A stateRow is what an event makes of a subscription in each phase: "-" leaves everything as
// it is, otherwise the phase and why. What keeps its phase keeps Since.
type stateRow struct {
	event                     string
	do                        func(*stateScene)
	then                      time.Duration // how long it takes
	pending, live, recovering string
}

var stateRows = []stateRow{
	{"a confirmation", func(s *stateScene) { s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a"}) }, 0, "live", "-", "live"},
	{"a message", func(s *stateScene) {
		s.say(wire.Event{Kind: wire.EventData, Name: "a", Message: wire.Message{Payload: []byte("x")}})
	}, 0, "live", "-", "live"},
	{"the end, by the server", func(s *stateScene) { s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a"}) }, 0, "-", "recovering rejected", "-"},
	{"a refusal for now", func(s *stateScene) {
		s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a", Code: 7, Retry: time.Hour})
	}, 0, "pending rejected", "recovering rejected", "recovering rejected"},
	{"a refusal", func(s *stateScene) {
		s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a", Code: 7})
	}, 0, "ended rejected", "ended rejected", "ended rejected"},
	{"no answer for 10 s", func(*stateScene) {}, 12 * time.Second, "pending unanswered", "-", "recovering unanswered"},
	{"the connection is lost", func(s *stateScene) { s.srv.host.Network.CutAll() }, 0, "-", "recovering lost", "-"},
	{"it is lost, and the server cannot be reached", func(s *stateScene) {
		s.srv.host.Inject(limpettest.Refuse(3))
		s.srv.host.Network.CutAll()
	}, 2 * time.Second, "-", "recovering lost", "-"},
	{"another connection takes its place", func(s *stateScene) { s.say(wire.Event{Kind: wire.EventGoAway}) }, 6 * time.Second, "-", "recovering moved", "-"},
	{"Close", func(s *stateScene) { assert.NoError(s.t, s.sub.Close()) }, 0, "ended", "ended", "ended"},
	{"Shutdown", func(s *stateScene) { assert.NoError(s.t, s.c.Shutdown(s.t.Context())) }, 0, "ended", "ended", "ended"},
	{"Close of the client", func(s *stateScene) { closeAndWait(s.t, s.c) }, 0, "ended", "ended", "ended"},
	{"a failure that is final", func(s *stateScene) {
		s.final.Store(true)
		s.srv.host.Network.CutAll()
	}, 0, "ended lost for good", "ended lost for good", "ended lost for good"},
}

// causeOf is how a row names a cause.
func causeOf(err error) string {
	var final *limpet.PermanentError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &final):
		return " lost for good"
	case errors.Is(err, limpet.ErrRejected):
		return " rejected"
	case errors.Is(err, limpet.ErrUnanswered):
		return " unanswered"
	case errors.Is(err, limpet.ErrGoAway):
		return " moved"
	case limpet.ClassOf(err) == limpet.ClassNetwork:
		return " lost"
	}
	return " " + err.Error()
}

// stateScene is one subscription at a server that answers nothing by itself.
type stateScene struct {
	t     *testing.T
	srv   *toyServer
	c     *limpet.Client
	sub   *limpet.Subscription
	final atomic.Bool // the next failure ends the client

	mu     sync.Mutex
	sayNow func(string) // on the newest connection
	events []limpet.SubState
}

func newStateScene(t *testing.T) *stateScene { return newScene(t, byName, nil) }

// newScene is newStateScene with other traits and options.
func newScene(t *testing.T, traits wire.Traits, o *limpet.SubscribeOptions) *stateScene {
	s := &stateScene{t: t}
	s.srv = newToyServer(t, func(_ int, say func(string), hear func() string) {
		s.mu.Lock()
		s.sayNow = say
		s.mu.Unlock()
	})
	c, err := limpet.New(s.srv.host.URL(), options(&limpet.Options{
		HTTPClient: s.srv.host.HTTPClient(), Dialect: flexDialect{traits: traits},
		Verdict: func(wire.Failure, wire.Verdict) (v wire.Verdict) {
			if s.final.Load() {
				v.Action = wire.ActionStop
			}
			return v
		},
		Observer: observer(func(e limpet.Event) {
			if e, ok := e.(limpet.SubscriptionChanged); ok {
				s.mu.Lock()
				s.events = append(s.events, e.State)
				s.mu.Unlock()
			}
		})}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	s.c = c
	if !traits.Greeting {
		assert.NoError(t, c.WaitReady(t.Context()))
	}
	s.sub, err = c.Subscribe(t.Context(), "a", o)
	assert.NoError(t, err)
	return s
}

func (s *stateScene) say(e wire.Event) { s.newest()(eventText(e)) }

// newest says something on the newest connection, also when there is a newer one.
func (s *stateScene) newest() (say func(string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sayNow
}

// reach brings the subscription into a phase, in which it has been for 3 seconds.
func (s *stateScene) reach(phase limpet.SubPhase) {
	synctest.Wait()
	if phase != limpet.SubPending {
		s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a"})
		time.Sleep(time.Second)
	}
	if phase == limpet.SubRecovering {
		s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a"})
		synctest.Wait()
	}
	time.Sleep(3 * time.Second)
	synctest.Wait()
}

// Each event in each phase leads to the phase of its row, with its cause; Since is when the
// phase began.
func TestStatesOfASubscription(t *testing.T) {
	for _, row := range stateRows {
		for phase, want := range map[limpet.SubPhase]string{limpet.SubPending: row.pending, limpet.SubLive: row.live, limpet.SubRecovering: row.recovering} {
			t.Run(fmt.Sprintf("%s/%v", row.event, phase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStateScene(t)
					s.reach(phase)
					before, began := s.sub.State(), time.Now()
					if before.Phase != phase {
						t.Fatalf("it is %v", before)
					}
					row.do(s)
					time.Sleep(row.then)
					synctest.Wait()
					after := s.sub.State()
					if want == "-" {
						if after != before {
							t.Errorf("%+v, before %+v", after, before)
						}
					} else if got := after.Phase.String() + causeOf(after.Err); got != want {
						t.Errorf("it is %q, want %q", got, want)
					}
					if kept := after.Since.Equal(before.Since); kept != (after.Phase == phase) || !kept && (after.Since.Before(began) || after.Since.After(time.Now())) {
						t.Errorf("%v since %v, before %v since %v", after.Phase, after.Since, phase, before.Since)
					}
					s.check(after)
				})
			})
		}
	}
}

// check reports events that do not follow each other, or do not lead to the state.
func (s *stateScene) check(now limpet.SubState) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	last := limpet.SubState{Phase: limpet.SubPending}
	for i, st := range s.events {
		wasLive := last.Phase == limpet.SubLive || last.Phase == limpet.SubRecovering
		switch {
		case st.Phase == limpet.SubPending && last.Phase != st.Phase, st.Phase == limpet.SubRecovering && !wasLive:
			s.t.Errorf("%v follows %v", st.Phase, last.Phase)
		case st.Phase == last.Phase && i > 0 && !st.Since.Equal(last.Since):
			s.t.Errorf("%v since %v, then since %v", st.Phase, last.Since, st.Since)
		case (st.Err == nil) != (st.Phase == limpet.SubLive || st.Phase == limpet.SubEnded && now.Err == nil):
			s.t.Errorf("%v, because of %v", st.Phase, st.Err)
		case st.Generation != 0 && st.Phase != limpet.SubLive && st.Phase != limpet.SubRecovering:
			s.t.Errorf("%v on connection %d", st.Phase, st.Generation)
		}
		last = st
	}
	if len(s.events) > 0 && last != now {
		s.t.Errorf("the last event says %+v, the state is %+v", last, now)
	}
}

// Until a subscription is live again, it keeps the time and the reason of its loss, however many
// attempts fail in between; WaitLive says both. Stats and the log have the phase.
func TestRecoveringSaysWhySinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStateScene(t)
		s.reach(limpet.SubLive)
		began := time.Now()
		s.srv.host.Network.CutAll()
		s.srv.host.Inject(limpettest.Refuse(3))
		time.Sleep(time.Second)
		first := s.sub.State()
		err := s.sub.WaitLive(within(t, 5*time.Second))
		synctest.Wait()
		st := s.sub.State()
		if st != first || st.Phase != limpet.SubRecovering || !st.Since.Equal(began) || st.Generation != 1 || causeOf(st.Err) != " lost" || s.c.Stats().FailedAttempts.Of(limpet.ClassDial) < 2 {
			t.Errorf("%+v, a second after the loss %+v; %+v", st, first, s.c.Stats().FailedAttempts)
		}
		if !errors.Is(err, st.Err) || !strings.Contains(err.Error(), st.Err.Error()) || limpet.ClassOf(err) != limpet.ClassTimeout {
			t.Errorf("WaitLive: %v", err)
		}
		if got, want := s.c.Stats().SubPhases, (limpet.SubCounts{limpet.SubRecovering: 1}); got != want || got.Of(limpet.SubRecovering) != 1 || got.Of(9) != 0 {
			t.Errorf("%v", got)
		}
		_, err = s.c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready })
		assert.NoError(t, err)
		synctest.Wait()
		s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a"})
		assert.NoError(t, s.sub.WaitLive(t.Context()))
		if st := s.sub.State(); st.Err != nil || st.Generation != 2 || !st.Since.Equal(time.Now()) {
			t.Errorf("live again: %+v", st)
		}
	})
}

// A subscription that is not live because there is no connection says why there is none, before
// the first connection and after a later one.
func TestWaitLiveSaysWhyThereIsNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		waits := func(c *limpet.Client, topic string) {
			t.Helper()
			sub, err := c.Subscribe(t.Context(), topic, nil)
			assert.NoError(t, err)
			err = sub.WaitLive(within(t, 5*time.Second))
			if cause := c.State().Cause; cause == nil || !errors.Is(err, cause) || !errors.Is(err, context.DeadlineExceeded) || limpet.ClassOf(err) != limpet.ClassTimeout {
				t.Errorf("%v, want the cause %v", err, cause)
			}
		}
		srv.Inject(limpettest.Refuse(1000))
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		waits(c, "a")
		srv.Inject(limpettest.Clean())
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.Inject(limpettest.Refuse(1000))
		srv.Network.CutAll()
		synctest.Wait()
		waits(c, "b")
	})
}

// WaitState does not wait for a state that an ended client can no longer have.
func TestWaitStateOfAnEndedClient(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(t *testing.T, c *limpet.Client)
		want func(err error) bool
	}{
		{"closed", func(t *testing.T, c *limpet.Client) { closeAndWait(t, c) }, func(err error) bool { return errors.Is(err, limpet.ErrClosed) }},
		{"forbidden", func(*testing.T, *limpet.Client) {}, func(err error) bool { return errors.As(err, new(*limpet.PermanentError)) }},
	} {
		t.Run(test.name, inBubble(func(t *testing.T) {
			s := newScriptedServer(t, func(p *scriptedConn) { <-time.After(time.Second); p.ws.Close(4003, "") })
			c, err := limpet.New(s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient()}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			waited := make(chan error)
			never := func(limpet.State) bool { return false }
			go func() {
				_, err := c.WaitState(context.Background(), never)
				waited <- err
			}()
			test.end(t, c)
			if err := <-waited; !test.want(err) {
				t.Errorf("waiting for a state that never comes: %v", err)
			}
			st, err := c.WaitState(context.Background(), func(st limpet.State) bool { return st.Phase == limpet.Ended })
			if err != nil || st.Phase != limpet.Ended {
				t.Errorf("waiting for the end: %v, %v", st.Phase, err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err = c.WaitState(ctx, never); !test.want(err) {
				t.Errorf("with a context that has ended: %v", err)
			}
		}))
	}
}
