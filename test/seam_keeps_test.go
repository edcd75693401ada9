package test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

// keepingServer is a server that keeps the subscriptions "one" and "two" in the session. The
// state of that session moves with each connection. It resumes the session up to connection
// last. resumed is what it says then, and begun is what it says once both were asked for.
func keepingServer(t *testing.T, last int, begun, resumed []wire.Event) *toyServer {
	return newToyServer(t, func(conn int, say func(string), hear func() string) {
		hear() // open
		id := fmt.Sprintf("s%d", conn-1)
		if conn == 1 || conn > last {
			id = fmt.Sprintf("new%d", conn)
		}
		say(eventText(readyEvent(wire.Ready{Session: wire.Session{ID: id}, Resumed: 1 < conn && conn <= last})))
		events := resumed
		if conn == 1 || conn > last {
			hear()
			hear()
			events = begun
		}
		for _, e := range events {
			say(eventText(e))
		}
		say(eventText(wire.Event{Kind: wire.EventSession, Ready: &wire.Ready{Session: wire.Session{ID: fmt.Sprintf("s%d", conn)}}}))
		for hear() != "" {
		}
	})
}

// onConnection cuts the connection and waits until the client is ready on connection n.
func onConnection(t *testing.T, srv *toyServer, c *limpet.Client, n uint64) {
	t.Helper()
	srv.host.Network.CutAll()
	_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == n })
	assert.NoError(t, err)
	synctest.Wait()
}

// The state of a session may move while the server keeps the subscriptions in it. What
// counts is the session, not its state.
func TestKeptSubscriptionsInASessionThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{ByKey: true, Greeting: true, Confirms: true, Unsubscribe: true, KeepsSubs: true}}
		live := []wire.Event{{Kind: wire.EventSubscribed, Key: 1}, {Kind: wire.EventSubscribed, Key: 2}}
		data := wire.Event{Kind: wire.EventData, Key: 1, Message: wire.Message{Payload: []byte("x")}}
		srv := keepingServer(t, 3, append(live, data), []wire.Event{data})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		one, err := c.Subscribe(t.Context(), "one", nil)
		assert.NoError(t, err)
		two, err := c.Subscribe(t.Context(), "two", nil)
		assert.NoError(t, err)
		assert.NoError(t, two.WaitLive(t.Context()))
		synctest.Wait()
		onConnection(t, srv, c, 2)
		srv.host.Network.CutAll()
		assert.NoError(t, two.Close()) // offline
		time.Sleep(time.Minute)
		if got := payloads(collect(t, one, 3)); got != "x x x" {
			t.Errorf("a stream that goes on: %s", got)
		}
		want := `/ open "" subscribe one subscribe two / open "s1" / open "s2" unsubscribe two`
		if got := strings.Join(strings.Fields(srv.all()), " "); got != want {
			t.Errorf("the server heard\n%s\nwant\n%s", got, want)
		}
	})
}

// With StartSubs the dialect says which subscriptions go on. The client ends those that were
// closed in the meantime, but not a topic that has another subscription by now.
func TestServerKeepsNamedSubscriptions(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprint("again ", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := flexDialect{traits: wire.Traits{Greeting: true, Confirms: true, Unsubscribe: true, KeepsSubs: true, StartSubs: 10}}
				begun := []wire.Event{{Kind: wire.EventSubscribed, Name: "one"}, {Kind: wire.EventSubscribed, Name: "two"}}
				goesOn := []wire.Event{{Kind: wire.EventSubscribed, Name: "one", Continuity: wire.ContinuityProved}}
				if again {
					goesOn = append(goesOn, begun[1])
				}
				srv := keepingServer(t, 3, begun, goesOn)
				c, one, two := oneAndTwo(t, srv, d)
				defer closeAndWait(t, c)
				synctest.Wait()
				srv.host.Network.CutAll()
				assert.NoError(t, two.Close()) // offline
				if again {
					_, err := c.Subscribe(t.Context(), "two", nil)
					assert.NoError(t, err)
				}
				time.Sleep(time.Second)
				onConnection(t, srv, c, 3)
				if st := one.State(); st.Phase != limpet.SubLive || one.Stats().Resets != 0 {
					t.Errorf("%v, %d resets", st.Phase, one.Stats().Resets)
				}
				want := `/ open "" subscribe one subscribe two / open "s1" unsubscribe two / open "s2"`
				if again {
					want = `/ open "" subscribe one subscribe two / open "s1" / open "s2"`
				}
				if got := strings.Join(strings.Fields(srv.all()), " "); got != want {
					t.Errorf("the server heard\n%s\nwant\n%s", got, want)
				}
			})
		})
	}
}

