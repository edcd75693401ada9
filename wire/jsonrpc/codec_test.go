package jsonrpc

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

func (p *peer) want(got, want string) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// head is a notification of newHeads.
func head(sub string, number int, hash, parent string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":%q,"result":{"number":"0x%x","hash":%q,"parentHash":%q}}}`, sub, number, hash, parent)
}

// live returns a peer with newHeads as subscription 1 under the server's id 0x1.
func live(t testing.TB, o Options) *peer {
	p := open(t, o)
	p.op(subscribe(1, "newHeads"))
	p.want(p.hear(`{"jsonrpc":"2.0","id":1,"result":"0x1"}`), "subscribed 1")
	return p
}

func TestEncode(t *testing.T) {
	p := open(t, Ethereum())
	p.want(p.op(subscribe(7, `logs:{"address":"0x69", "n":9007199254740993}`)),
		`{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["logs",{"address":"0x69", "n":9007199254740993}]}`)
	p.want(p.op(publish(1, "eth_call", ` {"a":18446744073709551615}`)), `{"jsonrpc":"2.0","id":2,"method":"eth_call","params": {"a":18446744073709551615}}`)
	p.want(p.op(publish(2, `a"é`, "")), `{"jsonrpc":"2.0","id":3,"method":"a\"é"}`)
	p.want(p.op(wire.Op{Kind: wire.OpAuth, Token: "t"}, wire.Op{Kind: wire.OpBye}), "")
	p = open(t, Options{Notify: true, Ping: "ping"})
	p.want(p.op(publish(1, "log", `["a"]`)), `{"jsonrpc":"2.0","method":"log","params":["a"]}`)
	p.want(p.op(wire.Op{Kind: wire.OpPing, N: 5}), `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	p.want(p.hear(`{"id":1,"error":{"code":-32601}}`), "pong 5")
}

// An op that cannot be encoded leaves the ops before it and none from it on, in an array too.
func TestEncodeStopsAtTheFirstError(t *testing.T) {
	typed := publish(3, "m", "[]")
	typed.Message.Type = "text/plain"
	header := publish(3, "m", "[]")
	header.Message.Header = map[string]string{"a": "b"}
	for _, batch := range []int{0, 10} {
		for name, bad := range map[string]wire.Op{
			"not JSON": publish(3, "m", "[1"), "a number": publish(3, "m", "1"), "two values": publish(3, "m", "[] []"),
			"not UTF-8": publish(3, "m", "[\"\xff\"]"), "no method": publish(3, "", "[]"), "type": typed, "header": header,
			"topic": subscribe(3, ":x"), "release": {Kind: wire.OpRelease}, "step": {Kind: wire.OpStep, Step: 1},
		} {
			o := Ethereum()
			o.Batch = batch
			p := open(t, o)
			var out wire.Frames
			err := p.codec.Encode([]wire.Op{publish(1, "a", ""), publish(2, "b", ""), bad, publish(4, "c", "")}, &out)
			text := ""
			for _, f := range out.List {
				text += string(f.Data)
			}
			if oe := (*wire.OpError)(nil); !errors.As(err, &oe) || oe.Index != 2 || strings.Count(text, `"id"`) != 2 || strings.Contains(text, `"id":3`) {
				t.Errorf("%s, batch %d: %v, %s", name, batch, err, text)
			}
		}
	}
}

func TestBatch(t *testing.T) {
	o := Ethereum()
	o.Batch = 2
	p := open(t, o)
	p.want(p.op(subscribe(1, "newHeads"), publish(1, "a", "[]"), publish(2, "b", "")), `[{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]},{"jsonrpc":"2.0","id":2,"method":"a","params":[]}]`+"\n"+`{"jsonrpc":"2.0","id":3,"method":"b"}`)
	p.want(p.hear(` [ {"id":3,"result":null} , {"id":2,"error":{"code":7,"message":"no"}},`+head("0x1", 4, "h4", "h3")+`,{"id":1,"result":"0x1"} ] `),
		"ack 2 null\nreject 1 7 \"7: no\"\nsubscribed 1\ndata 1 newHeads #4 {\"number\":\"0x4\",\"hash\":\"h4\",\"parentHash\":\"h3\"}")
}

func TestAnswers(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"refused", `{"id":1,"error":{"code":-32601,"message":"n\u006f"}}`, `unsubscribed 1 32601 "-32601: no"`},
		{"refused for now", `{"id":1,"error":{"code":-32005,"message":"slow"}}`, `unsubscribed 1 32005 "-32005: slow" again in 10s`},
		{"refused with a time", `{"id":1,"error":{"code":-32005,"data":{"rate":{"backoff_seconds":30}}}}`, `unsubscribed 1 32005 "-32005: " again in 30s`},
		{"refused for too long", `{"id":1,"error":{"code":-32005,"data":{"rate":{"backoff_seconds":1e300}}}}`, `unsubscribed 1 32005 "-32005: " again in 15m0s`},
		{"code zero", `{"id":1,"error":{"code":0,"message":"x"}}`, `unsubscribed 1 65535 "x"`},
		{"a code that does not fit", `{"id":1,"error":{"code":-9223372036854775808}}`, `unsubscribed 1 65535 "-9223372036854775808: "`},
		{"an error that is none", `{"id":1,"error":"no"}`, `unsubscribed 1 65535 "no"`},
		{"both", `{"id":1,"result":null,"error":{"code":3,"message":"x"}}`, `unsubscribed 1 3 "3: x"`},
		{"error null", `{"id":1,"error":null,"result":"0x9"}`, "subscribed 1"},
		{"no id", `{"id":1,"result":true}`, `unsubscribed 1 65535 "the server's answer has no subscription id"`},
		{"an id that is empty", `{"id":1,"result":""}`, `unsubscribed 1 65535 "the server's answer has no subscription id"`},
		{"an id that is too long", `{"id":1,"result":"` + strings.Repeat("x", 300) + `"}`, `unsubscribed 1 65535 "the server's answer has no subscription id"`},
		{"neither", `{"id":1}`, `unsubscribed 1 65535 "the server's answer has no subscription id"`},
		{"the names of members have case", `{"ID":1,"Result":"0x1"}`, "malformed 1: " + reasonTexts[badObject]},
		{"the last of two members counts", `{"id":9,"id":1,"result":1,"result":"0x1"}`, "subscribed 1"},
		{"a number as id", `{"id":1,"result":23784}`, "subscribed 1"},
		{"the message", `{"id":2,"result":18446744073709551617}`, "ack 5 18446744073709551617"},
		{"the message with null", `{"id":2,"result":null}`, "ack 5 null"},
		{"the message is refused", `{"id":2,"error":{"code":-32000,"message":"nonce too low"}}`, `reject 5 32000 "-32000: nonce too low"`},
		{"an answer without a statement", `{"id":2}`, "unknown 5\nmalformed 1: " + reasonTexts[badAnswer]},
		{"no request", `{"id":3,"result":1}`, "malformed 1: " + reasonTexts[badAnswer]},
		{"another form of id", `{"id":"1","result":1}`, "malformed 1: " + reasonTexts[badAnswer]},
		{"a request that could not be read", `{"id":null,"error":{"code":-32700,"message":"Unexpected token"}}`, `error 32700 "-32700: Unexpected token" fatal false`},
		{"an answer that repeats the method", `{"id":2,"method":"m","result":1}`, "ack 5 1"},
		{"a refusal that repeats the method", `{"id":1,"method":"eth_subscribe","error":{"code":-32601,"message":"no"}}`, `unsubscribed 1 32601 "-32601: no"`},
		{"a request of the server with a null", `{"id":"x","method":"whoami","error":null}`, `ping "x"`},
		{"a request of the server", `{"id":"x","method":"whoami"}`, `ping "x"`},
		{"its id is too long", `{"id":"` + strings.Repeat("x", 300) + `","method":"whoami"}`, "malformed 1: " + reasonTexts[badObject]},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := open(t, Ethereum())
			p.op(subscribe(1, "newHeads"), publish(5, "m", ""))
			p.want(p.hear(row.text), row.want)
			if strings.HasPrefix(row.want, "ack") || strings.HasPrefix(row.want, "subscribed") {
				p.want(p.hear(row.text), "malformed 1: "+reasonTexts[badAnswer]) // an answer counts once
			}
		})
	}
	p := open(t, Options{})
	p.want(p.op(wire.Op{Kind: wire.OpPong, Step: `"x"`}), `{"jsonrpc":"2.0","id":"x","error":{"code":-32601,"message":"method not found"}}`)
}

// Notifications that come before the id of their subscription wait for it, in order.
func TestEarlyNotifications(t *testing.T) {
	p := open(t, Ethereum())
	p.op(subscribe(1, "newHeads"), subscribe(2, "newHeads"))
	p.want(p.hear(head("0xa", 1, "h1", "h0")), "")
	p.want(p.hear(head("0xb", 1, "h1", "h0")), "")
	p.want(p.hear(head("0xa", 2, "h2", "h1")), "")
	p.want(p.hear(head("0xc", 1, "h1", "h0")), "") // of nothing that was asked for
	got := p.hear(`{"id":1,"result":"0xa"}`)
	if !strings.HasPrefix(got, "subscribed 1\ndata 1 newHeads #1 ") || !strings.Contains(got, "\ndata 1 newHeads #2 ") || strings.Count(got, "\n") != 2 {
		t.Error(got)
	}
	got = p.hear(`{"id":2,"result":"0xb"}`)
	if !strings.HasPrefix(got, "subscribed 2\ndata 2 newHeads #1 ") || !strings.HasSuffix(got, "\ndata 00xc") {
		t.Error(got)
	}
	p.want(p.hear(head("0xd", 1, "h1", "h0")), "data 00xd") // nothing waits for an answer
}

// What does not fit is counted, and a gap stands for it.
func TestEarlyNotificationsAreBounded(t *testing.T) {
	log := func(id, payload string) string {
		return fmt.Sprintf(`{"method":"eth_subscription","params":{"subscription":%q,"result":%s}}`, id, payload)
	}
	for name, row := range map[string]struct{ fits, more int }{
		"number": {256, 3}, "bytes": {2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, Ethereum())
			p.op(subscribe(1, "logs"))
			payload := "{}"
			if name == "bytes" {
				payload = `"` + strings.Repeat("x", 500<<10) + `"`
			}
			for range row.fits {
				p.want(p.hear(log("0x1", payload)), "")
			}
			for range row.more {
				p.want(p.hear(log("0x1", payload)), "data 00x1")
			}
			got := p.hear(`{"id":1,"result":"0x1"}`)
			if n := strings.Count(got, "\ndata 1"); n != row.fits || !strings.HasSuffix(got, fmt.Sprintf("\ngap 1 dropped %d", row.more)) {
				t.Errorf("%d messages, %.300s", n, got)
			}
		})
	}
	p := open(t, Ethereum())
	p.op(subscribe(1, "logs"))
	for i := range 256 {
		p.hear(log(fmt.Sprint("x", i), "{}"))
	}
	p.hear(log("0x1", "{}"))
	got := p.hear(`{"id":1,"result":"0x1"}`)
	if !strings.HasPrefix(got, "subscribed 1\ngap 1 dropped 0\ndata 0x") || strings.Count(got, "\ndata 0x") != 256 {
		t.Errorf("%.200s", got)
	}
}

// A block that does not follow the last one is a reset, on the same connection or the next.
func TestReorganisation(t *testing.T) {
	p := live(t, Ethereum())
	step := func(number int, hash, parent, before string) {
		t.Helper()
		want := fmt.Sprintf(`data 1 newHeads #%d {"number":"0x%x","hash":%q,"parentHash":%q}`, number, number, hash, parent)
		if before != "" {
			want = before + "\n" + want
		}
		p.want(p.hear(head("0x1", number, hash, parent)), want)
	}
	step(8, "a8", "a7", "")
	step(9, "a9", "a8", "")
	step(9, "a9", "a8", "")                           // the client drops a repeat
	step(9, "b9", "a8", "reset 1 diverged to 8 a8")   // the same number
	step(10, "a10", "a9", "reset 1 diverged to 9 a9") // the next number on another branch
	step(9, "c9", "a8", "reset 1 diverged to 8 a8")   // a lower number, after one that was received
	step(7, "d7", "d6", "")                           // another one: a restart, which the client finds
	step(12, "c12", "c11", "")                        // a hole, which the client finds
	step(0, "g", "", "")                              // a restart, which the client finds
	step(0, "g", "", "")                              // the client drops a repeat
	p.want(p.hear(head("0x1", 0, "h", "")), `reset 1 diverged to 0
data 1 newHeads {"number":"0x0","hash":"h","parentHash":""}`) // as if it had no number, which would be a repeat
	step(1, "i1", "h", "")
	p = open(t, Ethereum())
	op := subscribe(1, "newHeads")
	op.Subscribe.From, op.Subscribe.Position = wire.FromResume, wire.Position{Offset: 9, Tag: "a9"}
	for _, row := range []struct {
		number               int
		hash, parent, before string
	}{
		{10, "a10", "a9", ""}, {10, "b10", "b9", "reset 1 diverged to 9 b9"}, {9, "a9", "a8", ""},
		{9, "b9", "a8", "reset 1 diverged to 8 a8"}, {3, "a3", "a2", ""}, {12, "a12", "a11", ""},
	} {
		p = open(t, Ethereum())
		p.op(op)
		p.hear(`{"id":1,"result":"0x1"}`)
		step(row.number, row.hash, row.parent, row.before)
	}
}

