package native

import (
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

const (
	reservedTypes = 64 // binary type numbers from here on are ignored if unknown
	maxFeatures   = 32
)

// batch reads all frames of the batch.
func (r *reader) batch(dst []Frame) []Frame {
	n := len(dst)
	if r.bin {
		for r.i < len(r.data) && r.code == 0 {
			r.end = len(r.data)
			dst = r.frameBinary(dst)
			r.count(len(dst) - n)
		}
		return dst
	}
	if !utf8.Valid(r.data) {
		r.bad("the text is not UTF-8")
		return dst
	}
	if r.token() != '[' {
		dst = r.frameJSON(dst)
	} else {
		for k := 0; r.item(k); k++ {
			dst = r.frameJSON(dst)
			r.count(len(dst) - n)
		}
	}
	if r.code == 0 && (r.token() != 0 || r.i < r.end) {
		r.bad("something follows the batch")
	}
	return dst
}

func (r *reader) count(n int) {
	if n > r.lim.Frames {
		r.fail(CloseFrameTooBig, "too many frames in a batch")
	}
}

// frameBinary reads length, envelope and body of one frame.
func (r *reader) frameBinary(dst []Frame) []Frame {
	r.wt = wireBytes
	n, ok := r.span()
	if !ok {
		return dst
	}
	r.end = r.i + n
	num := r.field()
	if r.code != 0 {
		return dst
	}
	if num > uint64(TypeErr) {
		if num < reservedTypes {
			r.fail(CloseProtocolError, "a frame has an unknown type")
		}
		r.skip()
	} else {
		dst = r.frame(dst, Type(num), object{})
	}
	if r.code == 0 && r.i != r.end {
		r.bad("something follows the content of a frame")
	}
	return dst
}

// frameJSON reads one object. Its type decides how the rest is read, and may
// stand anywhere in it.
func (r *reader) frameJSON(dst []Frame) []Frame {
	r.token()
	start := r.i
	r.expect('{')
	for n := 0; r.member(n); n++ {
		name := r.memberName()
		if len(name) != 1 || name[0] != 't' {
			r.skip()
			continue
		}
		word := r.text()
		if r.code != 0 {
			return dst
		}
		t, known := typeNamed(word)
		switch {
		case known && n == 0:
			return r.frame(dst, t, object{top: true, n: 1, seen: 1})
		case known:
			r.i = start
			r.expect('{')
			return r.frame(dst, t, object{top: true})
		case len(word) >= 2 && word[0] == 'x' && word[1] == '-':
			r.i = start
			r.skip()
			return dst
		}
		r.fail(CloseProtocolError, "a frame has an unknown type")
		return dst
	}
	r.bad("a frame has no type")
	return dst
}

// frame appends a frame of type t. o is where reading it stands in JSON.
func (r *reader) frame(dst []Frame, t Type, o object) []Frame {
	if !t.sentBy(r.dir) {
		r.fail(CloseProtocolError, "a frame comes from the wrong side")
		return dst
	}
	dst = append(dst, Frame{Type: t})
	f := &dst[len(dst)-1]
	if r.bin {
		o = r.open(schemas[t])
	}
	o.s = schemas[t]
	switch t {
	case TypeMsg:
		r.msg(&o, &f.Msg)
	case TypeAck:
		f.Ack = r.ack(&o)
	case TypeHello:
		f.Hello = r.hello(&o)
	case TypeWelcome:
		f.Welcome = r.welcome(&o)
	case TypeSub:
		f.Sub = new(Sub)
		r.sub(&o, f.Sub)
	case TypeSubOK:
		f.SubOK = r.subok(&o)
	case TypeUnsub:
		f.Unsub = r.unsub(&o)
	case TypeGap:
		f.Gap = r.gap(&o)
	case TypeReset:
		f.Reset = r.reset(&o)
	case TypeAuth:
		f.Auth = r.auth(&o)
	case TypeGoAway:
		f.GoAway = r.goaway(&o)
	case TypePing, TypePong:
		f.N = r.ping(&o)
	case TypeErr:
		f.Err = r.err(&o)
	}
	return dst
}

func (r *reader) msg(o *object, m *Msg) {
	r.header = 0
	for r.next(o) {
		switch o.num {
		case 1:
			m.Ch = r.uint()
		case 2:
			m.S = r.uint()
		case 3:
			m.P, m.HasP = r.uint(), true
		case 4:
			r.id(&m.ID)
		case 5:
			m.Topic = r.string()
		case 6:
			r.payload(m)
		case 7:
			m.Type = r.string()
		case 8:
			r.headers(m)
		case 10:
			m.Tag = r.mark()
		case 11:
			m.Age, m.HasAge = r.age(), true
		case 12:
			m.TTL = r.uint()
		case 13:
			m.Flags = r.uint()
		default:
			if !r.bin && len(o.name) == 1 && o.name[0] == 'b' {
				r.once(o, 6)
				m.Payload = r.bytes(r.lim.Payload, CloseFrameTooBig, payloadTooBig)
				continue
			}
			r.skip()
		}
	}
	r.require(o)
	void := m.Flags&FlagVoid != 0
	if void && len(m.Payload) != 0 {
		r.bad("an expired slot has a payload")
	}
	// An expired slot is only a number and an id (docs/protocol.md, section 5).
	if r.dir == FromClient && !void && o.seen&(1<<5) == 0 && r.code == 0 {
		r.bad("a required field is missing")
	}
}

const payloadTooBig = "a payload is longer than its limit"

func (r *reader) payload(m *Msg) {
	if r.bin {
		m.Payload = r.bytes(r.lim.Payload, CloseFrameTooBig, payloadTooBig)
		return
	}
	m.Payload = r.copied(r.value(), r.lim.Payload, CloseFrameTooBig, payloadTooBig)
}

// age takes the word max for an age that nobody knows.
func (r *reader) age() uint64 {
	if !r.bin && r.token() == '"' {
		text := r.text()
		if string(text) == "max" {
			return AgeUnknown
		}
		return r.decimal(text)
	}
	return r.uint()
}

// headers reads the object h, or in binary one entry of it.
func (r *reader) headers(m *Msg) {
	if r.bin {
		var k, v string
		o := r.open(&entrySchema)
		for r.next(&o) {
			switch o.num {
			case 1:
				k = r.string()
			case 2:
				v = r.string()
			default:
				r.skip()
			}
		}
		r.addHeader(m, k, v)
		return
	}
	r.expect('{')
	for n := 0; r.member(n); n++ {
		k := string(r.memberName())
		r.addHeader(m, k, r.string())
	}
}

func (r *reader) addHeader(m *Msg, k, v string) {
	r.header += len(k) + len(v)
	if len(m.Header) >= r.lim.Headers || r.header > r.lim.HeaderSize {
		r.fail(CloseFrameTooBig, "the headers are beyond their limits")
	}
	if _, ok := m.Header[k]; ok {
		r.bad("a header is given twice")
	}
	if r.code != 0 {
		return
	}
	if m.Header == nil {
		m.Header = make(map[string]string)
	}
	m.Header[k] = v
}

func (r *reader) ack(o *object) *Ack {
	a := new(Ack)
	for r.next(o) {
		switch o.num {
		case 1:
			a.To, a.HasTo = r.uint(), true
		case 2:
			a.X = r.ranges(a.X)
		case 3:
			a.Nak = r.rejects(a.Nak)
		case 4:
			c := r.credit()
			a.Cr = &c
		case 5:
			for n := 0; r.item(n); n++ {
				if len(a.Dcr) >= r.lim.Credits {
					r.bad("a list is too long")
				}
				a.Dcr = append(a.Dcr, r.chCredit())
			}
		default:
			r.skip()
		}
	}
	r.require(o)
	return a
}

func (r *reader) chCredit() (c ChCredit) {
	o := r.open(&chCreditSchema)
	for r.next(&o) {
		switch o.num {
		case 1:
			c.Ch = r.uint()
		case 2:
			c.N = r.uint()
		case 3:
			c.B = r.uint()
		default:
			r.skip()
		}
	}
	r.require(&o)
	return c
}

func (r *reader) ranges(list []wire.Range) []wire.Range {
	for n := 0; r.item(n); n++ {
		if len(list) >= r.lim.Ranges {
			r.bad("a list is too long")
		}
		list = append(list, r.rangeOf())
	}
	return list
}

func (r *reader) rangeOf() (v wire.Range) {
	if r.bin {
		o := r.open(&rangeSchema)
		for r.next(&o) {
			switch o.num {
			case 1:
				v.Lo = r.uint()
			case 2:
				v.Hi = r.uint()
			default:
				r.skip()
			}
		}
		r.require(&o)
	} else {
		r.expect('[')
		v.Lo = r.uint()
		r.expect(',')
		v.Hi = r.uint()
		r.expect(']')
	}
	if v.Lo > v.Hi {
		r.bad("a range ends before it begins")
	}
	return v
}

func (r *reader) rejects(list []Reject) []Reject {
	for n := 0; r.item(n); n++ {
		if len(list) >= r.lim.Rejects {
			r.bad("a list is too long")
		}
		var v Reject
		o := r.open(&rejectSchema)
		for r.next(&o) {
			switch o.num {
			case 1:
				v.S = r.uint()
			case 2:
				v.Code = r.uint()
			default:
				r.skip()
			}
		}
		r.require(&o)
		list = append(list, v)
	}
	return list
}

func (r *reader) strings(list []string) []string {
	for n := 0; r.item(n); n++ {
		if len(list) >= maxFeatures {
			r.bad("a list is too long")
		}
		list = append(list, r.string())
	}
	return list
}

func (r *reader) credit() (c Credit) {
	o := r.open(&creditSchema)
	for r.next(&o) {
		switch o.num {
		case 1:
			c.N = r.uint()
		case 2:
			c.B = r.uint()
		default:
			r.skip()
		}
	}
	return c
}

func (r *reader) hello(o *object) *Hello {
	h := new(Hello)
	for r.next(o) {
		switch o.num {
		case 1:
			h.CN = r.uint()
		case 2:
			h.SID = r.string()
		case 3:
			h.Key = r.opaque()
		case 4:
			h.SE = r.uint()
		case 5:
			h.Tok = r.credential()
		case 6:
			h.Up = r.uplink()
		case 8:
			for n := 0; r.item(n); n++ {
				if len(h.Subs) >= r.lim.Subs {
					r.bad("a list is too long")
				}
				h.Subs = append(h.Subs, Sub{})
				sub := r.open(&subSchema)
				r.sub(&sub, &h.Subs[len(h.Subs)-1])
			}
		case 12:
			h.Feat = r.strings(h.Feat)
		case 14:
			h.TTL = r.uint()
		default:
			r.skip()
		}
	}
	r.require(o)
	return h
}

func (r *reader) credential() string { return r.bounded(r.lim.Token, "a token is too long") }

func (r *reader) uplink() *Uplink {
	u := new(Uplink)
	o := r.open(&uplinkSchema)
	for r.next(&o) {
		switch o.num {
		case 1:
			u.Lo = r.uint()
		case 2:
			u.Hi = r.uint()
		case 3:
			r.markID(&u.Tag)
			u.HasTag = true
		default:
			r.skip()
		}
	}
	r.require(&o)
	return u
}

func (r *reader) welcome(o *object) *Welcome {
	h := new(Welcome)
	for r.next(o) {
		switch o.num {
		case 1:
			h.SID = r.string()
		case 2:
			h.Key = r.opaque()
		case 3:
			h.SE = r.uint()
		case 4:
			h.Res = r.bool()
		case 5:
			h.Ack = r.uint()
		case 6:
			h.Sack = r.ranges(h.Sack)
		case 7:
			h.Out = r.rejects(h.Out)
		case 8:
			h.Cr = r.credit()
		case 10:
			h.HB = r.uint()
		case 11:
			h.TTL = r.uint()
		case 12:
			h.Dedup = r.uint()
		case 13:
			h.Lim = r.limits()
		case 14:
			h.Spread = r.uint()
		case 15:
			h.Feat = r.strings(h.Feat)
		case 18:
			h.Exp = r.uint()
		case 19:
			r.markID(&h.Tag)
			h.HasTag = true
		case 20:
			h.CN = r.uint()
		default:
			r.skip()
		}
	}
	r.require(o)
	return h
}

func (r *reader) limits() *Limits {
	l := new(Limits)
	list := l.list()
	o := r.open(&limitsSchema)
	for r.next(&o) {
		if o.num == 0 {
			r.skip()
			continue
		}
		*list[o.num-1] = r.uint()
	}
	return l
}

func (r *reader) sub(o *object, b *Sub) {
	for r.next(o) {
		switch o.num {
		case 1:
			b.Ch = r.uint()
		case 2:
			b.Topic = r.string()
		case 3:
			b.From = From(r.word(fromWords))
		case 4:
			b.Epoch = r.string()
		case 5:
			b.O = r.uint()
		case 6:
			b.Tag = r.mark()
		case 7:
			b.N = r.uint()
		case 11:
			b.Cr = r.credit()
		case 13:
			b.Tok = r.credential()
		default:
			r.skip()
		}
	}
	r.require(o)
}

func (r *reader) subok(o *object) *SubOK {
	b := new(SubOK)
	for r.next(o) {
		switch o.num {
		case 1:
			b.Ch = r.uint()
		case 2:
			b.Epoch = r.string()
		case 3:
			b.O = r.uint()
		case 4:
			b.Tag = r.mark()
		case 5:
			b.Head = r.uint()
		case 6:
			b.Rec = r.bool()
		case 7:
			b.Snap = r.bool()
		default:
			r.skip()
		}
	}
	r.require(o)
	return b
}

// words reads a text for people, cut to its bound: a long one is no reason to
// lose the code that it explains.
func (r *reader) words() string {
	b := r.text()
	return clip(string(b[:min(len(b), MaxReason+utf8.UTFMax)]), MaxReason)
}

func (r *reader) unsub(o *object) *Unsub {
	b := new(Unsub)
	for r.next(o) {
		switch o.num {
		case 1:
			b.Ch = r.uint()
		case 2:
			b.Code = r.uint()
		case 3:
			b.Msg = r.words()
		case 4:
			b.Retry = r.uint()
		default:
			r.skip()
		}
	}
	r.require(o)
	return b
}

func (r *reader) gap(o *object) *Gap {
	g := new(Gap)
	for r.next(o) {
		switch o.num {
		case 1:
			g.Ch = r.uint()
		case 2:
			g.P = r.uint()
		case 3:
			g.To = r.uint()
		case 4:
			g.Why = GapWhy(r.word(gapWords))
		case 5:
			g.N = r.uint()
		case 6:
			g.Tag = r.mark()
		default:
			r.skip()
		}
	}
	r.require(o)
	return g
}

func (r *reader) reset(o *object) *Reset {
	b := new(Reset)
	for r.next(o) {
		switch o.num {
		case 1:
			b.Ch = r.uint()
		case 2:
			b.Epoch = r.string()
		case 3:
			b.O = r.uint()
		case 4:
			b.Tag = r.mark()
		case 5:
			b.Why = ResetWhy(r.word(resetWords))
		default:
			r.skip()
		}
	}
	r.require(o)
	return b
}

func (r *reader) auth(o *object) *Auth {
	a := new(Auth)
	for r.next(o) {
		switch o.num {
		case 1:
			a.Tok = r.credential()
		case 2:
			a.Exp = r.uint()
		case 3:
			a.Need = r.uint()
		case 4:
			a.Code = r.uint()
		default:
			r.skip()
		}
	}
	return a
}

func (r *reader) goaway(o *object) *GoAway {
	g := new(GoAway)
	for r.next(o) {
		switch o.num {
		case 1:
			g.Code = r.uint()
		case 2:
			g.After = r.uint()
		case 3:
			g.Spread = r.uint()
		case 4:
			g.DL = r.uint()
		case 5:
			g.URL = r.string()
		case 6:
			g.Res = r.bool()
		case 7:
			g.Fin = r.bool()
		default:
			r.skip()
		}
	}
	return g
}

func (r *reader) ping(o *object) (n uint64) {
	for r.next(o) {
		if o.num == 1 {
			n = r.uint()
			continue
		}
		r.skip()
	}
	return n
}

func (r *reader) err(o *object) *Err {
	e := new(Err)
	for r.next(o) {
		switch o.num {
		case 1:
			e.Code = r.uint()
		case 2:
			e.Msg = r.words()
		case 3:
			e.Ch = r.uint()
		case 4:
			e.S, e.HasS = r.uint(), true
		case 5:
			e.Retry = r.uint()
		case 6:
			e.Fatal = r.bool()
		default:
			r.skip()
		}
	}
	r.require(o)
	return e
}
