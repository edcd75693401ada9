package feed

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// show formats an event as one line.
func show(e *wire.Event) string {
	switch e.Kind {
	case wire.EventSubscribed:
		return fmt.Sprintf("subscribed %s %s", e.Name, [...]string{"none", "by-number", "proved"}[e.Continuity])
	case wire.EventUnsubscribed:
		return fmt.Sprintf("unsubscribed %s %s %s", e.Name, showCode(e), e.Reason)
	case wire.EventReset:
		return fmt.Sprintf("reset %s %s at %d", e.Name, e.Cause, e.Position.Offset)
	case wire.EventGap:
		return fmt.Sprintf("gap %s %s %d", e.Name, e.Cause, e.Count)
	case wire.EventMalformed:
		if e.Detail != "" {
			return fmt.Sprintf("malformed %d %s: %s", e.Count, e.Reason, e.Detail)
		}
		return fmt.Sprintf("malformed %d %s", e.Count, e.Reason)
	case wire.EventError:
		return fmt.Sprintf("error %s %s", showCode(e), e.Reason)
	case wire.EventData:
		s := "data " + e.Name
		if e.Numbered {
			s += fmt.Sprintf(" (%d,%d]", e.Prev, e.Position.Offset)
		}
		if e.Message.Snapshot && e.Message.SnapshotEnd {
			s += " snapshot"
		}
		if e.Message.Redelivered {
			s += " again"
		}
		return s + " " + e.Message.Type + " " + string(e.Message.Payload)
	}
	return fmt.Sprintf("event %d", e.Kind)
}

// showCode formats the code of an error, and that of the server if there is one.
func showCode(e *wire.Event) string {
	s := fmt.Sprint(e.Code)
	if e.Code == wire.CodeRefused {
		s = "refused"
	}
	if e.PeerCode != 0 {
		s += fmt.Sprintf(" (%d)", e.PeerCode)
	}
	return s
}

// frameOf returns a frame with nothing behind its end, where a codec must not look.
func frameOf(text string) wire.Frame {
	data := []byte(text)
	return wire.Frame{Type: wire.Text, Data: data[:len(data):len(data)]}
}

func decode(c wire.Codec, text string) (string, error) {
	var out wire.Events
	err := c.Decode(frameOf(text), &out)
	lines := make([]string, len(out.List))
	for i := range out.List {
		lines[i] = show(&out.List[i])
	}
	return strings.Join(lines, "\n"), err
}

