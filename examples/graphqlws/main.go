// Graphqlws prints the trades of a GraphQL server, with a hole where some are missing.
// With -demo such a server runs in the program: it breaks connections, and forgets.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/graphqlws"
)

func main() {
	url := flag.String("url", "wss://example.com/graphql", "the server")
	count := flag.Int("n", 12, "trades to print")
	flag.Parse()
	client, err := limpet.New(*url, &limpet.Options{Logger: slog.Default(), Dialect: graphqlws.New(graphqlws.Options{
		Operations: map[string]graphqlws.Operation{"trades": {
			Query:  `subscription($symbol: ID!, $after: Int) { trades(symbol: $symbol, after: $after) { seq price } }`,
			Cursor: &graphqlws.Cursor{Variable: "after", Path: "trades.seq", Number: true},
		}},
	})})
	check(err)
	defer client.Close()
	trades, err := client.Subscribe(context.Background(), `trades:{"symbol":"PEARL"}`, nil)
	check(err)
	for m, err := range trades.Messages(context.Background()) {
		check(err) // the server refuses the query, for example
		if m.Loss != nil {
			fmt.Printf("%d trades are missing\n", m.Loss.Count)
			continue
		}
		var result struct {
			Trades struct {
				Seq   int
				Price float64
			}
		}
		check(graphqlws.Unmarshal(m.Payload, &result))
		fmt.Printf("trade %d at %.2f\n", result.Trades.Seq, result.Trades.Price)
		if *count--; *count == 0 {
			return
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
