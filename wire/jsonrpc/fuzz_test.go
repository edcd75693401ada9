package jsonrpc

import (
	"errors"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// FuzzDecode: whatever a server sends is a bounded number of events or ends the connection
// with a code, and no event keeps the frame.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"id":1,"result":"0x1"}`, head("0x1", 3, "a", "b"), `[{"id":2,"result":[1]},{"id":3,"error":{"code":1}}]`, `{"id":null,"error":{}}`,
		`{"method":"tick","params":[1]}`, `{"id":"x","method":"y"}`, `{"method":"s","params":{"subscription":1,"error":{}}}`, "\xff", `{"a":"\u0022\\"}`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		o := Ethereum()
		o.Locate = func(_ string, payload []byte) Place {
			return Place{Number: uint64(len(payload)), Numbered: true, ID: string(payload[:min(len(payload), 300)])}
		}
		p := open(t, o)
		p.op(subscribe(1, "newHeads"), publish(1, "a", ""), subscribe(2, "logs"), subscribe(3, "logs"))
		for _, text := range []string{first, second, first} {
			p.events.Reset()
			data := []byte(text)
			err := p.codec.Decode(wire.Frame{Type: wire.Text, Data: data}, &p.events)
			if ce := (*wire.CodeError)(nil); err != nil && (!errors.As(err, &ce) || ce.Code != 1002 && ce.Code != 1007) {
				t.Fatal(err)
			}
			if n := len(p.events.List); n > 2*maxElements+reasons+maxEarly {
				t.Fatalf("%d events", n)
			}
			before := show(p.events.List)
			clear(data)
			if after := show(p.events.List); after != before {
				t.Fatalf("an event keeps the frame: %s, %s", before, after)
			}
			for i := range p.events.List {
				if e := &p.events.List[i]; e.Kind == wire.EventStep {
					p.op(wire.Op{Kind: wire.OpStep, Step: e.Step})
				}
			}
		}
	})
}
