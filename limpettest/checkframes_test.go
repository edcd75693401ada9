package limpettest_test

import (
	"slices"
	"testing"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// captured is one frame on the wire.
type captured struct {
	conn int
	dir  limpettest.Direction
	f    native.Frame
}

func up(conn int, f native.Frame) captured   { return captured{conn, limpettest.Up, f} }
func down(conn int, f native.Frame) captured { return captured{conn, limpettest.Down, f} }

func hello(cn uint64, sid string) native.Frame {
	return native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: cn, SID: sid,
		Subs: []native.Sub{{Ch: 1, Topic: "t", From: native.FromNew, Cr: native.Credit{N: 2, B: 10}}}}}
}

func welcome(cn, ack uint64, res bool) native.Frame {
	return native.Frame{Type: native.TypeWelcome, Welcome: &native.Welcome{CN: cn, SID: "sid", Key: []byte("key"), SE: 1, Res: res,
		Ack: ack, Cr: native.Credit{N: 6, B: 100}}}
}

func uplink(seq uint64) native.Frame {
	return native.Frame{Type: native.TypeMsg, Msg: native.Msg{S: seq, ID: wire.ID{1}, Topic: "t", Payload: []byte(`"12345678"`)}}
}

func downlink(offset uint64) native.Frame { return chained(offset, offset-1) }

func chained(offset, prev uint64) native.Frame {
	return native.Frame{Type: native.TypeMsg, Msg: native.Msg{Ch: 1, S: offset, HasP: true, P: prev, ID: wire.ID{1}, Payload: []byte(`"12345"`)}}
}

func subok(conn int, offset uint64) captured {
	return down(conn, native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: 1, Epoch: "e", O: offset}})
}

func lossReported(conn int, prev, to uint64) captured {
	return down(conn, native.Frame{Type: native.TypeGap, Gap: &native.Gap{Ch: 1, P: prev, To: to, Tag: []byte("t")}})
}

func restarted(conn int, offset uint64) captured {
	return down(conn, native.Frame{Type: native.TypeReset, Reset: &native.Reset{Ch: 1, Epoch: "f", O: offset, Tag: []byte("t")}})
}

func ackTo(to uint64) native.Frame {
	return native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: to, HasTo: true}}
}

// goodWire has a first connection with four messages, of which the server accepted
// 1 and 3, and a second one that sends 2 and 4 again and continues.
func goodWire() []captured {
	second := welcome(8, 1, true)
	second.Welcome.Sack = []wire.Range{{Lo: 3, Hi: 3}}
	return []captured{
		0:  up(1, hello(7, "")),
		1:  down(1, welcome(7, 0, false)),
		2:  up(1, uplink(1)),
		3:  up(1, uplink(2)),
		4:  down(1, downlink(5)),
		5:  up(1, native.Frame{Type: native.TypeAck, Ack: &native.Ack{Dcr: []native.ChCredit{{Ch: 1, N: 4, B: 40}}}}),
		6:  down(1, downlink(6)),
		7:  down(1, downlink(7)),
		8:  up(1, uplink(3)),
		9:  up(1, uplink(4)),
		10: down(1, ackTo(1)),
		11: up(2, hello(8, "sid")),
		12: down(2, second),
		13: up(2, uplink(2)),
		14: up(2, uplink(4)),
		15: up(2, uplink(5)),
		16: down(2, ackTo(4)),
		17: up(2, uplink(6)),
		18: down(2, native.Frame{Type: native.TypeAck, Ack: &native.Ack{Cr: &native.Credit{N: 9, B: 200}}}),
		19: up(2, uplink(7)),
		20: down(2, downlink(6)),
	}
}

// messages puts each frame into a message of its own.
func messages(t *testing.T, enc native.Encoding, frames []captured) []limpettest.Message {
	t.Helper()
	var ms []limpettest.Message
	for i, f := range frames {
		data, err := native.Append(nil, enc, []native.Frame{f.f})
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		ms = append(ms, limpettest.Message{Conn: f.conn, Direction: f.dir, Seq: uint64(i), Text: enc == native.JSON, Data: data})
	}
	return ms
}

