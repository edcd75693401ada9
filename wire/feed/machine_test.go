package feed

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// crowded is a table with what no venue's table has: paths into lists and entries,
// parameters with a path, counted and chained numbers, a cursor, a login with a
// challenge, questions, several matches that recognise one message.
func crowded() Table {
	return Table{
		Name:         "crowded",
		Subprotocols: []string{"v2.crowded", "v1.crowded"},
		Subscribe:    Request{JSON: `{"ask":{"id":"$id","c":"$channel","p":["$product","..."]}}`, Max: 2},
		Unsubscribe:  Request{JSON: `{"end":["$channel","$product"],"id":"#id"}`},
		ID:           "id",
		Type:         "x.t",
		Channel:      "x.c",
		Product:      "x.list[].p",
		Entries:      "x.list",
		Channels: []Channel{
			{Name: "c-*", Number: "x.list[].n", Count: "x.list[].of", Replay: 2},
			{Name: "chain", Number: "x.list[].n", Prev: "x.list[].before", Snapshots: []string{"x.list[].full=true"}, Repeats: []string{"again"}, Types: []string{"new"}},
			{
				Name: "bars-*-min", Request: "bars", Param: "x.list[].min", Cursor: "x.list[].at",
				Subscribe:   Request{JSON: `{"ask":"bars","p":"$product","min":"#param","id":"#id","after":"$cursor"}`},
				Unsubscribe: Request{JSON: `{"end":"bars","p":"$product","min":"$param","id":"#id"}`},
			},
		},
		Confirm:    Confirm{Type: "ok=true"},
		Error:      ErrorMessage{Type: "ok=false", Text: "errors[0].text", Channel: "of[0]", Product: "of[-1]"},
		Heartbeats: []string{"ok=*", "=."},
		Login: Login{
			Message: func(token string, challenge []byte) ([]byte, error) {
				return fmt.Appendf(nil, "%s|%s", token, challenge), nil
			},
			Challenge: "hello=*",
			Accepted:  "hi=1",
		},
		Question: "ask=*",
		Answer:   `{"answer":"#n"}`,
		GoAway:   "bye=*",
	}
}

func TestPaths(t *testing.T) {
	for _, bad := range []string{".", "a.", ".a", "a..b", "a.[0]", "[", "[]", "[x]", "a[1", "a[+1]", "a[100]", "a[-5]", "a[0]b", "a[-1].b", "a[].b", "[0].", "\xff"} {
		table := bare()
		table.Product = bad
		if _, err := New(table); err == nil {
			t.Errorf("%q: accepted as a path", bad)
		}
	}
	for _, row := range []struct{ path, message, product string }{
		{"p", `{"t":"x","p":"A"}`, "A"},
		{"d.p", `{"d":{"q":1,"p":"A"},"t":"x"}`, "A"},
		{"d.p", `{"d":[{"p":"A"}],"t":"x"}`, ""},
		{"d.p", `{"d":{"\u0070":"\u0041"},"t":"x"}`, "A"},
		{"d[0].p", `{"t":"x","d":[{"p":"A"},{"p":"B"}]}`, "A"},
		{"d[1].p", `{"t":"x","d":[{"p":"A"},{"p":"B"}]}`, "B"},
		{"d[2].p", `{"t":"x","d":[{"p":"A"},{"p":"B"}]}`, ""},
		{"d[-1]", `{"t":"x","d":[1,2,"A"]}`, "A"},
		{"d[-2]", `{"t":"x","d":[1,"A",3]}`, "A"},
		{"d[-4]", `{"t":"x","d":[1,2,3]}`, ""},
		{"d[0][1]", `{"t":"x","d":[["B","A"],2]}`, "A"},
		{"d[0][1]", `{"t":"x","d":{"0":["B","A"]}}`, ""},
		{"d[99]", `{"t":"x","d":[` + strings.Repeat(`0,`, 99) + `"A"]}`, "A"},
	} {
		table := bare()
		table.Product = row.path
		got, err := decode(open(t, mustNew(t, table)), row.message)
		if ok := strings.HasPrefix(got, "data all/"+row.product+" "); err != nil || (row.product != "") != ok || !ok && !strings.Contains(got, "malformed") {
			t.Errorf("%s in %s: got %s, %v, want product %q", row.path, row.message, got, err, row.product)
		}
	}
	// Readers differ on which of two members counts, wherever they are.
	table := bare()
	table.Product = "d.p"
	for _, twice := range []string{`{"t":"x","d":{"p":"A","p":"B"}}`, `{"t":"x","d":{"p":"A"},"d":{"p":"B"}}`, `{"t":"x","d":{"p":"A"},"d":1}`} {
		if got, _ := decode(open(t, mustNew(t, table)), twice); !strings.HasPrefix(got, "malformed 1 a message with two members ") {
			t.Errorf("%s: got %s", twice, got)
		}
	}
}

