package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/limpet-go/limpet"
	"github.com/nats-io/nats.go"
	"nhooyr.io/websocket"
)

func kills(n int) func(*spec) { return func(s *spec) { s.Kills = n } }

var recoverRow = row{
	id: "P9", title: "kill to first message, fastest settings (P9)", metric: "p50", unit: "median in µs",
	variants: []variant{{name: "fastest", with: kills(20)}},
	candidates: []contender{
		{"limpet", "limpet", recovery(limpetFeed(limpet.Backoff{First: -1, StableAfter: time.Millisecond}))},
		{"nhooyr redial", "blast", recovery(nhooyrFeed("/tick"))},
		{"nhooyr redial, replay", "blast", recovery(nhooyrFeed("/tick?now"))},
		{"nats.go", "nats", recovery(natsFeed(nats.ReconnectWait(0), nats.ReconnectJitter(0, 0)))},
		{"autopaho", "mqtt", recovery(mqttFeed(func(int) time.Duration { return 0 }))},
	},
	compare: []comparison{
		{variant: "fastest", ours: "limpet", against: "nhooyr redial", floor: 1.5, goal: 1.2},
		{variant: "fastest", ours: "limpet", against: "nhooyr redial, replay", floor: 1.5, goal: 1.2},
	},
}

var recoverDefaultRow = row{
	id: "P10", title: "kill to first message, default settings (P10)", metric: "p50", unit: "median in µs", rounds: 5,
	variants: []variant{
		{name: "default", with: kills(30), only: []string{"limpet", "autopaho"}},
		{name: "default, 3 kills", with: kills(3), only: []string{"nats.go"}},
	},
	candidates: []contender{
		{"limpet", "limpet", recoveryOfNewClient(limpetFeed(limpet.Backoff{}))},
		{"nats.go", "nats", recoveryOfNewClient(natsFeed())},
		{"autopaho", "mqtt", recoveryOfNewClient(mqttFeed(nil))},
	},
	compare: []comparison{{variant: "default", ours: "limpet", floor: 400_000, goal: 300_000}},
}

// proxy stands between client and server and kills connections.
type proxy struct {
	net.Listener
	upstream string
	mu       sync.Mutex
	conns    []net.Conn
}

func newProxy(upstream string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{Listener: l, upstream: upstream}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.join(c)
		}
	}()
	return p, nil
}

func (p *proxy) join(down net.Conn) {
	up, err := net.Dial("tcp", p.upstream)
	if err != nil {
		down.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, down, up)
	p.mu.Unlock()
	copyTo := func(to, from net.Conn) {
		io.Copy(to, from)
		to.Close()
		from.Close()
	}
	go copyTo(up, down)
	copyTo(down, up)
}

// kill resets every connection.
func (p *proxy) kill() {
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// feed opens a client that calls got with each message, on one goroutine at
// a time, and restores itself; stop ends it.
type feed func(addr string, got func([]byte)) (stop func(), err error)

// watch measures the time from a kill to the first message that the server published
// after it, which must have arrived over a new connection.
type watch struct {
	mu     sync.Mutex
	killed int64 // 0: no kill is being measured
	first  chan time.Duration
	any    chan struct{}
}

func newWatch() *watch {
	return &watch{first: make(chan time.Duration, 1), any: make(chan struct{}, 1)}
}

func (w *watch) got(payload []byte) {
	if len(payload) != 8 {
		return
	}
	now := time.Now().UnixNano()
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.any <- struct{}{}:
	default:
	}
	if w.killed != 0 && int64(binary.BigEndian.Uint64(payload)) > w.killed {
		w.first <- time.Duration(now - w.killed)
		w.killed = 0
	}
}

func (w *watch) kill(p *proxy) (time.Duration, error) {
	w.mu.Lock()
	p.kill()
	w.killed = time.Now().UnixNano()
	w.mu.Unlock()
	select {
	case d := <-w.first:
		return d, nil
	case <-time.After(30 * time.Second):
		return 0, fmt.Errorf("no message within 30 s of a kill")
	}
}

