package native

import (
	"fmt"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// envelope is a downlink message of 194 bytes in JSON.
var envelope = Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 1048577, P: 1048576, HasP: true, ID: testID, Topic: "md/btc-eur",
	Payload: []byte(`{"px":"61234.5","qty":0.25,"side":"buy","ts":1753776000123,"id":91234,"seq":12345678}`)}}

func TestEnvelopeSize(t *testing.T) {
	data, err := Append(nil, JSON, []Frame{envelope})
	if err != nil || len(data) != 194 {
		t.Errorf("%d bytes, %v: %s", len(data), err, data)
	}
}

func TestAllocations(t *testing.T) {
	frames := []Frame{envelope}
	for _, enc := range encodings {
		data, err := Append(nil, enc, frames)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 0, 1024)
		if n := testing.AllocsPerRun(100, func() { buf, _ = Append(buf[:0], enc, frames) }); n != 0 {
			t.Errorf("encoding %d: Append allocates %v times", enc, n)
		}
		if n := testing.AllocsPerRun(100, func() { Size(enc, &frames[0]) }); n != 0 {
			t.Errorf("encoding %d: Size allocates %v times", enc, n)
		}
		dst := make([]Frame, 0, 1)
		// The payload and the topic.
		if n := testing.AllocsPerRun(100, func() { dst, _ = Decode(dst[:0], enc, FromServer, data, DefaultLimits) }); n > 2 {
			t.Errorf("encoding %d: Decode allocates %v times", enc, n)
		}
		c, out := welcomed(t, enc), new(wire.Events)
		// And the tag of the position.
		if n := testing.AllocsPerRun(100, func() {
			out.Reset()
			_ = c.Decode(wire.Frame{Type: enc.FrameType(), Data: data}, out)
		}); n > 3 {
			t.Errorf("encoding %d: a message event allocates %v times", enc, n)
		}
		ops := make([]wire.Op, 64)
		for i := range ops {
			ops[i] = wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: uint64(i), Topic: "a", Payload: envelope.Msg.Payload}}
		}
		sent := new(wire.Frames)
		// The message itself.
		if n := testing.AllocsPerRun(100, func() {
			sent.Reset()
			_ = c.Encode(ops, sent)
		}); n > 1 {
			t.Errorf("encoding %d: Encode of 64 messages allocates %v times", enc, n)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, enc := range encodings {
		b.Run(Subprotocol(enc), func(b *testing.B) {
			frames, buf := []Frame{envelope}, make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = Append(buf[:0], enc, frames)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, enc := range encodings {
		for _, n := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", Subprotocol(enc), n), func(b *testing.B) {
				frames := make([]Frame, n)
				for i := range frames {
					frames[i] = envelope
				}
				data, err := Append(nil, enc, frames)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if frames, err = Decode(frames[:0], enc, FromServer, data, DefaultLimits); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(n), "messages/op")
			})
		}
	}
}

// BenchmarkEvents measures the client's way from bytes to events, for a message
// with 64 bytes of payload and as few fields as possible.
func BenchmarkEvents(b *testing.B) {
	least := Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 1048577, P: 1048576, HasP: true, ID: testID, Payload: envelope.Msg.Payload[:64]}}
	for _, enc := range encodings {
		for _, n := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", Subprotocol(enc), n), func(b *testing.B) {
				frames := make([]Frame, n)
				for i := range frames {
					frames[i] = least
				}
				data, err := Append(nil, enc, frames)
				if err != nil {
					b.Fatal(err)
				}
				c, out := welcomed(b, enc), new(wire.Events)
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					out.Reset()
					if err := c.Decode(wire.Frame{Type: enc.FrameType(), Data: data}, out); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(n), "messages/op")
			})
		}
	}
}
