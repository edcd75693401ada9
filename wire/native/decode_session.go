package native

import (
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// The methods of reader below read the frame or the nested object that they are
// named for. Field numbers are those of the frame table (docs/protocol.md,
// section 2); an unknown field is skipped.

func (r *reader) ack(o *object) *Ack {
	a := new(Ack)
	for r.next(o) {
		switch o.num {
		case 1:
			a.To, a.HasTo = r.uint(), true
		case 2:
			a.X = r.ranges(a.X, r.lim.Ranges)
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
		case 6:
			a.Dup = r.ranges(a.Dup, r.lim.Rejects)
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

func (r *reader) ranges(list []wire.Range, limit int) []wire.Range {
	for n := 0; r.item(n); n++ {
		if len(list) >= limit {
			r.bad("a list is too long")
		}
		list = append(list, r.rangeOf())
	}
	return list
}

// rangeOf reads a range: in JSON [lo,hi], in binary an object.
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

func (r *reader) hello(o *object) *Hello {
	h := new(Hello)
	for r.next(o) {
		switch o.num {
		case 1:
			h.CN = r.uint()
		case 2:
			h.SID = r.name()
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
		case 15:
			h.HB = r.uint()
		case 16:
			h.RL = r.uint()
		default:
			r.skip()
		}
	}
	r.require(o)
	return h
}

// credential reads a token.
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
			r.tagID(&u.Tag)
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
			h.SID = r.name()
		case 2:
			h.Key = r.opaque()
		case 3:
			h.SE = r.uint()
		case 4:
			h.Res = r.bool()
		case 5:
			h.Ack = r.uint()
		case 6:
			h.Sack = r.ranges(h.Sack, r.lim.Ranges)
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
			r.tagID(&h.Tag)
			h.HasTag = true
		case 20:
			h.CN = r.uint()
		case 21:
			h.Dup = r.ranges(h.Dup, r.lim.Rejects)
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

// humanText reads a text for people, cut to MaxReason. A long text is not an
// error: the code that it explains must not be lost.
func (r *reader) humanText() string {
	b := r.text()
	return clip(string(b[:min(len(b), MaxReason+utf8.UTFMax)]), MaxReason)
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

func (r *reader) call(o *object) *Call {
	c := new(Call)
	var m Msg
	r.header = 0
	for r.next(o) {
		switch o.num {
		case 1:
			c.N = r.uint()
		case 5:
			c.Topic = r.topic()
		case 6:
			r.payload(&m)
		case 7:
			c.Type = r.string()
			r.headerRoom(len(c.Type))
		case 8:
			r.headers(&m)
		case 12:
			c.DL = r.uint()
		default:
			r.otherPayload(o, &m)
		}
	}
	r.require(o)
	c.Payload, c.Header = m.Payload, m.Header
	return c
}

func (r *reader) reply(o *object) *Reply {
	a := new(Reply)
	var m Msg
	r.header = 0
	for r.next(o) {
		switch o.num {
		case 1:
			a.N = r.uint()
		case 2:
			a.Code = r.uint()
		case 3:
			a.Msg = r.humanText()
		case 6:
			r.payload(&m)
		case 7:
			a.Type = r.string()
			r.headerRoom(len(a.Type))
		default:
			r.otherPayload(o, &m)
		}
	}
	r.require(o)
	a.Payload = m.Payload
	return a
}

func (r *reader) err(o *object) *Err {
	e := new(Err)
	for r.next(o) {
		switch o.num {
		case 1:
			e.Code = r.uint()
		case 2:
			e.Msg = r.humanText()
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
