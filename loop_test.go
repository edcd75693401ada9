package limpet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// offline is a client that waits an hour for its next attempt.
func offline(t *testing.T) *Client { return watched(t, nil) }

func watched(t *testing.T, o Observer) *Client {
	c, err := New("wss://nowhere", options(&Options{
		Observer:   o,
		HTTPClient: &http.Client{Transport: nowhere{}},
		Backoff:    Backoff{First: time.Hour, Initial: time.Hour, Max: time.Hour},
		Window:     Window{Messages: 1 << 20},
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		<-c.Done()
	})
	synctest.Wait()
	c.inbox.Post(step(func(l *loop) { // not a random part of it
		l.attemptAt = l.now.Add(time.Hour)
		l.state.NextAttempt = l.attemptAt
	}))
	synctest.Wait()
	return c
}

// options is the helper of the same name in helpers_test.go.
func options(o *Options) *Options {
	o.PlainFrames = o.PlainFrames || flag.Lookup("plain").Value.String() == "true"
	return o
}

type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("nowhere") }

type step func(*loop)

func (f step) apply(l *loop) { f(l) }

// A message that was admitted before the end may reach the loop after it.
// Flush waits for its outcome, too.
func TestFlushDuringTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		admitted, blocked := new(Receipt), make(chan struct{})
		batch := make([]Receipt, 2)
		c.inbox.Post(step(func(l *loop) {
			l.end(nil)
			c.inbox.Post(step(func(*loop) { <-blocked }))
			c.inbox.Post(admitted)
			c.inbox.Post(publish{batch})
		}))
		synctest.Wait()
		flushed := make(chan error)
		go func() { flushed <- c.Flush(context.Background()) }()
		time.AfterFunc(time.Millisecond, func() { close(blocked) })
		if err := <-flushed; err != nil || admitted.Outcome() != Unsent {
			t.Errorf("%v, the message is %v", err, admitted.Outcome())
		}
		for i := range batch {
			if o := batch[i].Outcome(); o != Unsent {
				t.Errorf("message %d of the batch is %v", i, o)
			}
		}
	})
}

// Close drops what waits for consumers, however soon after a permanent failure
// it is called.
func TestCloseDuringTheEnd(t *testing.T) {
	for _, when := range []string{"in the round of the failure", "while the loop ends", "after the end"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := offline(t)
				messages := lossy(t, c).C()
				blocked := make(chan struct{})
				c.inbox.Post(step(func(l *loop) {
					l.end(&PermanentError{ClassAuth, errors.New("no")})
					if when == "in the round of the failure" {
						c.Close()
					}
					c.inbox.Post(step(func(*loop) { <-blocked }))
				}))
				synctest.Wait()
				if when == "while the loop ends" {
					c.Close()
				}
				close(blocked)
				<-c.Done()
				if when == "after the end" {
					c.Close()
				}
				synctest.Wait()
				if m, ok := <-messages; ok {
					t.Errorf("after Close came %+v", m)
				}
			})
		})
	}
}

// Shutdown waits for a loss in the hand of C as for a message, and no longer
// than its context.
func TestShutdownWithALossInHand(t *testing.T) {
	for _, taken := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := offline(t)
			messages := lossy(t, c).C()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			ended := make(chan error)
			go func() { ended <- c.Shutdown(ctx) }()
			synctest.Wait()
			if taken {
				if m := <-messages; m.Kind != Gap {
					t.Errorf("the last element is %+v, want a gap", m)
				}
			}
			if err := <-ended; (err == nil) != taken {
				t.Errorf("taken %v: %v", taken, err)
			}
			synctest.Wait()
			select {
			case <-c.Done():
			default:
				t.Errorf("taken %v: the client has not ended", taken)
				for range messages {
				}
			}
			if m, ok := <-messages; ok {
				t.Errorf("taken %v: and then %+v", taken, m)
			}
		})
	}
}

// lossy is a subscription in which a gap waits.
func lossy(t *testing.T, c *Client) *Subscription {
	s, err := c.Subscribe(context.Background(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.queue.mu.Lock()
	s.queue.appendLoss(newLoss(new(time.Time), Gap, Position{}, Position{Offset: 1}, 1, wire.CauseLost))
	s.queue.mu.Unlock()
	return s
}

// An observer that answers each wait with ReconnectNow gets one event per wait,
// not an endless exchange.
func TestReconnectNowWithoutEffectIsNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits impatience
		c := watched(t, &waits)
		waits.client.Store(c)
		c.ReconnectNow()
		time.Sleep(minBetweenAttempts - time.Millisecond)
		if n := waits.n.Load(); n != 2 {
			t.Errorf("told of %d waits, want the first and the one that Retry cut short", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := c.Stats().Attempts; n != 2 {
			t.Errorf("%d attempts", n)
		}
	})
}

type impatience struct {
	client atomic.Pointer[Client]
	n      atomic.Int32
}

func (o *impatience) Observe(e Event) {
	s, ok := e.(StateChanged)
	if !ok || s.State.Phase != Waiting || o.n.Add(1) > 1000 {
		return
	}
	if c := o.client.Load(); c != nil {
		c.ReconnectNow()
	}
}

// However publishers and the loop meet, an idle client remembers no time: an
// hour later that time would be wrong.
func TestIdleClientsReadTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		for i := range 20_000 {
			var publishers sync.WaitGroup
			for range 4 {
				publishers.Go(func() { c.Publish(context.Background(), "a", nil, nil) })
			}
			publishers.Wait()
			synctest.Wait()
			time.Sleep(time.Hour)
			if s, ns := c.ids.ID(c.ids.Reserve(1)).Time().UnixTime(); time.Since(time.Unix(s, ns)) > time.Millisecond {
				t.Fatalf("round %d: an id of %v has the time %v", i, time.Now(), time.Unix(s, ns))
			}
		}
	})
}

