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
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"nhooyr.io/websocket"
)

// venue is an exchange with one channel. It works off requests in order, each lag
// after it came, and sends one trade every tick for each symbol that is subscribed.
// A trade has a number, which grows subscribed or not, and the number of the
// subscription at the server that it belongs to: a subscription of the client must
// see one of these only.
type venue struct {
	host      *limpettest.Host
	table     feed.Table
	traits    func(*wire.Traits) // changes what the dialect says of itself
	lag, tick time.Duration
	answers   bool                              // requests are confirmed
	refuse    func(symbols []string) string     // the error that answers a whole subscribe; empty: it is taken
	before    func(say func(string), r *asking) // when a request was read

	mu       sync.Mutex
	requests []asking
	lives    map[string]int // subscriptions at the server so far, by symbol
	drop     []string       // symbols that the venue ends by itself
}

// asking is one request, as the venue read it.
type asking struct {
	Op      string
	Symbols []string
	at      time.Time
}

// venues are the ways to confirm: each request, each request and each end, the list
// of all that is subscribed, nothing, only ends, each request in a dialect that takes
// a missing number for a fault.
var venues = []string{"each", "ends", "list", "nothing", "only ends", "strict"}

func newVenue(t *testing.T, kind string, numbered bool) *venue {
	v := &venue{tick: 10 * time.Millisecond, lag: 250 * time.Millisecond, lives: map[string]int{}, answers: kind != "nothing", traits: func(*wire.Traits) {}}
	request := func(op string) feed.Request {
		return feed.Request{Fields: []feed.Field{{Name: "op", JSON: op}}, Products: "symbols", Max: 1000}
	}
	v.table = feed.Table{
		Name: "venue", Subscribe: request(`"subscribe"`), Unsubscribe: request(`"unsubscribe"`), Type: "type", Product: "symbol",
		Channels: []feed.Channel{{Name: "trades", Types: []string{"trade"}}},
		Error:    feed.ErrorMessage{Type: "error", Text: "text", Channel: "channel", Product: "symbol"},
		Ignored:  []string{"subscribed", "unsubscribed"},
	}
	if numbered {
		v.table.Channels[0].Number = "n"
	}
	confirm := feed.Confirm{Type: "subscribed", Channel: "channel", Products: "symbols"}
	switch kind {
	case "strict":
		v.traits = func(t *wire.Traits) { t.Holes = wire.HolesFault }
		fallthrough
	case "each":
		v.table.Confirm, v.table.Ignored = confirm, []string{"unsubscribed"}
	case "only ends":
		v.traits = func(t *wire.Traits) { t.Confirms = false }
		fallthrough
	case "ends":
		confirm.Ended = "unsubscribed"
		v.table.Confirm, v.table.Ignored = confirm, nil
	case "list":
		confirm.Complete, confirm.Type = true, "all"
		v.table.Confirm = confirm
	}
	v.host = limpettest.NewHandler(t, http.HandlerFunc(v.serve), nil)
	return v
}

// traitsOf is a dialect with changed traits.
type traitsOf struct {
	wire.Dialect
	change func(*wire.Traits)
}

func (d traitsOf) Traits() wire.Traits {
	t := d.Dialect.Traits()
	d.change(&t)
	return t
}

