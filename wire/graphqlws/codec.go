package graphqlws

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/limpet-go/limpet/wire"
)

var (
	errOp     = errors.New("graphqlws: the protocol has no message for this")
	errHeader = errors.New("graphqlws: a mutation has no header; remove PublishOptions.Header")
	errToken  = errors.New("graphqlws: a subscription has no credential of its own; remove SubscribeOptions.Token")
	errFrom   = errors.New("graphqlws: the protocol cannot say where to begin; use FromNew or FromResume, and variables")
	errInit   = errors.New("graphqlws: Options.Init returned no JSON object of UTF-8; return one, or nil")
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
	held  int // bytes of the results that calls hold
}

// subscription is one that was requested and has not ended.
type subscription struct {
	op        *operation
	variables []byte // of the topic
	cursor    []byte // that was sent; nil: none

	// Encode alone uses id.
	id string

	// Decode alone uses these.
	came    bool     // a result
	expired bool     // the server has refused the cursor
	stopped bool     // the operation with that cursor has ended, or its end was asked for
	refusal *refusal // of the only result, which has no data
}

// call is a mutation without an answer. Decode alone uses result: the one without errors
// that has come, or nil.
type call struct{ result []byte }

// refusal is what is reported of errors.
type refusal struct {
	code   uint16
	reason string
}

// retry is the Event.Step of a subscription whose cursor was refused.
type retry struct{ key uint64 }

// stop is the Event.Step of an operation whose cursor was refused, and that goes on.
type stop struct{ id string }

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
	return wire.EncodeEach(ops, out, c.encode)
}

func (c *codec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		return c.subscribe(op, out)
	case wire.OpUnsubscribe:
		if s, ok := c.subs.Take(op.Key); ok { // otherwise the server has ended it
			complete(out, s.id)
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
		switch step := op.Step.(type) {
		case retry:
			return c.retry(step.key, out)
		case stop:
			complete(out, step.id)
			return nil
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

// complete appends the end of an operation.
func complete(out *wire.Frames, id string) {
	out.Append(wire.Text, fmt.Appendf(out.Buffer(64), `{"id":"%s","type":"complete"}`, id))
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
