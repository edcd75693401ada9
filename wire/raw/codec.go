package raw

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errText      = &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
	errOp        = errors.New("raw: there is no frame for this")
	errHeader    = errors.New("raw: a frame has no room for a header; remove PublishOptions.Header")
	errPublished = errors.New("raw: the payload is not UTF-8, which a text must be; set PublishOptions.Type to " + TypeBinary)
)

// The reasons of EventMalformed.
const (
	badTopic  = "raw.Options.Topic returned a topic of more than 255 bytes, or one that is not UTF-8 or has a control character"
	badAnswer = "raw.Options.Answer returned more than 4096 bytes, or a text that is not UTF-8: the ping was not answered"
)

// codec is the state of one connection. The loop uses resume; Decode has no state.
type codec struct {
	options *Options
	resume  wire.Resume
}

func (c *codec) Start(out *wire.Frames) error {
	if c.options.OnOpen == nil {
		return nil
	}
	texts := c.options.OnOpen(c.resume)
	c.resume = wire.Resume{} // it holds the token
	for i, text := range texts {
		if out.AppendText(append(out.Buffer(len(text)), text...)) != nil {
			return &OptionError{"OnOpen", fmt.Sprintf("returned a text that is not UTF-8, at index %d; a text must be", i)}
		}
	}
	return nil
}

// appendFrame appends a frame with a copy of data: out keeps what it gets.
func appendFrame[T string | []byte](out *wire.Frames, t wire.FrameType, data T) {
	out.Append(t, append(out.Buffer(len(data)), data...))
}

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	o := c.options
	if f.Type == wire.Text && !utf8.Valid(f.Data) {
		return errText // as limpet's own frame layer does
	}
	if o.Pong != "" && f.Type == wire.Text && string(f.Data) == o.Pong || o.IsPong != nil && o.IsPong(f) {
		out.Append(wire.EventPong)
		return nil
	}
	if o.Answer != nil {
		if answer := o.Answer(f); answer != nil {
			if len(answer) > maxAnswer || !utf8.Valid(answer) {
				out.Append(wire.EventMalformed).Reason = badAnswer
				return nil
			}
			out.Append(wire.EventPing).Step = bytes.Clone(answer)
			return nil
		}
	}
	label := Label{Topic: rest}
	if o.Topic != nil {
		if label = o.Topic(f); label.Topic == "" {
			label.Topic = rest
		}
		if !validTopic(label.Topic) {
			out.Append(wire.EventMalformed).Reason = badTopic
			return nil
		}
	}
	e := out.Append(wire.EventData)
	e.Name = label.Topic
	e.Message.Topic = label.Topic
	e.Message.Payload, e.Borrowed = f.Data, true
	e.Message.Type = TypeBinary
	if f.Type == wire.Text {
		e.Message.Type = TypeText
	}
	e.Message.Time = wire.TimeOf(label.Time)
	if label.Numbered {
		e.Numbered, e.Position.Offset = true, label.Number
	}
	return nil
}

// CountFrames implements wire.Packer: a subscription sends nothing.
func (c *codec) CountFrames(ops []wire.Op) (n int) {
	for i := range ops {
		if kind := ops[i].Kind; kind != wire.OpSubscribe {
			n++
		}
	}
	return n
}

func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	return wire.EncodeEach(ops, out, c.encode)
}

func (c *codec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe, wire.OpAuth, wire.OpBye: // the server has no frame for them, and needs none
		return nil
	case wire.OpPublish:
		return publish(op.Message, out)
	case wire.OpPing:
		appendFrame(out, wire.Text, c.options.Ping)
		return nil
	case wire.OpPong:
		if answer, ok := op.Step.([]byte); ok {
			appendFrame(out, wire.Text, answer)
			return nil
		}
	}
	return errOp
}

func publish(m *wire.Message, out *wire.Frames) error {
	switch {
	case len(m.Header) > 0:
		return errHeader
	case m.Type == TypeBinary:
		appendFrame(out, wire.Binary, m.Payload)
		return nil
	case out.AppendText(append(out.Buffer(len(m.Payload)), m.Payload...)) != nil:
		return errPublished
	}
	return nil
}