func TestCheckFramesGood(t *testing.T) {
	for _, enc := range []native.Encoding{native.JSON, native.Binary} {
		for _, v := range limpettest.CheckFrames(messages(t, enc, goodWire())) {
			t.Errorf("encoding %d: %s", enc, v)
		}
	}
}

func TestCheckFramesHasTeeth(t *testing.T) {
	for _, c := range []struct {
		name, want string
		mutate     func(w []captured) []captured
	}{
		{"lower offset than the start", "I2", func(w []captured) []captured { w[20] = down(2, downlink(2)); return append(w[:20], subok(2, 2), w[20]) }},
		{"offset twice on the wire", "I2", func(w []captured) []captured {
			return append(w[:20], subok(2, 2), down(2, chained(3, 2)), down(2, chained(3, 2)))
		}},
		{"hole after the start", "I4", func(w []captured) []captured { return append(w[:20], subok(2, 2), down(2, chained(4, 3))) }},
		{"hole between messages", "I4", func(w []captured) []captured {
			return append(w[:20], subok(2, 2), down(2, chained(3, 2)), down(2, chained(5, 4)))
		}},
		{"a message that knows nothing of the one before", "I4", func(w []captured) []captured {
			return append(w[:20], subok(2, 2), down(2, chained(3, 2)), down(2, chained(5, 2)))
		}},
		{"gap that leaves a hole", "I4", func(w []captured) []captured { return append(w[:20], subok(2, 2), lossReported(2, 3, 5)) }},
		{"hole after a gap", "I4", func(w []captured) []captured {
			return append(w[:20], subok(2, 2), lossReported(2, 2, 5), down(2, chained(8, 7)))
		}},
		{"hole after a reset", "I4", func(w []captured) []captured {
			return append(w[:20], subok(2, 2), restarted(2, 5), down(2, chained(8, 7)))
		}},
		{"another message under the same number", "I10", func(w []captured) []captured { w[13].f.Msg.ID = wire.ID{9}; return w }},
		{"ack of nothing sent", "I5", func(w []captured) []captured { w[10] = down(1, ackTo(5)); return w }},
		{"welcome acknowledges nothing sent", "I5", func(w []captured) []captured { w[12].f.Welcome.Ack = 5; return w }},
		{"sack of nothing sent", "I5", func(w []captured) []captured { w[12].f.Welcome.Sack[0].Hi = 9; return w }},
		{"rejection of nothing sent", "I5", func(w []captured) []captured {
			w[10].f.Ack.Nak = []native.Reject{{S: 9, Code: native.CodeForbidden}}
			return w
		}},
		{"connection number repeats", "I9", func(w []captured) []captured { w[11] = up(2, hello(7, "sid")); w[12].f.Welcome.CN = 7; return w }},
		{"connection number is not echoed", "I9", func(w []captured) []captured { w[12].f.Welcome.CN = 9; return w }},
		{"ack falls", "I9", func(w []captured) []captured { return slices.Insert(w, 17, down(2, ackTo(3))) }},
		{"ack falls across connections", "I9", func(w []captured) []captured { w[12].f.Welcome.Ack = 0; return w }},
		{"nothing sent again", "I10", func(w []captured) []captured { return slices.Delete(w, 13, 15) }},
		{"one not sent again", "I10", func(w []captured) []captured { return slices.Delete(w, 13, 14) }},
		{"one sent again that was taken", "I10", func(w []captured) []captured { return slices.Insert(w, 14, up(2, uplink(3))) }},
		{"sent again in another order", "I10", func(w []captured) []captured { w[13], w[14] = w[14], w[13]; return w }},
		{"new before old", "I10", func(w []captured) []captured { w[13], w[15] = w[15], w[13]; return w }},
		{"sent twice on one connection", "I10", func(w []captured) []captured { return slices.Insert(w, 4, w[3]) }},
		{"sent before welcome", "I10", func(w []captured) []captured { w[1], w[2] = w[2], w[1]; return w }},
		{"number beyond the credit", "I13", func(w []captured) []captured { w[18], w[19] = w[19], w[18]; return w }},
		{"bytes beyond the credit", "I13", func(w []captured) []captured { w[1].f.Welcome.Cr.B = 30; return w }},
		{"downlink count", "I13", func(w []captured) []captured { w[5].f.Ack.Dcr[0].N = 2; return w }},
		{"downlink bytes", "I13", func(w []captured) []captured { w[5].f.Ack.Dcr[0].B = 14; return w }},
		{"credit granted too late", "I13", func(w []captured) []captured { w[5], w[7] = w[7], w[5]; return w }},
		{"no such channel", "I13", func(w []captured) []captured { w[4].f.Msg.Ch = 9; return w }},
		{"old credit after a reconnect", "I13", func(w []captured) []captured {
			a, b := w[6], w[7]
			a.conn, b.conn = 2, 2
			return append(w, a, b)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := limpettest.CheckFrames(messages(t, native.Binary, c.mutate(goodWire())))
			if !slices.ContainsFunc(found, func(v limpettest.Violation) bool { return v.Invariant == c.want }) {
				t.Errorf("not seen as %s: %v", c.want, found)
			}
		})
	}
}

