package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// linePeer is the server's half of the protocol, for the conformance suite.
type linePeer struct{}

func (linePeer) Open() []wire.Frame { return nil }

func (linePeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	var verb, topic string
	var after uint64
	n, _ := fmt.Sscan(string(f.Data), &verb, &topic, &after)
	switch {
	case verb == "SUB" && n == 3:
		s := &wire.Subscribe{Topic: topic, Position: wire.Position{Offset: after}}
		if after > 0 {
			s.From = wire.FromResume
		}
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpSubscribe, Topic: topic, Subscribe: s}}}, nil
	case verb == "UNSUB" && n == 2:
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpUnsubscribe, Name: topic}}}, nil
	}
	return nil, fmt.Errorf("neither SUB nor UNSUB")
}

func (linePeer) Encode(e wire.Event) []wire.Frame {
	var text string
	switch {
	case e.Kind == wire.EventSubscribed:
		text = "OK " + e.Name
	case e.Kind == wire.EventUnsubscribed && e.Code != 0:
		text = "NO " + e.Name + " " + e.Reason
	case e.Kind == wire.EventData:
		text = fmt.Sprintf("MSG %s %d %s", e.Name, e.Position.Offset, e.Message.Payload)
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
		Peer:    func(*http.Request) wiretest.Peer { return linePeer{} },
		Topics:  [2]string{"prices", "trades"},
	})
}
