package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/feed"
)

// tableClient returns a client of table whose server answers each request as reply says,
// with any number of messages.
func tableClient(t *testing.T, table feed.Table, o limpet.Options, reply func(conn int, request string, say func(string))) (*toyServer, *limpet.Client) {
	t.Helper()
	d, err := feed.New(table)
	if err != nil {
		t.Fatal(err)
	}
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		reply(conn, "", say)
		for request := hear(); request != ""; request = hear() {
			reply(conn, request, say)
		}
	})
	o.HTTPClient, o.Dialect = srv.host.HTTPClient(), d
	c, err := limpet.New(srv.host.URL(), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return srv, c
}

// rpc is a request of Binance's form.
type rpc struct {
	Method string
	Params []string
	ID     uint64
}

func parseRPC(t *testing.T, text string) (r rpc) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return r
}

// A server answers with the id of a request only. The topic that it refuses ends, and
// those that were asked for together with it are live.
func TestRefusalByID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := 0
		_, c := tableClient(t, feed.Binance(), limpet.Options{}, func(_ int, request string, say func(string)) {
			if request == "" {
				return
			}
			r := parseRPC(t, request)
			if strings.Contains(request, "nope") {
				refused++
				say(fmt.Sprintf(`{"code":2,"msg":"Invalid stream","id":%d}`, r.ID))
				return
			}
			say(fmt.Sprintf(`{"result":null,"id":%d}`, r.ID))
		})
		good, bad, other := subscribe(t, c, "trade/BTCUSDT"), subscribe(t, c, "trade/NOPE"), subscribe(t, c, "depth@100ms/BTCUSDT")
		for _, s := range []*limpet.Subscription{good, other} {
			if err := s.WaitLive(within(t, time.Minute)); err != nil {
				t.Errorf("%s: %v", s.Topic(), err)
			}
		}
		var le *limpet.Error
		if err := bad.WaitLive(within(t, time.Minute)); !errors.Is(err, limpet.ErrRejected) || !strings.Contains(err.Error(), "(code 2): \"Invalid stream\"") ||
			!errors.As(err, &le) || le.Code != 2 {
			t.Errorf("the refused topic: %v", err)
		}
		if refused < 1 {
			t.Error("the server refused nothing")
		}
	})
}

// An answer by id frees the topic of a closed subscription: the next one need not wait
// for it.
func TestEndConfirmedByID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := 0
		_, c := tableClient(t, feed.Binance(), limpet.Options{}, func(_ int, request string, say func(string)) {
			if request == "" {
				return
			}
			r := parseRPC(t, request)
			if r.Method == "UNSUBSCRIBE" {
				ends++
			}
			say(fmt.Sprintf(`{"result":null,"id":%d}`, r.ID))
		})
		for range 5 {
			start := time.Now()
			s := subscribeLive(t, c, "trade/BTCUSDT", nil)
			if took := time.Since(start); took > time.Second {
				t.Errorf("live after %v", took)
			}
			s.Close()
		}
		time.Sleep(time.Second) // the last end waits for its turn: see Table.Limits
		synctest.Wait()
		if ends != 5 {
			t.Errorf("%d of 5 subscriptions were ended", ends)
		}
	})
}

// login is a table for a made-up exchange that sends a challenge before anything else.
func login() feed.Table {
	return feed.Table{
		Name: "lagoon", Type: "event", Product: "symbol",
		Subscribe: feed.Request{JSON: `{"op":"subscribe","symbols":["$product","..."]}`},
		Channels:  []feed.Channel{{Name: "trades", Types: []string{"trade"}, Number: "seq"}},
		Confirm:   feed.Confirm{Type: "subscribed", Channel: "channel", Products: "symbols"},
		Error:     feed.ErrorMessage{Type: "error", Text: "text"},
		Login: feed.Login{
			Message: func(token string, challenge []byte) ([]byte, error) {
				var m struct{ Nonce string }
				if err := json.Unmarshal(challenge, &m); err != nil {
					return nil, err
				}
				return json.Marshal(map[string]string{"op": "login", "sign": token + "+" + m.Nonce})
			},
			Challenge: "challenge",
			Accepted:  "welcome",
		},
	}
}

