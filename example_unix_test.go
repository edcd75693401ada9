package limpet_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// A server on a Unix socket is reached by a dial function. The URL then names no machine:
// its host is only what the request says, and ws://localhost needs no AllowInsecure.
func ExampleOptions_unixSocket() {
	dir, err := os.MkdirTemp("", "limpet")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "feed.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	feed, err := server.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer feed.Close()
	web := &http.Server{Handler: feed}
	defer web.Close()
	go web.Serve(listener)

	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	client, err := limpet.Dial(context.Background(), "ws://localhost/feed", &limpet.Options{
		HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ack, err := client.Send(context.Background(), "prices", []byte("42"), nil)
	fmt.Println(ack.Outcome, err)
	// Output: acked <nil>
}
