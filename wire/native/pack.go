package native

import (
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// A packer joins frames into batches within the limits of the protocol.
type packer struct {
	enc   Encoding
	out   *wire.Frames
	room  int    // expected bytes of the batch
	buf   []byte // the batch; in JSON it begins with a bracket
	n     int    // frames in buf
	topic string // UTF-8: that of the last message
}

// room guesses the bytes that ops need, up to one batch.
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

// add appends f to the batch, or begins another one if f does not fit.
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

func (p *packer) begin() (start int) {
	if p.buf == nil {
		p.buf = p.out.Buffer(p.room)
	}
	return len(p.buf)
}

// end takes b for the batch, whose last frame begins at start.
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
