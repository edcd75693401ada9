package jsonrpc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// An id that is null makes a notification, as in JSON-RPC 1.0.
func TestNotificationWithNullID(t *testing.T) {
	p := live(t, Ethereum())
	p.want(p.hear(`{"id":null,`+head("0x1", 1, "a", "b")[1:]), `data 1 newHeads #1 {"number":"0x1","hash":"a","parentHash":"b"}`)
}

// The server may end a subscription before its answer, behind messages. The end counts
// once the id is known, and only for that subscription.
func TestEndBeforeTheAnswer(t *testing.T) {
	const end = `{"method":"s","params":{"subscription":"0x1","error":{"code":-32000,"message":"gone"}}}`
	p := open(t, Ethereum())
	p.op(subscribe(1, "newHeads"), subscribe(2, "newHeads"))
	p.want(p.hear(head("0x1", 1, "a", "b"))+p.hear(end), "")
	p.want(p.hear(head("0x1", 2, "c", "a")), "data 00x1") // behind the end
	p.want(p.hear(`{"id":2,"result":"0x2"}`), "subscribed 2")
	got := p.hear(`{"id":1,"result":"0x1"}`)
	if !strings.HasPrefix(got, "subscribed 1\ndata 1 newHeads #1 ") || !strings.HasSuffix(got, "\nunsubscribed 1 32000 \"-32000: gone\"") {
		t.Error(got)
	}
	p.want(p.hear(head("0x1", 3, "d", "c")), "data 00x1")

	p = open(t, Ethereum()) // of nothing that was asked for
	p.op(subscribe(1, "newHeads"))
	p.want(p.hear(end), "")
	p.want(p.hear(`{"id":1,"result":"0x2"}`), "subscribed 1\ndata 00x1")

	p = open(t, Ethereum()) // ends have the same bound as messages
	p.op(subscribe(1, "newHeads"))
	for i := range 300 {
		p.hear(strings.Replace(end, "0x1", fmt.Sprint("x", i), 1))
	}
	if c := p.codec.(*codec); len(c.early) != 256 || c.earlyCount != 256 {
		t.Errorf("%d names, %d notifications", len(c.early), c.earlyCount)
	}
	p.hear(`{"id":1,"error":{"code":1}}`)
	if c := p.codec.(*codec); len(c.early) != 0 || c.earlyCount != 0 || c.earlyBytes != 0 {
		t.Errorf("%d names, %d notifications, %d bytes", len(c.early), c.earlyCount, c.earlyBytes)
	}
}

// The answer to a request of the server is not part of an array of requests.
func TestAnswerBesideAnArray(t *testing.T) {
	o := Ethereum()
	o.Batch = 10
	p := open(t, o)
	p.want(p.op(publish(1, "a", ""), publish(2, "b", ""), wire.Op{Kind: wire.OpPong, Step: `"x"`}, publish(3, "c", "")), `[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"}]
{"jsonrpc":"2.0","id":"x","error":{"code":-32601,"message":"method not found"}}
{"jsonrpc":"2.0","id":3,"method":"c"}`)
}

// A subscription that was closed before its id was known, and that the server ends with the
// answer, has no id any more: there is nothing to end.
func TestEndedBeforeItCouldBeEnded(t *testing.T) {
	o := Ethereum()
	o.Batch = 4
	p := open(t, o)
	p.op(subscribe(1, "newHeads"))
	p.op(unsubscribe(1, "newHeads"))
	p.hear(`[{"id":1,"result":"0x1"},{"method":"s","params":{"subscription":"0x1","error":{"code":1,"message":"over"}}}]`)
	p.want(p.op(wire.Op{Kind: wire.OpStep, Step: p.events.List[0].Step}, subscribe(2, "newHeads")),
		`{"jsonrpc":"2.0","id":2,"method":"eth_subscribe","params":["newHeads"]}`)
}
