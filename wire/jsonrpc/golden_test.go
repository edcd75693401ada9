package jsonrpc

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// show formats events, one to a line.
func show(events []wire.Event) string {
	var lines []string
	for i := range events {
		e := &events[i]
		s := ""
		switch e.Kind {
		case wire.EventData:
			s = fmt.Sprintf("data %d%s %s", e.Key, e.Name, e.Message.Topic)
			if e.Numbered {
				s += fmt.Sprintf(" #%d", e.Position.Offset)
			}
			if len(e.Message.Payload) < 100 {
				s += " " + string(e.Message.Payload)
			}
		case wire.EventSubscribed:
			s = fmt.Sprintf("subscribed %d", e.Key)
		case wire.EventUnsubscribed:
			s = fmt.Sprintf("unsubscribed %d %d %q", e.Key, e.Code, e.Reason)
			if e.Retry > 0 {
				s += " again in " + e.Retry.String()
			}
		case wire.EventReset:
			s = fmt.Sprintf("reset %d %s to %d %.10s", e.Key, e.Cause, e.Position.Offset, e.Position.Tag)
		case wire.EventGap:
			s = fmt.Sprintf("gap %d %s %d", e.Key, e.Cause, e.Count)
		case wire.EventAck:
			s = fmt.Sprintf("ack %d %.60s", e.Ack.Cmd/4, e.Ack.Reply)
			for _, r := range e.Ack.Rejects {
				s = fmt.Sprintf("reject %d %d %q", r.Seq, r.Code, r.Reason)
				if r.Unknown {
					s = fmt.Sprintf("unknown %d", r.Seq)
				}
			}
		case wire.EventPong:
			s = fmt.Sprintf("pong %d", e.N)
		case wire.EventPing:
			s = fmt.Sprintf("ping %v", e.Step)
		case wire.EventStep:
			s = fmt.Sprintf("step %+v", e.Step)
		case wire.EventMalformed:
			s = fmt.Sprintf("malformed %d: %s", e.Count, e.Reason)
		case wire.EventError:
			s = fmt.Sprintf("error %d %q fatal %v", e.Code, e.Reason, e.Fatal)
		default:
			s = fmt.Sprintf("%+v", *e)
		}
		lines = append(lines, strings.TrimRight(s, " "))
	}
	return strings.Join(lines, "\n")
}

// peer drives one codec.
type peer struct {
	t      testing.TB
	codec  wire.Codec
	frames wire.Frames
	events wire.Events
}

func open(t testing.TB, o Options) *peer {
	t.Helper()
	d := New(o)
	if err := d.(wire.Checker).Check(); err != nil {
		t.Fatal(err)
	}
	c, err := d.Open(wire.Resume{})
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, codec: c}
}

// op encodes ops and returns what was written, one frame to a line.
func (p *peer) op(ops ...wire.Op) string {
	p.t.Helper()
	p.frames.Reset()
	if err := p.codec.Encode(ops, &p.frames); err != nil {
		p.t.Fatal(err)
	}
	return p.written()
}

func (p *peer) written() string {
	var lines []string
	for _, f := range p.frames.List {
		lines = append(lines, string(f.Data))
	}
	return strings.Join(lines, "\n")
}

// hear decodes one text and returns the events.
func (p *peer) hear(text string) string {
	p.t.Helper()
	p.events.Reset()
	data := []byte(text)
	if err := p.codec.Decode(wire.Frame{Type: wire.Text, Data: data}, &p.events); err != nil {
		return err.Error()
	}
	for i := range data {
		data[i] = '#' // an event that keeps the frame shows it
	}
	return show(p.events.List)
}

func subscribe(key uint64, topic string) wire.Op {
	return wire.Op{Kind: wire.OpSubscribe, Key: key, Cmd: key*4 + 1, Topic: topic, Subscribe: &wire.Subscribe{Key: key, Topic: topic}}
}

func unsubscribe(key uint64, topic string) wire.Op {
	return wire.Op{Kind: wire.OpUnsubscribe, Key: key, Cmd: key*4 + 2, Topic: topic}
}

func publish(seq uint64, method, params string) wire.Op {
	return wire.Op{Kind: wire.OpPublish, Cmd: seq*4 + 3, Message: &wire.Message{Seq: seq, Topic: method, Payload: []byte(params), ID: wire.ID{byte(seq)}}}
}

// TestGolden plays testdata/ganache.txt, the recording of a real server, in both
// directions.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/ganache.txt")
	if err != nil {
		t.Fatal(err)
	}
	var p *peer
	var written, understood, kept []string
	received, connections := 0, 0
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		if word != "=" {
			if len(understood) > 0 {
				t.Errorf("before line %d: not expected: %q", i+1, understood)
			}
			understood = nil
			kept = append(kept, line)
		}
		var op wire.Op
		var topic, tag string
		var n uint64
		switch word {
		case "#":
			continue
		case "open":
			p = open(t, Ethereum())
			connections++
			continue
		case "subscribe":
			fmt.Sscan(rest, &op.Key, &n, &tag, &topic)
			op = subscribe(op.Key, topic)
			if n > 0 {
				op.Subscribe.From, op.Subscribe.Position = wire.FromResume, wire.Position{Offset: n, Tag: tag[1:]}
			}
		case "unsubscribe":
			fmt.Sscan(rest, &op.Key, &topic)
			op = unsubscribe(op.Key, topic)
		case "publish":
			number, call, _ := strings.Cut(rest, " ")
			fmt.Sscan(number, &n)
			method, params, _ := strings.Cut(call, " ")
			op = publish(n, method, params)
		case ">":
			if len(written) == 0 || written[0] != rest {
				t.Fatalf("line %d: written %q", i+1, written)
			}
			written = written[1:]
			continue
		case "<":
			received++
			if heard := p.hear(rest); heard != "" {
				understood = strings.Split(heard, "\n")
			}
			for _, u := range understood {
				kept = append(kept, "= "+u)
			}
			continue
		case "=":
			if len(understood) == 0 || understood[0] != rest {
				t.Fatalf("line %d: understood %q", i+1, understood)
			}
			understood = understood[1:]
			continue
		default:
			t.Fatalf("line %d: %q", i+1, line)
		}
		if frames := p.op(op); frames != "" {
			written = append(written, strings.Split(frames, "\n")...)
		}
	}
	if received < 15 || connections != 2 || len(written) > 0 {
		t.Errorf("%d messages received on %d connections, %q not sent", received, connections, written)
	}
	if file := os.Getenv("LIMPET_GOLDEN"); file != "" { // to be read by a person
		if err := os.WriteFile(file, []byte(strings.Join(kept, "\n")+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
}