// expect decodes text and compares the events, one per line.
func expect(t *testing.T, c wire.Codec, text string, want ...string) {
	t.Helper()
	got, err := decode(c, text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if w := strings.Join(want, "\n"); got != w {
		t.Fatalf("%s\ngot:\n%s\nwant:\n%s", text, got, w)
	}
}

func resume(t *testing.T, table Table, topic string, last uint64) wire.Codec {
	t.Helper()
	c, err := mustNew(t, table).Open(wire.Resume{Subs: []wire.Subscribe{
		{Topic: topic, From: wire.FromResume, Position: wire.Position{Offset: last}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPayloadIsACopyVerbatim(t *testing.T) {
	c := open(t, mustNew(t, bare()))
	frame := []byte(" [ {\"t\":\"x\", \"p\" : \"A\",\"v\":[1.50, {\"p\":\"B\"}]} ,\n{\"p\":\"\\u0042\",\"t\":\"\\u0078\"}]\r\n")
	var out wire.Events
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: frame}, &out); err != nil {
		t.Fatal(err)
	}
	for i := range out.List {
		out.List[i].OwnPayload()
	}
	clear(frame)
	var got []string
	for i := range out.List {
		got = append(got, show(&out.List[i]))
	}
	want := "data all/A x {\"t\":\"x\", \"p\" : \"A\",\"v\":[1.50, {\"p\":\"B\"}]}\n" +
		"data all/B x {\"p\":\"\\u0042\",\"t\":\"\\u0078\"}"
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got:\n%s\nwant:\n%s", g, want)
	}
	if m := &out.List[0].Message; m.Topic != "all/A" {
		t.Errorf("got topic %q", m.Topic)
	}
}

// A message is no answer: only the client knows whether it stands for one.
func TestMessagesConfirmNothing(t *testing.T) {
	for _, table := range []Table{bare(), confirming()} {
		c := open(t, mustNew(t, table), "all/A")
		for range 2 {
			expect(t, c, `{"t":"x","p":"A"}`, `data all/A x {"t":"x","p":"A"}`)
		}
	}
}

// confirming is bare with confirmations.
func confirming() Table {
	table := bare()
	table.Confirm = Confirm{Type: "ok", Channel: "c", Products: "p"}
	return table
}

// Every confirmation is reported, also of what was confirmed or has sent messages
// before: it may answer a later request.
func TestEveryConfirmationIsReported(t *testing.T) {
	c := open(t, mustNew(t, confirming()), "all/A")
	for range 3 {
		expect(t, c, `{"t":"ok","c":"all","p":"A"}`, "subscribed all/A none")
		expect(t, c, `{"t":"x","p":"A"}`, `data all/A x {"t":"x","p":"A"}`)
	}
	expect(t, c, `{"t":"ok","c":["all","all"],"p":["A","A"]}`, "subscribed all/A none")
}

// A complete list says what has begun and what has ended.
func TestConfirmList(t *testing.T) {
	c := open(t, mustNew(t, Coinbase()))
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2","product_ids":["A","B"]},{"name":"status","product_ids":["A"]}]}`,
		"subscribed level2/A none", "subscribed level2/B none")
	expect(t, c, `{"type":"last_match","trade_id":7,"product_id":"A"}`,
		`data matches/A (6,7] again last_match {"type":"last_match","trade_id":7,"product_id":"A"}`)
	// matches/A was on no list, so it has not ended. The same list again answers a request
	// for what was subscribed already, whichever that was.
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2","product_ids":["A","B","A"]}]}`,
		"subscribed level2/A none", "subscribed level2/B none")
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2","product_ids":["A","B"]},{"name":"matches","product_ids":["A"]}]}`,
		"subscribed matches/A by-number")
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2","product_ids":["B"]},{"name":"matches","product_ids":["B","*","","B"]}]}`,
		"subscribed matches/B by-number", "unsubscribed level2/A 0 ", "unsubscribed matches/A 0 ")
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2","product_ids":["A","B"]},{"name":"matches","product_ids":["B"]}]}`,
		"subscribed level2/A none")
	expect(t, c, `{"type":"subscriptions","channels":[]}`, "unsubscribed level2/A 0 ", "unsubscribed level2/B 0 ", "unsubscribed matches/B 0 ")
	expect(t, c, `{"type":"snapshot","product_id":"B"}`, `data level2/B snapshot snapshot {"type":"snapshot","product_id":"B"}`)
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"matches","product_ids":["A","B"]}]}`,
		"subscribed matches/A by-number", "subscribed matches/B by-number")
	for _, bad := range []string{
		`{"type":"subscriptions"}`, `{"type":"subscriptions","channels":{}}`, `{"type":"subscriptions","channels":[1]}`,
		`{"type":"subscriptions","channels":[{"name":{},"product_ids":[]}]}`,
		`{"type":"subscriptions","channels":[{"name":"level2","product_ids":[1]}]}`,
	} {
		expectCode(t, open(t, mustNew(t, Coinbase())), bad, 1007)
	}
}

// The server confirms one channel under another name than it was asked for.
func TestChannelWithSeveralNames(t *testing.T) {
	c := open(t, mustNew(t, Coinbase()), "level2/A")
	if got := encode(t, c); len(got) != 1 || got[0] != `{"type":"subscribe","product_ids":["A"],"channels":["level2_batch"]}` {
		t.Errorf("asked with %q", got)
	}
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2_50","product_ids":["A"]}]}`, "subscribed level2/A none")
	expect(t, c, `{"type":"subscriptions","channels":[{"name":"level2_batch","product_ids":["A"]}]}`, "subscribed level2/A none")
	expect(t, c, `{"type":"subscriptions","channels":[]}`, "unsubscribed level2/A 0 ")
	for _, topic := range []string{"level2_50/A", "level2_batch/A"} {
		if err := mustNew(t, Coinbase()).CheckTopic(wire.UseSubscribe, topic); err == nil {
			t.Errorf("%s: a topic has the table's name of its channel", topic)
		}
	}
}

