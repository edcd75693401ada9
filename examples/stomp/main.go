// Stomp works off the orders of a queue at a message broker, each exactly once although
// the broker delivers at least once. With -demo such a broker runs in the program.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/stomp"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:15674/ws", "the broker")
	login := flag.String("login", "guest", "the user; the environment variable PASSCODE has the password")
	count := flag.Int("n", 5, "orders to work off")
	flag.Parse()
	client, err := limpet.New(*url, &limpet.Options{
		Dialect: stomp.New(stomp.Options{Login: *login, Passcode: os.Getenv("PASSCODE"), Prefetch: 1}),
		Logger:  slog.Default(),
	})
	check(err)
	defer client.Shutdown(context.Background()) // the last acknowledgement leaves first
	orders, err := client.Subscribe(context.Background(), "/queue/orders", nil)
	check(err)
	seen := map[uuid.UUID]bool{} // a service keeps this with what it has done
	for m, err := range orders.Messages(context.Background()) {
		check(err) // the broker refuses the login or the subscription, for example
		switch {
		case m.Loss != nil:
			fmt.Println("reconnected: the queue has kept its orders")
		case seen[m.ID]:
			fmt.Printf("order %s again: done already\n", m.Payload)
		default:
			seen[m.ID] = true
			fmt.Printf("order %s\n", m.Payload)
		}
		if len(seen) == *count {
			m.Ack() // a loop body that finishes does this by itself
			return
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
