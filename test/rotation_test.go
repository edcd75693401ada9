package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/native"
)

// A server moves its clients to another URL: only to a host that the user has listed, and for
// one connection.
func TestGoAwayNamesAURL(t *testing.T) {
	for name, tc := range map[string]struct {
		url    string
		listed []string
		want   []string // the requests
		says   string   // why the URL is not followed
	}{
		"listed":      {"ws://b.test/x?node=7", []string{"b.test"}, []string{"a.test/v1", "b.test/x?node=7", "a.test/v1"}, ""},
		"relative":    {"/v2", []string{"b.test"}, []string{"a.test/v1", "a.test/v2", "a.test/v1"}, ""},
		"not listed":  {"ws://c.test/x?secret=canary", []string{"b.test"}, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, `"c.test"`},
		"none listed": {"ws://b.test/x?secret=canary", nil, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, `"b.test"`},
		"user":        {"ws://me:canary@b.test/x", []string{"b.test"}, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, "user information"},
		"no URL":      {"http://%zz/canary", []string{"b.test"}, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, "no URL"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				script := &scriptedServer{t: t, talk: func(p *scriptedConn) {
					p.sendFrames(p.welcome())
					if p.number == 1 {
						p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4301, URL: tc.url}})
					}
				}}
				for _, addr := range []string{"a.test:80", "b.test:80", "c.test:80"} {
					s.host(t, addr, script.serve)
				}
				var mu sync.Mutex
				var failed []limpet.RotationFailed
				c, err := limpet.Dial(withinAnHour(t), "ws://a.test/v1", options(&limpet.Options{
					HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: tc.listed}, Heartbeat: rareHeartbeats,
					Observer: observer(func(e limpet.Event) {
						if f, ok := e.(limpet.RotationFailed); ok {
							mu.Lock()
							failed = append(failed, f)
							mu.Unlock()
						}
					}),
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				at := func(generation uint64) limpet.State {
					st, err := c.WaitState(withinAnHour(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == generation })
					assert.NoError(t, err)
					return st
				}
				if st := at(2); !strings.HasPrefix(tc.want[1], st.Host+"/") || c.Stats().Outages != 0 {
					t.Errorf("%+v after %d outages, want the host of %s", st, c.Stats().Outages, tc.want[1])
				}
				s.network.CutAll()
				at(3)
				if got := s.requests(); !slices.Equal(got, tc.want) {
					t.Errorf("requests %q, want %q", got, tc.want)
				}
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				switch {
				case tc.says == "" && len(failed) == 0:
				case tc.says == "" || len(failed) != 1:
					t.Errorf("%d times no connection: %v", len(failed), failed)
				default:
					text := failed[0].Cause.Error()
					if !errors.Is(failed[0].Cause, limpet.ErrRedirect) || failed[0].Cause.Field != "Options.Redirects" ||
						!strings.Contains(text, tc.says) || strings.Contains(text, "canary") {
						t.Errorf("%v", failed[0].Cause)
					}
				}
			})
		})
	}
}

// The deadline of a goaway bounds the time in which clients leave: none is cut off.
func TestGoAwayDeadlineBoundsTheSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			var asked, came time.Time
			s := newScriptedServer(t, func(p *scriptedConn) {
				p.sendFrames(p.welcome())
				if p.number > 1 {
					came = time.Now()
					return
				}
				asked = time.Now()
				p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, After: 2_000, Spread: 300_000, DL: 10_000}})
				time.Sleep(10 * time.Second)
				p.ws.CloseNow()
			})
			c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
			_, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
			assert.NoError(t, err)
			synctest.Wait()
			if left := came.Sub(asked); left < 2*time.Second || left > 8*time.Second || c.Stats().Outages != 0 {
				t.Errorf("left %v after the goaway, %d outages; want 2 s to 7.5 s and none", left, c.Stats().Outages)
			}
		}
	})
}

// movingFeed is a feed whose first connection asks for another one. Messages are numbered by
// the time at which they are sent, ten a second.
type movingFeed struct {
	began    time.Time
	confirms time.Duration // how long the second connection takes to confirm
	answers  time.Duration // how long it takes to answer a message

	mu   sync.Mutex
	pubs map[string]int // connection by payload
}

