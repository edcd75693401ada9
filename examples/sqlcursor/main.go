// Sqlcursor processes each message of a feed exactly once, also when it is killed: what a
// message does and the position after it are committed to a database in one transaction.
// Run it with -demo: it kills consumers at random and counts what is in the table.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"syscall"
	"time"

	"github.com/limpet-go/limpet"
)

func main() {
	url := flag.String("url", "wss://example.com/feed", "the server")
	topic := flag.String("topic", "payments/*", "what to subscribe to")
	file := flag.String("db", "ledger.db", "the database; it is created if it does not exist")
	patience := flag.Duration("patience", 0, "end after this time without a connection; 0: never")
	flag.Parse()
	ctx := context.Background()
	db, err := open(*file)
	check(err)
	defer db.Close()
	client, err := limpet.New(*url, &limpet.Options{Backoff: limpet.Backoff{MaxElapsed: *patience}})
	check(err)
	defer func() { client.Close(); <-client.Done() }()
	at := newPositions(db, *url, *topic, "ledger")
	feed, err := client.Subscribe(ctx, *topic, &limpet.SubscribeOptions{From: limpet.FromFirst, Cursor: at, Name: at.name})
	check(err)
	go shutdownOnSignal(client)

	for batch, err := range feed.Batches(ctx) {
		check(err) // the server refuses the feed, for example
		check(process(ctx, db, at, batch))
		fmt.Println("committed", batch[len(batch)-1].Position.Offset)
	}
}

// process is commit, unless a flag of demo.go replaces it.
var process = commit

// shutdownOnSignal lets the loop finish what has arrived, for at most 10 seconds. Whatever is
// not committed then comes again.
func shutdownOnSignal(client *limpet.Client) {
	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	<-signals.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client.Shutdown(ctx)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
