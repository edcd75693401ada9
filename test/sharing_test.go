package test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// byName are the traits of a dialect whose subscriptions share a topic.
var byName = wire.Traits{Confirms: true, ConfirmsEnd: true, Unsubscribe: true}

func tick(text string) wire.Event {
	return wire.Event{Kind: wire.EventData, Name: "a", Message: wire.Message{Payload: []byte(text), Header: map[string]string{"h": text}}}
}

func snapshot(text string) wire.Event {
	e := tick(text)
	e.Message.Snapshot, e.Message.SnapshotEnd = true, true
	return e
}

// nextOf takes the payloads of the next n messages of s; a loss is a cause in brackets.
func nextOf(t *testing.T, s *limpet.Subscription, n int) string {
	t.Helper()
	var got []string
	for m, err := range s.Messages(within(t, time.Minute)) {
		if err != nil {
			t.Errorf("after %q: %v", got, err)
			break
		}
		text := string(m.Payload)
		if m.Loss != nil {
			text = "(" + m.Loss.Cause.String() + ")"
		} else if m.Header["h"] != text {
			t.Errorf("the header of %q was changed: %v", text, m.Header)
		}
		got = append(got, text)
		clear(m.Payload) // a consumer owns what it gets
		clear(m.Header)
		if len(got) == n {
			break
		}
	}
	return strings.Join(got, " ")
}

// One subscription is on the wire, from the first that asks to the last that closes, whichever of
// them close before. What each gets begins when it came.
func TestSharedTopicIsOneOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byName, nil)
		first := s.sub
		s.reach(limpet.SubLive)
		s.say(tick("1"))
		synctest.Wait()
		assert.NoError(t, subscribeLive(t, s.c, "a", nil).Close()) // the first one is alone again
		synctest.Wait()
		second := subscribeLive(t, s.c, "a", nil)
		if a, b := first.State(), second.State(); b.Phase != limpet.SubLive || b.Generation != a.Generation || !b.Since.Equal(time.Now()) {
			t.Errorf("the second is %+v, the first %+v", b, a)
		}
		s.say(tick("2"))
		synctest.Wait()
		assert.NoError(t, first.Close())
		synctest.Wait()
		s.say(tick("3"))
		synctest.Wait()
		third := subscribeLive(t, s.c, "a", nil)
		s.say(tick("4"))
		synctest.Wait()
		if a, b, c := first.Stats(), nextOf(t, second, 3), nextOf(t, third, 1); a.Received != 2 || a.DroppedByClose != 2 || b != "2 3 4" || c != "4" {
			t.Errorf("the first received %d, the second %q, the third %q", a.Received, b, c)
		}
		if st := first.State(); st.Phase != limpet.SubEnded || st.Err != nil || !errors.Is(first.WaitLive(t.Context()), limpet.ErrSubscriptionClosed) {
			t.Errorf("the first is %+v", st)
		}
		if got := s.c.Subscriptions(); len(got) != 2 || !slices.Contains(got, second) || !slices.Contains(got, third) || s.c.Stats().Subscriptions != 2 {
			t.Errorf("%v; %+v", got, s.c.Stats().SubPhases)
		}
		assert.NoError(t, first.Close()) // again
		assert.NoError(t, second.Close())
		s.srv.host.Network.CutAll()
		synctest.Wait()
		time.Sleep(5 * time.Second)
		s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a"})
		s.say(tick("5"))
		if got := nextOf(t, third, 2); got != "(unverifiable) 5" {
			t.Errorf("on the next connection %q", got)
		}
		assert.NoError(t, third.Close())
		synctest.Wait()
		if got := lines(s.srv.all(), "a"); got != "subscribe a, subscribe a, unsubscribe a" {
			t.Errorf("the server heard %q", got)
		}
		s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a"})
		synctest.Wait()
		_, err := s.c.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		synctest.Wait()
		if got := lines(s.srv.all(), "a"); !strings.HasSuffix(got, "unsubscribe a, subscribe a") {
			t.Errorf("the server heard %q", got)
		}
	})
}

// lines are those of text that end with the topic.
func lines(text, topic string) string {
	var found []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasSuffix(line, " "+topic) {
			found = append(found, line)
		}
	}
	return strings.Join(found, ", ")
}