// flowing waits for messages, then until the next attempt would not be delayed (limpet
// leaves 100 ms between two), up to a random moment within the feed's period.
func (w *watch) flowing() error {
	select {
	case <-w.any:
	default:
	}
	select {
	case <-w.any:
	case <-time.After(10 * time.Second):
		return fmt.Errorf("no message in 10 s")
	}
	<-time.After(120*time.Millisecond + rand.N(5*time.Millisecond))
	return nil
}

func summary(took []time.Duration) outcome {
	slices.Sort(took)
	return outcome{
		"p50": float64(took[len(took)/2]) / 1e3, "max": float64(took[len(took)-1]) / 1e3, "min": float64(took[0]) / 1e3,
	}
}

// recovery kills the connections of one client again and again.
func recovery(f feed) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		p, err := newProxy(s.Addr)
		if err != nil {
			return nil, err
		}
		w := newWatch()
		stop, err := f(p.Addr().String(), w.got)
		if err != nil {
			return nil, err
		}
		defer stop()
		var took []time.Duration
		for range s.Kills {
			if err := w.flowing(); err != nil {
				return nil, err
			}
			d, err := w.kill(p)
			if err != nil {
				return nil, err
			}
			took = append(took, d)
		}
		return summary(took), nil
	}
}

// recoveryOfNewClient kills the first connection of a new client each time, because the
// default backoff grows when connections break within seconds.
func recoveryOfNewClient(f feed) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		var took []time.Duration
		for range s.Kills {
			once := s
			once.Kills = 1
			out, err := recovery(f)(once)
			if err != nil {
				return nil, err
			}
			took = append(took, time.Duration(out["p50"]*1e3))
		}
		return summary(took), nil
	}
}

func limpetFeed(b limpet.Backoff) feed {
	return func(addr string, got func([]byte)) (func(), error) {
		c, err := limpet.New("ws://"+addr+"/", &limpet.Options{Backoff: b})
		if err != nil {
			return nil, err
		}
		sub, err := c.Subscribe(context.Background(), "tick", nil)
		if err != nil {
			return nil, err
		}
		go func() {
			for m, err := range sub.Messages(context.Background()) {
				if err != nil {
					return
				}
				got(m.Payload)
			}
		}()
		return func() { c.Close(); <-c.Done() }, nil
	}
}

// nhooyrFeed does what a program does without a client library: it dials again at once,
// without end.
func nhooyrFeed(path string) feed {
	return func(addr string, got func([]byte)) (func(), error) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				c, _, err := websocket.Dial(ctx, "ws://"+addr+path, &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
				if err != nil {
					continue
				}
				for {
					_, data, err := c.Read(ctx)
					if err != nil {
						break
					}
					got(data)
				}
				c.CloseNow()
			}
		}()
		return func() { cancel(); <-ended }, nil
	}
}

func natsFeed(o ...nats.Option) feed {
	return func(addr string, got func([]byte)) (func(), error) {
		nc, err := nats.Connect("ws://"+addr, append(o, nats.MaxReconnects(-1), nats.IgnoreDiscoveredServers())...)
		if err != nil {
			return nil, err
		}
		_, err = nc.Subscribe("tick", func(m *nats.Msg) { got(m.Data) })
		return nc.Close, err
	}
}

func mqttFeed(backoff func(int) time.Duration) feed {
	return func(addr string, got func([]byte)) (func(), error) {
		ctx, cancel := context.WithCancel(context.Background())
		cm, err := mqttClient(ctx, addr, func(c *autopaho.ClientConfig) {
			c.ReconnectBackoff = backoff
			c.OnConnectionUp = func(cm *autopaho.ConnectionManager, _ *paho.Connack) {
				cm.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "tick", QoS: 0}}})
			}
			c.OnPublishReceived = []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				got(r.Packet.Payload)
				return true, nil
			}}
		})
		if err != nil {
			cancel()
			return nil, err
		}
		return func() { cancel(); <-cm.Done() }, nil
	}
}
