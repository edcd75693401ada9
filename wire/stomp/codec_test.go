package stomp

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

func open(t testing.TB, o Options, r wire.Resume) wire.Codec {
	t.Helper()
	if r.Heartbeat == 0 {
		r.Heartbeat = 20 * time.Second
	}
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
			m := &e.Message
			s := fmt.Sprintf("data %d%s %s %q", e.Key, e.Name, m.Topic, m.Payload)
			if m.Redelivered {
				s += " again"
			}
			if e.Position.Tag != "" {
				s += " tag " + e.Position.Tag
			}
			lines = append(lines, s)
		case wire.EventSubscribed:
			lines = append(lines, fmt.Sprintf("subscribed %d", e.Key))
		case wire.EventUnsubscribed:
			lines = append(lines, fmt.Sprintf("refused %d code %d retry %v: %s", e.Key, e.Code, e.Retry, e.Reason))
		case wire.EventGap:
			lines = append(lines, fmt.Sprintf("gap %d x%d %v", e.Key, e.Count, e.Cause))
		case wire.EventAck:
			if len(e.Ack.Rejects) > 0 {
				lines = append(lines, fmt.Sprintf("rejected %d code %d", e.Ack.Rejects[0].Seq, e.Ack.Rejects[0].Code))
			} else {
				lines = append(lines, fmt.Sprintf("acked %d", e.Ack.Cmd))
			}
		case wire.EventReady:
			s := fmt.Sprintf("ready %v", e.Ready.Heartbeat)
			if e.Ready.Traits != nil {
				s += fmt.Sprintf(" processed %d", e.Ready.Traits.Processed)
			}
			lines = append(lines, s)
		case wire.EventStep:
			lines = append(lines, fmt.Sprintf("step %+v", e.Step))
		case wire.EventPong:
			lines = append(lines, "pong")
		case wire.EventError:
			lines = append(lines, fmt.Sprintf("error %d fatal %v: %s", e.Code, e.Fatal, e.Reason))
		case wire.EventMalformed:
			lines = append(lines, fmt.Sprintf("malformed x%d %s", e.Count, e.Reason))
		default:
			lines = append(lines, fmt.Sprintf("%+v", *e))
		}
	}
	return strings.Join(lines, "\n")
}

// written returns the frames and forgets them. | stands for a line feed, $ for NUL.
func written(out *wire.Frames) string {
	var texts []string
	for _, f := range out.List {
		kind := ""
		if f.Type == wire.Binary {
			kind = "binary "
		}
		texts = append(texts, kind+strings.NewReplacer("\n", "|", "\x00", "$").Replace(string(f.Data)))
	}
	out.Reset()
	return strings.Join(texts, "\n")
}

func frameOf(text string) wire.Frame {
	return wire.Frame{Type: wire.Binary, Data: []byte(strings.NewReplacer("|", "\n", "$", "\x00").Replace(text))}
}

// said decodes texts and returns the events.
func said(t testing.TB, c wire.Codec, texts ...string) string {
	t.Helper()
	var events wire.Events
	for _, text := range texts {
		if err := c.Decode(frameOf(text), &events); err != nil {
			return show(events.List) + "\n" + err.Error()
		}
	}
	return show(events.List)
}

// encoded encodes ops and returns what was written.
func encoded(t testing.TB, c wire.Codec, ops ...wire.Op) string {
	t.Helper()
	var out wire.Frames
	if err := c.Encode(ops, &out); err != nil {
		return written(&out) + "error " + err.Error()
	}
	return written(&out)
}

func subscribeOp(key uint64, topic string) wire.Op {
	return wire.Op{Kind: wire.OpSubscribe, Key: key, Cmd: key*4 + 1, Topic: topic, Subscribe: &wire.Subscribe{Key: key, Topic: topic, Credit: wire.Credit{N: 100}}}
}

func publishOp(seq uint64, m wire.Message) wire.Op {
	m.Seq = seq
	return wire.Op{Kind: wire.OpPublish, Cmd: seq*4 + 3, Message: &m}
}

const connected = "CONNECTED|version:1.2|heart-beat:20000,20000||$"

// connect returns a codec after CONNECTED.
func connect(t testing.TB, o Options) wire.Codec {
	t.Helper()
	c := open(t, o, wire.Resume{ReadLimit: 1 << 20})
	if got := said(t, c, connected); got != "step {version:12 probe:false}\nready 20s" {
		t.Fatal(got)
	}
	return c
}