// The server's challenge is answered with a signature, and nothing is asked for before
// the server has taken it, on each connection. After a refusal the client
// uses a new credential.
func TestLoginBeforeRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := 0
		auth := func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			tokens++
			return limpet.Credential{Token: limpet.Secret(fmt.Sprintf("key%d", tokens))}, nil
		}
		srv, c := tableClient(t, login(), limpet.Options{Auth: auth}, func(conn int, request string, say func(string)) {
			switch {
			case request == "":
				say(fmt.Sprintf(`{"event":"challenge","nonce":"n%d"}`, conn))
			case strings.Contains(request, `"login"`) && conn == 1:
				say(`{"event":"error","text":"signature expired"}`)
			case strings.Contains(request, `"login"`):
				time.Sleep(time.Second)
				say(`{"event":"welcome"}`)
			default:
				say(`{"event":"subscribed","channel":"trades","symbols":["A"]}`)
				say(fmt.Sprintf(`{"event":"trade","symbol":"A","seq":%d}`, conn))
			}
		})
		start := time.Now()
		s := subscribeLive(t, c, "trades/A", nil)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("live after %v", took)
		}
		if got := collect(t, s, 1); got[0].Position.Offset != 2 {
			t.Errorf("got number %d, want that of the second connection", got[0].Position.Offset)
		}
		want := []string{"/", `{"op":"login","sign":"key1+n1"}`, "/", `{"op":"login","sign":"key2+n2"}`, `{"op":"subscribe","symbols":["A"]}`}
		if got := srv.all(); got != strings.Join(want, "\n") {
			t.Errorf("the server heard\n%s", got)
		}
	})
}

// A refusal in a message of the server is named, with its code and its text: the server
// has not closed the connection.
func TestRefusedLoginIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := login()
		table.Error.Code = "code"
		_, c := tableClient(t, table, limpet.Options{}, func(_ int, request string, say func(string)) {
			if request == "" {
				say(`{"event":"challenge","nonce":"n"}`)
				return
			}
			say(`{"event":"error","code":401,"text":"unknown key"}`)
		})
		<-c.Done()
		const want = `limpet: permanent failure: handshake: peer ended the connection with a message (code 401): "unknown key"`
		if err := c.Err(); err == nil || err.Error() != want || limpet.ClassOf(err) != limpet.ClassAuth {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

// A message of the server asks for a sign of life, and one of the client does. Without
// them this server would be silent, and the client would leave.
func TestTextPingAndPong(t *testing.T) {
	for _, answers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			table := feed.OKX()
			table.Question, table.Answer = "ping=*", `{"pong":"#n"}`
			pings, pongs := 0, 0
			srv, c := tableClient(t, table, limpet.Options{}, func(_ int, request string, say func(string)) {
				switch {
				case request == "ping":
					pings++
					if answers {
						say("pong")
						say(fmt.Sprintf(`{"ping":%d}`, 1<<63+uint64(pings)))
					}
				case strings.HasPrefix(request, `{"pong"`):
					pongs++
					if want := fmt.Sprintf(`{"pong":%d}`, uint64(1<<63+uint64(pings))); request != want {
						t.Errorf("answered %s, want %s", request, want)
					}
				}
			})
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			srv.mu.Lock()
			conns := srv.conns
			srv.mu.Unlock()
			if answers && (conns != 1 || pings < 20 || pongs != pings) {
				t.Errorf("%d connections, %d pings, %d answers", conns, pings, pongs)
			}
			if !answers && conns < 2 {
				t.Error("a server that answers no ping was not left")
			}
			if n := c.Stats().Malformed; n != 0 {
				t.Errorf("%d malformed messages", n)
			}
		})
	}
}

// Each message names the number before it. Numbers skip, so a hole has no count.
func TestChainOfNumbers(t *testing.T) {
	depth := func(first, last, before int) string {
		return fmt.Sprintf(`{"stream":"btcusdt@depth","data":{"e":"depthUpdate","s":"BTCUSDT","U":%d,"u":%d,"pu":%d}}`, first, last, before)
	}
	synctest.Test(t, func(t *testing.T) {
		srv, c := tableClient(t, feed.BinanceFutures(), limpet.Options{}, func(conn int, request string, say func(string)) {
			if request == "" {
				return
			}
			say(fmt.Sprintf(`{"result":null,"id":%d}`, parseRPC(t, request).ID))
			if conn == 1 {
				say(depth(157, 160, 149))
				say(depth(171, 180, 160))
				say(depth(201, 210, 190)) // what led from 180 to 190 is missing
				return
			}
			say(depth(231, 240, 210)) // nothing was sent meanwhile
			say(depth(251, 251, 250))
			say(depth(5, 9, 251)) // the server counts from the beginning
		})
		s := subscribeLive(t, c, "depth/BTCUSDT", nil)
		var story []string
		take := func(n int) {
			for _, m := range collect(t, s, n) {
				switch {
				case m.Loss != nil && m.Kind == limpet.Gap:
					story = append(story, fmt.Sprintf("gap %d-%d count %d", m.Loss.After.Offset, m.Loss.To.Offset, m.Loss.Count))
				case m.Loss != nil:
					story = append(story, m.Kind.String())
				default:
					story = append(story, fmt.Sprint(m.Position.Offset))
				}
			}
		}
		take(4)
		srv.host.Network.ResetAll()
		take(5)
		if got, want := strings.Join(story, ", "), "160, 180, gap 180-190 count 0, 210, 240, gap 240-250 count 0, 251, reset, 9"; got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	})
}

