// Jsonrpc follows the blocks of an Ethereum node. After a lost connection it fetches the
// blocks that it has missed. With -demo such a node runs in the program.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"log/slog"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

func main() {
	url := flag.String("url", "wss://example.com/node", "the node")
	count := flag.Int("n", 1000, "end after so many blocks and losses")
	flag.Parse()
	client, err := limpet.New(*url, &limpet.Options{Dialect: jsonrpc.New(jsonrpc.Ethereum()), Logger: slog.Default()})
	check(err)
	defer client.Close()
	heads, err := client.Subscribe(context.Background(), "newHeads", nil)
	check(err)
	for m, err := range heads.Messages(context.Background()) {
		check(err) // the node refuses the subscription, for example
		show(client, m)
		if *count--; *count == 0 {
			return
		}
	}
}

func show(client *limpet.Client, m limpet.Message) {
	switch m.Kind {
	case limpet.Gap: // a loss is a message, in its place, with numbers
		for n := m.Loss.After.Offset + 1; n <= m.Loss.To.Offset; n++ {
			ack, err := client.Send(context.Background(), "eth_getBlockByNumber", fmt.Appendf(nil, `["0x%x",false]`, n), nil)
			check(err) // refused, or the connection was lost before the answer
			fmt.Println("missed", hashOf(ack.Reply))
		}
	case limpet.Reset:
		fmt.Printf("%s: blocks after %d do not count\n", m.Loss.Cause, m.Loss.To.Offset)
	default:
		fmt.Println("block", hashOf(m.Payload))
	}
}

func hashOf(block []byte) string {
	var b struct{ Number, Hash string }
	check(json.Unmarshal(block, &b))
	return b.Number + " " + b.Hash
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