func (f *movingFeed) funcs(numbered bool) feed.Funcs {
	return feed.Funcs{
		Name: "moving", Confirms: true, Acks: true, Numbered: numbered,
		Subscribe: func(a feed.Ask) ([]byte, error) { return []byte("sub " + a.Topic), nil },
		Publish: func(id uint64, m wire.Message) ([]byte, error) {
			return fmt.Appendf(nil, "pub %d %s", id, m.Payload), nil
		},
		Read: func(data []byte, say func(feed.Item)) error {
			words := strings.Fields(string(data))
			n, _ := strconv.ParseUint(words[1], 10, 64)
			switch words[0] {
			case "live":
				say(feed.Item{Kind: feed.Answered, Topic: words[2]})
			case "done":
				say(feed.Item{Kind: feed.Answered, ID: n})
			case "leave":
				say(feed.Item{Kind: feed.GoAway})
			default:
				say(feed.Item{Kind: feed.Data, Topic: words[0], Number: n})
			}
			return nil
		},
	}
}

func (f *movingFeed) talk(conn int, say func(string), hear func() string) {
	var writes sync.Mutex
	speak := func(text string) {
		writes.Lock()
		defer writes.Unlock()
		say(text)
	}
	ended := make(chan struct{})
	defer close(ended)
	wait := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ended:
			return false
		}
	}
	for request := hear(); request != ""; request = hear() {
		words := strings.Fields(request)
		switch words[0] {
		case "sub":
			go func() {
				if conn > 1 && !wait(f.confirms) {
					return
				}
				speak("live 0 " + words[1])
				for {
					next := int(time.Since(f.began)/(100*time.Millisecond)) + 1
					if !wait(time.Until(f.began.Add(time.Duration(next) * 100 * time.Millisecond))) {
						return
					}
					speak(fmt.Sprintf("%s %d", words[1], next))
				}
			}()
			if conn == 1 {
				time.AfterFunc(5*time.Second, func() { speak("leave 0") })
			}
		case "pub":
			f.mu.Lock()
			f.pubs[words[2]] = conn
			f.mu.Unlock()
			time.AfterFunc(f.answers, func() { speak("done " + words[1]) })
		}
	}
}

func (f *movingFeed) dialect(t *testing.T, numbered bool) wire.Dialect {
	dialect, err := feed.NewFuncs(f.funcs(numbered))
	assert.NoError(t, err)
	return dialect
}

func (f *movingFeed) start(t *testing.T, numbered bool) (*limpet.Client, *limpet.Subscription) {
	f.began, f.pubs = time.Now(), map[string]int{}
	srv := newToyServer(t, f.talk)
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: f.dialect(t, numbered)}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	sub, err := c.Subscribe(t.Context(), "a", nil)
	assert.NoError(t, err)
	return c, sub
}

// A server that cannot resume delivers on the connection that was left until the next one does.
// With numbers nothing is missing and nothing comes twice; without, the stream says that this
// is not known.
func TestOldConnectionDeliversUntilTheNextDoes(t *testing.T) {
	for _, numbered := range []bool{true, false} {
		t.Run(fmt.Sprintf("numbered=%v", numbered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &movingFeed{confirms: 3 * time.Second}
				c, sub := f.start(t, numbered)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var last uint64
				var losses []limpet.Message
				messages, pause, at := 0, time.Duration(0), time.Now()
				for m, err := range sub.Messages(ctx) {
					if err != nil {
						break
					}
					if m.Loss != nil {
						losses = append(losses, m)
						continue
					}
					if messages > 0 {
						pause = max(pause, m.ReceivedAt.Sub(at))
					}
					if numbered && last != 0 && m.Position.Offset != last+1 {
						t.Errorf("%d after %d", m.Position.Offset, last)
					}
					messages, at, last = messages+1, m.ReceivedAt, m.Position.Offset
				}
				st := c.State()
				if st.Generation != 2 || messages < 290 || pause > 150*time.Millisecond || c.Stats().Outages != 0 {
					t.Errorf("%+v: %d messages, at most %v between two, %d outages", st, messages, pause, c.Stats().Outages)
				}
				if numbered && len(losses) != 0 || !numbered && len(losses) != 1 {
					t.Errorf("losses: %v", losses)
				}
			})
		})
	}
}