// A batch of trades is one message each. The venue repeats some of them after a
// reconnect and lost others.
func TestBatchesOfTrades(t *testing.T) {
	trades := func(from, to int) string {
		var list []string
		for n := from; n <= to; n++ {
			list = append(list, fmt.Sprintf(`{"symbol":"BTC/USD","trade_id":%d}`, n))
		}
		return `{"channel":"trade","type":"update","data":[` + strings.Join(list, ",") + `]}`
	}
	synctest.Test(t, func(t *testing.T) {
		srv, c := tableClient(t, feed.Kraken(), limpet.Options{}, func(conn int, request string, say func(string)) {
			if request == "" {
				return
			}
			var r struct {
				ID uint64 `json:"req_id"`
			}
			json.Unmarshal([]byte(request), &r)
			say(fmt.Sprintf(`{"method":"subscribe","req_id":%d,"result":{},"success":true}`, r.ID))
			if conn == 1 {
				say(trades(1, 3))
				say(trades(4, 4))
				return
			}
			say(trades(3, 6))
			say(trades(9, 10))
		})
		s := subscribeLive(t, c, "trade/BTC/USD", nil)
		first := collect(t, s, 4)
		srv.host.Network.ResetAll()
		got := payloads(append(first, collect(t, s, 5)...))
		want := strings.NewReplacer(`{"symbol":"BTC/USD","trade_id":`, "", "}", "").Replace(got)
		if want != "1 2 3 4 5 6 gap(6,8] 9 10" {
			t.Errorf("got %s", want)
		}
		if n := s.Stats().Duplicates; n != 2 {
			t.Errorf("%d duplicates, want 2", n)
		}
	})
}

// A message that asks for a new connection is obeyed within seconds, though messages flow.
// A server that asks on each connection is not hammered.
func TestGoAwayMessage(t *testing.T) {
	for _, always := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var made []time.Time
			_, c := tableClient(t, feed.Bitstamp(), limpet.Options{}, func(conn int, request string, say func(string)) {
				switch {
				case request == "":
					mu.Lock()
					made = append(made, time.Now())
					mu.Unlock()
				case strings.Contains(request, "bts:heartbeat"):
					say(`{"event":"bts:heartbeat"}`)
				case strings.Contains(request, "bts:subscribe"):
					say(`{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}`)
					if always || conn == 1 {
						say(`{"event":"bts:request_reconnect","channel":"","data":""}`)
					}
					for range 8 { // messages flow
						say(`{"event":"trade","channel":"live_trades_btcusd","data":{"id":1}}`)
						time.Sleep(500 * time.Millisecond)
					}
				}
			})
			began := time.Now()
			s, err := c.Subscribe(t.Context(), "live_trades/btcusd", nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for range s.Messages(t.Context()) {
				}
			}()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !always && (len(made) != 2 || made[1].Sub(began) > 4*time.Second || s.State().Phase != limpet.SubLive) {
				t.Errorf("%d connections, at %v, subscription %v", len(made), made, s.State().Phase)
			}
			if always && (len(made) < 10 || len(made) > 120) {
				t.Errorf("%d connections in 10 minutes", len(made))
			}
		})
	}
}

// The last cursor stands in the request of the next connection. A server that repeats
// the message of the cursor proves that none is missing; one that does not proves nothing.
func TestCursorInTheRequest(t *testing.T) {
	for _, repeats := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			table := feed.Table{
				Name: "log", Type: "kind", Product: "stream",
				Subscribe: feed.Request{JSON: `{"read":"$product","after":"$cursor"}`},
				Channels:  []feed.Channel{{Name: "log", Types: []string{"line"}, Cursor: "at"}},
			}
			line := func(n int) string { return fmt.Sprintf(`{"kind":"line","stream":"A","at":"c%d"}`, n) }
			srv, c := tableClient(t, table, limpet.Options{}, func(conn int, request string, say func(string)) {
				switch {
				case request == "":
				case conn == 1:
					say(line(1))
					say(line(5))
				default:
					if repeats {
						say(line(5))
					}
					say(line(9))
				}
			})
			s := subscribe(t, c, "log/A")
			first := collect(t, s, 2)
			srv.host.Network.ResetAll()
			want, n := line(1)+" "+line(5)+" reset "+line(9), 2
			if repeats {
				want, n = line(1)+" "+line(5)+" "+line(5)+" "+line(9), 2
			}
			if got := payloads(append(first, collect(t, s, n)...)); got != want {
				t.Errorf("repeats %v: got %s\nwant %s", repeats, got, want)
			}
			if got, want := srv.all(), "/\n"+`{"read":"A","after":null}`+"\n/\n"+`{"read":"A","after":"c5"}`; got != want {
				t.Errorf("the server heard\n%s", got)
			}
		})
	}
}
