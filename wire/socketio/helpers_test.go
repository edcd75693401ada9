package socketio

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

func open(t testing.TB, o Options, r wire.Resume) wire.Codec {
	t.Helper()
	c, err := New(o).Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show formats events, one to a line.
func show(events []wire.Event) string {
	var lines []string
	for i := range events {
		lines = append(lines, showOne(&events[i]))
	}
	return strings.Join(lines, "\n")
}

func showOne(e *wire.Event) string {
	at := ""
	if !e.Position.IsZero() {
		at = fmt.Sprintf(" at %q", e.Position.Epoch+" "+e.Position.Tag)
	}
	switch e.Kind {
	case wire.EventData:
		m := &e.Message
		s := fmt.Sprintf("data %q %s %q", e.Name, m.Type, m.Payload)
		if m.Topic != e.Name {
			s += " of " + m.Topic
		}
		if m.Header != nil {
			s += fmt.Sprintf(" %v", m.Header)
		}
		return s + at
	case wire.EventSubscribed:
		return fmt.Sprintf("subscribed %q %s%s", e.Name, [...]string{"none", "by number", "proved"}[e.Continuity], at)
	case wire.EventUnsubscribed:
		return fmt.Sprintf("unsubscribed %q %d %q", e.Name, e.Code, e.Reason)
	case wire.EventReset:
		return fmt.Sprintf("reset %q %v%s", e.Name, e.Cause, at)
	case wire.EventGap:
		return fmt.Sprintf("gap %q %v", e.Name, e.Cause)
	case wire.EventReady:
		r := e.Ready
		return fmt.Sprintf("ready %q %q resumed %v, heartbeat %v, limit %d", r.Session.ID, r.Session.Key, r.Resumed, r.Heartbeat, r.Limits.Payload)
	case wire.EventSession:
		return fmt.Sprintf("session %q %q", e.Ready.Session.ID, e.Ready.Session.Key)
	case wire.EventStep:
		if s, ok := e.Step.(stepJoin); ok {
			var topics []string
			for _, start := range s.starts {
				topics = append(topics, start.topic)
			}
			return fmt.Sprintf("step join %q", topics)
		}
		after := ""
		if e.Delay > 0 {
			after = fmt.Sprint(" after ", e.Delay)
		}
		return fmt.Sprintf("step %T%v%s", e.Step, e.Step, after)
	case wire.EventPing:
		return fmt.Sprintf("ping %q", e.Step)
	case wire.EventAck:
		if len(e.Ack.Rejects) > 0 {
			return fmt.Sprintf("rejected %+v", e.Ack.Rejects)
		}
		if e.Ack.Reply != nil {
			return fmt.Sprintf("ack %d reply %s", e.Ack.Cmd, e.Ack.Reply)
		}
		return fmt.Sprintf("ack %d", e.Ack.Cmd)
	case wire.EventMalformed:
		return "malformed " + e.Reason
	case wire.EventError:
		return fmt.Sprintf("error %d %q fatal %v retry %v", e.Code, e.Reason, e.Fatal, e.Retry)
	}
	return fmt.Sprintf("%+v", *e)
}