// A subscription that was not answered before is asked for in a write of its own:
// it may be the reason why a whole request was not answered.
func TestUnansweredIsAskedForAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		c.inbox.Post(step(func(l *loop) {
			k := &link{conn: &conn{gen: 1}}
			for i := range 6 {
				s := plainSubscription(c, string(rune('a'+i)))
				l.registry.add(s)
				if i == 2 || i == 3 {
					s.failedAsks = 1
				}
				k.toAsk = append(k.toAsk, s)
			}
			var writes []int
			for len(k.toAsk) > 0 {
				ops, _ := l.askForMore(k, nil, 1)
				writes = append(writes, len(ops))
			}
			if want := []int{2, 1, 1, 2}; !slices.Equal(writes, want) {
				t.Errorf("writes of %v requests, want %v", writes, want)
			}
		}))
		synctest.Wait()
	})
}

// A successful dial sets the dial timeout back, which earlier timeouts had raised.
func TestDialTimeoutIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.Stall(time.Hour), limpettest.Stall(time.Hour))
		c, err := New(srv.URL(), options(&Options{HTTPClient: srv.HTTPClient(), DialTimeout: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { c.Close(); <-c.Done() }()
		timeout := func() (d time.Duration) {
			c.inbox.Post(step(func(l *loop) { d = l.policy.DialTimeout }))
			synctest.Wait()
			return d
		}
		if _, err := c.WaitState(context.Background(), func(s State) bool { return s.Attempt == 2 }); err != nil {
			t.Fatal(err)
		}
		if d := timeout(); d != 2560*time.Millisecond {
			t.Errorf("%v after two timeouts", d)
		}
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		if d := timeout(); d != time.Second {
			t.Errorf("%v after a successful dial, want the second of Options.DialTimeout", d)
		}
	})
}

// Done waits for all goroutines, so none starts after it.
func TestNothingStartsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		if !c.goroutines.Go(func() {}) || !c.goroutines.GoDeliverer(func() {}) {
			t.Error("nothing starts before the end")
		}
		c.Close()
		<-c.Done()
		if c.goroutines.Go(func() {}) || c.goroutines.GoDeliverer(func() {}) {
			t.Error("a goroutine started after the end")
		}
	})
}

// A client that has ended has no timer, which would keep its memory: its next attempt
// may have been due in an hour.
func TestEndStopsTheTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		var timer *time.Timer
		c.inbox.Post(step(func(l *loop) { timer = l.timer }))
		synctest.Wait()
		c.Close()
		<-c.Done()
		if timer.Stop() {
			t.Error("the timer is still running")
		}
	})
}

// After this process stood still the peer is asked for a sign of life at once: without a
// ping it may have nothing to send in the time it gets. It gets that time once.
func TestPingInTheGraceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
		c.inbox.Post(step(func(l *loop) {
			k := l.link
			l.now, k.pingAt = l.now.Add(3*k.heartbeat), l.now.Add(4*k.heartbeat)
			l.timerAt = l.now.Add(-2 * time.Second)
			if l.watchClock(); l.peerIsSilent(k) || !due(k.pingAt, l.now) {
				t.Errorf("after the process stood still the peer is silent: %v; the next ping is due %v later", l.peerIsSilent(k), k.pingAt.Sub(l.now))
			}
			l.now = l.now.Add(k.heartbeat)
			if l.watchClock(); !l.peerIsSilent(k) {
				t.Error("the peer gets more time without a sign of life")
			}
			l.now = l.now.Add(-4 * k.heartbeat)
		}))
		synctest.Wait()
	})
}

