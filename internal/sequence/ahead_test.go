package sequence

import (
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// What waits for the connection before is bounded, in events and in bytes.
func TestAheadIsBounded(t *testing.T) {
	for name, tc := range map[string]struct{ most, bytes int }{
		"events": {maxAhead, 1},
		"bytes":  {16, maxAheadBytes / 16},
	} {
		var a Ahead
		ev := numbered(8, 9)
		ev.Message.Payload = make([]byte, tc.bytes)
		for range tc.most {
			if a.Add([]wire.Event{ev}, nil); a.Full() {
				t.Fatalf("%s: full with %d events", name, len(a.Events))
			}
		}
		if a.Add([]wire.Event{ev}, nil); !a.Full() {
			t.Errorf("%s: not full with %d events of %d bytes", name, len(a.Events), tc.bytes)
		}
	}
}

// The reader uses the memory of events and payloads again.
func TestAheadKeepsCopies(t *testing.T) {
	events := []wire.Event{numbered(8, 9)}
	events[0].Message.Payload, events[0].Borrowed = []byte("x"), true
	payload, keys := events[0].Message.Payload, []string{"k"}
	var a Ahead
	a.Add(events, keys)
	payload[0], events[0], keys[0] = 'y', unnumbered(), "l"
	if got := a.Events[0]; string(got.Message.Payload) != "x" || got.Position.Offset != 9 || a.Keys[0] != "k" {
		t.Errorf("%+v with key %q", got, a.Keys[0])
	}
}

func TestLeavesOut(t *testing.T) {
	other := withEpoch(numbered(6, 7), "f")
	for name, tc := range map[string]struct {
		receiver Receiver
		events   []wire.Event
		want     bool
	}{
		"nothing":                          {liveLossy, nil, true},
		"a confirmation":                   {liveLossy, []wire.Event{confirmed(wire.ContinuityByNumber, at("", 0, ""))}, true},
		"the next message":                 {liveLossy, []wire.Event{numbered(5, 6)}, false},
		"a message after the next one":     {liveLossy, []wire.Event{numbered(6, 7)}, true},
		"a confirmation, then the next":    {liveLossy, []wire.Event{confirmed(wire.ContinuityByNumber, at("", 0, "")), numbered(5, 6)}, false},
		"a message of another epoch":       {liveLossy, []wire.Event{other}, false},
		"a message without a number":       {liveLossy, []wire.Event{unnumbered()}, false},
		"a gap":                            {liveLossy, []wire.Event{gapOf(6, 7)}, false},
		"a message where holes are faults": {live, []wire.Event{numbered(6, 7)}, false},
	} {
		if got := tc.receiver.LeavesOut(tc.events); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