func TestEntries(t *testing.T) {
	c := open(t, mustNew(t, crowded()))
	expect(t, c, `{"x":{"t":"any","c":"c-7","list":[{"p":"A","n":5}, {"p":"B","n":9,"of":3} ,{"p":"A","n":6}]},"seq":1}`,
		`data c-7/A (4,5] any {"p":"A","n":5}`, `data c-7/B (6,9] any {"p":"B","n":9,"of":3}`, `data c-7/A (5,6] any {"p":"A","n":6}`)
	expect(t, c, `{"x":{"c":"c-7","list":[]}}`)
	// One entry that cannot be read holds up no other.
	expect(t, c, `{"x":{"c":"c-7","list":[{"p":"A","n":-1},{"p":"A","n":8,"n":9},{"n":3},7,{"p":"B","n":10}]}}`,
		`malformed 1 member "x.list[].n" is not a whole number below 2^64`, "gap c-7/A malformed 1",
		`malformed 1 a message with two members "x.list[].n"`, "gap c-7/A malformed 1",
		`malformed 1 a message of the channel "c-*" without a product`, "gap c-7/A malformed 0", "gap c-7/B malformed 0",
		`malformed 1 a message of the channel "c-*" without a product`,
		`data c-7/B (9,10]  {"p":"B","n":10}`)
	// A snapshot ends with its last entry.
	expect(t, c, `{"x":{"t":"new","c":"chain","list":[{"p":"A","n":1,"full":true},{"p":"A","n":2,"before":1,"full":true}]}}`,
		`data chain/A (0,1] new {"p":"A","n":1,"full":true}`, `data chain/A (1,2] snapshot new {"p":"A","n":2,"before":1,"full":true}`)
	// What is wrong with the whole may be wrong for each.
	expect(t, c, `{"x":{"c":"c-7","list":[{"p":"B","n":11},{"p":"A","n":NaN}]}}`, "malformed 1 a value that is not JSON", "gap c-7/B malformed 0")
	// A value other than a list has no entries: there is no product.
	expect(t, c, `{"x":{"c":"c-7","list":{"p":"A"}}}`, `malformed 1 a message of the channel "c-*" without a product`)
	if got, err := decode(strict(open(t, mustNew(t, crowded()))), `{"x":{"c":"c-7","list":[{"p":"A","n":1},{"n":2}]}}`); err == nil {
		t.Errorf("a strict table accepted %s", got)
	}
}

// A short entry makes an event, which is large: one message makes a limited number of them.
func TestManyEntries(t *testing.T) {
	c := open(t, mustNew(t, Bybit()))
	message := func(n int) string {
		return `{"topic":"publicTrade.A","data":[` + strings.Repeat("[],", n-1) + "[]]}"
	}
	for n, want := range map[int]int{maxEntries: maxEntries, maxEntries + 1: maxEntries + 2, 100 * maxEntries: maxEntries + 2} {
		var out wire.Events
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(message(n))}, &out); err != nil {
			t.Fatal(err)
		}
		last := &out.List[len(out.List)-1]
		if len(out.List) != want || n > maxEntries && (last.Kind != wire.EventGap || last.Name != "publicTrade/A") {
			t.Errorf("%d entries: %d events, the last one %s; want %d", n, len(out.List), show(last), want)
		}
	}
}

