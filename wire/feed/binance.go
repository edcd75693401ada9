package feed

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// binance is what the markets of Binance have in common: the combined streams of
// /stream, 1,024 of them on a connection, and the end of a connection after a day.
func binance(name string, messagesPerSecond int, channels ...Channel) Table {
	request := func(method string) Request {
		return Request{JSON: `{"method":"` + method + `","params":["$stream","..."],"id":"#id"}`}
	}
	return Table{
		Name:        name,
		Subscribe:   request("SUBSCRIBE"),
		Unsubscribe: request("UNSUBSCRIBE"),
		ID:          "id",
		Type:        "data.e",
		Stream:      "stream",
		StreamName:  "product@channel",
		LowerCase:   true,
		Time:        "data.E",
		Channels:    channels,
		Limits:      wire.ConnectionLimits{Messages: messagesPerSecond, Subscriptions: 1024, Age: 24 * time.Hour},
		Confirm:     Confirm{Type: "result=null"},
		Error:       ErrorMessage{Type: "code=*", Text: "msg", Code: "code"},
		Ignored:     []string{"result=*"}, // answers other questions
		GoAway:      "serverShutdown",
	}
}

// binanceStreams are the channels that have the same form in all markets.
func binanceStreams() []Channel {
	return []Channel{
		{Name: "trade", Number: "data.t"},
		{Name: "aggTrade", Number: "data.a"},
		{Name: "bookTicker"},
		{Name: "kline_*"},
	}
}

// Binance returns the table of Binance's spot market data in combined streams
// (wss://stream.binance.com:9443/stream). The channels are "trade" and "aggTrade"
// (numbered), "depth" and "depth@*" (changes with numbers from U to u; the snapshot is
// to be had over HTTP), "depth*" (whole books, without numbers), "bookTicker"
// and "kline_*". * is the server's parameter, as in
// "depth@100ms/BTCUSDT", "depth5/BTCUSDT" and "kline_1m/BTCUSDT". Products are in upper
// case. The server takes 5 messages a second, pings and pongs included, and 1,024 streams
// on a connection, which it ends after 24 hours, and 300 connections in 5 minutes from one
// address: see Table.Limits.
//
// The table was made from recorded and documented messages. It was not tried against
// the venue.
func Binance() Table {
	t := binance("binance", 5, append(binanceStreams(),
		Channel{Name: "depth", Number: "data.u", First: "data.U"},
		Channel{Name: "depth@*", Number: "data.u", First: "data.U"},
		Channel{Name: "depth*", Snapshots: []string{"*"}},
	)...)
	t.Limits.Dials, t.Limits.DialsPer = 300, 5*time.Minute
	return t
}

// BinanceFutures returns the table of Binance's futures market data in combined
// streams (wss://fstream.binance.com/stream). The channels are those of Binance and
// "markPrice" and "markPrice@*". In "depth" and "depth@*" each message names the last
// number of the one before it (pu). The server takes 10 messages a second, otherwise as
// Binance.
//
// The table was made from recorded and documented messages. It was not tried against
// the venue.
func BinanceFutures() Table {
	return binance("binance-futures", 10, append(binanceStreams(),
		Channel{Name: "depth", Number: "data.u", Prev: "data.pu"},
		Channel{Name: "depth@*", Number: "data.u", Prev: "data.pu"},
		Channel{Name: "depth*", Snapshots: []string{"*"}},
		Channel{Name: "markPrice"},
		Channel{Name: "markPrice@*"},
	)...)
}
