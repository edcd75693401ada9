package feed

import (
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// Where an answer with the id of a request names topics of it, it is an answer for these
// alone: the others may be refused in another message with that id, or in none.
func TestAnswerForAPartOfARequest(t *testing.T) {
	table := Table{
		Name: "parts", Subscribe: Request{JSON: `{"id":"#id","sub":["$stream","..."]}`}, Unsubscribe: Request{JSON: `{"id":"#id","unsub":["$stream","..."]}`},
		ID: "id", Stream: "on", StreamName: "channel.product", Channels: []Channel{{Name: "trades"}},
		Confirm: Confirm{Type: "took=*", Streams: "took"},
		Error:   ErrorMessage{Type: "error=*", Text: "error", Channel: "of[0]", Product: "of[1]"},
	}
	ops := func(kind wire.OpKind) (ops []wire.Op) {
		for _, topic := range []string{"trades/A", "trades/B", "trades/C"} {
			ops = append(ops, wire.Op{Kind: kind, Topic: topic})
		}
		return ops
	}
	for _, row := range []struct {
		name  string
		talk  []string // an answer, and what it means
		kinds wire.OpKind
	}{
		{"a list of what was taken", []string{
			`{"id":1,"took":["trades.C","trades.A"]}`, "subscribed trades/A none\nsubscribed trades/C none",
			`{"id":1,"error":"no such market"}`, "unsubscribed trades/B refused no such market",
		}, wire.OpSubscribe},
		{"one answer for each", []string{
			`{"id":1,"took":"trades.B"}`, "subscribed trades/B none",
			`{"id":1,"error":"no","of":["trades","A"]}`, "unsubscribed trades/A refused no",
			`{"id":1,"took":"trades.C"}`, "subscribed trades/C none",
			`{"id":1,"took":"trades.C"}`, "subscribed trades/C none", // by its name
		}, wire.OpSubscribe},
		{"all but one", []string{
			`{"id":1,"error":"no","of":["trades","A"]}`, "unsubscribed trades/A refused no",
			`{"id":1,"took":true}`, "subscribed trades/B none\nsubscribed trades/C none",
		}, wire.OpSubscribe},
		{"nothing was taken", []string{`{"id":1,"took":[]}`, ""}, wire.OpSubscribe},
		{"no names", []string{`{"id":1,"took":true}`, "subscribed trades/A none\nsubscribed trades/B none\nsubscribed trades/C none"}, wire.OpSubscribe},
		{"other names", []string{`{"id":1,"took":["market A"]}`, "subscribed trades/A none\nsubscribed trades/B none\nsubscribed trades/C none"}, wire.OpSubscribe},
		{"the end", []string{
			`{"id":1,"took":["trades.B"]}`, "unsubscribed trades/B 0 ",
			`{"id":1,"took":["trades.A","trades.C"]}`, "unsubscribed trades/A 0 \nunsubscribed trades/C 0 ",
		}, wire.OpUnsubscribe},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := open(t, mustNew(t, table))
			if got := encode(t, c, ops(row.kinds)...); len(got) != 1 {
				t.Fatalf("sent %q", got)
			}
			for i := 0; i < len(row.talk); i += 2 {
				expect(t, c, row.talk[i], row.talk[i+1])
			}
		})
	}
}
