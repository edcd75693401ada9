package limpet

import (
	"context"
	"iter"
	"strconv"
	"sync"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// benchBlock is how many messages the reader hands over before the consumer
// takes them: one goroutine does both, so what is measured is the work and not
// the scheduler.
const benchBlock = 64

func benchSubscription() (*Subscription, []wire.Event) {
	s := &Subscription{c: make(chan Message), client: &Client{}}
	o := &SubscribeOptions{Delivery: Delivery{Buffer: 4096, Bytes: 1 << 30, Overflow: DropOldest}}
	s.queue = newQueue("bench", o, native.New(nil).Traits(), testOwner{})
	s.queue.startConnection(1)
	confirm := wire.Event{Kind: wire.EventSubscribed, Continuity: wire.ContinuityProved, Position: Position{Epoch: "e"}}
	if _, err := s.queue.offer(1, []wire.Event{confirm}); err != nil {
		panic(err)
	}
	events := make([]wire.Event, benchBlock)
	for i := range events {
		events[i] = wire.Event{Kind: wire.EventData, Numbered: true, Message: wire.Message{ID: wire.ID{1}, Payload: make([]byte, 64)}}
	}
	return s, events
}

type benchFeed struct {
	s        *Subscription
	events   []wire.Event
	together int // events in one offer: what one WebSocket message held
	offset   uint64
}

func (f *benchFeed) offer(b testing.TB) {
	for i := range f.events {
		ev := &f.events[i]
		ev.Prev = f.offset
		f.offset++
		ev.Position.Offset = f.offset
	}
	for events := f.events; len(events) > 0; events = events[f.together:] {
		if _, err := f.s.queue.offer(1, events[:f.together]); err != nil {
			b.Fatal(err)
		}
	}
}

// No message may cost an allocation of its own on its way to the consumer.
// Half a one leaves room for the race detector, which empties pools at random.
func TestDeliveryAllocates(t *testing.T) {
	for name, loop := range map[string]func(s *Subscription, took func(int)){
		"Messages": func(s *Subscription, took func(int)) {
			for range s.Messages(t.Context()) {
				took(1)
			}
		},
		"Batches": func(s *Subscription, took func(int)) {
			for ms := range s.Batches(t.Context()) {
				took(len(ms))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, events := benchSubscription()
			f := benchFeed{s: s, events: events, together: benchBlock}
			next, stop := iter.Pull(func(yield func(int) bool) { loop(s, func(n int) { yield(n) }) })
			n := testing.AllocsPerRun(100, func() {
				f.offer(t)
				for got := 0; got < benchBlock; {
					n, ok := next()
					if got += n; !ok {
						t.Fatal("the stream ended")
					}
				}
			})
			if n >= benchBlock/2 {
				t.Errorf("%d messages through the delivery queue allocate %v times", benchBlock, n)
			}
			s.queue.discard(nil)
			stop()
		})
	}
}

// BenchmarkDelivery puts blocks of messages into the delivery queue and takes
// them out in each way there is, beside two yardsticks that do less.
func BenchmarkDelivery(b *testing.B) {
	for _, together := range []int{1, benchBlock} {
		suffix := ""
		if together > 1 {
			suffix = ", offered by " + strconv.Itoa(together)
		}
		benchDelivery(b, suffix, together)
	}
	benchYardsticks(b)
}

func perMessage(b *testing.B) { b.ReportMetric(benchBlock, "messages/op") }

func benchDelivery(b *testing.B, suffix string, together int) {
	b.Run("Batches"+suffix, func(b *testing.B) {
		s, events := benchSubscription()
		f := benchFeed{s: s, events: events, together: together}
		b.ReportAllocs()
		f.offer(b)
		n, got := 0, 0
		for ms, err := range s.Batches(context.Background()) {
			if err != nil {
				b.Fatal(err)
			}
			if got += len(ms); got < benchBlock {
				continue
			}
			got = 0
			if n++; n >= b.N {
				break
			}
			f.offer(b)
		}
		perMessage(b)
	})
	b.Run("Messages"+suffix, func(b *testing.B) {
		s, events := benchSubscription()
		f := benchFeed{s: s, events: events, together: together}
		b.ReportAllocs()
		f.offer(b)
		n, got := 0, 0
		for _, err := range s.Messages(context.Background()) {
			if err != nil {
				b.Fatal(err)
			}
			if got++; got < benchBlock {
				continue
			}
			got = 0
			if n++; n >= b.N {
				break
			}
			f.offer(b)
		}
		perMessage(b)
	})
	b.Run("C"+suffix, func(b *testing.B) {
		s, events := benchSubscription()
		f := benchFeed{s: s, events: events, together: together}
		c := s.C()
		b.ReportAllocs()
		for range b.N {
			f.offer(b)
			for range benchBlock {
				<-c
			}
		}
		perMessage(b)
		s.queue.finish(nil)
		for range c {
		}
	})
}

func benchYardsticks(b *testing.B) {
	b.Run("yardstick: channel of 1024", func(b *testing.B) {
		c := make(chan Message, 1024)
		for range b.N {
			for range benchBlock {
				c <- Message{}
			}
			for range benchBlock {
				<-c
			}
		}
		perMessage(b)
	})
	b.Run("yardstick: unbuffered channel", func(b *testing.B) {
		c := make(chan Message)
		go func() {
			for range b.N * benchBlock {
				c <- Message{}
			}
		}()
		for range b.N * benchBlock {
			<-c
		}
		perMessage(b)
	})
	b.Run("yardstick: mutex and slice", func(b *testing.B) {
		var mu sync.Mutex
		var list, spare []Message
		for range b.N {
			for range benchBlock {
				mu.Lock()
				list = append(list, Message{})
				mu.Unlock()
			}
			mu.Lock()
			list, spare = spare[:0], list
			mu.Unlock()
		}
		perMessage(b)
	})
}
