// Raw reads prices from a WebSocket server of another party: it sends one text to
// subscribe, and parses what comes. With -demo such a server runs in the program.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"log/slog"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

func main() {
	url := flag.String("url", "wss://example.com/feed", "the server")
	flag.Parse()
	client, err := limpet.New(*url, &limpet.Options{Dialect: raw.New(raw.Options{OnOpen: subscribe}), Logger: slog.Default()})
	check(err)
	defer client.Close()
	prices, err := client.Subscribe(context.Background(), "*", nil) // "*": every message
	check(err)
	for m, err := range prices.Messages(context.Background()) {
		check(err) // the client has ended: the server refuses it, for example
		show(m)
	}
}

func subscribe(wire.Resume) [][]byte { // the texts to send first, on every connection
	return [][]byte{[]byte(`{"op":"subscribe","channel":"prices"}`)}
}

func show(m limpet.Message) {
	var price struct{ Symbol, Price string }
	switch {
	case m.Loss != nil: // a loss is a message, in its place: a reset at each reconnect, a gap if this loop is too slow
		fmt.Println(m.Kind, m.Loss.Cause)
	case json.Unmarshal(m.Payload, &price) == nil && price.Symbol != "":
		fmt.Println(price.Symbol, price.Price)
	default:
		fmt.Printf("something else: %s\n", m.Payload)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
