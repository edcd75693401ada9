package jsonrpc

import (
	"fmt"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

func callOp(n uint64, method, params string) wire.Op {
	return wire.Op{Kind: wire.OpCall, Cmd: n * 4, N: n, Message: &wire.Message{Topic: method, Payload: []byte(params)}}
}

// replies shows the events that are replies.
func (p *peer) replies() (s string) {
	for i := range p.events.List {
		if e := &p.events.List[i]; e.Kind == wire.EventReply {
			s += fmt.Sprintf("%d:%s:%d:%d:%s;", e.N, e.Message.Payload, e.Code, e.PeerCode, e.Reason)
		}
	}
	return s
}

// A call is a request, with Notify too. Its reply is found by the id, in any order and between messages.
func TestCalls(t *testing.T) {
	for _, o := range []Options{{}, {Notify: true}} {
		p := open(t, o)
		p.want(p.op(callOp(8, "a", "[1]")), `{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}`)
		p.want(p.op(callOp(9, "b", "")), `{"jsonrpc":"2.0","id":2,"method":"b"}`)
		p.op(callOp(10, "c", ""))
		p.op(callOp(11, "d", ""))
		for _, tc := range []struct{ text, want string }{
			{`{"id":2,"result":{"x": 1}}`, `9:{"x": 1}:0:0:;`},
			{`{"id":1,"result":null}`, `8:null:0:0:;`},
			{`{"id":1,"result":5}`, ``}, {`{"id":9,"result":5}`, ``},
			{`{"id":3,"error":{"code":-32601,"message":"no"}}`, `10::32601:0:-32601: no;`},
			{`{"id":4}`, `11::65535:0:` + reasonTexts[badAnswer] + `;`},
		} {
			p.hear(tc.text)
			p.want(p.replies(), tc.want)
		}
		if err := p.codec.Encode([]wire.Op{callOp(12, "a", "1")}, &p.frames); err == nil {
			t.Error("params that are a number")
		}
		if err := p.codec.Encode([]wire.Op{{Kind: wire.OpCall, N: 13}}, &p.frames); err == nil {
			t.Error("a call without a message")
		}
	}
}

// A server that refuses an array has served none of the calls in it.
func TestCallsOfARefusedBatch(t *testing.T) {
	p := open(t, Options{Batch: 10})
	p.want(p.op(callOp(1, "a", ""), callOp(2, "b", "")), `[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"}]`)
	p.hear(`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no arrays"}}`)
	p.want(p.replies(), "1::32600:0:-32600: no arrays;2::32600:0:-32600: no arrays;")
}
