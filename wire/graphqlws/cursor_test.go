package graphqlws

import (
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// TestCursor: what the first results on a connection prove.
func TestCursor(t *testing.T) {
	const next = `{"id":"5","type":"next","payload":`
	const refusal = `[{"message":"gone","extensions":{"code":"OLD"}}]`
	at := wire.Position{Tag: `"c1"`}
	for _, row := range []struct {
		name, topic string
		from        wire.Position
		texts, want string
	}{
		{"a number", "ticks", wire.Position{}, next + `{"data":{"ticks":{"seq":18446744073709551615}}}}`, `data key 1 #18446744073709551615 {"data":{"ticks":{"seq":18446744073709551615}}}`},
		{"a number in a string", "ticks", wire.Position{}, next + `{"data":{"ticks":{"seq":"7"}}}}`, `data key 1 #7 cursor "7" {"data":{"ticks":{"seq":"7"}}}`},
		{"no whole number", "ticks", wire.Position{}, next + `{"data":{"ticks":{"seq":7.5}}}}`, `data key 1 {"data":{"ticks":{"seq":7.5}}}`},
		{"a number that is too big", "ticks", wire.Position{}, next + `{"data":{"ticks":{"seq":18446744073709551616}}}}`, `data key 1 {"data":{"ticks":{"seq":18446744073709551616}}}`},
		{"no number", "ticks", wire.Position{}, next + `{"data":{"ticks":null}}}`, `data key 1 {"data":{"ticks":null}}`},
		{"a list on the path", "ticks", wire.Position{}, next + `{"data":{"ticks":[]}}}`, `data key 1 {"data":{"ticks":[]}}`},
		{"a number after a reconnect", "ticks", wire.Position{Offset: 3}, next + `{"data":{"ticks":{"seq":9}}}}`, `data key 1 #9 {"data":{"ticks":{"seq":9}}}`},
		{"an exact cursor", "exact", at, next + `{"data":{"e":"c2"}}}` + "\n" + next + `{"data":{"e":"c3"}}}`,
			"subscribed key 1 cursor \"c1\" continuity 2\ndata key 1 cursor \"c2\" {\"data\":{\"e\":\"c2\"}}\ndata key 1 cursor \"c3\" {\"data\":{\"e\":\"c3\"}}"},
		{"an exact cursor, and a result of errors", "exact", at, next + `{"data":null,"errors":[{"message":"no"}]}}` + "\n" + next + `{"data":{"e":"c3"}}}`,
			"data key 1 {\"data\":null,\"errors\":[{\"message\":\"no\"}]}\ndata key 1 cursor \"c3\" {\"data\":{\"e\":\"c3\"}}"},
		{"an exact cursor at first", "exact", wire.Position{}, next + `{"data":{"e":"c2"}}}`, `data key 1 cursor "c2" {"data":{"e":"c2"}}`},
		{"an inclusive cursor", "inclusive", at, next + `{"data":{"e":"c1"}}}` + "\n" + next + `{"data":{"e":"c1"}}}`,
			"subscribed key 1 cursor \"c1\" continuity 2\ndata key 1 cursor \"c1\" {\"data\":{\"e\":\"c1\"}}"},
		{"an inclusive cursor that is not repeated", "inclusive", at, next + `{"data":{"e":"c2"}}}`, `data key 1 cursor "c2" {"data":{"e":"c2"}}`},
		{"a cursor that is too long", "exact", wire.Position{}, next + `{"data":{"e":"` + strings.Repeat("c", maxCursor) + `"}}}`, `data key 1 {"data":{"e":"` + strings.Repeat("c", maxCursor) + `"}}`},
		{"a refused cursor", "exact", at, `{"id":"5","type":"error","payload":` + refusal + `}`, "step {1}"},
		{"a refused cursor, as graphql-ws refuses it", "exact", at, next + `{"errors":` + refusal + `}}` + "\n" + `{"id":"5","type":"complete"}`, "step {1}\n"},
		{"a refused number, then one from the new start", "ticks", wire.Position{Offset: 3},
			`{"id":"5","type":"error","payload":` + refusal + "}\n" + `{"id":"5-2","type":"next","payload":{"data":{"ticks":{"seq":9}}}}`,
			"step {1}\nreset key 1 to 8 expired\ndata key 1 #9 {\"data\":{\"ticks\":{\"seq\":9}}}"},
		{"refused again", "exact", at, `{"id":"5","type":"error","payload":` + refusal + "}\n" + `{"id":"5-2","type":"error","payload":` + refusal + "}", "step {1}\nunsubscribed key 1 code 400 gone (OLD)"},
		{"refused for another reason", "exact", at, `{"id":"5","type":"error","payload":[{"message":"no"}]}`, "unsubscribed key 1 code 400 no"},
		{"refused without a cursor", "exact", wire.Position{}, `{"id":"5","type":"error","payload":` + refusal + "}", "unsubscribed key 1 code 400 gone (OLD)"},
		{"refused after a result", "exact", at, next + `{"data":{"e":"c2"}}}` + "\n" + `{"id":"5","type":"error","payload":` + refusal + "}",
			"subscribed key 1 cursor \"c1\" continuity 2\ndata key 1 cursor \"c2\" {\"data\":{\"e\":\"c2\"}}\nunsubscribed key 1 code 400 gone (OLD)"},
		{"errors alone, then the end", "plain", wire.Position{}, next + `{"data":null,"errors":[{"message":"no"}]}}` + "\n" + `{"id":"5","type":"complete"}`,
			"data key 1 {\"data\":null,\"errors\":[{\"message\":\"no\"}]}\nunsubscribed key 1 code 400 no"},
		{"errors beside data, then the end", "plain", wire.Position{}, next + `{"data":{"e":1},"errors":[{"message":"no"}]}}` + "\n" + `{"id":"5","type":"complete"}`,
			"data key 1 {\"data\":{\"e\":1},\"errors\":[{\"message\":\"no\"}]}\nunsubscribed key 1 code 0"},
		{"errors alone, then data and the end", "plain", wire.Position{}, next + `{"data":null,"errors":[{"message":"no"}]}}` + "\n" + next + `{"data":1}}` + "\n" + `{"id":"5","type":"complete"}`,
			"data key 1 {\"data\":null,\"errors\":[{\"message\":\"no\"}]}\ndata key 1 {\"data\":1}\nunsubscribed key 1 code 0"},
	} {
		c := ready(t, sample)
		encode(t, c, subscribeOp(1, row.topic, row.from))
		var got []string
		for _, text := range strings.Split(row.texts, "\n") {
			heard := decode(t, c, text)
			if heard == "step {1}" && !strings.Contains(encode(t, c, wire.Op{Kind: wire.OpStep, Step: retry{1}}), `"id":"5-2"`) {
				t.Errorf("%s: not requested again", row.name)
			}
			got = append(got, heard)
		}
		if text := strings.Join(got, "\n"); text != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.name, text, row.want)
		}
	}
}

