package test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/feed"
)

// A topic is closed and subscribed again on one connection, at every moment of the
// server's work. Each subscription has a life of its own: it becomes live by its own
// confirmation, and sees its own messages only.
func TestTopicAgainHasALifeOfItsOwn(t *testing.T) {
	for _, kind := range venues {
		for _, numbered := range []bool{false, true} {
			for _, lasts := range []time.Duration{0, 10 * time.Millisecond, 260 * time.Millisecond, 12 * time.Second} {
				for _, pause := range []time.Duration{0, 30 * time.Millisecond, 240 * time.Millisecond, 20 * time.Second} {
					t.Run(fmt.Sprintf("%s/numbered=%v/%v/%v", kind, numbered, lasts, pause), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) { topicAgain(t, kind, numbered, lasts, pause) })
					})
				}
			}
		}
	}
}

func topicAgain(t *testing.T, kind string, numbered bool, lasts, pause time.Duration) {
	v := newVenue(t, kind, numbered)
	c := v.dial(t, nil)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for round := range 3 {
		s := subscribe(t, c, "trades/A")
		if err := s.WaitLive(within(t, 25*time.Second)); err != nil && lasts > 0 {
			t.Fatalf("round %d: %v; %+v", round, err, s.State())
		}
		v.mu.Lock()
		served := v.lives["A"]
		v.mu.Unlock()
		if lasts == 0 {
			s.Close()
			time.Sleep(pause)
			continue
		}
		if life := v.read(t, s, 20); seen[life] || kind != "nothing" && kind != "only ends" && life > served {
			t.Errorf("round %d: messages of subscription %d at the server; live when it had taken %d", round, life, served)
		} else {
			seen[life] = true
		}
		time.Sleep(lasts)
		s.Close()
		time.Sleep(pause)
	}
	if got := c.Stats().Connections; got != 1 {
		t.Errorf("%d connections", got)
	}
}

// A topic is subscribed and closed a hundred times in a row. The server is asked a
// few times at most, and the last subscription becomes live.
func TestBurstOfOneTopic(t *testing.T) {
	for _, kind := range venues {
		for _, pause := range []time.Duration{0, time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				v := newVenue(t, kind, false)
				c := v.dial(t, nil)
				if err := c.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				for range 100 {
					subscribe(t, c, "trades/A").Close()
					time.Sleep(pause)
				}
				s := subscribe(t, c, "trades/A")
				if err := s.WaitLive(within(t, 25*time.Second)); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				v.read(t, s, 20)
				if n := len(v.asked("subscribe")) + len(v.asked("unsubscribe")); n > 5 {
					t.Errorf("%s, every %v: %d requests", kind, pause, n)
				}
			})
		}
	}
}

// While a topic waits for the end of its earlier subscription, no other topic waits,
// and a new connection waits for nothing.
func TestOccupiedTopicHoldsUpNoOther(t *testing.T) {
	for _, kind := range venues {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			v.lag = 5 * time.Second
			c := v.dial(t, nil)
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			subscribe(t, c, "trades/A")
			time.Sleep(6 * time.Second)
			first := subscribe(t, c, "trades/C")
			time.Sleep(6 * time.Second)
			first.Close()
			a, b := subscribe(t, c, "trades/C"), subscribe(t, c, "trades/B")
			synctest.Wait()
			if got := v.asked("subscribe"); !slices.Contains(got[len(got)-1].Symbols, "B") {
				t.Errorf("%s: asked %v; want B asked for at once", kind, got)
			}
			v.host.Network.CutAll()
			if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			all := v.asked("subscribe")
			if last := all[len(all)-1]; !slices.Contains(last.Symbols, "C") || !slices.Contains(last.Symbols, "A") {
				t.Errorf("%s: the new connection asked for %v", kind, last.Symbols)
			}
			for _, s := range []*limpet.Subscription{a, b} {
				if err := s.WaitLive(within(t, 20*time.Second)); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
}

// A server that never confirms the end of a subscription, though its table says so,
// holds up the next one for ten seconds at most.
func TestEndThatIsNotConfirmed(t *testing.T) {
	for _, kind := range []string{"ends", "list"} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			c := v.dial(t, nil)
			s := subscribeLive(t, c, "trades/A", nil)
			v.silent.Store(true) // what it confirms is an effect of its own fault
			s.Close()
			time.Sleep(time.Second)
			v.silent.Store(false)
			asked := time.Now()
			s = subscribe(t, c, "trades/A")
			if err := s.WaitLive(within(t, time.Minute)); err != nil || time.Since(asked) > 25*time.Second {
				t.Errorf("%s: %v after %v", kind, err, time.Since(asked))
			}
			if rs := v.asked("subscribe"); len(rs) != 2 || rs[1].at.Sub(asked) != 9*time.Second {
				t.Errorf("%s: asked %v", kind, rs)
			}
			v.read(t, s, 20)
		})
	}
}

