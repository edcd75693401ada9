package test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// lockedText is the output of a logger, which a test reads meanwhile.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// coinbaseClient returns a client of a Coinbase feed whose server confirms what the
// first n requests ask for, then talks.
func coinbaseClient(t *testing.T, o limpet.Options, change func(*feed.Table), n int, talk func(conn int, say func(string))) (*toyServer, *limpet.Client) {
	t.Helper()
	table := feed.Coinbase()
	if change != nil {
		change(&table)
	}
	d, err := feed.New(table)
	if err != nil {
		t.Fatal(err)
	}
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		if conn > 1 {
			n = 1
		}
		var entries []string
		for range n {
			var r struct {
				Products []string `json:"product_ids"`
				Channels []string `json:"channels"`
			}
			if json.Unmarshal([]byte(hear()), &r) != nil {
				return
			}
			for _, channel := range r.Channels {
				products, _ := json.Marshal(r.Products)
				entries = append(entries, fmt.Sprintf(`{"name":%q,"product_ids":%s}`, channel, products))
			}
			say(`{"type":"subscriptions","channels":[` + strings.Join(entries, ",") + `]}`)
		}
		talk(conn, say)
	})
	o.HTTPClient, o.Dialect = srv.host.HTTPClient(), d
	c, err := limpet.Dial(context.Background(), srv.host.URL(), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return srv, c
}

// TestMalformedMessagesAreSkipped: the connection stays, each is counted, each kind has
// one log line, and whoever may have lost a message learns it where it was lost.
func TestMalformedMessagesAreSkipped(t *testing.T) {
	const ticker = `{"type":"ticker","product_id":"A-B"}`
	match := func(n int) string { return fmt.Sprintf(`{"type":"match","product_id":"A-B","trade_id":%d}`, n) }
	for _, row := range []struct {
		name, bad, ticker, match, other string // what the three subscriptions get
	}{
		{"text", "ping", "data data", "1 3", "data"},
		{"empty", "", "data data", "1 3", "data"},
		{"array", "[1,2,3]", "data data", "1 3", "data"},
		{"unknown type", `{"type":"correction","product_id":"A-B"}`, "data data", "1 3", "data"},
		{"NaN", `{"type":"ticker","price":NaN,"product_id":"A-B"}`, "data gap data", "1 3", "data"},
		{"no product", `{"type":"ticker","product_id":null}`, "data gap data", "1 3", "gap data"},
		{"product of the wrong type", `{"type":"ticker","product_id":["A-B"]}`, "data gap data", "1 3", "gap data"},
		{"negative number", `{"type":"match","product_id":"A-B","trade_id":-1}`, "data data", "1 malformed 3", "data"},
		{"too large a number", `{"type":"match","product_id":"A-B","trade_id":18446744073709551616}`, "data data", "1 malformed 3", "data"},
		{"number of the wrong type", `{"type":"match","product_id":"A-B","trade_id":{}}`, "data data", "1 malformed 3", "data"},
		{"number without a product", `{"type":"match","trade_id":2}`, "data data", "1 malformed 3", "data"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out lockedText
				_, c := coinbaseClient(t, limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))}, nil, 3,
					func(_ int, say func(string)) {
						say(ticker)
						say(match(1))
						say(row.bad)
						say(row.bad)
						say(`{"type":"ticker","product_id":"C-D"}`)
						say(ticker)
						if strings.Contains(row.match, "malformed") {
							say(match(3))
						} else {
							say(match(2))
						}
					})
				subs := make([]*limpet.Subscription, 3)
				for i, topic := range []string{"ticker/A-B", "matches/A-B", "ticker/C-D"} {
					subs[i] = subscribeLive(t, c, topic, nil)
				}
				synctest.Wait()
				got := skipStory(t, subs[0])
				if got != row.ticker {
					t.Errorf("ticker: %s, want %s", got, row.ticker)
				}
				if got := skipStory(t, subs[2]); got != row.other {
					t.Errorf("other ticker: %s, want %s", got, row.other)
				}
				want := strings.Replace(row.match, "1 3", "1 2", 1)
				if got := numbersOf(t, subs[1]); got != want {
					t.Errorf("matches: %s, want %s", got, want)
				}
				per := uint64(1)
				if row.name == "array" {
					per = 3
				}
				if st := c.Stats(); st.Malformed != 2*per || st.Connections != 1 || st.Unrequested != 0 {
					t.Errorf("%+v", st)
				}
				if n := out.count("message skipped"); n != 1 {
					t.Errorf("%d log lines", n)
				}
			})
		})
	}
}

// waiting takes what waits for the consumer of s.
func waiting(t *testing.T, s *limpet.Subscription) (ms []limpet.Message) {
	t.Helper()
	for {
		select {
		case m := <-s.C():
			ms = append(ms, m)
		case <-time.After(time.Second):
			return ms
		}
	}
}

