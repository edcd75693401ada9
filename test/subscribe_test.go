package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// request is one request for a subscription, as a server received it.
type request struct {
	conn    int
	at      time.Time
	channel uint64
	topic   string
}

// desk is a scripted server that keeps every request and answers as the test
// says.
type desk struct {
	*scriptedServer
	mu       sync.Mutex
	requests []request
	unsubs   []uint64
}

// newDesk calls answer for every request, in order. welcome is how long WELCOME
// takes.
func newDesk(t *testing.T, welcome time.Duration, answer func(p *scriptedConn, r request)) *desk {
	d := new(desk)
	d.scriptedServer = newScriptedServer(t, func(p *scriptedConn) {
		ask := func(s *native.Sub) {
			r := request{p.number, time.Now(), s.Ch, s.Topic}
			d.mu.Lock()
			d.requests = append(d.requests, r)
			d.mu.Unlock()
			answer(p, r)
		}
		time.Sleep(welcome)
		p.sendFrames(p.welcome())
		for i := range p.hello.Subs {
			ask(&p.hello.Subs[i])
		}
		for {
			frames := p.read()
			if frames == nil {
				return
			}
			for i := range frames {
				switch f := &frames[i]; f.Type {
				case native.TypeSub:
					ask(f.Sub)
				case native.TypeUnsub:
					d.mu.Lock()
					d.unsubs = append(d.unsubs, f.Unsub.Ch)
					d.mu.Unlock()
				case native.TypePing:
					p.sendFrames(native.Frame{Type: native.TypePong, N: f.N})
				}
			}
		}
	})
	return d
}

// asked returns the requests for topic so far.
func (d *desk) asked(topic string) []request {
	d.mu.Lock()
	defer d.mu.Unlock()
	var rs []request
	for _, r := range d.requests {
		if r.topic == topic {
			rs = append(rs, r)
		}
	}
	return rs
}

