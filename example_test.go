package limpet_test

import (
	"bytes"
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
	"github.com/limpet-go/limpet/codec"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
	"nhooyr.io/websocket"
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

// Two nodes of one service, one of them down: the client goes to the other at once.
func ExampleOptions_endpoints() {
	_, up, stop := startServer(nil)
	defer stop()
	_, down, stopped := startServer(nil)
	stopped()

	client, err := limpet.Dial(context.Background(), down, &limpet.Options{
		Endpoints: []string{up},
		Limits:    wire.ConnectionLimits{Age: 24 * time.Hour}, // the service ends a connection after a day
		Verdict: func(f wire.Failure, would wire.Verdict) wire.Verdict {
			if f.Status == http.StatusForbidden { // a gateway that is rolled out
				return wire.Verdict{Action: wire.ActionBackOff, After: 30 * time.Second}
			}
			return would
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(up == "ws://"+client.State().Host)
	// Output: true
}

// A server that wants a ticket in its URL, which another one sells for a token.
func ExampleTicketFrom() {
	client, err := limpet.New("wss://feed.example/v1", &limpet.Options{
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Header: http.Header{"Authorization": {"Bearer t0k3n"}}}, nil
		},
		Ticket: limpet.TicketFrom("https://feed.example/ticket", &limpet.TicketOptions{Member: "data.ticket"}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

// A server that wants a token first, and a "ping" now and then.
func ExampleOptions() {
	ctx := context.Background()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		for {
			_, text, err := ws.Read(ctx)
			if err != nil {
				return
			}
			answer := "heard " + string(text)
			if answer == "heard ping" {
				answer = "pong"
			}
			ws.Write(ctx, websocket.MessageText, []byte(answer))
		}
	}))
	defer server.Close()

	options := &limpet.Options{
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Token: "t0k3n"}, nil // for each connection
		},
		Heartbeat: limpet.Heartbeat{Interval: 15 * time.Second}, // of the pings
		Dialect: raw.New(raw.Options{
			OnOpen: func(r wire.Resume) [][]byte {
				login, _ := json.Marshal(map[string]string{"op": "login", "token": r.Token}) // that of Auth
				return [][]byte{login, []byte(`{"op":"subscribe","channel":"prices"}`)}
			},
			Ping: "ping", Pong: "pong", // a pong is no message
		}),
	}
	client, err := limpet.New("ws"+strings.TrimPrefix(server.URL, "http"), options)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	prices, err := client.Subscribe(ctx, "*", nil)
	if err != nil {
		log.Fatal(err)
	}
	heard := 0
	for m, err := range prices.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(m.Payload))
		if heard++; heard == 2 {
			break
		}
	}
	// Output:
	// heard {"op":"login","token":"t0k3n"}
	// heard {"op":"subscribe","channel":"prices"}
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

// A payload that is not what it should be costs one value, not the stream.
func ExampleDecode() {
	backend, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	prices, err := client.Subscribe(ctx, "prices", nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := prices.WaitLive(ctx); err != nil {
		log.Fatal(err)
	}
	for _, payload := range []string{`{"Symbol":"AB","Price":101.5}`, `{"Symbol":`, `{"Symbol":"CD","Price":7}`} {
		if _, err := backend.Publish(ctx, "prices", []byte(payload), nil); err != nil {
			log.Fatal(err)
		}
	}

	type price struct {
		Symbol string
		Price  float64
	}
	for m, err := range limpet.Decode(prices.Messages(ctx), codec.JSON[price]()) {
		if err != nil {
			log.Fatal(err) // the stream has ended
		}
		switch {
		case m.Loss != nil:
			fmt.Println(m.Kind, m.Loss.Cause)
		case m.Err != nil:
			fmt.Println(m.Err)
		default:
			fmt.Println(m.Value.Symbol, m.Value.Price)
		}
		if m.Value.Symbol == "CD" {
			break
		}
	}
	// Output:
	// AB 101.5
	// limpet: Decode: Message.Payload: unexpected end of JSON input
	// CD 7
}

// strict is a codec for JSON that refuses unknown members.
type strict[T any] struct{ codec.Codec[T] }

func (strict[T]) Decode(payload []byte) (value T, err error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	err = d.Decode(&value)
	return value, err
}

// The method value of Publish or Send says what to do with the payload. The codec here is
// one of our own.
func ExampleEncode() {
	_, url, stop := startServer(nil)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	type order struct{ Item string }
	orders := strict[order]{codec.JSON[order]()}
	send := limpet.Encode(client.Send, orders)
	ack, err := send(ctx, "orders/eu", order{"limpet"}, &limpet.PublishOptions{TTL: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ack.Outcome)
	fmt.Println(orders.Decode([]byte(`{"Item":"limpet","Colour":"grey"}`)))
	fmt.Println(orders.Decode([]byte(`{"Item":"limpet"}`)))
	// Output:
	// acked
	// {limpet} json: unknown field "Colour"
	// {limpet} <nil>
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

// consume hands messages to work until ctx ends, as it does at a signal, or the client ends
// by itself: then the error says why.
func consume(ctx context.Context, client *limpet.Client, prices *limpet.Subscription, work func(limpet.Message)) error {
	down := make(chan error, 1)
	go func() {
		select {
		case <-ctx.Done():
		case <-client.Done():
		}
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		down <- client.Shutdown(grace) // nothing new, and the loop takes what has arrived
	}()
	for m, err := range prices.Messages(context.Background()) { // not ctx: Shutdown ends the loop
		if err != nil {
			return err // the client has ended by itself, or the server refuses the topic
		}
		work(m)
	}
	return <-down
}

// On SIGTERM or Ctrl-C a program finishes what has arrived, within the time that it has.
func ExampleClient_Shutdown() {
	backend, url, stop := startServer(nil)
	defer stop()
	ctx, end := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer end()
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	prices, err := client.Subscribe(ctx, "prices/ab", &limpet.SubscribeOptions{From: limpet.FromFirst})
	if err != nil {
		log.Fatal(err)
	}
	backend.Publish(ctx, "prices/ab", []byte("101.5"), nil)
	err = consume(ctx, client, prices, func(m limpet.Message) {
		fmt.Println(string(m.Payload))
		end() // what a signal does
	})
	fmt.Println(err, client.State().Phase)
	// Output:
	// 101.5
	// <nil> ended
}
