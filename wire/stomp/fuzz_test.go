package stomp

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// FuzzDecode: Decode does not panic, its events are bounded, and none keeps a reference to
// the frame. In pieces the stream means the same.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		connected, "MESSAGE|subscription:1|destination:/q|ack:T1||x$", "MESSAGE|subscription:1|k:\\t|ack:T||x$", "RECEIPT|receipt-id:1||$",
		"ERROR|message:a||'/q' is not a valid destination$", "MESSAGE|content-length:3||a$b$|", "||$$",
	} {
		f.Add(frameOf(text).Data, 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		const limit = 1 << 12
		c := open(t, Options{Passcode: "p"}, wire.Resume{ReadLimit: limit})
		if err := c.Decode(frameOf(connected), new(wire.Events)); err != nil {
			t.Fatal(err)
		}
		encoded(t, c, subscribeOp(1, "/q"), publishOp(1, wire.Message{Topic: "/q"}))
		pieces, whole := c, open(t, Options{Passcode: "p"}, wire.Resume{ReadLimit: limit})
		_ = whole.Decode(frameOf(connected), new(wire.Events))
		encoded(t, whole, subscribeOp(1, "/q"), publishOp(1, wire.Message{Topic: "/q"}))

		var events, again wire.Events
		lent := bytes.Clone(data)
		err := whole.Decode(wire.Frame{Type: wire.Binary, Data: lent}, &events)
		before := show(events.List)
		clear(lent)
		if show(events.List) != before {
			t.Fatal("an event keeps a reference to the frame")
		}
		if len(events.List) > 3*len(data)+1 {
			t.Fatalf("%d events of %d bytes", len(events.List), len(data))
		}
		if n := len(whole.(*codec).buf); n > limit+maxHead {
			t.Fatalf("%d bytes are kept", n)
		}
		if at = min(max(at, 0), len(data)); err != nil {
			return
		}
		err1 := pieces.Decode(wire.Frame{Type: wire.Binary, Data: data[:at]}, &again)
		err2 := pieces.Decode(wire.Frame{Type: wire.Binary, Data: data[at:]}, &again)
		if err1 != nil || err2 != nil || !reflect.DeepEqual(withoutPongs(events.List), withoutPongs(again.List)) {
			t.Fatalf("in pieces: %v, %v\n%s\nwhole:\n%s", err1, err2, show(again.List), before)
		}
	})
}

// withoutPongs returns what a stream means, however it came: without heartbeats, and with
// one event for malformed frames in a row.
func withoutPongs(events []wire.Event) (rest []wire.Event) {
	for _, e := range events {
		n := len(rest)
		switch {
		case e.Kind == wire.EventPong:
		case n > 0 && e.Kind == wire.EventMalformed && rest[n-1].Kind == e.Kind && rest[n-1].Reason == e.Reason:
			rest[n-1].Count += e.Count
		default:
			rest = append(rest, e)
		}
	}
	return rest
}
