// Dialect follows topics of a server with a language of its own: dialect.go
// teaches limpet that language.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"

	"github.com/limpet-go/limpet"
)

func main() {
	url := flag.String("url", "wss://example.com/lines", "the server")
	topic := flag.String("topic", "prices", "the topic to follow")
	flag.Parse()
	client, err := limpet.New(*url, &limpet.Options{Dialect: lines{}, Logger: slog.Default()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := follow(context.Background(), client, *topic); err != nil {
		log.Fatal(err)
	}
}

// follow prints what comes until the stream ends.
func follow(ctx context.Context, client *limpet.Client, topic string) error {
	sub, err := client.Subscribe(ctx, topic, nil)
	if err != nil {
		return err
	}
	for m, err := range sub.Messages(ctx) {
		switch {
		case err != nil:
			return err
		case m.Loss != nil:
			fmt.Printf("%s: %s, %d missing\n", m.Kind, m.Loss.Cause, m.Loss.Count)
		default:
			fmt.Println(m.Position.Offset, string(m.Payload))
		}
	}
	return nil
}