func TestChains(t *testing.T) {
	c := open(t, mustNew(t, crowded()))
	entry := func(more string) string { return `{"x":{"t":"new","c":"chain","list":[{"p":"A",` + more + `}]}}` }
	for _, row := range []struct{ entry, want string }{
		{`"n":10,"before":-1,"full":true`, "data (9,10] snapshot"},
		{`"n":20,"before":10`, "data (10,20]"},
		{`"n":20,"before":20`, "data (20,20]"}, // nothing has changed
		{`"n":30,"before":25`, "gap lost 0, data (25,30]"},
		{`"n":15,"before":12`, "data (12,15]"}, // late
		{`"n":40,"before":30`, "data (30,40]"},
		{`"n":3,"before":40`, "reset restarted at 2, data (2,3]"},
		{`"n":7,"before":3`, "data (3,7]"},
		{`"n":50,"before":null,"full":true`, "reset unverifiable at 49, data (49,50] snapshot"},
		{`"n":0,"before":50`, "reset restarted at 0, data"},
		{`"n":4`, "data (3,4]"},
	} {
		got, err := decode(c, entry(row.entry))
		var words []string
		for _, line := range strings.Split(got, "\n") {
			line, _, _ = strings.Cut(strings.Replace(line, " chain/A", "", 1), " {")
			words = append(words, strings.TrimSuffix(strings.TrimSuffix(line, " "), " new"))
		}
		if s := strings.Join(words, ", "); err != nil || s != row.want {
			t.Errorf("%s: got %s, %v, want %s", row.entry, s, err, row.want)
		}
	}
	// A position of an earlier connection counts: what was sent meanwhile is missing.
	c = resume(t, crowded(), "chain/A", 10)
	if got, _ := decode(c, entry(`"n":30,"before":20`)); !strings.HasPrefix(got, "gap chain/A lost 0\n") {
		t.Errorf("after a reconnect: %s", got)
	}
	if got, _ := decode(resume(t, crowded(), "chain/A", 10), entry(`"n":99,"before":-1`)); !strings.HasPrefix(got, "reset chain/A unverifiable at 98\n") {
		t.Errorf("a new chain after a reconnect: %s", got)
	}
}

func TestRanges(t *testing.T) {
	c := open(t, mustNew(t, Binance()))
	expect(t, c, `{"stream":"a@depth","data":{"U":5,"u":9}}`, `data depth/A (4,9]  {"stream":"a@depth","data":{"U":5,"u":9}}`)
	expect(t, c, `{"stream":"a@depth","data":{"U":0,"u":0}}`, `data depth/A (0,0]  {"stream":"a@depth","data":{"U":0,"u":0}}`)
	for _, bad := range []string{`"U":10,"u":9`, `"u":9`, `"U":"x","u":9`, `"U":1`} {
		got, err := decode(c, `{"stream":"a@depth","data":{`+bad+`}}`)
		if err != nil || !strings.HasPrefix(got, "malformed 1 ") || !strings.HasSuffix(got, "gap depth/A malformed 1") {
			t.Errorf("%s: got %s, %v", bad, got, err)
		}
	}
}

// The names of channels and products in topics, in messages and in requests.
func TestNames(t *testing.T) {
	d := mustNew(t, Binance())
	for topic, ok := range map[string]bool{
		"trade/BTCUSDT": true, "trade/btcusdt": false, "kline_1m/BTCUSDT": true, "kline_/BTCUSDT": false, "kline/BTCUSDT": false,
		"depth/A": true, "depth5/A": true, "depth@100ms/A": true, "depth5@100ms/A": true, "kline_*/A": false,
	} {
		if err := d.CheckTopic(wire.UseSubscribe, topic); (err == nil) != ok {
			t.Errorf("%s: %v", topic, err)
		}
	}
	c := open(t, d)
	for name, want := range map[string]string{
		"btcusdt@trade": "data trade/BTCUSDT", "BtcUsdt@trade": "data trade/BTCUSDT", "é@trade": "data trade/É",
		"btcusdt@depth5": "data depth5/BTCUSDT", "a@b@trade": "malformed 1", "trade": "malformed 1", "@trade": "malformed 1", "*@trade": "malformed 1",
	} {
		for range 2 { // the second time from memory
			got, err := decode(open(t, d), `{"stream":"`+name+`","data":{"t":1,"u":2,"U":1}}`)
			if err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
			}
			decode(c, `{"stream":"`+name+`","data":{"t":1,"u":2,"U":1}}`)
		}
	}
	// A name without a parameter comes first, wherever it stands in the table.
	table := exchange()
	table.Channels = []Channel{{Name: "a*", Number: "id"}, {Name: "ab"}}
	c = open(t, mustNew(t, table))
	expect(t, c, `{"ch":"ab","sym":"A"}`, `data ab/A  {"ch":"ab","sym":"A"}`)
	expect(t, c, `{"ch":"ac","sym":"A","id":1}`, `data ac/A (0,1]  {"ch":"ac","sym":"A","id":1}`)
	d = mustNew(t, crowded())
	for topic, ok := range map[string]bool{"bars-5-min/A": true, "bars-x-min/A": false, "bars-05-min/A": false, "bars-0-min/A": true, "bars--min/A": false, "bars/A": false} {
		if err := d.CheckTopic(wire.UseSubscribe, topic); (err == nil) != ok {
			t.Errorf("%s: %v", topic, err)
		}
	}
	expect(t, open(t, d), `{"x":{"c":"bars","list":[{"p":"A","min":5,"at":"k9"},{"p":"A","at":1},{"p":"A","min":"x","at":1}]}}`,
		`data bars-5-min/A  {"p":"A","min":5,"at":"k9"}`,
		`malformed 1 a message of the channel "bars-*-min" with a product that cannot be subscribed to`, "gap bars-5-min/A malformed 0",
		`malformed 1 a message of the channel "bars-*-min" with a product that cannot be subscribed to`)
}

