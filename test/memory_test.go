package test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

const mebibyte = 1 << 20

// memoryOptions bounds the queues of a client to one MiB.
func memoryOptions() *limpet.Options {
	return &limpet.Options{Memory: mebibyte, ReadLimit: mebibyte / 2}
}

// large is a delivery queue that only Options.Memory bounds.
func large(o limpet.Overflow) *limpet.SubscribeOptions {
	return &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: o, Buffer: 1 << 20, Bytes: 1 << 30}}
}

// checkMemory fails if the queues of c hold more than they may.
func checkMemory(t *testing.T, c *limpet.Client, limit int) {
	t.Helper()
	synctest.Wait()
	if st := c.Stats(); st.Memory > limit || st.MemoryLimit != limit {
		t.Errorf("the queues hold %d of %d bytes, of %d", st.Memory, st.MemoryLimit, limit)
	}
	if st := c.Stats().Messages; st.WaitingBytes > uint64(limit) || st.Received != st.Delivered+st.Dropped+st.Conflated+st.Waiting {
		t.Errorf("%+v", st)
	}
}

// sized is a payload of n bytes that begins with a number.
func sized(number, n int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, n), uint32(number))[:n]
}

// A queue that holds most of the memory gives way, by its policy. The others lose nothing,
// and one with Block never does.
func TestTheLargestQueueGivesWay(t *testing.T) {
	for _, overflow := range []limpet.Overflow{limpet.DropOldest, limpet.DropNewest, limpet.Latest} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			c := dial(t, srv, memoryOptions())
			o := large(overflow)
			if overflow == limpet.Latest {
				o.Delivery.Key = func(m limpet.Message) string { return string(m.Payload[:4]) }
			}
			big := subscribeLive(t, c, "big", o)
			small := subscribeLive(t, c, "small", large(limpet.DropOldest))
			block := subscribeLive(t, c, "block", nil)
			send := func(topic string, number, size int) {
				t.Helper()
				if _, err := srv.Server.Publish(t.Context(), topic, sized(number, size), nil); err != nil {
					t.Fatal(err)
				}
			}
			const bigOnes, others = 3000, 300
			for i := range bigOnes {
				send("big", i, 1024)
				if i%10 == 0 {
					send("small", i/10, 300)
					send("block", i/10, 300)
				}
				if i%50 == 0 {
					checkMemory(t, c, mebibyte)
				}
			}
			checkMemory(t, c, mebibyte)
			if st := big.Stats(); st.Dropped == 0 || st.Received != bigOnes || st.Waiting < 300 {
				t.Errorf("%v: the largest queue: %+v", overflow, st)
			}
			for _, s := range []*limpet.Subscription{small, block} {
				if st := s.Stats(); st.Dropped != 0 {
					t.Errorf("%v: %s: %+v", overflow, s.Topic(), st)
				}
				for i, m := range collect(t, s, others) {
					if m.Kind != limpet.Data || binary.BigEndian.Uint32(m.Payload) != uint32(i) {
						t.Fatalf("%v: %s: %v at place %d", overflow, s.Topic(), m.Kind, i)
					}
				}
			}
			checkWhole(t, big, overflow, bigOnes)
			if n := c.Stats().Memory; n > mebibyte/2 {
				t.Errorf("%v: %d bytes are in use after all was taken", overflow, n)
			}
		})
	}
}

// checkWhole takes what waits in s: messages and gaps are all that was sent, in order, and
// what is dropped is at the end that the policy says.
func checkWhole(t *testing.T, s *limpet.Subscription, overflow limpet.Overflow, sent int) {
	t.Helper()
	next, elements := 0, 0
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for m, err := range s.Messages(ctx) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			if next != sent {
				t.Errorf("%v: the stream ends at %d of %d", overflow, next, sent)
			}
			return
		case err != nil:
			t.Fatal(err)
		case m.Kind == limpet.Gap && m.Loss.Cause == limpet.CauseOverflow:
			if first := elements == 0; first == (overflow == limpet.DropNewest) {
				t.Errorf("%v: a gap at place %d", overflow, elements)
			}
			next += int(m.Loss.Count)
		case m.Kind == limpet.Data && binary.BigEndian.Uint32(m.Payload) == uint32(next):
			next++
		default:
			t.Fatalf("%v: %v %+v at %d", overflow, m.Kind, m.Loss, next)
		}
		elements++
	}
}

