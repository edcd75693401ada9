package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// A tour of limpet in five tests: connect, publish, subscribe, break, shut down.
//
// They run in virtual time (testing/synctest) on the in-memory network of package
// limpettest: an outage of ten seconds passes at once, and no port is opened.

// Make one client and keep it for the life of the program. New does not wait for
// the server, which may be down: the client tries until a connection is ready.
func TestTourConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Stop()

		client, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		if err != nil {
			t.Fatal(err) // a bad URL or option; never a server that is down
		}
		defer closeAndWait(t, client)

		time.AfterFunc(10*time.Second, srv.Start)
		if err := client.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		if state := client.State(); state.Phase != limpet.Ready {
			t.Errorf("the client is %v, want ready", state.Phase)
		}
	})
}

// Publish returns once the message has a place in the window. The receipt reports
// the outcome later: Acked means that the server has accepted the message.
func TestTourPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := dial(t, limpettest.NewServer(t, nil), nil)
		ctx := context.Background()

		receipt, err := client.Publish(ctx, "orders/eu", []byte(`{"item":"limpet"}`), nil)
		if err != nil {
			t.Fatal(err) // not admitted: nothing was sent, and nothing will be
		}
		if _, err := receipt.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if receipt.Outcome() != limpet.Acked {
			t.Errorf("the message is %v, want acked", receipt.Outcome())
		}
	})
}

// A subscription delivers through a queue of its own, which is bounded. A slow
// consumer therefore holds little memory and delays no other subscription.
func TestTourSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := dial(t, srv, nil)
		ctx := context.Background()

		prices, err := client.Subscribe(ctx, "prices/*", &limpet.SubscribeOptions{
			Delivery: limpet.Delivery{Buffer: 100, Overflow: limpet.DropOldest},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := prices.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
		publish(t, srv, "prices/ab", "101.5")
		for m, err := range prices.Messages(ctx) {
			if err != nil {
				t.Fatal(err) // the subscription or ctx has ended
			}
			if m.Topic != "prices/ab" || string(m.Payload) != "101.5" {
				t.Errorf("received %q from %s", m.Payload, m.Topic)
			}
			break
		}
	})
}

// When the connection breaks, the client reconnects and continues where it stopped,
// in both directions. What cannot be recovered appears in the stream as a Gap.
func TestTourBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := dial(t, srv, nil)
		ctx := context.Background()
		ticks := subscribeLive(t, client, "ticks", nil)
		publish(t, srv, "ticks", "1")

		srv.Network.CutAll()
		publish(t, srv, "ticks", "2") // while no one is connected
		receipt, err := client.Publish(ctx, "ticks", []byte("3"), nil)
		if err != nil {
			t.Fatal(err)
		}

		if got := payloads(collect(t, ticks, 3)); got != "1 2 3" {
			t.Errorf("received %q", got)
		}
		if _, err := receipt.Wait(ctx); err != nil {
			t.Error(err)
		}
		if n := client.Stats().Connections; n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// Shutdown sends what was published and lets consumers take what waits, but no
// longer than ctx allows. Close ends the client at once. Both end every goroutine.
func TestTourShutDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := dial(t, srv, nil)
		orders := subscribeLive(t, client, "orders", nil)
		publish(t, srv, "orders", "1", "2", "3")
		synctest.Wait() // they have arrived and wait for a consumer
		receipt, err := client.Publish(context.Background(), "audit", []byte("stopping"), nil)
		if err != nil {
			t.Fatal(err)
		}

		consumed := make(chan int)
		go func() {
			n := 0
			for range orders.Messages(context.Background()) { // ends without an error
				n++
			}
			consumed <- n
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := client.Shutdown(ctx); err != nil {
			t.Error(err)
		}

		if n := <-consumed; n != 3 || receipt.Outcome() != limpet.Acked {
			t.Errorf("%d of 3 orders were consumed, the last message is %v", n, receipt.Outcome())
		}
		if state := client.State(); state.Phase != limpet.Ended {
			t.Errorf("the client is %v, want ended", state.Phase)
		}
	})
}

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

// A request and its reply. With AtLeastOnce the server may serve it twice after a lost connection, which
// a question allows and an order does not.
func ExampleClient_Call() {
	_, url, stop := startServer(&server.Options{Hooks: server.Hooks{
		OnCall: func(_ context.Context, _ server.Principal, m server.Message) (server.Reply, error) {
			if m.Topic != "price" {
				return server.Reply{}, &server.Error{Code: 3, Reason: "there is no " + m.Topic}
			}
			return server.Reply{Payload: []byte(`{"price":42}`), Type: "application/json"}, nil
		},
	}})
	defer stop()
	client, err := limpet.New(url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := client.Call(ctx, "price", []byte(`{"of":"tea"}`), &limpet.CallOptions{Resend: limpet.AtLeastOnce})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", reply.Payload)
	_, err = client.Call(ctx, "weather", nil, nil)
	switch {
	case err == nil:
	case limpet.SafeToRetry(err):
		fmt.Println("nothing has left:", err)
	case errors.Is(err, limpet.ErrOutcomeUnknown):
		fmt.Println("it may have been served:", err)
	default:
		fmt.Println("refused:", errors.Is(err, limpet.ErrRejected))
	}
	// Output:
	// {"price":42}
	// refused: true
}