// The same of a topic that is quiet: its own confirmation counts, though the list of what
// is subscribed did not change.
func TestEndOfAQuietTopicThatIsNotConfirmed(t *testing.T) {
	for _, kind := range []string{"ends", "list"} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			v.tick = time.Hour
			c := v.dial(t, nil)
			s := subscribeLive(t, c, "trades/A", nil)
			v.silent.Store(true)
			s.Close()
			time.Sleep(time.Second)
			v.silent.Store(false)
			s = subscribe(t, c, "trades/A")
			if err := s.WaitLive(within(t, 12*time.Second)); err != nil {
				t.Errorf("%s: %v; asked %v", kind, err, v.asked("subscribe"))
			}
		})
	}
}

// Messages that come before the confirmation, when an earlier subscription may still
// send, are counted.
func TestEarlierMessagesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVenue(t, "each", false)
		c := v.dial(t, nil)
		s := subscribeLive(t, c, "trades/A", nil)
		time.Sleep(time.Second)
		s.Close()
		s = subscribe(t, c, "trades/A")
		time.Sleep(240 * time.Millisecond)
		if st := s.Stats(); s.State().Phase != limpet.SubPending || st.Earlier < 20 || st.Received != 0 {
			t.Errorf("before the confirmation: %v, %+v", s.State().Phase, st)
		}
		time.Sleep(time.Second)
		if st := s.Stats(); s.State().Phase != limpet.SubLive || st.Earlier > 30 || st.Received < 90 {
			t.Errorf("after the confirmation: %v, %+v", s.State().Phase, st)
		}
	})
}

// A server ends a subscription that the client has not closed. It is asked for again,
// and the stream says that messages may be missing. A server that does so every time
// has refused it.
func TestSubscriptionEndedByTheServer(t *testing.T) {
	for _, kind := range []string{"ends", "list"} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			c := v.dial(t, nil)
			s := subscribeLive(t, c, "trades/A", nil)
			other := subscribeLive(t, c, "trades/B", nil)
			times := reduced(5, 2)
			for range times {
				time.Sleep(time.Minute)
				v.mu.Lock()
				v.drop = []string{"A"}
				v.mu.Unlock()
				time.Sleep(20 * time.Millisecond)
				if st := s.State(); st.Phase != limpet.SubRecovering || !errors.Is(st.Err, limpet.ErrRejected) {
					t.Errorf("%s: ended by the server: %+v", kind, st)
				}
				if err := s.WaitLive(within(t, 5*time.Second)); err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
			}
			if st := s.Stats(); st.Resets != uint64(times) || other.State().Phase != limpet.SubLive || other.Stats().Resets != 0 {
				t.Errorf("%s: %+v, the other %+v", kind, st, other.Stats())
			}
		})
	}
}

// A server that ends a subscription each time, before any message, does not want it.
func TestSubscriptionEndedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := script(t, newVenue(t, "ends", false), func(say func(string), hear func() string) {
			for hear() != "" {
				asked++
				say(subscribedA)
				time.Sleep(time.Second)
				say(unsubscribedA)
			}
		})
		s := subscribe(t, c, "trades/A")
		for range s.Messages(within(t, time.Minute)) {
		}
		if st := s.State(); st.Phase != limpet.SubEnded || !errors.Is(st.Err, limpet.ErrRejected) || asked != 3 {
			t.Errorf("asked %d times; %+v", asked, st)
		}
	})
}

// A message before the confirmation makes a subscription live, but the confirmation
// is still to come: it does not count for the next subscription.
func TestConfirmationAfterTheFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var again time.Time
		c := script(t, newVenue(t, "each", false), func(say func(string), hear func() string) {
			hear()
			say(tradeOfA)
			time.Sleep(5 * time.Second)
			say(subscribedA)
			hear() // the end
			hear()
			again = time.Now()
			time.Sleep(time.Second)
			say(subscribedA)
		})
		s := subscribeLive(t, c, "trades/A", nil)
		s.Close()
		began := time.Now()
		s = subscribe(t, c, "trades/A")
		if err := s.WaitLive(within(t, time.Minute)); err != nil || time.Since(began) != 6*time.Second || again.Sub(began) != 5*time.Second {
			t.Errorf("%v; asked after %v, live after %v", err, again.Sub(began), time.Since(began))
		}
	})
}

