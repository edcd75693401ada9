package native

import (
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// The steady path of a published message is in this file and in encode.go.

// A packer joins frames into batches within the limits of the protocol.
type packer struct {
	enc   Encoding
	out   *wire.Frames
	room  int    // expected bytes of the batch
	buf   []byte // the batch; in JSON it begins with a bracket
	n     int    // frames in buf
	topic string // that of the last message: known to be UTF-8
}

// room estimates the bytes that ops need, up to one batch.
func room(enc Encoding, ops []wire.Op) int {
	envelope := 32
	if enc == JSON {
		envelope = 96
	}
	n := 2
	for i := range ops {
		n += envelope
		if m := ops[i].Message; m != nil {
			n += len(m.Topic) + len(m.Payload) + envelope
		}
		if n >= MaxBatch {
			return MaxBatch
		}
	}
	return n
}

// add appends f to the batch, or starts another batch if f does not fit. In JSON
// each frame is preceded by a bracket or a comma.
func (p *packer) add(f *Frame) error {
	start := p.begin()
	w := writer{b: p.buf, bin: p.enc == Binary}
	if !w.bin {
		c := byte(',')
		if p.n == 0 {
			c = '['
		}
		w.b = append(w.b, c)
	}
	w.frame(f)
	return p.end(start, w.b, w.fault)
}

// addMsg is add for a message.
func (p *packer) addMsg(m *Msg) error {
	if p.enc == JSON {
		return p.add(&Frame{Type: TypeMsg, Msg: *m})
	}
	if m.Topic != p.topic {
		if !utf8.ValidString(m.Topic) {
			return &frameError{notUTF8}
		}
		p.topic = m.Topic
	}
	start := p.begin()
	b, fault := appendMsg(p.buf, m)
	return p.end(start, b, fault)
}

// begin makes sure that there is a buffer and returns where the next frame starts.
func (p *packer) begin() (start int) {
	if p.buf == nil {
		p.buf = p.out.Buffer(p.room)
	}
	return len(p.buf)
}

// end makes b the batch; its last frame begins at start. If the batch has become
// too big, it is flushed without that frame, which begins the next batch. A
// frame that is too big for any batch travels alone (docs/protocol.md,
// section 1).
func (p *packer) end(start int, b []byte, fault string) error {
	if fault != "" {
		return &frameError{fault}
	}
	p.buf = b
	p.n++
	closing := 0
	if p.enc == JSON {
		closing = 1
	}
	if p.n == 1 || len(b)+closing <= MaxBatch && p.n <= MaxFrames {
		return nil
	}
	last := append(p.out.Buffer(max(p.room, len(b)-start)), b[start:]...)
	p.buf, p.n = b[:start], p.n-1
	p.flush()
	p.buf, p.n = last, 1
	if p.enc == JSON {
		p.buf[0] = '['
	}
	return nil
}

// flush ends the batch. A JSON batch of one frame is that object.
func (p *packer) flush() {
	if p.n == 0 {
		return
	}
	data := p.buf
	if p.enc == JSON {
		if p.n == 1 {
			data = data[1:]
		} else {
			data = append(data, ']')
		}
	}
	p.out.Append(p.enc.FrameType(), data)
	p.buf, p.n = nil, 0
}

// Encode packs the frames of ops into as few WebSocket messages as the batch
// limit allows. Credits are absolute, so those of one call travel together at
// the end, after any SUB that they may refer to.
func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	p := packer{enc: c.enc, out: out, room: room(c.enc, ops)}
	var credits []ChCredit
	err := error(nil)
	for i := range ops {
		switch op := &ops[i]; op.Kind {
		case wire.OpPublish:
			err = p.publish(op.Message)
		case wire.OpCredit:
			credits = append(credits, ChCredit{op.Key, op.Credit.N, op.Credit.Bytes})
		default:
			err = p.op(op)
		}
		if err != nil {
			err = &wire.OpError{Index: i, Err: err}
			break
		}
	}
	for len(credits) > 0 {
		n := min(len(credits), maxCredits)
		// A frame of numbers always encodes.
		_ = p.add(&Frame{Type: TypeAck, Ack: &Ack{Dcr: credits[:n]}})
		credits = credits[n:]
	}
	p.flush()
	return err
}

// maxCredits is how many credits one frame holds, so that it fits into a batch.
const maxCredits = 512

// op adds the frame of any op other than OpPublish and OpCredit.
func (p *packer) op(op *wire.Op) error {
	f := new(Frame)
	switch op.Kind {
	case wire.OpSubscribe:
		if op.Subscribe == nil {
			return errEmptyOp
		}
		if err := checkToken(op.Subscribe.Token); err != nil {
			return err
		}
		b := subOf(op.Subscribe)
		f.Type, f.Sub = TypeSub, &b
	case wire.OpUnsubscribe:
		f.Type, f.Unsub = TypeUnsub, &Unsub{Ch: op.Key}
	case wire.OpPing:
		f.Type, f.N = TypePing, op.N
	case wire.OpPong:
		f.Type, f.N = TypePong, op.N
	case wire.OpAuth:
		if err := checkToken(op.Token); err != nil {
			return err
		}
		f.Type, f.Auth = TypeAuth, &Auth{Tok: op.Token}
	case wire.OpBye:
		f.Type, f.GoAway = TypeGoAway, &GoAway{Fin: true}
	case wire.OpCall:
		m := op.Message
		if err := checkMessage(m); err != nil {
			return err
		}
		f.Type, f.Call = TypeCall, &Call{N: op.N, Topic: m.Topic, Payload: m.Payload, Type: m.Type, Header: m.Header, DL: ticks(m.TTL, time.Millisecond)}
	default:
		return fmt.Errorf("native: limpet.v1 has no frame for op kind %d", op.Kind)
	}
	return p.add(f)
}

var errEmptyOp = fmt.Errorf("native: op has no content")

// publish adds a message. It fails if the message exceeds a limit.
func (p *packer) publish(m *wire.Message) error {
	if m == nil {
		return errEmptyOp
	}
	to := Msg{S: m.Seq, ID: m.ID}
	if m.Resent {
		to.HasAge, to.Age = true, AgeUnknown
		if m.Age >= 0 {
			to.Age = ticks(m.Age, time.Millisecond)
		}
	}
	if m.Void {
		to.Flags = FlagVoid
		return p.addMsg(&to)
	}
	if err := checkMessage(m); err != nil {
		return err
	}
	to.Topic, to.Payload, to.Type, to.Header = m.Topic, m.Payload, m.Type, m.Header
	to.TTL = ticks(m.TTL, time.Millisecond)
	return p.addMsg(&to)
}

// checkMessage returns an error for a message that exceeds a limit, or for none.
func checkMessage(m *wire.Message) error {
	if m == nil {
		return errEmptyOp
	}
	if n := len(m.Payload); n > MaxPayload {
		return &wire.TooBigError{What: "payload bytes", Size: n, Limit: MaxPayload}
	}
	size := len(m.Type)
	if n := len(m.Header); n > 0 {
		if n > MaxHeaders {
			return &wire.TooBigError{What: "header count", Size: n, Limit: MaxHeaders}
		}
		for k, v := range m.Header {
			size += len(k) + len(v)
		}
	}
	if size > MaxHeaderSize {
		return &wire.TooBigError{What: "header bytes", Size: size, Limit: MaxHeaderSize}
	}
	return nil
}