// A channel may have its product at another place than the others.
func TestProductOfAChannel(t *testing.T) {
	table := exchange()
	table.Channels[1].Product = "d.s"
	c := open(t, mustNew(t, table))
	expect(t, c, `{"kind":"update","ch":"book","d":{"s":"A"}}`, `data book/A update {"kind":"update","ch":"book","d":{"s":"A"}}`)
	expect(t, c, `{"kind":"update","ch":"trades","sym":"A","id":1}`, `data trades/A (0,1] update {"kind":"update","ch":"trades","sym":"A","id":1}`)
	expect(t, c, `{"kind":"update","ch":"book","d":{"s":"A"},"x":NaN}`, "malformed 1 a value that is not JSON", "gap book/A malformed 1")
}

func TestRequestWords(t *testing.T) {
	c := open(t, mustNew(t, crowded()))
	var ops []wire.Op
	for _, topic := range []string{"c-1/A", "c-1/B", "c-2/A", "c-1/C", "bars-5-min/A", "bars-5-min/B", "chain/A"} {
		s := &wire.Subscribe{Topic: topic}
		if topic == "bars-5-min/B" {
			s.Position.Tag = `k"9`
		}
		ops = append(ops, wire.Op{Kind: wire.OpSubscribe, Subscribe: s})
	}
	ops = append(ops, wire.Op{Kind: wire.OpUnsubscribe, Name: "bars-5-min/A"}, wire.Op{Kind: wire.OpUnsubscribe, Name: "c-1/A"}, wire.Op{Kind: wire.OpPong, N: 1<<64 - 1})
	got := strings.Join(encode(t, c, ops...)[0:], "\n")
	want := strings.Join([]string{
		`{"ask":{"id":"1","c":"c-1","p":["A","B"]}}`, `{"ask":{"id":"2","c":"c-1","p":["C"]}}`, `{"ask":{"id":"3","c":"c-2","p":["A"]}}`,
		`{"ask":"bars","p":"A","min":5,"id":4,"after":null}`, `{"ask":"bars","p":"B","min":5,"id":5,"after":"k\"9"}`, `{"ask":{"id":"6","c":"chain","p":["A"]}}`,
		`{"end":"bars","p":"A","min":"5","id":7}`, `{"end":["c-1","A"],"id":8}`, `{"answer":18446744073709551615}`,
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Answers by id: of one topic, of several, of an end, unknown, not a number.
	c.(*codec).accepted = true
	expect(t, c, `{"ok":true,"id":"1"}`, "subscribed c-1/A by-number", "subscribed c-1/B by-number")
	expect(t, c, `{"ok":false,"id":3,"errors":[{"text":"no"}]}`, "unsubscribed c-2/A refused no")
	expect(t, c, `{"ok":true,"id":4}`, "subscribed bars-5-min/A by-number")
	expect(t, c, `{"ok":false,"id":7,"errors":["x"]}`, "error 0 the server reports an error")
	expect(t, c, `{"ok":true,"id":8}`, "unsubscribed c-1/A 0 ")
	expect(t, c, `{"ok":true,"id":8}`)
	expect(t, c, `{"ok":false,"id":99}`, "error 0 the server reports an error")
	expect(t, c, `{"ok":false,"id":"x"}`, "error refused the server reports an error")
	expect(t, c, `{"ok":false,"id":6,"of":["chain","B"]}`, "unsubscribed chain/B refused the server reports an error")
	c = open(t, mustNew(t, crowded()))
	c.(*codec).accepted = true
	encode(t, c, ops[:2]...)
	expect(t, c, `{"ok":false,"id":"1"}`, "error refused the server reports an error") // which of the two?
}

// The cursor is the position, and stands in the next request.
func TestCursor(t *testing.T) {
	d := mustNew(t, crowded())
	for from, ok := range map[wire.From]bool{wire.FromNew: true, wire.FromResume: true, wire.FromFirst: false, wire.FromLast: false} {
		var out wire.Frames
		err := open(t, d).Encode([]wire.Op{{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Topic: "bars-5-min/A", From: from}}}, &out)
		if (err == nil) != ok || ok != (len(out.List) == 1) {
			t.Errorf("from %d: got %v and %d frames", from, err, len(out.List))
		}
	}
	if !d.Traits().Resume || mustNew(t, Binance()).Traits().Resume {
		t.Error("the trait Resume does not follow from $cursor")
	}
	var out wire.Events
	c := open(t, d)
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(`{"x":{"c":"bars","list":[{"p":"A","min":5,"at":"k9"},{"p":"A","min":5}]}}`)}, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.List) != 2 || out.List[0].Position.Tag != "k9" || out.List[0].Numbered || !out.List[1].Position.IsZero() {
		t.Errorf("got %+v", out.List)
	}
}

