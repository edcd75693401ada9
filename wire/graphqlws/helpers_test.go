package graphqlws

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// open returns the codec of a new connection.
func open(t testing.TB, o Options, r wire.Resume) wire.Codec {
	t.Helper()
	d := New(o)
	if err := d.(wire.Checker).Check(); err != nil {
		t.Fatal(err)
	}
	r.Subprotocol = Subprotocol
	c, err := d.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func subscribeOp(key uint64, topic string, p wire.Position) wire.Op {
	s := &wire.Subscribe{Key: key, Topic: topic, Position: p}
	if !p.IsZero() {
		s.From = wire.FromResume
	}
	return wire.Op{Kind: wire.OpSubscribe, Key: key, Cmd: key*idKinds + idSubscribe, Topic: topic, Subscribe: s}
}

func publishOp(seq uint64, topic, payload string) wire.Op {
	return wire.Op{Kind: wire.OpPublish, Cmd: seq*idKinds + idPublish, Message: &wire.Message{Seq: seq, Topic: topic, Payload: []byte(payload)}}
}

// sent returns the frames, one to a line.
func sent(frames *wire.Frames) string {
	var all []string
	for _, f := range frames.List {
		text := string(f.Data)
		if f.Type != wire.Text {
			text = "binary " + text
		}
		all = append(all, text)
	}
	return strings.Join(all, "\n")
}

// encode returns what ops are written as.
func encode(t testing.TB, c wire.Codec, ops ...wire.Op) string {
	t.Helper()
	var frames wire.Frames
	if err := c.Encode(ops, &frames); err != nil {
		t.Fatal(err)
	}
	return sent(&frames)
}

// decode returns what a text is understood as, one event to a line.
func decode(t testing.TB, c wire.Codec, text string) string {
	t.Helper()
	var events wire.Events
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
		return "error " + err.Error()
	}
	var all []string
	for i := range events.List {
		all = append(all, show(&events.List[i]))
	}
	return strings.Join(all, "\n")
}

func show(e *wire.Event) string {
	place := fmt.Sprintf("key %d", e.Key)
	if e.Numbered {
		place += fmt.Sprintf(" #%d", e.Position.Offset)
	} else if e.Position.Offset != 0 {
		place += fmt.Sprintf(" to %d", e.Position.Offset)
	}
	if e.Position.Tag != "" {
		place += " cursor " + e.Position.Tag
	}
	switch e.Kind {
	case wire.EventReady:
		return "ready"
	case wire.EventPing:
		return fmt.Sprintf("ping %s", e.Step)
	case wire.EventPong:
		return "pong"
	case wire.EventStep:
		return fmt.Sprintf("step %v", e.Step)
	case wire.EventMalformed:
		return "malformed: " + e.Reason
	case wire.EventData:
		return fmt.Sprintf("data %s %s", place, e.Message.Payload)
	case wire.EventSubscribed:
		return fmt.Sprintf("subscribed %s continuity %d", place, e.Continuity)
	case wire.EventUnsubscribed:
		return strings.TrimSpace(fmt.Sprintf("unsubscribed %s code %d %s", place, e.Code, e.Reason))
	case wire.EventGap:
		return fmt.Sprintf("gap %s %v", place, e.Cause)
	case wire.EventReset:
		return fmt.Sprintf("reset %s %v", place, e.Cause)
	case wire.EventAck:
		if len(e.Ack.Rejects) == 0 {
			return fmt.Sprintf("ack %d %s", e.Ack.Cmd, e.Ack.Reply)
		}
		r := e.Ack.Rejects[0]
		return fmt.Sprintf("reject %d code %d unknown %v: %s", r.Seq, r.Code, r.Unknown, r.Reason)
	}
	return fmt.Sprintf("event %d", e.Kind)
}