func (d *desk) dial(t *testing.T) *limpet.Client {
	t.Helper()
	c, err := limpet.Dial(context.Background(), d.host.URL(), options(&limpet.Options{HTTPClient: d.host.HTTPClient()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

func subscribe(t *testing.T, c *limpet.Client, topic string) *limpet.Subscription {
	t.Helper()
	s, err := c.Subscribe(context.Background(), topic, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// within is a context that ends after d, or with the test.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// confirmed is the confirmation of a request that begins after offset.
func confirmed(channel, offset uint64) native.Frame {
	return native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: channel, Epoch: "e", O: offset}}
}

// An unanswered subscription is asked for three times and ends by itself, with an
// error of its own. However many there are, they hold up nothing else.
func TestUnansweredSubscriptionEndsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newDesk(t, 0, func(p *scriptedConn, r request) {
			if !strings.HasPrefix(r.topic, "mute") {
				p.sendFrames(confirmed(r.channel, 0))
			}
		})
		c := srv.dial(t)
		var mute []*limpet.Subscription
		for i := range 400 {
			mute = append(mute, subscribe(t, c, fmt.Sprint("mute/", i)))
			synctest.Wait() // one request each
		}
		began := time.Now()
		good := subscribe(t, c, "good")
		if err := good.WaitLive(within(t, 30*time.Minute)); err != nil || time.Since(began) > time.Millisecond {
			t.Fatalf("live after %v behind 400 unanswered subscriptions: %v", time.Since(began), err)
		}
		time.Sleep(20 * time.Second)
		if st := mute[0].State(); st.Phase != limpet.SubPending || !errors.Is(st.Err, limpet.ErrUnanswered) {
			t.Errorf("after 20 seconds: %v, %v; want it pending with the reason", st.Phase, st.Err)
		}
		time.Sleep(20 * time.Second)
		for _, s := range mute {
			var e *limpet.Error
			if err := s.WaitLive(within(t, 30*time.Minute)); !errors.Is(err, limpet.ErrUnanswered) || !errors.As(err, &e) ||
				e.Class != limpet.ClassTimeout || e.Op != "Subscribe" || !strings.Contains(err.Error(), "check that the topic exists") {
				t.Fatalf("%v ended with %v", s, err)
			}
			if _, err := s.C(), s.Err(); !errors.Is(err, limpet.ErrUnanswered) {
				t.Fatalf("Err: %v", err)
			}
			rs := srv.asked(s.Topic())
			if len(rs) != 3 {
				t.Fatalf("%v was asked for %d times, want 3", s, len(rs))
			}
			for i := 1; i < 3; i++ {
				if pause := rs[i].at.Sub(rs[i-1].at); pause < 11*time.Second || pause > 14*time.Second+200*time.Millisecond {
					t.Errorf("%v: %v between requests %d and %d", s, pause, i, i+1)
				}
				if rs[i].channel == rs[i-1].channel {
					t.Errorf("%v: two requests on channel %d", s, rs[i].channel)
				}
			}
		}
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 || good.State().Phase != limpet.SubLive {
			t.Errorf("the client is %v on connection %d, the good subscription %v", st.Phase, st.Generation, good.State().Phase)
		}
		if n := len(srv.unsubs); n != 3*400 {
			t.Errorf("%d requests were withdrawn, want each of 1200", n)
		}
		subscribe(t, c, "mute/0") // may be tried again
	})
}

// The time for an answer begins when the request was written and the handshake is
// over, whichever is later.
func TestAnswerTimeBeginsWithTheWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newDesk(t, 9*time.Second, func(p *scriptedConn, r request) {
			if len(p.hello.Subs) != 1 {
				t.Errorf("HELLO carries %d subscriptions", len(p.hello.Subs))
			}
			time.AfterFunc(9*time.Second, func() { p.sendFrames(confirmed(r.channel, 0)) })
		})
		_, s := srv.start(limpet.Options{})
		if err := s.WaitLive(within(t, 30*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n := len(srv.asked("a")); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A server that works off many requests, slowly and in order, is not asked again.
func TestSlowServerIsNotAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newDesk(t, 0, func(p *scriptedConn, r request) {
			time.Sleep(100 * time.Millisecond)
			p.sendFrames(confirmed(r.channel, 0))
		})
		c := srv.dial(t)
		var all []*limpet.Subscription
		for i := range 300 {
			all = append(all, subscribe(t, c, fmt.Sprint("a/", i)))
		}
		for _, s := range all {
			if err := s.WaitLive(within(t, 30*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(srv.requests); n != 300 {
			t.Errorf("%d requests for 300 subscriptions", n)
		}
	})
}

// A late answer belongs to the request that was withdrawn: neither it nor its
// messages count for the next one.
func TestLateAnswerDoesNotCount(t *testing.T) {
	for _, late := range []string{"confirmation", "refusal"} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			srv := newDesk(t, 0, func(p *scriptedConn, r request) {
				msg := func(offset uint64, body string) native.Frame {
					f := dataFrame(offset, offset-1, body)
					f.Msg.Ch = r.channel
					return f
				}
				if n++; n == 1 {
					time.AfterFunc(13*time.Second, func() {
						if late == "refusal" {
							p.sendFrames(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: r.channel, Code: native.CodeForbidden}})
							return
						}
						p.sendFrames(confirmed(r.channel, 100), msg(101, "old"))
					})
					return
				}
				time.AfterFunc(5*time.Second, func() { p.sendFrames(confirmed(r.channel, 200), msg(201, "new")) })
			})
			c := srv.dial(t)
			s := subscribe(t, c, "a")
			if got := payloads(collect(t, s, 1)); got != "new" || n != 2 {
				t.Errorf("got %q after %d requests", got, n)
			}
			synctest.Wait()
			if st := s.State(); st.Phase != limpet.SubLive || c.State().Generation != 1 {
				t.Errorf("%+v on connection %d", st, c.State().Generation)
			}
		})
	}
}

