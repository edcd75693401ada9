package feed

import (
	"errors"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// exchange is a table that uses every feature: a channel member, numbers of the
// connection, numbers of a product, replay.
func exchange() Table {
	return Table{
		Name:        "exchange",
		Subscribe:   Request{JSON: `{"op":"sub","depth":10,"syms":["$product","..."],"ch":"$channel"}`, Max: 2},
		Unsubscribe: Request{JSON: `{"op":"unsub","sym":"$product","ch":"$channel"}`},
		Type:        "kind",
		Channel:     "ch",
		Product:     "sym",
		Sequence:    "n",
		Channels: []Channel{
			{Name: "trades", Types: []string{"update"}, Snapshots: []string{"full"}, Number: "id", Replay: 3},
			{Name: "book", Types: []string{"update"}, Snapshots: []string{"full"}, Repeats: []string{"again"}},
		},
		Confirm:    Confirm{Type: "ok", Ended: "bye", Channel: "ch", Products: "sym"},
		Error:      ErrorMessage{Type: "fail", Text: "why", Channel: "ch", Product: "sym"},
		Heartbeats: []string{"beat"},
		Ignored:    []string{"news"},
		Ping:       wire.PingNone,
	}
}

// bare is the smallest table: one channel, no optional field.
func bare() Table {
	return Table{
		Name:      "bare",
		Subscribe: Request{JSON: `{"get":true,"what":"$product"}`},
		Type:      "t",
		Product:   "p",
		Channels:  []Channel{{Name: "all", Types: []string{"x"}}},
	}
}

func mustNew(t testing.TB, table Table) wire.Dialect {
	t.Helper()
	d, err := New(table)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNewNamesTheWrongField(t *testing.T) {
	for _, test := range []struct {
		field  string
		change func(*Table)
	}{
		{"Name", func(t *Table) { t.Name = "" }},
		{"Name", func(t *Table) { t.Name = "Upper" }},
		{"Type", func(t *Table) { t.Type, t.Channel = "", "" }},
		{"Product", func(t *Table) { t.Product = "" }},
		{"Product", func(t *Table) { t.Product = t.Type }},
		{"Channel", func(t *Table) { t.Channel = t.Type }},
		{"Sequence", func(t *Table) { t.Sequence = t.Product }},
		{"Channels", func(t *Table) { t.Channels = nil }},
		{"Channels[0].Name", func(t *Table) { t.Channels[0].Name = "" }},
		{"Channels[0].Name", func(t *Table) { t.Channels[0].Name = "a/b" }},
		{"Channels[0].Name", func(t *Table) { t.Channels[0].Name = "a**" }},
		{"Channels[0].Name", func(t *Table) { t.Channels[0].Name = strings.Repeat("a", 254) }},
		{"Channels[1].Name", func(t *Table) { t.Channels[1].Name = "trades" }},
		{"Channels[1].Name", func(t *Table) { t.Channels[0].Request = "book" }},
		{"Channels[1].Request", func(t *Table) { t.Channels[1].Request = "trades" }},
		{"Channels[1].Aliases", func(t *Table) { t.Channels[1].Aliases = []string{"b", "trades"} }},
		{"Channels[1].Aliases", func(t *Table) { t.Channels[1].Aliases = []string{"book"} }},
		{"Channels[1].Aliases[0]", func(t *Table) { t.Channels[1].Aliases = []string{""} }},
		{"Channels[0].Request", func(t *Table) { t.Channels[0].Request = "\xff" }},
		{"Channels[0].Types", func(t *Table) { *t = bare(); t.Channels[0].Types = nil }},
		{"Channels[0].Types[0]", func(t *Table) { t.Channels[0].Types[0] = "" }},
		{"Channels[0].Types[0]", func(t *Table) { t.Channels[0].Types[0] = "beat" }},
		{"Channels[0].Snapshots[0]", func(t *Table) { t.Channels[0].Snapshots[0] = "update" }},
		{"Channels[1].Types[0]", func(t *Table) { t.Channel, t.Confirm.Products = "", "p" }}, // both have "update"
		{"Channels[0].Number", func(t *Table) { t.Channels[0].Number = "n" }},
		{"Channels[1].Replay", func(t *Table) { t.Channels[1].Replay = 1 }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = "" }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"op":sub}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = "{\"op\":\"\xff\",\"s\":\"$product\",\"c\":\"$channel\"}" }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":"$symbol","c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":"#product","c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":"$product"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":"$stream"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":["..."],"p":"$product","c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":["$product","$channel","..."]}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":["a","..."],"p":"$product","c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":[["$product","..."],"..."],"c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"s":["$product","..."],"p":"$product","c":"$channel"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"c":["$channel","..."],"p":"$product"}` }},
		{"Subscribe.JSON", func(t *Table) { t.Subscribe.JSON = `{"a":[{"c":"$channel","p":"$product"},"..."],"c":"$channel"}` }},
		{"Channels[0].Name", func(t *Table) { t.Subscribe.JSON = `{"c":"$channel","p":"$product","q":"$param"}` }},
		{"ID", func(t *Table) { t.ID = "id" }},
		{"Subscribe.Max", func(t *Table) { t.Subscribe.Max = -1 }},
		{"Unsubscribe.JSON", func(t *Table) { t.Unsubscribe.JSON = "{" }},
		{"Confirm.Type", func(t *Table) { t.Confirm.Type = "" }},
		{"Confirm.Type", func(t *Table) { t.Error.Type, t.Heartbeats = "", nil; t.Confirm.Type = ""; t.Error = ErrorMessage{} }},
		{"Confirm.Channel", func(t *Table) { t.Confirm.Channel = "" }},
		{"Confirm.EndedProducts", func(t *Table) { t.Confirm.Ended, t.Confirm.EndedProducts = "", "a" }},
		{"Confirm.EndedStreams", func(t *Table) { t.Confirm.EndedStreams = "a" }},
		{"Confirm.Products", func(t *Table) { t.Confirm.Products = "" }},
		{"Confirm.Ended", func(t *Table) { t.Confirm.Complete = true }},
		{"Confirm.Ended", func(t *Table) { t.Confirm.Ended = "ok" }},
		{"Error.Type", func(t *Table) { t.Error.Type = "" }},
		{"Error.Type", func(t *Table) { t.Error.Type = "ok" }},
		{"Error.Channel", func(t *Table) { t.Error.Channel = "" }},
		{"Error.Retry", func(t *Table) { t.Error.Retry = "a..b" }},
		{"Error.RetryUnit", func(t *Table) { t.Error.RetryUnit = 1 }},
		{"Error.RetryUnit", func(t *Table) { t.Error.Retry, t.Error.RetryUnit = "again", -1 }},
		{"Channels[0].NewestFirst", func(t *Table) { t.Channels[0].NewestFirst = true }},
		{"Heartbeats[0]", func(t *Table) { t.Heartbeats[0] = "fail" }},
		{"Ignored[0]", func(t *Table) { t.Ignored[0] = "" }},
		{"Ping", func(t *Table) { t.Ping = wire.PingOp }},
		{"Ping", func(t *Table) { t.PingText = "ping" }}, // with wire.PingNone
		{"Ping", func(t *Table) { t.Ping = 9 }},
		{"PingText", func(t *Table) { t.Ping, t.PingText = wire.PingOp, "\xff" }},
		{"Question", func(t *Table) { t.Question, t.Answer = "=ping", `{"pong":"#n"}` }},
		{"Answer", func(t *Table) { t.Question = "ask" }},
		{"Answer", func(t *Table) { t.Answer = "{}" }},
		{"Answer", func(t *Table) { t.Question, t.Answer = "ask=*", `{"pong":"#n"` }},
		{"Question", func(t *Table) { t.Question, t.Answer = "beat..x=1", "x" }},
		{"Heartbeats[0]", func(t *Table) { t.Heartbeats[0] = "*" }},
		{"Heartbeats[0]", func(t *Table) { t.Heartbeats[0] = "=" }},
		{"GoAway", func(t *Table) { t.GoAway = "a..b=1" }},
		{"Heartbeats[0]", func(t *Table) { t.GoAway = "kind=beat" }},
		{"Subprotocols[1]", func(t *Table) { t.Subprotocols = []string{"v1", "v 2"} }},
		{"Stream", func(t *Table) { t.Stream = "s" }},
		{"Stream", func(t *Table) { t.Stream, t.Channel = "s", "" }},
		{"StreamName", func(t *Table) { t.Stream, t.Channel, t.Product = "s", "", "" }},
		{"StreamName", func(t *Table) { t.StreamName = "channelproduct" }},
		{"StreamName", func(t *Table) { t.StreamName = "channel/x" }},
		{"Product", func(t *Table) { t.Product = "sym[]" }},
		{"Product", func(t *Table) { t.Entries, t.Product = "data", "data[0].sym" }},
		{"Channel", func(t *Table) { t.Entries, t.Channel = "data", "data[].ch" }},
		{"Entries", func(t *Table) { t.Entries = "." }},
		{"Confirm.Channel", func(t *Table) { t.Confirm.Channel = "a[" }},
		{"Confirm.Streams", func(t *Table) { t.Confirm.Streams = "s" }},
		{"Confirm.Streams", func(t *Table) { t.Confirm = Confirm{Type: "ok", Streams: "s"} }},
		{"Confirm.Complete", func(t *Table) {
			t.Subscribe.JSON = `{"id":"#id","s":"$product","c":"$channel"}`
			t.ID, t.Confirm = "id", Confirm{Type: "ok", Complete: true}
		}},
		{"Error.Text", func(t *Table) { t.Error.Text = "why." }},
		{"Login.Message", func(t *Table) { t.Login.Accepted = "hi" }},
		{"Login.Accepted", func(t *Table) { t.Login.Message = func(string, []byte) ([]byte, error) { return nil, nil } }},
		{"Channels[0].Product", func(t *Table) {
			t.Channel, t.Product, t.Stream, t.StreamName, t.Channels[0].Product = "", "", "s", "channel.product", "p"
		}},
		{"Channels[0].Param", func(t *Table) { t.Channels[0].Param = "p" }},
		{"Channels[0].Param", func(t *Table) { t.Channels[0].Name, t.Channels[0].Request = "t-*", "t" }},
		{"Channels[0].Param", func(t *Table) { t.Channels[0].Name, t.Channels[0].Param = "t-*", "p" }},
		{"Channels[0].Request", func(t *Table) { t.Channels[0].Request = "t-*" }},
		{"Channels[0].Request", func(t *Table) { t.Channels[0].Name, t.Channels[0].Request, t.Channels[0].Param = "t-*", "t", "p" }},
		{"Channels[0].First", func(t *Table) { t.Channels[0].Number, t.Channels[0].Replay, t.Channels[0].First = "", 0, "f" }},
		{"Channels[0].Prev", func(t *Table) { t.Channels[0].Count, t.Channels[0].Prev = "c", "p" }},
		{"Channels[0].Replay", func(t *Table) { t.Channels[0].Prev = "p" }},
		{"Channels[0].Cursor", func(t *Table) { t.Channels[0].Cursor = "c" }},
		{"Channels[0].Snapshots[0]", func(t *Table) { *t = bare(); t.Channels[0].Snapshots = []string{"*"} }},
		{"Channels[0].Subscribe", func(t *Table) { t.Channels[0].Subscribe.Max = -1 }},
		{"Channels[0].Subscribe.JSON", func(t *Table) { t.Channels[0].Subscribe.JSON = "x" }},
		{"Channels[0].Unsubscribe", func(t *Table) { t.Unsubscribe, t.Channels[0].Unsubscribe = Request{}, t.Subscribe }},
	} {
		table := exchange()
		test.change(&table)
		d, err := New(table)
		var te *TableError
		if d != nil || !errors.As(err, &te) {
			t.Errorf("%s: got %v, %v, want a *TableError", test.field, d, err)
			continue
		}
		if te.Field != test.field || te.Problem == "" || !strings.Contains(err.Error(), test.field) {
			t.Errorf("got %q, want field %s", err, test.field)
		}
	}
}

