package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
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
	since     time.Time                         // the numbers go on over connections from then; zero: they do not
	silent    atomic.Bool                       // requests are not confirmed
	refuse    func(symbols []string) string     // the error that answers a whole subscribe; empty: it is taken
	before    func(say func(string), r *asking) // when a request was read
	mute      func(symbol string) bool          // it has no answer; nil: each has one

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
	v := &venue{tick: 10 * time.Millisecond, lag: 250 * time.Millisecond, lives: map[string]int{}, traits: func(*wire.Traits) {}}
	v.silent.Store(kind == "nothing")
	request := func(op string) feed.Request {
		return feed.Request{JSON: `{"op":` + op + `,"symbols":["$product","..."]}`, Max: 1000}
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
	o.Dialect, o.HTTPClient = traitsOf{noticing{dialect}, v.traits}, v.host.HTTPClient()
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
	n := 1
	if !v.since.IsZero() {
		n += int(time.Since(v.since) / v.tick)
	}
	for next := time.After(v.tick); ; {
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
			q.Symbols = slices.DeleteFunc(slices.Clone(q.Symbols), func(symbol string) bool { return v.mute != nil && v.mute(symbol) })
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
	if v.silent.Load() {
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
