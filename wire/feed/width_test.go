package feed

import (
	"strings"
	"testing"
)

// The tables of venues that are not in the package show how far a table reaches.

func bitmex() Table {
	request := func(op string) Request { return Request{JSON: `{"op":"` + op + `","args":["$stream","..."]}`} }
	return Table{
		Name: "bitmex", Subscribe: request("subscribe"), Unsubscribe: request("unsubscribe"),
		Type: "action", Channel: "table", Product: "data[].symbol", StreamName: "channel:product", Entries: "data",
		Channels: []Channel{
			{Name: "trade"}, {Name: "quote"}, {Name: "tradeBin*"}, {Name: "orderBook10", Snapshots: []string{"*"}},
			{Name: "orderBookL2_25", Snapshots: []string{"partial"}},
		},
		Confirm:    Confirm{Type: "subscribe=*", Ended: "unsubscribe=*", Streams: "subscribe", EndedStreams: "unsubscribe"},
		Error:      ErrorMessage{Type: "error=*", Text: "error"},
		Ignored:    []string{"info=*"},
		Heartbeats: []string{"=pong"},
		PingText:   "ping",
	}
}

func hyperliquid() Table {
	request := func(method, more string) Request {
		return Request{JSON: `{"method":"` + method + `","subscription":{"type":"$channel","coin":"$product"` + more + `}}`}
	}
	const interval = `,"interval":"$param"`
	return Table{
		Name: "hyperliquid", Subscribe: request("subscribe", ""), Unsubscribe: request("unsubscribe", ""),
		Channel: "channel", Entries: "data",
		Channels: []Channel{
			{Name: "l2Book", Product: "data.coin", Snapshots: []string{"*"}},
			{Name: "trades", Product: "data[].coin"},
			{Name: "bbo", Product: "data.coin"},
			{
				Name: "candle-*", Request: "candle", Product: "data.s", Param: "data.i",
				Subscribe: request("subscribe", interval), Unsubscribe: request("unsubscribe", interval),
			},
		},
		Confirm:    Confirm{Type: "data.method=subscribe", Ended: "data.method=unsubscribe", Channel: "data.subscription.type", Products: "data.subscription.coin"},
		Error:      ErrorMessage{Type: "channel=error", Text: "data"},
		Heartbeats: []string{"channel=pong"},
		PingText:   `{"method":"ping"}`,
	}
}

func polymarket() Table {
	return Table{
		Name: "polymarket", Type: "event_type", Product: "asset_id", Entries: "price_changes",
		Channels: []Channel{
			{Name: "book", Types: []string{"last_trade_price", "tick_size_change", "best_bid_ask"}, Snapshots: []string{"book"}, Subscribe: Request{JSON: `{"type":"market","assets_ids":["$product","..."]}`}},
			{Name: "changes", Types: []string{"price_change"}, Product: "price_changes[].asset_id", Subscribe: Request{JSON: `{"type":"market","assets_ids":["$product","..."]}`}},
		},
		Heartbeats: []string{"=PONG"},
		PingText:   "PING",
	}
}

func coinbaseAdvanced() Table {
	return Table{
		Name:      "coinbase-advanced",
		Subscribe: Request{JSON: `{"type":"subscribe","product_ids":["$product","..."],"channel":"$channel"}`},
		Type:      "events[0].type", Channel: "channel", Product: "events[0].product_id", Entries: "events[0].trades", Sequence: "sequence_num",
		Channels: []Channel{
			{Name: "level2", Aliases: []string{"l2_data"}, Types: []string{"update"}, Snapshots: []string{"snapshot"}},
			{Name: "market_trades", Product: "events[0].trades[].product_id", Number: "events[0].trades[].trade_id"},
			{Name: "ticker", Product: "events[0].tickers[0].product_id"},
		},
		Error:      ErrorMessage{Type: "type=error", Text: "message"},
		Heartbeats: []string{"channel=heartbeats"},
		Ignored:    []string{"channel=subscriptions"},
	}
}

// TestWidth decodes the messages of venues whose tables are above: none is malformed, each
// that must be understood is.
func TestWidth(t *testing.T) {
	for _, v := range []struct {
		file    string
		table   Table
		want    []string // events that must be among those of the file
		unknown []string // parts of messages that a table cannot place
	}{
		{"bitmex", bitmex(), []string{
			"subscribed trade/XBTUSD none", "data trade/XBTUSD insert entry", "data quote/XBTUSD insert entry; data quote/XBTUSD insert entry",
			"data tradeBin5m/ETH_USDT insert entry", "data orderBookL2_25/XBTUSD update entry", "error refused of 19 bytes", "unsubscribed trade/XBTUSD 0",
		}, nil},
		{"hyperliquid", hyperliquid(), []string{
			"subscribed l2Book/BTC none", "data l2Book/BTC snapshot", "data trades/BTC  entry", "data bbo/HYPE", "data candle-1d/HYPE", "unsubscribed trades/BTC 0",
			"error refused of 36 bytes",
		}, []string{"allMids"}},
		{"polymarket", polymarket(), []string{
			"data changes/asset_a price_change entry; data changes/asset_b price_change entry", "data changes/0x123 price_change entry",
			"data book/asset1 snapshot book entry; data changes/asset1 price_change entry",
		}, nil},
		{"coinbase-advanced", coinbaseAdvanced(), []string{
			"data level2/BTC-USD snapshot snapshot", "data level2/BTC-USD update", "data market_trades/ETH-USDT (22381690,22381691] update entry",
			"data ticker/ETH-USDT snapshot", "reset level2/BTC-USD lost at 0; data level2/BTC-USD update", "error refused of 22 bytes",
		}, []string{"ticker_batch", "candles", `"channel":"status"`}},
	} {
		c := open(t, mustNew(t, v.table))
		var all []string
		for _, s := range shapes(t, v.file) {
			if s.Dir != "recv" {
				continue
			}
			got := summary(t, c, s.Data)
			all = append(all, got)
			known := true
			for _, part := range v.unknown {
				known = known && !strings.Contains(s.Data, part)
			}
			if strings.Contains(got, "malformed") && (known || !strings.Contains(got, "not in the feed")) {
				t.Errorf("%s: %.300s: %s", v.file, s.Data, got)
			}
		}
		for _, want := range v.want {
			if !strings.Contains(strings.Join(all, "\n")+"\n", want) {
				t.Errorf("%s: no %q", v.file, want)
			}
		}
	}
}
