package graphqlws

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// FuzzDecode: a server may send anything. Nothing panics, events are few, only this
// client's codes close the connection, and what was decoded has its own memory.
func FuzzDecode(f *testing.F) {
	golden, err := os.ReadFile("testdata/graphql-ws.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range strings.Split(string(golden), "\n") {
		if text, ok := strings.CutPrefix(line, "< "); ok {
			f.Add([]byte(text), true)
		}
	}
	f.Add([]byte(`{"type":"ping","payload":{"n":1}}`), true)
	f.Add([]byte(`{"id":"9-2","type":"next","payload":{"data":{"events":{"cursor":"c9"}}}}`), true)
	f.Add([]byte(strings.Repeat(`{"payload":`, 50)), true)
	f.Add([]byte{0xff}, false)
	d := New(Options{Operations: recorded, OnAck: func([]byte) error { return nil }})
	f.Fuzz(func(t *testing.T, data []byte, text bool) {
		c, err := d.Open(wire.Resume{Subprotocol: Subprotocol})
		if err != nil {
			t.Fatal(err)
		}
		encode(t, c, subscribeOp(1, "ticks", wire.Position{Offset: 4}), subscribeOp(2, "events", wire.Position{Tag: `"c4"`}),
			subscribeOp(3, "from", wire.Position{Tag: `"c4"`}), publishOp(1, "publish", ""))
		frame := wire.Frame{Type: wire.Binary, Data: bytes.Clone(data)}
		if text {
			frame.Type = wire.Text
		}
		for range 2 { // the second may come too late
			var events wire.Events
			if err := c.Decode(frame, &events); err != nil {
				if err != error(errText) && err != error(errAck) || len(events.List) != 0 {
					t.Fatalf("%v, %d events", err, len(events.List))
				}
				continue
			}
			if len(events.List) > 2 {
				t.Fatalf("%d events", len(events.List))
			}
			var before []string
			for i := range events.List {
				before = append(before, show(&events.List[i]))
				if step := events.List[i].Step; events.List[i].Kind == wire.EventStep {
					encode(t, c, wire.Op{Kind: wire.OpStep, Step: step})
				}
			}
			clear(frame.Data)
			for i := range events.List {
				if after := show(&events.List[i]); after != before[i] {
					t.Fatalf("%s became %s", before[i], after)
				}
			}
			frame.Data = bytes.Clone(data)
		}
	})
}

// FuzzDocument: a topic may be anything, and what is accepted can be requested.
func FuzzDocument(f *testing.F) {
	for _, topic := range []string{"subscription { a }", `ticks:{"after":1}`, "mutation m($a: In = {b: [1]}) { a }", `query { a(b: """x""") }`, "# c\n{ a }"} {
		f.Add(topic)
	}
	d := New(sample)
	f.Fuzz(func(t *testing.T, topic string) {
		c, err := d.Open(wire.Resume{Subprotocol: Subprotocol})
		if err != nil {
			t.Fatal(err)
		}
		asked, published := d.CheckTopic(wire.UseSubscribe, topic), d.CheckTopic(wire.UsePublish, topic)
		if asked == nil && published == nil {
			t.Fatal("both subscribed and published to")
		}
		for _, row := range []struct {
			refused error
			op      wire.Op
		}{{asked, subscribeOp(1, topic, wire.Position{Offset: 1})}, {published, publishOp(1, topic, `{"x":1}`)}} {
			var frames wire.Frames
			err := c.Encode([]wire.Op{row.op}, &frames)
			if (err == nil) != (row.refused == nil) {
				t.Fatalf("checked: %v, encoded: %v", row.refused, err)
			}
			if err == nil && !isObject(frames.List[0].Data) {
				t.Fatalf("no JSON: %s", frames.List[0].Data)
			}
		}
	})
}
