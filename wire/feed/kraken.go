package feed

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Kraken returns the table of Kraken's spot market data in version 2
// (wss://ws.kraken.com/v2), with the channels "trade" (numbered by trade_id; the last 50
// trades come first, of type "snapshot"), "book" (ten levels: a snapshot, then changes
// without numbers), "ticker" and "ohlc-*", where * is the interval in minutes:
// "ohlc-5/BTC/USD". A payload is one entry of data. The server takes about 150 connections in 10
// minutes from one address: see Table.Limits. How many messages it takes on one is not known.
//
// The table was made from recorded and documented messages. It was not tried against
// the venue.
func Kraken() Table {
	request := func(method, more string) Request {
		return Request{JSON: `{"method":"` + method + `","params":{"channel":"$channel",` + more + `"symbol":["$product"]},"req_id":"#id"}`}
	}
	const interval = `"interval":"#param",`
	return Table{
		Name:        "kraken",
		Subscribe:   request("subscribe", ""),
		Unsubscribe: request("unsubscribe", ""),
		ID:          "req_id",
		Type:        "type",
		Channel:     "channel",
		Product:     "data[].symbol",
		Entries:     "data",
		Time:        "data[].timestamp",
		Channels: []Channel{
			{Name: "trade", Types: []string{"update", "snapshot"}, Number: "data[].trade_id", Replay: 50},
			{Name: "book", Types: []string{"update"}, Snapshots: []string{"snapshot"}},
			{Name: "ticker", Types: []string{"update"}, Snapshots: []string{"snapshot"}},
			{
				Name: "ohlc-*", Request: "ohlc", Param: "data[].interval",
				Time:      "timestamp", // that of an entry is the end of its interval
				Subscribe: request("subscribe", interval), Unsubscribe: request("unsubscribe", interval),
				Types: []string{"update"}, Snapshots: []string{"snapshot"},
			},
		},
		Confirm:    Confirm{Type: "method=subscribe", Ended: "method=unsubscribe"},
		Error:      ErrorMessage{Type: "success=false", Text: "error"},
		Heartbeats: []string{"channel=heartbeat", "method=pong"},
		Limits:     wire.ConnectionLimits{Dials: 150, DialsPer: 10 * time.Minute},
		Ignored:    []string{"channel=status"},
		PingText:   `{"method":"ping"}`,
	}
}
