package feed

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// live opens a codec of the Coinbase table with two products of each channel.
func live(t *testing.T) wire.Codec {
	t.Helper()
	c := open(t, mustNew(t, Coinbase()))
	if _, err := decode(c, `{"type":"subscriptions","channels":[`+
		`{"name":"ticker","product_ids":["A","B"]},{"name":"matches","product_ids":["A","B"]},{"name":"level2","product_ids":["A"]}]}`); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMalformedMessages: a message that cannot be read or placed is skipped, and the
// subscriptions that it may have been for learn it.
func TestMalformedMessages(t *testing.T) {
	const object = `malformed 1 not a JSON object, or nested too deep; a text such as pong belongs in Table.Heartbeats, as "=pong"`
	const loose = "malformed 1 a value that is not JSON"
	const kind = `malformed 1 member "product_id" is neither a string nor a number`
	whole := []string{"gap ticker/A malformed 0", "gap ticker/B malformed 0"}
	for _, row := range []struct {
		text string
		want []string
	}{
		{"ping", []string{object}},
		{"", []string{object}},
		{"[1,2]", []string{strings.Replace(object, "1", "2", 1)}},
		{`[["ticker","A"]]`, []string{object}},
		{`{"type":"ticker","product_id":"A","price":NaN}`, []string{loose, "gap ticker/A malformed 1"}},
		{`{"price":-Infinity,"type":"ticker","product_id":"A"}`, []string{loose, "gap ticker/A malformed 1"}},
		{`{"price":01.5,"type":"ticker","product_id":"A"}`, []string{loose, "gap ticker/A malformed 1"}},
		{`{"type":"ticker","product_id":NaN}`, append([]string{loose}, whole...)},
		{`{"type":NaN,"product_id":"A"}`, []string{loose}},
		{`{"type":"ticker","product_id":"A","price":`, []string{object, "gap ticker/A malformed 1"}},
		{`{"type":"ticker","price":"1`, append([]string{object}, whole...)},
		{`{"type":"ticker","product_id":null}`, append([]string{`malformed 1 a message of type "ticker" without a product`}, whole...)},
		{`{"type":"ticker","product_id":{}}`, append([]string{kind}, whole...)},
		{`{"type":"ticker","product_id":"A","product_id":"B"}`, append([]string{`malformed 1 a message with two members "product_id"`}, whole...)},
		{`{"type":"ticker","type":"match","product_id":"A"}`, []string{`malformed 1 a message with two members "type"`}},
		{`{"type":"ticker","product_id":"A","trade_id":1,"trade_id":2}`, []string{`malformed 1 a message with two members "trade_id"`, "gap ticker/A malformed 1"}},
		{"{\"type\":\"ticker\",\"product_id\":\"A\",\"x\":\"\xff\"}", []string{"malformed 1 text that is not UTF-8", "gap ticker/A malformed 1"}},
		{`{"type":"match","product_id":"A","trade_id":-1}`, []string{`malformed 1 member "trade_id" is not a whole number below 2^64`, "gap matches/A malformed 1"}},
		{`{"type":"match","product_id":"A"}`, []string{`malformed 1 a message of type "match" without its number`, "gap matches/A malformed 1"}},
		{`{"type":"match","trade_id":1}`, []string{`malformed 1 a message of type "match" without a product`, "gap matches/A malformed 0", "gap matches/B malformed 0"}},
		{`{"type":"subscriptions","channels":5}`, []string{`malformed 1 a message of type "subscriptions" does not have the shape that the table describes`}},
		{`[{"type":"ticker","product_id":"A","x":NaN},{"type":"ticker","product_id":"B"}]`,
			[]string{loose, "gap ticker/A malformed 1", `data ticker/B ticker {"type":"ticker","product_id":"B"}`}},
		{`{"type":"ticker","product_id":"B"} x`, []string{`data ticker/B ticker {"type":"ticker","product_id":"B"}`, object}},
	} {
		c := live(t)
		expect(t, c, row.text, row.want...)
		expect(t, c, `{"type":"ticker","product_id":"A"}`, `data ticker/A ticker {"type":"ticker","product_id":"A"}`)
	}
}

// TestMalformedSequence: a hole that a reported message explains is not reported again.
func TestMalformedSequence(t *testing.T) {
	c := open(t, mustNew(t, exchange()))
	expect(t, c, `{"kind":"ok","ch":"book","sym":["A","B"],"n":1}`, "subscribed book/A none", "subscribed book/B none")
	expect(t, c, `{"kind":"update","ch":"book","sym":"A","n":null,"x":NaN}`, "malformed 1 a value that is not JSON", "gap book/A malformed 1")
	expect(t, c, `{"kind":"beat","n":3}`)
	expect(t, c, `{"kind":"update","ch":"book","sym":"A","x":NaN,"n":4}`, "malformed 1 a value that is not JSON", "gap book/A malformed 1")
	expect(t, c, `{"kind":"beat","n":5}`)
	expect(t, c, "ping", `malformed 1 not a JSON object, or nested too deep; a text such as pong belongs in Table.Heartbeats, as "=pong"`)
	expect(t, c, `{"kind":"beat","n":7}`, "reset book/A lost at 0", "reset book/B lost at 0")
}

// TestMalformedEventsAreBounded: a message without a product is cheap to send, so it
// must not cause many events for many subscriptions.
func TestMalformedEventsAreBounded(t *testing.T) {
	c := open(t, mustNew(t, Coinbase()))
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("%q", fmt.Sprint("P", i))
	}
	if _, err := decode(c, `{"type":"subscriptions","channels":[{"name":"ticker","product_ids":[`+strings.Join(names, ",")+`]}]}`); err != nil {
		t.Fatal(err)
	}
	var out wire.Events
	text := "[1" + strings.Repeat(",1", 1000) + strings.Repeat(`,{"type":"ticker"},{"type":"ticker","product_id":"P7"}`, 100) + "]"
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &out); err != nil {
		t.Fatal(err)
	}
	// One for the values, 100 for the messages, as many messages of P7, its gaps, and one gap for each other.
	if n := len(out.List); n != 1+100+100+100+999 {
		t.Errorf("got %d events", n)
	}
}