func TestLogin(t *testing.T) {
	d := mustNew(t, crowded())
	tr := d.Traits()
	if !tr.Greeting || tr.StartSubs != 0 || !tr.ConfirmsEnd {
		t.Errorf("got %+v", tr)
	}
	c, err := d.Open(wire.Resume{Token: "tok", Subs: []wire.Subscribe{{Topic: "c-1/A"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := encode(t, c); len(got) != 0 {
		t.Errorf("wrote %q before the challenge", got)
	}
	var out wire.Events
	text := []byte(`{"hello":"n1"}`)
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: text}, &out); err != nil || len(out.List) != 1 || out.List[0].Kind != wire.EventStep {
		t.Fatalf("got %+v, %v", out.List, err)
	}
	clear(text)
	if got := encode(t, c, wire.Op{Kind: wire.OpStep, Step: out.List[0].Step}); len(got) != 1 || got[0] != `tok|{"hello":"n1"}` {
		t.Errorf("got %q", got)
	}
	out.Reset()
	decodeAll := func(texts ...string) {
		for _, s := range texts {
			if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(s)}, &out); err != nil {
				t.Fatal(err)
			}
		}
	}
	decodeAll(`{"ok":false,"id":1}`)
	e := out.List[0]
	if !e.Fatal || d.Verdict(wire.Failure{Stage: wire.StageHandshake, Code: e.Code}).Action != wire.ActionRefresh || d.Verdict(wire.Failure{Stage: wire.StageOpen, Code: e.Code}) != (wire.Verdict{}) {
		t.Errorf("a refused login: %+v", e)
	}
	out.Reset()
	decodeAll(`{"hi":2}`, `{"hi":1}`, `{"hi":1}`, `{"hello":1}`)
	ready := 0
	for _, e := range out.List {
		if e.Kind == wire.EventReady {
			ready++
		}
		if e.Kind == wire.EventStep {
			t.Error("a challenge after the welcome")
		}
	}
	if ready != 1 {
		t.Errorf("%d welcomes: %+v", ready, out.List)
	}
	a := wire.Attempt{}
	if err := d.Attempt(&a); err != nil || strings.Join(a.Subprotocols, " ") != "v2.crowded v1.crowded" {
		t.Errorf("offers %q, %v", a.Subprotocols, err)
	}
}

