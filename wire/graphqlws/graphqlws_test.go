package graphqlws

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// TestOptions: wrong options are refused by name, right ones are not.
func TestOptions(t *testing.T) {
	one := func(op Operation) Options { return Options{Operations: map[string]Operation{"x": op}} }
	with := func(c Cursor) Options { return one(Operation{Query: "subscription { a }", Cursor: &c}) }
	read := func([]byte) []byte { return nil }
	for _, row := range []struct {
		o     Options
		field string
	}{
		{Options{}, ""},
		{sample, ""},
		{Options{Token: "t", Init: func(wire.Resume) ([]byte, error) { return nil, nil }}, "Token"},
		{Options{Token: "\xff"}, "Token"},
		{Options{Operations: map[string]Operation{"a b": {Query: "{ a }"}}}, `Operations["a b"]`},
		{Options{Operations: map[string]Operation{"": {Query: "{ a }"}}}, `Operations[""]`},
		{Options{Operations: map[string]Operation{"query": {Query: "{ a }"}}}, `Operations["query"]`},
		{one(Operation{}), `Operations["x"].Query`},
		{one(Operation{Query: "{ a"}), `Operations["x"].Query`},
		{one(Operation{Query: "{ \"\xff\" }"}), `Operations["x"].Query`},
		{one(Operation{Query: "{ a }" + strings.Repeat(" ", maxQuery)}), `Operations["x"].Query`},
		{one(Operation{Query: "query a { a } query b { b }"}), `Operations["x"].Query`},
		{one(Operation{Query: "query a { a } query b { b }", Name: "c"}), `Operations["x"].Query`},
		{one(Operation{Query: "query a { a } query b { b }", Name: "b"}), ""},
		{one(Operation{Query: "{ a }", Variables: map[string]any{"f": func() {}}}), `Operations["x"].Variables`},
		{one(Operation{Query: "mutation { a }", Cursor: &Cursor{Variable: "v", Path: "a"}}), `Operations["x"].Cursor`},
		{with(Cursor{Path: "a"}), `Operations["x"].Cursor.Variable`},
		{with(Cursor{Variable: "$v", Path: "a"}), `Operations["x"].Cursor.Variable`},
		{with(Cursor{Variable: "v"}), `Operations["x"].Cursor.Path`},
		{with(Cursor{Variable: "v", Path: "a", Read: read}), `Operations["x"].Cursor.Path`},
		{with(Cursor{Variable: "v", Path: "a..b"}), `Operations["x"].Cursor.Path`},
		{with(Cursor{Variable: "v", Path: "a[0]"}), `Operations["x"].Cursor.Path`},
		{with(Cursor{Variable: "v", Read: read}), ""},
		{with(Cursor{Variable: "v", Path: "a", Exact: true, Number: true}), `Operations["x"].Cursor.Exact`},
		{with(Cursor{Variable: "v", Path: "a", Exact: true, Inclusive: true}), `Operations["x"].Cursor.Exact`},
		{with(Cursor{Variable: "v", Path: "a", Expired: []string{""}}), `Operations["x"].Cursor.Expired`},
	} {
		err := New(row.o).(wire.Checker).Check()
		var oe *OptionError
		if errors.As(err, &oe) != (row.field != "") || oe != nil && (oe.Field != row.field || !strings.HasPrefix(oe.Error(), "graphqlws.Options."+row.field+" ")) {
			t.Errorf("%+v: %v, want %s", row.o, err, row.field)
		}
	}
}

// TestOptionsAreCopied: New keeps no reference to the maps and lists of its caller.
func TestOptionsAreCopied(t *testing.T) {
	cursor := &Cursor{Variable: "after", Path: "a", Exact: true, Expired: []string{"OLD"}}
	o := Options{Operations: map[string]Operation{"x": {Query: "subscription { a }", Variables: map[string]any{"n": 1}, Cursor: cursor}}}
	d := New(o)
	cursor.Expired[0], cursor.Variable = "", "changed"
	o.Operations["x"].Variables["n"] = 2
	clear(o.Operations)
	c, err := d.Open(wire.Resume{Subprotocol: Subprotocol})
	if err != nil {
		t.Fatal(err)
	}
	if got := encode(t, c, subscribeOp(1, "x", wire.Position{Tag: "7"})); !strings.Contains(got, `{"after":7,"n":1}`) {
		t.Error(got)
	}
	if got := decode(t, c, `{"id":"5","type":"error","payload":[{"message":"gone","extensions":{"code":"OLD"}}]}`); got != "step {1}" {
		t.Error(got)
	}
}

