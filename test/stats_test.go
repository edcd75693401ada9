package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/limpet-go/limpet/wire/raw"
)

// outages collects the events OutageEnded.
type outages struct {
	mu   sync.Mutex
	list []limpet.OutageEnded
}

func (o *outages) Observe(e limpet.Event) {
	if e, ok := e.(limpet.OutageEnded); ok {
		o.mu.Lock()
		o.list = append(o.list, e)
		o.mu.Unlock()
	}
}

func (o *outages) all() []limpet.OutageEnded {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]limpet.OutageEnded(nil), o.list...)
}

// An outage lasts from the loss until every subscription is live again. What was missed is
// counted: here the server keeps 10 messages of 100. How many are missing of this topic
// it does not say.
func TestOutageIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 10}}})
		var seen outages
		c := dial(t, srv, &limpet.Options{Observer: &seen, Histograms: true})
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "first")
		collect(t, s, 1)
		synctest.Wait()
		if st := c.Stats(); st.Outages != 0 || st.Outage != 0 || st.OutageTime != 0 || st.Live != 1 || st.ConnectedSince.IsZero() {
			t.Errorf("before: %+v", st)
		}

		srv.Stop()
		lost := time.Now()
		time.Sleep(10 * time.Second)
		st := c.Stats()
		if st.Outages != 1 || st.Outage != 10*time.Second || st.OutageTime != st.Outage || st.Live != 0 || !st.ConnectedSince.IsZero() || len(seen.all()) != 0 {
			t.Errorf("in the outage: %+v", st)
		}
		srv.Start()
		publish(t, srv, "a", numbers(1, 100)...)
		assert.NoError(t, c.WaitReady(context.Background()))
		assert.NoError(t, s.WaitLive(context.Background()))
		took := time.Since(lost)
		synctest.Wait()
		st = c.Stats()
		if st.Outages != 1 || st.Outage != 0 || st.OutageTime != took || st.Live != 1 {
			t.Errorf("after %v: %+v", took, st)
		}
		if st.Messages.Gaps != 1 || st.Messages.Missed != 0 {
			t.Errorf("missed %d messages in %d gaps", st.Messages.Missed, st.Messages.Gaps)
		}
		all := seen.all()
		if len(all) != 1 || all[0].Duration != took || all[0].Attempts != int(st.Attempts-1) || all[0].Attempts < 2 || all[0].Gaps != 1 || all[0].Missed != 0 || all[0].Unproved != 0 {
			t.Errorf("reported %+v", all)
		}
		if h := c.Histograms(); h.Outage.Count != 1 || h.Outage.Sum != took || !h.Measured {
			t.Errorf("%+v", h)
		}
	})
}

// A subscription that is not live again keeps the outage; one that was never live, or is
// closed, does not.
func TestOutageWaitsForSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		refused := map[string]bool{"never": true}
		refuse := func(topic string, is bool) {
			mu.Lock()
			defer mu.Unlock()
			refused[topic] = is
		}
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{Authorize: func(_ server.Principal, _ server.Verb, topic string) error {
			mu.Lock()
			defer mu.Unlock()
			if refused[topic] {
				return context.DeadlineExceeded // for now
			}
			return nil
		}}}})
		c := dial(t, srv, nil)
		subscribeLive(t, c, "a", nil)
		b := subscribeLive(t, c, "b", nil)
		subscribe(t, c, "never")
		refuse("b", true)
		synctest.Wait()
		srv.Network.CutAll()
		time.Sleep(time.Minute)
		if st := c.Stats(); st.Outage < 59*time.Second || st.Live != 1 {
			t.Errorf("b is refused, and the outage has lasted %v", st.Outage)
		}
		srv.Network.CutAll() // another loss in the same outage
		time.Sleep(10 * time.Second)
		if st := c.Stats(); st.Outage < 69*time.Second || st.Outages != 1 {
			t.Errorf("b is still refused: outage %d has lasted %v", st.Outages, st.Outage)
		}
		refuse("b", false)
		assert.NoError(t, b.WaitLive(context.Background()))
		synctest.Wait()
		if st := c.Stats(); st.Outage != 0 || st.OutageTime < time.Minute {
			t.Errorf("b is live again, and the outage has lasted %v", st.Outage)
		}
		refuse("b", true)
		srv.Network.CutAll()
		time.Sleep(time.Minute)
		b.Close()
		synctest.Wait()
		if st := c.Stats(); st.Outage != 0 || st.Outages != 2 {
			t.Errorf("b is closed, and the outage has lasted %v", st.Outage)
		}
	})
}

