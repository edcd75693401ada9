package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// house is a server of one's own, with everything.
func house() Funcs {
	type object map[string]any
	return Funcs{
		Name: "house", Greeting: true, Confirms: true, ConfirmsEnd: true, Numbered: true, Resume: true, Acks: true,
		Subprotocols: []string{"house.v1"},
		Hello:        func(token string) ([]byte, error) { return json.Marshal(object{"hello": token}) },
		Subscribe: func(a Ask) ([]byte, error) {
			return json.Marshal(object{"id": a.ID, "sub": a.Topic, "after": a.After.Offset, "token": a.Token})
		},
		Unsubscribe: func(a Ask) ([]byte, error) { return json.Marshal(object{"id": a.ID, "unsub": a.Topic}) },
		Publish: func(cmd uint64, m wire.Message) ([]byte, error) {
			if m.Topic == "unspeakable" {
				return nil, errors.New("cannot say this")
			}
			return json.Marshal(object{"id": cmd, "pub": m.Topic, "data": string(m.Payload)})
		},
		Ping: func() ([]byte, error) { return []byte("ping"), nil },
		Pong: func(n uint64) ([]byte, error) { return fmt.Appendf(nil, "pong %d", n), nil },
		Read: func(data []byte, say func(Item)) error {
			var items []Item
			if err := json.Unmarshal(data, &items); err != nil {
				return err
			}
			for _, it := range items {
				say(it)
			}
			return nil
		},
	}
}

