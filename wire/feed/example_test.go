package feed_test

import (
	"fmt"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// A table for a made-up exchange that numbers its trades per product.
func ExampleNew() {
	dialect, err := feed.New(feed.Table{
		Name: "lagoon",
		Subscribe: feed.Request{
			JSON: `{"op":"subscribe","symbols":["$product","..."],"channel":"$channel"}`,
		},
		Type:    "event",
		Product: "symbol",
		Channels: []feed.Channel{
			{Name: "trades", Types: []string{"trade"}, Number: "seq"},
			{Name: "book", Types: []string{"change"}, Snapshots: []string{"book"}},
		},
		Heartbeats: []string{"alive"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	codec, err := dialect.Open(wire.Resume{Subs: []wire.Subscribe{{Topic: "trades/PEARL-USD"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	var out wire.Frames
	if err := codec.Start(&out); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", out.List[0].Data)

	var events wire.Events
	err = codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(`{"event":"trade","symbol":"PEARL-USD","seq":7,"price":"10.5"}`)}, &events)
	for _, e := range events.List {
		if e.Kind == wire.EventData {
			fmt.Println(e.Name, e.Position.Offset, string(e.Message.Payload))
		}
	}
	fmt.Println(err)
	// Output:
	// {"op":"subscribe","symbols":["PEARL-USD"],"channel":"trades"}
	// trades/PEARL-USD 7 {"event":"trade","symbol":"PEARL-USD","seq":7,"price":"10.5"}
	// <nil>
}
