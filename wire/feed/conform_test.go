package feed_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/wiretest"
)

func text(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, format, args...)}}
}

// matchesPeer speaks as the venue of the table Coinbase does, for the channel "matches":
// a confirmation lists all products, a refusal none.
type matchesPeer struct{ products []string }

func (p *matchesPeer) Open() []wire.Frame { return nil }

func (p *matchesPeer) Decode(f wire.Frame) (requests []wiretest.Request, err error) {
	var m struct {
		Type     string   `json:"type"`
		Products []string `json:"product_ids"`
		Channels []string `json:"channels"`
	}
	if err := json.Unmarshal(f.Data, &m); err != nil {
		return nil, err
	}
	if !slices.Equal(m.Channels, []string{"matches"}) || len(m.Products) == 0 {
		return nil, errors.New("want products and the channel matches")
	}
	for _, product := range m.Products {
		topic := "matches/" + product
		op := wire.Op{Kind: wire.OpSubscribe, Topic: topic, Subscribe: &wire.Subscribe{Topic: topic}}
		if m.Type == "unsubscribe" {
			op = wire.Op{Kind: wire.OpUnsubscribe, Name: topic}
		}
		requests = append(requests, wiretest.Request{Op: op})
	}
	return requests, nil
}

func (p *matchesPeer) Encode(e wire.Event) []wire.Frame {
	product := strings.TrimPrefix(e.Name, "matches/")
	switch {
	case e.Kind == wire.EventData:
		return text(`{"type":"match","trade_id":%d,"sequence":%d,"product_id":%q,"price":%s}`,
			e.Position.Offset, 1000+e.Position.Offset, product, e.Message.Payload)
	case e.Kind == wire.EventUnsubscribed && e.Code != 0:
		return text(`{"type":"error","message":"Failed to subscribe","reason":"there is no such product"}`)
	case e.Kind == wire.EventSubscribed:
		if !slices.Contains(p.products, product) {
			p.products = append(p.products, product)
		}
	case e.Kind == wire.EventUnsubscribed:
		p.products = slices.DeleteFunc(p.products, func(s string) bool { return s == product })
	default:
		return nil
	}
	list, _ := json.Marshal(p.products)
	return text(`{"type":"subscriptions","channels":[{"name":"matches","product_ids":%s}]}`, list)
}

func TestConformanceOfTable(t *testing.T) {
	dialect, err := feed.New(feed.Coinbase())
	if err != nil {
		t.Fatal(err)
	}
	wiretest.Run(t, wiretest.Subject{
		Dialect: dialect,
		Peer:    func(*http.Request) wiretest.Peer { return &matchesPeer{} },
		Topics:  [2]string{"matches/LIM-USD", "matches/PET-USD"},
		Allocs:  4,
	})
}

// reefPeer is a server with ids, numbers, resumption and publishes.
type reefPeer struct {
	requests map[string]uint64
	ending   map[string]bool // the client has asked for the end
}

