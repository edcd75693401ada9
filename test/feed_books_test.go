package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/feed"
)

// bookStory is what a subscription to an order book delivers: numbers, s before that of a
// snapshot, and losses.
func bookStory(ms []limpet.Message) string {
	var words []string
	for _, m := range ms {
		switch {
		case m.Kind == limpet.Gap:
			words = append(words, fmt.Sprintf("gap %d-%d", m.Loss.After.Offset, m.Loss.To.Offset))
		case m.Loss != nil:
			words = append(words, fmt.Sprintf("%v %v", m.Kind, m.Loss.Cause))
		case m.Kind == limpet.Snapshot:
			words = append(words, fmt.Sprintf("s%d", m.Position.Offset))
		default:
			words = append(words, fmt.Sprint(m.Position.Offset))
		}
	}
	return strings.Join(words, ", ")
}

// A venue whose book restarts sends a snapshot with a low number, and one after a
// reconnect with a number that does not join. Neither is taken for a repeat, and a
// program sees where its book ends.
func TestBooksThatBeginAgain(t *testing.T) {
	bybit := func(kind string, u int) string {
		return fmt.Sprintf(`{"topic":"orderbook.50.A","type":%q,"data":{"s":"A","u":%d}}`, kind, u)
	}
	okx := func(action string, prev, seq int) string {
		return fmt.Sprintf(`{"arg":{"channel":"books","instId":"A"},"action":%q,"data":[{"prevSeqId":%d,"seqId":%d}]}`, action, prev, seq)
	}
	for _, v := range []struct {
		table         feed.Table
		topic         string
		answer        func(request string) string
		first, second []string
		want          [2]string
	}{
		{
			feed.Bybit(), "orderbook.50/A", func(request string) string {
				var r struct {
					ID string `json:"req_id"`
				}
				if json.Unmarshal([]byte(request), &r) != nil || r.ID == "" {
					t.Errorf("asked with %s", request)
				}
				return fmt.Sprintf(`{"success":true,"ret_msg":"","req_id":%q,"op":"subscribe"}`, r.ID)
			},
			[]string{bybit("snapshot", 700), bybit("delta", 701), bybit("snapshot", 1), bybit("delta", 2)},
			[]string{bybit("snapshot", 9), bybit("delta", 10), bybit("delta", 12)},
			[2]string{"s700, 701, reset restarted, s1, 2", "gap 2-8, s9, 10, gap 10-11, 12"},
		},
		{
			feed.OKX(), "books/A", func(string) string { return `{"event":"subscribe","arg":{"channel":"books","instId":"A"}}` },
			[]string{okx("snapshot", -1, 700), okx("update", 700, 720), okx("update", 720, 720), okx("update", 720, 3), okx("update", 3, 8)},
			[]string{okx("snapshot", -1, 900), okx("update", 900, 905), okx("update", 909, 910)},
			[2]string{"s700, 720, reset restarted, 3, 8", "reset unverifiable, s900, 905, gap 905-909, 910"},
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, c := tableClient(t, v.table, limpet.Options{}, func(conn int, request string, say func(string)) {
				if !strings.Contains(request, `"subscribe"`) {
					return
				}
				say(v.answer(request))
				lines := v.first
				if conn > 1 {
					lines = v.second
				}
				for _, line := range lines {
					say(line)
				}
			})
			s := subscribeLive(t, c, v.topic, nil)
			for i, want := range v.want {
				n := strings.Count(want, ",") + 1
				if got := bookStory(collect(t, s, n)); got != want {
					t.Errorf("%s: got %s\nwant %s", v.topic, got, want)
				}
				if i == 0 {
					srv.host.Network.ResetAll()
				}
			}
			if n := c.Stats().Malformed; n != 0 {
				t.Errorf("%s: %d malformed messages", v.topic, n)
			}
		})
	}
}

// Whatever a venue sends, the client neither ends nor leaves: messages that it spoils in
// any way are skipped, and the next good one arrives.
func TestSpoiledMessagesOfVenues(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, v := range []struct {
		table       feed.Table
		topic, good string
	}{
		{feed.Kraken(), "trade/A", `{"channel":"trade","type":"update","data":[{"symbol":"A","trade_id":%d},{"symbol":"B","trade_id":4}]}`},
		{feed.Binance(), "depth@100ms/A", `{"stream":"a@depth@100ms","data":{"e":"depthUpdate","U":1,"u":%d}}`},
		{feed.BinanceFutures(), "depth/A", `{"stream":"a@depth","data":{"e":"depthUpdate","U":1,"u":%d,"pu":1}}`},
		{feed.OKX(), "trades/A", `{"arg":{"channel":"trades","instId":"A"},"data":[{"tradeId":"%d","count":"2"},{"tradeId":"3"}]}`},
		{feed.Bybit(), "orderbook.50/A", `{"topic":"orderbook.50.A","type":"delta","data":{"s":"A","u":%d}}`},
		{feed.Bitstamp(), "live_trades/a", `{"event":"trade","channel":"live_trades_a","data":{"id":%d}}`},
	} {
		rng := rand.New(rand.NewPCG(seed, 1))
		spoiled := func() string {
			b := []byte(fmt.Sprintf(v.good, rng.IntN(1000)))
			for n := 1 + rng.IntN(3); n > 0 && len(b) > 0; n-- {
				switch i := rng.IntN(len(b)); rng.IntN(4) {
				case 0:
					b[i] = `{}[]",:0-x\`[rng.IntN(11)]
				case 1:
					b = append(b[:i:i], b[min(len(b), i+1+rng.IntN(8)):]...)
				case 2:
					b = append(b[:i:i], append([]byte(`,"data":[`), b[i:]...)...)
				case 3:
					b = b[:i+1]
				}
			}
			return string(b)
		}
		synctest.Test(t, func(t *testing.T) {
			const each = 500
			srv, c := tableClient(t, v.table, limpet.Options{}, func(_ int, request string, say func(string)) {
				if !strings.Contains(strings.ToLower(request), "subscribe") {
					return
				}
				say(fmt.Sprintf(v.good, 1))
				for range each {
					say(spoiled())
				}
				say(fmt.Sprintf(v.good, 1<<40))
			})
			s := subscribeLive(t, c, v.topic, &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4 * each}})
			arrived := false
			deadline := time.After(time.Minute)
			for !arrived {
				select {
				case m := <-s.C():
					arrived = strings.Contains(string(m.Payload), fmt.Sprint(1<<40))
				case <-deadline:
					t.Fatalf("%s: the good message did not arrive", v.table.Name)
				}
			}
			srv.mu.Lock()
			defer srv.mu.Unlock()
			if n := c.Stats().Malformed; n < each/10 || srv.conns != 1 || c.Err() != nil {
				t.Errorf("%s: %d malformed messages, %d connections, %v", v.table.Name, n, srv.conns, c.Err())
			}
		})
	}
}
