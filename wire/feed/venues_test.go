package feed

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// TestRequestsOfVenues compares what the tables ask with what clients of the venues sent:
// the same JSON, but for the id of the request.
func TestRequestsOfVenues(t *testing.T) {
	for _, row := range []struct {
		file   string
		table  func() Table
		id     string // the member that is not compared
		topics []string
		end    bool
		want   string // a part of the line that was sent
	}{
		{"kraken-v2", Kraken, "req_id", []string{"book/ETH/USDT"}, false, `"channel": "book"`},
		{"kraken-v2", Kraken, "req_id", []string{"trade/BTC/USD"}, false, `"channel":"trade"`},
		{"kraken-v2", Kraken, "req_id", []string{"ohlc-5/ETH/USDT"}, false, `"ohlc"`},
		{"kraken-v2", Kraken, "req_id", []string{"trade/BTC/USD"}, true, `"unsubscribe"`},
		{"binance-spot", Binance, "id", []string{"depth@100ms/BTCUSDT", "bookTicker/BTCUSDT", "trade/BTCUSDT"}, false, `"SUBSCRIBE"`},
		{"binance-spot", Binance, "id", []string{"bookTicker/BTCUSDT"}, true, `"UNSUBSCRIBE"`},
		{"binance-usdm", BinanceFutures, "id", []string{"depth@0ms/BTCUSDT", "bookTicker/BTCUSDT", "trade/BTCUSDT"}, false, `"SUBSCRIBE"`},
		{"okx", OKX, "", []string{"trades/BTC-USDT", "tickers/BTC-USDT"}, false, `"op":"subscribe"`},
		{"okx", OKX, "", []string{"books/ETH-USDT"}, false, `"books"`},
		{"okx", OKX, "", []string{"tickers/BTC-USDT"}, true, `"unsubscribe"`},
		{"bybit", Bybit, "req_id", []string{"orderbook.50/BTCUSDT", "publicTrade/BTCUSDT"}, false, `"op":"subscribe"`},
		{"bybit", Bybit, "req_id", []string{"publicTrade/BTCUSDT"}, true, `"op":"unsubscribe"`},
		{"bitstamp", Bitstamp, "", []string{"live_trades/btcusd"}, false, `bts:subscribe`},
		{"bitstamp", Bitstamp, "", []string{"diff_order_book/btcusd"}, false, `diff_order_book`},
		{"bitstamp", Bitstamp, "", []string{"live_trades/btcusd"}, true, `bts:unsubscribe`},
	} {
		c := open(t, mustNew(t, row.table()))
		var ops []wire.Op
		for _, topic := range row.topics {
			if row.end {
				ops = append(ops, wire.Op{Kind: wire.OpUnsubscribe, Name: topic})
			} else {
				ops = append(ops, wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Topic: topic}})
			}
		}
		got := encode(t, c, ops...)
		sent := ""
		for _, s := range shapes(t, row.file) {
			if s.Dir == "send" && strings.Contains(s.Data, row.want) && sent == "" {
				sent = s.Data
			}
		}
		if len(got) != 1 || !reflect.DeepEqual(withoutMember(t, got[0], row.id), withoutMember(t, sent, row.id)) {
			t.Errorf("%s %q: got %q, want %s", row.file, row.topics, got, sent)
		}
	}
}

func withoutMember(t *testing.T, text, name string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	delete(m, name)
	return m
}

// TestPingsOfVenues: what a table sends as a ping is what the venue's clients send.
func TestPingsOfVenues(t *testing.T) {
	for _, row := range []struct {
		file  string
		table func() Table
		id    string
	}{{"kraken-v2", Kraken, "req_id"}, {"okx", OKX, ""}, {"bybit", Bybit, "req_id"}, {"bitstamp", Bitstamp, ""}} {
		d := mustNew(t, row.table())
		got := encode(t, open(t, d), wire.Op{Kind: wire.OpPing})
		found := false
		for _, s := range shapes(t, row.file) {
			switch {
			case s.Dir != "send" || len(got) != 1:
			case s.Data == got[0]:
				found = true
			case json.Valid([]byte(s.Data)) && json.Valid([]byte(got[0])):
				found = found || reflect.DeepEqual(withoutMember(t, s.Data, row.id), withoutMember(t, got[0], row.id))
			}
		}
		if !found || d.Traits().Ping != wire.PingOp {
			t.Errorf("%s: sends %q, which no recorded client sent", row.file, got)
		}
	}
}

