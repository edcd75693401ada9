package socketio

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

func TestCheck(t *testing.T) {
	join := func(wire.Subscribe) (string, []any) { return "", nil }
	leave := func(string) (string, []any) { return "", nil }
	for _, row := range []struct {
		o     Options
		field string
	}{
		{Options{}, ""},
		{Options{Path: "/a/", Namespace: "/b", Volatile: []string{"c"}, Join: join, Leave: leave}, ""},
		{Options{Path: "a"}, "Path"},
		{Options{Path: "/a?b"}, "Path"},
		{Options{Path: "/a\n"}, "Path"},
		{Options{Namespace: "a"}, "Namespace"},
		{Options{Namespace: "/a,b"}, "Namespace"},
		{Options{Namespace: "/a?b"}, "Namespace"},
		{Options{Namespace: "/\xff"}, "Namespace"},
		{Options{Volatile: []string{"a", ""}}, "Volatile[1]"},
		{Options{Leave: leave}, "Leave"},
	} {
		err := New(row.o).(wire.Checker).Check()
		var oe *OptionError
		if row.field == "" && err != nil || row.field != "" && (!errors.As(err, &oe) || oe.Field != row.field || !strings.Contains(oe.Error(), ";")) {
			t.Errorf("%+v: %v", row.o, err)
		}
	}
}

func TestCheckTopic(t *testing.T) {
	for topic, want := range map[string][2]bool{ // publish, subscribe
		"a": {true, true}, "a b": {true, true}, strings.Repeat("a", 255): {true, true}, All: {false, true},
		"": {}, "\xff": {}, "a\n": {}, strings.Repeat("a", 256): {}, "connect": {}, "disconnect": {},
	} {
		for use, allowed := range want {
			err := New(Options{}).CheckTopic(wire.Use(use), topic)
			var te *TopicError
			if allowed != (err == nil) || err != nil && (!errors.As(err, &te) || len(te.Topic) > 255 || !strings.Contains(te.Problem, ";")) {
				t.Errorf("use %d, %q: %v", use, topic, err)
			}
		}
	}
}

func TestAttempt(t *testing.T) {
	for _, row := range []struct{ url, path, want string }{
		{"ws://h", "", "ws://h/socket.io/?EIO=4&transport=websocket"},
		{"wss://h:8/", "", "wss://h:8/socket.io/?EIO=4&transport=websocket"},
		{"ws://h/app", "", "ws://h/app/socket.io/?EIO=4&transport=websocket"},
		{"ws://h/app?b=2&a=%20", "", "ws://h/app/socket.io/?a=+&b=2&EIO=4&transport=websocket"},
		{"ws://h/socket.io", "", "ws://h/socket.io/?EIO=4&transport=websocket"},
		{"ws://h/socket.io?EIO=4&transport=websocket", "", "ws://h/socket.io/?EIO=4&transport=websocket"},
		{"ws://h/socket.io/?EIO=4&transport=websocket&x=1", "", "ws://h/socket.io/?EIO=4&transport=websocket&x=1"},
		{"ws://h/socket.io/?EIO=3&transport=polling&sid=7", "", "ws://h/socket.io/?EIO=4&transport=websocket"},
		{"ws://h", "/live/", "ws://h/live/?EIO=4&transport=websocket"},
		{"ws://h/a/", "/live", "ws://h/a/live/?EIO=4&transport=websocket"},
	} {
		a := &wire.Attempt{URL: row.url, Token: "secret"}
		if err := New(Options{Path: row.path}).Attempt(a); err != nil || a.URL != row.want || !a.Dial || a.Header != nil {
			t.Errorf("%s: %+v, %v", row.url, a, err)
		}
	}
	if err := New(Options{}).Attempt(&wire.Attempt{URL: ":"}); err == nil {
		t.Error("no error for a URL that is none")
	}
}