func (v *venue) dial(t *testing.T, o *limpet.Options) *limpet.Client {
	t.Helper()
	dialect, err := feed.New(v.table)
	if err != nil {
		t.Fatal(err)
	}
	if o == nil {
		o = new(limpet.Options)
	}
	o.Dialect, o.HTTPClient = traitsOf{dialect, v.traits}, v.host.HTTPClient()
	c, err := limpet.New(v.host.URL(), options(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// asked returns the requests of one kind so far.
func (v *venue) asked(op string) (rs []asking) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.requests {
		if r.Op == op {
			rs = append(rs, r)
		}
	}
	return rs
}

func (v *venue) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ws.SetReadLimit(1 << 20)
	say := func(text string) { ws.Write(ctx, websocket.MessageText, []byte(text)) }
	queue := make(chan asking, 1000)
	go v.work(ctx, say, queue)
	for {
		_, text, err := ws.Read(ctx)
		if err != nil {
			return
		}
		q := asking{at: time.Now()}
		if json.Unmarshal(text, &q) != nil {
			return
		}
		v.mu.Lock()
		v.requests = append(v.requests, q)
		v.mu.Unlock()
		if v.before != nil {
			v.before(say, &q)
		}
		queue <- q
	}
}

// work answers the requests of one connection and sends trades.
func (v *venue) work(ctx context.Context, say func(string), queue chan asking) {
	live := map[string]int{} // the number of the subscription, by symbol
	var q asking
	var due <-chan time.Time // of q
	for n, next := 1, time.After(v.tick); ; {
		more := queue
		if due != nil {
			more = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
			next = time.After(v.tick)
			for symbol, life := range live {
				say(fmt.Sprintf(`{"type":"trade","symbol":%q,"n":%d,"life":%d}`, symbol, n, life))
			}
			n++
			v.mu.Lock()
			drop := v.drop
			v.drop = nil
			v.mu.Unlock()
			for _, symbol := range drop {
				delete(live, symbol)
				v.confirm(say, live, "unsubscribe", []string{symbol})
			}
		case q = <-more:
			due = time.After(time.Until(q.at.Add(v.lag)))
		case <-due:
			due = nil
			if q.Op == "subscribe" && v.refuse != nil {
				if text := v.refuse(q.Symbols); text != "" {
					say(text)
					continue
				}
			}
			for _, symbol := range q.Symbols {
				if delete(live, symbol); q.Op == "subscribe" {
					v.mu.Lock()
					v.lives[symbol]++
					live[symbol] = v.lives[symbol]
					v.mu.Unlock()
				}
			}
			v.confirm(say, live, q.Op, q.Symbols)
		}
	}
}

func (v *venue) confirm(say func(string), live map[string]int, op string, symbols []string) {
	if !v.answers {
		return
	}
	kind := op + "d"
	if v.table.Confirm.Complete {
		kind, symbols = "all", []string{}
		for symbol := range live {
			symbols = append(symbols, symbol)
		}
	}
	list, _ := json.Marshal(symbols)
	say(fmt.Sprintf(`{"type":%q,"channel":"trades","symbols":%s}`, kind, list))
}

// aTrade is a message of a venue.
type aTrade struct{ N, Life int }

// read reports in words what is wrong with the stream of s, of which it takes n
// messages: trades of more than one subscription at the server, or a hole that the
// stream does not tell.
func (v *venue) read(t *testing.T, s *limpet.Subscription, n int) (life int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	last, lost, got := 0, false, 0
	for m, err := range s.Messages(ctx) {
		if err != nil {
			t.Fatalf("%v: %v after %d messages; %+v", s, err, got, s.State())
		}
		if m.Kind == limpet.Gap || m.Kind == limpet.Reset {
			lost = true
			continue
		}
		var tr aTrade
		if err := json.Unmarshal(m.Payload, &tr); err != nil {
			t.Fatal(err)
		}
		if life != 0 && tr.Life != life {
			t.Errorf("%v: trade %d of subscription %d follows %d of subscription %d", s, tr.N, tr.Life, last, life)
		}
		if last != 0 && tr.N != last+1 && !lost {
			t.Errorf("%v: trade %d follows %d, and nothing says that trades are missing", s, tr.N, last)
		}
		if last, life, lost = tr.N, tr.Life, false; got+1 == n {
			return life
		}
		got++
	}
	return life
}

// A topic is closed and subscribed again on one connection, at every moment of the
// server's work. Each subscription has a life of its own: it becomes live by its own
// confirmation, and sees its own messages only.
func TestTopicAgainHasALifeOfItsOwn(t *testing.T) {
	for _, kind := range venues {
		for _, numbered := range []bool{false, true} {
			for _, lasts := range []time.Duration{0, 10 * time.Millisecond, 260 * time.Millisecond, 12 * time.Second} {
				for _, pause := range []time.Duration{0, 30 * time.Millisecond, 240 * time.Millisecond, 20 * time.Second} {
					t.Run(fmt.Sprintf("%s/numbered=%v/%v/%v", kind, numbered, lasts, pause), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { again(t, kind, numbered, lasts, pause) })
					})
				}
			}
		}
	}
}

func again(t *testing.T, kind string, numbered bool, lasts, pause time.Duration) {
	v := newVenue(t, kind, numbered)
	c := v.dial(t, nil)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for round := range 3 {
		s := subscribe(t, c, "trades/A")
		if err := s.WaitLive(within(t, 25*time.Second)); err != nil && lasts > 0 {
			t.Fatalf("round %d: %v; %+v", round, err, s.State())
		}
		v.mu.Lock()
		served := v.lives["A"]
		v.mu.Unlock()
		if lasts == 0 {
			s.Close()
			time.Sleep(pause)
			continue
		}
		if life := v.read(t, s, 20); seen[life] || kind != "nothing" && kind != "only ends" && life > served {
			t.Errorf("round %d: messages of subscription %d at the server; live when it had taken %d", round, life, served)
		} else {
			seen[life] = true
		}
		time.Sleep(lasts)
		s.Close()
		time.Sleep(pause)
	}
	if got := c.Stats().Connections; got != 1 {
		t.Errorf("%d connections", got)
	}
}

