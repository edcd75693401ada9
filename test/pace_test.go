package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/raw"
)

// 300 subscriptions, each a message of its own, at a server that takes five messages a
// second: all become live, none is refused, and the time is not longer than it must be. So
// it is after a reconnect, from the first message on.
func TestRequestsKeepTheLimit(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			g := newGauge(t, 5)
			c := g.client(t, g.language(wire.ConnectionLimits{Messages: 5}), limpet.Options{PlainFrames: plain})
			subs := subscribeAll(t, c, 300)
			allLive(t, subs, 1, 80*time.Second) // at four a second, and pings
			g.host.Network.CutAll()
			allLive(t, subs, 2, 80*time.Second)
			g.check(t, 2)
			if n := len(g.sent("sub")); n != 600 {
				t.Errorf("%d requests, want 600: none twice on a connection", n)
			}
		})
	}
}

// A table whose requests name many topics puts as many into one message as ever: 1,000
// topics take ten messages, and their ends ten more. Behind a decorator that hides how many
// frames the codec makes, it takes twice as many.
func TestPacedRequestsArePacked(t *testing.T) {
	for _, decorated := range []bool{false, true} {
		for _, plain := range bothFrameLayers() {
			synctest.Test(t, func(t *testing.T) { packed(t, decorated, plain) })
		}
	}
}

func packed(t *testing.T, decorated, plain bool) {
	v := newVenue(t, "ends", true)
	v.tick = time.Hour
	v.table.Limits = wire.ConnectionLimits{Messages: 5}
	v.table.Subscribe.Max, v.table.Unsubscribe.Max = 100, 100
	dialect, err := feed.New(v.table)
	if err != nil {
		t.Fatal(err)
	}
	messages := 10
	if decorated {
		dialect, messages = noticing{dialect}, 20
	}
	c, err := limpet.New(v.host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: v.host.HTTPClient(), PlainFrames: plain}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	var subs []*limpet.Subscription
	for i := range 1000 {
		subs = append(subs, subscribe(t, c, fmt.Sprintf("trades/P%d", i)))
	}
	allLive(t, subs, 1, 10*time.Second)
	v.host.Network.CutAll()
	allLive(t, subs, 2, 10*time.Second)
	for _, s := range subs {
		s.Close()
	}
	time.Sleep(10 * time.Second)
	var all []asking
	for op, rounds := range map[string]int{"subscribe": 2, "unsubscribe": 1} {
		asked, topics := v.asked(op), 0
		for _, q := range asked {
			topics += len(q.Symbols)
		}
		if topics != 1000*rounds || len(asked) > (messages+1)*rounds {
			t.Errorf("decorated=%v: %s: %d topics in %d messages", decorated, op, topics, len(asked))
		}
		all = append(all, asked...)
	}
	slices.SortFunc(all, func(a, b asking) int { return a.at.Compare(b.at) })
	for i := 5; i < len(all); i++ {
		if d := all[i].at.Sub(all[i-5].at); d < time.Second {
			t.Errorf("six messages within %v", d)
		}
	}
}

// The time for an answer begins when the request is written, however long it has waited:
// nothing is asked for twice, but the topic that is never answered.
func TestPacedRequestsHaveTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 60)
		g.per, g.mute = time.Minute, "t40"
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 60, Per: time.Minute}), limpet.Options{})
		subs := subscribeAll(t, c, 100)
		began := time.Now()
		others := slices.Delete(slices.Clone(subs), 40, 41)
		allLive(t, others, 1, 4*time.Minute)
		if time.Since(began) < time.Minute {
			t.Errorf("live after %v: the limit shows nothing", time.Since(began))
		}
		if err := subs[40].WaitLive(within(t, 5*time.Minute)); !errors.Is(err, limpet.ErrUnanswered) {
			t.Errorf("the topic without answers: %v", err)
		}
		asked := g.sent("sub t40")
		if len(asked) != 3 {
			t.Fatalf("it was asked for %d times, want 3", len(asked))
		}
		for i := 1; i < len(asked); i++ {
			if pause := asked[i].at.Sub(asked[i-1].at); pause < 11*time.Second {
				t.Errorf("asked for again after %v", pause)
			}
		}
		if n := len(g.sent("sub")); n != 102 {
			t.Errorf("%d requests, want 102", n)
		}
		g.check(t, 1)
	})
}

