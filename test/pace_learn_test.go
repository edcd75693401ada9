package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// paceChanges are the SendPaceChanged of a client.
type paceChanges struct {
	mu  sync.Mutex
	all []limpet.SendPaceChanged
}

func (p *paceChanges) Observe(e limpet.Event) {
	if e, ok := e.(limpet.SendPaceChanged); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all = append(p.all, e)
	}
}

func (p *paceChanges) get() []limpet.SendPaceChanged {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]limpet.SendPaceChanged(nil), p.all...)
}

// allLiveAtLast waits until all of subs are live, on whatever connection.
func allLiveAtLast(t *testing.T, subs []*limpet.Subscription, within time.Duration) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) {
		live := 0
		for _, s := range subs {
			switch st := s.State(); st.Phase {
			case limpet.SubLive:
				live++
			case limpet.SubEnded:
				t.Fatalf("%v has ended: %v", s, st.Err)
			}
		}
		if live == len(subs) {
			return
		}
		if time.Since(began) > within {
			t.Fatalf("%d of %d are live after %v", live, len(subs), within)
		}
	}
}

// 2,000 subscriptions at a server that takes ten messages a second and closes one that sends
// more with 1008. The client knows of no limit and learns one: all become live, and the
// server closes no connection after that, nor after a reconnect.
func TestPaceIsLearned(t *testing.T) {
	for _, reason := range []string{"too many messages", "-"} {
		for _, plain := range bothFrameLayers() {
			if plain && reason == "-" {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				g, seen, log := newGauge(t, 10), &paceChanges{}, &bytes.Buffer{}
				g.reason = reason
				c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{PlainFrames: plain, Observer: seen, Logger: slog.New(slog.NewTextHandler(log, nil))})
				n := reduced(2000, 500)
				if plain || reason == "-" {
					n = 500 // which takes less
				}
				subs := subscribeAll(t, c, n)
				began := time.Now()
				allLiveAtLast(t, subs, 20*time.Minute)
				refused, pace := g.refusals(), c.Stats().SendPace
				t.Logf("%q: live after %v, at %v a second, after %d refusals", reason, time.Since(began), pace, refused)
				if pace < 2.5 || pace > 12.5 || refused < 1 || refused > 12 {
					t.Errorf("%q: live at %v a second after %d refusals", reason, pace, refused)
				}
				time.Sleep(time.Minute)
				g.host.Network.CutAll()
				time.Sleep(time.Second)
				allLiveAtLast(t, subs, 20*time.Minute)
				if n := g.refusals(); n != refused || c.Stats().SendPace != pace {
					t.Errorf("%q: %d refusals after the pace was learned", reason, n-refused)
				}
				synctest.Wait() // the log
				changes := seen.get()
				if len(changes) < 1 || len(changes) > refused { // the next connection may have the rest of the second before
					t.Errorf("%q: %d changes for %d refusals", reason, len(changes), refused)
				}
				for i, e := range changes {
					if !e.Lowered || e.Said != (reason != "-") || i > 0 && e.PerSecond > changes[i-1].PerSecond/2 {
						t.Errorf("%q: change %d: %+v", reason, i, e)
					}
				}
				why := map[bool]string{true: "because the server refuses more", false: "1008, which may mean too many"}[reason != "-"]
				if last := changes[len(changes)-1]; last.PerSecond != pace || !strings.Contains(log.String(), why+"; set Options.Limits") {
					t.Errorf("%q: %+v\n%s", reason, last, log)
				}
			})
		}
	}
}