// Stats.Messages is the sum over all subscriptions, also over those that have ended, and
// what was received is accounted for.
func TestMessagesAreAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		var want limpet.SubStats
		for i := range 20 {
			s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 8}})
			publish(t, srv, "a", numbers(1, 10)...)
			synctest.Wait()
			if i%2 == 0 {
				collect(t, s, 4)
			}
			s.Close()
			synctest.Wait()
			one := s.Stats()
			want.Received, want.Delivered, want.Dropped = want.Received+one.Received, want.Delivered+one.Delivered, want.Dropped+one.Dropped
		}
		last := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "12345")
		synctest.Wait()
		st := c.Stats()
		m := st.Messages
		if m.Received != want.Received+1 || m.Delivered != want.Delivered || m.Dropped != want.Dropped || m.Waiting != 1 || m.WaitingBytes != 5 || m.Delivered != 40 {
			t.Errorf("%+v, want %+v and one that waits", m, want)
		}
		if st.Subscriptions != 1 || st.Live != 1 {
			t.Errorf("%d subscriptions, %d live", st.Subscriptions, st.Live)
		}
		collect(t, last, 1)
		closeAndWait(t, c)
		if after := c.Stats().Messages; after.Received != m.Received || after.Waiting != 0 || after.Received != after.Delivered+after.Dropped {
			t.Errorf("after the end: %+v", after)
		}
	})
}

// The window, the oldest message in it and the silence are measured while the server is silent.
func TestGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Up: 20 * time.Millisecond, Down: 20 * time.Millisecond}})
		c := dial(t, srv, &limpet.Options{Histograms: true, Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}})
		s := subscribeLive(t, c, "a", nil)
		time.Sleep(5 * time.Second)
		publish(t, srv, "a", "x")
		collect(t, s, 1)
		began := time.Now()
		_, err := c.Send(context.Background(), "b", []byte("y"), nil)
		assert.NoError(t, err)
		took := time.Since(began)
		if h := c.Histograms().Publish; h.Count != 1 || h.Sum != took || took < 40*time.Millisecond {
			t.Errorf("published in %v: %+v", took, h)
		}
		time.Sleep(time.Minute)
		st := c.Stats()
		if st.PingRTT < 40*time.Millisecond || st.PingRTT > 50*time.Millisecond {
			t.Errorf("ping took %v", st.PingRTT)
		}
		if h := c.Histograms(); h.Ping.Count < 3 || h.Delivery.Count != 1 || h.Delivery.Sum > time.Second {
			t.Errorf("%+v", h)
		}
		if st.Silence < time.Minute || st.Silence > time.Minute+time.Second {
			t.Errorf("silent for %v", st.Silence)
		}
		if st.Window != 0 || st.WindowBytes != 0 || st.OldestPending != 0 {
			t.Errorf("empty window: %+v", st)
		}
		srv.Stop()
		for range 3 {
			_, err := c.Publish(context.Background(), "b", []byte("12345"), nil)
			assert.NoError(t, err)
			time.Sleep(time.Second)
		}
		if st := c.Stats(); st.Window != 3 || st.WindowBytes != 15 || st.OldestPending != 3*time.Second {
			t.Errorf("full window: %d messages, %d bytes, the oldest of %v", st.Window, st.WindowBytes, st.OldestPending)
		}
		closeAndWait(t, c)
		if h := c.Histograms(); h.Connection.Count != 1 || h.Connection.Sum < time.Minute || h.Publish.Count != 4 {
			t.Errorf("after the end: %+v", h)
		}
		if st := c.Stats(); st.Outage != 0 || st.OutageTime != 3*time.Second || st.OldestPending != 0 || st.Window != 0 || st.WindowBytes != 0 {
			t.Errorf("after the end: %+v", st)
		}
	})
}