// The id of a subscription ends it, once it is known, exactly once.
func TestUnsubscribe(t *testing.T) {
	const end = `{"jsonrpc":"2.0","id":2,"method":"eth_unsubscribe","params":["0x1"]}`
	p := live(t, Ethereum())
	p.want(p.op(unsubscribe(1, "newHeads")), end)
	p.want(p.hear(head("0x1", 1, "a", "b")), `data 1 newHeads #1 {"number":"0x1","hash":"a","parentHash":"b"}`) // for the client to drop
	p.want(p.hear(`{"id":2,"result":true}`), "")
	p.want(p.hear(head("0x1", 2, "a", "b")), "data 00x1")

	p = open(t, Ethereum()) // before the answer
	p.op(subscribe(1, "newHeads"))
	p.want(p.op(unsubscribe(1, "newHeads")), "")
	p.want(p.hear(head("0x1", 1, "a", "b")), "")
	p.want(p.hear(`{"id":1,"result":"0x1"}`), "step {key:1 topic:newHeads}")
	p.want(p.op(wire.Op{Kind: wire.OpStep, Step: p.events.List[0].Step}), end)

	p = live(t, Ethereum()) // an id is given again after the end
	p.op(subscribe(2, "newHeads"))
	p.want(p.hear(`{"id":2,"result":"0x1"}`), `unsubscribed 2 65535 "the server gave the id of another subscription"`)
	p.op(unsubscribe(1, "newHeads"), subscribe(3, "newHeads"))
	p.want(p.hear(`{"id":4,"result":"0x1"}`), "subscribed 3")
	p.want(p.hear(`{"id":3,"result":true}`), "")
	p.want(p.hear(head("0x1", 1, "a", "b")), `data 3 newHeads #1 {"number":"0x1","hash":"a","parentHash":"b"}`)
}

