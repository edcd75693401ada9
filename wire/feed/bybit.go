package feed

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Bybit returns the table of Bybit's public data in version 5
// (wss://stream.bybit.com/v5/public/spot and /linear), with the channels "orderbook.*"
// (a snapshot, then numbered changes; * is the depth), "publicTrade" (without
// numbers), "tickers" and "kline.*", where * is the interval: "kline.5/BTCUSDT".
// Payloads are whole messages, but for trades: there each is a message of its own. The
// server takes 10 topics in a request, and 500 connections in 5 minutes from one address: see
// Table.Limits. How many messages it takes on a connection is not known.
//
// The table was made from recorded and documented messages. It was not tried against
// the venue.
func Bybit() Table {
	request := func(op string) Request {
		return Request{JSON: `{"req_id":"$id","op":"` + op + `","args":["$stream","..."]}`, Max: 10}
	}
	types := []string{"delta", "snapshot"}
	return Table{
		Name:        "bybit",
		Subscribe:   request("subscribe"),
		Unsubscribe: request("unsubscribe"),
		ID:          "req_id",
		Type:        "type",
		Stream:      "topic",
		StreamName:  "channel.product",
		Entries:     "data",
		Time:        "ts",
		Channels: []Channel{
			{Name: "orderbook.*", Number: "data.u", Types: types[:1], Snapshots: types[1:]},
			{Name: "publicTrade"},
			{Name: "tickers", Types: types[:1], Snapshots: types[1:]},
			{Name: "kline.*"},
		},
		Confirm:    Confirm{Type: "op=subscribe", Ended: "op=unsubscribe"},
		Error:      ErrorMessage{Type: "success=false", Text: "ret_msg"},
		Heartbeats: []string{"op=pong", "op=ping"},
		Ignored:    []string{"COMMAND_RESP"},
		PingText:   `{"op":"ping"}`,
		Limits:     wire.ConnectionLimits{Dials: 500, DialsPer: 5 * time.Minute},
	}
}
