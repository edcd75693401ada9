package jsonrpc_test

import (
	"fmt"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// A node of Solana has a method for each kind of subscription, and ids that are numbers.
// A program passes the dialect as limpet.Options.Dialect. Here its codec is used directly,
// to show what is sent and what a message becomes.
func ExampleNew() {
	dialect := jsonrpc.New(jsonrpc.Options{
		Subscribe: func(topic string) (jsonrpc.Call, error) { // "slot", for example
			return jsonrpc.Call{Method: topic + "Subscribe"}, nil
		},
		Unsubscribe: func(topic string, id []byte) jsonrpc.Call {
			return jsonrpc.Call{Method: topic + "Unsubscribe", Params: fmt.Appendf(nil, "[%s]", id)}
		},
	})
	codec, err := dialect.Open(wire.Resume{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var frames wire.Frames
	if err := codec.Encode([]wire.Op{{Kind: wire.OpSubscribe, Key: 1, Topic: "slot"}}, &frames); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("sent: %s\n", frames.List[0].Data)
	var events wire.Events
	for _, text := range []string{
		`{"jsonrpc":"2.0","result":23784,"id":1}`,
		`{"jsonrpc":"2.0","method":"slotNotification","params":{"result":{"slot":76},"subscription":23784}}`,
	} {
		if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
			fmt.Println(err)
			return
		}
	}
	for _, e := range events.List {
		switch e.Kind {
		case wire.EventSubscribed:
			fmt.Println("subscribed")
		case wire.EventData:
			fmt.Printf("message: %s\n", e.Message.Payload)
		}
	}
	// Output:
	// sent: {"jsonrpc":"2.0","id":1,"method":"slotSubscribe"}
	// subscribed
	// message: {"slot":76}
}
