package raw_test

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// A server that wants a login, pings in JSON and numbers the messages of each symbol.
// A program passes the dialect as limpet.Options.Dialect. Here its codec is used
// directly, to show what is sent and what a message becomes.
func ExampleNew() {
	dialect := raw.New(raw.Options{
		OnOpen: func(r wire.Resume) [][]byte {
			login, _ := json.Marshal(map[string]string{"op": "login", "token": r.Token})
			return [][]byte{login, []byte(`{"op":"subscribe","channel":"trades"}`)}
		},
		Answer: func(f wire.Frame) []byte {
			if id, found := bytes.CutPrefix(f.Data, []byte(`{"ping":`)); found {
				return append([]byte(`{"pong":`), id...)
			}
			return nil
		},
		Topic: func(f wire.Frame) raw.Label {
			var trade struct {
				Symbol string
				Seq    uint64
			}
			if json.Unmarshal(f.Data, &trade) != nil || trade.Symbol == "" {
				return raw.Label{} // for those who subscribe to "*"
			}
			return raw.Label{Topic: "trades/" + trade.Symbol, Number: trade.Seq, Numbered: true}
		},
	})
	codec, err := dialect.Open(wire.Resume{Token: "t0k3n"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var frames wire.Frames
	if err := codec.Start(&frames); err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range frames.List {
		fmt.Printf("sent: %s\n", f.Data)
	}
	var events wire.Events
	for _, text := range []string{`{"ok":true}`, `{"symbol":"PEARL","seq":7,"price":"10.5"}`, `{"ping":42}`} {
		if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
			fmt.Println(err)
			return
		}
	}
	for _, e := range events.List {
		switch e.Kind {
		case wire.EventData:
			fmt.Printf("message: topic %s, number %d: %s\n", e.Name, e.Position.Offset, e.Message.Payload)
		case wire.EventPing:
			fmt.Printf("answer: %s\n", e.Step)
		}
	}
	// Output:
	// sent: {"op":"login","token":"t0k3n"}
	// sent: {"op":"subscribe","channel":"trades"}
	// message: topic *, number 0: {"ok":true}
	// message: topic trades/PEARL, number 7: {"symbol":"PEARL","seq":7,"price":"10.5"}
	// answer: {"pong":42}
}