// Pings, and answers to the server's, do not wait behind requests and messages, whichever
// language they are in, and they count.
func TestSignsOfLifeGoFirst(t *testing.T) {
	for _, control := range []bool{false, true} {
		for _, plain := range bothFrameLayers() {
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(t, 5)
				var asked []time.Time
				g.greet = func(say func(byte, string)) {
					go func() {
						for range 20 {
							time.Sleep(3 * time.Second)
							g.mu.Lock()
							asked = append(asked, time.Now())
							g.mu.Unlock()
							say(opText, "question")
							say(opPing, "")
						}
					}()
				}
				f := g.language(wire.ConnectionLimits{Messages: 5})
				if control {
					f.Ping = nil
				}
				c := g.client(t, f, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: 5 * time.Second}})
				subscribeAll(t, c, 200)
				for range 200 {
					if _, err := c.Publish(t.Context(), "t0", []byte("x"), nil); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(65 * time.Second)
				g.check(t, 1)
				g.mu.Lock()
				defer g.mu.Unlock()
				var pings, answers []time.Time
				for _, l := range g.lines {
					if l.op == opPing || l.text == "ping" {
						pings = append(pings, l.at)
					}
					if strings.HasPrefix(l.text, "answer") {
						answers = append(answers, l.at)
					}
				}
				for i := 1; i < len(pings); i++ {
					if d := pings[i].Sub(pings[i-1]); d > 6500*time.Millisecond {
						t.Errorf("%v between two pings", d)
					}
				}
				if len(pings) < 12 || len(answers) != len(asked) {
					t.Fatalf("%d pings, %d answers to %d questions", len(pings), len(answers), len(asked))
				}
				for i := range answers {
					if d := answers[i].Sub(asked[i]); d > 1050*time.Millisecond {
						t.Errorf("answered after %v", d)
					}
				}
			})
		}
	}
}

// A server that asks for signs of life all the time does not silence the client.
func TestFloodOfPingsSilencesNothing(t *testing.T) {
	for _, text := range []bool{false, true} {
		for _, plain := range bothFrameLayers() {
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(t, 1000)
				g.greet = func(say func(byte, string)) {
					go func() {
						for range 300 {
							time.Sleep(100 * time.Millisecond)
							if text {
								say(opText, "question")
							} else {
								say(opPing, "")
							}
						}
					}()
				}
				c := g.client(t, g.language(wire.ConnectionLimits{Messages: 5}), limpet.Options{PlainFrames: plain})
				allLive(t, subscribeAll(t, c, 3), 1, 14*time.Second)
				r, err := c.Publish(t.Context(), "t0", []byte("x"), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.Wait(within(t, 8*time.Second)); r.Outcome() != limpet.Written {
					t.Errorf("published: %v, %v", r.Outcome(), err)
				}
				time.Sleep(30 * time.Second)
				g.check(t, 1)
			})
		}
	}
}

// WebSocket pings and pongs count, however many there are.
func TestPingsAndPongsCount(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		for _, pings := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(t, 5)
				f, o := g.language(wire.ConnectionLimits{Messages: 5}), limpet.Options{PlainFrames: plain}
				f.Ping = nil
				if pings {
					o.Heartbeat.Interval = 300 * time.Millisecond
				} else {
					g.greet = func(say func(byte, string)) {
						go func() {
							for range 300 {
								say(opPing, "")
								time.Sleep(500 * time.Millisecond)
							}
						}()
					}
				}
				c := g.client(t, f, o)
				allLive(t, subscribeAll(t, c, 15), 1, 30*time.Second) // at less than two a second
				time.Sleep(150 * time.Second)
				g.check(t, 1)
			})
		}
	}
}

// A heartbeat that is shorter than the limit allows is paced too.
func TestPingsBeyondTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 5)
		f := g.language(wire.ConnectionLimits{Messages: 5})
		f.Ping = nil
		c := g.client(t, f, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 120 * time.Millisecond}})
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		g.check(t, 1)
	})
}

// The count goes on over a reconnect: a server may count by address.
func TestCountGoesOnOverAReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 28)
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 8, Burst: 20}), limpet.Options{Backoff: limpet.Backoff{First: -1}})
		subs := subscribeAll(t, c, 40)
		allLive(t, subs[:16], 1, 100*time.Millisecond)
		g.host.Network.CutAll()
		allLive(t, subs, 2, 10*time.Second)
		g.check(t, 2)
	})
}

// Published messages keep the limit and their order. One whose time ends while it waits was
// never sent.
func TestPublishesKeepTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 10)
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 10}), limpet.Options{})
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		var receipts []*limpet.Receipt
		for i := range 100 {
			o := &limpet.PublishOptions{}
			if i >= 90 {
				o.TTL = 5 * time.Second
			}
			r, err := c.Publish(t.Context(), "t0", fmt.Appendf(nil, "%d", i), o)
			if err != nil {
				t.Fatal(err)
			}
			receipts = append(receipts, r)
		}
		subscribed := time.Now()
		s := subscribe(t, c, "t0")
		if err := s.WaitLive(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(subscribed); d > time.Second {
			t.Errorf("live after %v: a request waits behind what is published", d)
		}
		for i, r := range receipts {
			want := limpet.Written
			if i >= 90 {
				want = limpet.Expired
			}
			if _, err := r.Wait(within(t, time.Minute)); r.Outcome() != want {
				t.Errorf("message %d: %v, %v", i, r.Outcome(), err)
			}
		}
		synctest.Wait()
		for i, l := range g.sent("pub") {
			if l.text != fmt.Sprintf("pub %d", i) {
				t.Fatalf("%q at place %d", l.text, i)
			}
		}
		if n := len(g.sent("pub")); n != 90 {
			t.Errorf("%d messages were sent, want 90", n)
		}
		g.check(t, 1)
	})
}

