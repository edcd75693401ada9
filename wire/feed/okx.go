package feed

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// OKX returns the table of OKX's public data in version 5
// (wss://ws.okx.com:8443/ws/v5/public), with the channels "trades" (numbered: tradeId
// is the last of count trades), "books" (a snapshot, then changes that name the number
// before them), "bbo-tbt" (the best level, whole), "tickers", and "candle*", where *
// is the interval: "candle1m/BTC-USDT". A payload is one entry of data.
//
// The server closes a connection after 30 seconds without a message: leave
// Options.Heartbeat.Interval at its default of 20 seconds, or lower it. It takes 480
// requests an hour on a connection. In Table.Limits the pings count as well, so with the
// default there is room for about 200 requests an hour, 96 of them at once. It takes 3
// connections a second from one address.
//
// The table was made from recorded and documented messages. It was not tried against
// the venue.
func OKX() Table {
	request := func(op string) Request {
		return Request{JSON: `{"op":"` + op + `","args":[{"channel":"$channel","instId":"$product"},"..."]}`}
	}
	return Table{
		Name:        "okx",
		Subscribe:   request("subscribe"),
		Unsubscribe: request("unsubscribe"),
		Type:        "action",
		Channel:     "arg.channel",
		Product:     "arg.instId",
		Entries:     "data",
		Time:        "data[].ts",
		Channels: []Channel{
			{Name: "trades", Number: "data[].tradeId", Count: "data[].count"},
			{Name: "books", Number: "data[].seqId", Prev: "data[].prevSeqId", Snapshots: []string{"snapshot"}},
			{Name: "bbo-tbt", Snapshots: []string{"*"}},
			{Name: "tickers"},
			{Name: "candle*"},
		},
		Confirm:    Confirm{Type: "event=subscribe", Ended: "event=unsubscribe", Channel: "arg.channel", Products: "arg.instId"},
		Error:      ErrorMessage{Type: "event=error", Text: "msg", Code: "code"},
		Heartbeats: []string{"=pong"},
		Ignored:    []string{"event=channel-conn-count", "event=channel-conn-count-error", "event=login"}, // of private channels
		GoAway:     "event=notice",
		PingText:   "ping",
		Limits:     wire.ConnectionLimits{Messages: 480, Per: time.Hour, Dials: 3, DialsPer: time.Second},
	}
}
