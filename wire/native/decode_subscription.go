package native

// The methods of reader below read the frame or the nested object that they are
// named for, as those of decode_session.go do.

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
			b.Epoch = r.name()
		case 5:
			b.O = r.uint()
		case 6:
			b.Tag = r.tag()
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
			b.Epoch = r.name()
		case 3:
			b.O = r.uint()
		case 4:
			b.Tag = r.tag()
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

func (r *reader) unsub(o *object) *Unsub {
	b := new(Unsub)
	for r.next(o) {
		switch o.num {
		case 1:
			b.Ch = r.uint()
		case 2:
			b.Code = r.uint()
		case 3:
			b.Msg = r.humanText()
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
			g.Tag = r.tag()
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
			b.Epoch = r.name()
		case 3:
			b.O = r.uint()
		case 4:
			b.Tag = r.tag()
		case 5:
			b.Why = ResetWhy(r.word(resetWords))
		default:
			r.skip()
		}
	}
	r.require(o)
	return b
}
