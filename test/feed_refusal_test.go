package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"nhooyr.io/websocket"
)

// The refusal of an earlier subscription comes when the topic is subscribed again.
// The later subscription does not end.
func TestLateRefusalOfAnEarlierSubscription(t *testing.T) {
	const refusal = `{"type":"error","text":"no","channel":"trades","symbol":"A"}`
	for _, kind := range []string{"each", "ends", "list"} {
		for _, late := range []time.Duration{0, 100 * time.Millisecond, 9 * time.Second, 11 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				v := newVenue(t, kind, false)
				v.lag = 50 * time.Millisecond
				refused := false
				v.before = func(say func(string), r *asking) {
					if r.Op == "unsubscribe" && !refused {
						refused = true
						time.AfterFunc(late, func() { say(refusal) })
					}
				}
				c := v.dial(t, nil)
				s := subscribe(t, c, "trades/A")
				if late%2 == 0 {
					time.Sleep(time.Second)
				}
				synctest.Wait()
				s.Close()
				s = subscribe(t, c, "trades/A")
				if err := s.WaitLive(within(t, time.Minute)); err != nil {
					t.Errorf("%s, %v late: %v", kind, late, err)
				}
				time.Sleep(time.Second)
				if st := s.State(); st.Phase == limpet.SubEnded && late < 10*time.Second {
					t.Errorf("%s, %v late: %+v", kind, late, st)
				}
			})
		}
	}
}

// One topic of a request is refused, with a text that names nothing, and the server
// takes nothing of the whole request. The good ones are live at once; the bad ones
// end with what the server said.
func TestOneRefusalForMany(t *testing.T) {
	for _, kind := range []string{"each", "ends", "list"} {
		for _, n := range []int{1, 2, 3, 64, 600} {
			for bad := range min(n, 3) {
				t.Run(fmt.Sprintf("%s/%d bad of %d", kind, bad+1, n), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { oneForMany(t, kind, n, bad+1) })
				})
			}
		}
	}
}

func oneForMany(t *testing.T, kind string, n, bad int) {
	v := newVenue(t, kind, false)
	v.lag, v.tick = 10*time.Millisecond, time.Second
	v.refuse = func(symbols []string) string {
		for _, s := range symbols {
			if strings.HasPrefix(s, "BAD") {
				return fmt.Sprintf(`{"type":"error","text":"%s is not traded"}`, s)
			}
		}
		return ""
	}
	v.host.Inject(limpettest.Stall(time.Second)) // so that one request names all
	began := time.Now().Add(time.Second)
	c := v.dial(t, nil)
	var good, refused []*limpet.Subscription
	for i := range n {
		name := fmt.Sprintf("S%d", i)
		if i%max(n/bad, 1) == 0 && len(refused) < bad {
			name = "BAD" + name
			refused = append(refused, subscribe(t, c, "trades/"+name))
			continue
		}
		good = append(good, subscribe(t, c, "trades/"+name))
	}
	for _, s := range good {
		if err := s.WaitLive(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if len(good) == 0 {
		time.Sleep(1500 * time.Millisecond)
	}
	if d := time.Since(began); len(good) > 0 && d > 2*time.Second {
		t.Errorf("the good ones were live after %v", d)
	}
	if got := v.asked("subscribe"); len(got[0].Symbols) != n {
		t.Fatalf("the first request names %d topics", len(got[0].Symbols))
	}
	for _, s := range refused {
		err := s.WaitLive(within(t, time.Minute))
		var le *limpet.Error
		if !errors.Is(err, limpet.ErrRejected) || limpet.ClassOf(err) != limpet.ClassRejected || !errors.As(err, &le) || le.Code != 0 ||
			!strings.Contains(err.Error(), "is not traded") || strings.Contains(err.Error(), "(code") {
			t.Errorf("%v: %v (%v), want what the server said", s, err, limpet.ClassOf(err))
		}
	}
	if d := time.Since(began); d < 2*time.Second || d > 15*time.Second {
		t.Errorf("the bad ones ended after %v", d)
	}
	for _, s := range good {
		if s.State().Phase != limpet.SubLive {
			t.Errorf("%v is %+v", s, s.State())
		}
	}
	if got := len(v.asked("subscribe")); got > 1+bad*(2*10+3)+3 {
		t.Errorf("%d requests", got)
	}
	if c.Stats().Connections != 1 {
		t.Errorf("%d connections", c.Stats().Connections)
	}
}

// The server names the topic that it refuses, and takes nothing of the request or
// everything else, some of it late. What it took is not asked for again.
func TestRefusalByNameOfAWholeRequest(t *testing.T) {
	for _, kind := range []string{"each", "ends", "list"} {
		for _, whole := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				const n = 40
				v := newVenue(t, kind, false)
				v.lag, v.tick = 10*time.Millisecond, time.Hour
				const refusal = `{"type":"error","text":"no","channel":"trades","symbol":"S7"}`
				v.refuse = func(symbols []string) string {
					if slices.Contains(symbols, "S7") && whole {
						return refusal
					}
					return ""
				}
				if !whole {
					v.lag = time.Second
					v.before = func(say func(string), r *asking) {
						if i := slices.Index(r.Symbols, "S7"); i >= 0 {
							r.Symbols = slices.Delete(slices.Clone(r.Symbols), i, i+1)
							say(refusal)
						}
					}
				}
				v.host.Inject(limpettest.Stall(time.Second)) // so that one request names all
				began := time.Now().Add(time.Second)
				c := v.dial(t, nil)
				var subs []*limpet.Subscription
				for i := range n {
					subs = append(subs, subscribe(t, c, fmt.Sprintf("trades/S%d", i)))
				}
				for i, s := range subs {
					if err := s.WaitLive(within(t, time.Minute)); i == 7 != errors.Is(err, limpet.ErrRejected) || i != 7 && err != nil {
						t.Errorf("%s: %v: %v", kind, s, err)
					}
				}
				if d := time.Since(began); d > 3*time.Second {
					t.Errorf("%s: the others were live after %v", kind, d)
				}
				if got := len(v.asked("subscribe")); got != 3 && whole || got != 1 && !whole {
					t.Errorf("%s: %d requests", kind, got)
				}
			})
		}
	}
}