// TestCheckTopic: what may be subscribed to and published to.
func TestCheckTopic(t *testing.T) {
	d := New(sample)
	for _, row := range []struct {
		topic              string
		subscribe, publish string // what is wrong
	}{
		{"ticks", "", "is a subscription"},
		{`ticks:{"s":"B"}`, "", "is a subscription"},
		{`ticks: {}`, "", "is a subscription"},
		{"buy", "is a mutation", ""},
		{"two", "is a mutation", ""},
		{"subscription { e }", "", "is a subscription"},
		{"{ e }", "", "is a query"},
		{"# a comment\nmutation { e }", "is a mutation", ""},
		{"query { e } query b { e }", "or several", "or several"},
		{"fragment f on T { a }", "has no operation", "has no operation"},
		{"nosuch", "is not in graphqlws.Options.Operations", "is not in graphqlws.Options.Operations"},
		{"nosuch:{}", "is not in graphqlws.Options.Operations", "is not in graphqlws.Options.Operations"},
		{"", "is not in graphqlws.Options.Operations", "is not in graphqlws.Options.Operations"},
		{`ticks:{"s":"` + strings.Repeat("B", maxQuery) + `"}`, "64 KiB", "64 KiB"},
		{"ticks:[]", "has no JSON object", "has no JSON object"},
		{"ticks:", "has no JSON object", "has no JSON object"},
		{"ticks {}", "has no JSON object", "has no JSON object"},
		{`ticks:{"s":}`, "has no JSON object", "has no JSON object"},
		{"ticks:{\"s\":\"\xff\"}", "has no JSON object", "has no JSON object"},
		{"{ e", "is no GraphQL document", "is no GraphQL document"},
		{"{ \"\xff\" }", "is not UTF-8", "is not UTF-8"},
		{"{ e }" + strings.Repeat(" ", maxQuery), "64 KiB", "64 KiB"},
	} {
		for use, want := range map[wire.Use]string{wire.UseSubscribe: row.subscribe, wire.UsePublish: row.publish} {
			err := d.CheckTopic(use, row.topic)
			var te *TopicError
			if errors.As(err, &te) != (want != "") || te != nil && (!strings.Contains(te.Error(), want) || len(te.Topic) > maxTopic) {
				t.Errorf("%.40q, use %d: %v, want %s", row.topic, use, err, want)
			}
		}
	}
}

// TestVerdict: each row of the table, and what it leaves to the client.
func TestVerdict(t *testing.T) {
	d := New(Options{})
	for code, want := range map[uint16]string{
		4400: "stop protocol", 4401: "refresh auth", 4403: "refresh auth", 4406: "stop protocol", 4408: "back off timeout",
		4409: "stop protocol", 4429: "back off overload", 4499: "back off network", 4500: "back off other",
		0: "default ", 1000: "default ", 1001: "default ", 1011: "default ", 4000: "default ", 4402: "default ",
	} {
		v := d.Verdict(wire.Failure{Stage: wire.StageOpen, Code: code})
		if got := fmt.Sprint(v.Action, " ", v.Class); got != want {
			t.Errorf("%d: %s, want %s", code, got, want)
		}
	}
	for code := range verdicts {
		if v := d.Verdict(wire.Failure{Stage: wire.StageUpgrade, Status: int(code)}); v != (wire.Verdict{}) {
			t.Errorf("status %d: %+v", code, v)
		}
	}
}

// TestTraits: what a server can do, which depends on the options.
func TestTraits(t *testing.T) {
	want := wire.Traits{Publish: true, Acks: true, Unsubscribe: true, Greeting: true, Confirms: true, ByKey: true, Ping: wire.PingOp}
	if got := New(Options{}).Traits(); got != want {
		t.Errorf("%+v", got)
	}
	want.Resume = true
	if got := New(sample).Traits(); got != want {
		t.Errorf("%+v", got)
	}
	if got := New(Options{ControlPing: true}).Traits(); got.Ping != wire.PingControl {
		t.Errorf("%+v", got)
	}
}

