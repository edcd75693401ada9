package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
	"github.com/limpet-go/limpet"
	"github.com/lxzan/gws"
	"github.com/nats-io/nats.go"
	"nhooyr.io/websocket"
)

func sized(size, messages int) func(*spec) {
	return func(s *spec) { s.Size, s.Messages = size, messages }
}

var receiveRow = row{
	id: "P1", title: "receive to the consumer's iterator (P1, P2)", metric: "cpu", unit: "client CPU ns a message",
	variants: []variant{{name: "64 B", with: sized(64, 200_000)}, {name: "512 B", with: sized(512, 100_000)}},
	candidates: []contender{
		{"limpet Messages", "blast", limpetReceive(receiveAs{})},
		{"limpet Batches", "blast", limpetReceive(receiveAs{batches: true})},
		{"limpet Messages, Buffer 4096", "blast", limpetReceive(receiveAs{buffer: 4096})},
		{"limpet Messages, packed by 64", "blast", limpetReceive(receiveAs{buffer: 4096, pack: 64})},
		{"limpet Batches, packed by 64", "blast", limpetReceive(receiveAs{buffer: 4096, pack: 64, batches: true})},
		{"limpet Messages, PlainFrames", "blast", limpetReceive(receiveAs{plain: true})},
		{"nhooyr Reader", "blast", nhooyrReceive},
		{"coder Reader", "blast", coderReceive},
		{"gorilla NextReader", "blast", gorillaReceive},
		{"gws ReadLoop", "blast", gwsReceive},
		{"nats.go Subscribe over ws", "nats", natsReceive},
	},
	compare: []comparison{
		{variant: "64 B", ours: "limpet Messages", against: "nhooyr Reader", inverse: true, floor: 0.85, goal: 5},
		{variant: "512 B", ours: "limpet Messages", against: "nhooyr Reader", inverse: true, floor: 0.85, goal: 5},
		{variant: "64 B", ours: "limpet Messages, packed by 64", against: "nhooyr Reader", inverse: true, floor: 0.85, goal: 5},
		{variant: "64 B", ours: "limpet Messages, PlainFrames", against: "nhooyr Reader", inverse: true, floor: 0.85, goal: 0.85},
		{variant: "64 B", ours: "limpet Messages", metric: "allocs", floor: 1, goal: 1},
		{id: "P2", variant: "64 B", ours: "limpet Messages, PlainFrames", against: "nats.go Subscribe over ws", inverse: true, floor: 0.15, goal: 0.15},
		{id: "P2", variant: "64 B", ours: "limpet Messages", against: "nats.go Subscribe over ws", inverse: true, floor: 0.15, goal: 1.5},
		{id: "P2", variant: "64 B", ours: "limpet Batches", against: "nats.go Subscribe over ws", inverse: true, floor: 0.15, goal: 1.5},
		{id: "P2", variant: "512 B", ours: "limpet Messages", against: "nats.go Subscribe over ws", inverse: true, floor: 0.15, goal: 1.5},
		{id: "P2", variant: "64 B", ours: "limpet Messages, packed by 64", against: "nats.go Subscribe over ws", inverse: true, floor: 0.15, goal: 1.5},
	},
}

// lentRow is what the memory of payloads costs.
var lentRow = row{
	id: "F2", title: "receive with payloads that are owned or lent (F1, F2)", metric: "cpu", unit: "client CPU ns a message",
	variants: []variant{{name: "64 B", with: sized(64, 400_000)}, {name: "512 B", with: sized(512, 200_000)}},
	candidates: []contender{
		{"limpet Messages", "blast", limpetReceive(receiveAs{})},
		{"limpet Batches", "blast", limpetReceive(receiveAs{batches: true})},
		{"limpet Batches, lent", "blast", limpetReceive(receiveAs{batches: true, lent: true})},
		{"gorilla NextReader", "blast", gorillaReceive},
	},
	compare: []comparison{
		{id: "F1", variant: "64 B", ours: "limpet Messages", floor: 251, goal: 150},
		{id: "F1", variant: "64 B", ours: "limpet Batches", floor: 212, goal: 120},
		{variant: "64 B", ours: "limpet Batches, lent", floor: 200, goal: 90},
		{variant: "512 B", ours: "limpet Batches, lent", floor: 500, goal: 250},
		{variant: "64 B", ours: "limpet Batches, lent", metric: "allocs", floor: 0.05, goal: 0.05},
		{variant: "512 B", ours: "limpet Batches, lent", metric: "allocs", floor: 0.05, goal: 0.05},
		{variant: "64 B", ours: "limpet Batches, lent", against: "limpet Batches", floor: 1, goal: 0.75},
		{variant: "512 B", ours: "limpet Batches, lent", against: "limpet Batches", floor: 1, goal: 0.6},
	},
}