// The server ends a subscription with an error in place of a result.
func TestEndedByTheServer(t *testing.T) {
	p := live(t, Ethereum())
	p.want(p.hear(`{"method":"s","params":{"subscription":"0x1","error":{"code":-32005,"message":"slow"}}}`), `unsubscribed 1 32005 "-32005: slow" again in 10s`)
	p.want(p.hear(head("0x1", 1, "a", "b")), "data 00x1")
}

func TestLocalTopics(t *testing.T) {
	p := open(t, Options{Locate: func(_ string, payload []byte) Place {
		return Place{Number: uint64(len(payload)), Numbered: true, ID: strings.Repeat("x", len(payload))}
	}})
	p.want(p.op(subscribe(1, "tick"), subscribe(2, "tack")), "")
	if fmt.Sprint(p.frames.Confirmed) != "[1 2]" {
		t.Errorf("confirmed %v", p.frames.Confirmed)
	}
	p.want(p.hear(`{"method":"tick","params":[1]}`), "data 1 tick #3 [1]")
	p.want(p.hear(`{"method":"tick"}`), "data 1 tick #0")
	p.want(p.hear(`{"method":"tick","params":["`+strings.Repeat("y", 300)+`"]}`), "data 1 tick\nmalformed 1: "+reasonTexts[badPlace])
	p.want(p.hear(`{"method":"tock","params":[1]}`), "data 0tock")
	p.op(publish(1, "sum", "[1,2]"))
	p.want(p.hear(`{"id":1,"result": 9007199254740993 }`), "ack 1 9007199254740993")
	var out wire.Frames
	if err := p.codec.Encode([]wire.Op{subscribe(3, "tick")}, &out); !errors.Is(err, errShared) {
		t.Error(err)
	}
	p.op(unsubscribe(1, "tick"), subscribe(3, "tick"))
	p.want(p.hear(`{"method":"tick","params":[]}`), "data 3 tick #2 []")
}