// The server refuses one topic by its name and confirms the others one by one, each within
// two seconds of the one before: none of them is asked for again.
func TestSlowAnswersAfterARefusalByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 8
		v := newVenue(t, "each", false)
		v.lag, v.tick = 0, time.Hour
		v.before = func(say func(string), r *asking) {
			for i, symbol := range r.Symbols {
				if i == 0 {
					say(fmt.Sprintf(`{"type":"error","text":"no","channel":"trades","symbol":%q}`, symbol))
				} else {
					time.Sleep(1500 * time.Millisecond)
					say(fmt.Sprintf(`{"type":"subscribed","channel":"trades","symbols":[%q]}`, symbol))
				}
			}
			r.Symbols = nil
		}
		v.host.Inject(limpettest.Stall(time.Second)) // so that one request names all
		c := v.dial(t, nil)
		var subs []*limpet.Subscription
		for i := range n {
			subs = append(subs, subscribe(t, c, fmt.Sprintf("trades/S%d", i)))
		}
		for i, s := range subs {
			if err := s.WaitLive(within(t, time.Minute)); i == 0 != errors.Is(err, limpet.ErrRejected) || i != 0 && err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}
		time.Sleep(time.Minute)
		if got := len(v.asked("subscribe")); got != 1 {
			t.Errorf("%d requests, want 1", got)
		}
	})
}

// An error while no request is open is a notice, and so is a message of a type that
// the table does not have, whatever is open.
func TestErrorsThatRefuseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVenue(t, "each", false)
		v.lag = 2 * time.Second
		said := make(chan func(string), 100)
		v.before = func(say func(string), _ *asking) { said <- say }
		c := v.dial(t, nil)
		s := subscribe(t, c, "trades/A")
		say := <-said
		say(`{"type":"news"}`)
		say("notice")
		if err := s.WaitLive(within(t, 3*time.Second)); err != nil {
			t.Error(err)
		}
		say(`{"type":"error","text":"slow down"}`)
		time.Sleep(time.Minute)
		if got := v.asked("subscribe"); len(got) != 1 || s.State().Phase != limpet.SubLive {
			t.Errorf("asked %v; %+v", got, s.State())
		}
		// One error while a request is open ends nothing: the topic is asked for again.
		s = subscribe(t, c, "trades/B")
		say(`{"type":"error","text":"slow down"}`)
		synctest.Wait()
		if st := s.State(); st.Phase != limpet.SubPending || !errors.Is(st.Err, limpet.ErrRejected) || !strings.Contains(st.Err.Error(), "slow down") {
			t.Errorf("%+v, want it refused for now", st)
		}
		if err := s.WaitLive(within(t, time.Minute)); err != nil {
			t.Error(err)
		}
	})
}

// noticing is a dialect whose server also sends notices.
type noticing struct{ wire.Dialect }

func (d noticing) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return noticingCodec{c}, err
}

type noticingCodec struct{ wire.Codec }