// receiveAs is how limpet receives. Pack is how many envelopes a WebSocket message
// holds: 1, which a server sends when messages are rare, costs most.
type receiveAs struct {
	buffer, pack   int // 0: the defaults, 1,024 and 1
	batches, plain bool
	raw            bool // a language without an envelope
	observed       bool // with everything that observes a client
	lent           bool // with SubscribeOptions.Lend
}

func limpetReceive(as receiveAs) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		s.Pack = max(1, as.pack)
		s.Messages -= s.Messages % s.Pack
		ctx := context.Background()
		opts, path, room := &limpet.Options{PlainFrames: as.plain}, "/limpet", as.buffer<<10
		if as.raw {
			opts.Dialect, opts.ReadLimit, path = raw{}, 4<<20, "/credit"
			room = max(1<<20, 16*s.Size) // the default is one message of 1 MiB
		}
		if as.observed {
			observing(opts)
		}
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+path+s.order().query(), opts)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		m := startMeter(s)
		stop := func() error { return nil }
		if as.observed {
			if stop, err = scrape(c); err != nil {
				return nil, err
			}
		}
		// Any part of the machine may be the slowest: with room for 4,096 messages
		// the server does not wait for credit.
		o := &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: as.buffer, Bytes: room}, Lend: as.lent}
		sub, err := c.Subscribe(ctx, "feed", o)
		if err != nil {
			return nil, err
		}
		if err := take(sub, s.Messages, as.batches); err != nil {
			return nil, err
		}
		out := with(m.stop(s.Messages), c)
		if n := c.Histograms().Delivery.Count; as.observed && n < uint64(s.Messages)*9/10 {
			return nil, fmt.Errorf("%d of %d messages measured", n, s.Messages)
		}
		return out, stop()
	}
}

// with notes on which path the connection was, as the client says.
func with(out outcome, c *limpet.Client) outcome {
	out["plain"] = 0
	if c.Stats().PlainFrames {
		out["plain"] = 1
	}
	return out
}

func take(sub *limpet.Subscription, n int, batches bool) error {
	got := 0
	if batches {
		for ms, err := range sub.Batches(context.Background()) {
			if err != nil {
				return err
			}
			for i := range ms {
				if ms[i].Kind != limpet.Data {
					return fmt.Errorf("a %v after %d messages", ms[i].Kind, got)
				}
			}
			if got += len(ms); got >= n {
				return nil
			}
		}
		return fmt.Errorf("ended after %d messages: %w", got, sub.Err())
	}
	for m, err := range sub.Messages(context.Background()) {
		if err != nil {
			return err
		}
		if m.Kind != limpet.Data {
			return fmt.Errorf("a %v after %d messages", m.Kind, got)
		}
		if got++; got == n {
			return nil
		}
	}
	return fmt.Errorf("ended after %d messages: %w", got, sub.Err())
}

func rawURL(s spec) string { return "ws://" + s.Addr + "/raw" + s.order().query() }

func nhooyrReceive(s spec) (outcome, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, _, err := websocket.Dial(ctx, rawURL(s), &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, err
	}
	defer c.CloseNow()
	c.SetReadLimit(4 << 20)
	m := startMeter(s)
	if err := c.Write(ctx, websocket.MessageBinary, []byte("go")); err != nil {
		return nil, err
	}
	buf := make([]byte, s.Size+1)
	for range s.Messages {
		_, r, err := c.Reader(ctx)
		if err != nil {
			return nil, err
		}
		if err := readAll(r, buf, s.Size); err != nil {
			return nil, err
		}
	}
	return m.stop(s.Messages), nil
}

