package graphqlws_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/graphqlws"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// conformPeer is the server's half of graphql-transport-ws. A message is the field v of
// a result, and its number the field at.
type conformPeer struct {
	back uint64            // how far before its cursor a stream begins
	ids  map[uint64]string // of open subscriptions, by key
}

func text(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, format, args...)}}
}

func (p *conformPeer) Open() []wire.Frame { return nil }

func (p *conformPeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	var m struct {
		ID, Type string
		Payload  struct {
			Token, Query string
			Variables    json.RawMessage
		}
	}
	if err := json.Unmarshal(f.Data, &m); err != nil || f.Type != wire.Text {
		return nil, fmt.Errorf("no JSON in a text: %w", err)
	}
	n, _ := strconv.ParseUint(m.ID, 10, 64)
	op := wire.Op{Cmd: n, Key: n / 4}
	switch {
	case m.Type == "connection_init":
		return []wiretest.Request{{Hello: &wire.Resume{Token: m.Payload.Token}}}, nil
	case m.Type == "ping":
		op = wire.Op{Kind: wire.OpPing}
	case m.Type == "pong":
		op = wire.Op{Kind: wire.OpPong, N: p.echoed(f.Data)}
	case m.Type == "complete":
		op.Kind = wire.OpUnsubscribe
		delete(p.ids, op.Key)
	case m.Type == "subscribe" && strings.HasPrefix(m.Payload.Query, "mutation"):
		op.Kind = wire.OpPublish
		op.Message = &wire.Message{Seq: n / 4, Payload: m.Payload.Variables}
	case m.Type == "subscribe":
		var v struct{ At string }
		_ = json.Unmarshal(m.Payload.Variables, &v)
		at, err := strconv.ParseUint(strings.TrimPrefix(v.At, "c"), 10, 64)
		_, field, _ := strings.Cut(m.Payload.Query, "{ ")
		op.Kind, op.Topic = wire.OpSubscribe, field[:1]
		op.Subscribe = &wire.Subscribe{Key: op.Key, Topic: op.Topic}
		if err == nil {
			op.Subscribe.From, op.Subscribe.Position.Offset = wire.FromResume, at-min(at, p.back)
		}
		p.ids[op.Key] = m.ID
	default:
		return nil, fmt.Errorf("unknown type %q", m.Type)
	}
	return []wiretest.Request{{Op: op}}, nil
}

// echoed returns the number in the payload of a pong.
func (p *conformPeer) echoed(data []byte) uint64 {
	var m struct{ Payload struct{ N uint64 } }
	_ = json.Unmarshal(data, &m)
	return m.Payload.N
}

func (p *conformPeer) Encode(e wire.Event) []wire.Frame {
	id := p.ids[e.Key]
	switch e.Kind {
	case wire.EventReady:
		return text(`{"type":"connection_ack"}`)
	case wire.EventUnsubscribed:
		if id == "" {
			return nil // the client has completed it
		}
		delete(p.ids, e.Key)
		if e.Code == 0 {
			return text(`{"id":%q,"type":"complete"}`, id)
		}
		return text(`{"id":%q,"type":"error","payload":[{"message":%q}]}`, id, e.Reason)
	case wire.EventData:
		return text(`{"id":"%d","type":"next","payload":{"data":{"v":%s,"at":"%d","cursor":"c%d"}}}`, e.Key*4+1, e.Message.Payload, e.Position.Offset, e.Position.Offset)
	case wire.EventAck:
		for _, r := range e.Ack.Rejects {
			return text(`{"id":"%d","type":"error","payload":[{"message":%q}]}`, r.Seq*4+3, r.Reason)
		}
		return append(text(`{"id":"%d","type":"next","payload":{"data":{"publish":true}}}`, e.Ack.Cmd), text(`{"id":"%d","type":"complete"}`, e.Ack.Cmd)...)
	case wire.EventPing:
		return text(`{"type":"ping","payload":{"n":%d}}`, e.N)
	case wire.EventPong:
		return text(`{"type":"pong"}`)
	}
	return nil
}

// TestConformance runs the suite with each sort of cursor.
func TestConformance(t *testing.T) {
	for _, row := range []struct {
		name   string
		cursor *graphqlws.Cursor
		back   uint64
	}{
		{"number", &graphqlws.Cursor{Variable: "at", Path: "at", Number: true}, 0},
		{"number, inclusive", &graphqlws.Cursor{Variable: "at", Path: "at", Number: true, Inclusive: true}, 1},
		{"exact", &graphqlws.Cursor{Variable: "at", Path: "cursor", Exact: true}, 0},
		{"inclusive", &graphqlws.Cursor{Variable: "at", Path: "cursor", Inclusive: true}, 1},
		{"none", nil, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			wiretest.Run(t, wiretest.Subject{
				Dialect: graphqlws.New(graphqlws.Options{Operations: map[string]graphqlws.Operation{
					"a":       {Query: "subscription($at: ID) { a(at: $at) }", Cursor: row.cursor},
					"b":       {Query: "subscription($at: ID) { b(at: $at) }", Cursor: row.cursor},
					"publish": {Query: "mutation($n: Int) { publish(n: $n) }"},
				}}),
				Peer:    func(*http.Request) wiretest.Peer { return &conformPeer{row.back, map[uint64]string{}} },
				Topics:  [2]string{"a", "b"},
				Publish: "publish",
				Refusal: &wiretest.Refusal{Code: 4403},
			})
		})
	}
}
