// Quickstart has both ends: a server of limpet.v1, a client, one acknowledged message,
// and a subscription that receives it.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"strings"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

func main() {
	ctx := context.Background()
	backend, err := server.New(nil) // or any server that speaks limpet.v1
	check(err)
	web := httptest.NewServer(backend)
	client, err := limpet.Dial(ctx, strings.Replace(web.URL, "http", "ws", 1), nil)
	check(err)
	defer client.Close()

	orders, err := client.Subscribe(ctx, "orders/*", nil)
	check(err)
	check(orders.WaitLive(ctx)) // from now on no message is missed, even if the connection breaks
	ack, err := client.Send(ctx, "orders/eu", []byte(`{"item":"limpet","count":1}`), nil)
	check(err)
	fmt.Println("accepted:", ack.ID)

	for m, err := range orders.Messages(ctx) {
		check(err)
		fmt.Println("received:", m.Kind, m.Topic, string(m.Payload)) // a loss would be a message of kind gap or reset
		break
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