// TestMemoryAtRandom: subscriptions of all policies, consumers that are quick, slow or
// absent, and cuts. The queues never hold more than they may, Block loses nothing, and every
// stream is whole.
func TestMemoryAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range uint64(6) {
		synctest.Test(t, func(t *testing.T) { memoryAtRandom(t, rand.New(rand.NewPCG(seed, i))) })
	}
}

func memoryAtRandom(t *testing.T, rnd *rand.Rand) {
	srv := limpettest.NewServer(t, nil)
	c := dial(t, srv, memoryOptions())
	type stream struct {
		s     *limpet.Subscription
		block bool
		sent  int
		quick int // of the consumer: 0 absent, 1 slow, 2 quick
	}
	var all sync.WaitGroup
	streams := make([]*stream, 60)
	for i := range streams {
		o := large([]limpet.Overflow{limpet.Block, limpet.DropOldest, limpet.DropNewest, limpet.Latest}[rnd.IntN(4)])
		st := &stream{block: o.Delivery.Overflow == limpet.Block, quick: rnd.IntN(3)}
		if rnd.IntN(2) == 0 {
			o.Delivery.Buffer, o.Delivery.Bytes = 50, 100_000
		}
		if i == 0 { // of its 67 messages, about, some are dropped whatever was drawn
			o.Delivery.Overflow, o.Delivery.Buffer, st.block, st.quick = limpet.DropOldest, 20, false, 0
		}
		o.Lend = o.Delivery.Overflow != limpet.Latest && rnd.IntN(2) == 0
		st.s = subscribeLive(t, c, fmt.Sprint("t", i), o)
		streams[i] = st
		if st.quick > 0 {
			all.Go(func() {
				for ms := range st.s.Batches(context.Background()) {
					if st.quick == 1 {
						time.Sleep(time.Duration(len(ms)) * 100 * time.Millisecond)
					}
				}
			})
		}
	}
	for n := range 4000 {
		st := streams[rnd.IntN(len(streams))]
		st.sent++
		if _, err := srv.Server.Publish(t.Context(), st.s.Topic(), sized(n, 4+rnd.IntN(4000)), nil); err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(20) == 0 {
			checkMemory(t, c, mebibyte)
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		}
		if rnd.IntN(500) == 0 {
			srv.Network.CutAll()
		}
	}
	time.Sleep(10 * time.Minute)
	checkMemory(t, c, mebibyte)
	dropped := uint64(0)
	for _, st := range streams {
		if st.quick == 0 {
			all.Go(func() {
				for range st.s.Messages(context.Background()) {
				}
			})
		}
	}
	time.Sleep(10 * time.Minute)
	checkMemory(t, c, mebibyte)
	for _, st := range streams {
		got := st.s.Stats()
		dropped += got.Dropped
		if st.block && got.Delivered+got.Missed != uint64(st.sent) || got.Received+got.Missed != uint64(st.sent) || got.Waiting > 0 {
			t.Errorf("%s: of %d: %+v", st.s.Topic(), st.sent, got)
		}
	}
	t.Logf("%d of 4000 dropped, %d bytes in use at the end", dropped, c.Stats().Memory)
	if dropped == 0 {
		t.Error("nothing was dropped: the test shows nothing")
	}
	c.Close()
	all.Wait()
	if n := c.Stats().Memory; n != 0 {
		t.Errorf("%d bytes are in use after the end", n)
	}
}