// What the server says of a topic concerns all that share it, whether or not the first of them is
// still there. One that was never live stays pending.
func TestSharersFollowTheServer(t *testing.T) {
	for _, left := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, byName, nil)
			s.reach(limpet.SubLive)
			second := subscribeLive(t, s.c, "a", nil)
			users := []*limpet.Subscription{s.sub, second}
			if left {
				assert.NoError(t, s.sub.Close())
				users = users[1:]
			}
			s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a"})
			synctest.Wait()
			third, err := s.c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			states := func(when string, users []*limpet.Subscription, want string) {
				t.Helper()
				for i, u := range users {
					if st := u.State(); st.Phase.String()+causeOf(st.Err) != want {
						t.Errorf("left %v, %s: number %d is %v%s, want %s", left, when, i, st.Phase, causeOf(st.Err), want)
					}
				}
			}
			states("the server has ended it", users, "recovering rejected")
			states("the server has ended it", []*limpet.Subscription{third}, "pending rejected")
			time.Sleep(3 * time.Second) // it is asked for again
			s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a"})
			synctest.Wait()
			users = append(users, third)
			states("it is live", users, "live")
			s.srv.host.Network.CutAll()
			synctest.Wait()
			fourth, err := s.c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			synctest.Wait()
			states("the connection is lost", users, "recovering lost")
			states("the connection is lost", []*limpet.Subscription{fourth}, "pending")
			time.Sleep(5 * time.Second)
			s.say(wire.Event{Kind: wire.EventUnsubscribed, Name: "a", Code: 7, Reason: "no"})
			synctest.Wait()
			users = append(users, fourth)
			states("the server has refused it", users, "ended rejected")
			for _, u := range users {
				if err := endOf(t, u); !errors.Is(err, limpet.ErrRejected) {
					t.Errorf("the stream ends with %v", err)
				}
			}
			synctest.Wait()
			if st := s.c.Stats(); st.FailedSubscriptions != uint64(len(users)) || st.Subscriptions != 0 {
				t.Errorf("%d failed, %d subscriptions", st.FailedSubscriptions, st.Subscriptions)
			}
			if got := lines(s.srv.all(), "a"); got != "subscribe a, subscribe a, subscribe a" {
				t.Errorf("the server heard %q", got)
			}
		})
	}
}

// endOf takes what is left of s and returns what it ends with.
func endOf(t *testing.T, s *limpet.Subscription) (err error) {
	for _, err = range s.Messages(within(t, time.Minute)) {
	}
	return err
}

// Who joins a live topic has not seen its confirmation. What is missing on the next connection
// is a loss all the same, with its first message.
func TestLateSharerSeesALoss(t *testing.T) {
	for _, confirms := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			traits := byName
			if !confirms {
				traits = wire.Traits{}
			}
			s := newScene(t, traits, nil)
			if confirms {
				s.reach(limpet.SubLive)
			}
			assert.NoError(t, s.sub.WaitLive(t.Context()))
			second := subscribeLive(t, s.c, "a", nil)
			s.srv.host.Network.CutAll()
			time.Sleep(5 * time.Second)
			if confirms {
				s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a", Continuity: wire.ContinuityByNumber})
			}
			s.say(tick("9"))
			for _, u := range []*limpet.Subscription{s.sub, second} {
				if got := nextOf(t, u, 2); got != "(unverifiable) 9" {
					t.Errorf("confirms %v: %q", confirms, got)
				}
			}
		})
	}
}

// A snapshot that comes after both have subscribed reaches both. After that none can join, even
// if the first one has gone.
func TestSnapshotReachesThoseThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byName, nil)
		synctest.Wait()
		second, err := s.c.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a"})
		synctest.Wait()
		third := subscribeLive(t, s.c, "a", nil)
		assert.NoError(t, s.sub.Close())
		synctest.Wait()
		s.say(snapshot("all"))
		s.say(tick("1"))
		for _, u := range []*limpet.Subscription{second, third} {
			if got := nextOf(t, u, 2); got != "all 1" {
				t.Errorf("%q", got)
			}
		}
		if _, err := s.c.Subscribe(t.Context(), "a", nil); !errors.Is(err, limpet.ErrDuplicate) {
			t.Errorf("after the snapshot: %v", err)
		}
	})
}

