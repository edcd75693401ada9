package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/limpet-go/limpet"
	"github.com/nats-io/nats.go"
	"nhooyr.io/websocket"
)

func clients(n int) func(*spec) { return func(s *spec) { s.Clients = n } }

var idlers = []contender{
	{"limpet", "blast", idle(idleLimpet(false))},
	{"nhooyr with a reader", "blast", idle(idleNhooyr)},
	{"gorilla with a reader", "blast", idle(idleGorilla)},
	{"nats.go over ws", "nats", idle(idleNATS)},
	{"limpet, PlainFrames", "blast", idle(idleLimpet(true))},
}

var idleRow = row{
	id: "P7", title: "idle client with one subscription (P7)", metric: "memory", unit: "bytes of heap and stack a client",
	variants:   []variant{{name: "500 clients", with: clients(500)}},
	candidates: idlers,
	compare: []comparison{
		{variant: "500 clients", ours: "limpet", against: "nhooyr with a reader", floor: 1, goal: 0.7},
		{variant: "500 clients", ours: "limpet", metric: "goroutines", floor: 3, goal: 2},
		{variant: "500 clients", ours: "limpet", against: "nats.go over ws", floor: 0.5, goal: 0.25},
	},
}

var residentRow = row{
	id: "P8", title: "resident memory of 5,000 idle clients (P8)", metric: "rss", unit: "bytes a client", rounds: 3,
	variants:   []variant{{name: "5,000 clients", with: clients(5000)}},
	candidates: idlers[:2],
	compare:    []comparison{{variant: "5,000 clients", ours: "limpet", against: "nhooyr with a reader", floor: 1.1, goal: 0.75}},
}

// idle opens s.Clients connections and measures what each holds.
func idle(open func(spec) (io.Closer, error)) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		first, err := open(s) // memory that the process needs only once
		if err != nil {
			return nil, err
		}
		defer first.Close()
		settle()
		before := measureFootprint()
		cpu := cpuTime()
		open, err := openAll(s, open)
		if err != nil {
			return nil, err
		}
		cpu = cpuTime() - cpu
		settle()
		out := measureFootprint().since(before, s.Clients)
		out["connect"] = float64(cpu) / float64(s.Clients)
		at := cpuTime()
		settle()
		out["idlecpu"] = float64(cpuTime()-at) / float64(s.Clients)
		for _, c := range open {
			c.Close()
		}
		return out, nil
	}
}

// settle waits until everything that opening a connection leaves behind has ended.
func settle() { <-time.After(500 * time.Millisecond) }

func openAll(s spec, open func(spec) (io.Closer, error)) ([]io.Closer, error) {
	all := make([]io.Closer, s.Clients)
	errs := make(chan error, 1)
	work := make(chan int)
	var workers sync.WaitGroup
	for range min(32, s.Clients) {
		workers.Go(func() {
			for i := range work {
				c, err := open(s)
				if err != nil {
					select {
					case errs <- fmt.Errorf("client %d: %w", i, err):
					default:
					}
					continue
				}
				all[i] = c
			}
		})
	}
	for i := range s.Clients {
		work <- i
	}
	close(work)
	workers.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return all, nil
	}
}

func idleLimpet(plain bool) func(spec) (io.Closer, error) {
	return func(s spec) (io.Closer, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/limpet", &limpet.Options{PlainFrames: plain})
		if err != nil {
			return nil, err
		}
		sub, err := c.Subscribe(ctx, "feed", nil)
		if err != nil {
			return nil, err
		}
		return c, sub.WaitLive(ctx)
	}
}

type closer func()

func (c closer) Close() error { c(); return nil }

func idleNhooyr(s spec) (io.Closer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+s.Addr+"/raw", &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			if _, _, err := c.Reader(context.Background()); err != nil {
				return
			}
		}
	}()
	return closer(func() { c.CloseNow() }), nil
}

func idleGorilla(s spec) (io.Closer, error) {
	c, _, err := gorilla.DefaultDialer.Dial("ws://"+s.Addr+"/raw", nil)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			if _, _, err := c.NextReader(); err != nil {
				return
			}
		}
	}()
	return c, nil
}

func idleNATS(s spec) (io.Closer, error) {
	nc, err := nats.Connect("ws://" + s.Addr)
	if err != nil {
		return nil, err
	}
	if _, err := nc.Subscribe("idle", func(*nats.Msg) {}); err != nil {
		return nil, err
	}
	return closer(nc.Close), nc.Flush()
}
