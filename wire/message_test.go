package wire_test

import (
	"encoding/json"
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
