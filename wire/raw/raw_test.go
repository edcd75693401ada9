package raw

import (
	"errors"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

func never(wire.Frame) bool { return false }

func TestCheck(t *testing.T) {
	for _, row := range []struct {
		field, problem string
		o              Options
	}{
		{"", "", Options{}},
		{"", "", Options{Ping: "ping", Pong: "pong", Subprotocols: []string{"v1.json", "v2"}}},
		{"", "", Options{Ping: "ping", IsPong: never}},
		{"", "", Options{Pong: "alive"}},
		{"Ping", "is not UTF-8", Options{Ping: "\xff", IsPong: never}},
		{"Ping", "needs Pong or IsPong", Options{Ping: "ping"}},
		{"Pong", "is not UTF-8", Options{Ping: "ping", Pong: "\xff"}},
		{"Pong", "excludes IsPong", Options{Ping: "ping", Pong: "pong", IsPong: never}},
		{"", "", Options{Limits: wire.ConnectionLimits{Messages: 5}}},
		{"Limits.Subscriptions", "has no effect", Options{Limits: wire.ConnectionLimits{Subscriptions: 5}}},
		{"Limits.Burst", "needs Messages", Options{Limits: wire.ConnectionLimits{Burst: 5}}},
		{"Subprotocols[0]", "is no token", Options{Subprotocols: []string{""}}},
		{"Subprotocols[1]", "is no token", Options{Subprotocols: []string{"a", "b, c"}}},
		{"Subprotocols[0]", "is no token", Options{Subprotocols: []string{"é"}}},
		{"Subprotocols[0]", "is no token", Options{Subprotocols: []string{"a\r\nX: y"}}},
		{"Subprotocols[2]", "is offered twice", Options{Subprotocols: []string{"a", "b", "a"}}},
	} {
		err := New(row.o).(wire.Checker).Check()
		var oe *OptionError
		switch {
		case row.field == "" && err != nil:
			t.Errorf("%+v: %v", row.o, err)
		case row.field != "" && (!errors.As(err, &oe) || oe.Field != row.field || !strings.HasPrefix(oe.Problem, row.problem) ||
			!strings.HasPrefix(err.Error(), "raw.Options."+row.field+" "+row.problem)):
			t.Errorf("%s: %v, want it to say that it %s", row.field, err, row.problem)
		}
	}
}

// New keeps its own list of subprotocols, and Attempt gives away a copy.
func TestSubprotocolsAreCopied(t *testing.T) {
	list := []string{"a", "b"}
	d := New(Options{Subprotocols: list})
	list[0] = "x"
	for range 2 {
		var a wire.Attempt
		if err := d.Attempt(&a); err != nil || !a.Dial || strings.Join(a.Subprotocols, " ") != "a b" {
			t.Errorf("%+v, %v", a, err)
		}
		a.Subprotocols[1] = "y"
	}
}

func TestCheckTopic(t *testing.T) {
	plain := New(Options{})
	named := New(Options{Topic: func(wire.Frame) Label { return Label{} }})
	long := strings.Repeat("a", 256)
	for _, row := range []struct {
		d       wire.Dialect
		use     wire.Use
		topic   string
		problem string
	}{
		{plain, wire.UseSubscribe, "*", ""},
		{plain, wire.UsePublish, "*", ""},
		{named, wire.UseSubscribe, "*", ""},
		{named, wire.UsePublish, "*", ""},
		{named, wire.UseSubscribe, "trades/BTC-USD", ""},
		{named, wire.UseSubscribe, long[:255], ""},
		{plain, wire.UseSubscribe, "trades", `subscribe to "*"`},
		{plain, wire.UseSubscribe, "", `subscribe to "*"`},
		{plain, wire.UsePublish, "trades", `publish to "*"`},
		{named, wire.UsePublish, "trades", `publish to "*"`},
		{named, wire.UseSubscribe, "", "1 to 255 bytes"},
		{named, wire.UseSubscribe, long, "1 to 255 bytes"},
		{named, wire.UseSubscribe, "a\nb", "control"},
		{named, wire.UseSubscribe, "\xff", "UTF-8"},
	} {
		err := row.d.CheckTopic(row.use, row.topic)
		var te *TopicError
		switch {
		case row.problem == "" && err != nil:
			t.Errorf("%q: %v", row.topic, err)
		case row.problem != "" && (!errors.As(err, &te) || !strings.Contains(err.Error(), row.problem) || len(te.Topic) > 255):
			t.Errorf("%q: %v, want it to say %q", row.topic, err, row.problem)
		}
	}
}

func TestTraits(t *testing.T) {
	if got := New(Options{}).Traits(); got.Ping != wire.PingControl || !got.Publish || !got.Streams || got.Acks || got.Resume || got.Confirms {
		t.Errorf("%+v", got)
	}
	if got := New(Options{Ping: "ping", Pong: "pong"}).Traits(); got.Ping != wire.PingOp {
		t.Errorf("with Ping: %+v", got)
	}
	if got := New(Options{Pong: "alive"}).Traits(); got.Ping != wire.PingControl {
		t.Errorf("with Pong only: %+v", got)
	}
}