// What follows the subscriptions is given up, not emptied: an empty map that was large
// costs as much to go through as a full one, for each message that a server spoils.
func TestSpoiledMessagesCostTheSame(t *testing.T) {
	c := open(t, mustNew(t, exchange()))
	expect(t, c, `{"kind":"ok","ch":"book","sym":["A","B"],"n":1}`, "subscribed book/A none", "subscribed book/B none")
	expect(t, c, `{"kind":"update","ch":"book","n":2}`, `malformed 1 a message of type "update" without a product`, "gap book/A malformed 0", "gap book/B malformed 0")
	expect(t, c, `{"kind":"beat","n":4}`, "reset book/A lost at 0", "reset book/B lost at 0")
	if k := c.(*codec); k.whole[1] != nil || k.unbroken != nil {
		t.Errorf("kept %v and %v", k.whole[1], k.unbroken)
	}
}

// An entry of a list, too, may be of no type that the table names.
func TestEntriesOfUnnamedTypes(t *testing.T) {
	table := crowded()
	table.Login = Login{}
	table.Channels[1].Types = []string{"x.list[].kind=new"}
	c := open(t, mustNew(t, table))
	expect(t, c, `{"x":{"c":"chain","list":[{"p":"A","n":1,"kind":"new"},{"p":"A","n":2,"before":1,"kind":"odd"},{"p":"A","n":3,"before":1,"kind":"new"}]}}`,
		`data chain/A (0,1]  {"p":"A","n":1,"kind":"new"}`,
		"malformed 1 a message without a type, which no match of the feed's table takes", "gap chain/A malformed 1",
		`data chain/A (1,3]  {"p":"A","n":3,"before":1,"kind":"new"}`)
}