// Chains that are allowed: a filtered stream begins below its start, and continues
// after a gap or a reset.
func TestCheckFramesChains(t *testing.T) {
	for _, w := range [][]captured{
		{subok(2, 9), down(2, chained(12, 3))},
		{subok(2, 9), down(2, chained(12, 9)), down(2, chained(15, 12))},
		{subok(2, 9), lossReported(2, 9, 14), down(2, chained(15, 14))},
		{subok(2, 9), lossReported(2, 9, 14), down(2, chained(17, 11))},
		{subok(2, 9), restarted(2, 4), down(2, chained(5, 4))},
		{restarted(2, 4), down(2, chained(5, 4))},
	} {
		for _, v := range limpettest.CheckFrames(messages(t, native.JSON, append(goodWire()[:20], w...))) {
			t.Error(v)
		}
	}
}

// What a server sends before HELLO, because it was in the upgrade request, is checked like the rest.
func TestCheckFramesAnnounced(t *testing.T) {
	w := append(goodWire()[:11], down(2, welcome(8, 1, true)), subok(2, 2), down(2, chained(3, 2)), up(2, hello(8, "sid")), up(2, uplink(2)))
	for _, v := range limpettest.CheckFrames(messages(t, native.JSON, w)) {
		t.Error(v)
	}
	w[13] = down(2, chained(4, 3))
	if found := limpettest.CheckFrames(messages(t, native.JSON, w)); len(found) != 1 || found[0].Invariant != "I4" || found[0].Index != 13 {
		t.Errorf("a hole before HELLO: %v", found)
	}
}

// Neither a rejected message nor an accepted one is sent again.
func TestCheckFramesRejected(t *testing.T) {
	w := goodWire()
	w[12].f.Welcome.Out = []native.Reject{{S: 2, Code: native.CodeForbidden}}
	for _, v := range limpettest.CheckFrames(messages(t, native.JSON, slices.Delete(w, 13, 14))) {
		t.Error(v)
	}
}

// A connection in another language is ignored; one that began in limpet.v1 must
// continue in it.
func TestCheckFramesForeign(t *testing.T) {
	foreign := []limpettest.Message{{Conn: 1, Direction: limpettest.Up, Text: true, Data: []byte(`{"op":"subscribe"}`)},
		{Conn: 1, Direction: limpettest.Down, Text: true, Data: []byte("anything")}}
	if found := limpettest.CheckFrames(foreign); len(found) != 0 {
		t.Error(found)
	}
	ms := messages(t, native.JSON, goodWire())
	ms[4].Data = []byte("{")
	if found := limpettest.CheckFrames(ms); len(found) == 0 || found[0].Invariant != "wire" {
		t.Error(found)
	}
	ms = messages(t, native.JSON, goodWire()[:10])
	ms[8].Skipped, ms[8].Data = true, nil
	if found := limpettest.CheckFrames(ms); len(found) != 0 {
		t.Error(found)
	}
}
