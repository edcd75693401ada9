package socketio

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// sent formats frames and empties them.
func sent(out *wire.Frames) string {
	var lines []string
	for _, f := range out.List {
		lines = append(lines, map[wire.FrameType]string{wire.Text: "", wire.Binary: "bin "}[f.Type]+string(f.Data))
	}
	for _, key := range out.Confirmed {
		lines = append(lines, fmt.Sprint("confirmed ", key))
	}
	out.Reset()
	return strings.Join(lines, "\n")
}

func encode(t testing.TB, c wire.Codec, ops ...wire.Op) string {
	t.Helper()
	var out wire.Frames
	if err := c.Encode(ops, &out); err != nil {
		return sent(&out) + "error " + err.Error()
	}
	return sent(&out)
}

// connect returns the packet with which c connects to the namespace.
func connect(t testing.TB, c wire.Codec, opening string) string {
	t.Helper()
	var out wire.Frames
	if err := c.Start(&out); err != nil || len(out.List) > 0 {
		t.Fatal(err, len(out.List))
	}
	var events wire.Events
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(opening)}, &events); err != nil {
		t.Fatal(err)
	}
	return encode(t, c, wire.Op{Kind: wire.OpStep, Step: events.List[0].Step})
}

// The credential, and what the server needs to recover the session.
func TestConnect(t *testing.T) {
	type object struct {
		User int `json:"user"`
	}
	user := Options{Auth: func(token string) any { return object{len(token)} }}
	session := wire.Session{ID: "s1 1.3 o3", Key: []byte("p1")}
	for _, row := range []struct {
		name string
		o    Options
		r    wire.Resume
		want string
	}{
		{"nothing", Options{}, wire.Resume{}, "40"},
		{"a token", Options{}, wire.Resume{Token: "t"}, `40{"token":"t"}`},
		{"a namespace", Options{Namespace: "/admin"}, wire.Resume{Token: "t"}, `40/admin,{"token":"t"}`},
		{"a value of the program", user, wire.Resume{Token: "1234"}, `40{"user":4}`},
		{"none of the program", Options{Auth: func(string) any { return nil }}, wire.Resume{Token: "t"}, "40"},
		{"recovery", Options{}, wire.Resume{Session: session}, `40{"offset":"o3","pid":"p1"}`},
		{"recovery and a token", user, wire.Resume{Token: "t", Session: session}, `40{"offset":"o3","pid":"p1","user":1}`},
		{"no event yet", Options{}, wire.Resume{Session: wire.Session{ID: "s1  ", Key: []byte("p1")}}, "40"},
		{"a server without recovery", Options{}, wire.Resume{Session: wire.Session{ID: "s1  "}}, "40"},
	} {
		c := open(t, row.o, row.r)
		if got := connect(t, c, opened); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
		if left := fmt.Sprintf("%+v", c.(*codec).encoder); row.r.Token == "1234" && strings.Contains(left, "1234") {
			t.Errorf("%s: the token is kept: %s", row.name, left)
		}
	}
	for _, value := range []any{7, []int{1}, "text", make(chan int)} {
		var oe *OptionError
		err := open(t, Options{Auth: func(string) any { return value }}, wire.Resume{}).Start(new(wire.Frames))
		if !errors.As(err, &oe) || oe.Field != "Auth" {
			t.Errorf("%T: %v", value, err)
		}
	}
}

