package raw

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

func open(t testing.TB, o Options, r wire.Resume) wire.Codec {
	t.Helper()
	c, err := New(o).Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show formats events, one to a line.
func show(events []wire.Event) string {
	var lines []string
	for i := range events {
		switch e := &events[i]; e.Kind {
		case wire.EventData:
			s := "data " + e.Name
			if e.Numbered {
				s += fmt.Sprintf(" #%d", e.Position.Offset)
			}
			lines = append(lines, s+" "+e.Message.Type+" "+string(e.Message.Payload))
		case wire.EventPong:
			lines = append(lines, "pong")
		case wire.EventPing:
			lines = append(lines, fmt.Sprintf("ping, answer %s", e.Step))
		case wire.EventMalformed:
			lines = append(lines, "malformed "+e.Reason)
		default:
			lines = append(lines, fmt.Sprintf("%+v", *e))
		}
	}
	return strings.Join(lines, "\n")
}

// exchange describes a made-up server that uses every option: {"t":topic,"n":number} are
// messages, {"pong":N} answers {"ping":0}, and {"ping":N} wants {"pong":N}.
func exchange() Options {
	type envelope struct {
		T    string
		N    *uint64
		Ping *int
		Pong *int
	}
	read := func(f wire.Frame) (e envelope) {
		if json.Unmarshal(f.Data, &e) != nil {
			return envelope{}
		}
		return e
	}
	return Options{
		OnOpen: func(r wire.Resume) [][]byte {
			texts := [][]byte{[]byte(`{"login":"` + r.Token + `"}`)}
			for _, s := range r.Subs {
				texts = append(texts, fmt.Appendf(nil, `{"sub":%q,"after":%d}`, s.Topic, s.Position.Offset))
			}
			return texts
		},
		Ping:   `{"ping":0}`,
		IsPong: func(f wire.Frame) bool { return read(f).Pong != nil },
		Answer: func(f wire.Frame) []byte {
			if n := read(f).Ping; n != nil {
				return fmt.Appendf(nil, `{"pong":%d}`, *n)
			}
			return nil
		},
		Topic: func(f wire.Frame) Label {
			e := read(f)
			l := Label{Topic: e.T, Numbered: e.N != nil}
			if l.Numbered {
				l.Number = *e.N
			}
			return l
		},
	}
}

func TestDecode(t *testing.T) {
	plain := Options{}
	exact := Options{Ping: "ping", Pong: "pong"}
	answer := func(text string) Options {
		return Options{Answer: func(wire.Frame) []byte { return []byte(text) }}
	}
	topic := func(name string) Options {
		return Options{Topic: func(wire.Frame) Label { return Label{Topic: name} }}
	}
	for _, row := range []struct {
		name string
		o    Options
		f    wire.Frame
		want string
	}{
		{"text", plain, wire.Frame{Type: wire.Text, Data: []byte(`{"a":1}`)}, `data * text/plain; charset=utf-8 {"a":1}`},
		{"binary", plain, wire.Frame{Type: wire.Binary, Data: []byte("\xff\x00")}, "data * application/octet-stream \xff\x00"},
		{"empty", plain, wire.Frame{Type: wire.Text, Data: []byte{}}, "data * text/plain; charset=utf-8 "},
		{"pong", exact, wire.Frame{Type: wire.Text, Data: []byte("pong")}, "pong"},
		{"nearly a pong", exact, wire.Frame{Type: wire.Text, Data: []byte("pong ")}, "data * text/plain; charset=utf-8 pong "},
		{"a binary frame is no text", exact, wire.Frame{Type: wire.Binary, Data: []byte("pong")}, "data * application/octet-stream pong"},
		{"empty without Pong", plain, wire.Frame{Type: wire.Text}, "data * text/plain; charset=utf-8 "},
		{"pong by func", exchange(), wire.Frame{Type: wire.Text, Data: []byte(`{"pong":7}`)}, "pong"},
		{"pong by func, binary", exchange(), wire.Frame{Type: wire.Binary, Data: []byte(`{"pong":7}`)}, "pong"},
		{"ping", exchange(), wire.Frame{Type: wire.Text, Data: []byte(`{"ping":7}`)}, `ping, answer {"pong":7}`},
		{"empty answer", answer(""), wire.Frame{Type: wire.Text, Data: []byte("x")}, "ping, answer "},
		{"long answer", answer(strings.Repeat("a", 4096)), wire.Frame{Type: wire.Text}, "ping, answer " + strings.Repeat("a", 4096)},
		{"answer too long", answer(strings.Repeat("a", 4097)), wire.Frame{Type: wire.Text}, "malformed " + badAnswer},
		{"answer not UTF-8", answer("\xff"), wire.Frame{Type: wire.Text}, "malformed " + badAnswer},
		{"topic", exchange(), wire.Frame{Type: wire.Text, Data: []byte(`{"t":"b"}`)}, `data b text/plain; charset=utf-8 {"t":"b"}`},
		{"topic and number", exchange(), wire.Frame{Type: wire.Text, Data: []byte(`{"t":"b","n":0}`)}, `data b #0 text/plain; charset=utf-8 {"t":"b","n":0}`},
		{"no topic", exchange(), wire.Frame{Type: wire.Text, Data: []byte(`{"n":5}`)}, `data * #5 text/plain; charset=utf-8 {"n":5}`},
		{"not JSON", exchange(), wire.Frame{Type: wire.Text, Data: []byte(`{`)}, `data * text/plain; charset=utf-8 {`},
		{"long topic", topic(strings.Repeat("a", 256)), wire.Frame{Type: wire.Text}, "malformed " + badTopic},
		{"topic not UTF-8", topic("\xff"), wire.Frame{Type: wire.Text}, "malformed " + badTopic},
		{"topic with a line break", topic("a\n"), wire.Frame{Type: wire.Text}, "malformed " + badTopic},
	} {
		var out wire.Events
		if err := open(t, row.o, wire.Resume{}).Decode(row.f, &out); err != nil || show(out.List) != row.want {
			t.Errorf("%s: got\n%s, %v\nwant\n%s", row.name, show(out.List), err, row.want)
		}
	}
}

func TestTime(t *testing.T) {
	at := time.Unix(5, 7)
	for _, want := range []time.Time{{}, at} {
		var out wire.Events
		o := Options{Topic: func(wire.Frame) Label { return Label{Time: want} }}
		if err := open(t, o, wire.Resume{}).Decode(wire.Frame{Type: wire.Text, Data: []byte("x")}, &out); err != nil {
			t.Fatal(err)
		}
		if got := out.List[0].Message.Time; got != 0 && want.IsZero() || got != at.UnixNano() && !want.IsZero() {
			t.Errorf("%v: time %d", want, got)
		}
	}
}

func TestTextThatIsNotUTF8(t *testing.T) {
	for _, o := range []Options{{}, exchange()} {
		var out wire.Events
		err := open(t, o, wire.Resume{}).Decode(wire.Frame{Type: wire.Text, Data: []byte("\xff")}, &out)
		if ce := (*wire.CodeError)(nil); !errors.As(err, &ce) || ce.Code != 1007 || len(out.List) > 0 {
			t.Errorf("%v, %+v", err, out.List)
		}
	}
}

// What comes from a frame, and what goes into one, shares no memory with it.
func TestNothingIsShared(t *testing.T) {
	data := []byte("abc")
	o := Options{
		OnOpen: func(wire.Resume) [][]byte { return [][]byte{data} },
		Answer: func(f wire.Frame) []byte {
			if f.Type == wire.Text {
				return f.Data
			}
			return nil
		},
	}
	c := open(t, o, wire.Resume{})
	var events wire.Events
	for _, f := range []wire.Frame{{Type: wire.Text, Data: data}, {Type: wire.Binary, Data: data}} {
		if err := c.Decode(f, &events); err != nil {
			t.Fatal(err)
		}
	}
	events.List[1].OwnPayload()
	step := events.List[0].Step.([]byte)
	var frames wire.Frames
	if err := c.Start(&frames); err != nil {
		t.Fatal(err)
	}
	if err := c.Encode([]wire.Op{{Kind: wire.OpPong, Step: step}, {Kind: wire.OpPublish, Message: &wire.Message{Payload: data}},
		{Kind: wire.OpPublish, Message: &wire.Message{Payload: data, Type: TypeBinary}}}, &frames); err != nil {
		t.Fatal(err)
	}
	clear(data)
	got := show(events.List)
	clear(step)
	for i, f := range frames.List {
		if string(f.Data) != "abc" {
			t.Errorf("frame %d is %q", i, f.Data)
		}
	}
	if len(frames.List) != 4 || got != "ping, answer abc\ndata * application/octet-stream abc" {
		t.Errorf("%d frames; %s", len(frames.List), got)
	}
}

func TestStart(t *testing.T) {
	var out wire.Frames
	if err := open(t, Options{}, wire.Resume{}).Start(&out); err != nil || len(out.List) > 0 {
		t.Errorf("without OnOpen: %v, %+v", err, out.List)
	}
	c := open(t, exchange(), wire.Resume{Token: "t1", Subs: []wire.Subscribe{{Topic: "b", Position: wire.Position{Offset: 7}}}})
	if err := c.Start(&out); err != nil || written(&out) != `text {"login":"t1"}`+"\n"+`text {"sub":"b","after":7}` {
		t.Errorf("%v, %s", err, written(&out))
	}
	if left := c.(*codec).resume; left.Token != "" || left.Subs != nil {
		t.Errorf("the codec keeps %+v", left)
	}
	err := open(t, Options{OnOpen: func(wire.Resume) [][]byte { return [][]byte{[]byte("secret"), []byte("\xff")} }}, wire.Resume{}).Start(&out)
	if oe := (*OptionError)(nil); !errors.As(err, &oe) || oe.Field != "OnOpen" || !strings.Contains(err.Error(), "index 1") || strings.Contains(err.Error(), "secret") {
		t.Errorf("not UTF-8: %v", err)
	}
}

// written formats frames, one to a line.
func written(out *wire.Frames) string {
	var lines []string
	for _, f := range out.List {
		lines = append(lines, map[wire.FrameType]string{wire.Text: "text ", wire.Binary: "binary "}[f.Type]+string(f.Data))
	}
	return strings.Join(lines, "\n")
}

func TestEncode(t *testing.T) {
	message := func(m wire.Message) wire.Op { return wire.Op{Kind: wire.OpPublish, Message: &m} }
	for _, row := range []struct {
		name string
		op   wire.Op
		want string // empty: no frame
		err  error
	}{
		{"text", message(wire.Message{Topic: "*", Payload: []byte("a")}), "text a", nil},
		{"text with a type", message(wire.Message{Payload: []byte("{}"), Type: "application/json"}), "text {}", nil},
		{"empty", message(wire.Message{}), "text ", nil},
		{"binary", message(wire.Message{Payload: []byte("\xff"), Type: TypeBinary}), "binary \xff", nil},
		{"binary that is UTF-8", message(wire.Message{Payload: []byte("a"), Type: TypeBinary}), "binary a", nil},
		{"not UTF-8", message(wire.Message{Payload: []byte("\xff")}), "", errPublished},
		{"header", message(wire.Message{Payload: []byte("a"), Header: map[string]string{"a": "b"}}), "", errHeader},
		{"ping", wire.Op{Kind: wire.OpPing, N: 3}, `text {"ping":0}`, nil},
		{"pong", wire.Op{Kind: wire.OpPong, Step: []byte("here")}, "text here", nil},
		{"pong without an answer", wire.Op{Kind: wire.OpPong}, "", errOp},
		{"subscribe", wire.Op{Kind: wire.OpSubscribe, Topic: "*"}, "", nil},
		{"credential", wire.Op{Kind: wire.OpAuth, Token: "t"}, "", nil},
		{"bye", wire.Op{Kind: wire.OpBye}, "", nil},
		{"unsubscribe", wire.Op{Kind: wire.OpUnsubscribe}, "", errOp},
		{"step", wire.Op{Kind: wire.OpStep, Step: []byte("a")}, "", errOp},
	} {
		var out wire.Frames
		err := open(t, exchange(), wire.Resume{}).Encode([]wire.Op{row.op}, &out)
		if got := written(&out); got != row.want || len(out.List) > 1 || !errors.Is(err, row.err) {
			t.Errorf("%s: %q, %v", row.name, got, err)
		}
	}
}

// Of several ops, those before one that cannot be encoded are encoded, and none after it.
func TestEncodeStopsAtTheFirstError(t *testing.T) {
	var out wire.Frames
	var ops []wire.Op
	for _, payload := range []string{"a", "b", "\xff", "c"} {
		ops = append(ops, wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Payload: []byte(payload)}})
	}
	err := open(t, Options{}, wire.Resume{}).Encode(ops, &out)
	if oe := (*wire.OpError)(nil); !errors.As(err, &oe) || oe.Index != 2 || written(&out) != "text a\ntext b" {
		t.Errorf("%v, %s", err, written(&out))
	}
}

