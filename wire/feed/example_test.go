package feed_test

import (
	"encoding/json"
	"errors"
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

// The protocol of a made-up server that takes messages and answers with their ids.
func ExampleNewFuncs() {
	type request struct {
		ID    uint64          `json:"id"`
		Op    string          `json:"op"`
		Topic string          `json:"topic"`
		Data  json.RawMessage `json:"data,omitempty"`
	}
	dialect, err := feed.NewFuncs(feed.Funcs{
		Name: "reef", Confirms: true, Numbered: true, Acks: true,
		Subscribe: func(a feed.Ask) ([]byte, error) {
			return json.Marshal(request{ID: a.ID, Op: "subscribe", Topic: a.Topic})
		},
		Publish: func(cmd uint64, m wire.Message) ([]byte, error) {
			return json.Marshal(request{ID: cmd, Op: "publish", Topic: m.Topic, Data: m.Payload})
		},
		Read: func(data []byte, say func(feed.Item)) error {
			var m struct {
				ID    uint64
				OK    bool
				Error string
				Topic string
				Seq   uint64
				Data  json.RawMessage
			}
			if err := json.Unmarshal(data, &m); err != nil {
				return err
			}
			switch {
			case m.Topic != "":
				say(feed.Item{Topic: m.Topic, Number: m.Seq, Payload: m.Data})
			case m.OK:
				say(feed.Item{Kind: feed.Answered, ID: m.ID})
			case m.ID != 0:
				say(feed.Item{Kind: feed.Refused, ID: m.ID, Reason: m.Error})
			default:
				return errors.New("neither a message nor an answer")
			}
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	codec, err := dialect.Open(wire.Resume{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var out wire.Frames
	err = codec.Encode([]wire.Op{
		{Kind: wire.OpSubscribe, Topic: "pearls"},
		{Kind: wire.OpPublish, Cmd: 7, Message: &wire.Message{Topic: "pearls", Payload: []byte(`{"size":9}`)}},
	}, &out)
	for _, f := range out.List {
		fmt.Printf("%s\n", f.Data)
	}
	fmt.Println(err)

	var events wire.Events
	for _, text := range []string{`{"id":7,"ok":false,"error":"too large"}`, `{"hello":"reef 2.1"}`} {
		if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
			fmt.Println(err)
		}
	}
	for _, e := range events.List {
		if e.Kind == wire.EventAck {
			fmt.Println("rejected:", e.Ack.Rejects[0].Reason)
		} else {
			fmt.Println(e.Reason+":", e.Detail)
		}
	}
	// Output:
	// {"id":5,"op":"subscribe","topic":"pearls"}
	// {"id":7,"op":"publish","topic":"pearls","data":{"size":9}}
	// <nil>
	// rejected: too large
	// a message that Funcs.Read refuses: neither a message nor an answer
}