// A next connection that takes long to serve is an outage, from the moment at which nothing
// is delivered.
func TestSlowChangeIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &movingFeed{confirms: 8 * time.Second}
		c, _ := f.start(t, true)
		time.Sleep(time.Minute)
		if st := c.Stats(); st.Outages != 1 || st.OutageTime < 3*time.Second || st.OutageTime > 4*time.Second || st.Outage != 0 {
			t.Errorf("%d outages, %v, now %v; want 1 of 3 s, behind the 5 s of the overlap", st.Outages, st.OutageTime, st.Outage)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			if p.number > 1 {
				time.Sleep(4 * time.Second)
			}
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			if p.number == 1 {
				time.Sleep(time.Second)
				p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300}})
			}
		})
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		time.Sleep(time.Minute)
		if st := c.Stats(); st.Outages != 1 || st.OutageTime < 4*time.Second || st.OutageTime > 5*time.Second || st.Outage != 0 {
			t.Errorf("%d outages, %v, now %v; want 1 of 4 s", st.Outages, st.OutageTime, st.Outage)
		}
	})
}

// Without sessions the outcome of a message is that of the connection that carried it: the
// change waits for it, and messages that follow wait for the change.
func TestPublishWaitsForTheNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &movingFeed{answers: 2 * time.Second}
		c, _ := f.start(t, true)
		var all sync.WaitGroup
		for n := range 200 { // one each 100 ms, so that one is always on its way
			all.Go(func() {
				if _, err := c.Send(t.Context(), "a", fmt.Append(nil, n), nil); err != nil {
					t.Errorf("message %d: %v", n, err)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		all.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.State().Generation != 2 || len(f.pubs) != 200 || f.pubs["0"] != 1 || f.pubs["199"] != 2 {
			t.Errorf("%+v: %d messages, the first on connection %d, the last on %d", c.State(), len(f.pubs), f.pubs["0"], f.pubs["199"])
		}
	})
}

// A connection is renewed before its age is over, which counts from its upgrade: also if it had to
// wait until the one before could be left.
func TestAgeCountsFromTheUpgrade(t *testing.T) {
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(t, nil, func(p *scriptedConn) { p.sendFrames(p.welcome()) }, func(int, http.ResponseWriter) bool { return false })
			c, _ := g.start(limpet.Options{Heartbeat: rareHeartbeats, Limits: wire.ConnectionLimits{Age: time.Minute}})
			waitFor(t, c, 1)
			for range 3 { // without an outcome, so that each change waits for 3 s
				_, err := c.Publish(t.Context(), "a", nil, nil)
				assert.NoError(t, err)
			}
			waitFor(t, c, 4)
			at := g.asked()
			for i, t1 := range at[1:] {
				if age := t1.Sub(at[i]); age > 59*time.Second {
					t.Errorf("connection %d was renewed after %v", i+1, age)
				}
			}
		})
	}
}

// The attempt to make the next connection gets as much time as any other: its timeout grows.
func TestDialTimeoutOfTheNextConnectionGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		slow.Store(true)
		g := newGate(t, nil, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			if p.number == 1 {
				p.sendFrames(goAway)
			}
		}, func(n int, w http.ResponseWriter) bool {
			if n > 1 && slow.Load() {
				time.Sleep(15 * time.Second) // longer than Options.DialTimeout
			}
			return false
		})
		c, _ := g.start(limpet.Options{Heartbeat: rareHeartbeats})
		waitFor(t, c, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		_, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
		if n := len(g.asked()); err != nil || n != 3 {
			t.Fatalf("%d attempts: %v", n, err)
		}
		began := time.Now()
		g.host.Network.CutAll() // the next attempt has the first timeout again
		st, err := c.WaitState(withinAnHour(t), func(s limpet.State) bool { return limpet.ClassOf(s.Cause) == limpet.ClassTimeout })
		if took := time.Since(began); err != nil || took > 11*time.Second {
			t.Errorf("an attempt ended after %v: %v", took, st.Cause)
		}
	})
}
