package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/centrifugal/protocol"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// What a message to many costs a server that is busy. The server is a process of its own, on a
// core of its own, and publishes at a steady pace, which is raised until the core is busy for
// 80 % of the time. The clients are raw sockets that look for stamps in what they read.

var broadcastRow = row{
	id: "G4", title: "256 B to 500 of 1,000 connections, the server's core 80 % busy (G4)", metric: "cpu", unit: "CPU ns a delivery, of the server", rounds: 3,
	variants: []variant{{name: "256 B", with: func(s *spec) { s.Clients, s.Subs, s.Size, s.Messages = 1000, 500, 256, 3000 }}},
	candidates: []contender{
		{"limpet", "limpet broadcast", broadcast(dialLimpet)},
		{"centrifuge, history", "centrifuge history", broadcast(dialCentrifuge)},
		{"centrifuge", "centrifuge", broadcast(dialCentrifuge)},
	},
	compare: []comparison{
		{variant: "256 B", ours: "limpet", against: "centrifuge, history", floor: 1, goal: 0.67},
		{variant: "256 B", ours: "limpet", against: "centrifuge", floor: 1.25, goal: 1},
		{id: "G4 p99", variant: "256 B", ours: "limpet", against: "centrifuge, history", metric: "p99", floor: 1, goal: 0.67},
		{id: "G4 p99", variant: "256 B", ours: "limpet", against: "centrifuge", metric: "p99", floor: 1.25, goal: 1},
	},
}

const targetLoad = 0.8

// mark is the start of each payload. The time follows, when the message was to be published.
var mark = []byte("\x01stamped\x02")

const markSize = 17

// broadcaster is a server under measurement.
type broadcaster struct {
	http.Handler
	publish func(payload []byte) error
}

// serveBroadcast serves b. POST /publish publishes a number of messages at a pace, and GET
// /cpu returns the CPU time that the process has used, in ns.
func serveBroadcast(b broadcaster) (string, error) {
	mux := http.NewServeMux()
	mux.Handle("/", b)
	mux.HandleFunc("GET /cpu", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, int64(cpuTime())) })
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		if err := b.pace(orderOf(r)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return serveHTTP(mux)
}

// pace publishes a message every o.Every. If it is late, it does not wait, and the stamps say
// when the messages were due.
func (b *broadcaster) pace(o order) error {
	due := time.Now()
	for range o.Messages {
		<-time.After(time.Until(due))
		payload := binary.BigEndian.AppendUint64(append(make([]byte, 0, o.Size), mark...), uint64(due.UnixNano()))
		if err := b.publish(payload[:o.Size]); err != nil {
			return err
		}
		due = due.Add(o.Every)
	}
	return nil
}

func serveLimpetBroadcast() (string, error) {
	s, err := server.New(&server.Options{Heartbeat: 10 * time.Minute})
	if err != nil {
		return "", err
	}
	return serveBroadcast(broadcaster{s, func(payload []byte) error {
		_, err := s.Publish(context.Background(), "feed", payload, nil)
		return err
	}})
}

// serveCentrifuge is the library of Centrifugo with its engine in memory. With history, a
// client can recover what it has missed, as with limpet; without, a message is sent once.
func serveCentrifuge(history bool) func() (string, error) {
	return func() (string, error) {
		node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
		if err != nil {
			return "", err
		}
		node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
			return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
		})
		node.OnConnect(func(c *centrifuge.Client) {
			c.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
				done(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{EnableRecovery: history}}, nil)
			})
		})
		if err := node.Run(); err != nil {
			return "", err
		}
		var options []centrifuge.PublishOption
		if history {
			options = append(options, centrifuge.WithHistory(10_000, time.Hour))
		}
		quiet := centrifuge.PingPongConfig{PingInterval: -1, PongTimeout: -1}
		return serveBroadcast(broadcaster{
			centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{PingPongConfig: quiet}),
			func(payload []byte) error { _, err := node.Publish("feed", payload, options...); return err },
		})
	}
}

func dialLimpet(addr, topic string) (net.Conn, *bufio.Reader, error) {
	hello := &native.Hello{CN: 1, Subs: []native.Sub{{Ch: 1, Topic: topic, From: native.FromNew, Cr: native.Credit{N: 1 << 40, B: 1 << 50}}}}
	first, err := native.Append(nil, native.Binary, []native.Frame{{Type: native.TypeHello, Hello: hello}})
	if err != nil {
		return nil, nil, err
	}
	c, br, err := dialRaw(addr, native.Subprotocol(native.Binary), first)
	if err != nil {
		return nil, nil, err
	}
	for {
		_, data, err := message(br)
		if err != nil {
			return nil, nil, err
		}
		frames, err := native.Decode(nil, native.Binary, native.FromServer, data, native.DefaultLimits)
		if err != nil {
			return nil, nil, err
		}
		if frames[len(frames)-1].Type == native.TypeSubOK {
			return c, br, nil
		}
	}
}

