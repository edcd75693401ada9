package graphqlws

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// sample are the operations of the tests.
var sample = Options{Operations: map[string]Operation{
	"ticks": {
		Query:     "subscription($s: ID, $after: Int) { ticks(s: $s, after: $after) { seq } }",
		Variables: map[string]any{"s": "A"},
		Cursor:    &Cursor{Variable: "after", Path: "ticks.seq", Number: true, Expired: []string{"OLD"}},
	},
	"exact":     {Query: "subscription { e }", Cursor: &Cursor{Variable: "at", Path: "e", Exact: true, Expired: []string{"OLD"}}},
	"inclusive": {Query: "subscription { e }", Cursor: &Cursor{Variable: "at", Path: "e", Inclusive: true}},
	"plain":     {Query: "subscription { e }"},
	"buy":       {Query: "mutation($px: Float) { buy(px: $px) }", Variables: map[string]any{"px": 1}},
	"two":       {Query: "mutation a { a } mutation b { b }", Name: "b"},
}}

// ready returns the codec of a connection that is ready.
func ready(t testing.TB, o Options) wire.Codec {
	t.Helper()
	c := open(t, o, wire.Resume{})
	if err := c.Start(new(wire.Frames)); err != nil {
		t.Fatal(err)
	}
	if got := decode(t, c, `{"type":"connection_ack"}`); got != "ready" {
		t.Fatal(got)
	}
	return c
}

// TestStart: the payload of connection_init.
func TestStart(t *testing.T) {
	from := func(payload string, err error) func(wire.Resume) ([]byte, error) {
		return func(r wire.Resume) ([]byte, error) { return []byte(strings.ReplaceAll(payload, "$", r.Token)), err }
	}
	failure := errors.New("no token yet")
	for _, row := range []struct {
		o     Options
		token string
		want  string
		err   error
	}{
		{Options{}, "", `{"type":"connection_init"}`, nil},
		{Options{}, `a"<b`, `{"type":"connection_init","payload":{"token":"a\"<b"}}`, nil},
		{Options{Token: "authToken"}, "t", `{"type":"connection_init","payload":{"authToken":"t"}}`, nil},
		{Options{Init: from(`{"headers":{"Authorization":"Bearer $"}}`, nil)}, "t", `{"type":"connection_init","payload":{"headers":{"Authorization":"Bearer t"}}}`, nil},
		{Options{Init: from("", nil)}, "t", `{"type":"connection_init"}`, nil},
		{Options{Init: from("[]", nil)}, "t", "", errInit},
		{Options{Init: from(`{"a":`, nil)}, "t", "", errInit},
		{Options{Init: from("{\"a\":\"\xff\"}", nil)}, "t", "", errInit},
		{Options{Init: from("", failure)}, "t", "", failure},
	} {
		c := open(t, row.o, wire.Resume{Token: row.token})
		var frames wire.Frames
		err := c.Start(&frames)
		if got := sent(&frames); got != row.want || !errors.Is(err, row.err) {
			t.Errorf("%+v: %s, %v", row.o, got, err)
		}
		if left := c.(*codec).resume.Token; left != "" {
			t.Errorf("the token is kept: %s", left)
		}
	}
}

