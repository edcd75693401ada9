package limpet

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/admission"
	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/internal/ids"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// BenchmarkPipeline is the path of a message from a received frame to the
// consumer, without socket and goroutines: decode, queue, iterator. One
// operation is one message of 64 bytes.
func BenchmarkPipeline(b *testing.B) {
	for _, enc := range []native.Encoding{native.Binary, native.JSON} {
		for name, per := range map[string]int{"1": 1, "64": 64} {
			b.Run(map[native.Encoding]string{native.Binary: "binary", native.JSON: "json"}[enc]+"/frames of "+name, func(b *testing.B) {
				pipeline(b, enc, per)
			})
		}
	}
}

func pipeline(b *testing.B, enc native.Encoding, per int) {
	codec, err := native.New(nil).Open(wire.Resume{Conn: 1, Subprotocol: native.Subprotocol(enc)})
	if err != nil {
		b.Fatal(err)
	}
	typ := enc.FrameType()
	var events wire.Events
	decode := func(frames ...native.Frame) {
		data, err := native.Append(nil, enc, frames)
		if err != nil {
			b.Fatal(err)
		}
		events.Reset()
		if err := codec.Decode(wire.Frame{Type: typ, Data: data}, &events); err != nil {
			b.Fatal(err)
		}
	}
	decode(native.Frame{Type: native.TypeWelcome, Welcome: &native.Welcome{CN: 1, SID: "s", Key: []byte("k"), SE: 1}})
	s := &Subscription{}
	o := SubscribeOptions{Delivery: Delivery{Buffer: 4096, Bytes: 1 << 20, Overflow: Block}}
	s.queue = newQueue("bench", &o, wire.Traits{Holes: wire.HolesFault}, testOwner{}, budget.New(1<<30))
	s.queue.startConnection(1)
	decode(native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: 1, Epoch: "e"}})
	s.queue.offer(1, events.List, &benchRead)
	start := s.queue.receiver
	payload := []byte(`{"id":"0123456789","px":101.25,"qty":3,"side":"buy","seq":1234567}`)[:64]
	// The same hundred frames over and over: the receiver starts again.
	const laps = 100
	var data [laps][]byte
	for i := range data {
		var frames []native.Frame
		for j := range per {
			at := uint64(i*per + j)
			frames = append(frames, native.Frame{Type: native.TypeMsg, Msg: native.Msg{Ch: 1, S: at + 1, P: at, HasP: true, ID: wire.ID{1, byte(at)}, Payload: payload}})
		}
		if data[i], err = native.Append(nil, enc, frames); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done, i := 0, 0; done < b.N; done, i = done+per, i+1 {
		if i%laps == 0 {
			s.queue.receiver = start
		}
		events.Reset()
		if err := codec.Decode(wire.Frame{Type: typ, Data: data[i%laps]}, &events); err != nil {
			b.Fatal(err)
		}
		if _, err := s.queue.offer(1, events.List, &benchRead); err != nil {
			b.Fatal(err)
		}
		s.queue.grant()
		n := 0
		for range s.Messages(context.Background()) {
			if n++; n == per {
				break
			}
		}
	}
}

// BenchmarkUplink is the path of a message from its admission to its outcome,
// without socket and goroutines: receipt, window, encoder, acknowledgement. One
// operation is one message of 64 bytes, in writes of 512.
func BenchmarkUplink(b *testing.B) {
	ctx := context.Background()
	ms := make([]Outgoing, 64)
	for i := range ms {
		ms[i] = Outgoing{Topic: "bench", Payload: make([]byte, 64)}
	}
	b.Run("Publish", func(b *testing.B) {
		uplink(b, func(c *Client) (int, error) {
			_, err := c.Publish(ctx, ms[0].Topic, ms[0].Payload, nil)
			return 1, err
		})
	})
	b.Run("PublishBatch of 64", func(b *testing.B) {
		uplink(b, func(c *Client) (int, error) {
			_, err := c.PublishBatch(ctx, ms)
			return len(ms), err
		})
	})
}

