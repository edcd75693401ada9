package socketio_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// suiteDialect is the dialect with the traits that the model of the suite can have. The
// model is a broker where each message is acknowledged, and delivers it again, which
// Socket.IO does not; and it has no clock to send pings by.
type suiteDialect struct{ wire.Dialect }

func (d suiteDialect) Traits() wire.Traits {
	t := d.Dialect.Traits()
	t.Processed, t.Release, t.Ping = wire.ProcessedNothing, false, wire.PingControl
	return t
}

func (d suiteDialect) Check() error { return d.Dialect.(wire.Checker).Check() }

// sioPeer is a Socket.IO server without recovery. Events "join" and "leave" are about rooms.
type sioPeer struct {
	conn  int
	joins map[string]string // ids of acknowledgements, by topic
}

func text(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, format, args...)}}
}

func (p *sioPeer) Open() []wire.Frame {
	return text(`0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
}

var clientPacket = regexp.MustCompile(`^(40|42|3)(\d*)(.*)$`)

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
		var auth struct{ Token string }
		if err := json.Unmarshal([]byte(m[3]), &auth); m[3] != "" && err != nil {
			return nil, err
		}
		return []wiretest.Request{{Hello: &wire.Resume{Token: auth.Token}}}, nil
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
func subject(o socketio.Options) wiretest.Subject {
	conns := 0
	o.Rejected = func(_ string, arguments []byte) string {
		var reasons []string
		if json.Unmarshal(arguments, &reasons) != nil || len(reasons) == 0 {
			return ""
		}
		return reasons[0]
	}
	return wiretest.Subject{
		Dialect: suiteDialect{socketio.New(o)},
		Peer: func(*http.Request) wiretest.Peer {
			conns++
			return &sioPeer{conns, map[string]string{}}
		},
		Topics:  [2]string{"price", "trade"},
		Refusal: &wiretest.Refusal{Frames: text(`44{"message":"unauthorized"}`)},
		Allocs:  32,
	}
}

// A server that sends what it likes.
func TestConformance(t *testing.T) {
	s := subject(socketio.Options{})
	s.Pushes = true
	wiretest.Run(t, s)
}

// A server with rooms, which the client joins and leaves.
func TestConformanceWithRooms(t *testing.T) {
	wiretest.Run(t, subject(socketio.Options{
		Join:  func(s wire.Subscribe) (string, []any) { return "join", []any{s.Topic} },
		Leave: func(topic string) (string, []any) { return "leave", []any{topic} },
	}))
}

// A server whose handlers call no callbacks.
func TestConformanceWithoutAcks(t *testing.T) {
	s := subject(socketio.Options{NoAcks: true})
	s.Pushes = true
	wiretest.Run(t, s)
}