func TestEncode(t *testing.T) {
	publish := func(payload, contentType string) wire.Op {
		return wire.Op{Kind: wire.OpPublish, Cmd: 7, Message: &wire.Message{Seq: 1, Topic: "a\"", Payload: []byte(payload), Type: contentType}}
	}
	withHeader := publish("1", "")
	withHeader.Message.Header = map[string]string{"a": "b"}
	rooms := Options{
		Join: func(s wire.Subscribe) (string, []any) {
			switch s.Topic {
			case "local":
				return "", nil
			case "bad":
				return "join", []any{make(chan int)}
			}
			return "join", []any{s.Topic, s.Token}
		},
		Leave: func(topic string) (string, []any) { return "leave", []any{topic} },
	}
	subscribe := func(topic string) wire.Op {
		return wire.Op{Kind: wire.OpSubscribe, Key: 2, Cmd: 9, Topic: topic, Subscribe: &wire.Subscribe{Key: 2, Topic: topic, Token: "x"}}
	}
	plain := subscribe("px")
	plain.Subscribe.Token = ""
	ack := func(tag string) wire.Op { return wire.Op{Kind: wire.OpAck, Position: wire.Position{Tag: tag}} }
	for _, row := range []struct {
		name string
		o    Options
		op   wire.Op
		want string
	}{
		{"one argument", Options{}, publish(` {"n":9007199254740993} `, ""), `427["a\"", {"n":9007199254740993} ]`},
		{"one argument, named", Options{}, publish(`[1]`, TypeJSON), `427["a\"",[1]]`},
		{"arguments", Options{}, publish(" [ 1, [2] ] ", TypeArguments), `427["a\"",1, [2]]`},
		{"no argument", Options{}, publish("", ""), `427["a\""]`},
		{"no arguments", Options{}, publish("[ ]", TypeArguments), `427["a\""]`},
		{"binary", Options{}, publish("\xff\x00", TypeBinary), `451-7["a\"",{"_placeholder":true,"num":0}]` + "\nbin \xff\x00"},
		{"empty binary", Options{}, publish("", TypeBinary), `451-7["a\"",{"_placeholder":true,"num":0}]` + "\nbin "},
		{"without acknowledgement", Options{NoAcks: true}, publish("1", ""), `42["a\"",1]`},
		{"binary without acknowledgement", Options{NoAcks: true}, publish("1", TypeBinary), `451-["a\"",{"_placeholder":true,"num":0}]` + "\nbin 1"},
		{"a namespace", Options{Namespace: "/n"}, publish("1", ""), `42/n,7["a\"",1]`},
		{"not JSON", Options{}, publish("x", ""), "error op 0: " + errJSON.Error()},
		{"no UTF-8", Options{}, publish("\"\xff\"", ""), "error op 0: " + errJSON.Error()},
		{"two values", Options{}, publish("1,2", ""), "error op 0: " + errJSON.Error()},
		{"no argument, named", Options{}, publish("", TypeJSON), "error op 0: " + errJSON.Error()},
		{"no array", Options{}, publish(`{"a":1}`, TypeArguments), "error op 0: " + errArguments.Error()},
		{"another type", Options{}, publish("1", "text/plain"), "error op 0: " + errType.Error()},
		{"a header", Options{}, withHeader, "error op 0: " + errHeader.Error()},
		{"subscribe", Options{}, plain, "confirmed 2"},
		{"subscribe with a token that goes nowhere", Options{}, subscribe("px"), "error op 0: " + errToken.Error()},
		{"join", rooms, subscribe("px"), `429["join","px","x"]`},
		{"nothing to join", rooms, subscribe("local"), "confirmed 2"},
		{"join with a value that is not JSON", rooms, subscribe("bad"), "error op 0: socketio.Options.Join returned an argument that is not JSON: json: unsupported type: chan int"},
		{"unsubscribe", Options{}, wire.Op{Kind: wire.OpUnsubscribe, Topic: "px"}, ""},
		{"leave", rooms, wire.Op{Kind: wire.OpUnsubscribe, Topic: "px"}, `42["leave","px"]`},
		{"pong", Options{}, wire.Op{Kind: wire.OpPong, Step: ""}, "3"},
		{"pong of a probe", Options{}, wire.Op{Kind: wire.OpPong, Step: "probe"}, "3probe"},
		{"processed", Options{}, ack("1.2!+#17 o1"), "4317[]"},
		{"processed, nothing asked", Options{}, ack("1.2!+ o#1"), ""},
		{"processed, a namespace", Options{Namespace: "/n"}, ack("1.2#0 "), "43/n,0[]"},
		{"not processed", Options{}, wire.Op{Kind: wire.OpRelease, Position: wire.Position{Tag: "1.2#17 "}}, ""},
		{"bye", Options{}, wire.Op{Kind: wire.OpBye}, ""},
		{"credential", Options{}, wire.Op{Kind: wire.OpAuth, Token: "t"}, ""},
		{"a step of another dialect", Options{}, wire.Op{Kind: wire.OpStep, Step: 7}, "error op 0: socketio: there is no frame for a step of type int"},
		{"a ping", Options{}, wire.Op{Kind: wire.OpPing}, fmt.Sprintf("error op 0: socketio: there is no frame for an operation of kind %d", wire.OpPing)},
	} {
		if got := encode(t, open(t, row.o, wire.Resume{}), row.op); got != row.want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.name, got, row.want)
		}
	}
}

// A packet beyond the limit that the server has announced is not sent; one at it is.
func TestPublishTooBig(t *testing.T) {
	c := open(t, Options{}, wire.Resume{})
	connect(t, c, `0{"sid":"e","maxPayload":64}`)
	publish := func(n int, contentType string) error {
		return c.Encode([]wire.Op{{Kind: wire.OpPublish, Cmd: 7, Message: &wire.Message{Topic: "a", Type: contentType, Payload: []byte(strings.Repeat("1", n))}}}, new(wire.Frames))
	}
	const around = len(`427["a",]`)
	for n, typ := range map[int]string{64 - around: "", 64: TypeBinary} {
		var tooBig *wire.TooBigError
		if err := publish(n, typ); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err := publish(n+1, typ); !errors.As(err, &tooBig) || tooBig.Limit != 64 || tooBig.Size != 65 {
			t.Errorf("%d bytes: %v", n+1, err)
		}
	}
}

