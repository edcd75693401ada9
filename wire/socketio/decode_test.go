package socketio

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

const (
	opened   = `0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`
	welcome  = `40{"sid":"s1"}`
	recovers = `40{"sid":"s1","pid":"p1"}`
)

// decode gives frames to c and returns the events of the last one. A frame that begins with
// "bin " is binary.
func decode(t testing.TB, c wire.Codec, frames ...string) string {
	t.Helper()
	var events wire.Events
	for _, text := range frames {
		events.Reset()
		f := wire.Frame{Type: wire.Text, Data: []byte(text)}
		if data, is := strings.CutPrefix(text, "bin "); is {
			f = wire.Frame{Type: wire.Binary, Data: []byte(data)}
		}
		if err := c.Decode(f, &events); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	}
	return show(events.List)
}

func subs(topics ...string) (all []wire.Subscribe) {
	for i, topic := range topics {
		all = append(all, wire.Subscribe{Key: uint64(i + 1), Topic: topic})
	}
	return all
}

func TestDecode(t *testing.T) {
	at := func(tag string) string { return fmt.Sprintf(" at %q", "s1 1."+tag) }
	for _, row := range []struct {
		name   string
		o      Options
		topics string
		hello  string // the answer of the namespace
		frames string // the last of them counts; " | " separates them
		want   string
	}{
		{"one argument", Options{}, "a", welcome, `42["a",{"n":9007199254740993.10,"n":1}]`, `data "a" application/json "{\"n\":9007199254740993.10,\"n\":1}"` + at("1 ")},
		{"no argument", Options{}, "a", welcome, `42["a"]`, `data "a" application/vnd.socketio.arguments+json "[]"` + at("1 ")},
		{"two arguments", Options{}, "a", welcome, `42["a", 1 , "b"]`, `data "a" application/vnd.socketio.arguments+json "[1,\"b\"]"` + at("1 ")},
		{"a text stays without recovery", Options{}, "a", welcome, `42["a","x"]`, `data "a" application/json "\"x\""` + at("1 ")},
		{"an offset", Options{}, "a", recovers, `42["a",1,"o1"]`, `data "a" application/json "1"` + at("1 o1") + "\nsession \"s1 1.1 o1\" \"p1\""},
		{"only an offset", Options{}, "a", recovers, `42["a","o1"]`, `data "a" application/vnd.socketio.arguments+json "[]"` + at("1 o1") + "\nsession \"s1 1.1 o1\" \"p1\""},
		{"a volatile event keeps its text", Options{Volatile: []string{"a"}}, "a", recovers, `42["a","x"]`, `data "a" application/json "\"x\""` + at("1! ")},
		{"a request for an acknowledgement has no offset", Options{}, "a", recovers, `4217["a","x"]`, `data "a" application/json "\"x\""` + at("1!#17 ")},
		{"all", Options{}, "*", welcome, `42["a",1]`, `data "*" application/json "1" of a` + at("1 ")},
		{"all, and one", Options{}, "* a", welcome, `421["a",1]`, `data "a" application/json "1"` + at("1#1 ") + "\n" + `data "*" application/json "1" of a` + at("1 ")},
		{"no subscription", Options{}, "b", welcome, `42["a",1]`, `data "a" application/json "1"` + at("1 ")},
		{"a namespace", Options{Namespace: "/admin"}, "a", `40/admin,{"sid":"s1"}`, `42/admin,["a",1]`, `data "a" application/json "1"` + at("1 ")},
		{"another namespace", Options{}, "a", welcome, `42/admin,["a",1]`, "malformed " + badNamespace},
		{"the main namespace", Options{Namespace: "/admin"}, "a", `40/admin,{"sid":"s1"}`, `42["a",1]`, "malformed " + badNamespace},
		{"binary", Options{}, "a", welcome, "451-[\"a\",{\"_placeholder\":true,\"num\":0}] | bin \xff\x00", `data "a" application/octet-stream "\xff\x00"` + at("1 ")},
		{"binary with an offset", Options{}, "a", recovers, `451-["a",{"num":0,"_placeholder":true},"o1"] | bin 1`, `data "a" application/octet-stream "1"` + at("1 o1") + "\nsession \"s1 1.1 o1\" \"p1\""},
		{"a ping between the parts", Options{}, "a", welcome, `451-["a",{"_placeholder":true,"num":0}] | 2 | bin 1`, `data "a" application/octet-stream "1"` + at("1 ")},
		{"nested binary", Options{}, "a", welcome, `452-["a",{"x":[{"_placeholder":true,"num":1}],"y":"{\"","z":{"_placeholder":true,"num":0}},2] | bin 1 | bin 22`,
			`data "a" application/vnd.socketio.arguments+json "[{\"x\":[\"MjI=\"],\"y\":\"{\\\"\",\"z\":\"MQ==\"},2]" map[Binary-Parts:2]` + at("1 ")},
		{"no part", Options{}, "a", welcome, `450-["a",1]`, `data "a" application/json "1"` + at("1 ")},
		{"a part that is used twice", Options{}, "a", welcome, `451-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}] | bin 1`, "malformed " + badBinary + "\ngap \"a\" malformed"},
		{"one part twice, one not", Options{}, "a", welcome, `452-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}] | bin 1 | bin 2`, "malformed " + badBinary + "\ngap \"a\" malformed"},
		{"a part that is not used", Options{}, "* a", welcome, `451-["a",1] | bin 1`, "malformed " + badBinary + "\ngap \"a\" malformed\ngap \"*\" malformed"},
		{"a part that does not exist", Options{}, "a", welcome, `451-["a",{"_placeholder":true,"num":-1}] | bin 1`, "malformed " + badBinary + "\ngap \"a\" malformed"},
		{"a text in place of a part", Options{}, "a", welcome, `451-["a",{"_placeholder":true,"num":0}] | 42["a",1]`, "malformed " + badBinary + "\ngap \"a\" malformed\n" + `data "a" application/json "1"` + at("2 ")},
		{"a part without a packet", Options{}, "a", welcome, "bin 1", "malformed " + badPacket},
		{"too many parts are skipped", Options{}, "a", welcome, "45257-[\"a\",1]" + strings.Repeat(" | bin x", 257) + ` | 42["a",2]`, `data "a" application/json "2"` + at("2 ")},
		{"far too many parts", Options{}, "a", welcome, `4599999999999-["a",1]`, "malformed " + badPacket},
		{"not JSON", Options{}, "* a", welcome, `42["a",`, "malformed " + badEvent + "\ngap \"*\" malformed"},
		{"trailing data", Options{}, "a", welcome, `42["a"]]`, "malformed " + badEvent},
		{"deep nesting", Options{}, "a", welcome, `42["a",` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `]`, "malformed " + badEvent},
		{"no name", Options{}, "a", welcome, `42[]`, "malformed " + badEvent},
		{"a name that is no text", Options{}, "a", welcome, `42[7]`, "malformed " + badEvent},
		{"null as a name", Options{}, "a", welcome, `42[null]`, "malformed " + badEvent},
		{"no array", Options{}, "a", welcome, `42{"a":1}`, "malformed " + badEvent},
		{"no data", Options{}, "a", welcome, `42`, "malformed " + badEvent},
		{"a long id", Options{}, "a", welcome, `42` + strings.Repeat("1", 21) + `["a"]`, "malformed " + badPacket},
		{"an unknown packet", Options{}, "a", welcome, `47["a"]`, "malformed " + badPacket},
		{"an unknown frame", Options{}, "a", welcome, `9garbage`, "malformed " + badPacket},
		{"an empty frame", Options{}, "a", welcome, ``, "malformed " + badPacket},
		{"an acknowledgement of nothing", Options{}, "a", welcome, `433[1]`, "malformed " + badAck},
		{"an acknowledgement without an array", Options{}, "a", welcome, `433`, "malformed " + badAck},
		{"ping", Options{}, "", welcome, `2`, `ping ""`},
		{"a probe", Options{}, "", welcome, `2probe`, `ping "probe"`},
		{"upgrade packets, noop, pong", Options{}, "", welcome, `6 | 5 | 3 | 3probe`, ""},
		{"a second welcome", Options{}, "", welcome, welcome, "malformed " + badPacket},
		{"a second opening", Options{}, "", welcome, opened, "malformed " + badPacket},
		{"a late refusal", Options{}, "", welcome, `44{"message":"x"}`, "malformed " + badPacket},
		{"kick", Options{}, "", welcome, `41`, `error 41 "the server has disconnected this client" fatal true retry 0s`},
		{"Engine.IO closes", Options{}, "", welcome, `1`, `error 1 "the server closes the connection" fatal true retry 0s`},
		{"nothing counts behind an error", Options{}, "a", welcome, `1 | 42["a",1]`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := open(t, row.o, wire.Resume{Conn: 1, Subs: subs(strings.Fields(row.topics)...)})
			frames := append([]string{opened, row.hello}, strings.Split(row.frames, " | ")...)
			if got := decode(t, c, frames...); got != row.want {
				t.Errorf("got\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

// The packets before the welcome.
func TestHandshake(t *testing.T) {
	for _, row := range []struct {
		name   string
		o      Options
		frames []string
		want   string
	}{
		{"opened", Options{}, []string{opened}, "step socketio.stepConnect{1000000}"},
		{"opened without limits", Options{}, []string{`0{"sid":"e"}`}, "step socketio.stepConnect{0}"},
		{"opened without an id", Options{}, []string{`0{}`}, "malformed " + badPacket},
		{"not JSON", Options{}, []string{`0x`}, "malformed " + badPacket},
		{"too early", Options{}, []string{welcome}, "malformed " + badPacket},
		{"ready", Options{}, []string{opened, welcome}, `ready "s1  " "" resumed false, heartbeat 18s, limit 1000000`},
		{"ready with recovery", Options{}, []string{opened, recovers}, `ready "s1  " "p1" resumed false, heartbeat 18s, limit 1000000`},
		{"times below zero", Options{}, []string{`0{"sid":"e","pingInterval":-1,"pingTimeout":1e300}`, welcome}, `ready "s1  " "" resumed false, heartbeat 0s, limit 0`},
		{"times without end", Options{}, []string{`0{"sid":"e","pingInterval":1e300,"pingTimeout":1e300,"maxPayload":1e300}`, welcome}, `ready "s1  " "" resumed false, heartbeat 24m0s, limit 1073741824`},
		{"no id", Options{}, []string{opened, `40{"pid":"x"}`}, "malformed " + badPacket},
		{"Socket.IO 2", Options{}, []string{opened, `40`}, `error 400 "the server speaks the protocol of Socket.IO 2; this client needs 3 or 4" fatal true retry 0s`},
		{"Socket.IO 2, another namespace", Options{Namespace: "/a"}, []string{opened, `40`}, `error 400 "the server speaks the protocol of Socket.IO 2; this client needs 3 or 4" fatal true retry 0s`},
		{"an event too early", Options{}, []string{opened, `42["a",1]`}, "malformed " + badRecovered},
		{"refused", Options{}, []string{opened, `44{"message":"unauthorized","data":{"code":401}}`}, `error 440 "unauthorized" fatal true retry 0s`},
		{"refused without a text", Options{}, []string{opened, `44`}, `error 440 "the server refuses the connection to the namespace" fatal true retry 0s`},
		{"no namespace", Options{}, []string{opened, `44{"message":"Invalid namespace"}`}, `error 404 "the server has no namespace /" fatal true retry 0s`},
		{"refused, read by the program", Options{Refused: func(message string, data []byte) (wire.Action, time.Duration) {
			if message != "busy" || string(data) != `{"wait":7}` {
				t.Errorf("%q, %s", message, data)
			}
			return wire.ActionBackOff, 7 * time.Second
		}}, []string{opened, `44{"message":"busy","data":{"wait":7}}`}, `error 441 "busy" fatal true retry 7s`},
		{"an action that is none", Options{Refused: func(string, []byte) (wire.Action, time.Duration) { return 99, -1 }},
			[]string{opened, `44{"message":"x"}`}, `error 440 "x" fatal true retry 0s`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := decode(t, open(t, row.o, wire.Resume{}), row.frames...); got != row.want {
				t.Errorf("got\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

// before is a connection that resumes session s1 after offset o3, with these streams: a has
// had o3, b has had o5, which the client did not take note of, * has had a volatile event,
// and old nothing since o1.
func before() wire.Resume {
	r := wire.Resume{Conn: 2, Session: wire.Session{ID: "s1 1.3 o3", Key: []byte("p1")}, Subs: subs("a", "b", "*", "new", "old")}
	for i, tag := range []string{"1.3 o3", "1.5 o5", "1.4! o3", "", "1.1 o1"} {
		if tag != "" {
			r.Subs[i].Position = wire.Position{Epoch: "s1", Tag: tag}
		}
	}
	return r
}

const (
	goOn = `subscribed "a" proved at "s1 1.3 o3"
subscribed "b" proved at "s1 1.5 o5"
subscribed "*" none at "s1 1.4! o3"
subscribed "new" proved
subscribed "old" proved at "s1 1.1 o1"`
	again = `ready "s1 1.3 o3" "p1" resumed true, heartbeat 18s, limit 1000000`
)

// What a server has kept comes before its welcome. Each stream gets what it has not had, at
// once: the next connection needs only the rest.
func TestRecovery(t *testing.T) {
	c := open(t, Options{}, before())
	decode(t, c, opened)
	for _, row := range []struct{ frame, want string }{
		{`42["a",4,"o4"]`, goOn + `
data "a" application/json "4" at "s1 2.1 o4"
data "*" application/json "4" of a at "s1 2.1! o4"
session "s1 2.1 o4" "p1"`},
		{`42["b",5,"o5"]`, `data "*" application/json "5" of b at "s1 2.2! o5"
session "s1 2.2 o5" "p1"`},
		{`42["b",6,"o6"]`, `data "b" application/json "6" at "s1 2.3 o6"
data "*" application/json "6" of b at "s1 2.3! o6"
session "s1 2.3 o6" "p1"`},
		{`42["new",7,"o7"]`, `data "new" application/json "7" at "s1 2.4 o7"
data "*" application/json "7" of new at "s1 2.4! o7"
session "s1 2.4 o7" "p1"`},
		{`42["old",`, "malformed " + badEvent + "\ngap \"*\" malformed"},
		{`451-["old",1,"o8"]`, ""},
		{"bin x", "malformed " + badBinary + "\ngap \"old\" malformed\ngap \"*\" malformed"},
		{recovers, `ready "s1 2.4 o7" "p1" resumed true, heartbeat 18s, limit 1000000`},
		{`42["a",9,"o9"]`, `data "a" application/json "9" at "s1 2.7 o9"
data "*" application/json "9" of a at "s1 2.7! o9"
session "s1 2.7 o9" "p1"`},
	} {
		if got := decode(t, c, row.frame); got != row.want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.frame, got, row.want)
		}
	}
	if got := decode(t, open(t, Options{}, before()), opened, recovers); got != goOn+"\n"+again+"\n"+`reset "b" unverifiable at "s1 2.0 o3"` {
		t.Errorf("nothing missed, and b had more than the server sends: got\n%s", got)
	}
}

// A server that has forgotten the session has another id: every stream begins again.
func TestRefusedRecovery(t *testing.T) {
	const other = `40{"sid":"s2","pid":"p2"}`
	each := func(format string) (lines string) {
		for _, topic := range []string{"a", "b", "*", "new", "old"} {
			lines += "\n" + fmt.Sprintf(format, topic)
		}
		return lines
	}
	const ready = `ready "s2  " "p2" resumed false, heartbeat 18s, limit 1000000`
	streams := each(`subscribed %q none at "s2 2.0 "`)
	for _, row := range []struct{ frames, want string }{
		{opened + " | " + other, ready + streams},
		{opened + ` | 40{"sid":"s1","pid":"p2"}`, strings.ReplaceAll(ready+streams, "s2", "s1")},
		{opened + ` | 40{"sid":"s2","pid":"p1"}`, strings.ReplaceAll(ready+streams, "p2", "p1")},
		{opened + ` | 42["a",4,"o4"] | 40{"sid":"s1","pid":"p2"}`, strings.NewReplacer("s2", "s1", "2.0", "2.1").Replace(
			ready + "\nmalformed " + badRecovered + each(`reset %q unverifiable at "s2 2.0 "`) + streams)},
	} {
		if got := decode(t, open(t, Options{}, before()), strings.Split(row.frames, " | ")...); got != row.want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.frames, got, row.want)
		}
	}
}

// Places are compared as numbers, the connection first.
func TestPlaces(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want bool
	}{
		{"1.2", "1.1", true}, {"1.1", "1.2", false}, {"1.1", "1.1", false}, {"2.1", "1.9", true}, {"1.9", "2.1", false},
		{"1.10", "1.9", true}, {"10.1", "9.1", true}, {"1.2!+#7", "1.1", true}, {"1.1!", "1.1", false}, {"", "1.1", false}, {"1.1", "", true}, {"x", "y", false},
	} {
		if isLater(row.a, row.b) != row.want {
			t.Errorf("%q, %q: %v", row.a, row.b, !row.want)
		}
	}
}

// A text that is not UTF-8 ends the connection: RFC 6455, section 8.1.
func TestTextThatIsNotUTF8(t *testing.T) {
	var ce *wire.CodeError
	err := open(t, Options{}, wire.Resume{}).Decode(wire.Frame{Type: wire.Text, Data: []byte("42[\"\xff\"]")}, new(wire.Events))
	if !errors.As(err, &ce) || ce.Code != 1007 {
		t.Error(err)
	}
}

// No event shares the memory of its frame, nor of another event.
func TestNothingIsShared(t *testing.T) {
	c := open(t, Options{}, wire.Resume{Subs: subs("a", "*")})
	decode(t, c, opened, recovers)
	var events wire.Events
	for _, f := range []wire.Frame{
		{Type: wire.Text, Data: []byte(`427["a","one"]`)},
		{Type: wire.Text, Data: []byte(`42["a",1,"two","o1"]`)},
		{Type: wire.Text, Data: []byte(`451-["a",{"_placeholder":true,"num":0},"o2"]`)},
		{Type: wire.Binary, Data: []byte("part")},
		{Type: wire.Text, Data: []byte(`2probe`)},
		{Type: wire.Text, Data: []byte(`44{"message":"late"}`)},
	} {
		if err := c.Decode(f, &events); err != nil {
			t.Fatal(err)
		}
		clear(f.Data)
	}
	first := show(events.List)
	if !strings.Contains(first, `"\"one\""`) || !strings.Contains(first, `"[1,\"two\"]"`) || !strings.Contains(first, `"part"`) || !strings.Contains(first, `"probe"`) || strings.Contains(first, `\x00`) {
		t.Errorf("got\n%s", first)
	}
	var payloads [][]byte
	for i := range events.List {
		if e := &events.List[i]; e.Kind == wire.EventData {
			payloads = append(payloads, e.Message.Payload)
		}
	}
	before := make([]string, len(payloads))
	for i := range payloads {
		before[i] = string(payloads[i])
	}
	for i := range payloads {
		clear(payloads[i])
		for j := i + 1; j < len(payloads); j++ {
			if string(payloads[j]) != before[j] {
				t.Errorf("payload %d shares the memory of payload %d", j, i)
			}
		}
	}
	if len(payloads) != 6 || !slices.Contains(before, "part") {
		t.Errorf("%q", before)
	}
}

// What a server names does not fill the memory.
func TestNamesAreNotKept(t *testing.T) {
	c := open(t, Options{}, wire.Resume{Subs: subs("a")})
	decode(t, c, opened, recovers)
	for i := range 100 {
		decode(t, c, fmt.Sprintf(`421["name%d"]`, i), fmt.Sprintf(`451-["name%d",1]`, i), "bin x")
	}
	decode(t, c, `421["a"]`)
	d := c.(*codec).decoder
	if n := len(d.loose) + len(d.joined) + len(d.skip) + d.topics.Len() + d.pending.Len(); n != 2 {
		t.Errorf("%d names are held", n)
	}
}