func uplink(b *testing.B, publish func(*Client) (int, error)) {
	codec, err := native.New(nil).Open(wire.Resume{Conn: 1, Subprotocol: native.Subprotocol(native.Binary)})
	if err != nil {
		b.Fatal(err)
	}
	c := &Client{ids: ids.NewGenerator()}
	c.cfg.Dialect = native.New(nil)
	c.cfg.traits = c.cfg.Dialect.Traits()
	c.cfg.Window = Window{Messages: 4096, Bytes: 1 << 20}
	c.admission = admission.New(c.cfg.Window.Messages, c.cfg.Window.Bytes)
	c.inbox.Init(func() {})
	l := &loop{c: c, window: newWindow(true, c.admission, &c.counters), now: time.Now()}
	l.window.credit = wire.Credit{N: math.MaxUint64, Bytes: math.MaxUint64}
	k := &link{codec: codec}
	frames, s := new(wire.Frames), new(encodeArgs)
	var events []event
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		for n := 0; n < 512; {
			published, err := publish(c)
			if err != nil {
				b.Fatal(err)
			}
			n, done = n+published, done+published
		}
		c.ids.ExpireClock()
		events = c.inbox.Take(events[:0])
		for _, e := range events {
			e.apply(l)
		}
		s.ops, s.messages = l.window.nextBatch(s.ops, s.messages, l.now, maxWriteBytes, math.MaxInt)
		through := l.encode(k, s.ops, frames)
		s.reset()
		frames.Reset()
		if err := l.window.acknowledge(&wire.Ack{To: through}); err != nil || l.window.pending != 0 {
			b.Fatal(err, l.window.pending)
		}
	}
}

// benchBlock is how many messages the reader hands over before the consumer
// takes them: one goroutine does both, so what is measured is the work and not
// the scheduler.
const benchBlock = 64

// benchRead is when everything was read from the socket.
var benchRead = time.Now()

type benchFeed struct {
	s        *Subscription
	events   []wire.Event
	together int // events in one offer: what one WebSocket message held
	offset   uint64
	frame    []byte // the payloads of all messages, if it is not nil; then they are borrowed
}

func newBenchFeed(d Delivery, together int) *benchFeed {
	return newBenchFeedOf(SubscribeOptions{Delivery: d}, together)
}

func newBenchFeedOf(o SubscribeOptions, together int) *benchFeed {
	s := &Subscription{c: make(chan Message), client: &Client{}}
	o.Delivery.Buffer, o.Delivery.Bytes = 4096, 1<<30
	s.queue = newQueue("bench", &o, native.New(nil).Traits(), testOwner{}, budget.New(1<<30))
	s.queue.startConnection(1)
	confirm := wire.Event{Kind: wire.EventSubscribed, Continuity: wire.ContinuityProved, Position: Position{Epoch: "e"}}
	if _, err := s.queue.offer(1, []wire.Event{confirm}, &benchRead); err != nil {
		panic(err)
	}
	events := make([]wire.Event, benchBlock)
	for i := range events {
		events[i] = wire.Event{Kind: wire.EventData, Numbered: true, Position: Position{Offset: 1}, Message: wire.Message{ID: wire.ID{1}, Payload: make([]byte, 64)}}
	}
	return &benchFeed{s: s, events: events, together: together}
}

func (f *benchFeed) offer(b testing.TB) {
	for i := range f.events {
		ev := &f.events[i]
		ev.Prev = f.offset
		f.offset++
		ev.Position.Offset = f.offset
		if f.frame != nil {
			ev.Message.Payload, ev.Borrowed = f.frame, true
		}
	}
	for events := f.events; len(events) > 0; events = events[f.together:] {
		if _, err := f.s.queue.offer(1, events[:f.together], &benchRead); err != nil {
			b.Fatal(err)
		}
	}
}