// A callback settles the message that it belongs to, once, and what it gets is the reply.
func TestAcknowledgement(t *testing.T) {
	rejected := Options{Rejected: func(event string, arguments []byte) string {
		if event != "a" || string(arguments) != `[{"error":"full"}]` {
			return ""
		}
		return "full"
	}}
	for _, row := range []struct {
		name   string
		o      Options
		frames string
		want   string
	}{
		{"taken", Options{}, `437[]`, "ack 7"},
		{"a reply", Options{}, `437[{"n":9007199254740993}, 2 ]`, `ack 7 reply [{"n":9007199254740993},2]`},
		{"a reply that nothing reads as a refusal", Options{}, `437[{"error":"full"}]`, `ack 7 reply [{"error":"full"}]`},
		{"refused", rejected, `437[{"error":"full"}]`, "rejected [{Seq:1 Code:430 Reason:full PeerCode:0 Unknown:false Reused:false Retry:0s}]"},
		{"not refused", rejected, `437[{"ok":1}]`, `ack 7 reply [{"ok":1}]`},
		{"once", Options{}, `437[] | 437[]`, "malformed " + badAck},
		{"another id", Options{}, `4311[]`, "malformed " + badAck},
		{"the same number, written otherwise", Options{}, `4307[]`, "malformed " + badAck},
		{"a binary reply", Options{}, `461-7[{"_placeholder":true,"num":0}] | bin 1`, `ack 7 reply ["MQ=="]`},
		{"a binary reply whose parts do not match", Options{}, `461-7[1] | bin 1`, "malformed " + badBinary},
	} {
		c := open(t, row.o, wire.Resume{})
		decode(t, c, opened, recovers)
		encode(t, c, wire.Op{Kind: wire.OpPublish, Cmd: 7, Message: &wire.Message{Seq: 1, Topic: "a", Payload: []byte("1")}})
		if got := decode(t, c, strings.Split(row.frames, " | ")...); got != row.want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.name, got, row.want)
		}
	}
}

// More events than a ledger holds are refused before they are sent.
func TestTooManyPending(t *testing.T) {
	c := open(t, Options{}, wire.Resume{})
	op := wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "a"}}
	var out wire.Frames
	for i := range maxPending {
		op.Cmd = uint64(i)
		if err := c.Encode([]wire.Op{op}, &out); err != nil {
			t.Fatal(i, err)
		}
		out.Reset()
	}
	op.Cmd = maxPending
	var full *wire.LedgerError
	if err := c.Encode([]wire.Op{op}, &out); !errors.As(err, &full) || len(out.List) != 0 {
		t.Errorf("%v, %d frames", err, len(out.List))
	}
}

// Join and Leave of subscriptions that exist when a connection begins: what a recovered
// session has is not asked for again.
func TestJoinAtTheStart(t *testing.T) {
	o := Options{
		Join: func(s wire.Subscribe) (string, []any) {
			if s.Topic == "bad" {
				return "join", []any{make(chan int)}
			}
			return "join", []any{s.Topic}
		},
		Rejected: func(_ string, arguments []byte) string { return strings.Trim(string(arguments), "[]\"") },
	}
	r := wire.Resume{Conn: 2, Session: wire.Session{ID: "s1 1.3 o3", Key: []byte("p1")}, Subs: subs("known", "asked", "new", "bad")}
	r.Subs[0].Position = wire.Position{Epoch: "s1", Tag: "1.3+ o3"}
	r.Subs[1].Position = wire.Position{Epoch: "s1", Tag: "1.4 o3"} // a message came, and no answer
	const badText = "socketio.Options.Join returned an argument that is not JSON: json: unsupported type: chan int"
	for _, row := range []struct{ welcome, want, sent string }{
		{recovers, `subscribed "known" proved at "s1 1.3+ o3"
ready "s1 1.3 o3" "p1" resumed true, heartbeat 18s, limit 1000000
unsubscribed "bad" 430 "` + badText + `"
step join ["asked" "new"]`, `429["join","asked"]` + "\n" + `4213["join","new"]`},
		{`40{"sid":"s2","pid":"p2"}`, `ready "s2  " "p2" resumed false, heartbeat 18s, limit 1000000
unsubscribed "bad" 430 "` + badText + `"
step join ["known" "asked" "new"]`, `425["join","known"]` + "\n" + `429["join","asked"]` + "\n" + `4213["join","new"]`},
	} {
		c := open(t, o, r)
		decode(t, c, opened)
		var events wire.Events
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(row.welcome)}, &events); err != nil {
			t.Fatal(err)
		}
		if got := show(events.List); got != row.want {
			t.Errorf("got\n%s\nwant\n%s", got, row.want)
		}
		if got := encode(t, c, wire.Op{Kind: wire.OpStep, Step: events.List[len(events.List)-1].Step}); got != row.sent {
			t.Errorf("sent\n%s\nwant\n%s", got, row.sent)
		}
		if got := decode(t, c, `439["no"]`); got != `unsubscribed "asked" 430 "no"` {
			t.Error(got)
		}
		if got := decode(t, c, `4313[]`); !strings.HasPrefix(got, `subscribed "new" none at`) || !strings.Contains(got, "2.0+ ") {
			t.Error(got)
		}
	}
}