// TestEncode: what each op is written as, and what cannot be written.
func TestEncode(t *testing.T) {
	const ticks = `"payload":{"query":"subscription($s: ID, $after: Int) { ticks(s: $s, after: $after) { seq } }","variables":`
	const buy = `"payload":{"query":"mutation($px: Float) { buy(px: $px) }","variables":`
	const big = `{"n":9007199254740993, "n":1}`
	header := publishOp(1, "buy", "")
	header.Message.Header = map[string]string{"k": "v"}
	token := subscribeOp(1, "plain", wire.Position{})
	token.Subscribe.Token = "t"
	first := subscribeOp(1, "ticks", wire.Position{})
	first.Subscribe.From = wire.FromFirst
	c := ready(t, sample) // one connection
	for _, row := range []struct {
		op   wire.Op
		want string // or the beginning of an error
	}{
		{subscribeOp(1, "plain", wire.Position{}), `{"id":"5","type":"subscribe","payload":{"query":"subscription { e }"}}`},
		{subscribeOp(2, "plain:"+big, wire.Position{}), `{"id":"9","type":"subscribe","payload":{"query":"subscription { e }","variables":` + big + `}}`},
		{subscribeOp(3, "plain", wire.Position{Tag: `"c"`}), `{"id":"13","type":"subscribe","payload":{"query":"subscription { e }"}}`},
		{subscribeOp(4, "ticks", wire.Position{}), `{"id":"17","type":"subscribe",` + ticks + `{"s":"A"}}}`},
		{subscribeOp(4, `ticks:{"s":"B"}`, wire.Position{}), `{"id":"17","type":"subscribe",` + ticks + `{"s":"B"}}}`},
		{subscribeOp(4, `ticks:{"after":3,"x":9007199254740993}`, wire.Position{Offset: 18446744073709551615}), `{"id":"17","type":"subscribe",` + ticks + `{"after":18446744073709551615,"s":"A","x":9007199254740993}}}`},
		{subscribeOp(4, "ticks", wire.Position{Offset: 7, Tag: `"7"`}), `{"id":"17","type":"subscribe",` + ticks + `{"after":"7","s":"A"}}}`},
		{subscribeOp(4, "ticks", wire.Position{Offset: 7, Tag: `"7`}), `{"id":"17","type":"subscribe",` + ticks + `{"s":"A"}}}`}, // not of this dialect
		{subscribeOp(4, "ticks", wire.Position{Offset: 7, Tag: "\"\xff\""}), `{"id":"17","type":"subscribe",` + ticks + `{"s":"A"}}}`},
		{subscribeOp(5, "exact", wire.Position{Tag: `"c"`}), `{"id":"21","type":"subscribe","payload":{"query":"subscription { e }","variables":{"at":"c"}}}`},
		{subscribeOp(6, "{ a < \"é\n\" }", wire.Position{}), "graphqlws: topic "},
		{subscribeOp(6, "{ a(b: \"<é\") }", wire.Position{}), `{"id":"25","type":"subscribe","payload":{"query":"{ a(b: \"<é\") }"}}`},
		{publishOp(1, "buy", ""), `{"id":"7","type":"subscribe",` + buy + `{"px":1}}}`},
		{publishOp(2, "buy", `{"px":2.50}`), `{"id":"11","type":"subscribe",` + buy + `{"px":2.50}}}`},
		{publishOp(2, `buy:{"px":2}`, `{"n":1}`), `{"id":"11","type":"subscribe",` + buy + `{"n":1,"px":2}}}`},
		{publishOp(3, "two", big), `{"id":"15","type":"subscribe","payload":{"operationName":"b","query":"mutation a { a } mutation b { b }","variables":` + big + `}}`},
		{publishOp(4, "mutation{a}", ""), `{"id":"19","type":"subscribe","payload":{"query":"mutation{a}"}}`},
		{wire.Op{Kind: wire.OpPing, N: 3}, `{"type":"ping"}`},
		{wire.Op{Kind: wire.OpPong}, `{"type":"pong"}`},
		{wire.Op{Kind: wire.OpPong, Step: []byte(`{"n":1}`)}, `{"type":"pong","payload":{"n":1}}`},
		{wire.Op{Kind: wire.OpUnsubscribe, Key: 1}, `{"id":"5","type":"complete"}`},
		{wire.Op{Kind: wire.OpUnsubscribe, Key: 1}, ""}, // it has ended
		{wire.Op{Kind: wire.OpStep, Step: retry{1}}, ""},
		{wire.Op{Kind: wire.OpAuth, Token: "t"}, ""},
		{wire.Op{Kind: wire.OpBye}, ""},
		{publishOp(5, "buy", "[]"), errVariables.Error()},
		{publishOp(5, "buy", `{"px":}`), errVariables.Error()},
		{publishOp(5, "buy", "{\"px\":\"\xff\"}"), errVariables.Error()},
		{publishOp(5, "ticks", ""), "graphqlws: topic \"ticks\" is a subscription"},
		{header, errHeader.Error()},
		{token, errToken.Error()},
		{first, errFrom.Error()},
		{wire.Op{Kind: wire.OpCredit}, errOp.Error()},
		{wire.Op{Kind: wire.OpSubscribe}, errOp.Error()},
		{wire.Op{Kind: wire.OpPublish}, errOp.Error()},
		{wire.Op{Kind: wire.OpStep, Step: 1}, errOp.Error()},
	} {
		if row.op.Kind == wire.OpSubscribe && row.op.Subscribe != nil {
			row.op.Subscribe.Key = row.op.Key
		}
		var frames wire.Frames
		err := c.Encode([]wire.Op{row.op}, &frames)
		got := sent(&frames)
		if err != nil {
			got = errors.Unwrap(err).Error()
		}
		if got != row.want && (err == nil || !strings.HasPrefix(got, row.want)) {
			t.Errorf("op %d %s:\n got %s\nwant %s", row.op.Kind, row.op.Topic, got, row.want)
		}
		if asked := row.op.Kind == wire.OpSubscribe && err == nil; asked != (len(frames.Confirmed) == 1) {
			t.Errorf("%s: confirmed %v", row.want, frames.Confirmed)
		}
	}
}

