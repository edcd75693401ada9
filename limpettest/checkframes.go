package limpettest

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// CheckFrames decides the invariants of docs/protocol.md, section 6, that show on
// the wire, over the messages that a network captured, in order, from its beginning:
//
//   - I2, I4: on each channel offsets rise from the start that SUBOK or RESET
//     gave, and every message and gap joins the one before it.
//   - I5: the server acknowledges nothing that was not sent.
//   - I9: connection numbers rise within a session and are echoed; acks never
//     fall, across connections too.
//   - I10: after WELCOME exactly {s > ack} \ sack is sent, in order; a number
//     stands for one id.
//   - I13: nothing is sent without credit, in either direction.
//
// What a server sends before the HELLO of a connection, because it has read that in the
// upgrade request, is checked when the HELLO has come. A connection whose first message is
// not a HELLO of limpet.v1 is ignored, and so is the rest of a connection after a compressed
// message. That control frames pass without credit (I13) is not checked.
func CheckFrames(captured []Message) []Violation {
	c := &frameChecker{conns: map[int]*wireConn{}, cns: map[string]uint64{}, sessions: map[sessionKey]*wireSession{}}
	for i, m := range captured {
		c.index = i
		c.message(m)
	}
	return c.found
}

// sessionKey names one epoch of a session.
type sessionKey struct {
	sid   string
	epoch uint64
}

// wireSession is one epoch of a session, over all its connections.
type wireSession struct {
	sent  uint64             // highest number sent
	acked uint64             // highest number acknowledged
	ids   map[uint64]wire.ID // by number
}

// wireConn is one connection.
type wireConn struct {
	id       int
	ignored  bool
	hello    *native.Hello
	sid      string
	session  *wireSession  // nil before WELCOME
	last     uint64        // uplink: last number sent, or acknowledged by WELCOME
	settled  []wire.Range  // uplink: settled by WELCOME above its ack
	acked    uint64        // uplink: last ack
	credit   native.Credit // uplink
	bytes    uint64        // uplink: payload sent
	channels map[uint64]*wireChannel
	before   []heldMessage // what the server has sent before hello
}

// heldMessage is a message with its place.
type heldMessage struct {
	index   int
	message Message
}

// wireChannel is one subscription on one connection.
type wireChannel struct {
	credit   native.Credit
	n, bytes uint64 // messages and payload sent
	began    bool   // SUBOK or RESET was sent
	at       uint64 // everything up to it was sent or reported as lost
	last     uint64 // at, if the last frame was a message; else 0
}

type frameChecker struct {
	index    int
	found    []Violation
	conns    map[int]*wireConn
	cns      map[string]uint64 // highest connection number by session
	sessions map[sessionKey]*wireSession
	frames   []native.Frame
}

func (c *frameChecker) fail(conn *wireConn, invariant, format string, args ...any) {
	what := fmt.Sprintf("connection %d: ", conn.id) + fmt.Sprintf(format, args...)
	c.found = append(c.found, Violation{invariant, c.index, what})
}

func (c *frameChecker) message(m Message) {
	conn := c.conns[m.Conn]
	if conn == nil {
		conn = &wireConn{id: m.Conn, channels: map[uint64]*wireChannel{}}
		c.conns[m.Conn] = conn
	}
	if conn.ignored {
		return
	}
	if m.Skipped {
		conn.ignored = true
		return
	}
	if conn.hello == nil && m.Direction == Down {
		conn.before = append(conn.before, heldMessage{c.index, m})
		return
	}
	enc, dir := native.Binary, native.FromServer
	if m.Text {
		enc = native.JSON
	}
	if m.Direction == Up {
		dir = native.FromClient
	}
	frames, err := native.Decode(c.frames[:0], enc, dir, m.Data, native.DecodeLimits{})
	if conn.hello == nil && (err != nil || len(frames) == 0 || frames[0].Type != native.TypeHello) {
		conn.ignored = true
		return
	}
	if err != nil {
		c.fail(conn, "wire", "%s message does not decode: %v", m.Direction, err)
		conn.ignored = true
		return
	}
	c.frames = frames
	for i := range frames {
		if m.Direction == Up {
			c.up(conn, &frames[i])
		} else {
			c.down(conn, &frames[i])
		}
	}
	clear(frames)
	held := conn.before
	conn.before = nil
	for _, h := range held {
		c.index = h.index
		c.message(h.message)
	}
}

