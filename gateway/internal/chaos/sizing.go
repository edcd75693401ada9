package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet"
)

// Sizing measures what connections to one gateway cost. The clients are in this process, so that
// what is measured is the gateway and the engine.

const (
	idleFor    = 20 * time.Second
	publishers = 64  // at a time, one message each
	toNone     = 150 // messages of each of them
	toAll      = 100 // messages
	clockTick  = 10 * time.Millisecond
)

var sizingHead = []string{"engine", "memory", "memory of the engine", "CPU to connect", "of the engine", "CPU a minute, idle", "of the engine",
	"CPU of a message", "of the engine", "CPU of a delivery"}

// usage is what processes have used.
type usage struct {
	cpu    time.Duration
	memory int // bytes, resident
}

// measure adds up the processes.
func measure(pids []int) (u usage, err error) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return u, err
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest) // the first is the state, number 3 of proc_pid_stat(5)
		if len(fields) < 22 {
			return u, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
		}
		for _, i := range []int{11, 12} { // utime, stime
			ticks, err := strconv.Atoi(fields[i])
			if err != nil {
				return u, err
			}
			u.cpu += time.Duration(ticks) * clockTick
		}
		pages, err := strconv.Atoi(fields[21])
		if err != nil {
			return u, err
		}
		u.memory += pages * os.Getpagesize()
	}
	return u, nil
}

// sizing is one gateway with an engine, and its clients.
type sizing struct {
	engine  engine // nil: the gateway's memory
	gateway *gateway
	clients []*limpet.Client
	got     atomic.Int64
	at      []usage // after each part: of the gateway, then of the engine
}

// size prints a row for each engine.
func size(ctx context.Context, dir string, engines []string, n int, out io.Writer) error {
	at, err := prepare(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d connections\n\n| %s |\n|%s\n", n, strings.Join(sizingHead, " | "), strings.Repeat("---|", len(sizingHead)))
	for _, name := range engines {
		s := &sizing{}
		row, err := s.run(ctx, at, name, n)
		s.close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(out, "| %s |\n", strings.Join(append([]string{name}, row...), " | "))
	}
	return nil
}

// run measures one engine.
func (s *sizing) run(ctx context.Context, at *places, name string, n int) (row []string, err error) {
	dir := filepath.Join(at.dir, "sizing-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.start(ctx, at, dir, name); err != nil {
		return nil, err
	}
	parts := []func(context.Context, int) error{
		func(ctx context.Context, _ int) error { return s.connect(ctx, publishers) }, // memory that is needed only once
		s.connect,
		func(ctx context.Context, _ int) error { return pass(ctx, idleFor) },
		func(ctx context.Context, _ int) error { return s.publish(ctx, "none", publishers, toNone) },
		func(ctx context.Context, n int) error { return s.deliver(ctx, n+publishers) },
	}
	for i, part := range parts {
		if err := part(ctx, n); err != nil {
			return nil, err
		}
		if i < 2 {
			if err := pass(ctx, 2*time.Second); err != nil { // what a connection has left behind ends
				return nil, err
			}
		}
		if err := s.note(); err != nil {
			return nil, err
		}
	}
	of := func(part, who int, each float64) string {
		return fmt.Sprintf("%.0f us", float64(s.at[2*part+who].cpu-s.at[2*part-2+who].cpu)/float64(time.Microsecond)/each)
	}
	kilobytes := func(who int) string {
		return fmt.Sprintf("%.1f KB", float64(s.at[2+who].memory-s.at[who].memory)/1e3/float64(n))
	}
	all := float64(n + publishers)
	minutes := all * idleFor.Minutes()
	return []string{kilobytes(0), kilobytes(1), of(1, 0, float64(n)), of(1, 1, float64(n)), of(2, 0, minutes), of(2, 1, minutes),
		of(3, 0, publishers*toNone), of(3, 1, publishers*toNone), fmt.Sprintf("%.1f us", float64(s.at[8].cpu-s.at[6].cpu)/float64(time.Microsecond)/(all*toAll))}, nil
}

func (s *sizing) start(ctx context.Context, at *places, dir, name string) error {
	flags := []string{"-engine", "memory"}
	if name != "memory" {
		e, err := startEngine(ctx, at, dir, name, false)
		if err != nil {
			return err
		}
		s.engine, flags = e, e.flags(direct)
	}
	g, err := newGateway(at, dir, "gateway", flags)
	if err != nil {
		return err
	}
	s.gateway = g
	return g.again(ctx)
}

// note notes what the processes have used up to now.
func (s *sizing) note() error {
	var engine []int
	if s.engine != nil {
		engine = s.engine.pids()
	}
	for _, pids := range [][]int{{s.gateway.cmd.Process.Pid}, engine} {
		u, err := measure(pids)
		if err != nil {
			return err
		}
		s.at = append(s.at, u)
	}
	return nil
}

// connect adds n clients, each with a subscription that is live.
func (s *sizing) connect(ctx context.Context, n int) error {
	for range n {
		c, err := limpet.Dial(ctx, "ws://"+s.gateway.clients, nil)
		if err != nil {
			return err
		}
		s.clients = append(s.clients, c)
		sub, err := c.Subscribe(ctx, "all", &limpet.SubscribeOptions{From: limpet.FromNew})
		if err != nil {
			return err
		}
		if err := sub.WaitLive(ctx); err != nil {
			return err
		}
		go func() {
			for _, err := range sub.Messages(ctx) {
				if err != nil {
					return
				}
				s.got.Add(1)
			}
		}()
	}
	return nil
}

// publish has clients publish messages, each one after the other.
func (s *sizing) publish(ctx context.Context, topic string, clients, messages int) error {
	var all sync.WaitGroup
	failed := make(chan error, clients)
	for _, c := range s.clients[:clients] {
		all.Go(func() {
			for range messages {
				if _, err := c.Send(ctx, topic, make([]byte, 256), nil); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// deliver publishes to all clients, and waits until they have all.
func (s *sizing) deliver(ctx context.Context, clients int) error {
	if err := s.publish(ctx, "all", 1, toAll); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for s.got.Load() < int64(clients*toAll) {
		if err := pass(within, 10*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d deliveries", s.got.Load(), clients*toAll)
		}
	}
	return nil
}

func (s *sizing) close() {
	for _, c := range s.clients {
		c.Close()
	}
	if s.gateway != nil && s.gateway.cmd != nil {
		s.gateway.kill()
	}
	if s.engine != nil {
		s.engine.close()
	}
}
