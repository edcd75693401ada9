package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// A few ids are published again and again, in every state that a message can have, over lost connections, crashes of the
// client and refusals of the server. The server has each id at most once; once if any outcome is Acked, and not at all if
// each is Rejected, Expired or Unsent. Nothing stalls.
func TestOutboxSameIDAtRandom(t *testing.T) {
	for seed := range uint64(*outboxSeeds) {
		for _, durable := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) { testSameID(t, seed, durable) })
		}
	}
}

func testSameID(t *testing.T, seed uint64, durable bool) {
	rnd := rand.New(rand.NewPCG(seed, 32))
	var mu sync.Mutex
	decide := rand.New(rand.NewPCG(seed, 33)) // of the server's hook
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{SessionTTL: 20 * time.Second, Hooks: server.Hooks{
		OnPublish: func(context.Context, server.Principal, server.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if decide.IntN(3) == 0 {
				return &server.Error{Code: native.CodeForbidden}
			}
			return nil
		},
	}}})
	var trace []string
	say := func(format string, args ...any) {
		trace = append(trace, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
	}
	store := newFaultyStore()
	var c *limpet.Client
	receipts := map[*limpet.Receipt]string{}
	acked, open := map[string]bool{}, map[string]bool{} // open: an outcome says that the server may have it, or will
	ids := map[string]uuid.UUID{}
	name := map[uuid.UUID]string{}
	for _, p := range []string{"A", "B", "C", "D"} {
		ids[p] = uuid.New()
		name[ids[p]] = p
	}
	begin := func() {
		o := limpet.Options{Backoff: limpet.Backoff{Max: time.Second}, HTTPClient: srv.HTTPClient()}
		if durable {
			o.Outbox = store
		}
		var err error
		if c, err = limpet.New(srv.URL(), options(&o)); err != nil {
			t.Fatal(err)
		}
		for r := range c.Receipts() {
			receipts[r] = name[r.ID()]
		}
	}
	end := func() {
		closeAndWait(t, c)
		for r, p := range receipts {
			say("%s: %v", p, r.Outcome())
			switch r.Outcome() {
			case limpet.Acked:
				acked[p] = true
			case limpet.Unknown, limpet.Stored:
				open[p] = true
			}
		}
		clear(receipts)
	}
	begin()
	for range 60 {
		switch n := rnd.IntN(16); {
		case n < 9:
			p := string(rune('A' + rnd.IntN(4)))
			o := &limpet.PublishOptions{ID: ids[p], Resend: limpet.Resend(rnd.IntN(3)), TTL: []time.Duration{0, 0, time.Millisecond, 500 * time.Millisecond}[rnd.IntN(4)]}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			r, err := c.Publish(ctx, "a", []byte(p), o)
			cancel()
			if say("publish %s, resend %v, TTL %v: %v", p, o.Resend, o.TTL, err); err == nil {
				receipts[r] = p
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("publish %s: %v", p, err)
			}
		case n < 11:
			d := time.Duration(rnd.IntN(1500)) * time.Millisecond
			say("wait %v", d)
			time.Sleep(d)
		case n < 12:
			say("cut")
			srv.Network.CutAll()
		case n < 13:
			after := rnd.IntN(200)
			say("strike after %d bytes", after)
			srv.Network.Strike(limpettest.CutAfterBytes([]limpettest.Direction{limpettest.Up, limpettest.Down}[rnd.IntN(2)], after))
		case n < 14:
			if rnd.IntN(2) == 0 {
				say("server stops")
				srv.Stop()
			} else {
				say("server starts")
				srv.Start()
			}
		case n < 15 && durable:
			lost := rnd.IntN(2) == 0
			say("crash, lost %v", lost)
			next := store.crash(lost)
			srv.Network.ResetAll()
			end()
			store = next
			begin()
		case n < 16:
			say("close")
			end()
			begin()
		}
	}
	say("end")
	srv.Start()
	flushed(t, c)
	for r, p := range receipts {
		if r.Outcome() == limpet.Pending {
			t.Errorf("%s is pending after Flush", p)
		}
	}
	end()
	got := map[string]int{}
	for _, p := range logged(t, srv) {
		got[p]++
	}
	for p := range ids {
		if n := got[p]; n > 1 || acked[p] && n != 1 || !acked[p] && !open[p] && n != 0 {
			t.Errorf("the server has %s %d times: acked %v, open %v", p, n, acked[p], open[p])
		}
	}
	if t.Failed() {
		t.Fatalf("seed %d, durable %v:\n%s", seed, durable, strings.Join(trace, "\n"))
	}
}