// TestEncodeStopsAtTheOp: the index of what cannot be encoded, with the ops before it.
func TestEncodeStopsAtTheOp(t *testing.T) {
	var frames wire.Frames
	err := ready(t, sample).Encode([]wire.Op{publishOp(1, "buy", ""), publishOp(2, "buy", "x"), publishOp(3, "buy", "")}, &frames)
	var oe *wire.OpError
	if !errors.As(err, &oe) || oe.Index != 1 || len(frames.List) != 1 || !strings.Contains(sent(&frames), `"id":"7"`) {
		t.Errorf("%v, %s", err, sent(&frames))
	}
}

// TestDecode: what the messages of a server mean, one connection after the other.
func TestDecode(t *testing.T) {
	deep := strings.Repeat("[", 20_000)
	for _, row := range []struct{ text, want string }{
		{`{"type":"ping"}`, "ping %!s(<nil>)"},
		{`{"type":"ping","payload":{"n": 9007199254740993}}`, `ping {"n": 9007199254740993}`},
		{`{"type":"ping","payload":3}`, "ping %!s(<nil>)"},
		{`{"type":"ping","payload":{"n":"` + strings.Repeat("x", maxEcho) + `"}}`, "ping %!s(<nil>)"},
		{`{"type":"pong","payload":null}`, "pong"},
		{`{"type":"connection_ack"}`, "error second connection_ack on one connection (close code 4400)"},
		{`{"id":"5","type":"next","payload":{"data": {"e":9007199254740993 }}}`, `data key 1 {"data": {"e":9007199254740993 }}`},
		{`{"id":"5","type":"next","payload":{"data":null,"errors":[{"message":"m"}]}}`, `data key 1 {"data":null,"errors":[{"message":"m"}]}`},
		{` {"type":"next","id":"5","payload":{"data":1},"x":[{}]} `, `data key 1 {"data":1}`},
		{`{"id":"5","type":"next","payload":[]}`, "malformed: " + badResult + "\ngap key 1 malformed"},
		{`{"id":"5","type":"next"}`, "malformed: " + badResult + "\ngap key 1 malformed"},
		{`{"id":"401","type":"next","payload":{"data":1}}`, `data key 100 {"data":1}`}, // the client counts it
		{`{"id":"401","type":"next","payload":1}`, "malformed: " + badResult},
		{`{"id":"5-2","type":"next","payload":{"data":1}}`, "malformed: " + badID},
		{`{"id":"7","type":"next","payload":{"data":1}}`, ""}, // an answer to nothing
		{`{"id":"7","type":"complete"}`, ""},
		{`{"id":"1","type":"next","payload":{"data":1}}`, "malformed: " + badID},
		{`{"id":"0","type":"next","payload":{"data":1}}`, "malformed: " + badID},
		{`{"id":"6","type":"next","payload":{"data":1}}`, "malformed: " + badID},
		{`{"id":"-5","type":"next","payload":{"data":1}}`, "malformed: " + badID},
		{`{"id":"99999999999999999999","type":"complete"}`, "malformed: " + badID},
		{`{"id":"x","type":"error","payload":[]}`, "malformed: " + badID},
		{`{"type":"next","payload":{"data":1}}`, "malformed: " + badID},
		{`{"id":5,"type":"next","payload":{"data":1}}`, "malformed: " + badFrame},
		{`{"type":"ka"}`, "malformed: " + badType}, // of the older protocol
		{`{"id":"5","type":"data","payload":{"data":1}}`, "malformed: " + badType},
		{`{"id":"5","type":"subscribe","payload":{}}`, "malformed: " + badType},
		{`{"id":"5"}`, "malformed: " + badFrame},
		{`{}`, "malformed: " + badFrame},
		{`[]`, "malformed: " + badFrame},
		{`null`, "malformed: " + badFrame},
		{``, "malformed: " + badFrame},
		{`{"type":"pong"} {"type":"pong"}`, "malformed: " + badFrame},
		{`{"type":"ka","type":"pong"}`, "pong"}, // of two members with one name the last counts
		{`{"id":"5","type":"next","payload":` + deep, "malformed: " + badFrame},
		{`{"id":"5","type":"next","payload":{"data":` + deep + strings.Repeat("]", 20_000) + `}}`, "malformed: " + badFrame},
		{"{\"type\":\"pong\xff\"}", "error text message is not UTF-8 (close code 1007)"},
		{`{"id":"5","type":"error","payload":[{"message":"no","extensions":{"code":"UNAUTHENTICATED"}},{"message":"x"}]}`, "unsubscribed key 1 code 401 no (UNAUTHENTICATED)"},
		{`{"id":"5","type":"error","payload":[{"message":"no","extensions":{"code":7}}]}`, "unsubscribed key 1 code 400 no"},
		{`{"id":"5","type":"error","payload":[{"message":"` + strings.Repeat("é", 200) + `"}]}`, "unsubscribed key 1 code 400 " + strings.Repeat("é", 127)},
		{`{"id":"5","type":"error","payload":[]}`, "unsubscribed key 1 code 400 the server gives no reason"},
		{`{"id":"5","type":"error","payload":{"message":"no"}}`, "unsubscribed key 1 code 400 the server gives no reason"},
		{`{"id":"5","type":"error"}`, "unsubscribed key 1 code 400 the server gives no reason"},
		{`{"id":"5","type":"complete"}`, "unsubscribed key 1 code 0"},
		{`{"id":"401","type":"complete"}`, "unsubscribed key 100 code 0"},
	} {
		c := ready(t, sample)
		encode(t, c, subscribeOp(1, "plain", wire.Position{}))
		if got := decode(t, c, row.text); got != row.want {
			t.Errorf("%.200s:\n got %.300s\nwant %.300s", row.text, got, row.want)
		}
	}
	var events wire.Events
	if err := ready(t, sample).Decode(wire.Frame{Type: wire.Binary, Data: []byte(`{"type":"pong"}`)}, &events); err != nil || show(&events.List[0]) != "malformed: "+badFrame {
		t.Errorf("a binary message: %+v, %v", events.List, err)
	}
}