func TestStart(t *testing.T) {
	for _, row := range []struct {
		o    Options
		r    wire.Resume
		want string
	}{
		{Options{Login: "heron", Passcode: `a\b:c`}, wire.Resume{}, `CONNECT|accept-version:1.2,1.1,1.0|host:/|login:heron|passcode:a\b:c|heart-beat:20000,20000||$`},
		{Options{Login: "heron", Passcode: `a\b:c`, EscapeConnect: true}, wire.Resume{}, `CONNECT|accept-version:1.2,1.1,1.0|host:/|login:heron|passcode:a\\b:c|heart-beat:20000,20000||$`},
		{Options{Passcode: "x", Host: "shop"}, wire.Resume{Token: "t0k3n", Heartbeat: time.Second}, `CONNECT|accept-version:1.2,1.1,1.0|host:shop|passcode:t0k3n|heart-beat:1000,1000||$`},
		{Options{NoReceipts: true}, wire.Resume{}, `CONNECT|accept-version:1.2,1.1,1.0|host:/|heart-beat:0,0||$`},
	} {
		c := open(t, row.o, row.r)
		var out wire.Frames
		if err := c.Start(&out); err != nil {
			t.Error(err)
		}
		if got := written(&out); got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
		if c.(*codec).resume.Token != "" {
			t.Error("the token is kept")
		}
	}
}

func TestEncode(t *testing.T) {
	subscriptions := map[string]Subscription{
		"/topic/t": {Auto: true}, "/queue/few": {Prefetch: 3}, "/queue/many": {Prefetch: 1000},
		"/topic/d":   {Header: map[string]string{"durable": "true", "x-queue-name": "mine", "auto-delete": "false"}},
		"/topic/bad": {Header: map[string]string{"durable": "true"}}, "/queue/own": {Header: map[string]string{"ack": "client"}},
	}
	c := connect(t, Options{Subscribe: func(topic string) Subscription { return subscriptions[topic] }})
	id := wire.ID{0x01, 0x9a, 15: 0xff}
	for _, row := range []struct {
		op   wire.Op
		want string
	}{
		{subscribeOp(1, "/queue/q"), "SUBSCRIBE|id:1|destination:/queue/q|ack:client-individual|prefetch-count:50|receipt:1||$"},
		{subscribeOp(2, "/topic/t"), "SUBSCRIBE|id:2a|destination:/topic/t|ack:auto|receipt:2||$"},
		{subscribeOp(3, "/queue/few"), "SUBSCRIBE|id:3|destination:/queue/few|ack:client-individual|prefetch-count:3|receipt:3||$"},
		{subscribeOp(4, "/queue/many"), "SUBSCRIBE|id:4|destination:/queue/many|ack:client-individual|prefetch-count:100|receipt:4||$"},
		{subscribeOp(5, "/topic/d"), "SUBSCRIBE|id:5|destination:/topic/d|ack:client-individual|prefetch-count:50|auto-delete:false|durable:true|x-queue-name:mine|receipt:5||$"},
		{subscribeOp(6, "/topic/bad"), `error op 0: stomp: header "durable" needs "x-queue-name" in stomp.Subscription.Header: otherwise RabbitMQ names the queue after an id that changes`},
		{subscribeOp(7, "/queue/own"), `error op 0: stomp: header "ack" is set by limpet; remove it`},
		{publishOp(1, wire.Message{Topic: "/queue/q", Payload: []byte("a\x00b"), Type: "text/x", ID: id, Header: map[string]string{"k:1": "a\n\r\\b", "persistent": "true"}}),
			`SEND|destination:/queue/q|content-type:text/x|amqp-message-id:019a0000-0000-0000-0000-0000000000ff|k\c1:a\n\r\\b|persistent:true|receipt:6|content-length:3||a$b$`},
		{publishOp(2, wire.Message{Topic: "/queue/q", Payload: []byte("\xff")}), "binary SEND|destination:/queue/q|receipt:7|content-length:1||\xff$"},
		{publishOp(3, wire.Message{Topic: "/queue/q", Header: map[string]string{"receipt": "1"}}), `error op 0: stomp: header "receipt" is set by limpet; remove it`},
		{publishOp(3, wire.Message{Topic: "/queue/q", Header: map[string]string{"k": "\x00"}}), `error op 0: stomp: header "k" holds a NUL, which ends a frame`},
		{publishOp(3, wire.Message{Topic: "/queue/q", Header: map[string]string{"": "v"}}), `error op 0: stomp: header "" is empty or longer than 65536 bytes`},
		{publishOp(3, wire.Message{Topic: "/queue/q"}), "SEND|destination:/queue/q|receipt:8|content-length:0||$"}, // a refused message takes no receipt
		{wire.Op{Kind: wire.OpAck, Key: 1, Position: wire.Position{Tag: "T:1"}}, `ACK|id:T\c1||$`},
		{wire.Op{Kind: wire.OpRelease, Key: 1, Position: wire.Position{Tag: "T2"}}, "NACK|id:T2||$"},
		{wire.Op{Kind: wire.OpAck, Key: 2}, ""}, // ack:auto
		{wire.Op{Kind: wire.OpStep, Step: refusal{"1", "T3"}}, "NACK|id:T3|requeue:false||$"},
		{wire.Op{Kind: wire.OpStep, Step: refusal{"77", "T3"}}, ""},
		{wire.Op{Kind: wire.OpUnsubscribe, Key: 1}, "UNSUBSCRIBE|id:1||$"},
		{wire.Op{Kind: wire.OpUnsubscribe, Key: 2}, "UNSUBSCRIBE|id:2a||$"},
		{wire.Op{Kind: wire.OpUnsubscribe, Key: 1}, ""},
		{wire.Op{Kind: wire.OpRelease, Key: 1, Position: wire.Position{Tag: "T2"}}, ""}, // a broker refuses it now
		{wire.Op{Kind: wire.OpPing}, "|"},
		{wire.Op{Kind: wire.OpBye}, "DISCONNECT||$"},
		{wire.Op{Kind: wire.OpPublish}, "error op 0: stomp: there is no frame for this"},
	} {
		if got := encoded(t, c, row.op); got != row.want {
			t.Errorf("got  %q\nwant %q", got, row.want)
		}
	}
	var he *HeaderError
	if err := c.Encode([]wire.Op{{Kind: wire.OpPing}, subscribeOp(6, "/topic/bad")}, new(wire.Frames)); !errors.As(err, &he) || he.Name != "durable" {
		t.Error(err)
	}
}