// An error that names nothing may mean anything: the confirmation of the request may
// still come, and does not count for the next subscription.
func TestErrorFreesNoTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := script(t, newVenue(t, "each", false), func(say func(string), hear func() string) {
			hear()
			say(`{"type":"error","text":"slow down"}`)
			hear() // the end
			time.Sleep(time.Second)
			say(subscribedA) // the first request
			say(tradeOfA)
			hear()
			time.Sleep(time.Second)
			say(subscribedA)
		})
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := subscribe(t, c, "trades/A")
		synctest.Wait()
		s.Close()
		began := time.Now()
		s = subscribe(t, c, "trades/A")
		if err := s.WaitLive(within(t, time.Minute)); err != nil || time.Since(began) != 2*time.Second || s.Stats().Received != 0 {
			t.Errorf("%v after %v; %+v", err, time.Since(began), s.Stats())
		}
	})
}

// The server ends a subscription and begins it again, before it is asked again. What
// lies between is missing.
func TestConfirmationAfterAnEndByTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := script(t, newVenue(t, "ends", false), func(say func(string), hear func() string) {
			hear()
			for _, text := range []string{subscribedA, tradeOfA, unsubscribedA, subscribedA, tradeOfA} {
				say(text)
			}
		})
		s := subscribeLive(t, c, "trades/A", nil)
		got := collect(t, s, 3)
		synctest.Wait() // a message comes before what its connection makes of the state
		if got[1].Kind != limpet.Reset || s.State().Phase != limpet.SubLive {
			t.Errorf("%s; %+v", payloads(got), s.State())
		}
	})
}

// Messages come and no confirmation; the next connection confirms first. The break
// between them shows.
func TestConfirmationOnTheNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := 0
		v := newVenue(t, "each", false)
		c := script(t, v, func(say func(string), hear func() string) {
			hear()
			if conns++; conns > 1 {
				say(subscribedA)
			}
			say(tradeOfA)
		})
		s := subscribeLive(t, c, "trades/A", nil)
		synctest.Wait()
		v.host.Network.CutAll()
		if got := collect(t, s, 3); got[1].Kind != limpet.Reset {
			t.Errorf("%s; %+v", payloads(got), s.State())
		}
	})
}

// A server that has no unsubscribe goes on with the subscription. The next one
// to the topic is live at once, whether or not the server confirms it again.
func TestTopicAgainWithoutUnsubscribe(t *testing.T) {
	for _, kind := range []string{"each", "list", "nothing"} {
		for _, tick := range []time.Duration{10 * time.Millisecond, time.Hour} {
			for _, lasts := range []time.Duration{0, 100 * time.Millisecond, time.Second} {
				synctest.Test(t, func(t *testing.T) {
					v := newVenue(t, kind, false)
					v.table.Unsubscribe, v.tick = feed.Request{}, tick
					c := v.dial(t, nil)
					if err := c.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
					for round := range 3 {
						began, s := time.Now(), subscribe(t, c, "trades/A")
						if err := s.WaitLive(within(t, time.Second)); err != nil {
							t.Errorf("%s, every %v, for %v: round %d: %v", kind, tick, lasts, round, err)
						}
						if took := time.Since(began); round == 1 && took > 0 {
							t.Errorf("%s, every %v, for %v: live after %v", kind, tick, lasts, took)
						}
						time.Sleep(lasts)
						s.Close()
						if round == 1 { // one that the server has not answered yet
							subscribe(t, c, "trades/A").Close()
						}
					}
					if c.Stats().Connections != 1 {
						t.Errorf("%d connections", c.Stats().Connections)
					}
				})
			}
		}
	}
}

// A subscription that waits for its topic can be closed, and ends with the client.
func TestEndWhileTheTopicIsOccupied(t *testing.T) {
	for _, kind := range venues {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			c := v.dial(t, nil)
			subscribeLive(t, c, "trades/A", nil).Close()
			first := subscribe(t, c, "trades/A")
			first.Close()
			second := subscribe(t, c, "trades/A")
			if err := first.WaitLive(within(t, time.Second)); !errors.Is(err, limpet.ErrSubscriptionClosed) {
				t.Errorf("%s: %v", kind, err)
			}
			began := time.Now()
			if err := c.Shutdown(within(t, time.Minute)); err != nil || time.Since(began) > time.Second {
				t.Errorf("%s: %v after %v", kind, err, time.Since(began))
			}
			if st := second.State(); st.Phase != limpet.SubEnded || st.Err != nil {
				t.Errorf("%s: %+v", kind, st)
			}
		})
	}
}