// Of several matches the first in the documented order counts.
func TestOrderOfMatches(t *testing.T) {
	c := open(t, mustNew(t, crowded()))
	c.(*codec).accepted = true
	expect(t, c, `{"ok":1}`) // a heartbeat
	expect(t, c, `{"ok":false,"bye":1}`, "error refused the server reports an error")
	expect(t, c, `.`)
	expect(t, c, `..`, `malformed 1 not a JSON object, or nested too deep; a text such as pong belongs in Table.Heartbeats, as "=pong"`)
	for text, want := range map[string]wire.EventKind{`{"bye":0,"ask":5}`: wire.EventGoAway, `{"ask":5,"ok":1}`: wire.EventPing} {
		var out wire.Events
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &out); err != nil || len(out.List) != 1 || out.List[0].Kind != want {
			t.Errorf("%s: got %+v, %v", text, out.List, err)
		} else if want == wire.EventPing && out.List[0].N != 5 {
			t.Errorf("a question with number %d", out.List[0].N)
		}
	}
	expect(t, c, `{"x":{"t":"again","c":"chain","list":[{"p":"A","n":1,"full":true},{"p":"A","n":2,"before":1}]}}`,
		`data chain/A (0,1] again again {"p":"A","n":1,"full":true}`, `data chain/A (1,2] again again {"p":"A","n":2,"before":1}`)
	expect(t, c, `{"x":{"t":"new","c":"chain","list":[{"p":"A","n":3,"before":2},{"p":"A","n":4,"before":3,"full":true}]}}`,
		`data chain/A (2,3] new {"p":"A","n":3,"before":2}`, `data chain/A (3,4] snapshot new {"p":"A","n":4,"before":3,"full":true}`)
	expect(t, c, `{"x":{"t":"other","c":"chain","list":[{"p":"A","n":5}]}}`,
		"malformed 1 a message of a type that is not in the feed's table: other", "gap chain/A malformed 0")
	expect(t, c, `{"x":{"t":"new","c":"none","list":[]}}`, "malformed 1 a message of a channel that is not in the feed's table: none")
}

// A server that answers no request by its id, as one that confirms topics does, neither
// fills the memory nor loses its connection for it.
func TestUnansweredRequestsAreBounded(t *testing.T) {
	table := crowded()
	table.Login = Login{}
	byID := Funcs{
		Name: "by-id", Confirms: true, Subscribe: func(a Ask) ([]byte, error) { return fmt.Append(nil, a.ID), nil },
		Read: func(data []byte, say func(Item)) error {
			it := Item{Kind: Answered}
			fmt.Sscan(string(data), &it.ID)
			say(it)
			return nil
		},
	}
	funcs, err := NewFuncs(byID)
	if err != nil {
		t.Fatal(err)
	}
	ofTable, ofFuncs := open(t, mustNew(t, table)).(*codec), open(t, funcs).(*funcsCodec)
	for _, tc := range []struct {
		codec  wire.Codec
		open   requests
		answer string // to the request with a number
		kinds  int
		want   string
	}{
		{ofTable, ofTable.pending, `{"ok":true,"id":%d}`, 1, "subscribed chain/A by-number"},
		{ofFuncs, ofFuncs.pending, "%d", idKinds, "subscribed chain/A none"},
	} {
		var out wire.Frames
		for range 2 * maxPending {
			if err := tc.codec.Encode([]wire.Op{{Kind: wire.OpSubscribe, Topic: "chain/A"}}, &out); err != nil || len(out.List) != 1 {
				t.Fatalf("%v, %d frames", err, len(out.List))
			}
			out.Reset()
		}
		if n := tc.open.Len(); n != maxPending {
			t.Errorf("%d requests are known, want %d", n, maxPending)
		}
		first := 0 // the kind of the id
		if tc.kinds > 1 {
			first = idSubscribe
		}
		expect(t, tc.codec, fmt.Sprintf(tc.answer, maxPending*tc.kinds+first)) // forgotten
		expect(t, tc.codec, fmt.Sprintf(tc.answer, (maxPending+1)*tc.kinds+first), tc.want)
		expect(t, tc.codec, fmt.Sprintf(tc.answer, 2*maxPending*tc.kinds+first), tc.want)
	}
}

// A member that is null is absent for "path=*": many servers send "error":null with what
// succeeds. "path=null" recognises it.
func TestNullIsAbsent(t *testing.T) {
	table := confirming()
	table.Confirm.Type, table.Error = "ok=*", ErrorMessage{Type: "error=*", Text: "error"}
	table.GoAway = "bye=null"
	c := open(t, mustNew(t, table))
	expect(t, c, `{"ok":1,"error":null,"c":"all","p":"A"}`, "subscribed all/A none")
	expect(t, c, `{"ok":null,"error":"no","c":"all","p":"A"}`, "error refused no")
	expect(t, c, `{"ok":false,"error": null ,"c":"all","p":"A"}`, "subscribed all/A none")
	expect(t, c, `{"ok":1,"error":"null","c":"all","p":"A"}`, "error refused null")
	expect(t, c, `{"t":"x","p":"B","ok":null,"error":null}`, `data all/B x {"t":"x","p":"B","ok":null,"error":null}`)
	expect(t, c, `{"bye":null}`, fmt.Sprintf("event %d", wire.EventGoAway))
}