func skipStory(t *testing.T, s *limpet.Subscription) string {
	t.Helper()
	var words []string
	for _, m := range waiting(t, s) {
		words = append(words, m.Kind.String())
		if m.Loss != nil && m.Loss.Cause != limpet.CauseMalformed {
			t.Errorf("%v: %+v", m.Kind, m.Loss)
		}
	}
	return strings.Join(words, " ")
}

func numbersOf(t *testing.T, s *limpet.Subscription) string {
	t.Helper()
	var words []string
	for _, m := range waiting(t, s) {
		if m.Loss == nil {
			words = append(words, fmt.Sprint(m.Position.Offset))
			continue
		}
		words = append(words, m.Loss.Cause.String())
		if m.Loss.After.Offset != 1 || m.Loss.To.Offset != 2 || m.Loss.Count != 1 {
			t.Errorf("%+v", m.Loss)
		}
	}
	return strings.Join(words, " ")
}

// TestStrictTableEndsTheConnection: a table can ask for it.
func TestStrictTableEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := coinbaseClient(t, limpet.Options{}, func(table *feed.Table) { table.Strict = true }, 1,
			func(conn int, say func(string)) {
				if conn == 1 {
					say("ping")
				}
			})
		subscribeLive(t, c, "ticker/A-B", nil)
		time.Sleep(time.Minute)
		if st := c.Stats(); st.Connections != 2 || st.Malformed != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestFloodOfMalformedMessages: it has few log lines and events, takes no memory, and
// does not prove that the connection works. A peer that falls silent after it is found.
func TestFloodOfMalformedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedText
		var mu sync.Mutex
		var skipped, losses int
		srv, c := coinbaseClient(t, limpet.Options{
			Logger: slog.New(slog.NewTextHandler(&out, nil)),
			Observer: observer(func(e limpet.Event) {
				mu.Lock()
				defer mu.Unlock()
				switch e.(type) {
				case limpet.MessageSkipped:
					skipped++
				case limpet.LossReported:
					losses++
				}
			}),
			Backoff: limpet.Backoff{StableAfter: time.Minute},
		}, nil, 1, func(conn int, say func(string)) {
			for i := range 20_000 * min(1, max(0, 4-conn)) {
				say([]string{"ping", `{"type":"ticker"}`, `{"type":"ticker","product_id":"A-B","x":NaN}`}[i%3])
			}
		})
		s := subscribeLive(t, c, "ticker/A-B", nil)
		for loss := range 3 {
			time.Sleep(30 * time.Second) // longer than a sixth of StableAfter
			if n := c.Stats().Malformed; n != uint64(20_000*(loss+1)) {
				t.Fatalf("%d malformed messages", n)
			}
			if st := s.Stats(); st.Waiting != 0 || st.Received != 0 {
				t.Errorf("%+v", st)
			}
			srv.host.Network.CutAll()
			synctest.Wait()
			if n := c.State().Attempt; n != loss+1 {
				t.Errorf("after loss %d the attempt counts as number %d: the flood proved the connection", loss+1, n)
			}
		}
		mu.Lock()
		if skipped > 9 || losses == 0 {
			t.Errorf("%d reports, %d losses", skipped, losses)
		}
		mu.Unlock()
		if n := out.count("message skipped"); n > 9 {
			t.Errorf("%d log lines", n)
		}
		if ms := waiting(t, s); len(ms) > 8 {
			t.Errorf("%d losses wait without a message between them", len(ms))
		}
	})
}

// TestUnnamedTypesAreReportedOnce: each type that the table does not name has one report, of
// a bounded number, and every message of one is counted.
func TestUnnamedTypesAreReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		reports := map[string]int{}
		_, c := coinbaseClient(t, limpet.Options{Observer: observer(func(e limpet.Event) {
			if skipped, ok := e.(limpet.MessageSkipped); ok {
				mu.Lock()
				reports[skipped.Reason]++
				mu.Unlock()
			}
		})}, nil, 1, func(_ int, say func(string)) {
			for i := range 300 {
				say(fmt.Sprintf(`{"type":"type%d"}`, i%100))
			}
			say("ping")
		})
		subscribeLive(t, c, "ticker/A-B", nil)
		synctest.Wait()
		if n := c.Stats().Malformed; n != 301 {
			t.Errorf("%d malformed messages", n)
		}
		mu.Lock()
		defer mu.Unlock()
		if reports["a message of a type that is not in the feed's table: type0"] != 1 || reports[`not a JSON object, or nested too deep; a text such as pong belongs in Table.Heartbeats, as "=pong"`] != 1 || len(reports) != 18 {
			t.Errorf("%d reports: %v", len(reports), reports)
		}
		for reason, n := range reports {
			if n != 1 {
				t.Errorf("%d reports of %s", n, reason)
			}
		}
	})
}

