package main

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/limpet-go/limpet"
	"github.com/nats-io/nats.go"
	"nhooyr.io/websocket"
)

var writesRow = row{
	id: "P6", title: "messages a write syscall, 64 or more queued, 64 B (P6)", metric: "perwrite", unit: "messages a write",
	variants: []variant{{name: "64 B", with: sized(64, 50_000)}},
	candidates: []contender{
		{"limpet Publish", "limpet", limpetWrites(1)},
		{"limpet PublishBatch of 64", "limpet", limpetWrites(64)},
		{"JetStream PublishAsync", "nats", natsWrites},
		{"nhooyr Write", "blast", nhooyrWrites},
	},
	compare: []comparison{
		{variant: "64 B", ours: "limpet Publish", inverse: true, floor: 16, goal: 48},
		{variant: "64 B", ours: "limpet PublishBatch of 64", inverse: true, floor: 16, goal: 48},
	},
}

// countedConn counts the writes of every connection of its dialler.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

type countingDialer struct {
	net.Dialer
	writes atomic.Int64
}

func (d *countingDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return countedConn{c, &d.writes}, nil
}

func (d *countingDialer) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}

func (d *countingDialer) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
}

func limpetWrites(batch int) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		ctx := context.Background()
		d := new(countingDialer)
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/", &limpet.Options{HTTPClient: d.client()})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := c.Send(ctx, "bench", nil, nil); err != nil {
			return nil, err
		}
		m, before := startMeter(s), d.writes.Load()
		if err := publishAll(c, s.Messages, s.Size, batch, false); err != nil {
			return nil, err
		}
		out := m.stop(s.Messages)
		out["perwrite"] = float64(s.Messages) / float64(d.writes.Load()-before)
		return out, nil
	}
}

func natsWrites(s spec) (outcome, error) {
	d := new(countingDialer)
	nc, js, err := jetStream(s.Addr, nats.SetCustomDialer(d))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	m, before := startMeter(s), d.writes.Load()
	payload := make([]byte, s.Size)
	for range s.Messages {
		if _, err := publishAsync(js, payload); err != nil {
			return nil, err
		}
	}
	<-js.PublishAsyncComplete()
	out := m.stop(s.Messages)
	out["perwrite"] = float64(s.Messages) / float64(d.writes.Load()-before)
	return out, nil
}

func nhooyrWrites(s spec) (outcome, error) {
	ctx := context.Background()
	d := new(countingDialer)
	c, _, err := websocket.Dial(ctx, "ws://"+s.Addr+"/raw", &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled, HTTPClient: d.client()})
	if err != nil {
		return nil, err
	}
	defer c.CloseNow()
	m, before := startMeter(s), d.writes.Load()
	payload := make([]byte, s.Size)
	for range s.Messages {
		if err := c.Write(ctx, websocket.MessageBinary, payload); err != nil {
			return nil, err
		}
	}
	out := m.stop(s.Messages)
	out["perwrite"] = float64(s.Messages) / float64(d.writes.Load()-before)
	return out, nil
}
