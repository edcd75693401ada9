package graphqlws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errText   = &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
	errAck    = &wire.CodeError{Code: 4400, Reason: "second connection_ack on one connection"}
	errOp     = errors.New("graphqlws: the protocol has no message for this")
	errHeader = errors.New("graphqlws: a mutation has no header; remove PublishOptions.Header")
	errToken  = errors.New("graphqlws: a subscription has no credential of its own; remove SubscribeOptions.Token")
	errFrom   = errors.New("graphqlws: the protocol cannot say where to begin; use FromNew or FromResume, and variables")
	errInit   = errors.New("graphqlws: Options.Init returned no JSON object of UTF-8; return one, or nil")
)

// The reasons of EventMalformed.
const (
	badFrame  = "a message that is no JSON object of graphql-transport-ws"
	badType   = "a message of a type that graphql-transport-ws does not have"
	badID     = "a message with an id that this client does not use"
	badResult = "a next message whose payload is no execution result"
)

// The kinds of an id, which is a wire.Op.Cmd in digits.
const (
	idKinds     = 4
	idSubscribe = 1
	idPublish   = 3
)

// again ends the id of an operation that is sent a second time on one connection.
const again = "-2"

// codec is the state of one connection. Encode uses resume, Decode ready; the ledgers
// belong to both.
type codec struct {
	*dialect
	subs  *wire.Ledger[uint64, *subscription] // by key
	calls *wire.Ledger[uint64, *call]         // by Cmd

	resume wire.Resume

	ready bool
}

// subscription is one that was requested and has not ended.
type subscription struct {
	op        *operation
	variables []byte // of the topic
	cursor    []byte // that was sent; nil: none

	// Encode alone uses id.
	id string

	// Decode alone uses these.
	came    bool    // a result
	expired bool    // the server has refused the cursor
	refusal []Error // of the only result, which has no data
}

// call is a mutation without an answer. Decode alone uses result: the one without errors
// that has come, or nil.
type call struct{ result []byte }

// retry is the Event.Step of a subscription whose cursor was refused.
type retry struct{ key uint64 }

func (c *codec) Start(out *wire.Frames) error {
	r := c.resume
	c.resume = wire.Resume{} // it holds the token
	var payload []byte
	switch {
	case c.options.Init != nil:
		made, err := c.options.Init(r)
		if err != nil {
			return err
		}
		if len(made) > 0 && !isObject(made) {
			return errInit
		}
		payload = made
	case r.Token != "":
		payload = appendString(append(appendString([]byte("{"), c.options.Token), ':'), r.Token)
		payload = append(payload, '}')
	}
	appendMessage(out, "connection_init", payload)
	return nil
}

// appendMessage appends a message of the connection, with a payload that may be empty.
func appendMessage(out *wire.Frames, kind string, payload []byte) {
	b := append(out.Buffer(32+len(kind)+len(payload)), `{"type":"`...)
	b = append(append(b, kind...), '"')
	if len(payload) > 0 {
		b = append(append(b, `,"payload":`...), payload...)
	}
	out.Append(wire.Text, append(b, '}'))
}

func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		if err := c.encode(&ops[i], out); err != nil {
			return &wire.OpError{Index: i, Err: err}
		}
	}
	return nil
}

func (c *codec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		return c.subscribe(op, out)
	case wire.OpUnsubscribe:
		if s, ok := c.subs.Take(op.Key); ok { // otherwise the server has ended it
			out.Append(wire.Text, fmt.Appendf(out.Buffer(64), `{"id":"%s","type":"complete"}`, s.id))
		}
		return nil
	case wire.OpPublish:
		return c.publish(op, out)
	case wire.OpPing:
		appendMessage(out, "ping", nil)
		return nil
	case wire.OpPong:
		payload, _ := op.Step.([]byte)
		appendMessage(out, "pong", payload)
		return nil
	case wire.OpStep:
		if step, ok := op.Step.(retry); ok {
			return c.retry(step.key, out)
		}
	case wire.OpAuth, wire.OpBye: // there is no message for them, and none is needed
		return nil
	}
	return errOp
}

func (c *codec) subscribe(op *wire.Op, out *wire.Frames) error {
	ask := op.Subscribe
	switch {
	case ask == nil:
		return errOp
	case ask.Token != "":
		return errToken
	case ask.From == wire.FromFirst || ask.From == wire.FromLast:
		return errFrom
	}
	o, variables, err := c.resolve(wire.UseSubscribe, ask.Topic)
	if err != nil {
		return err
	}
	s := &subscription{op: o, variables: variables, id: strconv.FormatUint(op.Cmd, 10)}
	if ask.From == wire.FromResume {
		s.cursor = o.cursorFor(ask.Position)
	}
	if err := c.subs.Put(op.Key, s); err != nil {
		return err
	}
	s.ask(s.cursor, out)
	out.Confirm(op.Key) // the server answers a request only to refuse it
	return nil
}

// ask appends the request for s.
func (s *subscription) ask(cursor []byte, out *wire.Frames) {
	var last []byte
	if len(cursor) > 0 {
		last = append(appendString([]byte("{"), s.op.cursor.Variable), ':')
		last = append(append(last, cursor...), '}')
	}
	s.op.request(out, s.id, merge(s.op.variables, s.variables, last))
}

// retry asks without a cursor for a subscription whose cursor was refused, under
// another id: the server may not have freed the first one yet.
func (c *codec) retry(key uint64, out *wire.Frames) error {
	s, ok := c.subs.Get(key)
	if !ok {
		return nil // it was closed in the meantime
	}
	s.id += again
	s.ask(nil, out)
	return nil
}

func (c *codec) publish(op *wire.Op, out *wire.Frames) error {
	m := op.Message
	switch {
	case m == nil:
		return errOp
	case len(m.Header) > 0:
		return errHeader
	case len(m.Payload) > 0 && !isObject(m.Payload):
		return errVariables
	}
	o, variables, err := c.resolve(wire.UsePublish, m.Topic)
	if err != nil {
		return err
	}
	if err := c.calls.Put(op.Cmd, &call{}); err != nil {
		return err
	}
	o.request(out, strconv.FormatUint(op.Cmd, 10), merge(o.variables, variables, m.Payload))
	return nil
}

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
