package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/limpet-go/limpet/wire/raw"
)

const smallReadLimit = 64 << 10

var tooLong = strings.Repeat("x", 70<<10)

// TestTooBigIsAGap: a server of limpet.v1 knows what the client reads. A message beyond it
// is a Gap in its place, on the same connection, and the stream resumes behind it.
func TestTooBigIsAGap(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		for _, enc := range []native.Encoding{native.JSON, native.Binary} {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{ReadLimit: smallReadLimit, PlainFrames: plain, Dialect: native.New(&native.Options{Encoding: enc})})
				s := subscribeLive(t, c, "a", nil)
				publish(t, srv, "a", "1", tooLong, "3", tooLong, tooLong, "6", tooLong)
				const want = "1 gap(1,2] 3 gap(3,5] 6 gap(6,7]"
				synctest.Wait() // gaps that wait side by side are one
				got := collect(t, s, 6)
				synctest.Wait()
				srv.Host.Network.CutAll()
				publish(t, srv, "a", "8")
				if got = append(got, collect(t, s, 1)...); payloads(got) != want+" 8" {
					t.Errorf("plain=%v %v: %s", plain, enc, payloads(got))
				}
				for i, count := range map[int]uint64{1: 1, 3: 2, 5: 1} {
					if l := got[i].Loss; l == nil || l.Cause != limpet.CauseTooBig || l.Count != count {
						t.Errorf("plain=%v %v: %+v, want %d messages", plain, enc, l, count)
					}
				}
				synctest.Wait()
				if st := c.Stats(); st.Connections != 2 {
					t.Errorf("%d connections: %v", st.Connections, c.State().Cause)
				}
			})
		}
	}
}

// checkOversize checks that the state names size, limit and option after a message beyond
// smallReadLimit.
func checkOversize(t *testing.T, c *limpet.Client) {
	t.Helper()
	cause := c.State().Cause
	if cause == nil || !strings.Contains(cause.Error(), "bytes or more exceeds Options.ReadLimit, 65536 bytes; raise it") || limpet.ClassOf(cause) != limpet.ClassProtocol {
		t.Errorf("%v", cause)
	}
}

// TestReadLimitIsNamed: a message that is too big is reported with its size, the limit and
// the option.
func TestReadLimitIsNamed(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			srv := newPlainServer(t, func(p *plainConn) { p.text(tooLong) })
			c, _ := srv.client(t, raw.Options{}, limpet.Options{ReadLimit: smallReadLimit, PlainFrames: plain}, "*")
			if _, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Cause != nil }); err != nil {
				t.Fatal(err)
			}
			t.Logf("plain=%v", plain)
			checkOversize(t, c)
		})
	}
}

// TestTooBigIsOneReset: a server that does not know what the client reads would send the
// message again on every connection. The client begins the stream behind it, with one
// Reset, whatever position it had.
func TestTooBigIsOneReset(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var asked []native.From
			s := newScriptedServer(t, func(p *scriptedConn) {
				q := p.hello.Subs[0]
				mu.Lock()
				asked = append(asked, q.From)
				mu.Unlock()
				switch {
				case q.From == native.FromResume && q.O == 5: // after the Reset
					p.sendFrames(p.welcome(), p.confirmations()[0], dataFrame(6, 5, "6"))
				case p.number > 1 && q.From == native.FromNew:
					p.sendFrames(p.welcome(), native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: 1, Epoch: "e", O: 4, Tag: []byte("t"), Head: 4}},
						dataFrame(5, 4, "5"))
				default: // again and again
					p.sendFrames(p.welcome(), p.confirmations()[0])
					if p.number == 1 {
						p.sendFrames(dataFrame(1, 0, "1"))
					}
					p.sendFrames(dataFrame(2, 1, tooLong))
				}
			})
			c, sub := s.start(limpet.Options{ReadLimit: smallReadLimit, PlainFrames: plain})
			got := collect(t, sub, 3)
			checkOversize(t, c)
			synctest.Wait()
			s.host.Network.CutAll()
			got = append(got, collect(t, sub, 1)...)
			if payloads(got) != "1 reset 5 6" {
				t.Errorf("plain=%v: %s", plain, payloads(got))
			}
			if l := got[1].Loss; l.Cause != limpet.CauseTooBig || l.After.Offset != 1 || l.To.Offset != 4 {
				t.Errorf("plain=%v: %+v", plain, l)
			}
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(asked) != fmt.Sprint([]native.From{native.FromNew, native.FromNew, native.FromResume}) {
				t.Errorf("plain=%v: asked from %v", plain, asked)
			}
			if closes, _ := s.seen(); len(closes) == 0 || closes[0] != 1009 {
				t.Errorf("plain=%v: closed with %v", plain, closes)
			}
		})
	}
}

