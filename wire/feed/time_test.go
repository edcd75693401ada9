package feed

import (
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// times decodes a message and returns the times of the messages in it, in microseconds.
func times(t *testing.T, d wire.Dialect, text string) (all []int64) {
	t.Helper()
	var out wire.Events
	if err := open(t, d).Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &out); err != nil {
		t.Fatal(err)
	}
	for i := range out.List {
		if e := &out.List[i]; e.Kind == wire.EventData {
			if e.Message.Time%1000 != 0 {
				t.Errorf("%s: time %d", text, e.Message.Time)
			}
			all = append(all, e.Message.Time/1000)
		} else if e.Kind == wire.EventMalformed {
			t.Errorf("%s: %s", text, e.Reason)
		}
	}
	return all
}

// The ready tables know when a venue sent a message, where it says so. 1700000000 is
// 2023-11-14T22:13:20Z.
func TestTimesOfVenues(t *testing.T) {
	const at = 1_700_000_000_000_000
	for _, row := range []struct {
		table func() Table
		text  string
		want  []int64
	}{
		{Coinbase, `{"type":"match","trade_id":7,"product_id":"A-B","time":"2023-11-14T22:13:20.000007Z"}`, []int64{at + 7}},
		{Coinbase, `{"type":"l2update","product_id":"A-B","changes":[],"time":"2023-11-14T22:13:20.007Z"}`, []int64{at + 7000}},
		{Coinbase, `{"type":"snapshot","product_id":"A-B","bids":[],"asks":[]}`, []int64{0}},
		{Kraken, `{"channel":"trade","type":"update","data":[{"symbol":"A/B","trade_id":1,"timestamp":"2023-11-14T22:13:20.000001Z"},{"symbol":"A/B","trade_id":2,"timestamp":"2023-11-14T22:13:20.000002Z"},{"symbol":"A/B","trade_id":3}]}`, []int64{at + 1, at + 2, 0}},
		{Kraken, `{"channel":"book","type":"update","data":[{"symbol":"A/B","bids":[],"timestamp":"2023-11-14T22:13:20.000003Z"}]}`, []int64{at + 3}},
		// The entry's own time is when its interval will end.
		{Kraken, `{"channel":"ohlc","type":"update","timestamp":"2023-11-14T22:13:20.000004Z","data":[{"symbol":"A/B","interval":5,"timestamp":"2023-11-14T22:15:00.0Z"}]}`, []int64{at + 4}},
		{Kraken, `{"channel":"ticker","type":"update","data":[{"symbol":"A/B","bid":1}]}`, []int64{0}},
		{Binance, `{"stream":"ab@trade","data":{"e":"trade","E":1700000000001,"s":"AB","t":5,"T":1699999999999}}`, []int64{at + 1000}},
		{Binance, `{"stream":"ab@bookTicker","data":{"u":5,"s":"AB"}}`, []int64{0}},
		{BinanceFutures, `{"stream":"ab@bookTicker","data":{"e":"bookTicker","u":5,"s":"AB","T":1700000000002,"E":1700000000003}}`, []int64{at + 3000}},
		{OKX, `{"arg":{"channel":"trades","instId":"A-B"},"data":[{"instId":"A-B","tradeId":"6","ts":"1700000000005"}]}`, []int64{at + 5000}},
		{OKX, `{"arg":{"channel":"candle1m","instId":"A-B"},"data":[["1700000000005","1"]]}`, []int64{0}},
		{Bybit, `{"topic":"orderbook.50.AB","ts":1700000000006,"type":"snapshot","data":{"s":"AB","u":8},"cts":1700000000001}`, []int64{at + 6000}},
		{Bybit, `{"topic":"publicTrade.AB","type":"snapshot","ts":1700000000007,"data":[{"T":1700000000001,"s":"AB"},{"T":1700000000002,"s":"AB"}]}`, []int64{at + 7000, at + 7000}},
		{Bitstamp, `{"data":{"id":5,"timestamp":"1700000000","microtimestamp":"1700000000000008"},"event":"trade","channel":"live_trades_ab"}`, []int64{at + 8}},
	} {
		got := times(t, mustNew(t, row.table()), row.text)
		if len(got) != len(row.want) {
			t.Errorf("%s: %d messages, want %d", row.text, len(got), len(row.want))
			continue
		}
		for i := range got {
			if got[i] != row.want[i] {
				t.Errorf("%s: message %d has the time %d, want %d", row.text, i, got[i], row.want[i])
			}
		}
	}
}

// A time that cannot be read is no fault of the message.
func TestTimeOfATable(t *testing.T) {
	table := Table{
		Name: "t", Type: "type", Product: "p", Time: "at", Subscribe: Request{JSON: `{"channels":["$channel"],"products":["$product"]}`},
		Channels: []Channel{{Name: "a", Types: []string{"a"}}, {Name: "b", Types: []string{"b"}, Time: "own.at"}},
	}
	d := mustNew(t, table)
	for text, want := range map[string]int64{
		`{"type":"a","p":"x","at":5}`:                  5_000_000,
		`{"type":"a","p":"x","at":"5.25"}`:             5_250_000,
		`{"type":"a","p":"x"}`:                         0,
		`{"type":"a","p":"x","at":null}`:               0,
		`{"type":"a","p":"x","at":true}`:               0,
		`{"type":"a","p":"x","at":{"at":5}}`:           0,
		`{"type":"a","p":"x","at":-5}`:                 0,
		`{"type":"a","p":"x","at":"soon"}`:             0,
		`{"type":"a","p":"x","at":"\u0035"}`:           5_000_000,
		`{"type":"b","p":"x","at":5,"own":{"at":"7"}}`: 7_000_000,
		`{"type":"b","p":"x","at":5}`:                  0,
	} {
		if got := times(t, d, text); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
	for _, bad := range []string{"a..b", "[]"} {
		table.Time = bad
		if _, err := New(table); err == nil {
			t.Errorf("Time %q was taken", bad)
		}
	}
}

func TestTimeOfFuncs(t *testing.T) {
	at := time.Unix(5, 0)
	d, err := NewFuncs(Funcs{Name: "own", Subscribe: func(Ask) ([]byte, error) { return nil, nil }, Read: func(_ []byte, say func(Item)) error {
		say(Item{Topic: "a", Time: at})
		say(Item{Topic: "a"})
		say(Item{Topic: "a", Time: time.Unix(-5, 0)})
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := times(t, d, "x"); len(got) != 3 || got[0] != 5_000_000 || got[1] != 0 || got[2] > 0 {
		t.Errorf("got %d", got)
	}
}