// However many subscriptions with Block there are, and whatever credit the others hold and
// do not use, each has its share, and together they do not exceed the memory.
func TestMemoryOfManyWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, memoryOptions())
		var subs []*limpet.Subscription
		for i := range 200 {
			subs = append(subs, subscribeLive(t, c, fmt.Sprint("t", i), large(limpet.Block)))
			checkMemory(t, c, mebibyte)
		}
		for round := range 3 {
			for range 10 {
				for i := range subs {
					publish(t, srv, fmt.Sprint("t", i), strings.Repeat("x", 300))
				}
			}
			checkMemory(t, c, mebibyte)
			for _, s := range subs {
				if got := collect(t, s, 10); strings.Count(payloads(got), strings.Repeat("x", 300)) != 10 {
					t.Fatalf("%s got %v", s.Topic(), payloads(got))
				}
			}
			checkMemory(t, c, mebibyte)
			if round == 1 {
				srv.Network.CutAll()
			}
		}
	})
}

// A subscription that begins with a small window gets a larger one while its consumer keeps
// up.
func TestWindowGrowsWithUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, memoryOptions())
		var others []*limpet.Subscription
		for i := range 100 {
			others = append(others, subscribeLive(t, c, fmt.Sprint("t", i), large(limpet.Block)))
		}
		s := subscribeLive(t, c, "busy", large(limpet.Block))
		waiting := func() uint64 {
			t.Helper()
			publish(t, srv, "busy", numbers(1, 2000)...)
			synctest.Wait()
			n := s.Stats().Waiting
			collect(t, s, 2000)
			checkMemory(t, c, mebibyte)
			return n
		}
		first := waiting()
		for _, s := range others { // their memory is free
			s.Close()
		}
		for range 10 {
			waiting()
		}
		if last := waiting(); first > 100 || last < 4*first {
			t.Errorf("%d messages wait at first, %d later", first, last)
		}
	})
}

// A queue that has ended holds its memory until its consumer has taken the rest.
func TestMemoryOfEndedQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, memoryOptions())
		s := subscribeLive(t, c, "t", large(limpet.DropOldest))
		publish(t, srv, "t", numbers(1, 100)...)
		synctest.Wait()
		ended := make(chan error, 1)
		go func() { ended <- c.Shutdown(t.Context()) }()
		synctest.Wait()
		if n := c.Stats().Memory; n < 100*200 {
			t.Errorf("%d bytes are in use while 100 messages wait", n)
		}
		if got := collect(t, s, 100); len(got) != 100 {
			t.Errorf("%d messages", len(got))
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := c.Stats().Memory; n != 0 {
			t.Errorf("%d bytes are in use after the end", n)
		}
		c = dial(t, srv, memoryOptions())
		for _, overflow := range []limpet.Overflow{limpet.Block, limpet.DropOldest, limpet.Latest} {
			s := subscribeLive(t, c, "t", large(overflow))
			publish(t, srv, "t", numbers(1, 100)...)
			synctest.Wait()
			if before := c.Stats().Memory; before == 0 {
				t.Error("what waits costs nothing")
			}
			s.Close()
			synctest.Wait()
			if n := c.Stats().Memory; n != 0 {
				t.Errorf("%v: %d bytes are in use after Close", overflow, n)
			}
		}
	})
}

// A message for which nothing can give way, because subscriptions with Block hold the memory,
// is a gap, and the next one that fits is delivered.
func TestMessageThatFindsNoMemory(t *testing.T) {
	for _, overflow := range []limpet.Overflow{limpet.DropOldest, limpet.DropNewest, limpet.Latest} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{MaxPayload: mebibyte}})
			c := dial(t, srv, memoryOptions())
			for i := range 100 {
				subscribeLive(t, c, fmt.Sprint("t", i), large(limpet.Block))
			}
			s := subscribeLive(t, c, "big", large(overflow))
			publish(t, srv, "big", strings.Repeat("x", 450_000), "small")
			checkMemory(t, c, mebibyte)
			if got := payloads(collect(t, s, 2)); !strings.HasPrefix(got, "gap(") || !strings.HasSuffix(got, "] small") {
				t.Errorf("%v: %.100s", overflow, got)
			}
		})
	}
}