// An older version has another escape, another acknowledgement, or none.
func TestVersions(t *testing.T) {
	for _, row := range []struct{ version, ready, escaped, ack, data string }{
		{"1.1", "step {version:11 probe:false}\nready 20s", `SEND|destination:/q|k:a\n\c|receipt:1|content-length:0||$`,
			"ACK|subscription:1|message-id:m1||$", `data 1 /q "x" tag m1`},
		{"1.0", "step {version:10 probe:false}\nready 20s processed 0",
			`error op 0: stomp: header "k" holds a character that the server's version of STOMP cannot carry; remove line breaks, and colons in the name`,
			"", `data 1 /q "x"`},
	} {
		c := open(t, Options{}, wire.Resume{ReadLimit: 1000})
		if got := said(t, c, strings.Replace(connected, "1.2", row.version, 1)); got != row.ready {
			t.Errorf("%s: %s", row.version, got)
		}
		version := map[string]version{"1.0": v10, "1.1": v11}[row.version]
		encoded(t, c, wire.Op{Kind: wire.OpStep, Step: terms{version: version}})
		if got := encoded(t, c, publishOp(1, wire.Message{Topic: "/q", Header: map[string]string{"k": "a\n:"}})); got != row.escaped {
			t.Errorf("%s: %s", row.version, got)
		}
		sub := encoded(t, c, subscribeOp(1, "/q"))
		id := "1"
		if row.version == "1.0" {
			id = "1a"
		}
		if !strings.Contains(sub, "|id:"+id+"|") {
			t.Errorf("%s: %s", row.version, sub)
		}
		if got := said(t, c, "MESSAGE|subscription:"+id+"|message-id:m1|destination:/q||x$"); got != row.data {
			t.Errorf("%s: %s", row.version, got)
		}
		tag := strings.TrimPrefix(row.data, `data 1 /q "x" tag `)
		if row.ack == "" {
			tag = ""
		}
		if got := encoded(t, c, wire.Op{Kind: wire.OpAck, Key: 1, Position: wire.Position{Tag: tag}}); got != row.ack {
			t.Errorf("%s: %s", row.version, got)
		}
	}
}

