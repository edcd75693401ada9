package jsonrpc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// nodePeer is the server's half. Its name for a subscription is made of the id of the
// request, which is the key as the server knows it. It counts published messages.
type nodePeer struct {
	numbers, notify bool
	published       []uint64 // ids of the requests
}

func (p *nodePeer) Open() []wire.Frame { return nil }

type nodeRequest struct {
	ID     uint64
	Method string
	Params json.RawMessage
	Error  json.RawMessage
}

func (p *nodePeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	list := []nodeRequest{{}}
	var err error
	if f.Data[0] == '[' {
		err = json.Unmarshal(f.Data, &list)
	} else {
		err = json.Unmarshal(f.Data, &list[0])
	}
	var requests []wiretest.Request
	for _, r := range list {
		var op wire.Op
		switch {
		case r.Method == "eth_subscribe":
			var params []json.RawMessage
			if json.Unmarshal(r.Params, &params) != nil {
				return nil, errors.New("params of eth_subscribe")
			}
			topic := strings.Trim(string(params[0]), `"`)
			op = wire.Op{Kind: wire.OpSubscribe, Key: r.ID, Topic: topic, Subscribe: &wire.Subscribe{Key: r.ID, Topic: topic}}
		case r.Method == "eth_unsubscribe":
			var key uint64
			if n, _ := fmt.Sscanf(string(r.Params), `["0x%x"]`, &key); n != 1 {
				return nil, fmt.Errorf("params of eth_unsubscribe: %s", r.Params)
			}
			op = wire.Op{Kind: wire.OpUnsubscribe, Key: key, Cmd: r.ID}
			requests = append(requests, wiretest.Request{Op: op, Reply: text(`{"jsonrpc":"2.0","id":%d,"result":true}`, r.ID)})
			continue
		case r.Method == "net_version":
			op = wire.Op{Kind: wire.OpPing, N: r.ID}
		case r.Method == "eth_blockNumber":
			op = wire.Op{Kind: wire.OpCall, N: r.ID, Message: &wire.Message{Payload: r.Params}}
		case r.Method == "" && r.Error != nil:
			op = wire.Op{Kind: wire.OpPong, N: r.ID}
		case r.ID != 0 != p.notify:
			p.published = append(p.published, r.ID)
			op = wire.Op{Kind: wire.OpPublish, Cmd: uint64(len(p.published)*4 + 3), Message: &wire.Message{Payload: r.Params}}
		default:
			return nil, fmt.Errorf("method %q", r.Method)
		}
		requests = append(requests, wiretest.Request{Op: op})
	}
	return requests, err
}

// request returns the id of the request for published message n.
func (p *nodePeer) request(n uint64) uint64 {
	if n == 0 || n > uint64(len(p.published)) {
		return 1 << 40 // of none
	}
	return p.published[n-1]
}

func text(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, format, args...)}}
}

func (p *nodePeer) Encode(e wire.Event) []wire.Frame {
	switch {
	case e.Kind == wire.EventSubscribed:
		return text(`{"jsonrpc":"2.0","id":%d,"result":"0x%x"}`, e.Key, e.Key)
	case e.Kind == wire.EventUnsubscribed && e.Code != 0:
		return text(`{"jsonrpc":"2.0","id":%d,"error":{"code":-32601,"message":%q}}`, e.Key, e.Reason)
	case e.Kind == wire.EventData && p.notify:
		return text(`{"jsonrpc":"2.0","method":%q,"params":%s}`, e.Name, e.Message.Payload)
	case e.Kind == wire.EventData:
		result := string(e.Message.Payload)
		if n := e.Position.Offset; p.numbers {
			result = fmt.Sprintf(`{"number":"0x%x","hash":"h%d","parentHash":"h%d","data":%s}`, n, n, n-1, result)
		}
		return text(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x%x","result":%s}}`, e.Key, result)
	case e.Kind == wire.EventAck && len(e.Ack.Rejects) > 0:
		return text(`{"jsonrpc":"2.0","id":%d,"error":{"code":-32000,"message":%q}}`, p.request(e.Ack.Rejects[0].Seq), e.Ack.Rejects[0].Reason)
	case e.Kind == wire.EventAck && e.Ack.Cmd != 0:
		return text(`{"jsonrpc":"2.0","id":%d,"result":"0x1"}`, p.request(e.Ack.Cmd/4))
	case e.Kind == wire.EventReply && e.Code != 0:
		return text(`{"jsonrpc":"2.0","id":%d,"error":{"code":-32000,"message":%q}}`, e.N, e.Reason)
	case e.Kind == wire.EventReply:
		return text(`{"jsonrpc":"2.0","id":%d,"result":%s}`, e.N, e.Message.Payload)
	case e.Kind == wire.EventPing:
		return text(`{"jsonrpc":"2.0","id":%d,"method":"whoami"}`, e.N)
	case e.Kind == wire.EventPong:
		return text(`{"jsonrpc":"2.0","id":%d,"result":"1"}`, e.N)
	}
	return nil
}

func TestConformance(t *testing.T) {
	numbers := jsonrpc.Ethereum()
	numbers.Locate = func(_ string, payload []byte) jsonrpc.Place { return jsonrpc.Ethereum().Locate("newHeads", payload) }
	numbers.Ping = "net_version"
	batches := jsonrpc.Ethereum()
	batches.Batch = 3
	for _, row := range []struct {
		name   string
		o      jsonrpc.Options
		peer   nodePeer
		pushes bool
	}{
		{"numbers", numbers, nodePeer{numbers: true}, false},
		{"no numbers, in arrays", batches, nodePeer{}, false},
		{"notifications", jsonrpc.Options{Notify: true}, nodePeer{notify: true}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			wiretest.Run(t, wiretest.Subject{
				Dialect: jsonrpc.New(row.o),
				Peer:    func(*http.Request) wiretest.Peer { p := row.peer; return &p },
				Topics:  [2]string{"logs", "newPendingTransactions"},
				Publish: "eth_call",
				Call:    "eth_blockNumber",
				Pushes:  row.pushes,
				Allocs:  40,
			})
		})
	}
}
