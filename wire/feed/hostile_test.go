package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

func nested(open, shut string, n int) string {
	return strings.Repeat(open, n) + strings.Repeat(shut, n)
}

func TestHostileFrames(t *testing.T) {
	d := mustNew(t, Coinbase())
	const beat = `{"type":"heartbeat"}`
	for _, text := range []string{
		"", " ", "\n", "x", "1", `"type"`, "null", "true", "{", "}", "[", "]", "[[]]", "[" + beat, "[" + beat + ",]", "[," + beat + "]", "[1]", beat + beat, beat + " x", "[]]",
		`{"type"}`, `{"type":}`, `{"type":"ticker",}`, `{,}`, `{type:"ticker"}`, `{'type':1}`, `{"type":"ticker"`, `{"type":"tick`,
		`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":+1}`, `{"a":0x1}`, `{"a":NaN}`, `{"a":tru}`, `{"a":nul`, `{"a":truest}`,
		`{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"\`, `{"a":"\u`, "{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", "{\"a\"\x00:1}", beat + "\x00",
		"\ufeff" + beat, "{\"a\":\"\xff\"}", "{\"a\":\"\xc0\x80\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"\xfe\":1}",
		`{"type":"ticker","type":"match"}`, `{"type":"ticker","typ\u0065":"match"}`, `{"type":{}}`, `{"type":[]}`, `{"type":true}`,
		`{"type":"ticker","product_id":{}}`, `{"type":"ticker","product_id":false}`,
		`{"a":` + nested("[", "]", maxDepth) + `}`,
		nested(`{"a":`, "}", 100_000), strings.Repeat("[", 100_000), strings.Repeat(`{"":`, 100_000),
	} {
		expectCode(t, open(t, d), text, 1007)
	}
	if got, err := decode(open(t, d), `{"type":"heartbeat","a":`+nested("[", "]", maxDepth-1)+`}`); got != "" || err != nil {
		t.Errorf("depth %d: got %q, %v, want it accepted", maxDepth, got, err)
	}
	var out wire.Events
	var ce *wire.CodeError
	err := strict(open(t, d)).Decode(wire.Frame{Type: wire.Binary, Data: []byte("{}")}, &out)
	if !errors.As(err, &ce) || ce.Code != 1003 {
		t.Errorf("binary: got %v, want code 1003", err)
	}
	if err := open(t, d).Decode(wire.Frame{Type: wire.Binary, Data: []byte("{}")}, &out); err != nil || len(out.List) != 1 || out.List[0].Kind != wire.EventMalformed {
		t.Errorf("binary: got %v, %+v, want it skipped", err, out.List)
	}
}

// TestErrorsHoldNoPayload: reasons travel to the peer and into logs.
func TestErrorsHoldNoPayload(t *testing.T) {
	for _, text := range []string{`{"type":"match","product_id":"A","trade_id":"secret"}`, `{"secret":secret}`, `{"type":"ticker","product_id":["secret"]}`} {
		c := open(t, mustNew(t, Coinbase()))
		_, err := decode(strict(c), text)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", text, err)
		}
		if got, _ := decode(c, text); !strings.Contains(got, "malformed") || strings.Contains(got, "secret") {
			t.Errorf("%s: got %s", text, got)
		}
	}
}

// TestInvalidProducts: no subscription can have such a topic.
func TestInvalidProducts(t *testing.T) {
	c := open(t, mustNew(t, Coinbase()))
	for _, product := range []string{`*`, `A-*`, `\u0000`, `a\nb`, `/a`, `a//b`, strings.Repeat("a", 249)} {
		expect(t, c, `{"type":"ticker","product_id":"`+product+`"}`, `malformed 1 a message of type "ticker" with a product that cannot be subscribed to`)
		expect(t, c, `{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["`+product+`"]}]}`)
	}
}

func TestTooManyTopics(t *testing.T) {
	messages := map[string]func(i int) string{
		"data": func(i int) string { return fmt.Sprintf(`{"type":"ticker","product_id":"P%d"}`, i) },
		"confirm": func(i int) string {
			return fmt.Sprintf(`{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["P%d"]}]}`, i)
		},
	}
	for name, message := range messages {
		c := open(t, mustNew(t, Coinbase()))
		for i := range maxTopics {
			if _, err := decode(c, message(i)); err != nil {
				t.Fatalf("%s: topic %d: %v", name, i, err)
			}
		}
		expectCode(t, c, message(maxTopics), 1008)
		if _, err := decode(c, message(0)); err != nil {
			t.Errorf("%s: a known topic: %v", name, err)
		}
	}
	subs := make([]wire.Subscribe, maxTopics+1)
	for i := range subs {
		subs[i].Topic = fmt.Sprintf("ticker/P%d", i)
	}
	if _, err := mustNew(t, Coinbase()).Open(wire.Resume{Subs: subs}); err == nil {
		t.Error("Open accepted more topics than a connection may have")
	}
}

// A confirmation names channels times products: few bytes must not name many topics.
func TestConfirmationIsBounded(t *testing.T) {
	list := func(n int, name string) string { return "[" + strings.Repeat(name+",", n-1) + name + "]" }
	message := func(n int) string {
		return `{"kind":"ok","ch":` + list(n, `"book"`) + `,"sym":` + list(n, `"A"`) + `}`
	}
	expect(t, open(t, mustNew(t, exchange())), message(200), "subscribed book/A none")
	expectCode(t, open(t, mustNew(t, exchange())), message(2000), 1008)
}

// TestEventsAreBoundedByBytes: holes and empty confirmations are cheap to send, so
// none of them may cause many events.
func TestEventsAreBoundedByBytes(t *testing.T) {
	c := open(t, mustNew(t, exchange()))
	var b strings.Builder
	b.WriteString(`[{"kind":"ok","ch":"book","sym":["P"`)
	for i := range 1000 {
		fmt.Fprintf(&b, `,"P%d"`, i)
	}
	b.WriteString(`]}`)
	for i := range 1000 {
		fmt.Fprintf(&b, `,{"n":%d}`, 2*i)
	}
	b.WriteString(`]`)
	var out wire.Events
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(b.String())}, &out); err != nil {
		t.Fatal(err)
	}
	if n := len(out.List); n != 2*1001+2 { // subscribed, reset, and messages without a type, before the resets and after
		t.Errorf("got %d events", n)
	}
}