// Attempts and losses are counted by the class of their error.
func TestFailuresByClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.Refuse(2), limpettest.RefuseUpgrade(http.StatusServiceUnavailable, nil), limpettest.Clean())
		c := dial(t, srv, nil)
		srv.Network.ResetAll()
		synctest.Wait()
		assert.NoError(t, c.WaitReady(context.Background()))
		st := c.Stats()
		if st.FailedAttempts.Of(limpet.ClassDial) != 2 || st.FailedAttempts.Of(limpet.ClassOverload) != 1 || st.Lost.Of(limpet.ClassNetwork) != 1 {
			t.Errorf("failed %v, lost %v", st.FailedAttempts, st.Lost)
		}
		sum := uint64(0)
		for _, n := range st.FailedAttempts.All() {
			sum += n
		}
		if sum != 3 || st.Attempts != sum+st.Connections {
			t.Errorf("%d attempts, %d failed, %d connections", st.Attempts, sum, st.Connections)
		}
		text, err := json.Marshal(st)
		assert.NoError(t, err)
		if !strings.Contains(string(text), `"FailedAttempts":{"dial":2,"overload":1}`) || !strings.Contains(string(text), `"SubPhases":{"ended":0,"live":0,"pending":0,"recovering":0}`) {
			t.Errorf("%s", text)
		}
	})
}

// The messages missing in a gap are counted, where numbers say how many.
func TestMissedMessagesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) { p.text(`{"n":1}`, `{"n":2}`, `{"n":5}`, `{"n":9}`) })
		number := func(f wire.Frame) raw.Label { return raw.Label{Number: uint64(*jsonNumber(f, "n")), Numbered: true} }
		_, subs := srv.client(t, raw.Options{Topic: number}, limpet.Options{}, "*")
		collect(t, subs[0], 6)
		if st := subs[0].Stats(); st.Gaps != 2 || st.Missed != 5 {
			t.Errorf("%+v", st)
		}
	})
}

// Neither an attempt that fails in the handshake nor the end of the client is an outage.
func TestFailedHandshakeIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.CutAfterFrames(limpettest.Down, 0), limpettest.Clean())
		c := dial(t, srv, nil)
		synctest.Wait()
		if st := c.Stats(); st.Outages != 0 || st.OutageTime != 0 || st.Attempts != 2 {
			t.Errorf("%+v", st)
		}
		closeAndWait(t, c)
		if st := c.Stats(); st.Outages != 0 {
			t.Errorf("after Close: %+v", st)
		}
	})
}

// A message that is sent again in a new session is as old as before.
func TestOldestOutlivesItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{SessionTTL: time.Second}})
		c := dial(t, srv, nil)
		synctest.Wait()
		srv.Stop()
		_, err := c.Publish(context.Background(), "a", []byte("x"), nil)
		assert.NoError(t, err)
		time.Sleep(10 * time.Second)
		srv.Inject(limpettest.BlackHole(limpettest.Up).AfterFrames(limpettest.Up, 1))
		srv.Start()
		assert.NoError(t, c.WaitReady(context.Background()))
		synctest.Wait()
		if st := c.Stats(); st.OldestPending < 10*time.Second || st.Resumes != 0 || st.Connections != 2 {
			t.Errorf("%+v", st)
		}
	})
}