func TestHostile(t *testing.T) {
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	for _, row := range []struct{ text, want string }{
		{"", "malformed 1: " + reasonTexts[badJSON]},
		{"garbage", "malformed 1: " + reasonTexts[badJSON]},
		{`{"id":1} {"id":2}`, "malformed 1: " + reasonTexts[badJSON]},
		{strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "malformed 1: " + reasonTexts[badJSON]},
		{deep, "malformed 1: " + reasonTexts[badObject]},
		{"[]", ""}, {"7", "malformed 1: " + reasonTexts[badObject]},
		{"[" + strings.Repeat(`1,{},`, 2000) + "1]", "malformed 4001: " + reasonTexts[badObject]},
		{"[" + strings.Repeat(`1,`, 5000) + "1]", "an array of more than 4096 objects (close code 1002)"},
		{`{"method":1}`, "malformed 1: " + reasonTexts[badObject]},
		{`{"method":"s","params":{"subscription":"0x1"}}`, "gap 1 malformed 1\nmalformed 1: " + reasonTexts[badNotification]},
		{`{"method":"s","params":{"subscription":["0x1"],"result":1}}`, "data 0s"},
		{`{"method":"s","params":{"subscription":"0\u00781","result":{"deep":` + deep + `,"n":1}}}`, "data 1 newHeads"},
		{"\xff", "text message is not UTF-8 (close code 1007)"},
	} {
		p := live(t, Ethereum())
		if got := p.hear(row.text); strings.TrimSpace(got) != strings.TrimSpace(row.want) {
			t.Errorf("%.100q: got\n%.300s\nwant\n%s", row.text, got, row.want)
		}
	}
	p := live(t, Ethereum())
	p.events.Reset()
	if err := p.codec.Decode(wire.Frame{Type: wire.Binary, Data: []byte("\xff")}, &p.events); err != nil || show(p.events.List) != "malformed 1: "+reasonTexts[badJSON] {
		t.Errorf("%v, %s", err, show(p.events.List))
	}
}