// No message may cost an allocation of its own on its way to the consumer, but for an owned
// payload, and a lent one that is handed over as a copy.
// Half a one leaves room for the race detector, which empties pools at random.
func TestDeliveryAllocates(t *testing.T) {
	one := func(s *Subscription, took func(int)) {
		for range s.Messages(t.Context()) {
			took(1)
		}
	}
	batch := func(s *Subscription, took func(int)) {
		for ms := range s.Batches(t.Context()) {
			took(len(ms))
		}
	}
	for name, tc := range map[string]struct {
		loop     func(s *Subscription, took func(int))
		frame    []byte
		lend     bool
		payloads int
	}{
		"Messages":            {loop: one},
		"Batches":             {loop: batch},
		"Batches, owned":      {loop: batch, frame: make([]byte, 512), payloads: benchBlock},
		"Batches, lent":       {loop: batch, frame: make([]byte, 512), lend: true},
		"Messages, not lent":  {loop: one, frame: make([]byte, 512), lend: true, payloads: benchBlock},
		"Batches, large ones": {loop: batch, frame: make([]byte, 5000), lend: true, payloads: benchBlock},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchFeedOf(SubscribeOptions{Delivery: Delivery{Overflow: DropOldest}, Lend: tc.lend}, benchBlock)
			f.frame = tc.frame
			s, loop := f.s, tc.loop
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
			if n < float64(tc.payloads) || n >= float64(tc.payloads)+benchBlock/2 {
				t.Errorf("%d messages through the delivery queue allocate %v times, want %d or a little more", benchBlock, n, tc.payloads)
			}
			f.offer(t)
			s.queue.discard(nil)
			if s.queue.lent != nil && s.queue.lent.Held() != 0 {
				t.Errorf("a queue that has ended keeps %d bytes of payloads", s.queue.lent.Held())
			}
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
		benchBatches(b, newBenchFeed(Delivery{Overflow: DropOldest}, together), benchBlock)
	})
	for _, lend := range []bool{false, true} {
		b.Run(map[bool]string{false: "Batches, owned", true: "Batches, lent"}[lend]+suffix, func(b *testing.B) {
			f := newBenchFeedOf(SubscribeOptions{Delivery: Delivery{Overflow: DropOldest}, Lend: lend}, together)
			f.frame = make([]byte, 64)
			benchBatches(b, f, benchBlock)
		})
	}
	for name, d := range map[string]Delivery{"Rate": {Rate: 1e9, Burst: 1 << 20}, "Every": {Every: time.Microsecond}} {
		b.Run(name+suffix, func(b *testing.B) {
			d.Overflow = DropOldest
			benchBatches(b, newBenchFeed(d, together), benchBlock)
		})
	}
	byKey := func(m Message) string { return benchKeys[m.Payload[0]] }
	b.Run("Latest, 64 keys"+suffix, func(b *testing.B) {
		benchBatches(b, newBenchFeed(Delivery{Overflow: Latest, Key: byKey}, together).withKeys(64), 64)
	})
	b.Run("Latest, 8 keys"+suffix, func(b *testing.B) {
		benchBatches(b, newBenchFeed(Delivery{Overflow: Latest, Key: byKey}, together).withKeys(8), 8)
	})
	b.Run("Messages"+suffix, func(b *testing.B) {
		f := newBenchFeed(Delivery{Overflow: DropOldest}, together)
		b.ReportAllocs()
		f.offer(b)
		n, got := 0, 0
		for _, err := range f.s.Messages(context.Background()) {
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
		f := newBenchFeed(Delivery{Overflow: DropOldest}, together)
		c := f.s.C()
		b.ReportAllocs()
		for range b.N {
			f.offer(b)
			for range benchBlock {
				<-c
			}
		}
		perMessage(b)
		f.s.queue.finish(nil, false)
		for range c {
		}
	})
}