// A consumer is at work when its subscription is closed and the connection breaks: the end is
// still owed to a server that keeps subscriptions.
func TestKeptSubscriptionIsClosedWhileAConsumerWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{
			ByKey: true, Greeting: true, Confirms: true, Unsubscribe: true, KeepsSubs: true, Processed: wire.ProcessedEach,
		}}
		begun := []wire.Event{{Kind: wire.EventSubscribed, Key: 1}, {Kind: wire.EventSubscribed, Key: 2}, {Kind: wire.EventData, Key: 2}}
		srv := keepingServer(t, 3, begun, nil)
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		_, err = c.Subscribe(t.Context(), "one", nil)
		assert.NoError(t, err)
		two, err := c.Subscribe(t.Context(), "two", nil)
		assert.NoError(t, err)
		for range two.Messages(t.Context()) {
			assert.NoError(t, two.Close())
			synctest.Wait()
			srv.host.Network.CutAll()
			time.Sleep(time.Second)
		}
		onConnection(t, srv, c, 3)
		want := `/ open "" subscribe one subscribe two / open "s1" unsubscribe two / open "s2"`
		if got := strings.Join(strings.Fields(srv.all()), " "); got != want {
			t.Errorf("the server heard\n%s\nwant\n%s", got, want)
		}
	})
}

// With StartSubs, a subscription of which the dialect says nothing is not taken for one that
// goes on.
func TestDialectSaysWhatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{Greeting: true, Confirms: true, Unsubscribe: true, KeepsSubs: true, StartSubs: 10}}
		data := wire.Event{Kind: wire.EventData, Name: "one", Message: wire.Message{Payload: []byte("x")}}
		begun := []wire.Event{{Kind: wire.EventSubscribed, Name: "one"}, {Kind: wire.EventSubscribed, Name: "two"}, data}
		srv := keepingServer(t, 3, begun, []wire.Event{begun[1]})
		c, one, two := oneAndTwo(t, srv, d)
		defer closeAndWait(t, c)
		if got := payloads(collect(t, one, 1)); got != "x" {
			t.Error(got)
		}
		synctest.Wait()
		srv.host.Network.CutAll()
		_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
		assert.NoError(t, err)
		assert.NoError(t, two.WaitLive(t.Context()))
		synctest.Wait()
		if one.State().Phase != limpet.SubRecovering || !c.State().Resumed {
			t.Errorf("one is %v, resumed %v", one.State().Phase, c.State().Resumed)
		}
	})
}

// oneAndTwo subscribes to "one" and "two", both live.
func oneAndTwo(t *testing.T, srv *toyServer, d wire.Dialect) (c *limpet.Client, one, two *limpet.Subscription) {
	t.Helper()
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
	assert.NoError(t, err)
	assert.NoError(t, c.WaitReady(t.Context()))
	one, err = c.Subscribe(t.Context(), "one", nil)
	assert.NoError(t, err)
	two, err = c.Subscribe(t.Context(), "two", nil)
	assert.NoError(t, err)
	assert.NoError(t, two.WaitLive(t.Context()))
	return c, one, two
}
