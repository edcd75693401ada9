package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
)

// Topics are closed and subscribed again at random, while requests take time, the
// network breaks, and the server reports errors that refuse nothing and ends
// subscriptions by itself. No stream mixes two subscriptions of the server or has a
// hole in silence, and in the end every subscription that is open receives messages.
func TestTopicsAtRandom(t *testing.T) {
	rng := feedRand(t)
	for _, kind := range venues {
		for range 4 {
			seed := rng.Uint64()
			t.Run(fmt.Sprint(kind, " seed ", seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { churnAtRandom(t, kind, rand.New(rand.NewPCG(seed, 0))) })
			})
		}
	}
}

func churnAtRandom(t *testing.T, kind string, rng *rand.Rand) {
	v := newVenue(t, kind, rng.IntN(2) == 0 && kind != "strict")
	v.lag, v.tick = time.Duration(rng.IntN(2000))*time.Millisecond, 50*time.Millisecond
	errors := rng.IntN(2) == 0
	endless := false // the server cannot be asked to end a subscription
	if rng.IntN(3) == 0 {
		endless = true
		v.traits = both(v.traits, func(t *wire.Traits) { t.Unsubscribe = false })
	}
	var asked atomic.Int64
	v.before = func(say func(string), _ *asking) {
		if errors && asked.Add(1)%4 == 0 {
			say(`{"type":"error","text":"slow down"}`)
		}
	}
	c := v.dial(t, nil)
	var takers sync.WaitGroup
	open := map[string]*limpet.Subscription{}
	for range 200 {
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		switch topic := fmt.Sprintf("trades/T%d", rng.IntN(4)); {
		case rng.IntN(40) == 0:
			v.host.Network.CutAll()
		case rng.IntN(20) == 0 && v.table.Confirm.Complete || v.table.Confirm.Ended != "" && rng.IntN(20) == 0:
			v.mu.Lock()
			v.drop = []string{topic[len("trades/"):]}
			v.mu.Unlock()
		case open[topic] != nil && open[topic].State().Phase != limpet.SubEnded:
			open[topic].Close()
			delete(open, topic)
		default:
			s := subscribe(t, c, topic)
			open[topic] = s
			takers.Go(func() {
				checkLives(t, kind, c, s, endless || errors || v.table.Confirm.Complete || v.table.Confirm.Ended != "")
			})
		}
	}
	time.Sleep(2 * time.Minute)
	for topic, s := range open {
		before := s.Stats()
		time.Sleep(time.Second)
		if st := s.Stats(); s.State().Phase == limpet.SubEnded {
			if !errors && (kind == "each" || kind == "strict" || kind == "nothing") {
				t.Errorf("%s: %s: %+v", kind, topic, s.State())
			}
		} else if s.State().Phase != limpet.SubLive || st.Received < before.Received+10 {
			t.Errorf("%s, lag %v: %s is %+v, %+v after %+v", kind, v.lag, topic, s.State(), st, before)
		}
	}
	c.Close()
	takers.Wait()
}

func both(f, g func(*wire.Traits)) func(*wire.Traits) {
	return func(t *wire.Traits) { f(t); g(t) }
}

// checkLives checks the stream of s to its end. renewed says that the client may ask
// again for what the server already serves, which goes on without a hole. So does a
// stream that a reconnect interrupts for less than the time between two messages.
func checkLives(t *testing.T, kind string, c *limpet.Client, s *limpet.Subscription, renewed bool) {
	var last aTrade
	var connection uint64 // on which last came
	lost := true
	for m, err := range s.Messages(context.Background()) {
		if err != nil {
			return
		}
		if m.Kind != limpet.Data {
			lost = true
			continue
		}
		var next aTrade
		if err := json.Unmarshal(m.Payload, &next); err != nil {
			t.Error(err)
		}
		before := connection
		connection = c.State().Generation
		if !lost && (next.Life != last.Life && !renewed && connection == before || next.N != last.N+1) {
			t.Errorf("%s: %v: %+v follows %+v", kind, s, next, last)
		}
		last, lost = next, false
	}
}