// FuzzDecode: whatever a server sends is one event, or ends the connection with 1007.
// A message arrives with the same bytes, in its own memory.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "pong", `{"t":"b","n":3}`, `{"t":"b\n"}`, `{"ping":1}`, `{"pong":1}`, "\xff", "\x00", `{"t":"*"}`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	options := []Options{{}, {Ping: "ping", Pong: "pong"}, exchange(),
		{Answer: func(f wire.Frame) []byte { return f.Data }},
		{Topic: func(f wire.Frame) Label {
			return Label{Topic: string(f.Data), Number: uint64(len(f.Data)), Numbered: true}
		}}}
	f.Fuzz(func(t *testing.T, s string, text bool) {
		typ := wire.Binary
		if text {
			typ = wire.Text
		}
		for i, o := range options {
			d := New(o)
			c, err := d.Open(wire.Resume{})
			if err != nil {
				t.Fatal(err)
			}
			var out wire.Events
			data := []byte(s)
			err = c.Decode(wire.Frame{Type: typ, Data: data}, &out)
			if bad := text && !utf8.ValidString(s); bad || err != nil {
				if ce := (*wire.CodeError)(nil); !bad || !errors.As(err, &ce) || ce.Code != 1007 || len(out.List) > 0 {
					t.Fatalf("options %d, %q: %v, %+v", i, s, err, out.List)
				}
				continue
			}
			if len(out.List) != 1 {
				t.Fatalf("options %d, %q: %d events", i, s, len(out.List))
			}
			out.List[0].OwnPayload()
			clear(data)
			checkEvent(t, d, &out.List[0], s)
		}
	})
}

func checkEvent(t *testing.T, d wire.Dialect, e *wire.Event, s string) {
	kinds := []wire.EventKind{wire.EventData, wire.EventPing, wire.EventPong, wire.EventMalformed}
	if !slices.Contains(kinds, e.Kind) {
		t.Fatalf("%q: %+v", s, *e)
	}
	switch e.Kind {
	case wire.EventData:
		if d.CheckTopic(wire.UseSubscribe, e.Name) != nil || e.Message.Topic != e.Name || !bytes.Equal(e.Message.Payload, []byte(s)) {
			t.Fatalf("%q: %+v", s, *e)
		}
	case wire.EventPing:
		answer := e.Step.([]byte)
		var out wire.Frames
		c, _ := d.Open(wire.Resume{})
		if err := c.Encode([]wire.Op{{Kind: wire.OpPong, Step: e.Step}}, &out); err != nil || len(out.List) != 1 || !bytes.Equal(out.List[0].Data, answer) || !utf8.Valid(answer) {
			t.Fatalf("%q: answer %q, %v", s, answer, err)
		}
	case wire.EventMalformed:
		if e.Reason != badTopic && e.Reason != badAnswer {
			t.Fatalf("%q: %+v", s, *e)
		}
	}
}
