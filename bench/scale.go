package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/limpet-go/limpet"
)

// The scaling study: what a message and a client cost as the numbers grow.

var scaleClientsRow = row{
	id: "S1", title: "clients in one process", metric: "cpu", unit: "client CPU ns a message", rounds: 3, slow: true,
	variants: steps([]int{1, 10, 100, 1000, 2000, 5000, 10000, 19900}, func(s *spec, n int) {
		s.Clients, s.Size, s.Messages = n, 64, max(200, 200_000/n)
	}),
	candidates: []contender{{"limpet", "blast", scaleClients}},
}

var scaleSubsRow = row{
	id: "S2", title: "subscriptions of one client", metric: "cpu", unit: "client CPU ns a message", rounds: 3, slow: true,
	variants: steps([]int{1, 10, 100, 1000, 10000}, func(s *spec, n int) {
		s.Subs, s.Size, s.Messages = n, 64, 200_000
	}),
	candidates: []contender{{"limpet", "blast", scaleSubs}},
}

var scaleSizesRow = row{
	id: "S3", title: "size of a message", metric: "cpu", unit: "client CPU ns a message", rounds: 3, slow: true,
	variants: append(
		steps([]int{16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10}, ofSize),
		steps([]int{512 << 10, 1 << 20}, ofSize, "limpet, raw dialect", "nhooyr Reader", "gorilla NextReader")...), // more than limpet.v1 permits
	candidates: []contender{
		{"limpet", "blast", limpetReceive(receiveAs{})},
		{"limpet, raw dialect", "blast", limpetReceive(receiveAs{raw: true})},
		{"nhooyr Reader", "blast", nhooyrReceive},
		{"gorilla NextReader", "blast", gorillaReceive},
	},
}

func ofSize(s *spec, n int) { s.Size, s.Messages = n, min(100_000, 128<<20/n) }

func steps(at []int, set func(*spec, int), only ...string) []variant {
	var vs []variant
	for _, n := range at {
		vs = append(vs, variant{name: strconv.Itoa(n), with: func(s *spec) { set(s, n) }, only: only})
	}
	return vs
}

// scaleClients lets every client receive s.Messages on one subscription, all
// at once.
func scaleClients(s spec) (outcome, error) {
	ctx := context.Background()
	settle()
	before := measureFootprint()
	url := "ws://" + s.Addr + "/limpet" + s.order().query()
	all := make([]*limpet.Client, s.Clients)
	errs := make(chan error, s.Clients)
	slot := make(chan struct{}, 32)
	cpu := cpuTime()
	for i := range all {
		slot <- struct{}{}
		go func() {
			dial, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			var err error
			all[i], err = limpet.Dial(dial, url, nil)
			errs <- err
			<-slot
		}()
	}
	for range all {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	connect := cpuTime() - cpu
	settle()
	idle := measureFootprint().since(before, s.Clients)
	m := startMeter(s)
	var consumers sync.WaitGroup
	for _, c := range all {
		consumers.Go(func() {
			sub, err := c.Subscribe(ctx, "feed", nil)
			if err == nil {
				err = take(sub, s.Messages, false)
			}
			errs <- err
		})
	}
	consumers.Wait()
	out := m.stop(s.Messages * s.Clients)
	for range all {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	out["memory"], out["goroutines"], out["rss"] = idle["memory"], idle["goroutines"], idle["rss"]
	out["connect"] = float64(connect) / float64(s.Clients)
	for _, c := range all {
		c.Close()
	}
	return out, nil
}

// scaleSubs spreads s.Messages over the subscriptions of one client. One
// consumer goroutine serves each.
func scaleSubs(s spec) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/limpet"+s.order().query(), nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	settle()
	before := measureFootprint()
	subs := make([]*limpet.Subscription, s.Subs)
	for i := range subs[1:] {
		if subs[i], err = c.Subscribe(ctx, fmt.Sprintf("feed/%d", i), nil); err != nil {
			return nil, err
		}
	}
	for _, sub := range subs[:s.Subs-1] {
		if err := sub.WaitLive(ctx); err != nil {
			return nil, err
		}
	}
	idle := measureFootprint().since(before, s.Subs)
	each := s.Messages / s.Subs
	m := startMeter(s)
	// The server begins when it has received the last one.
	if subs[s.Subs-1], err = c.Subscribe(ctx, "feed/last", nil); err != nil {
		return nil, err
	}
	errs := make(chan error, s.Subs)
	for _, sub := range subs {
		go func() { errs <- take(sub, each, false) }()
	}
	for range subs {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	out := m.stop(each * s.Subs)
	out["memory"] = idle["memory"]
	runtime.KeepAlive(subs)
	return out, nil
}
