package wiretest

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// caller is the toy with calls: "CALL n payload", "REPLY n payload" and "REFUSED n text".
type caller struct {
	toy
	fault string
}

func (d caller) Traits() wire.Traits {
	t := d.toy.Traits()
	t.Calls = true
	return t
}

func (d caller) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.toy.Open(r)
	return &callCodec{Codec: c, fault: d.fault}, err
}

type callCodec struct {
	wire.Codec
	fault string
	last  uint64
}

func (c *callCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		op := &ops[i]
		if op.Kind != wire.OpCall {
			if err := c.Codec.Encode(ops[i:i+1], out); err != nil {
				return &wire.OpError{Index: i, Err: err}
			}
			continue
		}
		if c.last = op.N; c.fault == "a call that is left out" && op.N == 5 {
			continue
		}
		out.Append(wire.Text, fmt.Appendf(nil, "CALL %d %s", op.N, op.Message.Payload))
	}
	return nil
}

func (c *callCodec) Decode(f wire.Frame, out *wire.Events) error {
	verb, rest, _ := bytes.Cut(f.Data, []byte(" "))
	if string(verb) != "REPLY" && string(verb) != "REFUSED" {
		return c.Codec.Decode(f, out)
	}
	e := out.Append(wire.EventReply)
	number, text, _ := bytes.Cut(rest, []byte(" "))
	fmt.Sscan(string(number), &e.N)
	switch c.fault {
	case "replies in the order of the calls":
		e.N = map[uint64]uint64{1 << 40: 3, 9: 5, 5: 9, 3: 1 << 40}[e.N]
	case "the reply to the last call":
		e.N = c.last
	}
	if string(verb) == "REFUSED" && c.fault != "a refusal that is a reply" {
		e.Code, e.Reason = wire.CodeRefused, string(text)
		return nil
	}
	if e.Message.Payload = bytes.Clone(text); c.fault == "a reply with the memory of its frame" {
		e.Message.Payload = text
	}
	return nil
}

// callPeer is its server's half.
type callPeer struct {
	Peer
	mute bool
}

func (p callPeer) Decode(f wire.Frame) ([]Request, error) {
	var n uint64
	if rest, ok := strings.CutPrefix(string(f.Data), "CALL "); ok {
		number, payload, _ := strings.Cut(rest, " ")
		_, err := fmt.Sscan(number, &n)
		return []Request{{Op: wire.Op{Kind: wire.OpCall, N: n, Message: &wire.Message{Payload: []byte(payload)}}}}, err
	}
	return p.Peer.Decode(f)
}

func (p callPeer) Encode(e wire.Event) []wire.Frame {
	switch {
	case e.Kind != wire.EventReply:
		return p.Peer.Encode(e)
	case p.mute:
		return nil
	case e.Code != 0:
		return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, "REFUSED %d %s", e.N, e.Reason)}}
	}
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, "REPLY %d %s", e.N, e.Message.Payload)}}
}

// Each fault of a dialect with calls is found.
func TestBrokenCalls(t *testing.T) {
	for fault, says := range map[string]string{
		"": "", "a call that is left out": "the peer reads no OpCall", "replies in the order of the calls": `and Decode reports "{\"reply\"`,
		"the reply to the last call": "two EventReply for call", "a refusal that is a reply": "want a Code and no payload",
		"a reply with the memory of its frame": `and Decode reports`, "a peer without replies": "write it in Peer.Encode",
	} {
		s := toySubject(toy{})
		peer := s.Peer
		s.Dialect = caller{fault: fault}
		s.Peer = func(q *http.Request) Peer { return callPeer{peer(q), fault == "a peer without replies"} }
		found := strings.Join(toyCheck(t, s, "calls", patience).found(), "\n")
		if (found == "") != (says == "") || !strings.Contains(found, says) {
			t.Errorf("%s: found %q, want one that says %q", fault, found, says)
		}
	}
}