func (c *frameChecker) up(conn *wireConn, f *native.Frame) {
	switch f.Type {
	case native.TypeHello:
		conn.hello = f.Hello
		if f.Hello.SID != "" {
			c.number(conn, f.Hello.SID)
		}
		for i := range f.Hello.Subs {
			conn.subscribe(&f.Hello.Subs[i])
		}
	case native.TypeSub:
		conn.subscribe(f.Sub)
	case native.TypeMsg:
		c.upMsg(conn, &f.Msg)
	case native.TypeAck:
		for _, d := range f.Ack.Dcr {
			if ch := conn.channels[d.Ch]; ch != nil {
				ch.credit.N, ch.credit.B = max(ch.credit.N, d.N), max(ch.credit.B, d.B)
			}
		}
	}
}

func (conn *wireConn) subscribe(s *native.Sub) {
	conn.channels[s.Ch] = &wireChannel{credit: s.Cr}
}

// number checks that the connection number of conn rises.
func (c *frameChecker) number(conn *wireConn, sid string) {
	if sid == conn.sid {
		return
	}
	conn.sid = sid
	if high := c.cns[sid]; conn.hello.CN <= high {
		c.fail(conn, "I9", "connection number %d, after %d in the same session", conn.hello.CN, high)
	}
	c.cns[sid] = max(c.cns[sid], conn.hello.CN)
}

func (c *frameChecker) upMsg(conn *wireConn, m *native.Msg) {
	if conn.session == nil {
		c.fail(conn, "I10", "message %d was sent before WELCOME", m.S)
		return
	}
	want := conn.last + 1
	for _, r := range conn.settled { // ascending
		if r.Lo <= want && want <= r.Hi {
			want = r.Hi + 1
		}
	}
	if m.S != want {
		c.fail(conn, "I10", "message %d was sent, the next one to send was %d", m.S, want)
	}
	if id, known := conn.session.ids[m.S]; known && id != m.ID {
		c.fail(conn, "I10", "message %d was sent as %x, and is now %x", m.S, id, m.ID)
	}
	conn.session.ids[m.S] = m.ID
	conn.last = max(conn.last, m.S)
	conn.session.sent = max(conn.session.sent, m.S)

	size := uint64(len(m.Payload))
	if m.S > conn.credit.N {
		c.fail(conn, "I13", "message %d was sent with credit up to %d", m.S, conn.credit.N)
	}
	if overdrawn(conn.bytes, size, conn.credit.B) {
		c.fail(conn, "I13", "message %d of %d bytes was sent after %d bytes, with credit for %d", m.S, size, conn.bytes, conn.credit.B)
	}
	conn.bytes += size
}

// overdrawn reports whether a payload must not be sent: it may overdraw the credit,
// but not when the credit is already used up.
func overdrawn(used, size, credit uint64) bool {
	return size > 0 && used >= credit
}

func (c *frameChecker) down(conn *wireConn, f *native.Frame) {
	switch f.Type {
	case native.TypeWelcome:
		c.welcome(conn, f.Welcome)
	case native.TypeAck:
		c.ack(conn, f.Ack)
	case native.TypeMsg:
		c.downMsg(conn, &f.Msg)
	case native.TypeSubOK:
		conn.begin(f.SubOK.Ch, f.SubOK.O)
	case native.TypeReset:
		conn.begin(f.Reset.Ch, f.Reset.O)
	case native.TypeGap:
		c.gap(conn, f.Gap)
	}
}

func (conn *wireConn) begin(ch, offset uint64) {
	if ch := conn.channels[ch]; ch != nil {
		ch.began, ch.at, ch.last = true, offset, 0
	}
}

func (c *frameChecker) gap(conn *wireConn, g *native.Gap) {
	ch := conn.channels[g.Ch]
	if ch == nil || !ch.began {
		return
	}
	if g.P > ch.at {
		c.fail(conn, "I4", "channel %d: a gap after %d, but the stream is complete only up to %d", g.Ch, g.P, ch.at)
	}
	ch.at, ch.last = max(ch.at, g.To), 0
}