// A server with a token bucket gets up to its burst at once.
func TestBurstOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 28)
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 8, Burst: 20}), limpet.Options{})
		began := time.Now()
		subs := subscribeAll(t, c, 60)
		allLive(t, subs[:16], 1, time.Second)
		if time.Since(began) > 100*time.Millisecond {
			t.Errorf("16 requests took %v", time.Since(began))
		}
		allLive(t, subs, 1, 10*time.Second)
		if d := time.Since(began); d < 6*time.Second {
			t.Errorf("60 requests took %v", d)
		}
		g.check(t, 1)
	})
}

// The first texts of a connection count as well, on every connection.
func TestRawKeepsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 5)
		dialect := raw.New(raw.Options{
			Limits: wire.ConnectionLimits{Messages: 5},
			OnOpen: func(wire.Resume) (texts [][]byte) {
				for i := range 30 {
					texts = append(texts, fmt.Appendf(nil, "sub t%d", i))
				}
				return texts
			},
		})
		c := g.clientOf(t, dialect, limpet.Options{})
		synctest.Wait()
		s := subscribe(t, c, "*") // behind the texts: the first at once, then four a second
		if err := s.WaitLive(within(t, 8*time.Second)); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Second)
		if _, err := c.Publish(t.Context(), "*", []byte("pub x"), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		g.host.Network.CutAll()
		time.Sleep(20 * time.Second)
		texts := g.sent("sub")
		if len(texts) != 60 || len(g.sent("pub")) != 1 {
			t.Fatalf("%d texts, %d messages", len(texts), len(g.sent("pub")))
		}
		for i, l := range texts {
			if l.text != fmt.Sprintf("sub t%d", i%30) {
				t.Fatalf("%q at place %d", l.text, i)
			}
		}
		g.check(t, 2)
	})
}

// wordy is a dialect that says everything in eight frames, and does not count them.
type wordy struct{ wire.Dialect }

func (d wordy) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return wordyCodec{c}, err
}

type wordyCodec struct{ wire.Codec }

func (c wordyCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	var one wire.Frames
	err := c.Codec.Encode(ops, &one)
	for _, f := range one.List {
		for range 7 {
			out.Append(wire.Text, []byte("first"))
		}
		out.Append(f.Type, f.Data)
	}
	return err
}

// A dialect that makes more frames than the client expects exceeds no limit: what is too
// much waits, in order, and with nothing in between.
func TestUnexpectedFramesKeepTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 5)
		g.mute = "t3"
		f := g.language(wire.ConnectionLimits{Messages: 5})
		dialect, err := feed.NewFuncs(f)
		if err != nil {
			t.Fatal(err)
		}
		c := g.clientOf(t, wordy{dialect}, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 5 * time.Second}})
		subs := subscribeAll(t, c, 6)
		r, err := c.Publish(t.Context(), "t0", []byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Wait(within(t, 40*time.Second))
		synctest.Wait()
		if r.Outcome() != limpet.Written || len(g.sent("pub")) != 1 {
			t.Errorf("published: %v, %v; the server has %d", r.Outcome(), err, len(g.sent("pub")))
		}
		allLive(t, slices.Delete(slices.Clone(subs), 3, 4), 1, 40*time.Second)
		if err := subs[3].WaitLive(within(t, time.Minute)); !errors.Is(err, limpet.ErrUnanswered) {
			t.Error(err)
		}
		g.mu.Lock()
		for i, l := range g.lines {
			if (l.text == "first") == (i%8 == 7) {
				t.Fatalf("%q at place %d", l.text, i)
			}
		}
		g.mu.Unlock()
		g.check(t, 1)
	})
}

// miscounts is a dialect whose CountFrames panics, or returns a wrong number.
type miscounts struct {
	wire.Dialect
	count func() int
}

func (d miscounts) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return miscountsCodec{c, d.count}, err
}

type miscountsCodec struct {
	wire.Codec
	count func() int
}

func (c miscountsCodec) CountFrames([]wire.Op) int { return c.count() }

// A dialect that counts its frames wrong, or panics, exceeds no limit and stops nothing.
func TestFramesCountedWrong(t *testing.T) {
	for _, count := range []func() int{func() int { panic("no idea") }, func() int { return -1 }, func() int { return 0 }, func() int { return 1 << 40 }} {
		synctest.Test(t, func(t *testing.T) {
			g := newGauge(t, 5)
			dialect, err := feed.NewFuncs(g.language(wire.ConnectionLimits{Messages: 5}))
			if err != nil {
				t.Fatal(err)
			}
			c := g.clientOf(t, miscounts{dialect, count}, limpet.Options{})
			subs := subscribeAll(t, c, 20)
			allLive(t, subs, 1, 10*time.Second)
			subs[3].Close()
			if err := subscribe(t, c, "t3").WaitLive(within(t, 5*time.Second)); err != nil {
				t.Error(err)
			}
			g.check(t, 1)
		})
	}
}
