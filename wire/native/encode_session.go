package native

import "github.com/limpet-go/limpet/wire"

// The methods of writer below write the frame or the nested object that they are
// named for. Field numbers are those of the frame table (docs/protocol.md,
// section 2).

func (w *writer) ack(a *Ack) {
	s := &ackSchema
	if a.HasTo {
		w.uint(s, 1, a.To)
	}
	w.ranges(s, 2, a.X)
	w.rejects(s, 3, a.Nak)
	if a.Cr != nil {
		w.credit(s, 4, *a.Cr)
	}
	if len(a.Dcr) != 0 {
		w.list(s, 5)
		for i, c := range a.Dcr {
			start := w.item(5, i)
			w.uint(&chCreditSchema, 1, c.Ch)
			w.uint(&chCreditSchema, 2, c.N)
			w.uint(&chCreditSchema, 3, c.B)
			w.end(start)
		}
		w.endList()
	}
	w.ranges(s, 6, a.Dup)
}

func (w *writer) ranges(s *schema, num int, list []wire.Range) {
	if len(list) == 0 {
		return
	}
	w.list(s, num)
	for i, r := range list {
		if w.bin {
			start := w.item(num, i)
			w.uint(&rangeSchema, 1, r.Lo)
			w.uint(&rangeSchema, 2, r.Hi)
			w.end(start)
			continue
		}
		w.comma(i)
		w.b = append(w.b, '[')
		w.jsonUint(r.Lo)
		w.b = append(w.b, ',')
		w.jsonUint(r.Hi)
		w.b = append(w.b, ']')
	}
	w.endList()
}

func (w *writer) rejects(s *schema, num int, list []Reject) {
	if len(list) == 0 {
		return
	}
	w.list(s, num)
	for i, r := range list {
		start := w.item(num, i)
		w.uint(&rejectSchema, 1, r.S)
		w.uint(&rejectSchema, 2, r.Code)
		w.end(start)
	}
	w.endList()
}

func (w *writer) strings(s *schema, num int, list []string) {
	if len(list) == 0 {
		return
	}
	w.list(s, num)
	for i, v := range list {
		if w.bin {
			w.string(s, num, v)
			continue
		}
		w.comma(i)
		w.quote(v)
	}
	w.endList()
}

func (w *writer) credit(s *schema, num int, c Credit) {
	start := w.begin(s, num)
	w.uint(&creditSchema, 1, c.N)
	w.uint(&creditSchema, 2, c.B)
	w.end(start)
}

func (w *writer) hello(h *Hello) {
	s := &helloSchema
	w.uint(s, 1, h.CN)
	w.stringOpt(s, 2, h.SID)
	w.bytesOpt(s, 3, h.Key)
	w.uintOpt(s, 4, h.SE)
	w.stringOpt(s, 5, h.Tok)
	if h.Up != nil {
		start := w.begin(s, 6)
		w.uint(&uplinkSchema, 1, h.Up.Lo)
		w.uint(&uplinkSchema, 2, h.Up.Hi)
		if h.Up.HasTag {
			w.tag(&uplinkSchema, 3, h.Up.Tag[:])
		}
		w.end(start)
	}
	if len(h.Subs) != 0 {
		w.list(s, 8)
		for i := range h.Subs {
			start := w.item(8, i)
			w.sub(&h.Subs[i])
			w.end(start)
		}
		w.endList()
	}
	w.strings(s, 12, h.Feat)
	w.uintOpt(s, 14, h.TTL)
	w.uintOpt(s, 15, h.HB)
	w.uintOpt(s, 16, h.RL)
}

func (w *writer) welcome(h *Welcome) {
	s := &welcomeSchema
	w.uint(s, 20, h.CN)
	w.string(s, 1, h.SID)
	w.bytes(s, 2, h.Key)
	w.uint(s, 3, h.SE)
	w.bool(s, 4, h.Res)
	w.uint(s, 5, h.Ack)
	if h.HasTag {
		w.tag(s, 19, h.Tag[:])
	}
	w.ranges(s, 6, h.Sack)
	w.rejects(s, 7, h.Out)
	w.credit(s, 8, h.Cr)
	w.uintOpt(s, 10, h.HB)
	w.uintOpt(s, 11, h.TTL)
	w.uintOpt(s, 12, h.Dedup)
	if h.Lim != nil {
		start := w.begin(s, 13)
		for i, v := range h.Lim.list() {
			w.uintOpt(&limitsSchema, i+1, *v)
		}
		w.end(start)
	}
	w.uintOpt(s, 14, h.Spread)
	w.strings(s, 15, h.Feat)
	w.uintOpt(s, 18, h.Exp)
	w.ranges(s, 21, h.Dup)
}