// refusals returns how many connections have sent too much.
func (g *gauge) refusals() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// What has another reason than the pace, or follows on hardly anything, lowers no pace.
func TestPaceStays(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		subs         int
	}{
		{"a late pong", "pong timeout", 30},
		{"a credential", "token expired", 30},
		{"hardly anything was sent", "-", 3},
		{"hardly anything was sent, in words", "too many messages", 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			g, seen := newGauge(t, 1000), &paceChanges{}
			c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{Observer: seen})
			subs := subscribeAll(t, c, test.subs)
			allLive(t, subs, 1, time.Second)
			g.close(1008, strings.TrimPrefix(test.reason, "-"))
			allLive(t, subs, 2, time.Minute)
			if all := seen.get(); len(all) > 0 || c.Stats().SendPace != 0 {
				t.Errorf("%s: %v a second, %+v", test.name, c.Stats().SendPace, all)
			}
		})
	}
}

// A client that was busy long before a bare 1008, and sends a ping now and then, has not sent
// too much.
func TestQuietClientKeepsItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{})
		subs := subscribeAll(t, c, 300)
		allLive(t, subs, 1, time.Second)
		time.Sleep(10 * time.Minute)
		g.close(1008, "")
		allLive(t, subs, 2, time.Minute)
		if pace := c.Stats().SendPace; pace != 0 {
			t.Errorf("%v a second", pace)
		}
	})
}

// close closes the connections with a code and a text.
func (g *gauge) close(code int, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, nc := range g.conns {
		nc.Write(rawFrame(0x88, closePayload(code, reason)))
	}
}

// A limit that was set and is too high halves as well, and a bare 1008 is forgotten in time:
// after an hour the client tries twice the pace.
func TestLimitThatIsTooHigh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, seen := newGauge(t, 30), &paceChanges{}
		g.reason = "-"
		c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{Observer: seen, Limits: wire.ConnectionLimits{Messages: 100}})
		if pace := c.Stats().SendPace; pace != 100 {
			t.Errorf("%v a second before a refusal", pace)
		}
		subs := subscribeAll(t, c, 300)
		allLiveAtLast(t, subs, 5*time.Minute)
		pace := c.Stats().SendPace
		if pace < 7 || pace > 30 {
			t.Errorf("live at %v a second", pace)
		}
		time.Sleep(59 * time.Minute)
		if got := c.Stats().SendPace; got != pace {
			t.Errorf("%v a second within an hour, want %v", got, pace)
		}
		time.Sleep(2 * time.Minute)
		all := seen.get()
		if last := all[len(all)-1]; last.Lowered || last.PerSecond != min(2*pace, 100) || c.Stats().SendPace != last.PerSecond {
			t.Errorf("%v a second after an hour, from %v: %+v", c.Stats().SendPace, pace, last)
		}
	})
}

// refusing is a server that takes ten requests in any second and answers each other one with
// an error. It keeps the connection.
type refusing struct {
	named bool // its errors name the topic

	mu       sync.Mutex
	asked    []time.Time
	refused  int
	opened   int
	lastFail time.Time
}

func (r *refusing) talk(nc net.Conn) {
	r.mu.Lock()
	r.opened++
	r.mu.Unlock()
	for br := bufio.NewReader(nc); ; {
		op, message, err := maskedFrame(br)
		if err != nil || op == 8 {
			return
		}
		if op == opPing {
			nc.Write(rawFrame(0x80|opPong, message))
		}
		if op != opText {
			continue
		}
		var request struct{ Product string }
		if err := json.Unmarshal([]byte(message), &request); err != nil {
			return
		}
		answer := fmt.Sprintf(`{"type":"subscribed","channel":"trades","product":%q}`, request.Product)
		if r.refuses(time.Now()) {
			answer = `{"type":"error","text":"Too many requests"}`
			if r.named {
				answer = fmt.Sprintf(`{"type":"error","text":"Too many requests","channel":"trades","product":%q}`, request.Product)
			}
		}
		nc.Write(rawFrame(0x80|opText, answer))
	}
}

func (r *refusing) refuses(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.asked)
	if n >= 10 && now.Sub(r.asked[n-10]) < time.Second {
		r.refused++
		r.lastFail = now
		return true
	}
	r.asked = append(r.asked, now)
	return false
}

