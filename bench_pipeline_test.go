package limpet

import (
	"context"
	"math"
	"testing"
	"time"

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
	s.queue = newQueue("bench", &o, wire.Traits{}, testOwner{})
	s.queue.startConnection(1)
	decode(native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: 1, Epoch: "e"}})
	s.queue.offer(1, events.List)
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
		if _, err := s.queue.offer(1, events.List); err != nil {
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
	c.gate.messages, c.gate.bytes = c.cfg.Window.Messages, c.cfg.Window.Bytes
	c.inbox.came.L = &c.inbox.mu
	l := &loop{c: c, window: newWindow(true, &c.gate, &c.counters), codec: codec, now: time.Now()}
	l.window.credit = wire.Credit{N: math.MaxUint64, Bytes: math.MaxUint64}
	frames, s := new(wire.Frames), new(say)
	var events []event
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		for n := 0; n < 512; {
			k, err := publish(c)
			if err != nil {
				b.Fatal(err)
			}
			n, done = n+k, done+k
		}
		c.ids.ExpireClock()
		events = c.inbox.take(events[:0])
		for _, e := range events {
			e.apply(l)
		}
		s.ops, s.messages = l.window.batch(s.ops, s.messages, l.now, batchBytes)
		through := l.encode(s.ops, frames)
		s.reset()
		frames.Reset()
		if err := l.window.ack(&wire.Ack{To: through}); err != nil || l.window.pending != 0 {
			b.Fatal(err, l.window.pending)
		}
	}
}
