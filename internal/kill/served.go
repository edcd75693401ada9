package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

// window is how many messages the publisher has without an outcome at most, while servers are killed.
const window = 8

// serve is the victim of a round that kills servers.
func serve(o orders) error {
	store, err := openServer(o.Dir)
	if err != nil {
		return err
	}
	backend, err := server.New(&server.Options{Store: &told{plantServer(o.Fault, store), o, 0}})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.Serve)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: backend, ReadHeaderTimeout: patience}
	return web.Serve(listener)
}

func openServer(dir string) (*file.Store, error) {
	return file.Open(dir, &file.Options{Retention: server.Retention{Count: -1, Bytes: -1}, SegmentSize: segmentSize})
}

// early is a store that says that a change is durable before it is.
type early struct{ server.Store }

// Commit implements server.Store. It answers with the offset that the change would get.
func (e early) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	if len(c.Entries) == 0 {
		return e.Store.Commit(ctx, c)
	}
	return server.Committed{Version: c.Version + 1, Offset: e.View().Head + uint64(len(c.Entries))}, nil
}

func plantServer(fault string, store server.Store) server.Store {
	if fault == "" {
		return store
	}
	return early{store}
}

// told tells what goes into the store of a server, and waits at the point that the killer aims at.
type told struct {
	server.Store
	orders  orders
	commits int // there is one connection that publishes
}

// Commit implements server.Store.
func (s *told) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	if len(c.Entries) == 0 {
		return s.Store.Commit(ctx, c)
	}
	var numbers []int
	for _, e := range c.Entries {
		n, err := strconv.Atoi(string(e.Payload))
		if err != nil {
			return server.Committed{}, err
		}
		numbers = append(numbers, n)
		say("begin", n)
	}
	s.commits++
	reached := s.commits >= s.orders.After
	if s.orders.Aim == unsynced && reached {
		say("at", 0)
	}
	if s.orders.Aim == unwritten && reached {
		say("at", 0)
		<-time.After(2 * patience)
	}
	done, err := s.Store.Commit(ctx, c)
	if err != nil {
		return done, err
	}
	for _, n := range numbers {
		say("end", n)
	}
	if s.orders.Aim == unacked && reached {
		say("at", 0)
		<-time.After(2 * patience)
	}
	return done, nil
}

// runServers is run for servers: one client, and servers on one directory that are killed one after the other.
func runServers(base, fault string, number int, seed uint64, kills int, step func(result)) (res result, err error) {
	dir, err := os.MkdirTemp(base, "round")
	if err != nil {
		return res, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return res, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return res, err
	}
	client, err := limpet.New("ws://"+address, &limpet.Options{
		Window: limpet.Window{Messages: window}, Backoff: limpet.Backoff{First: time.Millisecond, Initial: 10 * time.Millisecond, Max: 20 * time.Millisecond, StableAfter: time.Millisecond}})
	if err != nil {
		return res, err
	}
	defer client.Close()
	r := &round{dir: dir, fault: fault, address: address, random: rand.New(rand.NewPCG(seed, uint64(number))), trace: newTrace(), result: result{Round: number, Seed: seed}}
	ctx, stop := context.WithCancel(context.Background())
	published := make(chan int, 1)
	go func() { published <- r.publish(ctx, client) }()
	defer stop()
	for r.result.Kills < kills {
		if r.result.Idle > 10*kills+10 {
			return r.result, errors.New("hardly any kill finds a message without an outcome: this proves nothing")
		}
		if err := r.serverLife(); err != nil {
			return r.result, fmt.Errorf("round %d of seed %d, after %d kills of a server: %w (files in %s)", number, seed, r.result.Kills, err, dir)
		}
		step(r.result)
	}
	stop()
	if err := r.lastServer(client, <-published); err != nil {
		return r.result, fmt.Errorf("round %d of seed %d: %w (files in %s)", number, seed, err, dir)
	}
	return r.result, os.RemoveAll(dir)
}

// publish publishes until ctx ends, and returns the number of the last message.
func (r *round) publish(ctx context.Context, client *limpet.Client) int {
	for n := 1; ; n++ {
		receipt, err := client.Publish(ctx, "t", []byte(strconv.Itoa(n)), nil)
		if err != nil {
			return n - 1
		}
		r.trace.line("returned", n)
		go func() {
			<-receipt.Done()
			if o := receipt.Outcome(); o == limpet.Acked {
				r.trace.ackedBy(n)
			} else {
				r.trace.line(o.String(), n)
			}
		}()
	}
}

