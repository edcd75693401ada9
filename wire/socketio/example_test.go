package socketio_test

import (
	"encoding/json"
	"fmt"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
)

// A server that wants a user in the handshake, and sends prices to those who have joined
// the room of a symbol. A program passes the dialect as limpet.Options.Dialect. Here its
// codec is used directly, to show what is sent and what an event becomes.
func ExampleNew() {
	dialect := socketio.New(socketio.Options{
		Auth: func(token string) any { return map[string]string{"user": "eve", "token": token} },
		Join: func(s wire.Subscribe) (string, []any) { return "join", []any{s.Topic} },
		Rejected: func(event string, arguments []byte) string {
			var reply []struct{ Error string }
			if json.Unmarshal(arguments, &reply) != nil || len(reply) == 0 {
				return ""
			}
			return reply[0].Error
		},
	})
	codec, err := dialect.Open(wire.Resume{Token: "t0k3n", Subs: []wire.Subscribe{{Key: 1, Topic: "PEARL"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := codec.Start(new(wire.Frames)); err != nil {
		fmt.Println(err)
		return
	}
	for _, text := range []string{
		`0{"sid":"e1","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`,
		`40{"sid":"s1","pid":"p1"}`,
		`435[{"ok":true}]`,
		`42["PEARL",{"price":"10.5"},"o1"]`,
	} {
		var events wire.Events
		if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
			fmt.Println(err)
			return
		}
		for _, e := range events.List {
			switch e.Kind {
			case wire.EventStep:
				var frames wire.Frames
				if err := codec.Encode([]wire.Op{{Kind: wire.OpStep, Step: e.Step}}, &frames); err != nil {
					fmt.Println(err)
					return
				}
				fmt.Printf("sent: %s\n", frames.List[0].Data)
			case wire.EventReady:
				fmt.Println("ready")
			case wire.EventSubscribed:
				fmt.Printf("subscribed to %s\n", e.Name)
			case wire.EventData:
				fmt.Printf("message: topic %s: %s\n", e.Name, e.Message.Payload)
			}
		}
	}
	// Output:
	// sent: 40{"token":"t0k3n","user":"eve"}
	// ready
	// sent: 425["join","PEARL"]
	// subscribed to PEARL
	// message: topic PEARL: {"price":"10.5"}
}
