// Socketio reads the events "price" of a Socket.IO server. With -demo such a server runs in
// the program: it breaks the connection, and what it emits meanwhile is not lost.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/socketio"
)

func main() {
	url := flag.String("url", "wss://example.com", "the server, without /socket.io/")
	flag.Parse()
	client, err := limpet.New(*url, &limpet.Options{Dialect: socketio.New(socketio.Options{}), Logger: slog.Default()})
	check(err)
	defer client.Close()
	prices, err := client.Subscribe(context.Background(), "price", nil)
	check(err)
	ack, err := client.Send(context.Background(), "watch", []byte(`{"symbol":"PEARL"}`), nil)
	check(err) // socket.emit("watch", {symbol: "PEARL"}, callback), and the callback was called
	fmt.Printf("watch: %s, reply %s\n", ack.Outcome, ack.Reply)
	for m, err := range prices.Messages(context.Background()) {
		switch {
		case err != nil:
			fmt.Println("the client has ended:", err) // the server of -demo disconnects the client in the end
			return
		case m.Kind == limpet.Reset:
			fmt.Println("what the server sent meanwhile is lost")
		case m.Kind == limpet.Data:
			fmt.Println(string(m.Payload))
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
