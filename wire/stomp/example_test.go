package stomp_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/stomp"
)

// A program passes the dialect as limpet.Options.Dialect. Here its codec is used
// directly, to show what is sent and what a frame of the broker becomes.
func ExampleNew() {
	dialect := stomp.New(stomp.Options{
		Login: "heron", Passcode: "s3cret", Prefetch: 10,
		Subscribe: func(destination string) stomp.Subscription {
			return stomp.Subscription{Auto: strings.HasPrefix(destination, "/topic/")}
		},
	})
	codec, err := dialect.Open(wire.Resume{Heartbeat: 10 * time.Second, ReadLimit: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	var frames wire.Frames
	var events wire.Events
	sub := wire.Op{Kind: wire.OpSubscribe, Key: 1, Cmd: 5, Topic: "/queue/orders"}
	ack := wire.Op{Kind: wire.OpAck, Key: 1, Position: wire.Position{Tag: "T_1"}}
	if err := codec.Encode([]wire.Op{sub, ack}, &frames); err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range frames.List {
		fmt.Println(strings.ReplaceAll(strings.TrimRight(string(f.Data), "\n\x00"), "\n", " "))
	}
	for _, text := range []string{
		"CONNECTED\nversion:1.2\nheart-beat:10000,10000\n\n\x00\n", "RECEIPT\nreceipt-id:1\n\n\x00\n",
		"MESSAGE\nsubscription:1\ndestination:/queue/orders\nmessage-id:7\nack:T_1\nredelivered:true\n\nnets\x00\n",
	} {
		if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
			fmt.Println(err)
			return
		}
	}
	for _, e := range events.List {
		switch e.Kind {
		case wire.EventSubscribed:
			fmt.Println("subscription", e.Key, "is live")
		case wire.EventData:
			fmt.Println("message:", string(e.Message.Payload), e.Message.Redelivered)
		}
	}
	// Output:
	// SUBSCRIBE id:1 destination:/queue/orders ack:client-individual prefetch-count:10 receipt:1
	// ACK id:T_1
	// subscription 1 is live
	// message: nets true
}