// A topic is subscribed and closed a hundred times in a row. The server is asked a
// few times at most, and the last subscription becomes live.
func TestBurstOfOneTopic(t *testing.T) {
	for _, kind := range venues {
		for _, pause := range []time.Duration{0, time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				v := newVenue(t, kind, false)
				c := v.dial(t, nil)
				if err := c.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				for range 100 {
					subscribe(t, c, "trades/A").Close()
					time.Sleep(pause)
				}
				s := subscribe(t, c, "trades/A")
				if err := s.WaitLive(within(t, 25*time.Second)); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				v.read(t, s, 20)
				if n := len(v.asked("subscribe")) + len(v.asked("unsubscribe")); n > 5 {
					t.Errorf("%s, every %v: %d requests", kind, pause, n)
				}
			})
		}
	}
}

// While a topic waits for the end of its earlier subscription, no other topic waits,
// and a new connection waits for nothing.
func TestOccupiedTopicHoldsUpNoOther(t *testing.T) {
	for _, kind := range venues {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			v.lag = 5 * time.Second
			c := v.dial(t, nil)
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			subscribe(t, c, "trades/A")
			time.Sleep(6 * time.Second)
			first := subscribe(t, c, "trades/C")
			time.Sleep(6 * time.Second)
			first.Close()
			a, b := subscribe(t, c, "trades/C"), subscribe(t, c, "trades/B")
			synctest.Wait()
			if got := v.asked("subscribe"); !slices.Contains(got[len(got)-1].Symbols, "B") {
				t.Errorf("%s: asked %v; want B asked for at once", kind, got)
			}
			v.host.Network.CutAll()
			if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			all := v.asked("subscribe")
			if last := all[len(all)-1]; !slices.Contains(last.Symbols, "C") || !slices.Contains(last.Symbols, "A") {
				t.Errorf("%s: the new connection asked for %v", kind, last.Symbols)
			}
			for _, s := range []*limpet.Subscription{a, b} {
				if err := s.WaitLive(within(t, 20*time.Second)); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
}

// A server that never confirms the end of a subscription, though its table says so,
// holds up the next one for ten seconds at most.
func TestEndThatIsNotConfirmed(t *testing.T) {
	for _, kind := range []string{"ends", "list"} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			c := v.dial(t, nil)
			s := subscribeLive(t, c, "trades/A", nil)
			v.answers = false // what it confirms is an effect of its own fault
			s.Close()
			time.Sleep(time.Second)
			v.answers = true
			asked := time.Now()
			s = subscribe(t, c, "trades/A")
			if err := s.WaitLive(within(t, time.Minute)); err != nil || time.Since(asked) > 25*time.Second {
				t.Errorf("%s: %v after %v", kind, err, time.Since(asked))
			}
			if rs := v.asked("subscribe"); len(rs) != 2 || rs[1].at.Sub(asked) != 9*time.Second {
				t.Errorf("%s: asked %v", kind, rs)
			}
			v.read(t, s, 20)
		})
	}
}

// Messages that come before the confirmation, when an earlier subscription may still
// send, are counted.
func TestEarlierMessagesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVenue(t, "each", false)
		c := v.dial(t, nil)
		s := subscribeLive(t, c, "trades/A", nil)
		time.Sleep(time.Second)
		s.Close()
		s = subscribe(t, c, "trades/A")
		time.Sleep(240 * time.Millisecond)
		if st := s.Stats(); s.State().Phase != limpet.SubPending || st.Earlier < 20 || st.Received != 0 {
			t.Errorf("before the confirmation: %v, %+v", s.State().Phase, st)
		}
		time.Sleep(time.Second)
		if st := s.Stats(); s.State().Phase != limpet.SubLive || st.Earlier > 30 || st.Received < 90 {
			t.Errorf("after the confirmation: %v, %+v", s.State().Phase, st)
		}
	})
}

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