// A WebSocket ping is measured until its pong, with either frame layer. One to which no pong
// comes has no duration.
func TestPingIsMeasured(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			srv := newPlainServer(t, func(*plainConn) {})
			srv.host = limpettest.NewHandler(t, http.HandlerFunc(srv.serve), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Up: 10 * time.Millisecond, Down: 10 * time.Millisecond}})
			c, _ := srv.client(t, raw.Options{}, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: time.Second}, Histograms: true})
			time.Sleep(5 * time.Second)
			if st, h := c.Stats(), c.Histograms().Ping; st.PingRTT.Round(time.Microsecond) != 20*time.Millisecond || h.Count < 3 || h.Sum.Round(time.Microsecond) != time.Duration(h.Count)*20*time.Millisecond {
				t.Errorf("plain %v: %v, %+v", plain, st.PingRTT, h)
			}
			count := c.Histograms().Ping.Count
			srv.host.Inject(limpettest.Refuse(1000))
			srv.host.Network.Strike(limpettest.BlackHole(limpettest.Down))
			time.Sleep(10 * time.Second)
			if h := c.Histograms().Ping; c.Stats().Lost.Of(limpet.ClassTimeout) != 1 || h.Count > count+1 {
				t.Errorf("plain %v: %d pings measured, then %d", plain, count, h.Count)
			}
		})
	}
}

// Where the server proves nothing, the end of an outage does not say that nothing is missing.
func TestOutageOfAServerThatProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen outages
		srv := newPlainServer(t, func(p *plainConn) {})
		c, _ := srv.client(t, raw.Options{}, limpet.Options{Observer: &seen}, "*")
		assert.NoError(t, c.WaitReady(context.Background()))
		srv.cut(t, c)
		synctest.Wait()
		if all := seen.all(); len(all) != 1 || all[0].Unproved != 1 || all[0].Gaps != 0 {
			t.Errorf("%+v", all)
		}
	})
}

// A consumer that is slow shows in the histogram of delivery also when all messages come in
// one socket read. While it waits, and after Close, every delivered message is counted.
func TestLagOfABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) { p.text(numbers(1, 100)...) })
		c, subs := srv.client(t, raw.Options{}, limpet.Options{Histograms: true}, "*")
		go func() {
			for range subs[0].Messages(t.Context()) {
				time.Sleep(time.Second)
			}
		}()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		const lag = 99 * 100 / 2 * time.Second // 0, 1, 2 and so on to 99 seconds
		if h := c.Histograms().Delivery; h.Count != 100 || h.Sum < lag*3/4 || h.Sum > lag*5/4 {
			t.Errorf("%d measured, in %v; want 100 in %v", h.Count, h.Sum, lag)
		}
		subs[0].Close()
		synctest.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) { p.text(numbers(1, 10)...) })
		c, subs := srv.client(t, raw.Options{}, limpet.Options{Histograms: true}, "*")
		collect(t, subs[0], 7)
		subs[0].Close()
		if h := c.Histograms().Delivery; h.Count != 7 {
			t.Errorf("%d measured after Close, want 7", h.Count)
		}
	})
}

// A counter does not fall, whatever numbers a server sends.
func TestMissedMessagesDoNotFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen outages
		srv := newPlainServer(t, func(p *plainConn) {
			p.text("1", fmt.Sprint(uint64(math.MaxUint64)), "1", fmt.Sprint(uint64(math.MaxUint64)))
		})
		number := func(f wire.Frame) (l raw.Label) {
			fmt.Sscan(string(f.Data), &l.Number)
			l.Numbered = true
			return l
		}
		c, subs := srv.client(t, raw.Options{Topic: number}, limpet.Options{Observer: &seen}, "*")
		collect(t, subs[0], 7)
		srv.cut(t, c)
		collect(t, subs[0], 8)
		synctest.Wait()
		if st, one := c.Stats().Messages, subs[0].Stats(); st.Gaps != 4 || st.Missed != math.MaxUint64 || one.Missed != math.MaxUint64 {
			t.Errorf("%+v, %+v", st, one)
		}
		if all := seen.all(); len(all) != 1 || all[0].Missed != 0 && all[0].Missed < math.MaxUint64-2 {
			t.Errorf("%+v", all)
		}
	})
}