// TestCursorRead: a cursor by a function, which may return anything.
func TestCursorRead(t *testing.T) {
	for token, want := range map[string]string{`"z"`: ` cursor "z"`, "": "", "null": "", `"z`: "", "\"\xff\"": ""} {
		o := Options{Operations: map[string]Operation{"list": {Query: "subscription { list }", Cursor: &Cursor{
			Variable: "after", Exact: true, Read: func(result []byte) []byte { return []byte(token) },
		}}}}
		c := ready(t, o)
		encode(t, c, subscribeOp(1, "list", wire.Position{}))
		if got := decode(t, c, `{"id":"5","type":"next","payload":{"data":1}}`); got != "data key 1"+want+` {"data":1}` {
			t.Errorf("%q: %s", token, got)
		}
	}
}

// TestNothingToClose: what the server has ended is not ended again.
func TestNothingToClose(t *testing.T) {
	for _, end := range []string{`{"id":"5","type":"complete"}`, `{"id":"5","type":"error","payload":[{"message":"no"}]}`} {
		c := ready(t, sample)
		encode(t, c, subscribeOp(1, "plain", wire.Position{}))
		if got := decode(t, c, end); !strings.HasPrefix(got, "unsubscribed key 1") {
			t.Fatal(got)
		}
		if got := encode(t, c, wire.Op{Kind: wire.OpUnsubscribe, Key: 1}); got != "" {
			t.Errorf("after %s: %s", end, got)
		}
	}
}

// TestClosedInTheMeantime: a subscription that was closed after its cursor was refused
// is not requested again, and one that was requested again is closed under its new id.
func TestClosedInTheMeantime(t *testing.T) {
	refusal := `{"id":"5","type":"error","payload":[{"message":"gone","extensions":{"code":"OLD"}}]}`
	step, leave := wire.Op{Kind: wire.OpStep, Step: retry{1}}, wire.Op{Kind: wire.OpUnsubscribe, Key: 1}
	for _, row := range []struct {
		ops  []wire.Op
		want string
	}{
		{[]wire.Op{leave, step}, `{"id":"5","type":"complete"}`},
		{[]wire.Op{step, leave}, `{"id":"5-2","type":"subscribe","payload":{"query":"subscription { e }"}}` + "\n" + `{"id":"5-2","type":"complete"}`},
	} {
		c := ready(t, sample)
		encode(t, c, subscribeOp(1, "exact", wire.Position{Tag: `"c"`}))
		if got := decode(t, c, refusal); got != "step {1}" {
			t.Fatal(got)
		}
		if got := encode(t, c, row.ops...); got != row.want {
			t.Errorf("got %s\nwant %s", got, row.want)
		}
	}
}
