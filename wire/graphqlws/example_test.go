package graphqlws_test

import (
	"fmt"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/graphqlws"
)

// A subscription that goes on from the number of its last message. A program passes the
// dialect as limpet.Options.Dialect and subscribes to the topic. Here its codec is used
// directly, to show what is sent and what a message becomes.
func ExampleNew() {
	dialect := graphqlws.New(graphqlws.Options{Operations: map[string]graphqlws.Operation{
		"trades": {
			Query:  `subscription($symbol: ID!, $after: Int) { trades(symbol: $symbol, after: $after) { seq price } }`,
			Cursor: &graphqlws.Cursor{Variable: "after", Path: "trades.seq", Number: true},
		},
	}})
	codec, err := dialect.Open(wire.Resume{Token: "t0k3n", Subprotocol: graphqlws.Subprotocol})
	if err != nil {
		fmt.Println(err)
		return
	}
	var frames wire.Frames
	if err := codec.Start(&frames); err != nil {
		fmt.Println(err)
		return
	}
	again := wire.Subscribe{Key: 1, Topic: `trades:{"symbol":"PEARL"}`, From: wire.FromResume, Position: wire.Position{Offset: 7}}
	if err := codec.Encode([]wire.Op{{Kind: wire.OpSubscribe, Key: 1, Cmd: 5, Subscribe: &again}}, &frames); err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range frames.List {
		fmt.Printf("sent: %.60s\n", f.Data)
	}
	var events wire.Events
	text := `{"id":"5","type":"next","payload":{"data":{"trades":{"seq":8,"price":10.5}}}}`
	if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
		fmt.Println(err)
		return
	}
	e := events.List[0]
	fmt.Printf("message %d: %s\n", e.Position.Offset, e.Message.Payload)
	// Output:
	// sent: {"type":"connection_init","payload":{"token":"t0k3n"}}
	// sent: {"id":"5","type":"subscribe","payload":{"query":"subscriptio
	// message 8: {"data":{"trades":{"seq":8,"price":10.5}}}
}

func ExampleUnmarshal() {
	var result struct{ Trades struct{ Price float64 } }
	err := graphqlws.Unmarshal([]byte(`{"data":{"trades":{"price":10.5}}}`), &result)
	fmt.Println(result.Trades.Price, err)
	err = graphqlws.Unmarshal([]byte(`{"data":null,"errors":[{"message":"market closed"}]}`), &result)
	fmt.Println(err)
	// Output:
	// 10.5 <nil>
	// graphqlws: market closed
}