// TestSilenceAfterMalformedMessages: they are signs of life, but only while they come.
func TestSilenceAfterMalformedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := coinbaseClient(t, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 4 * time.Second}},
			func(table *feed.Table) { table.Ping = wire.PingNone }, 1,
			func(conn int, say func(string)) {
				for range 10 {
					time.Sleep(time.Second)
					say("ping")
				}
			})
		subscribeLive(t, c, "ticker/A-B", nil)
		time.Sleep(15 * time.Second)
		if c.Stats().Connections != 1 {
			t.Errorf("lost while it sent: %v", c.State().Cause)
		}
		time.Sleep(6 * time.Second)
		if n := c.Stats().Attempts; n < 2 {
			t.Errorf("%d attempts: the silence was not noticed", n)
		}
	})
}

// TestUnrequestedMessages: a server that names what the client never subscribed to is
// counted and reported; what still comes for a closed subscription is no fault.
func TestUnrequestedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedText
		closed := make(chan struct{})
		_, c := coinbaseClient(t, limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))}, nil, 1,
			func(conn int, say func(string)) {
				<-closed
				say(`{"type":"ticker","product_id":"A-B"}`)
				for i := range 100 {
					say(fmt.Sprintf(`{"type":"ticker","product_id":"X-%d"}`, i%20))
				}
				say(`{"type":"match","product_id":"Y","trade_id":1}`)
			})
		s := subscribeLive(t, c, "ticker/A-B", nil)
		s.Close()
		synctest.Wait()
		close(closed)
		time.Sleep(time.Second)
		if st := c.Stats(); st.Unrequested != 101 || st.Malformed != 0 || st.Connections != 1 {
			t.Errorf("%+v", st)
		}
		if n := out.count("message skipped"); n > 16 || out.count("topic=ticker/X-3") != 1 || out.count("topic=ticker/A-B") > 2 {
			t.Errorf("%d log lines", n)
		}
	})
}

// TestViolationsWithoutProgress: a server without a greeting that breaks the protocol on
// every connection ends the client, whatever resets and gaps it reports before. One that
// also sends messages does not.
func TestViolationsWithoutProgress(t *testing.T) {
	for _, messages := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
				hear()
				say(eventText(wire.Event{Kind: wire.EventReset, Key: 1, Position: wire.Position{Offset: uint64(10 * conn)}}))
				say(eventText(wire.Event{Kind: wire.EventGap, Key: 1, Prev: uint64(10 * conn), Position: wire.Position{Offset: uint64(10*conn + 2)}}))
				if messages {
					say(eventText(wire.Event{Kind: wire.EventData, Key: 1, Numbered: true, Prev: uint64(10*conn + 2), Position: wire.Position{Offset: uint64(10*conn + 3)}}))
				}
				time.Sleep(time.Second)
				say("no event")
			})
			srv.host.Inject(limpettest.Stall(time.Millisecond))
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(),
				Dialect: eventDialect{wire.Traits{ByKey: true, Confirms: true, StartSubs: 1}}}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			s, err := c.Subscribe(context.Background(), "topic", nil)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Hour)
			st := c.Stats()
			if st.Connections < 5 || s.Stats().Resets == 0 || messages != (s.Stats().Received > 0) {
				t.Fatalf("the fault did not happen: %+v, %+v", st, s.Stats())
			}
			ended := c.State().Phase == limpet.Ended
			if ended == messages {
				t.Errorf("with messages %v: ended %v after %d connections, %v", messages, ended, st.Connections, c.State().Cause)
			}
			if ended && limpet.ClassOf(c.Err()) != limpet.ClassProtocol {
				t.Errorf("ended with %v", c.Err())
			}
		})
	}
}

// TestMessagesBeforeAnotherRequestAreProgress: what a subscription received on a connection
// before it was asked for again on it shows that the connection worked.
func TestMessagesBeforeAnotherRequestAreProgress(t *testing.T) {
	for _, messages := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, "ends", false)
			v.table.Strict = true
			c := script(t, v, func(say func(string), hear func() string) {
				hear()
				say(subscribedA)
				if messages {
					say(tradeOfA)
					time.Sleep(time.Second)
					say(unsubscribedA)
					hear()
				}
				time.Sleep(time.Second)
				say("no message")
			})
			s := subscribe(t, c, "trades/A")
			time.Sleep(3 * time.Hour)
			st := c.Stats()
			if st.Connections < 5 || messages != (s.Stats().Received > 0) {
				t.Fatalf("the fault did not happen: %+v, %+v", st, s.Stats())
			}
			if ended := c.State().Phase == limpet.Ended; ended == messages {
				t.Errorf("with messages %v: ended %v after %d connections, %v", messages, ended, st.Connections, c.State().Cause)
			}
		})
	}
}