func openFuncs(t *testing.T, f Funcs) wire.Codec {
	t.Helper()
	d, err := NewFuncs(f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Open(wire.Resume{Token: "tok"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFuncsRequests(t *testing.T) {
	c := openFuncs(t, house())
	if got := encode(t, c); len(got) != 1 || got[0] != `{"hello":"tok"}` {
		t.Errorf("began with %q", got)
	}
	got := encode(t, c,
		wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Topic: "a", Position: wire.Position{Offset: 9}, Token: "s"}},
		wire.Op{Kind: wire.OpUnsubscribe, Name: "a"},
		wire.Op{Kind: wire.OpPublish, Cmd: 7, Message: &wire.Message{Topic: "b", Payload: []byte("x")}},
		wire.Op{Kind: wire.OpPublish, Cmd: 11, Message: &wire.Message{Void: true}},
		wire.Op{Kind: wire.OpPing}, wire.Op{Kind: wire.OpPong, N: 3}, wire.Op{Kind: wire.OpBye}, wire.Op{Kind: wire.OpAuth})
	want := []string{`{"after":9,"id":5,"sub":"a","token":"s"}`, `{"id":10,"unsub":"a"}`, `{"data":"x","id":7,"pub":"b"}`, "ping", "pong 3"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var out wire.Frames
	err := c.Encode([]wire.Op{{Kind: wire.OpPing}, {Kind: wire.OpPublish, Message: &wire.Message{Topic: "unspeakable"}}}, &out)
	var oe *wire.OpError
	if !errors.As(err, &oe) || oe.Index != 1 || len(out.List) != 1 {
		t.Errorf("got %v and %d frames", err, len(out.List))
	}
}

func TestFuncsItems(t *testing.T) {
	c := openFuncs(t, house())
	encode(t, c, wire.Op{Kind: wire.OpSubscribe, Topic: "a"}, wire.Op{Kind: wire.OpSubscribe, Topic: "b"}, wire.Op{Kind: wire.OpUnsubscribe, Name: "a"})
	item := func(k ItemKind, more string) string { return fmt.Sprintf(`[{"Kind":%d%s}]`, k, more) }
	expect(t, c, item(Answered, `,"ID":5`), "subscribed a by-number")
	expect(t, c, item(Answered, `,"ID":5`))
	expect(t, c, item(Refused, `,"ID":9,"Reason":"no"`), "unsubscribed b refused no")
	expect(t, c, item(Refused, `,"ID":9`), "error 0 the server gives no reason")
	expect(t, c, item(Answered, `,"ID":14`), "unsubscribed a 0 ")
	expect(t, c, item(Answered, `,"Topic":"c"`), "subscribed c by-number")
	expect(t, c, item(Refused, `,"Topic":"c","Reason":"x","Code":404`), "unsubscribed c refused (404) x")
	expect(t, c, item(Refused, `,"Code":7`), "error refused (7) the server gives no reason")
	expect(t, c, item(Notice, `,"Code":8,"Reason":"soon"`), "error 0 (8) soon")
	expect(t, c, item(Refused, ``), "error refused the server gives no reason")
	expect(t, c, item(Ended, `,"Topic":"c"`), "unsubscribed c 0 ")
	expect(t, c, item(Notice, `,"Reason":"soon"`), "error 0 soon")
	expect(t, c, item(Alive, ""))
	expect(t, c, item(Data, `,"Topic":"a","Payload":"eA==","Type":"t","Number":7`), "data a (6,7] t x")
	expect(t, c, item(Snapshot, `,"Topic":"a","Payload":"eA==","Number":9,"Prev":4`), "data a (4,9] snapshot  x")
	whole := item(Repeat, `,"Topic":"a"`)
	expect(t, c, whole, "data a again  "+whole)
	const refuses = "malformed 1 a message that Funcs.Read refuses"
	for bad, why := range map[string]string{
		"": "unexpected end of JSON input", "{": "unexpected end of JSON input", item(99, ""): "an Item of the unknown kind 99",
		item(Data, `,"Topic":"*"`):                     `feed: topic "*": has a '*', and a feed has no wildcards: subscribe to each topic`,
		item(Data, `,"Topic":""`):                      `feed: topic "": is empty`,
		item(Data, `,"Topic":"a","Number":3,"Prev":4`): "an Item with Prev 4 and Number 3",
	} {
		want := []string{refuses + ": " + why}
		if strings.Contains(bad, `"a"`) {
			want = append(want, "gap a malformed 1")
		}
		expect(t, c, bad, want...)
	}
	var out wire.Events
	for _, text := range []string{item(Answered, `,"ID":7`), item(Refused, `,"ID":11,"Code":-5,"Reason":"full"`), item(Question, `,"N":8`), item(Welcome, ""), item(Welcome, ""), item(GoAway, "")} {
		if err := c.Decode(wire.Frame{Type: wire.Binary, Data: []byte(text)}, &out); err != nil {
			t.Fatal(err)
		}
	}
	l := out.List
	if len(l) != 5 || l[0].Ack == nil || l[0].Ack.Cmd != 7 || l[1].Ack == nil || len(l[1].Ack.Rejects) != 1 ||
		l[1].Ack.Rejects[0] != (wire.Reject{Seq: 2, Code: wire.CodeRefused, PeerCode: -5, Reason: "full"}) ||
		l[2].Kind != wire.EventPing || l[2].N != 8 || l[3].Kind != wire.EventReady || l[4].Kind != wire.EventGoAway {
		t.Errorf("got %+v", l)
	}
}

// Of a message that Read refuses after it has said something, nothing counts: its messages are a gap.
func TestFuncsReadRefusesLate(t *testing.T) {
	f := house()
	read := f.Read
	f.Read = func(data []byte, say func(Item)) error {
		if err := read(data, say); err != nil {
			return err
		}
		return errors.New("something follows")
	}
	c := openFuncs(t, f)
	expect(t, c, fmt.Sprintf(`[{"Kind":%d,"Topic":"a","Payload":"eA=="},{"Kind":%d,"Topic":"b"},{"Kind":%d,"Topic":"a","Payload":"eA=="}]`, Data, Alive, Data),
		"malformed 1 a message that Funcs.Read refuses: something follows", "gap a malformed 2")
}

// A new token is sent in a message of its own, and what the server says of the token reaches the
// client; without Refresh neither does.
func TestFuncsRefresh(t *testing.T) {
	for _, can := range []bool{true, false} {
		f := house()
		if can {
			f.Refresh = func(token string) ([]byte, error) { return []byte("login " + token), nil }
		}
		d, err := NewFuncs(f)
		if err != nil || d.Traits().Refresh != can {
			t.Fatalf("trait Refresh is %v: %v", d.Traits().Refresh, err)
		}
		c := openFuncs(t, f)
		sent := encode(t, c, wire.Op{Kind: wire.OpAuth, Token: "fresh"})
		var out wire.Events
		for _, valid := range []time.Duration{time.Minute, 0, -time.Minute} {
			text := fmt.Sprintf(`[{"Kind":%d,"Valid":%d}]`, Credential, valid)
			if err := c.Decode(wire.Frame{Type: wire.Binary, Data: []byte(text)}, &out); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, e := range out.List {
			got = append(got, fmt.Sprint(e.Kind == wire.EventAuth, " ", e.Expires, " ", e.Wanted))
		}
		wantSent, want := "login fresh", "true 1m0s false, true 0s true, true 0s true"
		if !can {
			wantSent, want = "", ""
		}
		if strings.Join(sent, ",") != wantSent || strings.Join(got, ", ") != want {
			t.Errorf("can %v: sent %q, events %q", can, sent, got)
		}
	}
}

// What Read says is copied; what it refuses with a close code ends the connection.
func TestFuncsReadOwnsNothing(t *testing.T) {
	f := house()
	f.Read = func(data []byte, say func(Item)) error {
		if len(data) == 0 {
			return fmt.Errorf("wrapped: %w", &wire.CodeError{Code: 4321, Reason: "enough"})
		}
		say(Item{Topic: "a", Payload: data[1:]})
		return nil
	}
	c := openFuncs(t, f)
	var out wire.Events
	data := []byte("xyz")
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: data}, &out); err != nil {
		t.Fatal(err)
	}
	clear(data)
	if got := show(&out.List[0]); got != "data a  yz" {
		t.Errorf("got %s", got)
	}
	var ce *wire.CodeError
	if err := c.Decode(wire.Frame{Type: wire.Text}, &out); !errors.As(err, &ce) || ce.Code != 4321 {
		t.Errorf("got %v", err)
	}
}

func TestNewFuncsNamesTheWrongField(t *testing.T) {
	for _, row := range []struct {
		field  string
		change func(*Funcs)
	}{
		{"Name", func(f *Funcs) { f.Name = "A" }},
		{"Read", func(f *Funcs) { f.Read = nil }},
		{"Subscribe", func(f *Funcs) { f.Subscribe, f.Publish = nil, nil }},
		{"Subscribe", func(f *Funcs) { f.Subscribe = nil }},
		{"Unsubscribe", func(f *Funcs) { f.Unsubscribe = nil }},
		{"Publish", func(f *Funcs) { f.Publish = nil }},
		{"Resume", func(f *Funcs) { f.Numbered = false }},
		{"Subprotocols", func(f *Funcs) { f.Subprotocols = []string{"a b"} }},
	} {
		f := house()
		row.change(&f)
		d, err := NewFuncs(f)
		var fe *FuncsError
		if d != nil || !errors.As(err, &fe) || fe.Field != row.field || !strings.Contains(err.Error(), row.field) {
			t.Errorf("%s: got %v, %v", row.field, d, err)
		}
	}
}

func TestFuncsTraits(t *testing.T) {
	d, _ := NewFuncs(house())
	want := wire.Traits{Publish: true, Acks: true, Resume: true, Unsubscribe: true, Greeting: true, Confirms: true, ConfirmsEnd: true, Ping: wire.PingOp}
	if got := d.Traits(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	f := house()
	f = Funcs{Name: "least", Read: f.Read, Publish: f.Publish, Check: func(wire.Use, string) error { return errOp }}
	d, err := NewFuncs(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Traits(); got != (wire.Traits{Publish: true}) {
		t.Errorf("got %+v", got)
	}
	for topic, use := range map[string]wire.Use{"a": wire.UsePublish, "": wire.UsePublish, "b": wire.UseSubscribe, strings.Repeat("a", 300): wire.UsePublish} {
		if d.CheckTopic(use, topic) == nil {
			t.Errorf("%q: accepted", topic)
		}
	}
	var out wire.Frames
	c, _ := d.Open(wire.Resume{})
	for _, op := range []wire.Op{{Kind: wire.OpSubscribe}, {Kind: wire.OpUnsubscribe}, {Kind: wire.OpPing}, {Kind: wire.OpPublish}, {}} {
		if err := c.Encode([]wire.Op{op}, &out); err == nil {
			t.Errorf("%+v: encoded", op)
		}
	}
}

// What Read says of a message that it refuses is reported, cut and in UTF-8.
func TestFuncsReadErrors(t *testing.T) {
	f := house()
	f.Read = func(data []byte, _ func(Item)) error { return errors.New(string(data)) }
	c := openFuncs(t, f)
	const refuses = "malformed 1 a message that Funcs.Read refuses"
	for text, want := range map[string]string{
		"":                       "",
		"op \"x\"\n":             ": op \"x\"\n",
		"a\xffb":                 ": a?b",
		strings.Repeat("é", 500): ": " + strings.Repeat("é", 98) + "...",
	} {
		expect(t, c, text, refuses+want)
	}
}

// An Item that is wrong is skipped alone: what else is in the message counts, in its order. Of
// a message that Read refuses nothing counts, and the streams that it was for have a Gap.
func TestPartOfAMessageIsRefused(t *testing.T) {
	f := house()
	f.Read = func(data []byte, say func(Item)) error {
		for _, word := range strings.Fields(string(data)) {
			switch it := (Item{Topic: word, Payload: []byte("x")}); word {
			case "fail":
				return errors.New("no more")
			case "ack":
				say(Item{Kind: Answered, ID: 7})
			case "welcome":
				say(Item{Kind: Welcome})
			case "backwards":
				it.Topic, it.Number, it.Prev = "a", 3, 4
				fallthrough
			default:
				say(it)
			}
		}
		return nil
	}
	c := openFuncs(t, f)
	const refuses = "malformed 1 a message that Funcs.Read refuses: "
	const star, numbers = `feed: topic "*": has a '*', and a feed has no wildcards: subscribe to each topic`, "an Item with Prev 4 and Number 3"
	ack := fmt.Sprintf("event %d", wire.EventAck)
	expect(t, c, "a * b ack", "data a  x", refuses+star, "data b  x", ack)
	expect(t, c, "* * *", "malformed 3 "+strings.TrimPrefix(refuses+star, "malformed 1 "))
	expect(t, c, "b backwards b", "data b  x", refuses+numbers, "gap a malformed 1", "data b  x")
	expect(t, c, "b a ack b fail", refuses+"no more", "gap a malformed 1", "gap b malformed 2")
	expect(t, c, "welcome fail", refuses+"no more")
	expect(t, c, "welcome", fmt.Sprintf("event %d", wire.EventReady))
	expect(t, c, "backwards b fail", refuses+"no more", "gap a malformed 1", "gap b malformed 1")
}