// What is wrong with a field says what to write instead.
func TestProblemsSayWhatToWrite(t *testing.T) {
	joined := func(t *Table) {
		t.Channel, t.Product, t.Stream, t.StreamName = "", "", "topic", "channel:product"
		t.Subscribe.JSON, t.Unsubscribe.JSON = `{"id":"#id","s":["$stream","..."]}`, ""
		t.Error.Channel, t.Error.Product = "", ""
	}
	for _, test := range []struct {
		want   string
		change func(*Table)
	}{
		{`Confirm.Channel: is empty; want the member that names the channel, or Table.ID if a confirmation repeats "#id"`,
			func(t *Table) { t.Confirm = Confirm{Type: "ok"} }},
		{`Confirm.Streams: is empty; want the member that names the streams, or Table.ID if a confirmation repeats "#id"`,
			func(t *Table) { joined(t); t.Confirm = Confirm{Type: "ok"} }},
		{`Subscribe.JSON: is not JSON: invalid character '#' looking for beginning of value; "#id" and the like stand in quotes`,
			func(t *Table) { t.Subscribe.JSON = `{"id":#id,"s":["$product","..."]}` }},
		{`PingText: has "#time" and is not JSON`, func(t *Table) { t.Ping, t.PingText = wire.PingOp, `{"t":"#time"` }},
	} {
		table := exchange()
		test.change(&table)
		if _, err := New(table); err == nil || err.Error() != "feed: table field "+test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}

func TestNewKeepsNothingOfTheTable(t *testing.T) {
	table := exchange()
	d := mustNew(t, table)
	table.Channels[0].Name, table.Subscribe.JSON, table.Heartbeats[0] = "x", "0", "y"
	if err := d.CheckTopic(wire.UseSubscribe, "trades/A"); err != nil {
		t.Error(err)
	}
	got := encode(t, open(t, d, "trades/A"))
	if want := `{"op":"sub","depth":10,"syms":["A"],"ch":"trades"}`; len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTraits(t *testing.T) {
	full := mustNew(t, exchange()).Traits()
	if want := (wire.Traits{Unsubscribe: true, Confirms: true, ConfirmsEnd: true, Ping: wire.PingNone, StartSubs: 1 << 30, LookBack: 3}); full != want {
		t.Errorf("got %+v, want %+v", full, want)
	}
	poor := mustNew(t, bare()).Traits()
	if want := (wire.Traits{Ping: wire.PingControl, StartSubs: 1 << 30}); poor != want {
		t.Errorf("got %+v, want %+v", poor, want)
	}
	d := mustNew(t, Coinbase())
	if d.Name() != "coinbase" || !d.Traits().Confirms || !d.Traits().ConfirmsEnd || !d.Traits().Unsubscribe {
		t.Errorf("got %s %+v", d.Name(), d.Traits())
	}
	if got := mustNew(t, confirming()).Traits(); !got.Confirms || got.ConfirmsEnd {
		t.Errorf("a table without ends: got %+v", got)
	}
	a := wire.Attempt{URL: "ws://127.0.0.1/"}
	if err := d.Attempt(&a); err != nil || !a.Dial || a.Request != nil || a.URL != "ws://127.0.0.1/" {
		t.Errorf("got %+v, %v: want a plain dial", a, err)
	}
	if v := d.Verdict(wire.Failure{Stage: wire.StageOpen, Code: 1008}); v != (wire.Verdict{}) {
		t.Errorf("got %+v, want the client to decide", v)
	}
}

func TestCheckTopic(t *testing.T) {
	d := mustNew(t, Coinbase())
	for _, topic := range []string{"matches/BTC-USD", "level2/ETH-EUR", "ticker/XBT/USD", "ticker/é", "matches/" + strings.Repeat("a", 247)} {
		if err := d.CheckTopic(wire.UseSubscribe, topic); err != nil {
			t.Errorf("%q: %v", topic, err)
		}
		if err := d.CheckTopic(wire.UsePublish, topic); !errors.Is(err, ErrPublish) {
			t.Errorf("publish to %q: got %v, want ErrPublish", topic, err)
		}
	}
	for _, topic := range []string{
		"", "/", "matches", "matches/", "full/BTC-USD", "/BTC-USD", "matches/*", "matches/**", "*/BTC-USD", "matches/BTC-*",
		"matches//A", "matches/A/", "matches/A//B", "matches/\x00", "matches/a\nb", "matches/\u0085", "matches/\xff",
		"matches/" + strings.Repeat("a", 248),
	} {
		var te *TopicError
		if err := d.CheckTopic(wire.UseSubscribe, topic); !errors.As(err, &te) {
			t.Errorf("%q: got %v, want a *TopicError", topic, err)
		}
	}
}
