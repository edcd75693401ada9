package native

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// codec is the client's end of one connection.
type codec struct {
	// Set by Open, then only read.
	enc    Encoding
	resume wire.Resume

	// Owned by Decode.
	welcomed bool
	tags     strings.Builder
	topic    string // of the last usual message that had one
}

// Start writes HELLO.
func (c *codec) Start(out *wire.Frames) error {
	r := &c.resume
	h := &Hello{
		CN:  r.Conn,
		SID: r.Session.ID,
		Key: r.Session.Key,
		SE:  r.Session.Epoch,
		Tok: r.Token,
		TTL: ticks(r.TTL, time.Second),
	}
	if r.Uplink != (wire.Uplink{}) {
		h.Up = &Uplink{Lo: r.Uplink.Lo, Hi: r.Uplink.Hi, Tag: r.Uplink.Tag, HasTag: r.Uplink.Tag != wire.ID{}}
	}
	if err := checkToken(r.Token); err != nil {
		return err
	}
	for i := range r.Subs {
		if err := checkToken(r.Subs[i].Token); err != nil {
			return err
		}
		h.Subs = append(h.Subs, subOf(&r.Subs[i]))
	}
	data, err := Append(nil, c.enc, []Frame{{Type: TypeHello, Hello: h}})
	if err == nil {
		out.Append(c.enc.FrameType(), data)
	}
	return err
}

func checkToken(token string) error {
	if len(token) > MaxToken {
		return &wire.TooBigError{What: "token bytes", Size: len(token), Limit: MaxToken}
	}
	return nil
}

func subOf(s *wire.Subscribe) Sub {
	b := Sub{Ch: s.Key, Topic: s.Topic, Cr: Credit{s.Credit.N, s.Credit.Bytes}, Tok: s.Token}
	switch s.From {
	case wire.FromNew:
		b.From = FromNew
	case wire.FromFirst:
		b.From = FromFirst
	case wire.FromLast:
		b.From = FromLast
	case wire.FromResume:
		b.From, b.O = FromResume, s.Position.Offset
		// A position that this language cannot have given is sent without what
		// makes it provable, so that the answer is a RESET.
		if utf8.ValidString(s.Position.Epoch) && len(s.Position.Epoch) <= MaxName {
			b.Epoch = s.Position.Epoch
		}
		if len(s.Position.Tag) <= MaxTag {
			b.Tag = []byte(s.Position.Tag)
		}
	}
	return b
}

// ticks is d in units, rounded up, so that no positive time becomes none.
func ticks(d, unit time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d-1)/unit) + 1
}

// Encode packs the frames of ops into as few messages as the batch limit of
// the protocol allows. Credits are absolute, so all of one call travel
// together behind the rest, after the SUB that they may refer to.
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
		// A frame of numbers cannot fail.
		_ = p.add(&Frame{Type: TypeAck, Ack: &Ack{Dcr: credits[:n]}})
		credits = credits[n:]
	}
	p.flush()
	return err
}

// maxCredits keeps a frame of credits within one batch.
const maxCredits = 512

// op adds the frame for any op but a message and a credit.
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
	case wire.OpFault:
		f.Type, f.Err = TypeErr, &Err{Code: uint64(op.Code), Msg: op.Reason, Fatal: true}
	default:
		return fmt.Errorf("native: limpet.v1 has no frame for op kind %d", op.Kind)
	}
	return p.add(f)
}

var errEmptyOp = fmt.Errorf("native: an op without its content")

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
	to.Topic, to.Payload, to.Type, to.Header = m.Topic, m.Payload, m.Type, m.Header
	to.TTL = ticks(m.TTL, time.Millisecond)
	return p.addMsg(&to)
}