func TestConfirmFlat(t *testing.T) {
	c := open(t, mustNew(t, exchange()))
	expect(t, c, `{"kind":"ok","ch":"trades","sym":"A"}`, "subscribed trades/A by-number")
	expect(t, c, `{"kind":"ok","ch":["trades","book"],"sym":["A","B"]}`,
		"subscribed trades/A by-number", "subscribed trades/B by-number", "subscribed book/A none", "subscribed book/B none")
	expect(t, c, `{"kind":"ok","ch":"other","sym":null}`)
	expect(t, c, `{"kind":"ok","ch":"book"}`, "malformed 1 a confirmation that names a channel without a product")
	expect(t, c, `{"kind":"bye","ch":"book","sym":["A","C"]}`, "unsubscribed book/A 0 ", "unsubscribed book/C 0 ")
	expect(t, c, `{"kind":"ok","ch":"book","sym":"A"}`, "subscribed book/A none")
}

// A confirmation, or the end of a subscription, that names nothing where the table says is
// reported: otherwise a stream could stop, and the program would not notice.
func TestConfirmWithoutAName(t *testing.T) {
	const unnamed = "malformed 1 a confirmation, or the end of a subscription, that names no topic: it has nothing where Table.Confirm says"
	c := open(t, mustNew(t, exchange()))
	expect(t, c, `{"kind":"ok"}`, unnamed)
	expect(t, c, `{"kind":"bye","place":"A"}`, unnamed)
	expect(t, c, `{"kind":"ok","ch":"other","sym":"A"}`) // it names something else
	expect(t, c, `{"kind":"ok","sym":[]}`)               // nothing is subscribed
	table := exchange()
	table.Strict = true
	if _, err := decode(open(t, mustNew(t, table)), `{"kind":"bye"}`); err == nil {
		t.Error("a strict table takes the end of no topic")
	}
}

// In a table with one channel, answers need not name it.
func TestOneChannelHasNoName(t *testing.T) {
	table := Table{
		Name: "weather", Type: "type", Product: "at",
		Subscribe: Request{JSON: `{"do":"watch","place":"$product"}`},
		Channels:  []Channel{{Name: "weather", Types: []string{"at=*"}, Number: "seq"}},
		Confirm:   Confirm{Type: "ok=*", Ended: "bye=*", Products: "ok", EndedProducts: "bye"},
		Error:     ErrorMessage{Type: "err=*", Text: "err", Product: "place"},
	}
	c := open(t, mustNew(t, table), "weather/oslo", "weather/bergen")
	expect(t, c, `{"ok":"oslo"}`, "subscribed weather/oslo by-number")
	expect(t, c, `{"err":"nope","place":"bergen"}`, "unsubscribed weather/bergen refused nope")
	expect(t, c, `{"err":"busy"}`, "error refused busy")
	expect(t, c, `{"bye":"oslo"}`, "unsubscribed weather/oslo 0 ")
	expect(t, c, `{"bye":[]}`) // nothing has ended
	table.Channels = append(table.Channels, Channel{Name: "wind", Types: []string{"wind=*"}})
	for _, want := range []string{"Confirm.Channel", "Error.Channel"} {
		if _, err := New(table); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("two channels, and answers that name none: %v, want %s", err, want)
		}
		table.Confirm.Channel = "channel"
	}
}