// While one connection takes the place of another, both deliver. Who joins then gets what still comes
// on the one that was left.
func TestSharingWhileTheConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byName, nil)
		s.reach(limpet.SubLive)
		older := s.newest()
		s.say(wire.Event{Kind: wire.EventGoAway})
		_, err := s.c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation == 2 })
		assert.NoError(t, err)
		synctest.Wait()
		second, err := s.c.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		older(eventText(tick("1")))
		synctest.Wait()
		s.say(wire.Event{Kind: wire.EventSubscribed, Name: "a", Continuity: wire.ContinuityByNumber})
		s.say(tick("2"))
		for _, u := range []*limpet.Subscription{s.sub, second} {
			got := nextOf(t, u, 3)
			if synctest.Wait(); got != "1 (unverifiable) 2" || u.State().Phase != limpet.SubLive {
				t.Errorf("%q, %v", got, u.State())
			}
		}
	})
}

// A payload that is lent to one is not the one that another owns or is lent.
func TestSharersThatBorrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byName, nil)
		s.reach(limpet.SubLive)
		var subs []*limpet.Subscription
		for range 2 {
			subs = append(subs, subscribeLive(t, s.c, "a", &limpet.SubscribeOptions{Lend: true}))
		}
		for i := range 5 {
			want := strings.Repeat(strconv.Itoa(i), 1+i*1500)
			s.say(tick(want))
			for _, u := range append(subs, s.sub) {
				for ms, err := range u.Batches(t.Context()) {
					if assert.NoError(t, err); len(ms) != 1 || string(ms[0].Payload) != want {
						t.Fatalf("%d messages, the first has %d bytes", len(ms), len(ms[0].Payload))
					}
					clear(ms[0].Payload)
					break
				}
			}
		}
	})
}

// positionsOf is a dialect that tells from where an attempt would go on, if there is something.
type positionsOf struct {
	eventDialect
	at chan uint64
}

func (d positionsOf) Attempt(a *wire.Attempt) error {
	for _, s := range a.Subs {
		if s.From == wire.FromResume {
			d.at <- s.Position.Offset
		}
	}
	return d.eventDialect.Attempt(a)
}

// The next connection goes on after what was received last, by whomever.
func TestSharersResumeAfterTheLastMessage(t *testing.T) {
	for _, left := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			says := make(chan func(string), 9)
			srv := newToyServer(t, func(_ int, say func(string), hear func() string) { says <- say })
			srv.host.Inject(limpettest.Stall(time.Millisecond)) // so that the first connection carries the subscription
			traits := byName
			traits.StartSubs = 10
			attempts := make(chan uint64, 9)
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: positionsOf{eventDialect{traits}, attempts}}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			first, err := c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			say := <-says
			number := func(n uint64) {
				e := tick(fmt.Sprint(n))
				e.Numbered, e.Position.Offset, e.Prev = true, n, n-1
				say(eventText(e))
				synctest.Wait()
			}
			number(3)
			second := subscribeLive(t, c, "a", nil)
			if left {
				assert.NoError(t, first.Close())
				synctest.Wait()
			}
			number(4)
			srv.host.Network.CutAll()
			say = <-says
			synctest.Wait()
			if at := <-attempts; at != 4 || !strings.HasSuffix(srv.all(), "hello /4/") {
				t.Errorf("left %v: the attempt goes on after %d, the server heard\n%s", left, at, srv.all())
			}
			number(6)
			if got := nextOf(t, second, 3); got != "4 (lost) 6" {
				t.Errorf("left %v: %q", left, got)
			}
		})
	}
}

// A topic is asked for with the highest priority of those that share it.
func TestPriorityOfSharers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(int, func(string), func() string) {})
		srv.host.Inject(limpettest.Refuse(1))
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: flexDialect{traits: byName}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		for _, topic := range []string{"other", "a", "a"} {
			o := &limpet.SubscribeOptions{}
			if len(c.Subscriptions()) == 2 {
				o.Priority = 5
			}
			_, err := c.Subscribe(t.Context(), topic, o)
			assert.NoError(t, err)
		}
		assert.NoError(t, c.WaitReady(t.Context()))
		synctest.Wait()
		if got := srv.all(); strings.Index(got, "subscribe a") > strings.Index(got, "subscribe other") {
			t.Errorf("the server heard\n%s", got)
		}
	})
}