// TestVerdict has each row of the table in docs/dialects/socketio.md.
func TestVerdict(t *testing.T) {
	upgrade := func(status int, body string) wire.Failure {
		return wire.Failure{Stage: wire.StageUpgrade, Status: status, Body: []byte(body)}
	}
	code := func(code uint16) wire.Failure { return wire.Failure{Stage: wire.StageHandshake, Code: code} }
	for _, row := range []struct {
		name string
		o    Options
		f    wire.Failure
		want wire.Verdict
	}{
		{"a credential in a header", Options{}, upgrade(400, "Forbidden"), wire.Verdict{Action: wire.ActionRefresh, Class: classAuth}},
		{"an older server", Options{}, upgrade(400, "Unsupported protocol version"), wire.Verdict{Action: wire.ActionStop, Class: classUnsupported}},
		{"no WebSocket transport", Options{}, upgrade(400, `{"code":0,"message":"Transport unknown"}`), wire.Verdict{Action: wire.ActionStop, Class: classUnsupported}},
		{"another 400", Options{}, upgrade(400, "Bad request"), wire.Verdict{}},
		{"another status", Options{}, upgrade(503, "Forbidden"), wire.Verdict{}},
		{"closed", Options{}, code(CodeClosed), wire.Verdict{Action: wire.ActionSpread, Class: classNetwork}},
		{"disconnected", Options{}, code(CodeDisconnected), wire.Verdict{Action: wire.ActionStop, Class: classSession}},
		{"disconnected, then closed", Options{}, wire.Failure{Stage: wire.StageOpen, Code: CodeDisconnected, CloseCode: 1005}, wire.Verdict{Action: wire.ActionStop, Class: classSession}},
		{"disconnected, and returns", Options{Return: true}, code(CodeDisconnected), wire.Verdict{Action: wire.ActionNewSession, Class: classSession}},
		{"Socket.IO 2", Options{}, code(CodeVersion), wire.Verdict{Action: wire.ActionStop, Class: classUnsupported}},
		{"no namespace", Options{}, code(CodeNamespace), wire.Verdict{Action: wire.ActionStop, Class: classProtocol}},
		{"refused", Options{}, code(CodeRefused), wire.Verdict{Action: wire.ActionRefresh, Class: classAuth}},
		{"refused: back off", Options{}, code(CodeRefused + uint16(wire.ActionBackOff)), wire.Verdict{Action: wire.ActionBackOff, Class: classOverload}},
		{"refused: spread", Options{}, code(CodeRefused + uint16(wire.ActionSpread)), wire.Verdict{Action: wire.ActionSpread, Class: classOverload}},
		{"refused: retry now", Options{}, code(CodeRefused + uint16(wire.ActionRetryNow)), wire.Verdict{Action: wire.ActionRetryNow, Class: classOverload}},
		{"refused: refresh", Options{}, code(CodeRefused + uint16(wire.ActionRefresh)), wire.Verdict{Action: wire.ActionRefresh, Class: classAuth}},
		{"refused: new session", Options{}, code(CodeRefused + uint16(wire.ActionNewSession)), wire.Verdict{Action: wire.ActionNewSession, Class: classSession}},
		{"refused: stop", Options{}, code(CodeRefused + uint16(wire.ActionStop)), wire.Verdict{Action: wire.ActionStop, Class: classAuth}},
		{"beyond", Options{}, code(CodeRefused + uint16(wire.ActionStop) + 1), wire.Verdict{}},
		{"a ping that was not answered", Options{}, wire.Failure{Stage: wire.StageOpen, Code: 1005, CloseCode: 1005}, wire.Verdict{}},
		{"a frame that is too big", Options{}, wire.Failure{Stage: wire.StageOpen, Code: 1009, CloseCode: 1009}, wire.Verdict{}},
	} {
		if got := New(row.o).Verdict(row.f); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
}

// What is known of topics whose subscriptions have ended is forgotten: a program may visit
// many rooms on one connection.
func TestTopicsOfEndedSubscriptionsAreForgotten(t *testing.T) {
	join := func(s wire.Subscribe) (string, []any) { return "join", []any{s.Topic} }
	c := open(t, Options{Join: join}, wire.Resume{Conn: 1}).(*codec)
	var in wire.Events
	var out wire.Frames
	hear := func(text string) {
		t.Helper()
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &in); err != nil {
			t.Fatal(err)
		}
	}
	say := func(op wire.Op) {
		t.Helper()
		if err := c.Encode([]wire.Op{op}, &out); err != nil {
			t.Fatal(err)
		}
	}
	hear(`0{"sid":"e","pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
	hear(`40{"sid":"s","pid":"p"}`)
	const rooms = 10_000
	for key := uint64(1); key <= rooms; key++ {
		topic := fmt.Sprint("room", key)
		say(wire.Op{Kind: wire.OpSubscribe, Key: key, Topic: topic, Subscribe: &wire.Subscribe{Key: key, Topic: topic}})
		hear(fmt.Sprintf("43%d[]", key*4+1))
		hear(fmt.Sprintf(`42[%q,1]`, topic)) // an event without an offset
		if key > 1 {                         // the first one stays
			say(wire.Op{Kind: wire.OpUnsubscribe, Key: key, Topic: topic})
		}
		in.Reset()
		out.Reset()
	}
	if n := len(c.joined) + len(c.loose); n > 4*maxEnded {
		t.Errorf("%d topics are known after %d rooms", n, rooms)
	}
	if c.joined["room1"] == 0 || !c.loose["room1"] {
		t.Error("a subscription that goes on was forgotten")
	}
}
