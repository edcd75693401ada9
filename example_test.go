package limpet_test

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// startServer starts the reference server on a loopback port.
func startServer(o *server.Options) (backend *server.Server, url string, stop func()) {
	backend, err := server.New(o)
	if err != nil {
		log.Fatal(err)
	}
	web := httptest.NewServer(backend)
	return backend, "ws" + strings.TrimPrefix(web.URL, "http"), func() { backend.Close(); web.Close() }
}

func ExampleDial() {
	_, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	client, err := limpet.Dial(ctx, url, &limpet.Options{
		// Asked before every attempt; Refresh says that the last one was refused.
		Auth: func(ctx context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Token: "secret"}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.State().Phase)
	// Output: ready
}

func ExampleClient_Publish() {
	_, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	receipt, err := client.Publish(ctx, "orders/eu", []byte(`{"item":"limpet"}`), &limpet.PublishOptions{TTL: time.Minute})
	if err != nil {
		log.Fatal(err) // not admitted
	}
	_, err = receipt.Wait(ctx)
	switch {
	case err == nil:
		fmt.Println(receipt.Outcome())
	case limpet.SafeToRetry(err):
		fmt.Println("never sent: publish it again")
	case errors.Is(err, limpet.ErrOutcomeUnknown):
		fmt.Println("ask the receiver for", receipt.ID())
	default:
		fmt.Println("refused:", err)
	}
	// Output: acked
}

func ExampleClient_Subscribe() {
	backend, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	prices, err := client.Subscribe(ctx, "prices/*", &limpet.SubscribeOptions{
		Delivery: limpet.Delivery{Buffer: 1000, Overflow: limpet.DropOldest},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := prices.WaitLive(ctx); err != nil {
		log.Fatal(err)
	}
	backend.Publish(ctx, "prices/ab", []byte("101.5"), nil)
	for m, err := range prices.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Kind, m.Topic, string(m.Payload))
		break
	}
	// Output: data prices/ab 101.5
}

// A consumer that keeps a sum must not add across missing messages: a loss is an
// element of the stream.
func ExampleMessage_gap() {
	backend, url, stop := startServer(&server.Options{Retention: server.Retention{Count: 3}})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for i := range 5 {
		backend.Publish(ctx, "meter", []byte(fmt.Sprint(i+1)), nil)
	}
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	// Where an earlier process stopped: after the first message.
	seen := limpet.Position{Epoch: backend.Stats().Epoch, Offset: 1}
	meter, err := client.Subscribe(ctx, "meter", &limpet.SubscribeOptions{From: limpet.FromResume, Position: seen})
	if err != nil {
		log.Fatal(err)
	}
	for m, err := range meter.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		switch m.Kind {
		case limpet.Gap:
			fmt.Printf("missing: %d to %d (%v)\n", m.Loss.After.Offset+1, m.Loss.To.Offset, m.Loss.Cause)
		case limpet.Reset:
			fmt.Println("start again: nothing can be said about what lies between")
		default:
			fmt.Println(string(m.Payload))
		}
		if m.Position.Offset == 5 {
			break
		}
	}
	// Output:
	// missing: 2 to 2 (expired)
	// 3
	// 4
	// 5
}

// Package expvar publishes what a client counts and measures, as JSON at /debug/vars of
// http.DefaultServeMux.
func ExampleClient_Stats() {
	_, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if expvar.Get("limpet") == nil { // Publish panics if the name is taken
		expvar.Publish("limpet", expvar.Func(func() any { return client.Stats() }))
	}

	page := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(page, httptest.NewRequest("GET", "/debug/vars", nil))
	var vars struct {
		Limpet struct{ Connections, Resumes, Published uint64 }
	}
	if err := json.Unmarshal(page.Body.Bytes(), &vars); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", vars.Limpet)
	// Output: {Connections:1 Resumes:0 Published:0}
}

// One loop consumes several topics. Each that has messages gets its turn.
func ExampleMerge() {
	backend, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for _, topic := range []string{"trades", "quotes"} {
		sub, err := client.Subscribe(ctx, topic, nil)
		if err != nil {
			log.Fatal(err)
		}
		if err := sub.WaitLive(ctx); err != nil {
			log.Fatal(err)
		}
	}
	for _, text := range []string{"trades 1", "trades 2", "quotes 1"} {
		topic, _, _ := strings.Cut(text, " ")
		if _, err := backend.Publish(ctx, topic, []byte(text), nil); err != nil {
			log.Fatal(err)
		}
	}
	n := 0
	for m, err := range limpet.Merge(ctx, client.Subscriptions()...) {
		if err != nil {
			log.Fatal(m.Topic, err) // of one topic, or of ctx
		}
		fmt.Println(string(m.Payload), "waited less than a minute:", time.Since(m.ReceivedAt) < time.Minute)
		if n++; n == 3 {
			break
		}
	}
	// Unordered output:
	// trades 1 waited less than a minute: true
	// trades 2 waited less than a minute: true
	// quotes 1 waited less than a minute: true
}

// A program that publishes much need not wait for each receipt.
func ExamplePublishOptions() {
	_, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	o := &limpet.PublishOptions{Done: func(r *limpet.Receipt) {
		if r.Outcome() != limpet.Acked {
			log.Print("message ", r.ID(), " ended as ", r.Outcome())
		}
		fmt.Println(r.Outcome())
	}}
	for range 2 {
		if _, err := client.Publish(ctx, "orders/eu", []byte(`{"item":"limpet"}`), o); err != nil {
			log.Fatal(err)
		}
	}
	if err := client.Shutdown(ctx); err != nil { // after all calls of Done
		log.Fatal(err)
	}
	// Output:
	// acked
	// acked
}

// A service under an orchestrator reports that it is ready while messages can
// flow. On SIGTERM it shuts down gracefully, within the time that it has.
func ExampleClient_Shutdown() {
	_, url, stop := startServer(nil)
	defer stop()
	client, err := limpet.New(url, nil)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if s := client.State(); s.Phase != limpet.Ready || s.Draining {
			http.Error(w, fmt.Sprint(s.Phase, s.Cause), http.StatusServiceUnavailable)
		}
	})

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	defer signal.Stop(signals)
	signals <- syscall.SIGTERM // what the orchestrator would do
	<-signals

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := client.Shutdown(ctx); err != nil {
		fmt.Println("not everything was flushed:", err)
	}
	fmt.Println(client.State().Phase)
	// Output: ended
}