func (c noticingCodec) Decode(f wire.Frame, out *wire.Events) error {
	if string(f.Data) == "notice" {
		out.Append(wire.EventError).Reason = "a notice" // with code 0
		return nil
	}
	return c.Codec.Decode(f, out)
}

// The refusal of a request whose subscription was closed meanwhile is not that of the
// next request.
func TestRefusalOfAClosedSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVenue(t, "each", false)
		v.refuse = func(symbols []string) string {
			if slices.Contains(symbols, "BAD") {
				return `{"type":"error","text":"no"}`
			}
			return ""
		}
		c := v.dial(t, &limpet.Options{Observer: observer(func(e limpet.Event) {
			if sc, ok := e.(limpet.SubscriptionChanged); ok && sc.State.Err != nil {
				t.Errorf("%s: %v", sc.Topic, sc.State.Err)
			}
		})})
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		bad := subscribe(t, c, "trades/BAD")
		synctest.Wait()
		bad.Close()
		good := subscribe(t, c, "trades/A")
		time.Sleep(10 * time.Second)
		if got := v.asked("subscribe"); len(got) != 2 || good.State().Phase != limpet.SubLive {
			t.Errorf("asked %v; %+v", got, good.State())
		}
	})
}

// The Coinbase table as it stands: the server refuses "level2" without a signature.
// The order book and the trades of one product are asked for in one request, and both
// flow.
func TestCoinbaseOrderBookNeedsNoSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &venue{table: feed.Coinbase(), traits: func(*wire.Traits) {}}
		v.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			for {
				_, text, err := ws.Read(context.Background())
				if err != nil {
					return
				}
				var m struct {
					Channels []string `json:"channels"`
					Products []string `json:"product_ids"`
				}
				answer := `{"type":"error","message":"Failed to subscribe","reason":"level2, level3, and full channels now require authentication."}`
				if json.Unmarshal(text, &m) != nil {
					return
				}
				if !slices.Contains(m.Channels, "level2") {
					answer = strings.ReplaceAll(confirmation(m.Products, m.Channels...), "level2_batch", "level2_50")
				}
				ws.Write(context.Background(), websocket.MessageText, []byte(answer))
			}
		}), nil)
		v.host.Inject(limpettest.Stall(time.Second)) // so that one request names both
		c := v.dial(t, nil)
		for _, s := range []*limpet.Subscription{subscribe(t, c, "matches/A"), subscribe(t, c, "level2/A")} {
			if err := s.WaitLive(within(t, 3*time.Second)); err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}
	})
}

const alreadyA = `{"type":"error","channel":"trades","symbol":"A","text":"already subscribed"}`

// A server that answers late was asked twice. It confirms the first request and refuses
// the second, since it serves the topic already: that ends nothing. A refusal that
// answers no request ends the subscription.
func TestRefusalOfARepeatedRequest(t *testing.T) {
	for _, kind := range []string{"each", "ends"} {
		synctest.Test(t, func(t *testing.T) {
			c := script(t, newVenue(t, kind, false), func(say func(string), hear func() string) {
				hear()
				hear()
				say(subscribedA)
				time.Sleep(time.Second)
				say(alreadyA)
				time.Sleep(20 * time.Second)
				say(tradeOfA)
				say(alreadyA)
			})
			s := subscribe(t, c, "trades/A")
			if err := s.WaitLive(within(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if st := s.State(); st.Phase != limpet.SubLive {
				t.Errorf("%s: after the refusal of the second request: %+v", kind, st)
			}
			time.Sleep(20 * time.Second)
			if st := s.State(); st.Phase != limpet.SubEnded || !errors.Is(st.Err, limpet.ErrRejected) || s.Stats().Received != 1 || s.Stats().Resets != 0 {
				t.Errorf("%s: after a refusal that answers no request: %+v, %+v", kind, st, s.Stats())
			}
		})
	}
}

// A server without an unsubscribe goes on with a topic whose subscription was closed. It
// may refuse the next request for it, which ends nothing.
func TestRefusalOfATopicThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVenue(t, "each", false)
		v.table.Unsubscribe = feed.Request{}
		c := script(t, v, func(say func(string), hear func() string) {
			hear()
			say(subscribedA)
			hear()
			say(alreadyA)
			time.Sleep(20 * time.Second)
			say(tradeOfA)
		})
		subscribeLive(t, c, "trades/A", nil).Close()
		s := subscribeLive(t, c, "trades/A", nil)
		time.Sleep(30 * time.Second)
		if st := s.State(); st.Phase != limpet.SubLive || s.Stats().Received != 1 || c.Stats().Connections != 1 {
			t.Errorf("%+v, %+v", st, s.Stats())
		}
	})
}