// TestAttempt: the subprotocol is offered, and no other is spoken.
func TestAttempt(t *testing.T) {
	d := New(Options{})
	a := wire.Attempt{Token: "t"}
	if err := d.Attempt(&a); err != nil || !a.Dial || fmt.Sprint(a.Subprotocols) != "[graphql-transport-ws]" {
		t.Errorf("%+v, %v", a, err)
	}
	for _, chosen := range []string{"", "graphql-ws"} {
		if c, err := d.Open(wire.Resume{Subprotocol: chosen}); err == nil || c != nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", chosen)) {
			t.Errorf("%q: %v", chosen, err)
		}
	}
}

// TestDocuments: the operations of GraphQL documents.
func TestDocuments(t *testing.T) {
	for document, want := range map[string]string{
		"":                                     "",
		"# only a comment":                     "",
		"{ a }":                                "query ",
		"\ufeff { a }":                         "query ",
		"query { a }":                          "query ",
		"subscription s { a }":                 "subscription s",
		"subscription($a: Int = 1) { a(b:$a)}": "subscription ",
		"mutation m($a: In = {b: [1]}) @d(x: {}) { a { b } }":        "mutation m",
		"fragment f on T { a } subscription s { ...f }":              "subscription s",
		"subscription s { ...f } fragment mutation on query { a }":   "subscription s",
		"query a { a } # mutation x {}\nmutation b { b },query c{c}": "query a, mutation b, query c",
		`query { a(b: "} mutation x { \" #") }`:                      "query ",
		`query { a(b: """} " \""" mutation {""") }`:                  "query ",
		`query { a(b: "") }`:                                         "query ",
		`query { a(b: "\\") } mutation b { b }`:                      "query , mutation b",
		"query a { a } query b($x: Int) @d { b }":                    "query a, query b",
		"query query { query mutation }":                             "query query",
		"query { a":                                                  "error",
		"query { a }}":                                               "error",
		"query { a(b: \"x\n\") }":                                    "error",
		`query { a(b: "x }`:                                          "error",
		`query { a(b: """x" }`:                                       "error",
		"query )( { a }":                                             "error",
		"query":                                                      "error",
		"query a":                                                    "error",
		"type T { a: Int }":                                          "error",
		"a: { b }":                                                   "error",
		"}":                                                          "error",
		"\"x\" { a }":                                                "error",
	} {
		found, err := operations(document)
		var all []string
		for _, d := range found {
			all = append(all, d.kind+" "+d.name)
		}
		got := strings.Join(all, ", ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", document, got, want)
		}
	}
}

// TestUnmarshal: data, errors and both.
func TestUnmarshal(t *testing.T) {
	for payload, want := range map[string]string{
		`{"data":{"n":1}}`:                                         "1 <nil>",
		`{"data":{"n":1},"errors":[]}`:                             "1 <nil>",
		`{"data":{"n":1},"errors":[{"message":"m"}]}`:              "1 graphqlws: m",
		`{"data":null,"errors":[{"message":"m"},{"message":"o"}]}`: "0 graphqlws: m (first of 2 errors)",
		`{"errors":[{"message":"m","extensions":{"code":"c"}}]}`:   "0 graphqlws: m",
		`{"data":{"n":"x"}}`:                                       "0 graphqlws: the data does not fit: json: cannot unmarshal string into Go struct field .N of type int",
		`[]`:                                                       "0 graphqlws: not an execution result: json: cannot unmarshal array into Go value of type graphqlws.Result",
	} {
		var v struct{ N int }
		err := Unmarshal([]byte(payload), &v)
		if got := fmt.Sprint(v.N, " ", err); got != want {
			t.Errorf("%s: %s, want %s", payload, got, want)
		}
		var re *ResultError
		if strings.Contains(payload, "extensions") && (!errors.As(err, &re) || re.Errors[0].Code() != "c") {
			t.Errorf("%s: %v", payload, err)
		}
	}
}