// TestAnswersByID plays requests and the answers of the venues, which repeat their id.
func TestAnswersByID(t *testing.T) {
	for _, row := range []struct {
		file     string
		table    func() Table
		topic    string
		answer   string // a part of the answer in the file
		from, to string // how the answer's id is replaced
		end      bool
		want     string
	}{
		{"kraken-v2", Kraken, "book/BTC/USD", `"channel":"book","depth":10`, `"req_id":11`, `"req_id":%d`, false, "subscribed book/BTC/USD none"},
		{"kraken-v2", Kraken, "ohlc-5/ETH/USDT", `"channel": "ohlc"`, `"req_id": 1 `, `"req_id": %d `, false, "subscribed ohlc-5/ETH/USDT none"},
		{"kraken-v2", Kraken, "trade/XBT/USD", `Currency pair not supported`, `"req_id":7`, `"req_id":%d`, false, "unsubscribed trade/XBT/USD refused Currency pair not supported XBT/USD"},
		{"kraken-v2", Kraken, "trade/BTC/USD", `"method":"unsubscribe"`, `"req_id":8`, `"req_id":%d`, true, "unsubscribed trade/BTC/USD 0 "},
		{"binance-spot", Binance, "trade/BTCUSDT", `{ "result": null, "id": 1 }`, `"id": 1`, `"id": %d`, false, "subscribed trade/BTCUSDT by-number"},
		{"binance-spot", Binance, "trade/BTCUSDT", `"Unknown property"`, `"id":5`, `"id":%d`, false, "unsubscribed trade/BTCUSDT refused Unknown property"},
		{"binance-spot", Binance, "trade/BTCUSDT", `{"result":null,"id":312}`, `"id":312`, `"id":%d`, true, "unsubscribed trade/BTCUSDT 0 "},
		{"bybit", Bybit, "publicTrade/BTCUSDT", `"ret_msg":"subscribe"`, `"req_id":"10001"`, `"req_id":"%d"`, false, "subscribed publicTrade/BTCUSDT none"},
		{"bybit", Bybit, "publicTrade/BTCUSDT", `"op":"unsubscribe"`, `"req_id":"10002"`, `"req_id":"%d"`, true, "unsubscribed publicTrade/BTCUSDT 0 "},
	} {
		c := open(t, mustNew(t, row.table()))
		for range 2 { // so that the id is not the first one
			op := wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Topic: row.topic}}
			if row.end {
				op = wire.Op{Kind: wire.OpUnsubscribe, Name: row.topic}
			}
			encode(t, c, op)
		}
		id := c.(*codec).lastID
		answer := ""
		for _, s := range shapes(t, row.file) {
			if s.Dir == "recv" && strings.Contains(s.Data, row.answer) && strings.Contains(s.Data, row.from) {
				answer = strings.Replace(s.Data, row.from, fmt.Sprintf(row.to, id), 1)
			}
		}
		if answer == "" {
			t.Errorf("%s: no answer with %s", row.file, row.answer)
			continue
		}
		expect(t, c, answer, row.want)
		// The same id answers nothing twice.
		if got, err := decode(c, answer); err != nil || strings.Contains(got, "subscribed") {
			t.Errorf("%s: again: %s, %v", row.file, got, err)
		}
	}
}

// krakenV1 is a table of Kraken's version 1, whose messages are lists.
func krakenV1() Table {
	return Table{
		Name: "kraken-v1", Type: "event", Channel: "[-2]", Product: "[-1]",
		Subscribe:  Request{JSON: `{"event":"subscribe","pair":["$product","..."],"subscription":{"name":"$channel"}}`},
		Channels:   []Channel{{Name: "trade"}, {Name: "spread"}, {Name: "ticker"}, {Name: "ohlc-*"}, {Name: "book-*", Snapshots: []string{"[1].as=*"}}},
		Confirm:    Confirm{Type: "status=subscribed", Ended: "status=unsubscribed", Channel: "channelName", Products: "pair"},
		Error:      ErrorMessage{Type: "errorMessage=*", Text: "errorMessage", Channel: "subscription.name", Product: "pair"},
		Heartbeats: []string{"heartbeat", "pong"},
		Ignored:    []string{"systemStatus"},
	}
}

// TestListsAsMessages reads channel and product at the end of a list.
func TestListsAsMessages(t *testing.T) {
	c := open(t, mustNew(t, krakenV1()))
	seen := map[string]int{}
	for _, s := range shapes(t, "kraken-v1") {
		if s.Dir != "recv" {
			continue
		}
		got := summary(t, c, s.Data)
		seen[got]++
		if strings.HasPrefix(s.Data, "[") != strings.HasPrefix(got, "data ") || strings.Contains(got, "malformed") {
			t.Errorf("%s: %s", s.Data, got)
		}
	}
	for _, want := range []string{"data trade/XBT/USD", "data book-100/XBT/USD snapshot", "data book-10/XBT/USD", "data ohlc-5/XBT/USD", "subscribed ticker/XBT/EUR none"} {
		if seen[want] == 0 {
			t.Errorf("no %q among %v", want, seen)
		}
	}
	expect(t, c, `{"errorMessage":"no","status":"error","pair":"A","subscription":{"name":"trade"}}`, "unsubscribed trade/A refused no")
}

// TestKrakenRecording decodes half a minute of Kraken's version 1: each list is one
// message, of the channel and the pair at its end.
func TestKrakenRecording(t *testing.T) {
	c := open(t, mustNew(t, krakenV1()))
	snapshots, lists, confirmed := 0, 0, 0
	for line := range strings.Lines(dataFile(t, "kraken.ws")) {
		_, text, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(line, "wss:") {
			continue
		}
		var out wire.Events
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &out); err != nil {
			t.Fatal(err)
		}
		var list []json.RawMessage
		if json.Unmarshal([]byte(text), &list) != nil {
			for i := range out.List {
				if confirmed++; out.List[i].Kind != wire.EventSubscribed {
					t.Errorf("%.200s: %s", text, show(&out.List[i]))
				}
			}
			continue
		}
		lists++
		var channel, pair string
		if err := json.Unmarshal(list[len(list)-2], &channel); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(list[len(list)-1], &pair); err != nil {
			t.Fatal(err)
		}
		snapshot := strings.HasPrefix(string(list[1]), `{"as":`)
		if snapshot {
			snapshots++
		}
		if len(out.List) != 1 || out.List[0].Kind != wire.EventData || out.List[0].Name != channel+"/"+pair ||
			string(out.List[0].Message.Payload) != text || out.List[0].Message.Snapshot != snapshot {
			t.Fatalf("%.200s: %d events, %s", text, len(out.List), show(&out.List[0]))
		}
	}
	if lists < 4000 || snapshots != 10 || confirmed != 10 {
		t.Errorf("%d lists, %d snapshots, %d confirmations", lists, snapshots, confirmed)
	}
}