// TestTooBigKeepsNumbers: without Traits.Resume nothing comes again, so the number of the next
// message says what is missing; without numbers it is a Reset. It comes once.
func TestTooBigKeepsNumbers(t *testing.T) {
	for _, row := range []struct {
		name, want string
		topic      func(wire.Frame) raw.Label
	}{
		{"numbers", "b 1 gap(1,2] b 3 b 4", numberedTopic},
		{"no numbers", "b 1 reset b 3 b 4", func(wire.Frame) raw.Label { return raw.Label{Topic: "b"} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newPlainServer(t, func(p *plainConn) {
					if p.number == 1 {
						p.text("b 1", "b 2 "+tooLong, "b never")
						return
					}
					p.text("b 3", "b 4")
				})
				c, subs := srv.client(t, raw.Options{Topic: row.topic}, limpet.Options{ReadLimit: smallReadLimit}, "b")
				got := collect(t, subs[0], 4)
				if payloads(got) != row.want {
					t.Errorf("%s", payloads(got))
				}
				checkOversize(t, c)
			})
		})
	}
}

// TestTooBigBeforeAnything: a stream that has received nothing begins behind a message that
// is too big as well. A subscription that was not confirmed is asked for as before.
func TestTooBigBeforeAnything(t *testing.T) {
	for _, confirms := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var asked []native.From
			s := newScriptedServer(t, func(p *scriptedConn) {
				q := p.hello.Subs[0]
				asked = append(asked, q.From)
				p.sendFrames(p.welcome())
				if p.number == 1 && !confirms {
					p.sendText(`{"t":"x-` + tooLong + `"}`)
					return
				}
				if q.From == native.FromFirst {
					p.sendFrames(p.confirmations()[0])
					p.sendFrames(dataFrame(1, 0, tooLong))
					return
				}
				p.sendFrames(native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: 1, Epoch: "e", O: 1, Tag: []byte("t"), Head: 1}}, dataFrame(2, 1, "2"))
			})
			s.host.Inject(limpettest.Stall(time.Millisecond))
			c, err := limpet.New(s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient(), ReadLimit: smallReadLimit}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			sub, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{From: limpet.FromFirst})
			if err != nil {
				t.Fatal(err)
			}
			if got := payloads(collect(t, sub, 2)); got != "reset 2" {
				t.Errorf("%s", got)
			}
			want := []native.From{native.FromFirst, native.FromNew}
			if !confirms {
				want = slices.Insert(want, 0, native.FromFirst)
			}
			if fmt.Sprint(asked) != fmt.Sprint(want) {
				t.Errorf("asked from %v, want %v", asked, want)
			}
		})
	}
}

// TestTooBigEachTimeEnds: a server that begins each connection with a message that is too
// big makes no progress, although it greets. The client says so and ends, after five times
// over ten minutes. A message in between is progress.
func TestTooBigEachTimeEnds(t *testing.T) {
	for _, progress := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newScriptedServer(t, func(p *scriptedConn) {
				p.sendFrames(p.welcome(), p.confirmations()[0])
				o := p.hello.Subs[0].O
				if progress {
					p.sendFrames(dataFrame(o+1, o, "small"))
				}
				p.sendFrames(dataFrame(o+2, o+1, tooLong))
			})
			c, sub := s.start(limpet.Options{ReadLimit: smallReadLimit})
			go func() {
				for range sub.Messages(context.Background()) {
				}
			}()
			time.Sleep(time.Hour)
			synctest.Wait()
			var permanent *limpet.PermanentError
			if ended := errors.As(c.Err(), &permanent); ended == progress {
				t.Errorf("progress %v, ended %v: %v", progress, ended, c.State())
			}
			checkOversize(t, c)
		})
	}
}

// TestTooBigEndsTheSession: a server that keeps subscriptions in the session would go on with
// the message that is too big, so the client begins another session.
func TestTooBigEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{ByKey: true, Greeting: true, Confirms: true, Unsubscribe: true, KeepsSubs: true}}
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			if hear() == `open "s1"` {
				say(eventText(readyEvent(wire.Ready{Session: wire.Session{ID: "s1"}, Resumed: true})))
				say(tooLong) // again and again
				return
			}
			say(eventText(readyEvent(wire.Ready{Session: wire.Session{ID: fmt.Sprint("s", conn)}})))
			hear()
			say(eventText(wire.Event{Kind: wire.EventSubscribed, Key: 1}))
			say(eventText(wire.Event{Kind: wire.EventData, Key: 1, Message: wire.Message{Payload: fmt.Append(nil, conn)}}))
			if conn == 1 {
				say(tooLong)
			}
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, ReadLimit: smallReadLimit}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s, err := c.Subscribe(t.Context(), "one", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := collect(t, s, 3)
		if payloads(got) != "1 reset 2" || got[1].Loss.Cause != limpet.CauseTooBig {
			t.Errorf("%s: %+v", payloads(got), got[1].Loss)
		}
	})
}

// TestGreetingIsProgressAgain: only failures right after a message that was too big are in a
// row with it in spite of a greeting.
func TestGreetingIsProgressAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailingServer(t, func(n int) *failure {
			if n == 2 {
				return &failure{text: `{"t":"x-` + tooLong + `"}`}
			}
			return nil
		})
		s.afterwards = func(p *scriptedConn) {
			time.Sleep(time.Second) // less than StableAfter
			p.ws.Close(1008, "")
			p.ws.CloseNow()
		}
		const pause = 5 * time.Minute
		c := s.start(t, limpet.Options{ReadLimit: smallReadLimit, Backoff: limpet.Backoff{First: pause, Initial: pause, Max: pause}})
		time.Sleep(6 * time.Hour)
		if err := c.Err(); err != nil {
			t.Error(err)
		}
	})
}
