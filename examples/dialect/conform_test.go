package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// linePeer is the server's half of the protocol, for the conformance suite.
type linePeer struct {
	asked map[string]string // ids of the requests, by topic
}

func (*linePeer) Open() []wire.Frame { return nil }

func (p *linePeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	words := strings.SplitN(string(f.Data), " ", 4)
	id, err := strconv.ParseUint(words[min(1, len(words)-1)], 10, 64)
	op := wire.Op{Cmd: id, N: id}
	switch {
	case err != nil:
		return nil, err
	case words[0] == "SUB" && len(words) == 4:
		p.asked[words[2]] = words[1]
		s := &wire.Subscribe{Topic: words[2]}
		if s.Position.Offset, err = strconv.ParseUint(words[3], 10, 64); s.Position.Offset > 0 {
			s.From = wire.FromResume
		}
		op.Kind, op.Topic, op.Subscribe = wire.OpSubscribe, words[2], s
	case words[0] == "UNSUB" && len(words) == 3:
		op.Kind, op.Name = wire.OpUnsubscribe, words[2]
	case words[0] == "PUB" && len(words) == 4:
		op.Kind, op.Message = wire.OpPublish, &wire.Message{Topic: words[2], Payload: []byte(words[3])}
	case words[0] == "PING":
		op.Kind = wire.OpPing
	default:
		return nil, fmt.Errorf("%q is none of SUB, UNSUB, PUB and PING", words[0])
	}
	return []wiretest.Request{{Op: op}}, err
}

func (p *linePeer) Encode(e wire.Event) []wire.Frame {
	var text string
	switch {
	case e.Kind == wire.EventSubscribed:
		text = "OK " + p.asked[e.Name]
	case e.Kind == wire.EventUnsubscribed && e.Code != 0:
		text = fmt.Sprintf("ERR %s %d %s", p.asked[e.Name], e.Code, e.Reason)
	case e.Kind == wire.EventAck && len(e.Ack.Rejects) > 0:
		text = fmt.Sprintf("ERR %d %d %s", e.Ack.Cmd, e.Ack.Rejects[0].Code, e.Ack.Rejects[0].Reason)
	case e.Kind == wire.EventAck:
		text = fmt.Sprintf("OK %d", e.Ack.Cmd)
	case e.Kind == wire.EventData:
		text = fmt.Sprintf("MSG %s %d %s", e.Name, e.Position.Offset, e.Message.Payload)
	case e.Kind == wire.EventPong:
		text = fmt.Sprintf("PONG %d", e.N)
	default:
		return nil // the server has no word for it
	}
	return []wire.Frame{{Type: wire.Text, Data: []byte(text)}}
}

// TestConformance tries what the traits promise, with lost connections, repeated and
// missing numbers, refusals and hostile frames.
func TestConformance(t *testing.T) {
	wiretest.Run(t, wiretest.Subject{
		Dialect: lines{},
		Peer:    func(*http.Request) wiretest.Peer { return &linePeer{asked: map[string]string{}} },
		Topics:  [2]string{"prices", "trades"},
	})
}