// A feed whose server leaves a whole request without an answer because of one bad
// product: the others are asked for one by one and become live.
func TestOneBadTopicInARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			var live []string
			for {
				_, text, err := ws.Read(context.Background())
				if err != nil {
					return
				}
				var m struct {
					Type     string   `json:"type"`
					Products []string `json:"product_ids"`
				}
				if json.Unmarshal(text, &m) != nil || m.Type == "subscribe" && slices.Contains(m.Products, "OLD") {
					continue
				}
				if m.Type == "subscribe" {
					live = append(live, m.Products...)
				}
				ws.Write(context.Background(), websocket.MessageText, []byte(confirmation(live, "ticker")))
			}
		}), nil)
		dialect, err := feed.New(feed.Coinbase())
		if err != nil {
			t.Fatal(err)
		}
		host.Inject(limpettest.Stall(time.Second)) // so that one request names all
		c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: host.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAndWait(t, c) })
		a, old, b := subscribe(t, c, "ticker/A"), subscribe(t, c, "ticker/OLD"), subscribe(t, c, "ticker/B")
		ctx := within(t, time.Minute)
		for _, s := range []*limpet.Subscription{a, b} {
			if err := s.WaitLive(ctx); err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}
		if err := old.WaitLive(ctx); !errors.Is(err, limpet.ErrUnanswered) {
			t.Errorf("%v: %v", old, err)
		}
		if a.State().Phase != limpet.SubLive || b.State().Phase != limpet.SubLive {
			t.Errorf("afterwards %v and %v", a.State().Phase, b.State().Phase)
		}
	})
}

// A server that says "again in ten minutes" is not asked before, however often
// the connection breaks meanwhile.
func TestRefusalOutlivesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := 0
		srv := newDesk(t, 0, func(p *scriptedConn, r request) {
			if r.topic == "later" && refused == 0 {
				refused++
				p.sendFrames(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: r.channel, Code: native.CodeRateLimited, Retry: 600_000}})
				return
			}
			p.sendFrames(confirmed(r.channel, 0))
		})
		c := srv.dial(t)
		s, other := subscribe(t, c, "later"), subscribe(t, c, "now")
		if err := other.WaitLive(within(t, 30*time.Minute)); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			time.Sleep(time.Minute)
			srv.host.Network.CutAll()
		}
		time.Sleep(59 * time.Second)
		if n, cuts := len(srv.asked("later")), len(srv.asked("now"))-1; n != 1 || cuts != 9 {
			t.Errorf("asked %d times within ten minutes, on %d more connections", n, cuts)
		}
		if st := s.State(); st.Phase != limpet.SubPending || !errors.Is(st.Err, limpet.ErrRejected) {
			t.Errorf("meanwhile %+v", st)
		}
		if err := s.WaitLive(within(t, 30*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if rs := srv.asked("later"); len(rs) != 2 || rs[1].at.Sub(rs[0].at) < 10*time.Minute || rs[1].at.Sub(rs[0].at) > 21*time.Minute {
			t.Errorf("requests at %v", rs)
		}
	})
}

// An answer forgets earlier refusals: the next one counts as the first again.
func TestAnswerForgetsRefusals(t *testing.T) {
	// Ten seconds between requests: five within ten would lower the client's pace, too.
	synctest.Test(t, func(t *testing.T) {
		n := 0
		srv := newDesk(t, 0, func(p *scriptedConn, r request) {
			refusal := native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: r.channel, Code: native.CodeRateLimited, Retry: 10_000}}
			if n++; n <= 5 {
				p.sendFrames(refusal)
				return
			}
			p.sendFrames(confirmed(r.channel, 0))
			if n == 6 {
				time.AfterFunc(time.Second, func() { p.sendFrames(refusal) })
			}
		})
		c := srv.dial(t)
		s := subscribe(t, c, "a")
		if err := s.WaitLive(within(t, time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		rs := srv.asked("a")
		if len(rs) != 7 {
			t.Fatalf("asked %d times, want once more after the refusal of a live subscription", len(rs))
		}
		if pause := rs[6].at.Sub(rs[5].at); pause > 21*time.Second+200*time.Millisecond {
			t.Errorf("asked again %v after it was live, want at most 1 s and twice the ten seconds that the server named", pause)
		}
	})
}
