package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// lines is the dialect of a server that speaks in lines of text:
//
//	client  SUB topic after      from the message behind number "after"; 0: from now on
//	client  UNSUB topic
//	server  OK topic             it is subscribed
//	server  NO topic reason      it is not
//	server  MSG topic number payload
//
// Numbers are dense for each topic, so the client sees every hole, and the server
// resumes from one.
type lines struct{}

func (lines) Name() string                             { return "lines" }
func (lines) Open(wire.Resume) (wire.Codec, error)     { return codec{}, nil }
func (lines) Verdict(wire.Failure) (none wire.Verdict) { return none } // the client's tables decide

// Traits says what the server can do. The client promises no more than that.
func (lines) Traits() wire.Traits {
	return wire.Traits{Confirms: true, Resume: true, Unsubscribe: true}
}

func (lines) CheckTopic(use wire.Use, topic string) error {
	if topic == "" || strings.ContainsAny(topic, " \n") {
		return fmt.Errorf("lines: topic %q: want a word", topic)
	}
	return nil
}

func (lines) Attempt(a *wire.Attempt) error {
	if a.Token != "" {
		a.Header.Set("Authorization", "Bearer "+a.Token)
	}
	a.Dial = true
	return nil
}

// codec is one connection. It needs no state: the client keeps the positions.
type codec struct{}

func (codec) Start(*wire.Frames) error { return nil }

func (codec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		switch op.Kind {
		case wire.OpSubscribe:
			out.Append(wire.Text, fmt.Appendf(nil, "SUB %s %d", op.Topic, op.Subscribe.Position.Offset))
		case wire.OpUnsubscribe:
			out.Append(wire.Text, []byte("UNSUB "+op.Topic))
		}
	}
	return nil
}

func (codec) Decode(f wire.Frame, out *wire.Events) error {
	verb, rest, _ := strings.Cut(string(f.Data), " ") // a copy: f.Data is only lent
	topic, rest, _ := strings.Cut(rest, " ")
	number, payload, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	switch {
	case verb == "OK" && topic != "":
		e := out.Append(wire.EventSubscribed)
		e.Name, e.Continuity = topic, wire.ContinuityByNumber // the next number decides
	case verb == "NO" && topic != "":
		e := out.Append(wire.EventUnsubscribed)
		e.Name, e.Code, e.Reason = topic, wire.CodeRefused, rest
	case verb == "MSG" && topic != "" && err == nil:
		e := out.Append(wire.EventData)
		e.Name, e.Numbered, e.Position.Offset, e.Message.Payload = topic, true, n, []byte(payload)
	default:
		out.Append(wire.EventMalformed).Reason = "a line that is none of OK, NO and MSG" // skipped and counted
	}
	return nil
}
