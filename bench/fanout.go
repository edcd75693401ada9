package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/limpet-go/limpet/server"
)

// What the reference server costs with many connections. Its clients are raw sockets of the
// same process, so a figure is for both ends.

var (
	quietRow = row{
		id: "G1", title: "a message that no client wants (G1)", metric: "cpu", unit: "CPU ns a message", rounds: 3,
		variants:   []variant{{name: "5,000 connections", with: fanoutTo(5000, 0, 100)}},
		candidates: []contender{{name: "limpet", run: fanout}},
		compare:    []comparison{{variant: "5,000 connections", ours: "limpet", floor: 1e6, goal: 0.2e6}},
	}
	fanoutRow = row{
		id: "G2", title: "a message for 500 of 5,000 connections (G2)", metric: "cpu", unit: "CPU ns a delivery, both ends", rounds: 3,
		variants:   []variant{{name: "5,000 connections", with: fanoutTo(5000, 500, 200)}},
		candidates: []contender{{name: "limpet", run: fanout}},
		compare:    []comparison{{variant: "5,000 connections", ours: "limpet", floor: 15e3, goal: 12e3}},
	}
	heldRow = row{
		id: "G3", title: "an idle connection of the server (G3)", metric: "memory", unit: "bytes of heap and stack a connection, both ends", rounds: 3,
		variants:   []variant{{name: "5,000 connections", with: fanoutTo(5000, 0, 0)}},
		candidates: []contender{{name: "limpet", run: held}},
		compare:    []comparison{{variant: "5,000 connections", ours: "limpet", floor: 28 << 10, goal: 20 << 10}},
	}
)

func fanoutTo(clients, subs, messages int) func(*spec) {
	return func(s *spec) { s.Clients, s.Subs, s.Messages, s.Size = clients, subs, messages, 64 }
}

// gateway is a reference server with clients.
type gateway struct {
	server  *server.Server
	http    *http.Server
	addr    string
	clients []net.Conn
}

func newGateway() (*gateway, error) {
	s, err := server.New(&server.Options{Heartbeat: 10 * time.Minute})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gateway{server: s, http: &http.Server{Handler: s}, addr: l.Addr().String()}
	go g.http.Serve(l)
	return g, nil
}

func (g *gateway) close() {
	g.server.Close()
	g.http.Close()
	for _, c := range g.clients {
		c.Close()
	}
}

// connect adds a client with one subscription, which is live when it returns.
func (g *gateway) connect(topic string) error {
	c, _, err := dialLimpet(g.addr, topic)
	if err == nil {
		g.clients = append(g.clients, c)
	}
	return err
}

// dialRaw opens a WebSocket and sends one binary message.
func dialRaw(addr, subprotocol string, first []byte) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", addr, subprotocol)
	br := bufio.NewReaderSize(c, 2048)
	resp, err := http.ReadResponse(br, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, nil, err
	}
	frame := appendHeader(nil, opBinary, len(first))
	frame[1] |= 0x80 // masked, with zeros
	_, err = c.Write(append(append(frame, 0, 0, 0, 0), first...))
	return c, br, err
}

// message reads one unmasked message.
func message(r io.Reader) (op byte, data []byte, err error) {
	var h [4]byte
	if _, err = io.ReadFull(r, h[:2]); err != nil {
		return 0, nil, err
	}
	n := int(h[1])
	if n == 126 {
		if _, err = io.ReadFull(r, h[2:]); err != nil {
			return 0, nil, err
		}
		n = int(h[2])<<8 | int(h[3])
	}
	data = make([]byte, n)
	_, err = io.ReadFull(r, data)
	return h[0], data, err
}

// fanout publishes to s.Subs clients of s.Clients, or to none; each message waits for the one
// before.
func fanout(s spec) (outcome, error) {
	g, err := newGateway()
	if err != nil {
		return nil, err
	}
	defer g.close()
	s.Subs = min(s.Subs, s.Clients)
	for i := range s.Clients {
		topic := fmt.Sprintf("quiet/%d", i)
		if i < s.Subs {
			topic = "feed"
		}
		if err := g.connect(topic); err != nil {
			return nil, err
		}
	}
	var got sync.WaitGroup // for what the clients are to receive
	for _, c := range g.clients[:s.Subs] {
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil { // one message is one write
					return
				}
				got.Done()
			}
		}()
	}
	settle()
	payload := make([]byte, s.Size)
	m := startMeter(s)
	for range s.Messages {
		got.Add(s.Subs)
		if _, err := g.server.Publish(context.Background(), "feed", payload, nil); err != nil {
			return nil, err
		}
		if s.Subs == 0 {
			<-time.After(20 * time.Millisecond) // whoever is woken runs
		}
		got.Wait()
	}
	out := m.stop(s.Messages * max(s.Subs, 1))
	if n := g.server.Stats().Delivered; n != uint64(s.Messages*s.Subs) {
		return nil, fmt.Errorf("%d deliveries", n)
	}
	return out, nil
}

// held measures what a connection holds that has done nothing for a while.
func held(s spec) (outcome, error) {
	g, err := newGateway()
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.connect("quiet"); err != nil { // memory that the process needs only once
		return nil, err
	}
	settle()
	before := measureFootprint()
	cpu := cpuTime()
	for i := range s.Clients {
		if err := g.connect(fmt.Sprintf("quiet/%d", i)); err != nil {
			return nil, err
		}
	}
	cpu = cpuTime() - cpu
	settle()
	out := measureFootprint().since(before, s.Clients)
	out["connect"] = float64(cpu) / float64(s.Clients)
	return out, nil
}