// serverLife starts a server and kills it.
func (r *round) serverLife() error {
	aims := []phase{unwritten, unsynced, unacked, anywhere}
	o := orders{Serve: r.address, Dir: r.outbox(), Fault: r.fault, Aim: aims[r.random.IntN(len(aims))], After: 1 + r.random.IntN(8)}
	p, lines, err := r.startServer(o)
	if err != nil {
		return err
	}
	pause := time.Duration(r.random.IntN(1500)) * time.Microsecond
	if o.Aim == anywhere {
		defer time.AfterFunc(time.Duration(r.random.IntN(100))*time.Millisecond, p.kill).Stop()
	}
	late := r.watch(p, lines, o.Aim, pause)
	err = p.cmd.Wait()
	if late || !p.killed.Load() {
		return fmt.Errorf("a server with the aim %d ended by itself or made no progress: %v: %s", o.Aim, err, p.cmd.Stderr)
	}
	log, err := r.log()
	if err != nil {
		return err
	}
	in := r.trace.afterServer(log)
	where := o.Aim
	if o.Aim == anywhere || !in[o.Aim] {
		for where = unwritten; where < phases && !in[where]; where++ {
		}
	}
	if where == phases {
		r.result.Idle++
	} else {
		r.result.Kills++
		r.result.Phases[where]++
	}
	return r.trace.err()
}

func (r *round) startServer(o orders) (*process, *bufio.Scanner, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	p := &process{cmd: exec.CommandContext(context.Background(), program), dead: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), victimKey+"="+string(text))
	p.cmd.Stderr = new(strings.Builder)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return p, bufio.NewScanner(out), p.cmd.Start()
}

// log returns the messages that a server has left. It opens a copy.
func (r *round) log() (numbers []int, err error) {
	dir := filepath.Join(r.dir, "copy")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.CopyFS(dir, os.DirFS(r.outbox())); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	s, err := openServer(dir)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	for from, entries := uint64(1), make([]*server.Entry, 100); ; {
		n, _, err := s.Read(context.Background(), from, entries)
		if n == 0 || err != nil {
			return numbers, err
		}
		for _, e := range entries[:n] {
			number, err := strconv.Atoi(string(e.Payload))
			if err != nil {
				return nil, err
			}
			numbers, from = append(numbers, number), e.Offset+1
		}
	}
}

// lastServer starts a server that is not killed before the client has all outcomes, and compares all.
func (r *round) lastServer(client *limpet.Client, last int) error {
	p, lines, err := r.startServer(orders{Serve: r.address, Dir: r.outbox(), Fault: r.fault, Aim: anywhere})
	if err != nil {
		return err
	}
	go func() {
		for lines.Scan() {
		}
		close(p.dead)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = client.Flush(ctx)
	p.kill()
	<-p.dead
	_ = p.cmd.Wait()
	if err != nil {
		return err
	}
	log, err := r.log()
	if err != nil {
		return err
	}
	r.trace.afterServer(log)
	if r.result.Messages = len(log); len(log) != last {
		return fmt.Errorf("the server has %d messages, %d were published", len(log), last)
	}
	return r.trace.err()
}

// ackedBy notes an acknowledgement. That the server has the message is seen after the next kill.
func (t *trace) ackedBy(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acked[n] = true
}

// afterServer compares the log that a server has left with the trace: it has each message once, in order,
// all that were acknowledged, and all that it had before.
func (t *trace) afterServer(log []int) (in [phases]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, n := range log {
		if n != i+1 {
			t.failed("message %d is at place %d of the log", n, i+1)
		}
	}
	if len(log) < len(t.log) {
		t.failed("the log had %d messages, and has %d", len(t.log), len(log))
	}
	t.log = log
	for n := range t.acked {
		if n > len(log) {
			t.failed("message %d is lost: it was acked, and the server does not have it", n)
		}
	}
	for n := range t.began {
		switch held := n <= len(log); {
		case t.acked[n]:
		case !held:
			in[unwritten] = true
		case !t.ended[n]:
			in[unsynced] = true
		default:
			in[unacked] = true
		}
	}
	clear(t.began)
	return in
}
