package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/limpet-go/limpet"
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

// written returns how many write system calls of any kind this process has made. A
// wrapped connection would not be written to in the way that a TCP socket is.
func written() (n int64) {
	b, _ := os.ReadFile("/proc/self/io")
	_, calls, _ := strings.Cut(string(b), "syscw: ")
	fmt.Sscan(calls, &n)
	return n
}

// perWrite adds the messages per write to out, on systems that count writes.
func perWrite(s spec, out outcome, before int64) outcome {
	if n := written() - before; n > 0 {
		out["perwrite"] = float64(s.Messages) / float64(n)
	}
	return out
}

func limpetWrites(batch int) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		ctx := context.Background()
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/", nil)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := c.Send(ctx, "bench", nil, nil); err != nil {
			return nil, err
		}
		m, before := startMeter(s), written()
		if err := publishAll(c, s.Messages, s.Size, batch, false); err != nil {
			return nil, err
		}
		return perWrite(s, m.stop(s.Messages), before), nil
	}
}

func natsWrites(s spec) (outcome, error) {
	nc, js, err := jetStream(s.Addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	m, before := startMeter(s), written()
	payload := make([]byte, s.Size)
	for range s.Messages {
		if _, err := publishAsync(js, payload); err != nil {
			return nil, err
		}
	}
	<-js.PublishAsyncComplete()
	return perWrite(s, m.stop(s.Messages), before), nil
}

func nhooyrWrites(s spec) (outcome, error) {
	ctx := context.Background()
	c, _, err := websocket.Dial(ctx, "ws://"+s.Addr+"/raw", &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, err
	}
	defer c.CloseNow()
	m, before := startMeter(s), written()
	payload := make([]byte, s.Size)
	for range s.Messages {
		if err := c.Write(ctx, websocket.MessageBinary, payload); err != nil {
			return nil, err
		}
	}
	return perWrite(s, m.stop(s.Messages), before), nil
}
