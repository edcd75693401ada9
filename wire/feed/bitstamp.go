package feed

// Bitstamp returns the table of Bitstamp's public data in version 2
// (wss://ws.bitstamp.net), with the channels "live_trades", "live_orders",
// "diff_order_book" (changes; the snapshot is to be had over HTTP) and "order_book"
// (whole books). Nothing has numbers. Products are in lower case:
// "live_trades/btcusd". What the server allows one connection is not known, so
// Table.Limits is zero.
//
// The table was made from recorded and documented messages. It was not tried against
// the venue.
func Bitstamp() Table {
	request := func(event string) Request {
		return Request{JSON: `{"event":"bts:` + event + `","data":{"channel":"$stream"}}`}
	}
	return Table{
		Name:        "bitstamp",
		Subscribe:   request("subscribe"),
		Unsubscribe: request("unsubscribe"),
		Type:        "event",
		Stream:      "channel",
		StreamName:  "channel_product",
		Time:        "data.microtimestamp",
		Channels: []Channel{
			{Name: "live_trades", Types: []string{"trade"}},
			{Name: "live_orders", Types: []string{"order_created", "order_changed", "order_deleted"}},
			{Name: "diff_order_book", Types: []string{"data"}},
			{Name: "order_book", Snapshots: []string{"data"}},
		},
		Confirm:    Confirm{Type: "bts:subscription_succeeded", Ended: "bts:unsubscription_succeeded", Streams: "channel"},
		Error:      ErrorMessage{Type: "bts:error", Text: "data.message", Code: "data.code"},
		Heartbeats: []string{"bts:heartbeat"},
		GoAway:     "bts:request_reconnect",
		PingText:   `{"event":"bts:heartbeat"}`,
	}
}