// list returns the members of l in the order of their field numbers, from 1.
func (l *Limits) list() [8]*uint64 {
	return [...]*uint64{&l.Batch, &l.Payload, &l.Headers, &l.HeaderSize, &l.Subs, &l.HelloSubs, &l.Depth, &l.Token}
}

func (w *writer) sub(b *Sub) {
	s := &subSchema
	w.uint(s, 1, b.Ch)
	w.string(s, 2, b.Topic)
	w.word(s, 3, uint8(b.From), fromWords)
	w.stringOpt(s, 4, b.Epoch)
	w.uintOpt(s, 5, b.O)
	w.tagOpt(s, 6, b.Tag)
	w.uintOpt(s, 7, b.N)
	w.credit(s, 11, b.Cr)
	w.stringOpt(s, 13, b.Tok)
}

func (w *writer) subok(b *SubOK) {
	s := &subokSchema
	w.uint(s, 1, b.Ch)
	w.string(s, 2, b.Epoch)
	w.uint(s, 3, b.O)
	w.tagOpt(s, 4, b.Tag)
	w.uintOpt(s, 5, b.Head)
	w.boolOpt(s, 6, b.Rec)
	w.boolOpt(s, 7, b.Snap)
}

func (w *writer) unsub(b *Unsub) {
	s := &unsubSchema
	w.uint(s, 1, b.Ch)
	w.uintOpt(s, 2, b.Code)
	w.stringOpt(s, 3, clip(b.Msg, MaxReason))
	w.uintOpt(s, 4, b.Retry)
}

func (w *writer) gap(g *Gap) {
	s := &gapSchema
	w.uint(s, 1, g.Ch)
	w.uint(s, 2, g.P)
	w.uint(s, 3, g.To)
	w.word(s, 4, uint8(g.Why), gapWords)
	w.uintOpt(s, 5, g.N)
	w.tag(s, 6, g.Tag)
}

func (w *writer) reset(r *Reset) {
	s := &resetSchema
	w.uint(s, 1, r.Ch)
	w.string(s, 2, r.Epoch)
	w.uint(s, 3, r.O)
	w.tag(s, 4, r.Tag)
	w.word(s, 5, uint8(r.Why), resetWords)
}

func (w *writer) auth(a *Auth) {
	s := &authSchema
	w.stringOpt(s, 1, a.Tok)
	w.uintOpt(s, 2, a.Exp)
	w.uintOpt(s, 3, a.Need)
	w.uintOpt(s, 4, a.Code)
}

func (w *writer) goaway(g *GoAway) {
	s := &goawaySchema
	w.uintOpt(s, 1, g.Code)
	w.uintOpt(s, 2, g.After)
	w.uintOpt(s, 3, g.Spread)
	w.uintOpt(s, 4, g.DL)
	w.stringOpt(s, 5, g.URL)
	w.boolOpt(s, 6, g.Res)
	w.boolOpt(s, 7, g.Fin)
}

func (w *writer) call(c *Call) {
	s := &callSchema
	w.uint(s, 1, c.N)
	w.string(s, 5, c.Topic)
	w.content(c.Payload)
	w.stringOpt(s, 7, c.Type)
	if len(c.Header) != 0 {
		w.header(c.Header)
	}
	w.uintOpt(s, 12, c.DL)
}

func (w *writer) reply(r *Reply) {
	s := &replySchema
	w.uint(s, 1, r.N)
	w.uintOpt(s, 2, r.Code)
	w.stringOpt(s, 3, clip(r.Msg, MaxReason))
	w.content(r.Payload)
	w.stringOpt(s, 7, r.Type)
}

// content writes the payload of a frame other than msg.
func (w *writer) content(p []byte) {
	if w.bin {
		w.bytesOpt(&msgSchema, 6, p)
		return
	}
	w.payload(p)
}

func (w *writer) err(e *Err) {
	s := &errSchema
	w.uint(s, 1, e.Code)
	w.stringOpt(s, 2, clip(e.Msg, MaxReason))
	w.uintOpt(s, 3, e.Ch)
	if e.HasS {
		w.uint(s, 4, e.S)
	}
	w.uintOpt(s, 5, e.Retry)
	w.boolOpt(s, 6, e.Fatal)
}