// The same with a table whose server answers "too many requests" and keeps the connection: no
// subscription ends, and all become live on the first connection.
func TestPaceIsLearnedFromErrors(t *testing.T) {
	for _, named := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r, seen := &refusing{named: named}, &paceChanges{}
			host := limpettest.NewHandler(t, rawServer(r.talk), nil)
			table := feed.Table{
				Name: "refusing", Type: "type", Channel: "channel", Product: "product",
				Channels:  []feed.Channel{{Name: "trades", Types: []string{"trade"}}},
				Subscribe: feed.Request{JSON: `{"op":"subscribe","channel":"$channel","product":"$product"}`},
				Confirm:   feed.Confirm{Type: "subscribed", Channel: "channel", Products: "product"},
				Error:     feed.ErrorMessage{Type: "error", Text: "text", Channel: "channel", Product: "product"},
			}
			dialect, err := feed.New(table)
			if err != nil {
				t.Fatal(err)
			}
			c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: host.HTTPClient(), Observer: seen}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			began := time.Now()
			var subs []*limpet.Subscription
			n := reduced(2000, 500)
			if named {
				n = 500 // which takes less
			}
			for i := range n {
				subs = append(subs, subscribe(t, c, fmt.Sprintf("trades/P%d", i)))
			}
			allLiveAtLast(t, subs, 20*time.Minute)
			r.mu.Lock()
			defer r.mu.Unlock()
			pace, changes := c.Stats().SendPace, seen.get()
			t.Logf("named %v: live after %v, at %v a second, after %d refusals", named, time.Since(began), pace, r.refused)
			if last := r.lastFail.Sub(began); pace < 2.5 || pace > 12.5 || r.refused == 0 || last > time.Minute || r.opened != 1 {
				t.Errorf("named %v: at %v a second, %d refusals until %v, %d connections", named, pace, r.refused, last, r.opened)
			}
			if n := len(changes); n == 0 || n > 10 || !changes[n-1].Said || changes[n-1].Reason != `"Too many requests"` {
				t.Errorf("named %v: %+v", named, changes)
			}
		})
	}
}

// Requests that were open when the server closed for the pace are not suspected: each is asked
// for at once on the next connection.
func TestRequestsAreNotWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, seen := newGauge(t, 1000), &paceChanges{}
		conns := 0
		g.greet = func(say func(op byte, text string)) {
			if conns++; conns <= 3 {
				time.AfterFunc(time.Second, func() { say(8, closePayload(1008, "")) })
			}
		}
		g.hook = func(string, func(byte, string)) bool { return conns <= 3 }
		c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{Observer: seen})
		subs := subscribeAll(t, c, 30)
		for c.State().Generation < 4 {
			time.Sleep(100 * time.Millisecond)
			for _, s := range subs {
				if err := s.State().Err; err != nil {
					t.Fatalf("%v is suspected: %v", s, err)
				}
			}
		}
		allLive(t, subs, 4, 15*time.Second)
		if n := len(seen.get()); n != 3 {
			t.Errorf("%d changes of the pace, want 3", n)
		}
	})
}