// TestOutcomes: what becomes of a mutation. A line that is empty says nothing yet.
func TestOutcomes(t *testing.T) {
	const next = `{"id":"11","type":"next","payload":`
	const complete = `{"id":"11","type":"complete"}`
	for _, row := range []struct{ name, texts, want string }{
		{"a result and the end", next + `{"data":{"buy":1}}}` + "\n" + complete, "\nack 11 {\"data\":{\"buy\":1}}"},
		{"a result alone", next + `{"data":{"buy":1}}}`, ""},
		{"the end alone", complete, "reject 2 code 0 unknown true: the server ended the mutation without a result"},
		{"an error", `{"id":"11","type":"error","payload":[{"message":"bad"}]}`, "reject 2 code 400 unknown false: bad"},
		{"an error behind a result", next + `{"data":{"buy":1}}}` + "\n" + `{"id":"11","type":"error","payload":[{"message":"bad"}]}`, "\nreject 2 code 400 unknown true: bad"},
		{"errors and no data", next + `{"errors":[{"message":"bad","extensions":{"code":"FORBIDDEN"}}]}}` + "\n" + complete, "reject 2 code 403 unknown false: bad (FORBIDDEN)\n"},
		{"errors and a field without a value", next + `{"data":{"buy":null},"errors":[{"message":"bad"}]}}`, "reject 2 code 400 unknown false: bad"},
		{"errors and a part", next + `{"data":{"a":null,"b":1},"errors":[{"message":"bad"}]}}`, "reject 2 code 400 unknown true: bad"},
		{"neither errors nor data", next + `{"data":null}}`, "reject 2 code 0 unknown true: " + badResult},
		{"null", next + `null}`, "reject 2 code 0 unknown true: " + badResult},
		{"no result", next + `"x"}`, "reject 2 code 0 unknown true: " + badResult},
		{"errors that cannot be read", next + `{"data":{"buy":1},"errors":"x"}}`, "reject 2 code 0 unknown true: " + badResult},
		{"twice", next + `{"data":{"buy":1}}}` + "\n" + complete + "\n" + complete, "\nack 11 {\"data\":{\"buy\":1}}\n"},
		{"under the id of a second request", `{"id":"11-2","type":"complete"}`, "malformed: " + badID},
	} {
		c := ready(t, sample)
		encode(t, c, publishOp(2, "buy", ""))
		var got []string
		for _, text := range strings.Split(row.texts, "\n") {
			got = append(got, decode(t, c, text))
		}
		if text := strings.Join(got, "\n"); text != row.want {
			t.Errorf("%s: got %q, want %q", row.name, text, row.want)
		}
	}
}

