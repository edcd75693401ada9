package raw_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// rawPeer is a server without a protocol: it sends payloads, and takes what is sent. With
// numbers each text is "topic number payload".
type rawPeer struct{ numbers, texts bool }

func (p *rawPeer) Open() []wire.Frame { return nil }

func (p *rawPeer) Decode(f wire.Frame) ([]wiretest.Request, error) {
	switch text := string(f.Data); {
	case text == "hello":
		return nil, nil
	case text == "ping":
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPing}}}, nil
	case strings.HasPrefix(text, "alive "):
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPong}}}, nil
	default:
		return []wiretest.Request{{Op: wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Payload: f.Data}}}}, nil
	}
}

func (p *rawPeer) Encode(e wire.Event) []wire.Frame {
	switch text := ""; e.Kind {
	case wire.EventData:
		text = string(e.Message.Payload)
		if p.numbers {
			text = fmt.Sprintf("%s %d %s", e.Name, e.Position.Offset, text)
		}
		return []wire.Frame{{Type: wire.Text, Data: []byte(text)}}
	case wire.EventPing:
		text = "alive?"
		fallthrough
	case wire.EventPong:
		if text == "" {
			text = "pong"
		}
		if p.texts {
			return []wire.Frame{{Type: wire.Text, Data: []byte(text)}}
		}
	}
	return nil
}

func TestConformance(t *testing.T) {
	wiretest.Run(t, wiretest.Subject{
		Dialect: raw.New(raw.Options{}),
		Peer:    func(*http.Request) wiretest.Peer { return &rawPeer{} },
		Topics:  [2]string{"*"},
		Pushes:  true,
		Allocs:  2,
	})
}

func TestConformanceWithEverything(t *testing.T) {
	wiretest.Run(t, wiretest.Subject{
		Dialect: raw.New(raw.Options{
			OnOpen: func(wire.Resume) [][]byte { return [][]byte{[]byte("hello")} },
			Ping:   "ping",
			Pong:   "pong",
			Answer: func(f wire.Frame) []byte {
				if string(f.Data) == "alive?" {
					return []byte("alive 1")
				}
				return nil
			},
			Topic: func(f wire.Frame) raw.Label {
				var l raw.Label
				n, _ := fmt.Sscanf(string(f.Data), "%s %d", &l.Topic, &l.Number)
				l.Numbered = n == 2
				return l
			},
			Subprotocols: []string{"prices.v1"},
		}),
		Peer:    func(*http.Request) wiretest.Peer { return &rawPeer{numbers: true, texts: true} },
		Topics:  [2]string{"a", "b"},
		Publish: "*",
		Pushes:  true,
		Allocs:  16,
	})
}