// TestStringsOfEveryLength: the scanner looks at 16 bytes at once, and at the last ones of
// a frame one by one. Wherever in a string something is, it is found.
func TestStringsOfEveryLength(t *testing.T) {
	c := open(t, mustNew(t, Coinbase()))
	parts := []string{"", `"`, `\`, "\x00", "\x1f", " ", "!", "#", "\x7f", `\"`, `\\`, `\u00e9`, `\u00g9`, `\x`, "é", "\u2028", "\xff", "\xe2\x80"}
	passed, refused := 0, 0
	for _, rest := range []string{`"}`, `","side":"the string is not the last in its frame"}`} {
		for length := range 36 {
			for at := range length + 1 {
				for _, part := range parts {
					text := `{"type":"ticker","product_id":"A","x":"` + strings.Repeat("a", at) + part + strings.Repeat("b", length-at) + rest
					var out wire.Events
					if err := c.Decode(frameOf(text), &out); err != nil || len(out.List) == 0 {
						t.Fatalf("%q: %d events, %v", text, len(out.List), err)
					}
					got := out.List[0].Kind == wire.EventData
					if got != (json.Valid([]byte(text)) && utf8.ValidString(text)) {
						t.Fatalf("%q: taken for JSON: %v", text, got)
					}
					if got {
						passed++
					} else {
						refused++
					}
				}
			}
		}
	}
	if passed < 5000 || refused < 5000 {
		t.Errorf("%d passed, %d refused: want many of both", passed, refused)
	}
}

func FuzzDecode(f *testing.F) {
	var dialects []wire.Dialect
	for _, table := range []Table{
		Coinbase(), exchange(), bare(), Kraken(), Binance(), BinanceFutures(), OKX(), Bybit(), Bitstamp(), krakenV1(), crowded(),
	} {
		dialects = append(dialects, mustNew(f, table))
	}
	for _, s := range []string{
		`{"type":"match","product_id":"A","trade_id":5}`, `[{"type":"ticker","product_id":"A"},{"type":"heartbeat"}]`,
		`{"type":"subscriptions","channels":[{"name":"level2","product_ids":["A"]}]}`, `{"type":"error","message":"m","reason":[1]}`,
		`{"kind":"update","ch":"trades","sym":"A","id":"7","n":1}`, `{"kind":"ok","ch":["book"],"sym":"A","n":3}`, `{"kind":"bye","ch":"book","sym":"A"}`,
		`{"kind":"fail","why":"\ud800","ch":"book","sym":"A"}`, `{"t":"x","p":"\u0041"}`, `{"a":[1.5e+3,-0,"\\\"",{"b":null}]}`, "\xff",
	} {
		f.Add([]byte(s), []byte(s), uint64(6))
	}
	for _, s := range []string{
		`{"channel":"trade","type":"update","data":[{"symbol":"A","trade_id":7},{"symbol":"B","trade_id":NaN}]}`, `{"method":"subscribe","success":true,"req_id":1}`,
		`{"channel":"ohlc","type":"update","data":[{"symbol":"A","interval":5}]}`, `{"stream":"a@depth","data":{"e":"depthUpdate","U":7,"u":9,"pu":6}}`, `{"code":2,"msg":"x","id":1}`,
		`{"arg":{"channel":"books","instId":"A"},"action":"update","data":[{"prevSeqId":-1,"seqId":9},{"prevSeqId":9,"seqId":3}]}`, `pong`, `{"event":"notice"}`,
		`{"topic":"orderbook.50.A","type":"delta","data":{"u":5}}`, `{"topic":"publicTrade.A","data":[{},{"i":1}]}`, `{"event":"trade","channel":"live_trades_a","data":{}}`,
		`[1,{"as":[]},"book-10","A/B"]`, `[[1],[2]]`, `{"x":{"list":[{"p":"A","n":5,"of":2},[1]],"c":"c-7"},"ask":3}`, `{"hello":"h"}`, `{"hi":1}`,
	} {
		f.Add([]byte(s), []byte(`{"x":{"list":[{"p":"A","n":4},{"p":"A","n":4,"n":5}],"c":"c-7"}}`), uint64(6))
	}
	f.Fuzz(func(t *testing.T, one, two []byte, last uint64) {
		for _, d := range dialects {
			c, err := d.Open(wire.Resume{Subs: []wire.Subscribe{{Topic: d.(*dialect).channels[0].name.fill("1") + "/A", Position: wire.Position{Offset: last}}}})
			if err != nil {
				t.Fatal(err)
			}
			for _, data := range [][]byte{one, two} {
				fuzzFrame(t, d, c, data)
			}
		}
	})
}

// fuzzFrame decodes one frame. What is not JSON in UTF-8 never passes unnoticed.
func fuzzFrame(t *testing.T, d wire.Dialect, c wire.Codec, data []byte) {
	var out wire.Events
	if err := c.Decode(frameOf(string(data)), &out); err != nil {
		t.Fatalf("%q: %v", data, err) // too few bytes for too many topics
	}
	if k := d.(*dialect).rules.texts[string(data)]; k != nil {
		return
	}
	skipped := slices.ContainsFunc(out.List, func(e wire.Event) bool { return e.Kind == wire.EventMalformed })
	if !skipped && (!json.Valid(data) || !utf8.Valid(data)) {
		t.Fatalf("accepted %q, which is not JSON in UTF-8", data)
	}
	checkEvents(t, d, data, &out)
	fresh, _ := d.Open(wire.Resume{})
	events, _ := decode(fresh, string(data))
	fresh, _ = d.Open(wire.Resume{})
	switch same, err := decode(strict(fresh), string(data)); {
	case (err != nil) != strings.Contains(events, "malformed "):
		t.Fatalf("%q: strict: %v, otherwise %s", data, err, events)
	case err == nil && same != events:
		t.Fatalf("%q: strict: %s, otherwise %s", data, same, events)
	}
}

// checkEvents checks what must hold for every event, whatever the input was.
func checkEvents(t *testing.T, d wire.Dialect, data []byte, out *wire.Events) {
	for i := range out.List {
		e := &out.List[i]
		if !e.Kind.OfSubscription() {
			switch e.Kind {
			case wire.EventPing, wire.EventGoAway:
				continue
			case wire.EventStep, wire.EventReady:
				if (e.Step == nil) == (e.Ready == nil) || d.(*dialect).login.Message == nil {
					t.Fatalf("%q: event %+v", data, e)
				}
				continue
			}
			if e.Kind != wire.EventError && (e.Kind != wire.EventMalformed || e.Count == 0) || e.Reason == "" || len(e.Reason) > 2*maxReason {
				t.Fatalf("%q: event %+v", data, e)
			}
			continue
		}
		if err := d.CheckTopic(wire.UseSubscribe, e.Name); err != nil {
			t.Fatalf("%q: event for a topic that cannot be subscribed to: %v", data, err)
		}
		if malformed := e.Cause == wire.CauseMalformed; e.Kind == wire.EventGap && (malformed && (!e.Position.IsZero() || e.Prev != 0) || !malformed && e.Prev >= e.Position.Offset) {
			t.Fatalf("%q: %+v", data, e)
		}
		if e.Kind == wire.EventData && (e.Message.Topic != e.Name || !json.Valid(e.Message.Payload) || e.Numbered && e.Prev > e.Position.Offset) {
			t.Fatalf("%q: %s", data, show(e))
		}
	}
}

// FuzzTable: whatever the texts of a table are, New refuses it or the codec works.
func FuzzTable(f *testing.F) {
	f.Add(`{"s":["$stream","..."],"id":"#id"}`, "d[0].p", "a=*", "list", "channel.product", "x-*", `{"d":[{"p":"A"}],"a":1}`)
	f.Add(`{"c":"$channel","p":[{"x":"$product"},"..."]}`, "list[].p", "ok", "list", "product@channel", "x", `{"list":[{"p":"A"},{"p":[]}]}`)
	f.Add(`[["$product","..."],["$channel","..."],"#id","x"]`, "[-1]", "=pong", "[1]", "channel-product", "*x", `[{},[{"p":1},2],"A"]`)
	f.Fuzz(func(t *testing.T, request, path, match, list, stream, name, message string) {
		for i := range 4 {
			table := Table{
				Name: "fuzz", Type: "t", Subscribe: Request{JSON: request}, Unsubscribe: Request{JSON: request}, Entries: list, StreamName: stream, LowerCase: i == 1,
				Channels: []Channel{
					{Name: name, Number: path + "n", Types: []string{match}, NewestFirst: i == 1 && list != ""},
					{
						Name: "other-*", Request: "other", Param: path, Cursor: "c", Snapshots: []string{match + "1"},
						Subscribe: Request{JSON: `["$product","$param","$cursor"]`}, Unsubscribe: Request{JSON: `["$product","#param"]`},
					},
				},
				Confirm: Confirm{Type: match + "2", Channel: path, Products: path}, Error: ErrorMessage{Type: match, Text: path, Channel: path, Product: path, Retry: path},
				Heartbeats: []string{match + "3"}, Question: match + "4", Answer: message, PingText: `{"ping":"#time"}`,
			}
			if i%2 == 0 {
				table.Channel, table.Product = "ch", path
			} else {
				table.Stream = path
			}
			if strings.Contains(request, "id") {
				table.ID = "id"
			}
			if i > 1 {
				table.Entries, table.Channels = "", table.Channels[:1]
			}
			d, err := New(table)
			if err != nil {
				var te *TableError
				if !errors.As(err, &te) {
					t.Fatalf("got %v, want a *TableError", err)
				}
				continue
			}
			topic := name + "/A"
			if d.CheckTopic(wire.UseSubscribe, topic) != nil {
				topic = "other-1/A"
			}
			c, err := d.Open(wire.Resume{Subs: []wire.Subscribe{{Topic: topic}}})
			if err != nil {
				continue
			}
			var frames wire.Frames
			if err := c.Start(&frames); err != nil {
				t.Fatal(err)
			}
			ops := []wire.Op{{Kind: wire.OpSubscribe, Topic: topic}, {Kind: wire.OpUnsubscribe, Topic: topic}, {Kind: wire.OpPing}, {Kind: wire.OpPong, N: 3}}
			if err := c.Encode(ops, &frames); err != nil {
				t.Fatal(err)
			}
			for _, frame := range frames.List[:len(frames.List)-1] {
				if !json.Valid(frame.Data) {
					t.Fatalf("sends %q, which is not JSON", frame.Data)
				}
			}
			var out wire.Events
			for _, text := range []string{message, message, match, request} {
				if err := c.Decode(frameOf(text), &out); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
			}
			for _, e := range out.List {
				if e.Kind.OfSubscription() && d.CheckTopic(wire.UseSubscribe, e.Name) != nil {
					t.Fatalf("an event of the topic %q", e.Name)
				}
			}
		}
	})
}
