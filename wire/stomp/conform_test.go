package stomp_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/stomp"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// conformPeer is the broker's half of STOMP on one connection. The id of a message is its
// subscription and its number.
type conformPeer struct {
	version  string
	sends    uint64
	receipts map[uint64]string // the receipt that was asked for, by Cmd
	ids      map[uint64]string // of subscriptions, by key
}

func (p *conformPeer) Open() []wire.Frame { return nil }

func text(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, strings.ReplaceAll(format, "|", "\n")+"\x00\n", args...)}}
}

func (p *conformPeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	if string(f.Data) == "\n" {
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPing}}}, nil
	}
	whole, ended := strings.CutSuffix(string(f.Data), "\x00")
	head, body, found := strings.Cut(whole, "\n\n")
	if !ended || !found {
		return nil, fmt.Errorf("no frame: %q", f.Data)
	}
	command, lines, _ := strings.Cut(head, "\n")
	h := map[string]string{}
	for line := range strings.SplitSeq(lines, "\n") {
		name, value, _ := strings.Cut(line, ":")
		h[name] = strings.ReplaceAll(value, `\c`, ":")
	}
	op := wire.Op{}
	switch command {
	case "CONNECT":
		return []wiretest.Request{{Hello: &wire.Resume{Token: h["passcode"]}}}, nil
	case "SUBSCRIBE":
		op.Kind, op.Topic = wire.OpSubscribe, h["destination"]
		op.Key = keyOf(h["id"])
		op.Cmd = op.Key*4 + 1
		op.Subscribe = &wire.Subscribe{Key: op.Key, Topic: op.Topic}
		p.ids[op.Key] = h["id"]
	case "UNSUBSCRIBE":
		op.Kind, op.Key = wire.OpUnsubscribe, keyOf(h["id"])
	case "SEND":
		p.sends++
		op.Kind, op.Cmd = wire.OpPublish, p.sends*4+3
		op.Message = &wire.Message{Seq: p.sends, Payload: []byte(body)}
		if id := strings.ReplaceAll(h["amqp-message-id"], "-", ""); len(id) == 32 {
			fmt.Sscanf(id, "%x", &body)
			copy(op.Message.ID[:], body)
		}
	case "ACK", "NACK":
		id := h["id"]
		if p.version == "1.1" {
			id = h["message-id"]
		}
		op.Kind = map[string]wire.OpKind{"ACK": wire.OpAck, "NACK": wire.OpRelease}[command]
		if _, err := fmt.Sscanf(id, "T:%d:%d", &op.Key, &op.Position.Offset); err != nil {
			return nil, fmt.Errorf("%s of %q", command, id)
		}
	case "BEGIN":
		return nil, nil
	case "ABORT":
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPing}}}, nil
	case "DISCONNECT":
		op.Kind = wire.OpBye
	default:
		return nil, fmt.Errorf("unknown command %q", command)
	}
	p.receipts[op.Cmd] = h["receipt"]
	return []wiretest.Request{{Op: op}}, nil
}

func keyOf(id string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(id, "a"), 10, 64)
	return n
}

func (p *conformPeer) Encode(e wire.Event) []wire.Frame {
	receipt := func(cmd uint64) []wire.Frame {
		if id := p.receipts[cmd]; id != "" {
			return text("RECEIPT|receipt-id:%s||", id)
		}
		return nil
	}
	switch e.Kind {
	case wire.EventPong:
		return text("RECEIPT|receipt-id:ping||")
	case wire.EventReady:
		return text("CONNECTED|version:%s|heart-beat:0,0||", p.version)
	case wire.EventSubscribed:
		return receipt(e.Key*4 + 1)
	case wire.EventUnsubscribed:
		if e.Code == 0 || p.receipts[e.Key*4+1] == "" {
			return nil
		}
		return text("ERROR|receipt-id:%s|message:%s||", p.receipts[e.Key*4+1], e.Reason)
	case wire.EventData:
		tag := fmt.Sprintf(`T\c%d\c%d`, e.Key, e.Position.Offset)
		return text("MESSAGE|subscription:%s|destination:%s|message-id:%s|ack:%s|redelivered:%v||%s", p.ids[e.Key], e.Message.Topic, tag, tag, e.Message.Redelivered, e.Message.Payload)
	case wire.EventAck:
		if len(e.Ack.Rejects) > 0 {
			return nil // an ERROR would end the connection: TestStompRefusedPublish
		}
		return receipt(e.Ack.Cmd)
	}
	return nil
}

func TestConformance(t *testing.T) {
	for _, row := range []struct {
		name, version string
		o             stomp.Options
	}{
		{"1.2", "1.2", stomp.Options{}},
		{"1.1", "1.1", stomp.Options{}},
		{"without receipts", "1.2", stomp.Options{NoReceipts: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			wiretest.Run(t, wiretest.Subject{
				Dialect: stomp.New(row.o),
				Peer: func(*http.Request) wiretest.Peer {
					return &conformPeer{row.version, 0, map[uint64]string{}, map[uint64]string{}}
				},
				Topics:  [2]string{"/queue/a", "/queue/b"},
				Refusal: &wiretest.Refusal{Frames: text("ERROR|message:Bad CONNECT||Access refused for user 'heron'|")},
			})
		})
	}
}