// TestOnAck: the payload of connection_ack, and its refusal.
func TestOnAck(t *testing.T) {
	var got []string
	refuse := error(nil)
	o := Options{OnAck: func(p []byte) error { got = append(got, string(p)); return refuse }}
	text := []byte(`{"type":"connection_ack","payload":{"session":"ok"}}`)
	c := open(t, o, wire.Resume{})
	var events wire.Events
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: text}, &events); err != nil || len(events.List) != 1 {
		t.Errorf("%v, %v", events.List, err)
	}
	clear(text)
	decode(t, open(t, o, wire.Resume{}), `{"type":"connection_ack"}`)
	refuse = errors.New("another tenant")
	if got := decode(t, open(t, o, wire.Resume{}), `{"type":"connection_ack"}`); got != "error Options.OnAck: another tenant (close code 4400)" {
		t.Error(got)
	}
	if want := `[{"session":"ok"}  ]`; fmt.Sprint(got) != want {
		t.Errorf("%v", got)
	}
}

// TestNothingIsShared: what is decoded and encoded has its own memory.
func TestNothingIsShared(t *testing.T) {
	c := ready(t, sample)
	var frames wire.Frames
	op := publishOp(1, `buy`, `{"px":2}`)
	if err := c.Encode([]wire.Op{op, subscribeOp(1, "exact", wire.Position{})}, &frames); err != nil {
		t.Fatal(err)
	}
	clear(op.Message.Payload)
	if text := sent(&frames); !strings.Contains(text, `{"px":2}`) {
		t.Error(text)
	}
	var events wire.Events
	for _, text := range []string{`{"id":"5","type":"next","payload":{"data":{"e":"c1"}}}`, `{"type":"ping","payload":{"n":1}}`} {
		data := []byte(text)
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: data}, &events); err != nil {
			t.Fatal(err)
		}
		copy(data, bytes.Repeat([]byte("x"), len(data)))
	}
	if a, b := show(&events.List[0]), show(&events.List[1]); a != `data key 1 cursor "c1" {"data":{"e":"c1"}}` || b != `ping {"n":1}` {
		t.Errorf("%s, %s", a, b)
	}
}

// TestBounds: requests without an answer have a bound, and the one beyond is refused.
func TestBounds(t *testing.T) {
	c := ready(t, sample)
	for _, row := range []func(n uint64) wire.Op{
		func(n uint64) wire.Op { return publishOp(n, "buy", "") },
		func(n uint64) wire.Op { return subscribeOp(n, "plain", wire.Position{}) },
	} {
		var frames wire.Frames
		for n := uint64(1); n <= maxOpen; n++ {
			if err := c.Encode([]wire.Op{row(n)}, &frames); err != nil {
				t.Fatal(n, err)
			}
			frames.Reset()
		}
		var oe *wire.OpError
		var full *wire.LedgerError
		if err := c.Encode([]wire.Op{row(maxOpen + 1)}, &frames); !errors.As(err, &oe) || !errors.As(err, &full) || len(frames.List)+len(frames.Confirmed) != 0 {
			t.Errorf("%v", err)
		}
	}
	if got := decode(t, c, `{"id":"5","type":"complete"}`); got != "unsubscribed key 1 code 0" {
		t.Error(got)
	}
	encode(t, c, subscribeOp(maxOpen+1, "plain", wire.Position{})) // there is room again
}