// A server that does not answer fills no memory: beyond the limit the connection ends.
func TestPendingRequestsAreBounded(t *testing.T) {
	p := open(t, Options{})
	c := p.codec.(*codec)
	c.requests = wire.NewLedger[uint64, request](2)
	p.op(publish(1, "a", ""), publish(2, "a", ""))
	var out wire.Frames
	err := c.Encode([]wire.Op{publish(3, "a", "")}, &out)
	var oe *wire.OpError
	if le := (*wire.LedgerError)(nil); !errors.As(err, &le) || errors.As(err, &oe) {
		t.Error(err)
	}
	if out.List != nil || c.requests.Len() != 2 {
		t.Errorf("%d frames, %d requests", len(out.List), c.requests.Len())
	}
}

// An error that means too many requests postpones a subscription, for every provider.
func TestEthereumRetry(t *testing.T) {
	retry := Ethereum().Retry
	for _, code := range []int64{-32005, -32012, -32016, 429} {
		if got := retry(Error{Code: code}); got != 10*time.Second {
			t.Errorf("%d: %v", code, got)
		}
	}
	for _, code := range []int64{0, -32000, -32601, -32700} {
		if got := retry(Error{Code: code}); got != 0 {
			t.Errorf("%d: %v", code, got)
		}
	}
}

