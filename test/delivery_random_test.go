package test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

var deliverySeed = flag.Uint64("delivery-seed", 0, "the only seed of TestDeliveryAtRandom; 0: random ones")

// TestDeliveryAtRandom draws policies, paces, faults and consumers at random. At every
// moment each received message is delivered, dropped, conflated or waiting; no consumer gets
// more than the rate allows; a key never goes back; and what is not dropped arrives.
func TestDeliveryAtRandom(t *testing.T) {
	t.Parallel()
	seeds := []uint64{*deliverySeed}
	if *deliverySeed == 0 {
		for range reduced(60, 20) {
			seeds = append(seeds, rand.Uint64N(1<<32)+1)
		}
		seeds = seeds[1:]
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { deliveryAtRandom(t, seed) })
		})
	}
}

func randomDelivery(rnd *rand.Rand) limpet.Delivery {
	d := limpet.Delivery{
		Overflow: []limpet.Overflow{limpet.Block, limpet.DropOldest, limpet.DropNewest, limpet.Latest}[rnd.IntN(4)],
		Buffer:   1 + rnd.IntN(30),
	}
	if d.Overflow == limpet.Latest && rnd.IntN(2) == 0 {
		d.Key = symbol
	}
	if rnd.IntN(3) == 0 {
		d.Bytes = 4 + rnd.IntN(60)
	}
	if rnd.IntN(3) == 0 {
		d.Every = time.Duration(1+rnd.IntN(400)) * time.Millisecond
	}
	if rnd.IntN(2) == 0 {
		d.Rate = 2 + 200*rnd.Float64()*rnd.Float64()
		if rnd.IntN(2) == 0 {
			d.Burst = int(d.Rate*d.Every.Seconds()) + 1 + rnd.IntN(10)
		}
	}
	return d
}

// deliveryLog is what the consumers of one subscription got.
type deliveryLog struct {
	mu        sync.Mutex
	at        []time.Time // of each message
	newest    map[string]int
	faults    []string
	losses    uint64 // messages that gaps name
	competing bool   // the order of competing consumers is not known
}

func (l *deliveryLog) add(m limpet.Message, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Loss != nil {
		l.losses += m.Loss.Count
		return
	}
	l.at = append(l.at, at)
	var n int
	key := symbol(m)
	if _, err := fmt.Sscanf(string(m.Payload), key+" %d", &n); err != nil {
		l.faults = append(l.faults, err.Error())
	}
	if !l.competing && l.newest[key] >= n {
		l.faults = append(l.faults, fmt.Sprintf("%s after %d", m.Payload, l.newest[key]))
	}
	l.newest[key] = n
}

func deliveryAtRandom(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	d := randomDelivery(rnd)
	o := limpet.SubscribeOptions{ManualAck: rnd.IntN(4) == 0, Delivery: d, Lend: d.Overflow != limpet.Latest && rnd.IntN(2) == 0}
	srv := limpettest.NewServer(t, nil)
	c := dial(t, srv, nil)
	s := subscribeLive(t, c, "q/*", &o)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%+v, manual %v, lend %v: %s", d, o.ManualAck, o.Lend, fmt.Sprintf(format, args...))
	}
	check := func() {
		if st := s.Stats(); st.Received != st.Delivered+st.Dropped+st.Conflated+st.Waiting {
			fail("%+v", st)
		}
	}
	consumers := 1 + rnd.IntN(3)
	log := &deliveryLog{newest: map[string]int{}, competing: consumers > 1}
	channel := false
	var all sync.WaitGroup
	for i := range consumers {
		kind, own := rnd.IntN(3), rand.New(rand.NewPCG(seed, uint64(i+1)))
		if kind == 2 && (o.ManualAck || consumers == 1) {
			channel = true
			all.Go(func() { receiveAtRandom(s, own, log) })
			continue
		}
		batches := kind == 1
		all.Go(func() {
			for s.State().Phase != limpet.SubEnded {
				iterateAtRandom(s, own, log, batches, o.ManualAck)
				check()
			}
		})
	}
	sent := 300
	for n := range sent {
		if rnd.IntN(10) == 0 {
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
		}
		if rnd.IntN(60) == 0 {
			srv.Network.CutAll()
		}
		key := string(rune('A' + rnd.IntN(6)))
		publish(t, srv, "q/"+key, fmt.Sprintf("%s %d", key, n+1))
		check()
	}
	time.Sleep(10 * time.Minute) // more than the lowest rate and the backoff need
	synctest.Wait()
	check()
	st := s.Stats()
	if st.Waiting > 0 {
		fail("still waits: %+v", st)
	}
	if d.Overflow == limpet.Block && st.Delivered != uint64(sent) || st.Received != uint64(sent) {
		fail("of %d messages: %+v", sent, st)
	}
	log.mu.Lock()
	if len(log.faults) > 0 {
		fail("%v", log.faults)
	}
	if uint64(len(log.at)) != st.Delivered || log.losses != st.Dropped {
		fail("consumers got %d messages, and gaps for %d: %+v", len(log.at), log.losses, st)
	}
	if d.Rate > 0 {
		slices.SortFunc(log.at, time.Time.Compare)
		checkRate(log.at, d, channel, fail)
	}
	log.mu.Unlock()
	publish(t, srv, "q/A", "A 1000") // what waits at the end is dropped
	c.Close()
	all.Wait()
	<-c.Done()
	check()
}