// chain checks that m joins the message or gap before it. The first message of a
// filtered stream may name a predecessor from before its start.
func (c *frameChecker) chain(conn *wireConn, ch *wireChannel, m *native.Msg) {
	if !ch.began || m.Flags&native.FlagSnapshot != 0 {
		return
	}
	switch {
	case m.S <= ch.at:
		c.fail(conn, "I2", "channel %d: message %d after %d", m.Ch, m.S, ch.at)
	case m.P > ch.at:
		c.fail(conn, "I4", "channel %d: message %d follows %d, but the stream is complete only up to %d", m.Ch, m.S, m.P, ch.at)
	case m.P < ch.last:
		c.fail(conn, "I4", "channel %d: message %d follows %d, but %d was sent before it", m.Ch, m.S, m.P, ch.last)
	}
	ch.at, ch.last = max(ch.at, m.S), m.S
}

func (c *frameChecker) welcome(conn *wireConn, w *native.Welcome) {
	if w.CN != conn.hello.CN {
		c.fail(conn, "I9", "WELCOME for connection number %d, HELLO had %d", w.CN, conn.hello.CN)
	}
	c.number(conn, w.SID)
	k := sessionKey{w.SID, w.SE}
	s := c.sessions[k]
	if s == nil {
		s = &wireSession{ids: map[uint64]wire.ID{}}
		c.sessions[k] = s
	}
	conn.session = s
	if w.Ack < s.acked {
		c.fail(conn, "I9", "WELCOME acknowledges %d, %d was acknowledged before", w.Ack, s.acked)
	}
	conn.last, conn.credit = w.Ack, w.Cr
	conn.settled = append(conn.settled[:0], w.Sack...)
	for _, o := range w.Out {
		conn.settled = append(conn.settled, wire.Range{Lo: o.S, Hi: o.S})
	}
	sortRanges(conn.settled)
	c.acknowledged(conn, w.Ack)
	for _, r := range w.Sack {
		c.sentBefore(conn, r.Hi)
	}
}

func (c *frameChecker) ack(conn *wireConn, a *native.Ack) {
	if conn.session == nil {
		c.fail(conn, "wire", "ack before WELCOME")
		return
	}
	if a.HasTo {
		if a.To < conn.acked {
			c.fail(conn, "I9", "the ack fell from %d to %d", conn.acked, a.To)
		}
		c.acknowledged(conn, a.To)
	}
	for _, r := range a.X {
		c.sentBefore(conn, r.Hi)
	}
	for _, n := range a.Nak {
		c.sentBefore(conn, n.S)
	}
	if a.Cr != nil {
		conn.credit.N, conn.credit.B = max(conn.credit.N, a.Cr.N), max(conn.credit.B, a.Cr.B)
	}
}

// acknowledged checks an ack and records it.
func (c *frameChecker) acknowledged(conn *wireConn, to uint64) {
	c.sentBefore(conn, to)
	conn.acked = max(conn.acked, to)
	conn.session.acked = max(conn.session.acked, to)
}

// sentBefore checks that seq was sent before it is acknowledged.
func (c *frameChecker) sentBefore(conn *wireConn, seq uint64) {
	if seq > conn.session.sent {
		c.fail(conn, "I5", "%d was acknowledged, the highest sent is %d", seq, conn.session.sent)
	}
}

func (c *frameChecker) downMsg(conn *wireConn, m *native.Msg) {
	ch := conn.channels[m.Ch]
	if ch == nil {
		c.fail(conn, "I13", "a message on channel %d, which has no subscription and no credit", m.Ch)
		return
	}
	c.chain(conn, ch, m)
	size := uint64(len(m.Payload))
	ch.n++
	if ch.n > ch.credit.N {
		c.fail(conn, "I13", "channel %d: %d messages, with credit for %d", m.Ch, ch.n, ch.credit.N)
	}
	if overdrawn(ch.bytes, size, ch.credit.B) {
		c.fail(conn, "I13", "channel %d: %d bytes after %d, with credit for %d", m.Ch, size, ch.bytes, ch.credit.B)
	}
	ch.bytes += size
}

func sortRanges(rs []wire.Range) {
	slices.SortFunc(rs, func(a, b wire.Range) int { return cmp.Compare(a.Lo, b.Lo) })
}
