package wire_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

func TestPositionText(t *testing.T) {
	for _, p := range []wire.Position{
		{}, {Epoch: "e", Offset: 1, Tag: "t"}, {Offset: 1<<64 - 1}, {Epoch: "a.b", Tag: "\x00\xff.\n"},
	} {
		text, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var q wire.Position
		if err := q.UnmarshalText(text); err != nil || q != p {
			t.Errorf("%+v became %s became %+v, %v", p, text, q, err)
		}
	}
	for _, bad := range []string{"", "..", "a.b.c", "YQ.1", "YQ.-1.YQ", "YQ.18446744073709551616.YQ", "=.1.YQ", "YQ.1.YQ.YQ"} {
		var p wire.Position
		if err := p.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, p)
		}
	}
	js, err := json.Marshal(map[wire.Position]int{{Epoch: "e", Offset: 7}: 1})
	if err != nil || string(js) != `{"ZQ.7.":1}` {
		t.Errorf("as a key of a JSON object: %s, %v", js, err)
	}
}

func TestEvents(t *testing.T) {
	var e wire.Events
	full := func(kind wire.EventKind) {
		t.Helper()
		ev := e.Append(kind)
		if want := (wire.Event{Kind: kind}); !reflect.DeepEqual(*ev, want) {
			t.Errorf("not empty: %+v", *ev)
		}
		ev.Key, ev.Name, ev.N, ev.Reason = 7, "name", 8, "reason"
	}
	for range 3 {
		for range 5 {
			full(wire.EventData)
		}
		e.List = e.List[:2] // cut by its owner
		full(wire.EventPing)
		full(wire.EventPong)
		if len(e.List) != 4 || e.List[1].Kind != wire.EventData || e.List[2].N != 8 || e.List[3].Kind != wire.EventPong {
			t.Errorf("%+v", e.List)
		}
		e.Reset()
		for _, ev := range e.List[:cap(e.List)] {
			if !reflect.DeepEqual(ev, wire.Event{}) {
				t.Errorf("Reset keeps %+v", ev)
			}
		}
		e.List = append(e.List, wire.Event{Key: 9}) // added by its owner
		e.Reset()
	}
}
