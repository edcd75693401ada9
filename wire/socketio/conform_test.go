package socketio_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// sioPeer is a Socket.IO server. Events "join" and "leave" are about rooms.
type sioPeer struct {
	conn     int
	joins    map[string]string // ids of acknowledgements, by topic
	asks     bool              // each event asks for an acknowledgement
	asked    []wire.Position   // of these events, by id
	names    []string          // likewise
	recovers bool              // sessions are recovered
	sent     map[string]uint64 // with recovers: the last message of each topic
}

func text(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, format, args...)}}
}

func (p *sioPeer) Open() []wire.Frame {
	return text(`0{"sid":"e","upgrades":[],"pingInterval":1000,"pingTimeout":2000,"maxPayload":1000000}`)
}

var clientPacket = regexp.MustCompile(`^(40|42|43|3)(\d*)(.*)$`)

func (p *sioPeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	m := clientPacket.FindStringSubmatch(string(f.Data))
	if m == nil || f.Type != wire.Text {
		return nil, fmt.Errorf("no packet that a client sends")
	}
	if m[1] == "3" {
		n, _ := strconv.ParseUint(m[2], 10, 64)
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPong, N: n}}}, nil
	}
	if m[1] == "40" {
		var auth struct{ Token, PID, Offset string }
		if err := json.Unmarshal([]byte(m[3]), &auth); m[3] != "" && err != nil {
			return nil, err
		}
		hello := &wire.Resume{Token: auth.Token, Session: wire.Session{ID: auth.PID}}
		for pair := range strings.SplitSeq(auth.Offset, "-") { // such as "price=3-trade=2"
			if topic, number, ok := strings.Cut(pair, "="); ok {
				n, _ := strconv.ParseUint(number, 10, 64)
				p.sent[topic] = n
			}
		}
		for _, topic := range []string{"price", "trade"} {
			hello.Subs = append(hello.Subs, wire.Subscribe{Topic: topic, Position: wire.Position{Offset: p.sent[topic]}})
		}
		if !p.recovers {
			hello.Session, hello.Subs = wire.Session{}, nil
		}
		return []wiretest.Request{{Hello: hello}}, nil
	}
	if m[1] == "43" {
		id, err := strconv.Atoi(m[2])
		if err != nil || id >= len(p.asked) {
			return nil, fmt.Errorf("acknowledges event %q", m[2])
		}
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpAck, Name: p.names[id], Position: p.asked[id]}}}, nil
	}
	var all []json.RawMessage
	var event string
	if err := json.Unmarshal([]byte(m[3]), &all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(all[0], &event); err != nil || len(all) != 2 {
		return nil, fmt.Errorf("%d elements, %v", len(all), err)
	}
	var topic string
	_ = json.Unmarshal(all[1], &topic)
	switch event {
	case "join":
		p.joins[topic] = m[2]
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpSubscribe, Name: topic, Topic: topic, Subscribe: &wire.Subscribe{Topic: topic}}}}, nil
	case "leave":
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpUnsubscribe, Name: topic, Topic: topic}}}, nil
	}
	cmd, _ := strconv.ParseUint(m[2], 10, 64) // 0: it asks for no acknowledgement
	return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPublish, Cmd: cmd, Message: &wire.Message{Payload: all[1]}}}}, nil
}

func (p *sioPeer) Encode(e wire.Event) []wire.Frame {
	switch e.Kind {
	case wire.EventReady:
		if p.recovers {
			return text(`40{"sid":%q,"pid":%q}`, "of-"+e.Ready.Session.ID, e.Ready.Session.ID)
		}
		return text(`40{"sid":"s%d"}`, p.conn)
	case wire.EventSubscribed, wire.EventUnsubscribed:
		id := p.joins[e.Name]
		switch {
		case id == "" || e.Kind == wire.EventUnsubscribed && e.Code == 0: // nothing says that a room was left
			return nil
		case e.Kind == wire.EventSubscribed:
			return text("43%s[]", id)
		}
		return text("43%s[%q]", id, e.Reason)
	case wire.EventData:
		switch {
		case p.asks:
			p.asked, p.names = append(p.asked, e.Position), append(p.names, e.Name)
			return text("42%d[%q,%s]", len(p.asked)-1, e.Name, e.Message.Payload)
		case p.recovers:
			p.sent[e.Name] = e.Position.Offset
			return text("42[%q,%s,%q]", e.Name, e.Message.Payload, fmt.Sprintf("price=%d-trade=%d", p.sent["price"], p.sent["trade"]))
		}
		return text("42[%q,%s]", e.Name, e.Message.Payload)
	case wire.EventAck:
		if rejects := e.Ack.Rejects; len(rejects) > 0 {
			return text("43%d[%q]", rejects[0].Seq*4+3, rejects[0].Reason)
		}
		if e.Ack.Cmd != 0 {
			return text("43%d[]", e.Ack.Cmd)
		}
	case wire.EventPing:
		return text("2%d", e.N)
	}
	return nil
}

// subject is a dialect with these options, against peers with session ids of their own.
func subject(o socketio.Options, change func(*sioPeer)) wiretest.Subject {
	conns := 0
	o.Rejected = func(_ string, arguments []byte) string {
		var reasons []string
		if json.Unmarshal(arguments, &reasons) != nil || len(reasons) == 0 {
			return ""
		}
		return reasons[0]
	}
	return wiretest.Subject{
		Dialect: socketio.New(o),
		Peer: func(*http.Request) wiretest.Peer {
			conns++
			p := &sioPeer{conn: conns, joins: map[string]string{}, sent: map[string]uint64{}}
			if change != nil {
				change(p)
			}
			return p
		},
		Topics:  [2]string{"price", "trade"},
		Once:    true,
		Beat:    time.Second,
		Refusal: &wiretest.Refusal{Frames: text(`44{"message":"unauthorized"}`)},
		Allocs:  32,
	}
}

// A server that sends what it likes.
func TestConformance(t *testing.T) {
	s := subject(socketio.Options{}, nil)
	s.Pushes = true
	wiretest.Run(t, s)
}

// A server whose events ask for acknowledgements.
func TestConformanceWithEventsThatAsk(t *testing.T) {
	s := subject(socketio.Options{}, func(p *sioPeer) { p.asks = true })
	s.Pushes, s.Asks = true, true
	wiretest.Run(t, s)
}

// A server that recovers sessions.
func TestConformanceWithRecovery(t *testing.T) {
	s := subject(socketio.Options{}, func(p *sioPeer) { p.recovers = true })
	s.Pushes, s.Replay = true, true
	wiretest.Run(t, s)
}

// A server with rooms, which the client joins and leaves.
func TestConformanceWithRooms(t *testing.T) {
	wiretest.Run(t, subject(socketio.Options{
		Join:  func(s wire.Subscribe) (string, []any) { return "join", []any{s.Topic} },
		Leave: func(topic string) (string, []any) { return "leave", []any{topic} },
	}, nil))
}

// A server whose handlers call no callbacks.
func TestConformanceWithoutAcks(t *testing.T) {
	s := subject(socketio.Options{NoAcks: true}, nil)
	s.Pushes = true
	wiretest.Run(t, s)
}