// A server ends a subscription that the client has not closed. It is asked for again,
// and the stream says that messages may be missing. A server that does so every time
// has refused it.
func TestSubscriptionEndedByTheServer(t *testing.T) {
	for _, kind := range []string{"ends", "list"} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			c := v.dial(t, nil)
			s := subscribeLive(t, c, "trades/A", nil)
			other := subscribeLive(t, c, "trades/B", nil)
			for range 5 {
				time.Sleep(time.Minute)
				v.mu.Lock()
				v.drop = []string{"A"}
				v.mu.Unlock()
				time.Sleep(20 * time.Millisecond)
				if st := s.State(); st.Phase != limpet.SubPending || !errors.Is(st.Err, limpet.ErrRejected) {
					t.Errorf("%s: ended by the server: %+v", kind, st)
				}
				if err := s.WaitLive(within(t, 5*time.Second)); err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
			}
			if st := s.Stats(); st.Resets != 5 || other.State().Phase != limpet.SubLive || other.Stats().Resets != 0 {
				t.Errorf("%s: %+v, the other %+v", kind, st, other.Stats())
			}
		})
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
		if !errors.Is(err, limpet.ErrRejected) || limpet.ClassOf(err) != limpet.ClassRejected || !errors.As(err, &le) || !strings.Contains(err.Error(), "is not traded") {
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
		c := v.dial(t, nil)
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

// script is a client whose server says and hears what the test wants.
func script(t *testing.T, v *venue, talk func(say func(string), hear func() string)) *limpet.Client {
	t.Helper()
	srv := newToyServer(t, func(_ int, say func(string), hear func() string) { talk(say, hear) })
	v.host = srv.host
	return v.dial(t, nil)
}

const (
	subscribedA   = `{"type":"subscribed","channel":"trades","symbols":["A"]}`
	unsubscribedA = `{"type":"unsubscribed","channel":"trades","symbols":["A"]}`
	tradeOfA      = `{"type":"trade","symbol":"A","n":1,"life":1}`
)

// A server that ends a subscription each time, before any message, does not want it.
func TestSubscriptionEndedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := script(t, newVenue(t, "ends", false), func(say func(string), hear func() string) {
			for hear() != "" {
				asked++
				say(subscribedA)
				time.Sleep(time.Second)
				say(unsubscribedA)
			}
		})
		s := subscribe(t, c, "trades/A")
		for range s.Messages(within(t, time.Minute)) {
		}
		if st := s.State(); st.Phase != limpet.SubEnded || !errors.Is(st.Err, limpet.ErrRejected) || asked != 3 {
			t.Errorf("asked %d times; %+v", asked, st)
		}
	})
}

// A message before the confirmation makes a subscription live, but the confirmation
// is still to come: it does not count for the next subscription.
func TestConfirmationAfterTheFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var again time.Time
		c := script(t, newVenue(t, "each", false), func(say func(string), hear func() string) {
			hear()
			say(tradeOfA)
			time.Sleep(5 * time.Second)
			say(subscribedA)
			hear() // the end
			hear()
			again = time.Now()
			time.Sleep(time.Second)
			say(subscribedA)
		})
		s := subscribeLive(t, c, "trades/A", nil)
		s.Close()
		began := time.Now()
		s = subscribe(t, c, "trades/A")
		if err := s.WaitLive(within(t, time.Minute)); err != nil || time.Since(began) != 6*time.Second || again.Sub(began) != 5*time.Second {
			t.Errorf("%v; asked after %v, live after %v", err, again.Sub(began), time.Since(began))
		}
	})
}

// A server that cannot be told of an end goes on with the subscription. The next one
// to the topic is live at once, whether or not the server confirms it again.
func TestTopicAgainWithoutUnsubscribe(t *testing.T) {
	for _, kind := range []string{"each", "list", "nothing"} {
		for _, tick := range []time.Duration{10 * time.Millisecond, time.Hour} {
			for _, lasts := range []time.Duration{0, 100 * time.Millisecond, time.Second} {
				synctest.Test(t, func(t *testing.T) {
					v := newVenue(t, kind, false)
					v.table.Unsubscribe, v.tick = feed.Request{}, tick
					c := v.dial(t, nil)
					if err := c.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
					for round := range 3 {
						s := subscribe(t, c, "trades/A")
						if err := s.WaitLive(within(t, time.Second)); err != nil {
							t.Errorf("%s, every %v, for %v: round %d: %v", kind, tick, lasts, round, err)
						}
						time.Sleep(lasts)
						s.Close()
						if round == 1 { // one that the server has not answered yet
							subscribe(t, c, "trades/A").Close()
						}
					}
					if c.Stats().Connections != 1 {
						t.Errorf("%d connections", c.Stats().Connections)
					}
				})
			}
		}
	}
}

// A subscription that waits for its topic can be closed, and ends with the client.
func TestEndWhileTheTopicIsOccupied(t *testing.T) {
	for _, kind := range venues {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, kind, false)
			c := v.dial(t, nil)
			subscribeLive(t, c, "trades/A", nil).Close()
			first := subscribe(t, c, "trades/A")
			first.Close()
			second := subscribe(t, c, "trades/A")
			if err := first.WaitLive(within(t, time.Second)); !errors.Is(err, limpet.ErrSubscriptionClosed) {
				t.Errorf("%s: %v", kind, err)
			}
			began := time.Now()
			if err := c.Shutdown(within(t, time.Minute)); err != nil || time.Since(began) > time.Second {
				t.Errorf("%s: %v after %v", kind, err, time.Since(began))
			}
			if st := second.State(); st.Phase != limpet.SubEnded || st.Err != nil {
				t.Errorf("%s: %+v", kind, st)
			}
		})
	}
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
