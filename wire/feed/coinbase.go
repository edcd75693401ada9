package feed

import "github.com/limpet-go/limpet/wire"

// Coinbase returns the table of the Coinbase Exchange market data feed, with the
// channels "matches" (numbered by trade_id), "level2" (a snapshot, then changes
// without numbers) and "ticker" (without numbers: it skips trades under load).
//
// The server takes "level2" only with a signature, so the table asks for
// "level2_batch": the same messages, in batches of 50 ms, for anyone. The server
// confirms it as "level2_50".
//
// The server takes 8 requests a second, 20 at once, from all connections of one address
// together. Table.Limits has these numbers for each client: divide them if a process
// has several.
func Coinbase() Table {
	request := func(kind string) Request {
		return Request{JSON: `{"type":"` + kind + `","product_ids":["$product","..."],"channels":["$channel","..."]}`}
	}
	return Table{
		Name:        "coinbase",
		Subscribe:   request("subscribe"),
		Unsubscribe: request("unsubscribe"),
		Type:        "type",
		Product:     "product_id",
		Time:        "time",
		Channels: []Channel{
			{Name: "matches", Types: []string{"match"}, Repeats: []string{"last_match"}, Number: "trade_id"},
			{Name: "level2", Request: "level2_batch", Aliases: []string{"level2_50"}, Types: []string{"l2update"}, Snapshots: []string{"snapshot"}},
			{Name: "ticker", Types: []string{"ticker"}},
		},
		Confirm: Confirm{
			Type:     "subscriptions",
			List:     "channels",
			Channel:  "name",
			Products: "product_ids",
			Complete: true,
		},
		Error:      ErrorMessage{Type: "error", Text: "message", Detail: "reason"},
		Heartbeats: []string{"heartbeat"},
		Limits:     wire.ConnectionLimits{Messages: 8, Burst: 20},
		Ping:       wire.PingControl,
	}
}