// However many subscriptions there are, to remove one moves few others. Their order
// stays, also while some are removed.
func TestRegistryMovesFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		c.inbox.Post(step(func(l *loop) {
			const n = 2000
			var subs []*Subscription
			for i := range n {
				s := plainSubscription(c, fmt.Sprint(i))
				l.registry.add(s)
				l.registry.postpone(s, l.now.Add(time.Duration(1+i*7%n)*time.Hour))
				subs = append(subs, s)
			}
			moves, longest := 0, 0
			for i, s := range subs {
				places := make([]int, 0, n)
				for _, other := range subs[i+1:] {
					places = append(places, other.place)
				}
				l.registry.remove(s)
				l.registry.remove(s) // changes nothing
				for j, other := range subs[i+1:] {
					if other.place != places[j] {
						moves++
					}
				}
				longest = max(longest, len(l.registry.subs)-(n-i-1))
				if i%100 == 0 && !slices.Equal(slices.Collect(l.registry.all()), subs[i+1:]) {
					t.Errorf("not in order of registration after %d removals", i+1)
					return
				}
			}
			if moves > 2*n || longest > n/2+1 {
				t.Errorf("%d removals moved %d others and left %d places empty", n, moves, longest)
			}
			if left := len(c.routes.byKey); left > 0 || !l.registry.waiting.Next().IsZero() {
				t.Errorf("%d removed subscriptions are remembered", left)
			}
		}))
		synctest.Wait()
	})
}

// Subscriptions that are due to be asked for again come in order of registration.
func TestDueInOrderOfRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		c.inbox.Post(step(func(l *loop) {
			for i, after := range []int{3, 1, 2, 9, 0} {
				s := plainSubscription(c, fmt.Sprint(i))
				l.registry.add(s)
				l.askAgainAfter(s, 5*time.Hour)
				l.askAgainAfter(s, time.Duration(after)*time.Second)
			}
			var got []string
			for _, s := range l.registry.takeDue(l.now.Add(3 * time.Second)) {
				got = append(got, s.topic)
			}
			if want := []string{"0", "1", "2", "4"}; !slices.Equal(got, want) {
				t.Errorf("due are %v, want %v", got, want)
			}
			if next := l.registry.waiting.Next().Sub(l.now); next != 9*time.Second {
				t.Errorf("the next one is due after %v", next)
			}
		}))
		synctest.Wait()
	})
}

// While a write takes long, one ping waits for its end, not one for each interval.
func TestOnePingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
		c.inbox.Post(step(func(l *loop) {
			k := l.link
			for range 100 {
				k.pingAt = l.now
				l.sendHeartbeat(k)
			}
			if len(k.replies) != 1 {
				t.Errorf("%d pings wait", len(k.replies))
			}
			l.startWrite()
			k.pingAt = l.now
			if l.sendHeartbeat(k); len(k.replies) != 1 {
				t.Errorf("%d pings wait after the first was sent", len(k.replies))
			}
		}))
		synctest.Wait()
	})
}

// A credential that was asked for on an earlier connection is neither sent on this one, nor does its error count.
func TestCredentialOfAnEarlierConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
		c.inbox.Post(step(func(l *loop) {
			old, ops := newConn(), len(l.link.ops)
			inTurn{refreshed{old, "token", nil}, refreshed{old, "", Permanent(errors.New("no account"))}}.apply(l)
			if len(l.link.ops) != ops || l.state.NoCredential != nil {
				t.Errorf("%d more requests, %v", len(l.link.ops)-ops, l.state.NoCredential)
			}
		}))
		synctest.Wait()
	})
}

// Patience grows with a connection that ended in silence and carried no message, and
// is as at first after one that did.
func TestPatienceIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
		c.inbox.Post(step(func(l *loop) {
			k := l.link
			l.peerWasSilent(k)
			l.checkStable(k)
			l.peerWasSilent(k)
			if l.silences != 2 {
				t.Errorf("%d silent connections, want 2", l.silences)
			}
			k.proved = true
			l.peerWasSilent(k)
			l.checkStable(k)
			if l.silences != 0 {
				t.Errorf("%d silent connections after one with a message", l.silences)
			}
		}))
		synctest.Wait()
	})
}

// Topics that hold a place are counted: there may be thousands.
func TestPlacesAreCounted(t *testing.T) {
	l := &loop{c: &Client{cfg: config{traits: wire.Traits{Connection: wire.ConnectionLimits{Subscriptions: 9}}}}}
	k := &link{namedTopics: &topicTable{holding: 4}, toAsk: make([]*Subscription, 1)}
	if n := l.freePlaces(k); n != 5 {
		t.Errorf("%d places are free, want 5", n)
	}
}

// plainSubscription returns a subscription without options that no loop knows yet.
func plainSubscription(c *Client, topic string) *Subscription {
	o, err := c.cfg.subscribeOptions(topic, nil)
	if err != nil {
		panic(err)
	}
	return newSubscription(c, topic, &o)
}

// A part of a snapshot counts wherever it is among the messages of one read.
func TestSnapshotAmongMessages(t *testing.T) {
	for n := range 4 {
		events := []wire.Event{{Kind: wire.EventData}, {Kind: wire.EventData}, {Kind: wire.EventData}, {Kind: wire.EventData, Name: "b"}}
		events[n].Message.Snapshot = true
		count := leadingMessages(events)
		if snapshot := hasSnapshot(events[:count]); count != 3 || snapshot != (n < 3) {
			t.Errorf("message %d is one: %d messages, %v", n, count, snapshot)
		}
	}
}
