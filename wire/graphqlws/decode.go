package graphqlws

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errText = &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
	errAck  = &wire.CodeError{Code: 4400, Reason: "second connection_ack on one connection"}
)

// The reasons of EventMalformed.
const (
	badFrame  = "a message that is no JSON object of graphql-transport-ws"
	badType   = "a message of a type that graphql-transport-ws does not have"
	badID     = "a message with an id that this client does not use"
	badResult = "a next message whose payload is no execution result"
)

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	if f.Type == wire.Text && !utf8.Valid(f.Data) {
		return errText // as limpet's own frame layer does
	}
	var m struct {
		ID, Type string
		Payload  json.RawMessage // a copy
	}
	if f.Type != wire.Text || json.Unmarshal(f.Data, &m) != nil || m.Type == "" {
		malformed(out, badFrame)
		return nil
	}
	switch m.Type {
	case "connection_ack":
		return c.acknowledged(m.Payload, out)
	case "ping":
		e := out.Append(wire.EventPing)
		if isObject(m.Payload) && len(m.Payload) <= maxEcho {
			e.Step = bytes.Clone(m.Payload)
		}
		return nil
	case "pong":
		out.Append(wire.EventPong)
		return nil
	case "next", "error", "complete":
	default:
		malformed(out, badType)
		return nil
	}
	digits, second := strings.CutSuffix(m.ID, again)
	cmd, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case err == nil && cmd%idKinds == idSubscribe && cmd > idKinds:
		c.stream(m.Type, cmd/idKinds, second, m.Payload, out)
	case err == nil && cmd%idKinds == idPublish && !second:
		c.reply(m.Type, cmd, m.Payload, out)
	default:
		malformed(out, badID)
	}
	return nil
}

func malformed(out *wire.Events, reason string) { out.Append(wire.EventMalformed).Reason = reason }

func (c *codec) acknowledged(payload []byte, out *wire.Events) error {
	if c.ready {
		return errAck
	}
	c.ready = true
	if c.options.OnAck != nil {
		if err := c.options.OnAck(payload); err != nil {
			return &wire.CodeError{Code: 4400, Reason: shorten("Options.OnAck: " + err.Error())}
		}
	}
	out.Append(wire.EventReady).Ready = &wire.Ready{}
	return nil
}

// stream appends what a message says about a subscription. second means that its id is
// that of retry.
func (c *codec) stream(kind string, key uint64, second bool, payload []byte, out *wire.Events) {
	s, known := c.subs.Get(key)
	if known && s.expired != second {
		if second {
			malformed(out, badID)
		}
		return // the end of the operation whose cursor was refused
	}
	switch kind {
	case "next":
		c.result(key, s, payload, out)
	case "complete":
		c.subs.Take(key)
		e := out.Append(wire.EventUnsubscribed)
		e.Key = key
		if known && len(s.refusal) > 0 {
			e.Code, e.Reason = codeOf(s.refusal), reasonOf(s.refusal)
		}
	case "error":
		errs := readErrors(payload)
		if known && s.refusesCursor(errs) {
			s.expired = true
			out.Append(wire.EventStep).Step = retry{key}
			return
		}
		c.subs.Take(key)
		e := out.Append(wire.EventUnsubscribed)
		e.Key, e.Code, e.Reason = key, codeOf(errs), reasonOf(errs)
	}
}

// refusesCursor reports whether errs, which came first, mean that the cursor is too old.
func (s *subscription) refusesCursor(errs []Error) bool {
	return len(s.cursor) > 0 && !s.came && !s.expired && len(errs) > 0 && slices.Contains(s.op.cursor.Expired, errs[0].Code())
}

// result appends one result of s, which is nil if it has ended.
func (c *codec) result(key uint64, s *subscription, payload []byte, out *wire.Events) {
	if len(payload) == 0 || payload[0] != '{' {
		malformed(out, badResult)
		if s != nil {
			e := out.Append(wire.EventGap)
			e.Key, e.Cause = key, wire.CauseMalformed
		}
		return
	}
	var p wire.Position
	var numbered bool
	if s != nil {
		p, numbered = s.op.position(payload)
		if !s.came {
			// A server answers so if the source of the stream fails, and then completes it.
			s.refusal = errorsAlone(payload)
			if s.refusesCursor(s.refusal) {
				s.expired, s.refusal = true, nil
				out.Append(wire.EventStep).Step = retry{key}
				return
			}
			if s.came = true; s.first(key, p, numbered, out) {
				return
			}
		} else {
			s.refusal = nil
		}
	}
	e := out.Append(wire.EventData)
	e.Key, e.Position, e.Numbered = key, p, numbered
	e.Message = wire.Message{Payload: payload, Type: ContentType}
}

// first appends what the first result, at p, proves about those before it. It reports
// whether the result was received before.
func (s *subscription) first(key uint64, p wire.Position, numbered bool, out *wire.Events) (repeated bool) {
	if s.expired {
		e := out.Append(wire.EventReset)
		e.Key, e.Cause = key, wire.CauseExpired
		if numbered && p.Offset > 0 {
			e.Position.Offset = p.Offset - 1
		}
		return false
	}
	if len(s.cursor) == 0 || s.op.cursor.Number {
		return false
	}
	asked := wire.Position{Tag: string(s.cursor)}
	repeated = s.op.cursor.Inclusive && p == asked
	if repeated || s.op.cursor.Exact && p.Tag != "" { // a result of errors proves nothing
		e := out.Append(wire.EventSubscribed)
		e.Key, e.Position, e.Continuity = key, asked, wire.ContinuityProved
	}
	return repeated
}

// reply appends the outcome of a mutation, once it is certain.
func (c *codec) reply(kind string, cmd uint64, payload []byte, out *wire.Events) {
	m, known := c.calls.Get(cmd)
	if !known {
		return // it has its outcome
	}
	reject := wire.Reject{Seq: cmd / idKinds}
	switch kind {
	case "next":
		var r Result
		switch err := json.Unmarshal(payload, &r); {
		case err != nil || len(r.Errors) == 0 && !r.hasData():
			reject.Unknown, reject.Reason = true, badResult
		case len(r.Errors) == 0:
			m.result = payload
			return
		default:
			reject.Code, reject.Reason, reject.Unknown = codeOf(r.Errors), reasonOf(r.Errors), r.partial()
		}
	case "error":
		errs := readErrors(payload)
		reject.Code, reject.Reason = codeOf(errs), reasonOf(errs)
		reject.Unknown = m.result != nil
	case "complete":
		if m.result != nil {
			c.calls.Take(cmd)
			out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: cmd, Reply: m.result}
			return
		}
		reject.Unknown, reject.Reason = true, "the server ended the mutation without a result"
	}
	c.calls.Take(cmd)
	out.Append(wire.EventAck).Ack = &wire.Ack{Rejects: []wire.Reject{reject}}
}
