package socketio

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errHeader    = errors.New("socketio: an event has no header; remove PublishOptions.Header")
	errToken     = errors.New("socketio: without Options.Join the server cannot be sent a credential for a subscription; set Join, or remove SubscribeOptions.Token")
	errJSON      = errors.New("socketio: the payload is not JSON; encode it with encoding/json, or set PublishOptions.Type to " + TypeBinary)
	errArguments = errors.New("socketio: the payload is not a JSON array, which " + TypeArguments + " means")
	errType      = errors.New("socketio: PublishOptions.Type must be TypeJSON, TypeArguments, TypeBinary or empty")
)

// encoder is the half of a codec that the loop uses.
type encoder struct {
	*shared
	resume     wire.Resume
	auth       []byte // of the CONNECT packet; with Options.Refused it may be needed twice
	maxPayload int    // of the server; 0: not known
}

// Start sends nothing: the server opens the connection. It reads the credential here,
// where an error ends the attempt.
func (e *encoder) Start(*wire.Frames) (err error) {
	r := &e.resume
	e.auth, err = e.options.auth(r.Token, parseSession(r.Session))
	e.resume = wire.Resume{} // it holds the token
	return err
}

func (e *encoder) Encode(ops []wire.Op, out *wire.Frames) error {
	return wire.EncodeEach(ops, out, e.encode)
}

func (e *encoder) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpPublish:
		return e.publish(op, out)
	case wire.OpPong:
		data, _ := op.Step.(string)
		out.Append(wire.Text, append(append(out.Buffer(1+len(data)), enginePong), data...))
	case wire.OpStep:
		return e.step(op.Step, out)
	case wire.OpSubscribe:
		return e.subscribe(op, out)
	case wire.OpUnsubscribe:
		if life, ok := e.topics.Take(op.Topic); ok {
			e.lives.Take(life)
		}
		return e.leave(op.Topic, out)
	case wire.OpAck:
		marks, _, _ := strings.Cut(op.Position.Tag, " ")
		if _, id, asked := strings.Cut(marks, idMark); asked {
			e.text(packetAck, "", id, []byte("[]"), out)
		}
	case wire.OpRelease, wire.OpAuth, wire.OpBye: // nothing that a server could be sent
	default:
		return fmt.Errorf("socketio: there is no frame for an operation of kind %d", op.Kind)
	}
	return nil
}

func (e *encoder) step(step any, out *wire.Frames) error {
	switch s := step.(type) {
	case stepConnect:
		e.maxPayload = s.maxPayload
		e.text(packetConnect, "", "", e.auth, out)
		if e.options.Refused == nil {
			e.auth = nil
		}
	case stepAgain:
		e.text(packetConnect, "", "", e.auth, out)
		e.auth = nil
	case stepJoin:
		for _, start := range s.starts {
			if life, ok := e.lifeOf(start.topic); !ok || life != start.life {
				continue // closed in the meantime: Leave has gone out before
			}
			if err := e.join(start.join, start.pending, out); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("socketio: there is no frame for a step of type %T", step)
	}
	return nil
}

// text appends a packet as one text frame.
func (e *encoder) text(kind byte, parts, id string, data []byte, out *wire.Frames) {
	b := out.Buffer(32 + len(e.options.Namespace) + len(data))
	out.Append(wire.Text, append(appendHead(b, kind, parts, e.options.Namespace, id), data...))
}

// subscribe asks the server for a topic, if there is something to ask it.
func (e *encoder) subscribe(op *wire.Op, out *wire.Frames) error {
	join, p, err := e.options.joinOf(*op.Subscribe)
	if err != nil {
		return err
	}
	if life, ok := e.lifeOf(op.Topic); ok {
		p.life = life // it is asked for again
	} else if err := e.beginLife(op.Topic, op.Key); err != nil {
		return err
	}
	if join == nil {
		out.Confirm(op.Key)
		return nil
	}
	return e.join(join, p, out)
}

// beginLife notes that topic has a subscription whose life is new.
func (e *encoder) beginLife(topic string, life uint64) error {
	if old, ok := e.topics.Get(topic); ok {
		e.lives.Take(old)
	}
	if err := e.topics.Put(topic, life); err != nil {
		return err
	}
	return e.lives.Put(life, struct{}{})
}

func (e *encoder) join(array []byte, p pending, out *wire.Frames) error {
	id := strconv.FormatUint(p.cmd, 10)
	if err := e.pending.Put(id, p); err != nil {
		return err
	}
	e.text(packetEvent, "", id, array, out)
	return nil
}

// leave ends at the server what Join has asked for.
func (e *encoder) leave(topic string, out *wire.Frames) error {
	if e.options.Leave == nil {
		return nil
	}
	event, arguments := e.options.Leave(topic)
	if event == "" {
		return nil
	}
	array, err := arrayOf("Leave", event, arguments)
	if err == nil {
		e.text(packetEvent, "", "", array, out)
	}
	return err
}

// publish emits an event.
func (e *encoder) publish(op *wire.Op, out *wire.Frames) error {
	m := op.Message
	arguments, binary, err := argumentsOf(m)
	if err != nil {
		return err
	}
	kind, parts, id := byte(packetEvent), "", ""
	if binary {
		kind, parts = packetBinaryEvent, "1-"
	}
	if !e.options.NoAcks {
		id = strconv.FormatUint(op.Cmd, 10)
	}
	name := quote(m.Topic)
	size := 2 + len(parts) + len(e.options.Namespace) + 1 + len(id) + len(name) + 3 + len(arguments)
	b := appendHead(out.Buffer(size), kind, parts, e.options.Namespace, id)
	b = append(append(b, '['), name...)
	if len(arguments) > 0 {
		b = append(append(b, ','), arguments...)
	}
	b = append(b, ']')
	if size = len(b); binary {
		size = max(size, len(m.Payload))
	}
	if e.maxPayload > 0 && size > e.maxPayload {
		return &wire.TooBigError{What: "packet bytes", Size: size, Limit: e.maxPayload}
	}
	if id != "" {
		if err := e.pending.Put(id, pending{event: m.Topic, cmd: op.Cmd}); err != nil {
			return err
		}
	}
	out.Append(wire.Text, b)
	if binary {
		out.Append(wire.Binary, append(out.Buffer(len(m.Payload)), m.Payload...))
	}
	return nil
}

// argumentsOf returns the arguments of a message as they stand in the array of its event.
func argumentsOf(m *wire.Message) (arguments []byte, binary bool, err error) {
	switch {
	case len(m.Header) > 0:
		return nil, false, errHeader
	case m.Type == TypeBinary:
		return []byte(`{"_placeholder":true,"num":0}`), true, nil
	case m.Type == "" && len(m.Payload) == 0:
		return nil, false, nil
	case m.Type != "" && m.Type != TypeJSON && m.Type != TypeArguments:
		return nil, false, errType
	case !json.Valid(m.Payload) || !utf8.Valid(m.Payload):
		return nil, false, errJSON
	case m.Type != TypeArguments:
		return m.Payload, false, nil
	}
	text := strings.TrimSpace(string(m.Payload))
	if text[0] != '[' {
		return nil, false, errArguments
	}
	return []byte(strings.TrimSpace(text[1 : len(text)-1])), false, nil
}