func coderReceive(s spec) (outcome, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, _, err := coder.Dial(ctx, rawURL(s), nil)
	if err != nil {
		return nil, err
	}
	defer c.CloseNow()
	c.SetReadLimit(4 << 20)
	m := startMeter(s)
	if err := c.Write(ctx, coder.MessageBinary, []byte("go")); err != nil {
		return nil, err
	}
	buf := make([]byte, s.Size+1)
	for range s.Messages {
		_, r, err := c.Reader(ctx)
		if err != nil {
			return nil, err
		}
		if err := readAll(r, buf, s.Size); err != nil {
			return nil, err
		}
	}
	return m.stop(s.Messages), nil
}

func gorillaReceive(s spec) (outcome, error) {
	d := gorilla.Dialer{ReadBufferSize: 64 << 10}
	c, _, err := d.Dial(rawURL(s), nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := startMeter(s)
	if err := c.WriteMessage(gorilla.BinaryMessage, []byte("go")); err != nil {
		return nil, err
	}
	buf := make([]byte, s.Size+1)
	for range s.Messages {
		_, r, err := c.NextReader()
		if err != nil {
			return nil, err
		}
		if err := readAll(r, buf, s.Size); err != nil {
			return nil, err
		}
	}
	return m.stop(s.Messages), nil
}

// readAll reads a message of want bytes into buf, which has room for one more.
func readAll(r io.Reader, buf []byte, want int) error {
	n, err := readUpTo(r, buf)
	if err == nil && n != want {
		err = fmt.Errorf("message of %d bytes, not %d", n, want)
	}
	return err
}

// readUpTo reads a message that is shorter than buf into it and returns its length.
func readUpTo(r io.Reader, buf []byte) (n int, err error) {
	for err == nil && n < len(buf) {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	switch err {
	case nil:
		return n, fmt.Errorf("message of more than %d bytes", len(buf)-1)
	case io.EOF:
		return n, nil
	}
	return n, err
}

type gwsHandler struct {
	gws.BuiltinEventHandler
	left  int
	ended chan error
}

func (h *gwsHandler) OnMessage(_ *gws.Conn, m *gws.Message) {
	m.Close()
	if h.left--; h.left == 0 {
		h.ended <- nil
	}
}

func (h *gwsHandler) OnClose(_ *gws.Conn, err error) {
	select {
	case h.ended <- err:
	default:
	}
}

func gwsReceive(s spec) (outcome, error) {
	h := &gwsHandler{left: s.Messages, ended: make(chan error, 1)}
	c, _, err := gws.NewClient(h, &gws.ClientOption{Addr: rawURL(s), ReadBufferSize: 64 << 10})
	if err != nil {
		return nil, err
	}
	go c.ReadLoop()
	m := startMeter(s)
	if err := c.WriteMessage(gws.OpcodeBinary, []byte("go")); err != nil {
		return nil, err
	}
	if err := <-h.ended; err != nil {
		return nil, err
	}
	out := m.stop(s.Messages)
	c.NetConn().Close()
	return out, nil
}

// natsChunk bounds how much of the burst is in transit: nats.go has no credit, and over
// WebSocket it has been observed to lose most of a burst that is sent at once, without
// an error.
const natsChunk = 10_000

func natsReceive(s spec) (outcome, error) {
	nc, err := nats.Connect("ws://" + s.Addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	var got atomic.Int64
	chunk := make(chan struct{}, s.Messages/natsChunk+2)
	m := startMeter(s)
	sub, err := nc.Subscribe("feed", func(*nats.Msg) {
		if n := got.Add(1); n%natsChunk == natsChunk/2 || n == int64(s.Messages) {
			chunk <- struct{}{}
		}
	})
	if err != nil {
		return nil, err
	}
	sub.SetPendingLimits(-1, -1)
	if err := nc.Flush(); err != nil {
		return nil, err
	}
	for left := s.Messages; left > 0; left -= natsChunk {
		o := s.order()
		o.Messages = min(left, natsChunk)
		b, _ := json.Marshal(o)
		if err := nc.Publish("go", b); err != nil {
			return nil, err
		}
		select {
		case <-chunk:
		case <-time.After(20 * time.Second):
			left = 0
		}
	}
	for wait := time.After(20 * time.Second); got.Load() < int64(s.Messages) && wait != nil; {
		select {
		case <-chunk:
		case <-wait:
			wait = nil
		}
	}
	n := int(got.Load())
	if n < s.Messages/2 {
		return nil, fmt.Errorf("nats.go delivered %d of %d messages: %v", n, s.Messages, nc.LastError())
	}
	out := m.stop(n)
	out["lost"] = float64(s.Messages - n)
	return out, nil
}