type reefMessage struct {
	ID    uint64          `json:"id,omitempty"`
	Op    string          `json:"op,omitempty"`
	Topic string          `json:"topic,omitempty"`
	After *uint64         `json:"after,omitempty"`
	Seq   uint64          `json:"seq,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
	Error string          `json:"error,omitempty"`
	Token string          `json:"token,omitempty"`
	Valid int64           `json:"valid,omitempty"` // s
}

func (p *reefPeer) Open() []wire.Frame { return nil }

func (p *reefPeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	var m reefMessage
	if err := json.Unmarshal(f.Data, &m); err != nil {
		return nil, err
	}
	var op wire.Op
	switch m.Op {
	case "subscribe":
		op = wire.Op{Kind: wire.OpSubscribe, Topic: m.Topic, Subscribe: &wire.Subscribe{Topic: m.Topic}}
		if m.After != nil {
			op.Subscribe.From, op.Subscribe.Position.Offset = wire.FromResume, *m.After
		}
		p.requests[m.Topic], p.ending[m.Topic] = m.ID, false
	case "unsubscribe":
		op = wire.Op{Kind: wire.OpUnsubscribe, Name: m.Topic}
		p.requests[m.Topic], p.ending[m.Topic] = m.ID, true
	case "publish":
		op = wire.Op{Kind: wire.OpPublish, Cmd: m.ID, Topic: m.Topic, Message: &wire.Message{Payload: m.Data}}
	case "login":
		op = wire.Op{Kind: wire.OpAuth, Token: m.Token}
	case "ping":
		op.Kind = wire.OpPing
	case "pong":
		op = wire.Op{Kind: wire.OpPong, N: m.ID}
	default:
		return nil, fmt.Errorf("op %q", m.Op)
	}
	return []wiretest.Request{{Op: op}}, nil
}

func (p *reefPeer) Encode(e wire.Event) []wire.Frame {
	var m reefMessage
	switch e.Kind {
	case wire.EventSubscribed:
		m = reefMessage{Op: "ok", ID: p.requests[e.Name]}
	case wire.EventUnsubscribed:
		switch m = (reefMessage{Op: "ok", ID: p.requests[e.Name]}); {
		case e.Code == 0 && !p.ending[e.Name]: // the server ends it by itself
			m = reefMessage{Op: "ended", Topic: e.Name}
		case e.Code != 0:
			m = reefMessage{Op: "error", ID: p.requests[e.Name], Error: e.Reason}
		}
	case wire.EventData:
		m = reefMessage{Op: "data", Topic: e.Name, Seq: e.Position.Offset, Data: e.Message.Payload}
	case wire.EventAck:
		m = reefMessage{Op: "ok", ID: e.Ack.Cmd}
		if len(e.Ack.Rejects) > 0 {
			m = reefMessage{Op: "error", ID: e.Ack.Cmd, Error: e.Ack.Rejects[0].Reason}
		}
	case wire.EventPing:
		m = reefMessage{Op: "ping", ID: e.N}
	case wire.EventPong:
		m = reefMessage{Op: "pong"}
	case wire.EventAuth:
		m = reefMessage{Op: "login", Valid: int64(e.Expires / time.Second)}
	default:
		return nil
	}
	data, _ := json.Marshal(m)
	return text("%s", data)
}

func TestConformanceOfFuncs(t *testing.T) {
	write := func(m reefMessage) ([]byte, error) { return json.Marshal(m) }
	dialect, err := feed.NewFuncs(feed.Funcs{
		Name: "reef", Confirms: true, ConfirmsEnd: true, Numbered: true, Resume: true, Acks: true,
		Subscribe: func(a feed.Ask) ([]byte, error) {
			m := reefMessage{ID: a.ID, Op: "subscribe", Topic: a.Topic}
			switch a.From {
			case wire.FromResume:
				m.After = &a.After.Offset
			case wire.FromFirst, wire.FromLast:
				return nil, errors.New("reef: begins after a number or now")
			}
			return write(m)
		},
		Unsubscribe: func(a feed.Ask) ([]byte, error) {
			return write(reefMessage{ID: a.ID, Op: "unsubscribe", Topic: a.Topic})
		},
		Publish: func(cmd uint64, m wire.Message) ([]byte, error) {
			return write(reefMessage{ID: cmd, Op: "publish", Topic: m.Topic, Data: m.Payload})
		},
		Ping:    func() ([]byte, error) { return write(reefMessage{Op: "ping"}) },
		Refresh: func(token string) ([]byte, error) { return write(reefMessage{Op: "login", Token: token}) },
		Pong:    func(n uint64) ([]byte, error) { return write(reefMessage{Op: "pong", ID: n}) },
		Read: func(data []byte, say func(feed.Item)) error {
			var m reefMessage
			if err := json.Unmarshal(data, &m); err != nil {
				return err
			}
			switch m.Op {
			case "data":
				say(feed.Item{Topic: m.Topic, Number: m.Seq, Payload: m.Data})
			case "ok":
				say(feed.Item{Kind: feed.Answered, ID: m.ID})
			case "ended":
				say(feed.Item{Kind: feed.Ended, Topic: m.Topic})
			case "error":
				say(feed.Item{Kind: feed.Refused, ID: m.ID, Reason: m.Error})
			case "ping":
				say(feed.Item{Kind: feed.Question, N: m.ID})
			case "login":
				say(feed.Item{Kind: feed.Credential, Valid: time.Duration(m.Valid) * time.Second})
			case "pong":
				say(feed.Item{Kind: feed.Alive})
			default:
				return fmt.Errorf("op %q", m.Op)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	wiretest.Run(t, wiretest.Subject{
		Dialect: dialect,
		Peer:    func(*http.Request) wiretest.Peer { return &reefPeer{map[string]uint64{}, map[string]bool{}} },
		Topics:  [2]string{"pearls", "shells"},
		Allocs:  32,
	})
}
