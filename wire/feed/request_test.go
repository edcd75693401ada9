package feed

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/wire"
)

func open(t testing.TB, d wire.Dialect, topics ...string) wire.Codec {
	t.Helper()
	var r wire.Resume
	for i, topic := range topics {
		r.Subs = append(r.Subs, wire.Subscribe{Key: uint64(i + 1), Topic: topic})
	}
	c, err := d.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// encode is what Start writes, or Encode if there are ops.
func encode(t testing.TB, c wire.Codec, ops ...wire.Op) []string {
	t.Helper()
	var out wire.Frames
	err := c.Start(&out)
	if ops != nil {
		out.Reset()
		err = c.Encode(ops, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, f := range out.List {
		if f.Type != wire.Text {
			t.Errorf("a frame of type %d, want text", f.Type)
		}
		texts = append(texts, string(f.Data))
	}
	return texts
}

func TestSubscribeMessages(t *testing.T) {
	many := make([]string, 250)
	for i := range many {
		many[i] = fmt.Sprintf("ticker/P%d", i)
	}
	for _, test := range []struct {
		name   string
		table  Table
		topics []string
		want   []string
	}{
		{"no topics", Coinbase(), nil, nil},
		{"one", Coinbase(), []string{"matches/BTC-USD"},
			[]string{`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}`}},
		{"channels of the same products share a message", Coinbase(), []string{"matches/A", "level2/A", "matches/B", "level2/B", "ticker/B"},
			[]string{
				`{"type":"subscribe","product_ids":["A","B"],"channels":["matches","level2_batch"]}`,
				`{"type":"subscribe","product_ids":["B"],"channels":["ticker"]}`,
			}},
		{"what JSON must escape", Coinbase(), []string{`ticker/a"\é`},
			[]string{`{"type":"subscribe","product_ids":["a\"\\é"],"channels":["ticker"]}`}},
		{"one channel a message, two products at most", exchange(), []string{"book/A", "book/B", "trades/A", "book/C"},
			[]string{
				`{"op":"sub","depth":10,"syms":["A","B"],"ch":"book"}`,
				`{"op":"sub","depth":10,"syms":["C"],"ch":"book"}`,
				`{"op":"sub","depth":10,"syms":["A"],"ch":"trades"}`,
			}},
		{"one channel a message, the same product", exchange(), []string{"book/A", "trades/A"},
			[]string{`{"op":"sub","depth":10,"syms":["A"],"ch":"book"}`, `{"op":"sub","depth":10,"syms":["A"],"ch":"trades"}`}},
		{"one product a message, no channel", bare(), []string{"all/A", "all/B/C"},
			[]string{`{"get":true,"what":"A"}`, `{"get":true,"what":"B/C"}`}},
	} {
		got := encode(t, open(t, mustNew(t, test.table), test.topics...))
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if got := encode(t, open(t, mustNew(t, Coinbase()), many...)); len(got) != 3 {
		t.Errorf("got %d messages for 250 products, want 100 to a message", len(got))
	}
}

func TestOpenRefusesWhatCheckTopicRefuses(t *testing.T) {
	_, err := mustNew(t, bare()).Open(wire.Resume{Subs: []wire.Subscribe{{Topic: "none/A"}}})
	var te *TopicError
	if !errors.As(err, &te) {
		t.Errorf("got %v, want a *TopicError", err)
	}
}

func TestEncode(t *testing.T) {
	c := open(t, mustNew(t, Coinbase()))
	sub := func(topic string) wire.Op {
		return wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Topic: topic}}
	}
	unsub := func(topic string) wire.Op { return wire.Op{Kind: wire.OpUnsubscribe, Name: topic} }
	got := encode(t, c, sub("ticker/A"), sub("ticker/B"), unsub("ticker/A"), sub("ticker/A"),
		wire.Op{Kind: wire.OpBye}, wire.Op{Kind: wire.OpAuth, Token: "t"})
	want := []string{
		`{"type":"subscribe","product_ids":["A","B"],"channels":["ticker"]}`,
		`{"type":"unsubscribe","product_ids":["A"],"channels":["ticker"]}`,
		`{"type":"subscribe","product_ids":["A"],"channels":["ticker"]}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	poor := open(t, mustNew(t, bare()))
	for _, test := range []struct {
		codec wire.Codec
		bad   wire.Op
		want  error
	}{
		{c, wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "ticker/A"}}, ErrPublish},
		{c, wire.Op{Kind: wire.OpPing}, errOp},
		{c, wire.Op{Kind: wire.OpCredit}, errOp},
		{c, wire.Op{}, errOp},
		{c, sub("none/A"), nil},
		{c, unsub(""), nil},
		{poor, wire.Op{Kind: wire.OpUnsubscribe, Name: "all/A"}, errOp},
	} {
		first := sub("ticker/A")
		if test.codec == poor {
			first = sub("all/A")
		}
		var out wire.Frames
		err := test.codec.Encode([]wire.Op{first, test.bad, first}, &out)
		var oe *wire.OpError
		if !errors.As(err, &oe) || oe.Index != 1 || len(out.List) != 1 {
			t.Errorf("%+v: got %v and %d frames, want an OpError at 1 and the op before it", test.bad, err, len(out.List))
		}
		if test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%+v: got %v, want %v", test.bad, err, test.want)
		}
	}
}

// The time of a request, in seconds and in milliseconds, as a number or in a string,
// wherever a server wants it. It is one time in the whole message.
func TestTimeInRequests(t *testing.T) {
	table := bare()
	table.Subscribe.JSON = `{"get":["$product","..."],"time":"#time","ms":"$time_ms"}`
	table.Unsubscribe.JSON = `{"stop":[{"p":"$product","at":"#time_ms"},"..."],"time":"$time"}`
	table.PingText, table.Question, table.Answer = `{"ping":"#time"}`, "ask=*", `{"answer":"#n","at":"#time"}`
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(1500 * time.Millisecond) // the bubble begins with a whole second
		c := open(t, mustNew(t, table))
		op := func(kind wire.OpKind, topic string) wire.Op { return wire.Op{Kind: kind, Topic: topic} }
		ops := []wire.Op{
			op(wire.OpSubscribe, "all/A"), op(wire.OpSubscribe, "all/B"), op(wire.OpUnsubscribe, "all/A"), op(wire.OpUnsubscribe, "all/B"),
			{Kind: wire.OpPing}, {Kind: wire.OpPong, N: 7},
		}
		const seconds = "946684801"
		want := []string{
			`{"get":["A","B"],"time":` + seconds + `,"ms":"` + seconds + `500"}`,
			`{"stop":[{"p":"A","at":` + seconds + `500},{"p":"B","at":` + seconds + `500}],"time":"` + seconds + `"}`,
			`{"ping":` + seconds + `}`,
			`{"answer":7,"at":` + seconds + `}`,
		}
		if got := encode(t, c, ops...); !slices.Equal(got, want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	})
}

// What stands for nothing is refused, with what there is instead.
func TestUnknownPlaceholders(t *testing.T) {
	for _, row := range []struct {
		field, want string
		change      func(*Table)
	}{
		{"Subscribe.JSON", `has "#now", which stands for nothing; want one of "$channel", "$cursor", "$id", "#id", "$param", "#param", "$product", "$stream", "$time", "#time", "$time_ms", "#time_ms"`,
			func(t *Table) { t.Subscribe.JSON = `{"p":"$product","t":"#now"}` }},
		{"PingText", `has "$id", which stands for nothing; want one of "$time", "#time", "$time_ms", "#time_ms"`,
			func(t *Table) { t.PingText = `{"ping":"$id"}` }},
		{"Answer", `has "#m", which stands for nothing; want one of "#n", "$time", "#time", "$time_ms", "#time_ms"`,
			func(t *Table) { t.Question, t.Answer = "ask=*", `{"answer":"#m"}` }},
	} {
		table := bare()
		row.change(&table)
		var te *TableError
		if _, err := New(table); !errors.As(err, &te) || te.Field != row.field || !strings.HasSuffix(te.Problem, row.want) {
			t.Errorf("%s: got %v\nwant %s", row.field, err, row.want)
		}
	}
	table := bare()
	table.PingText = `$ping` // no JSON, so it stands for itself
	if got := encode(t, open(t, mustNew(t, table)), wire.Op{Kind: wire.OpPing}); !slices.Equal(got, []string{`$ping`}) {
		t.Errorf("got %q", got)
	}
}