// A message that is refused for the pace lowers it, on the open connection.
func TestPaceIsLearnedFromRejects(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			g := newGauge(t, 1e6)
			g.greet = func(say func(op byte, text string)) {
				go func() {
					for range 900 {
						say(opPing, "")
					}
				}()
			}
			const many = 40
			var held []string // refused when all have come: an earlier refusal would lower the pace further
			g.hook = func(text string, say func(op byte, text string)) bool {
				id, isMessage := strings.CutPrefix(text, "pub ")
				if !isMessage {
					return false
				}
				if held = append(held, id); len(held) > many {
					say(opText, "taken "+id)
				} else if len(held) == many {
					for _, id := range held {
						say(opText, "refused "+id)
					}
				}
				return true
			}
			f := g.language(wire.ConnectionLimits{})
			read := f.Read
			f.Acks = true
			f.Publish = func(cmd uint64, _ wire.Message) ([]byte, error) { return fmt.Appendf(nil, "pub %d", cmd), nil }
			f.Read = func(data []byte, say func(feed.Item)) error {
				var id uint64
				if n, _ := fmt.Sscanf(string(data), "taken %d", &id); n == 1 {
					say(feed.Item{Kind: feed.Answered, ID: id})
					return nil
				}
				return read(data, say)
			}
			c := g.client(t, f, limpet.Options{PlainFrames: plain})
			assert.NoError(t, c.WaitReady(t.Context()))
			time.Sleep(30 * time.Second)
			for range many {
				_, err := c.Publish(t.Context(), "t0", []byte("x"), nil)
				assert.NoError(t, err)
			}
			time.Sleep(time.Second)
			if pace := c.Stats().SendPace; pace < many/2 || pace > many/2+1 { // pings may be among them
				t.Errorf("%v a second after %d messages were refused", pace, many)
			}
			time.Sleep(3 * time.Second)
			if _, err := c.Send(within(t, 200*time.Millisecond), "t0", []byte("x"), nil); err != nil {
				t.Error(err)
			}
			if n := c.State().Generation; n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// Pings are sent too: a server that counts them may close for them.
func TestPingsAreSentToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		f := g.language(wire.ConnectionLimits{})
		f.Ping = nil
		c := g.client(t, f, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 250 * time.Millisecond}})
		assert.NoError(t, c.WaitReady(t.Context()))
		time.Sleep(5 * time.Second)
		g.close(1008, "")
		time.Sleep(time.Second)
		if pace := c.Stats().SendPace; pace < 1.5 || pace > 2.5 {
			t.Errorf("%v a second after four pings a second", pace)
		}
	})
}

// The refusals of what was sent at the pace before come one after the other, while the client
// sends on: they lower the pace once.
func TestRefusalsOfOneExcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, seen, messages := newGauge(t, 1e6), &paceChanges{}, 0
		g.hook = func(text string, say func(op byte, text string)) bool {
			id, isMessage := strings.CutPrefix(text, "pub ")
			if isMessage {
				if messages++; messages <= 40 {
					time.AfterFunc(time.Duration(messages)*40*time.Millisecond, func() { say(opText, "refused "+id) })
				}
			}
			return isMessage
		}
		f := g.language(wire.ConnectionLimits{})
		f.Acks = true
		f.Publish = func(cmd uint64, _ wire.Message) ([]byte, error) { return fmt.Appendf(nil, "pub %d", cmd), nil }
		c := g.client(t, f, limpet.Options{Observer: seen})
		assert.NoError(t, c.WaitReady(t.Context()))
		for i := range 80 {
			if i == 40 {
				time.Sleep(100 * time.Millisecond) // the first refusal is there
			}
			_, err := c.Publish(t.Context(), "t0", []byte("x"), nil)
			assert.NoError(t, err)
		}
		time.Sleep(3 * time.Second)
		if pace := c.Stats().SendPace; pace < 18 || pace > 21 || len(seen.get()) != 1 || len(g.sent("pub")) < 70 {
			t.Errorf("%v a second, %d messages, %+v", pace, len(g.sent("pub")), seen.get())
		}
	})
}

// A subscription that is refused for the pace again and again, in an error that names none, does
// not end: it is asked for later each time.
func TestRefusalForThePaceIsNotFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, asked := newGauge(t, 1e6), 0
		g.hook = func(text string, say func(op byte, text string)) bool {
			if !strings.HasPrefix(text, "sub ") {
				return false
			}
			if asked++; asked <= 5 {
				say(opText, "refused 0")
			}
			return asked <= 5
		}
		c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{})
		s := subscribe(t, c, "t0")
		if err := s.WaitLive(within(t, time.Minute)); err != nil || asked != 6 {
			t.Errorf("%v, asked for %d times", err, asked)
		}
	})
}