func TestErrors(t *testing.T) {
	c := open(t, mustNew(t, exchange()), "book/A")
	expect(t, c, `{"kind":"fail","why":"no such symbol","ch":"book","sym":"A"}`, "unsubscribed book/A refused no such symbol")
	expect(t, c, `{"kind":"fail","why":{"a":1},"ch":"book"}`, `error refused {"a":1}`)
	expect(t, c, `{"kind":"fail","ch":"none","sym":"A"}`, "error refused the server reports an error")
	c = open(t, mustNew(t, Coinbase()))
	expect(t, c, `{"type":"error","message":"Failed to subscribe","reason":"X is not valid"}`, "error refused Failed to subscribe: X is not valid")
	long, err := decode(c, `{"type":"error","message":"`+strings.Repeat("é", 500)+`"}`)
	if err != nil || len(long) > len("error refused ")+maxReason || !strings.HasSuffix(long, "é...") {
		t.Errorf("got %q, %v: want at most %d bytes, cut at a character", long, err, maxReason)
	}
}

// TestErrorCodes: the server's own code is reported if it is a number.
func TestErrorCodes(t *testing.T) {
	table := exchange()
	table.Error.Code = "details.code"
	c := open(t, mustNew(t, table), "book/A")
	for code, want := range map[string]string{
		`2`: " (2)", `-1121`: " (-1121)", `"60018"`: " (60018)", `300001`: " (300001)", `0`: "", `null`: "", `1.5`: "", `"none"`: "", `{}`: "",
		`99999999999999999999`: "", `""`: "",
	} {
		expect(t, c, `{"kind":"fail","why":"no","details":{"code":`+code+`}}`, "error refused"+want+" no")
		expect(t, c, `{"kind":"fail","why":"no","ch":"book","sym":"A","details":{"code":`+code+`}}`, "unsubscribed book/A refused"+want+" no")
	}
	expect(t, c, `{"kind":"fail","why":"no"}`, "error refused no")
	table.ID, table.Subscribe.JSON = "id", `{"id":"#id","c":"$channel","s":"$product"}`
	c = open(t, mustNew(t, table))
	expect(t, c, `{"kind":"fail","why":"no","id":7,"details":{"code":3}}`, "error 0 (3) no") // it refuses nothing
}

func TestTypesWithoutData(t *testing.T) {
	c := open(t, mustNew(t, exchange()), "book/A")
	expect(t, c, `{"kind":"beat"}`)
	expect(t, c, `[{"kind":"beat"},{"kind":"news","sym":[]}]`)
	expect(t, c, `[]`)
	expect(t, c, `{"kind":"beat","ch":"book","sym":"A"}`)
	expect(t, c, `{"kind":"news","ch":"book","sym":"A"}`)
}

