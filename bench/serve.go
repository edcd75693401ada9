package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/limpet-go/limpet/server"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"nhooyr.io/websocket"
)

// serve is the process of a server: it prints its address and ends when its standard
// input does.
func serve(kind string) error {
	start, ok := map[string]func() (string, error){
		"blast": serveBlast, "limpet": serveLimpet, "nats": serveNATS, "mqtt": serveMQTT,
		"limpet broadcast": serveLimpetBroadcast, "centrifuge": serveCentrifuge(false), "centrifuge history": serveCentrifuge(true),
	}[kind]
	if !ok {
		return fmt.Errorf("no server %q", kind)
	}
	addr, err := start()
	if err != nil {
		return err
	}
	fmt.Println(addr)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func serveHTTP(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go http.Serve(l, h)
	return l.Addr().String(), nil
}

func serveBlast() (string, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("/raw", rawBlast)
	mux.HandleFunc("/limpet", limpetBlast)
	mux.HandleFunc("/credit", creditBlast)
	mux.HandleFunc("/tick", tick)
	recordings := &sessions{open: map[int]*session{}, streams: map[string][][]byte{}}
	mux.HandleFunc("/feed", recordings.feed)
	mux.HandleFunc("/feed/pace", recordings.pace)
	mux.HandleFunc("/echo", echo)
	return serveHTTP(mux)
}

const feedEvery = time.Millisecond

func stamp() []byte { return binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())) }

// tick sends the time every millisecond, with ?now=1 also at once, as a
// server does that replays what was missed.
func tick(w http.ResponseWriter, r *http.Request) {
	p, err := upgrade(w, r)
	if err != nil {
		return
	}
	defer p.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := p.next(); err != nil {
				return
			}
		}
	}()
	if r.URL.Query().Has("now") && p.message(opBinary, stamp()) != nil {
		return
	}
	t := time.NewTicker(feedEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if p.message(opBinary, stamp()) != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

// echo is the counterpart of a raw nhooyr client.
func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		typ, data, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if c.Write(r.Context(), typ, data) != nil {
			return
		}
	}
}

// serveLimpet is the reference server with a feed on topic tick. POST /burst
// publishes a burst, POST /drain asks clients for another connection.
func serveLimpet() (string, error) {
	s, err := server.New(&server.Options{Retention: server.Retention{Count: 300_000, Bytes: -1}})
	if err != nil {
		return "", err
	}
	go every(feedEvery, func() { s.Publish(context.Background(), "tick", stamp(), nil) })
	mux := http.NewServeMux()
	mux.Handle("/", s)
	mux.HandleFunc("/drain", func(http.ResponseWriter, *http.Request) { s.Drain(nil) })
	mux.HandleFunc("/burst", func(w http.ResponseWriter, r *http.Request) {
		o := orderOf(r)
		payload := make([]byte, o.Size)
		for i := range o.Messages {
			putNumber(payload, uint64(i))
			if _, err := s.Publish(r.Context(), "burst", append([]byte(nil), payload...), nil); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
	})
	return serveHTTP(mux)
}

func every(d time.Duration, f func()) {
	for range time.Tick(d) {
		f()
	}
}

// serveNATS is nats-server with JetStream in memory. A message to "go" makes
// it publish a burst on "feed"; "tick" is the feed of the recovery rows.
func serveNATS() (string, error) {
	dir, err := os.MkdirTemp("", "bench-nats-*")
	if err != nil {
		return "", err
	}
	s, err := natsd.NewServer(&natsd.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir,
		MaxPending: 2 << 30,
		Websocket:  natsd.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true},
	})
	if err != nil {
		return "", err
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return "", fmt.Errorf("nats-server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return "", err
	}
	_, err = nc.Subscribe("go", func(m *nats.Msg) {
		var o order
		json.Unmarshal(m.Data, &o)
		payload := make([]byte, o.Size)
		for range o.Messages {
			nc.Publish("feed", payload)
		}
		nc.Flush()
	})
	if err != nil {
		return "", err
	}
	go every(feedEvery, func() { nc.Publish("tick", stamp()); nc.Flush() })
	os.RemoveAll(dir) // only memory streams are used
	return s.WebsocketURL()[len("ws://"):], nc.Flush()
}

func serveMQTT() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	l.Close()
	s := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		return "", err
	}
	if err := s.AddListener(listeners.NewWebsocket(listeners.Config{ID: "ws", Address: addr})); err != nil {
		return "", err
	}
	go s.Serve()
	go every(feedEvery, func() { s.Publish("tick", stamp(), false, 0) })
	for range time.Tick(5 * time.Millisecond) { // it does not signal that it listens
		if c, err := net.Dial("tcp", addr); err == nil {
			return addr, c.Close()
		}
	}
	return "", nil
}