// A Delivery.Key that panics ends its own subscription, the one on the wire too.
func TestKeyOfASharerPanics(t *testing.T) {
	for _, onWire := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			bad := &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: func(limpet.Message) string { panic("no key") }}}
			one, two := bad, (*limpet.SubscribeOptions)(nil)
			if !onWire {
				one, two = two, one
			}
			s := newScene(t, byName, one)
			s.reach(limpet.SubLive)
			second := subscribeLive(t, s.c, "a", two)
			broken, sound := s.sub, second
			if !onWire {
				broken, sound = second, s.sub
			}
			s.say(tick("1"))
			synctest.Wait()
			s.say(tick("2"))
			if got := nextOf(t, sound, 2); got != "1 2" || sound.State().Phase != limpet.SubLive {
				t.Errorf("on the wire %v: the other one got %q, and is %v", onWire, got, sound.State())
			}
			if !errors.Is(broken.Err(), limpet.ErrPanic) || strings.Contains(s.srv.all(), "unsubscribe") || s.c.Stats().FailedSubscriptions != 1 {
				t.Errorf("on the wire %v: %v\n%s", onWire, broken.Err(), s.srv.all())
			}
			assert.NoError(t, sound.Close())
			synctest.Wait()
			if got := lines(s.srv.all(), "a"); got != "subscribe a, unsubscribe a" {
				t.Errorf("on the wire %v: %q", onWire, got)
			}
		})
	}
}

// Shutdown lets each take what waits; Close drops it. The server hears one end.
func TestClientEndsWithSharers(t *testing.T) {
	for _, left := range []bool{false, true} {
		for _, graceful := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byName, nil)
				s.reach(limpet.SubLive)
				users := []*limpet.Subscription{s.sub, subscribeLive(t, s.c, "a", nil), subscribeLive(t, s.c, "a", nil)}
				if left {
					assert.NoError(t, s.sub.Close())
					users = users[1:]
				}
				s.say(tick("1"))
				synctest.Wait()
				ended := make(chan error, 1)
				if graceful {
					go func() { ended <- s.c.Shutdown(within(t, time.Minute)) }()
				} else {
					ended <- s.c.Close()
				}
				synctest.Wait()
				for i, u := range users {
					want := uint64(1)
					if graceful {
						want = 0
						if got, err := nextOf(t, u, 1), endOf(t, u); got != "1" || err != nil {
							t.Errorf("number %d got %q, then %v", i, got, err)
						}
					}
					if st := u.Stats(); st.DroppedByClose != want || u.State().Phase != limpet.SubEnded || !errors.Is(u.WaitLive(t.Context()), limpet.ErrClosed) {
						t.Errorf("left %v, Shutdown %v: number %d is %v, %+v", left, graceful, i, u.State(), st)
					}
				}
				assert.NoError(t, <-ended)
				<-s.c.Done()
				if got := strings.Count(s.srv.all(), "unsubscribe a"); graceful && got != 1 || got > 1 {
					t.Errorf("left %v: %d ends", left, got)
				}
			})
		}
	}
}

// Two that wait for the end of an earlier subscription to their topic see nothing of that one.
func TestSharersOfATopicThatIsNotFree(t *testing.T) {
	for _, kind := range venues {
		if kind == "strict" {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, true)
			c := v.dial(t, nil)
			subscribeLive(t, c, "trades/A", nil).Close()
			time.Sleep(20 * time.Millisecond)
			one := subscribe(t, c, "trades/A")
			time.Sleep(100 * time.Millisecond)
			two := subscribe(t, c, "trades/A")
			for _, s := range []*limpet.Subscription{one, two} {
				if err := s.WaitLive(within(t, 25*time.Second)); err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
			}
			if a, b := v.read(t, one, 20), v.read(t, two, 20); a != b || a < 2 && kind != "nothing" && kind != "only ends" {
				t.Errorf("%s: messages of subscriptions %d and %d at the server", kind, a, b)
			}
			if n := len(v.asked("subscribe")); n > 3 {
				t.Errorf("%s: %d requests", kind, n)
			}
		})
	}
}