// A server that does not beat, or too rarely, is asked for a sign of life.
func TestProbe(t *testing.T) {
	for beats, probes := range map[string]bool{"": true, "0,0": true, "0,5000": true, "60000,0": true, "5000,5000": false, "x": true} {
		c := open(t, Options{}, wire.Resume{ReadLimit: 1000})
		var events wire.Events
		if err := c.Decode(frameOf("CONNECTED|version:1.2|heart-beat:"+beats+"||$"), &events); err != nil {
			t.Fatal(err)
		}
		encoded(t, c, wire.Op{Kind: wire.OpStep, Step: events.List[0].Step})
		want := "|"
		if probes {
			want = "BEGIN|transaction:limpet-ping||$\nABORT|transaction:limpet-ping|receipt:ping||$"
		}
		if got := encoded(t, c, wire.Op{Kind: wire.OpPing}); got != want {
			t.Errorf("%s: %s", beats, got)
		}
		if got := said(t, c, "RECEIPT|receipt-id:ping||$"); got != "pong" {
			t.Error(got)
		}
	}
}

func TestDecode(t *testing.T) {
	const message = "MESSAGE|subscription:1|destination:/q|message-id:m|ack:T1|"
	for _, row := range []struct{ name, text, want string }{
		{"heart-beat", "|", "pong"},
		{"several frames in one message", message + "|a$||" + message + "|b$|", "data 1 /q \"a\" tag T1\ndata 1 /q \"b\" tag T1"},
		{"a body with NUL", message + "content-length:3||a$b$", `data 1 /q "a\x00b" tag T1`},
		{"CR LF", strings.ReplaceAll("MESSAGE|subscription:1|destination:/q|ack:T1|content-length:1||", "|", "\r|") + "x$", `data 1 /q "x" tag T1`},
		{"escapes", "MESSAGE|subscription:1|destination:/q\\c\\\\|ack:T\\c1||x$", `data 1 /q:\ "x" tag T:1`},
		{"the first of two counts", "MESSAGE|subscription:1|subscription:2|destination:/q|ack:T1||x$", `data 1 /q "x" tag T1`},
		{"redelivered", message + "redelivered:true||x$", `data 1 /q "x" again tag T1`},
		{"ack:auto", "MESSAGE|subscription:1a|destination:/q||x$", `data 1 /q "x"`},
		{"the receipt of the publisher", message + "receipt:1||x$", `data 1 /q "x" tag T1`},
		{"no subscription of ours", "MESSAGE|subscription:s1|destination:/q|ack:T1||x$", `data 0s1 /q "x" tag T1`},
		{"without an ack", "MESSAGE|subscription:1|destination:/q||x$", "malformed x1 " + badMessage + "\ngap 1 x1 malformed"},
		{"an unknown escape", message + "k:\\t||x$", "malformed x1 " + badHeader + "\ngap 1 x1 malformed\nstep {key:1 tag:T1}"},
		{"no colon", message + "k||x$", "malformed x1 " + badHeader + "\ngap 1 x1 malformed\nstep {key:1 tag:T1}"},
		{"not UTF-8", message + "k:\xff||x$", "malformed x1 " + badEncoding + "\ngap 1 x1 malformed\nstep {key:1 tag:T1}"},
		{"content-length", message + "content-length:-1||x$", "malformed x1 " + badLength + "\ngap 1 x1 malformed\nstep {key:1 tag:T1}"},
		{"no headers", "x$y$" + message + "|a$", "malformed x2 " + badHead + "\ndata 1 /q \"a\" tag T1"},
		{"unknown command", "HELLO||$", "malformed x1 " + badCommand},
		{"a second CONNECTED", connected, "malformed x1 " + badOrder},
		{"a receipt for nothing", "RECEIPT|receipt-id:9||$RECEIPT|receipt-id:x||$", "malformed x2 " + badReceipt},
		{"a body of another length", message + "content-length:1||xy$", "\nthe body of a STOMP frame is not as long as its content-length (close code 1002)"},
		{"a body beyond the limit", message + "content-length:2000000||x", "\na STOMP frame of 2000083 bytes or more exceeds Options.ReadLimit, 1048576 bytes; raise it or send less (close code 1009)"},
		{"headers beyond the limit", "A|" + strings.Repeat("a:b|", 20000), "\nthe headers of a STOMP frame have more than 65536 bytes (close code 1009)"},
	} {
		if got := said(t, connect(t, Options{}), row.text); got != row.want {
			t.Errorf("%s:\ngot  %s\nwant %s", row.name, got, row.want)
		}
	}
	fresh := open(t, Options{}, wire.Resume{ReadLimit: 1000})
	if got := said(t, fresh, message+"|x$RECEIPT|receipt-id:1||$CONNECTED|version:2.0||$"); got != "\nthe server chose a version of STOMP that was not offered (close code 1002)" && !strings.HasSuffix(got, "not offered (close code 1002)") {
		t.Error(got)
	}
	if err := fresh.Decode(wire.Frame{Type: wire.Text, Data: []byte("\xff")}, new(wire.Events)); err == nil {
		t.Error("a text that is not UTF-8 is taken")
	}
}