// benchKeys are the keys of messages by the first byte of their payload.
var benchKeys [benchBlock]string

// withKeys gives the messages n keys in turn.
func (f *benchFeed) withKeys(n int) *benchFeed {
	for i := range f.events {
		benchKeys[i%n] = fmt.Sprint("instrument-", i%n)
		f.events[i].Message.Payload[0] = byte(i % n)
	}
	return f
}

// benchBatches takes blocks of messages, of which perBlock come out.
func benchBatches(b *testing.B, f *benchFeed, perBlock int) {
	b.ReportAllocs()
	f.offer(b)
	n, got := 0, 0
	for ms, err := range f.s.Batches(context.Background()) {
		if err != nil {
			b.Fatal(err)
		}
		if got += len(ms); got < perBlock {
			continue
		}
		got = 0
		if n++; n >= b.N {
			break
		}
		f.offer(b)
	}
	perMessage(b)
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

// BenchmarkMerge takes messages from several subscriptions in one loop. One operation is
// one message. Either each subscription has one in turn, or all are of one.
func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(strconv.Itoa(n)+" in turn", func(b *testing.B) { benchMerge(b, n, n) })
		b.Run("1 of "+strconv.Itoa(n), func(b *testing.B) { benchMerge(b, n, 1) })
	}
}

func benchMerge(b *testing.B, n, busy int) {
	feeds := make([]*benchFeed, n)
	subs := make([]*Subscription, n)
	for i := range feeds {
		f := newBenchFeed(Delivery{Overflow: DropOldest}, 1)
		f.events = f.events[:1]
		subs[i], feeds[i] = f.s, f
	}
	waiting, next := 0, 0
	offer := func() { // as many as one read may hold
		for ; waiting < benchBlock; waiting++ {
			feeds[next].offer(b)
			next = (next + 1) % busy
		}
	}
	offer()
	b.ReportAllocs()
	b.ResetTimer()
	done := 0
	for _, err := range Merge(context.Background(), subs...) {
		if err != nil {
			b.Fatal(err)
		}
		if done++; done >= b.N {
			break
		}
		if waiting--; waiting == 0 {
			offer()
		}
	}
}

// BenchmarkRoute is the way of messages from the decoder to the queues of their
// subscriptions. One operation is 64 messages, each of another subscription or all
// of one.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{1, 64, 20_000} {
		b.Run(strconv.Itoa(n)+" subscriptions", func(b *testing.B) { route(b, n) })
	}
}

func route(b *testing.B, n int) {
	c := &Client{}
	c.inbox.Init(func() {})
	traits := native.New(nil).Traits()
	reg := newRegistry(&traits, &c.routes)
	o := &SubscribeOptions{Delivery: Delivery{Buffer: 1, Bytes: 1 << 30, Overflow: DropNewest}}
	for range n {
		s := &Subscription{c: make(chan Message), client: c}
		s.queue = newQueue("bench", o, traits, testOwner{}, budget.New(1<<30))
		reg.add(s)
		s.queue.startConnection(1)
		confirm := wire.Event{Kind: wire.EventSubscribed, Continuity: wire.ContinuityProved, Position: Position{Epoch: "e"}}
		if _, err := s.queue.offer(1, []wire.Event{confirm}, &benchRead); err != nil {
			b.Fatal(err)
		}
	}
	r := &reader{conn: &conn{gen: 1}, routes: &c.routes, inbox: &c.inbox, counters: &c.counters}
	events := &wire.Events{List: make([]wire.Event, benchBlock)}
	for i := range events.List {
		events.List[i] = wire.Event{Kind: wire.EventData, Key: uint64(i*(n/benchBlock)%n) + 1, Numbered: true, Position: Position{Offset: 1}, Message: wire.Message{Payload: make([]byte, 64)}}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := r.route(events); err != nil {
			b.Fatal(err)
		}
	}
}