// The client's own tables decide on every failure.
func TestVerdict(t *testing.T) {
	for _, f := range []wire.Failure{{Code: 1000}, {Code: 1008}, {Code: 4401}, {Code: 32601}, {Stage: wire.StageUpgrade, Status: 401}} {
		if v := New(Ethereum()).Verdict(f); v != (wire.Verdict{}) {
			t.Errorf("%+v: %+v", f, v)
		}
	}
}

func TestOptions(t *testing.T) {
	eth := Ethereum()
	for _, row := range []struct {
		field string
		o     Options
	}{
		{"Unsubscribe", Options{Unsubscribe: eth.Unsubscribe}},
		{"Unsubscribe", Options{Subscribe: eth.Subscribe}},
		{"Retry", Options{Retry: func(Error) time.Duration { return 0 }}},
		{"Again", Options{Again: eth.Retry, Notify: true}},
		{"LookBack", Options{LookBack: 1}},
		{"Ping", Options{Ping: "a\n"}},
		{"Batch", Options{Batch: -1}},
		{"Batch", Options{Batch: 1001}},
	} {
		err := New(row.o).(wire.Checker).Check()
		if oe := (*OptionError)(nil); !errors.As(err, &oe) || oe.Field != row.field || !strings.Contains(err.Error(), "jsonrpc.Options."+row.field) {
			t.Errorf("%s: %v", row.field, err)
		}
	}
	for _, o := range []Options{{}, eth, {Ping: "ping", Notify: true, Batch: 1000}} {
		if err := New(o).(wire.Checker).Check(); err != nil {
			t.Error(err)
		}
	}
	if tr := New(Options{Notify: true, Ping: "p"}).Traits(); tr.Acks || tr.Ping != wire.PingOp {
		t.Errorf("%+v", tr)
	}
	if tr := New(eth).Traits(); !tr.Acks || tr.Resume || tr.Sessions || tr.Credit || tr.Greeting || !tr.ByKey || !tr.Confirms || tr.Ping != wire.PingControl {
		t.Errorf("%+v", tr)
	}
}

func TestCheckTopic(t *testing.T) {
	for _, row := range []struct {
		use   wire.Use
		topic string
		good  bool
	}{
		{wire.UseSubscribe, "newHeads", true}, {wire.UseSubscribe, `logs:{"a":1}`, true}, {wire.UseSubscribe, "rpc.x", true},
		{wire.UseSubscribe, "", false}, {wire.UseSubscribe, ":{}", false}, {wire.UseSubscribe, "logs:{", false}, {wire.UseSubscribe, "a\x00", false},
		{wire.UseSubscribe, "\xff", false}, {wire.UseSubscribe, strings.Repeat("a", 20000), false},
		{wire.UsePublish, "eth_call", true}, {wire.UsePublish, "", false}, {wire.UsePublish, strings.Repeat("a", 256), false},
	} {
		err := New(Ethereum()).CheckTopic(row.use, row.topic)
		if te := (*TopicError)(nil); (err == nil) != row.good || err != nil && !errors.As(err, &te) {
			t.Errorf("%d %.20q: %v", row.use, row.topic, err)
		}
	}
}