// TestUnnamedMessages: a message of a type or of a channel that the table does not name is
// skipped like any other that cannot be placed, and whoever it may have been for learns it.
func TestUnnamedMessages(t *testing.T) {
	const typed, channel = "a message of a type that is not in the feed's table", "a message of a channel that is not in the feed's table"
	const untyped = "a message without a type, which no match of the feed's table takes"
	c := open(t, mustNew(t, exchange()))
	expect(t, c, `{"kind":"ok","ch":["book","trades"],"sym":["A","B"]}`,
		"subscribed book/A none", "subscribed book/B none", "subscribed trades/A by-number", "subscribed trades/B by-number")
	expect(t, c, `{"kind":"what"}`, "malformed 1 "+typed+": what")
	expect(t, c, `[{"kind":"what"},{"kind":"what"},{"kind":"how"}]`, "malformed 2 "+typed+": what", "malformed 1 "+typed+": how")
	expect(t, c, `{"kind":"again","ch":"trades","sym":"A"}`, "malformed 1 "+typed+": again", "gap trades/A malformed 1")
	expect(t, c, `{"kind":"what","ch":"book","sym":"A"}`, "malformed 1 "+typed+": what", "gap book/A malformed 1")
	expect(t, c, `{"kind":"what","ch":"book"}`, "malformed 1 "+typed+": what", "gap book/A malformed 0", "gap book/B malformed 0")
	expect(t, c, `{"kind":"update","ch":"none","sym":"A"}`, "malformed 1 "+channel+": none")
	expect(t, c, `[{},{"kind":null}]`, "malformed 2 "+untyped)
	for i := range 100 {
		if _, err := decode(c, fmt.Sprintf(`{"kind":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, c, `[{"kind":"yet another"},{"kind":"and one more"}]`, "malformed 2 "+typed)
	expect(t, c, `{"kind":"what"}`, "malformed 1 "+typed+": what")
	long := strings.Repeat("é", 500)
	got, err := decode(open(t, mustNew(t, exchange())), `{"kind":"`+long+`"}`)
	if err != nil || len(got) > len("malformed 1 : "+typed)+maxReason || !strings.HasSuffix(got, "é...") {
		t.Errorf("got %q, %v: want at most %d bytes, cut at a character", got, err, maxReason)
	}
	var ce *wire.CodeError
	if _, err := decode(strict(c), `{"kind":"what"}`); !errors.As(err, &ce) || ce.Code != 1002 || err.Error() != ce.Error()+": what" {
		t.Errorf("a strict table: %v", err)
	}
}

func TestSameTypeInTwoChannels(t *testing.T) {
	c := open(t, mustNew(t, exchange()))
	expect(t, c, `{"kind":"update","ch":"trades","sym":"A","id":1}`,
		`data trades/A (0,1] update {"kind":"update","ch":"trades","sym":"A","id":1}`)
	expect(t, c, `{"kind":"update","ch":"book","sym":"A","id":1}`,
		`data book/A update {"kind":"update","ch":"book","sym":"A","id":1}`)
	expect(t, c, `{"kind":"again","ch":"book","sym":5}`,
		`data book/5 again again {"kind":"again","ch":"book","sym":5}`)
	expect(t, c, `{"kind":"full","ch":"trades","sym":"A","id":2}`, `data trades/A (1,2] snapshot full {"kind":"full","ch":"trades","sym":"A","id":2}`)
	expectCode(t, c, `{"kind":"full","ch":"trades","sym":"A"}`, 1002)
}

func TestNumbers(t *testing.T) {
	for _, test := range []struct {
		id   string
		want string
	}{
		{`1`, "(0,1] match"},
		{`"42"`, "(41,42] match"},
		{`18446744073709551615`, "(18446744073709551614,18446744073709551615] match"},
		{`"18446744073709551615"`, "(18446744073709551614,18446744073709551615] match"},
		{`0`, "(0,0] match"}, // no number comes before it
	} {
		m := `{"type":"match","product_id":"A","trade_id":` + test.id + `}`
		expect(t, open(t, mustNew(t, Coinbase())), m, "data matches/A "+test.want+" "+m)
	}
	for _, id := range []string{`-1`, `1.0`, `1.5`, `1e3`, `18446744073709551616`, `99999999999999999999999`, `""`, `"x"`, `" 1"`, `"+1"`, `true`, `[]`, `{}`} {
		expectCode(t, open(t, mustNew(t, Coinbase())), `{"type":"match","product_id":"A","trade_id":`+id+`}`, 1007)
	}
	for _, m := range []string{`{"type":"match","product_id":"A","trade_id":null}`, `{"type":"match","product_id":"A"}`, `{"type":"match","trade_id":1}`, `{"type":"match","product_id":"","trade_id":1}`} {
		expectCode(t, open(t, mustNew(t, Coinbase())), m, 1002)
	}
}

// TestRestart compares the first number on a connection with the resumed one.
func TestRestart(t *testing.T) {
	match := func(n int) string { return fmt.Sprintf(`{"type":"match","product_id":"A","trade_id":%d}`, n) }
	for _, test := range []struct {
		first int
		reset string
	}{
		{101, ""}, {150, ""}, {100, ""}, {99, "reset matches/A restarted at 98"}, {1, "reset matches/A restarted at 0"},
		{0, "reset matches/A restarted at 0"},
	} {
		c := resume(t, Coinbase(), "matches/A", 100)
		got, err := decode(c, match(test.first))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(got, "\n")
		if test.reset == "" && len(lines) != 1 || test.reset != "" && (len(lines) != 2 || lines[0] != test.reset) {
			t.Errorf("first number %d after 100: got\n%s\nwant a reset: %q", test.first, got, test.reset)
		}
		if test.first == 0 && !strings.HasPrefix(lines[1], "data matches/A match") {
			t.Errorf("got %s: a restart at 0 must not look like a repeat of position 0", lines[1])
		}
		// Only the first number on a connection shows a restart: a later one is a late repeat.
		if got, err := decode(c, match(5)); err != nil || strings.Contains(got, "reset") {
			t.Errorf("got %s, %v", got, err)
		}
	}
	update := func(n int) string { return fmt.Sprintf(`{"kind":"update","ch":"trades","sym":"A","id":%d}`, n) }
	for first, reset := range map[int]bool{97: false, 96: true} { // Replay is 3
		got, err := decode(resume(t, exchange(), "trades/A", 100), update(first))
		if err != nil || strings.Contains(got, "reset trades/A restarted") != reset {
			t.Errorf("first number %d after 100: got\n%s, %v, want a reset: %v", first, got, err, reset)
		}
	}
}

func TestSequenceOfTheConnection(t *testing.T) {
	c := open(t, mustNew(t, exchange()))
	book := func(n int, sym string) string {
		return fmt.Sprintf(`{"kind":"update","ch":"book","sym":"%s","n":%d}`, sym, n)
	}
	expect(t, c, `{"kind":"ok","ch":["book","trades"],"sym":["A","B"],"n":0}`,
		"subscribed book/A none", "subscribed book/B none", "subscribed trades/A by-number", "subscribed trades/B by-number")
	expect(t, c, `{"kind":"beat","n":"1"}`)
	expect(t, c, book(2, "A"), "data book/A update "+book(2, "A"))
	expect(t, c, `{"kind":"beat"}`)
	// 3 is missing, for an unknown product. trades has numbers of its own.
	expect(t, c, book(4, "B"), "reset book/A lost at 0", "reset book/B lost at 0", "data book/B update "+book(4, "B"))
	// A got its Reset already and no message since.
	expect(t, c, `{"kind":"beat","n":9}`, "reset book/B lost at 0")
	expect(t, c, `{"kind":"beat","n":20}`)
	expect(t, c, book(21, "A"), "data book/A update "+book(21, "A"))
	expect(t, c, `{"kind":"beat","n":21}`, "reset book/A restarted at 0")
	expect(t, c, book(22, "B"), "data book/B update "+book(22, "B"))
	expect(t, c, `{"kind":"bye","ch":"book","sym":"B","n":23}`, "unsubscribed book/B 0 ")
	expect(t, c, `{"kind":"beat","n":30}`)
	expectCode(t, c, `{"kind":"beat","n":-1}`, 1007)
}

// expectCode decodes text, which cannot be read or placed. A strict table refuses it
// with code; otherwise it is skipped and reported, unless code is 1008.
func expectCode(t *testing.T, c wire.Codec, text string, code uint16) {
	t.Helper()
	var ce *wire.CodeError
	if got, err := decode(strict(c), text); !errors.As(err, &ce) || ce.Code != code {
		t.Errorf("%.200q: got %q, %v, want code %d", text, got, err, code)
	}
	got, err := decode(c, text)
	if code == 1008 {
		if err == nil {
			t.Errorf("%.200q: skipped", text)
		}
		return
	}
	if err != nil || !strings.Contains(got, "malformed ") {
		t.Errorf("%.200q: got %q, %v, want it skipped", text, got, err)
	}
}

// strict returns the codec of a connection like that of c, with a strict table.
func strict(c wire.Codec) wire.Codec {
	k := *c.(*codec)
	d := *k.dialect
	d.strict, k.dialect = true, &d
	return &k
}