// checkRate compares each span of the hand-overs with what the rate allows in it.
func checkRate(at []time.Time, d limpet.Delivery, channel bool, fail func(string, ...any)) {
	burst := d.Burst
	if burst == 0 {
		burst = max(1, int(d.Rate*max(10*time.Millisecond, d.Every).Seconds())+1)
	}
	if channel {
		burst++ // the one that waits in C
	}
	if d.Every > 0 {
		burst *= 2 // what one interval has released may be taken together with the next
	}
	for i := range at {
		for j := i; j < len(at); j++ {
			if allowed := float64(burst) + d.Rate*at[j].Sub(at[i]).Seconds(); float64(j-i+1) > allowed+0.01 {
				fail("%d messages in %v", j-i+1, at[j].Sub(at[i]))
				return
			}
		}
	}
}

// iterateAtRandom consumes until its context ends, it breaks, or it panics.
func iterateAtRandom(s *limpet.Subscription, rnd *rand.Rand, log *deliveryLog, batches, manual bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rnd.IntN(2000))*time.Millisecond)
	defer cancel()
	defer func() { _ = recover() }()
	one := func(m limpet.Message, at time.Time) bool {
		log.add(m, at)
		if rnd.IntN(8) == 0 {
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		}
		if manual {
			m.Ack()
		}
		return rnd.IntN(20) > 0
	}
	if !batches {
		for m, err := range s.Messages(ctx) {
			if err != nil || !one(m, time.Now()) {
				return
			}
			if rnd.IntN(30) == 0 {
				panic("a consumer")
			}
		}
		return
	}
	for ms, err := range s.Batches(ctx) {
		if err != nil {
			return
		}
		goOn, at := true, time.Now()
		for _, m := range ms {
			goOn = one(m, at) && goOn
		}
		if !goOn {
			return
		}
	}
}

func receiveAtRandom(s *limpet.Subscription, rnd *rand.Rand, log *deliveryLog) {
	for m := range s.C() {
		log.add(m, time.Now())
		m.Ack()
		if rnd.IntN(8) == 0 {
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		}
	}
}

// What waits when the subscription is closed is dropped by that; what the policy drops is
// not. The time of the last message is that of a message.
func TestWhatCloseDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.DropOldest, Buffer: 3}})
		if at := s.Stats().LastReceived; !at.IsZero() {
			t.Errorf("a message came at %v", at)
		}
		time.Sleep(time.Second)
		came := time.Now()
		publish(t, srv, "a", numbers(1, 5)...)
		time.Sleep(time.Minute)
		srv.Network.CutAll()
		if _, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Generation == 2 && s.Phase == limpet.Ready }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if st := s.Stats(); !st.LastReceived.Equal(came) || st.OldestWaiting != time.Since(came) {
			t.Errorf("%+v, want the times of %v", st, came)
		}
		s.Close()
		if st := s.Stats(); st.Dropped != 5 || st.DroppedByClose != 3 || st.OldestWaiting != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// Under Latest the oldest message that waits need not be the first.
func TestOldestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		s := subscribeLive(t, dial(t, srv, nil), "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: symbol}})
		for _, p := range []string{"A 1", "B 1", "A 2"} {
			publish(t, srv, "a", p)
			time.Sleep(time.Second)
		}
		if got := s.Stats().OldestWaiting; got != 2*time.Second {
			t.Errorf("%v, want that of B 1", got)
		}
	})
}