// A subscription that the server refuses for good is in no other number: the rest of the
// client goes on.
func TestFailedSubscriptionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(_ server.Principal, _ server.Verb, topic string) error {
				if topic == "private" {
					return &server.Error{Code: native.CodeForbidden}
				}
				return nil
			},
		}}})
		c := dial(t, srv, &limpet.Options{Backoff: limpet.Backoff{MaxElapsed: time.Minute}})
		subscribeLive(t, c, "a", nil).Close()
		subscribeLive(t, c, "b", nil)
		refused := subscribe(t, c, "private")
		synctest.Wait()
		if st := c.Stats(); refused.Err() == nil || st.FailedSubscriptions != 1 || st.Live != 1 || st.Subscriptions != 1 || st.Outage != 0 {
			t.Errorf("%v: %+v", refused.Err(), st)
		}
		srv.Stop()
		<-c.Done()
		if st := c.Stats(); st.FailedSubscriptions != 1 {
			t.Errorf("the client has failed: %+v", st)
		}
	})
}

// The gauges of subscriptions fall when these have ended and their consumers have taken
// everything, also after the end of the client, and whatever was not acknowledged.
func TestGaugesOfEndedSubscriptionsFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		for _, manual := range []bool{false, true} {
			s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{ManualAck: manual})
			publish(t, srv, "a", "1", "2")
			synctest.Wait()
			for range s.Messages(t.Context()) {
				break // without an acknowledgement
			}
			if n := c.Stats().Messages.Unacked; n != 1 {
				t.Errorf("ManualAck %v: %d not acknowledged", manual, n)
			}
			s.Close()
			synctest.Wait()
			if st := c.Stats(); st.Messages.Unacked != 0 || st.Subscriptions != 0 || s.Stats().Unacked != 1 {
				t.Errorf("ManualAck %v: closed: %+v", manual, st)
			}
		}
		held := subscribeLive(t, c, "a", nil).C()
		publish(t, srv, "a", "3")
		synctest.Wait()
		closeAndWait(t, c)
		synctest.Wait()
		if st := c.Stats(); st.Messages.Unacked != 0 || st.Subscriptions != 0 || st.Messages.Dropped != 3 || len(held) != 0 {
			t.Errorf("after the end: %+v", st)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Backoff: limpet.Backoff{MaxElapsed: time.Minute}})
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "1", "2")
		synctest.Wait()
		srv.Stop()
		<-c.Done()
		if st := c.Stats(); st.Subscriptions != 1 || st.Messages.Waiting != 2 {
			t.Errorf("failed, and messages wait: %+v", st)
		}
		collect(t, s, 2)
		if st := c.Stats(); st.Subscriptions != 0 || st.Messages.Waiting != 0 || st.Messages.Delivered != 2 {
			t.Errorf("failed, and everything was taken: %+v", st)
		}
	})
}

// A client whose subscriptions get nothing is silent, whatever comes for other topics.
func TestOtherTopicsAreSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) {
			p.text("mine")
			for range 60 {
				time.Sleep(10 * time.Second)
				p.text("other")
			}
		})
		topic := func(f wire.Frame) raw.Label { return raw.Label{Topic: string(f.Data)} }
		c, _ := srv.client(t, raw.Options{Topic: topic}, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Hour}}, "mine")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := c.Stats(); st.Silence.Round(time.Second) != 5*time.Minute || st.Unrequested < 29 || st.Messages.Received != 1 {
			t.Errorf("silent for %v, %d unrequested, %d received", st.Silence, st.Unrequested, st.Messages.Received)
		}
	})
}