func dialCentrifuge(addr, topic string) (net.Conn, *bufio.Reader, error) {
	var first []byte
	for _, command := range []*protocol.Command{
		{Id: 1, Connect: &protocol.ConnectRequest{}},
		{Id: 2, Subscribe: &protocol.SubscribeRequest{Channel: topic}},
	} {
		data, err := protocol.NewProtobufCommandEncoder().Encode(command)
		if err != nil {
			return nil, nil, err
		}
		first = append(first, data...)
	}
	c, br, err := dialRaw(addr, "centrifuge-protobuf", first)
	if err != nil {
		return nil, nil, err
	}
	for {
		op, data, err := message(br)
		if err == nil && op != 0x80|opBinary {
			err = fmt.Errorf("centrifuge: a frame %#x, %q", op, data)
		}
		if err != nil {
			return nil, nil, err
		}
		for replies := protocol.NewProtobufReplyDecoder(data); ; {
			reply, err := replies.Decode()
			if reply != nil && reply.Error != nil {
				return nil, nil, fmt.Errorf("centrifuge: %v", reply.Error)
			}
			if reply != nil && reply.Subscribe != nil {
				return c, br, nil
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, nil, err
			}
		}
	}
}

// crowd is the clients of a broadcaster, and what the subscribed ones have received.
type crowd struct {
	addr  string
	subs  int
	conns []net.Conn
	got   atomic.Int64

	mu    sync.Mutex
	delay []time.Duration // of what has come since recording began
}

// broadcast measures the server at s.Addr, which has just one row's clients at a time.
func broadcast(dial func(addr, topic string) (net.Conn, *bufio.Reader, error)) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		s.Subs = min(s.Subs, s.Clients)
		c := &crowd{addr: s.Addr, subs: s.Subs}
		defer c.close()
		for i := range s.Clients {
			topic := "feed"
			if i >= s.Subs {
				topic = fmt.Sprint("quiet/", i)
			}
			conn, br, err := dial(s.Addr, topic)
			if err != nil {
				return nil, err
			}
			c.conns = append(c.conns, conn)
			if i < s.Subs {
				go c.read(br)
			}
		}
		every := 20 * time.Millisecond
		for range 8 {
			t, err := c.publish(s.Size, max(20, int(time.Second/2/every)), every)
			if err != nil {
				return nil, err
			}
			fits := float64(t.cpu) / float64(len(t.delay)/s.Subs) / targetLoad
			every = time.Duration(min(2*float64(every), max(0.4*float64(every), fits)))
		}
		t, err := c.publish(s.Size, s.Messages, every)
		if err != nil {
			return nil, err
		}
		slices.Sort(t.delay)
		return outcome{
			"rate": float64(len(t.delay)) / t.cpu.Seconds(), "cpu": float64(t.cpu) / float64(len(t.delay)), "busy": t.load, "reader": t.reader,
			"p50": float64(t.delay[len(t.delay)/2]) / 1e3, "p99": float64(t.delay[len(t.delay)*99/100]) / 1e3,
		}, nil
	}
}

// charge is what one pace has cost.
type charge struct {
	cpu          time.Duration // of the server
	load, reader float64       // of the server's core and of this one
	delay        []time.Duration
}

// publish has the server publish, and waits until all clients have everything.
func (c *crowd) publish(size, messages int, every time.Duration) (t charge, err error) {
	c.got.Store(0)
	c.delay = make([]time.Duration, 0, messages*c.subs)
	before, err := c.cpu()
	if err != nil {
		return t, err
	}
	began, own := time.Now(), cpuTime()
	o := order{Messages: messages, Size: size, Every: every}
	if _, err := call(http.MethodPost, "http://"+c.addr+"/publish"+o.query()); err != nil {
		return t, err
	}
	for want := int64(messages * c.subs); c.got.Load() < want; <-time.After(time.Millisecond) {
		if time.Since(began) > time.Minute {
			return t, fmt.Errorf("%d of %d deliveries", c.got.Load(), want)
		}
	}
	wall := time.Since(began)
	t.reader = float64(cpuTime()-own) / float64(wall)
	after, err := c.cpu()
	t.cpu, t.load, t.delay = after-before, float64(after-before)/float64(wall), c.delay
	return t, err
}

// read looks for stamps until the connection ends.
func (c *crowd) read(br *bufio.Reader) {
	buf, kept := make([]byte, 16<<10), 0
	var delay []time.Duration
	for {
		n, err := br.Read(buf[kept:])
		if err != nil {
			return
		}
		now, data := time.Now().UnixNano(), buf[:kept+n]
		for {
			i := bytes.Index(data, mark)
			if i < 0 || len(data) < i+markSize {
				break
			}
			delay = append(delay, time.Duration(now-int64(binary.BigEndian.Uint64(data[i+len(mark):]))))
			data = data[i+markSize:]
		}
		kept = copy(buf, data[max(0, len(data)-markSize+1):])
		c.mu.Lock()
		c.delay = append(c.delay, delay...)
		c.mu.Unlock()
		c.got.Add(int64(len(delay)))
		delay = delay[:0]
	}
}

func (c *crowd) cpu() (time.Duration, error) {
	data, err := call(http.MethodGet, "http://"+c.addr+"/cpu")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(data), 10, 64)
	return time.Duration(n), err
}

func (c *crowd) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}

func call(method, url string) ([]byte, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	return data, err
}