// Headers reach the user without those that belong to the connection.
func TestMessageHeader(t *testing.T) {
	var events wire.Events
	c := connect(t, Options{})
	text := "MESSAGE|subscription:1|destination:/q|message-id:m|ack:T1|receipt:r|redelivered:false|content-type:text/x|content-length:1|amqp-message-id:019A0000-0000-0000-0000-0000000000ff|k:v||x$"
	if err := c.Decode(frameOf(text), &events); err != nil {
		t.Fatal(err)
	}
	m := events.List[0].Message
	if got := fmt.Sprint(m.Header, m.Type, m.ID == wire.ID{0x01, 0x9a, 15: 0xff}); got != "map[amqp-message-id:019A0000-0000-0000-0000-0000000000ff k:v message-id:m]text/xtrue" {
		t.Error(got)
	}
}

// The header timestamp is in milliseconds at some brokers and in seconds at others. It
// stays a header.
func TestTimestamp(t *testing.T) {
	for text, want := range map[string]int64{"1700000000123": 1_700_000_000_123_000_000, "1700000000": 1_700_000_000_000_000_000, "soon": 0, "-1": 0} {
		var events wire.Events
		c := connect(t, Options{})
		if err := c.Decode(frameOf("MESSAGE|subscription:1|destination:/q|message-id:m|ack:T1|timestamp:"+text+"||x$"), &events); err != nil {
			t.Fatal(err)
		}
		if m := events.List[0].Message; m.Time != want || m.Header["timestamp"] != text {
			t.Errorf("timestamp %s: time %d, want %d, header %v", text, m.Time, want, m.Header)
		}
	}
}

// A frame over many messages is put together, whatever the pieces, and each byte is
// looked at once.
func TestPieces(t *testing.T) {
	whole := frameOf("|MESSAGE\r|subscription:1|destination:/q|ack:T1|content-length:5||a$|$b$|HELLO||$MESSAGE|subscription:1|destination:/q|ack:T2||c$|").Data
	want := "data 1 /q \"a\\x00\\n\\x00b\" tag T1\nmalformed x1 " + badCommand + "\ndata 1 /q \"c\" tag T2"
	for size := 1; size <= len(whole); size++ {
		c := connect(t, Options{})
		var events wire.Events
		for rest := whole; len(rest) > 0; {
			n := min(size, len(rest))
			piece := bytes.Clone(rest[:n])
			if err := c.Decode(wire.Frame{Type: wire.Binary, Data: piece}, &events); err != nil {
				t.Fatal(size, err)
			}
			clear(piece) // it was lent
			rest = rest[n:]
		}
		got := slices.DeleteFunc(strings.Split(show(events.List), "\n"), func(line string) bool { return line == "pong" })
		if text := strings.Join(got, "\n"); text != want {
			t.Fatalf("pieces of %d:\n%s", size, text)
		}
		if c.(*codec).buf != nil {
			t.Error("memory is kept")
		}
	}
}

func TestPiecesBeyondTheLimit(t *testing.T) {
	c := open(t, Options{}, wire.Resume{ReadLimit: 100})
	got := said(t, c, "MESSAGE|subscription:1|destination:/q||", strings.Repeat("x", 40), strings.Repeat("x", 40))
	if got != "\na STOMP frame of 119 bytes or more exceeds Options.ReadLimit, 100 bytes; raise it or send less (close code 1009)" {
		t.Error(got)
	}
}
