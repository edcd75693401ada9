package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// lines is the dialect of a server that speaks in lines of text:
//
//	client  SUB id topic after         from the message behind number "after"; 0: from now on
//	client  UNSUB id topic
//	client  PUB id topic payload
//	client  PING number
//	server  OK id                      it is subscribed, or it has the message
//	server  ERR id code text           it is not, or it has not
//	server  MSG topic number payload
//	server  PONG number
//
// Numbers are dense for each topic, so the client sees every hole, and the server
// resumes from one.
type lines struct{ wire.Base } // Base: the token is a header, and the client's tables decide

func (lines) Name() string { return "lines" }

// Traits says what the server can do. The client promises no more than that.
func (lines) Traits() wire.Traits {
	return wire.Traits{Publish: true, Acks: true, Confirms: true, Resume: true, Unsubscribe: true, Ping: wire.PingOp}
}

func (lines) CheckTopic(use wire.Use, topic string) error {
	if topic == "" || strings.ContainsAny(topic, " \n") {
		return fmt.Errorf("lines: topic %q: want a word", topic)
	}
	return nil
}

func (lines) Open(wire.Resume) (wire.Codec, error) {
	return &codec{wire.NewLedger[uint64, string](65536)}, nil
}

// codec is one connection. The client keeps the positions.
type codec struct {
	asked *wire.Ledger[uint64, string] // topics that the server has not answered, by id
}

func (c *codec) Start(*wire.Frames) error { return nil } // the server wants no greeting

func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	return wire.EncodeEach(ops, out, c.encode)
}

func (c *codec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		if from := op.Subscribe.From; from == wire.FromFirst || from == wire.FromLast {
			return errors.New("lines: the server begins after a number or now; use FromNew or FromResume")
		} else if err := c.asked.Put(op.Cmd, op.Topic); err != nil {
			return err
		}
		return out.AppendText(fmt.Appendf(nil, "SUB %d %s %d", op.Cmd, op.Topic, op.Subscribe.Position.Offset))
	case wire.OpUnsubscribe:
		return out.AppendText(fmt.Appendf(nil, "UNSUB %d %s", op.Cmd, op.Name))
	case wire.OpPublish:
		return out.AppendText(fmt.Appendf(nil, "PUB %d %s %s", op.Cmd, op.Message.Topic, op.Message.Payload))
	case wire.OpPing:
		return out.AppendText(fmt.Appendf(nil, "PING %d", op.N))
	}
	return nil
}

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	verb, rest, _ := strings.Cut(string(f.Data), " ") // a copy: f.Data is only lent
	first, rest, _ := strings.Cut(rest, " ")
	second, text, _ := strings.Cut(rest, " ")
	id, noID := strconv.ParseUint(first, 10, 64)
	number, noNumber := strconv.ParseUint(second, 10, 63)
	switch {
	case verb == "MSG" && first != "" && noNumber == nil:
		e := out.Append(wire.EventData)
		e.Name, e.Numbered, e.Position.Offset, e.Message.Payload = first, true, number, []byte(text)
	case verb == "OK" && noID == nil:
		if topic, ok := c.asked.Take(id); ok {
			e := out.Append(wire.EventSubscribed)
			e.Name, e.Continuity = topic, wire.ContinuityByNumber // the next number decides
		} else {
			out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: id}
		}
	case verb == "ERR" && noID == nil && noNumber == nil:
		if topic, ok := c.asked.Take(id); ok {
			e := out.Append(wire.EventUnsubscribed)
			e.Name, e.Code, e.PeerCode, e.Reason = topic, wire.CodeRefused, int64(number), text
		} else {
			r := out.Reject(id)
			r.Code, r.PeerCode, r.Reason = wire.CodeRefused, int64(number), text
		}
	case verb == "PONG" && noID == nil:
		out.Append(wire.EventPong).N = id
	default:
		out.Append(wire.EventMalformed).Reason = "a line that is none of OK, ERR, MSG and PONG" // skipped and counted
	}
	return nil
}
