package server_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// both runs f in a bubble for each encoding.
func both(t *testing.T, f func(t *testing.T, enc native.Encoding)) {
	for _, enc := range []native.Encoding{native.JSON, native.Binary} {
		t.Run(native.Subprotocol(enc), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, enc) })
		})
	}
}

func resume(w *native.Welcome, cn, lo, hi uint64) native.Hello {
	return native.Hello{CN: cn, SID: w.SID, Key: w.Key, SE: w.SE, Up: &native.Uplink{Lo: lo, Hi: hi}}
}

func TestRoundTrip(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		if w.Res || w.SID == "" || len(w.Key) != 32 || w.SE != 1 || w.Ack != 0 || w.CN != 1 || w.Cr.N != 4096 || w.HB != 20000 {
			t.Fatalf("welcome %+v", w)
		}
		c.send(sub(7, "a/*", native.FromFirst, 10))
		ok := c.next(native.TypeSubOK).SubOK
		if ok.Ch != 7 || ok.O != 0 || ok.Rec {
			t.Fatalf("subok %+v", ok)
		}
		id := c.publish(1, "a/b", `{"x":1}`)
		a, m := c.echo()
		if a.To != 1 || a.Cr.N != 4097 {
			t.Fatalf("ack %+v", a)
		}
		if m.S != 1 || m.P != 0 || m.ID != id || m.Topic != "a/b" || string(m.Payload) != `{"x":1}` {
			t.Fatalf("msg %+v", m)
		}
		c.ws.CloseNow()

		c = r.connect(enc)
		h := resume(w, 2, 1, 1)
		h.Subs = []native.Sub{{Ch: 3, Topic: "a/*", From: native.FromResume, Epoch: ok.Epoch, O: 1, Tag: id[:], Cr: native.Credit{N: 5, B: 500}}}
		w2 := c.hello(h)
		if !w2.Res || w2.Ack != 1 || w2.Tag != id || w2.SID != w.SID || bytes.Equal(w2.Key, w.Key) {
			t.Fatalf("welcome %+v", w2)
		}
		if ok := c.next(native.TypeSubOK).SubOK; !ok.Rec || ok.O != 1 {
			t.Fatalf("subok %+v", ok)
		}
		c.publish(2, "a/c", `2`)
		if a, m := c.echo(); a.To != 2 || m.S != 2 || m.P != 1 {
			t.Fatalf("ack %+v, msg %+v", a, m)
		}
	})
}

// TestHelloTable is section 4 of the protocol, the cases of a known session. It
// has accepted 1 to 5 under cn 7.
func TestHelloTable(t *testing.T) {
	tag := func(seq uint64) *native.Uplink {
		return &native.Uplink{Lo: seq + 1, Hi: 8, Tag: idOf(seq), HasTag: true}
	}
	cases := []struct {
		name   string
		change func(h *native.Hello)
		code   int // 0: welcome
		res    bool
		err    uint64
		who    string
	}{
		{name: "resumed", res: true},
		{name: "resumed with the tag of the ack", change: func(h *native.Hello) { h.Up = tag(5) }, res: true},
		{name: "resumed with an older tag", change: func(h *native.Hello) { h.Up = tag(3) }, res: true},
		{name: "no uplink state", change: func(h *native.Hello) { h.Up = nil }, res: true},
		{name: "unknown session", change: func(h *native.Hello) { h.SID = "nobody" }},
		{name: "other epoch of the session", change: func(h *native.Hello) { h.SE = 9 }},
		{name: "no session", change: func(h *native.Hello) { h.SID = "" }},
		{name: "wrong key", change: func(h *native.Hello) { h.Key = make([]byte, 32) }, code: native.CloseForbidden},
		{name: "no key", change: func(h *native.Hello) { h.Key = nil }, code: native.CloseForbidden},
		{name: "another principal", who: "eve", code: native.CloseForbidden},
		{name: "same cn", change: func(h *native.Hello) { h.CN = 7 }, code: native.CloseSuperseded, err: native.CodeConflict},
		{name: "old cn", change: func(h *native.Hello) { h.CN = 6 }, code: native.CloseSuperseded, err: native.CodeConflict},
		{name: "old cn and a wrong key", change: func(h *native.Hello) { h.CN = 6; h.Key = []byte("x") }, code: native.CloseForbidden},
		{name: "old cn of a client rolled back", change: func(h *native.Hello) { h.CN = 3; h.Up.Lo, h.Up.Hi = 4, 4 }, code: native.CloseRolledBack},
		{name: "old cn with another id", change: func(h *native.Hello) { h.CN = 3; h.Up = tag(4); h.Up.Lo = 6 }, code: native.CloseRolledBack},
		{name: "rolled back", change: func(h *native.Hello) { h.Up.Hi = 4; h.Up.Lo = 4 }, code: native.CloseRolledBack},
		{name: "another id below lo", change: func(h *native.Hello) { h.Up = tag(4); h.Up.Lo = 6 }, code: native.CloseRolledBack},
		{name: "gave messages up", change: func(h *native.Hello) { h.Up.Lo = 8 }, res: true},
		{name: "cn 0", change: func(h *native.Hello) { h.CN = 0 }, code: native.CloseProtocolError, err: native.CodeBadRequest},
		{name: "a number near the end", change: func(h *native.Hello) { h.Up.Hi = ^uint64(0); h.Up.Lo = h.Up.Hi }, code: native.CloseProtocolError, err: native.CodeBadRequest},
		{name: "no range", change: func(h *native.Hello) { h.Up.Lo = 10 }, code: native.CloseProtocolError, err: native.CodeBadRequest},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: byToken}})
				c := r.connect(native.JSON)
				w := c.hello(native.Hello{CN: 7, Tok: "ann"})
				for s := uint64(1); s <= 5; s++ {
					c.publish(s, "t", "x")
				}
				c.reached(5)
				c.ws.CloseNow()
				synctest.Wait()

				h := resume(w, 8, 6, 8)
				h.Tok = "ann"
				if tc.who != "" {
					h.Tok = tc.who
				}
				if tc.change != nil {
					tc.change(&h)
				}
				c = r.connect(native.Binary)
				c.send(native.Frame{Type: native.TypeHello, Hello: &h})
				if tc.code != 0 {
					frames := c.wantClose(tc.code)
					switch {
					case tc.err == 0 && len(frames) > 0:
						t.Fatalf("unexpected %s", show(frames[0]))
					case tc.err != 0 && (len(frames) != 1 || frames[0].Type != native.TypeErr || frames[0].Err.Code != tc.err):
						t.Fatalf("got %+v, want err %d", frames, tc.err)
					case tc.err == native.CodeConflict && frames[0].Err.S != 7:
						t.Fatalf("err names cn %d, want 7", frames[0].Err.S)
					}
					return
				}
				got := c.next(native.TypeWelcome).Welcome
				if got.Res != tc.res || got.Res != (got.SID == w.SID) {
					t.Fatalf("welcome %+v", got)
				}
				switch {
				case !tc.res && (got.Ack != 0 || got.SE != h.SE+1):
					t.Fatalf("new session: %+v", got)
				case tc.name == "gave messages up":
					if got.Ack != 7 || r.srv.Stats().UplinkGaps != 2 {
						t.Fatalf("ack %d, gaps %d", got.Ack, r.srv.Stats().UplinkGaps)
					}
				case tc.res && got.Ack != 5:
					t.Fatalf("ack %d", got.Ack)
				}
			})
		})
	}
}

func byToken(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
	return server.Principal{ID: token}, nil
}

// A key is good until the client has proved to have the next one, however often
// WELCOME was lost; then it is not.
func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		c.ws.CloseNow()
		for cn := uint64(2); cn < 6; cn++ { // each WELCOME is lost
			c = r.connect(native.JSON)
			c.hello(resume(w, cn, 1, 0))
			c.ws.CloseNow()
			synctest.Wait()
		}
		c = r.connect(native.JSON)
		newer := c.hello(resume(w, 6, 1, 0))
		c.send(native.Frame{Type: native.TypePing, N: 4})
		c.next(native.TypePong)
		c.ws.CloseNow()
		synctest.Wait()

		c = r.connect(native.JSON)
		h := resume(w, 7, 1, 0)
		c.send(native.Frame{Type: native.TypeHello, Hello: &h})
		c.wantClose(native.CloseForbidden)
		c = r.connect(native.JSON)
		if !c.hello(resume(newer, 7, 1, 0)).Res {
			t.Fatal("the newest key was refused")
		}
	})
}

// TestFence: from the moment a newer connection is welcomed the older one
// changes nothing, and WELCOME knows what it had accepted by then.
func TestFence(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		log := &gatedLog{Log: server.NewMemoryLog(server.Retention{})}
		r := newRig(t, &server.Options{Log: log})
		old := r.connect(enc)
		w := old.hello(native.Hello{CN: 1})
		old.publish(1, "t", "1")
		old.acked(1)

		log.hold()
		old.send(msg(2, idOf(2), "t", "2"), msg(3, idOf(3), "t", "3"))
		synctest.Wait() // 2 is within the append, 3 behind it

		c := r.connect(enc)
		h := resume(w, 2, 2, 3)
		c.send(native.Frame{Type: native.TypeHello, Hello: &h})
		synctest.Wait()
		if st := r.srv.Stats(); st.Pending != 1 {
			t.Fatalf("%d pending: WELCOME did not wait for the append", st.Pending)
		}
		log.open()
		w2 := c.next(native.TypeWelcome).Welcome
		if w2.Ack != 2 || w2.Tag != idOf(2) {
			t.Fatalf("welcome %+v", w2)
		}
		old.wantClose(native.CloseSuperseded)
		c.send(msg(3, idOf(3), "t", "3"))
		c.acked(3)
		if v := log.View(); v.Head != 3 {
			t.Fatalf("%d entries in the log, want 3", v.Head)
		}
	})
}

// gatedLog can be held between being asked to append and doing it.
type gatedLog struct {
	server.Log
	gate chan struct{}
}

func (l *gatedLog) hold() { l.gate = make(chan struct{}) }
func (l *gatedLog) open() { close(l.gate) }

func (l *gatedLog) Append(ctx context.Context, e server.Entry) (uint64, error) {
	if l.gate != nil {
		<-l.gate
	}
	return l.Log.Append(ctx, e)
}

// TestZombie: what a fenced connection still sends has no effect.
func TestZombie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
			if string(m.Payload) == "zombie" {
				<-hold // does not look at its context
			}
			return nil
		}}})
		old := r.connect(native.JSON)
		w := old.hello(native.Hello{CN: 1})
		old.send(msg(1, idOf(1), "t", "zombie"))
		synctest.Wait()
		c := r.connect(native.JSON)
		if w2 := c.hello(resume(w, 2, 1, 1)); w2.Ack != 0 {
			t.Fatalf("welcome %+v", w2)
		}
		close(hold)
		synctest.Wait()
		if st := r.srv.Stats(); st.Accepted != 0 {
			t.Fatal("the fenced connection published")
		}
		c.send(msg(1, idOf(1), "t", "again"))
		c.acked(1)
	})
}

// TestExactResume: after WELCOME the client sends what is above ack and not in
// sack, and the server takes exactly that.
func TestExactResume(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		for s := uint64(1); s <= 3; s++ {
			c.publish(s, "t", "x")
		}
		c.reached(3)
		c.ws.CloseNow()
		synctest.Wait()
		r.srv.Plant(w.SID, idOf, 5, 6, 9)

		c = r.connect(enc)
		w = c.hello(resume(w, 2, 4, 10))
		if w.Ack != 3 || len(w.Sack) != 2 || w.Sack[0] != (wire.Range{Lo: 5, Hi: 6}) || w.Sack[1] != (wire.Range{Lo: 9, Hi: 9}) {
			t.Fatalf("welcome ack %d sack %v", w.Ack, w.Sack)
		}
		c.send(msg(4, idOf(4), "t", "x"))
		if _, a := c.acked(6); len(a.X) != 1 || a.X[0] != (wire.Range{Lo: 9, Hi: 9}) {
			t.Fatalf("sack %v", a.X)
		}
		c.send(msg(7, idOf(7), "t", "x"), msg(8, idOf(8), "t", "x"), msg(10, idOf(10), "t", "x"))
		if _, a := c.acked(10); len(a.X) != 0 {
			t.Fatalf("sack %v", a.X)
		}
		c.send(msg(12, idOf(12), "t", "x"))
		c.wantClose(native.CloseProtocolError) // 11 is a hole
	})
}

// reached reads acks until one is at to.
func (c *client) reached(to uint64) {
	c.t.Helper()
	for c.next(native.TypeAck).Ack.To < to {
	}
}

// Two owners that evict each other get 4007; one client that often loses its
// connection is not mistaken for two.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); cn <= 4; cn++ {
			before := c
			c = r.connect(native.JSON)
			w = c.hello(resume(w, cn, 1, 0))
			before.wantClose(native.CloseSuperseded)
			synctest.Wait()
		}
		late := r.connect(native.JSON)
		h := resume(w, 5, 1, 0)
		late.send(native.Frame{Type: native.TypeHello, Hello: &h})
		late.wantClose(native.CloseSessionConflict)
		c.send(native.Frame{Type: native.TypePing, N: 1})
		c.next(native.TypePong) // the owner stays

		time.Sleep(61 * time.Second / 2)
		c.send(native.Frame{Type: native.TypePing, N: 2})
		c.next(native.TypePong)
		time.Sleep(61 * time.Second / 2)
		if !r.connect(native.JSON).hello(h).Res {
			t.Fatal("no end to the conflict after a minute")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); cn <= 8; cn++ {
			c = r.connect(native.JSON) // the old one is not read any more
			w = c.hello(resume(w, cn, 1, 0))
			time.Sleep(2 * time.Second)
		}
	})
}

// A client that takes over its session because it was asked to is no second owner.
func TestAskedToLeaveIsNoConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); cn <= 12; cn++ {
			if n := r.srv.Drain(nil); n != 1 {
				t.Errorf("%d connections were asked to leave", n)
			}
			c.next(native.TypeGoAway)
			before := c
			c = r.connect(native.JSON)
			w = c.hello(resume(w, cn, 1, 0))
			before.wantClose(native.CloseSuperseded)
			synctest.Wait()
		}
	})
}

func TestRecordIsSmall(t *testing.T) {
	if server.RecordSize > 2<<10 {
		t.Errorf("a record has %d bytes (docs/protocol.md, I7)", server.RecordSize)
	}
}

func TestSessionTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{SessionTTL: time.Minute})
		cases := []struct {
			wanted uint64
			ttl    uint64
			away   time.Duration
			res    bool
		}{
			{0, 60, 59 * time.Second, true},
			{0, 60, 61 * time.Second, false},
			{10, 10, 9 * time.Second, true},
			{10, 10, 11 * time.Second, false},
			{9999, 60, 61 * time.Second, false},
		}
		for _, tc := range cases {
			c := r.connect(native.JSON)
			w := c.hello(native.Hello{CN: 1, TTL: tc.wanted})
			if w.TTL != tc.ttl {
				t.Errorf("asked for %d s, got %d", tc.wanted, w.TTL)
			}
			c.ws.CloseNow()
			time.Sleep(tc.away)
			c = r.connect(native.JSON)
			if w := c.hello(resume(w, 2, 1, 0)); w.Res != tc.res {
				t.Errorf("away %v of %d s: resumed %v", tc.away, tc.ttl, w.Res)
			}
			c.send(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Fin: true}})
			c.ws.CloseNow()
			synctest.Wait()
			if n := r.srv.Stats().Sessions; n != 0 {
				t.Errorf("%d sessions after fin", n)
			}
		}
	})
}

// A client that announced that it would not return may return all the same, and
// from then on its session is kept like any other.
func TestComesBackAfterFin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		c.send(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Fin: true}})
		synctest.Wait()
		for cn := uint64(2); cn <= 3; cn++ {
			d := r.connect(native.JSON)
			if w = d.hello(resume(w, cn, 1, 0)); !w.Res {
				t.Fatalf("not resumed as %d", cn)
			}
			d.ws.CloseNow()
			synctest.Wait()
		}
	})
}

func TestMaxSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{MaxSessions: 2})
		a := r.connect(native.JSON)
		wa := a.hello(native.Hello{CN: 1})
		b := r.connect(native.JSON)
		wb := b.hello(native.Hello{CN: 1})
		full := r.connect(native.JSON)
		full.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1}})
		frames := full.wantClose(native.CloseOverloaded)
		if len(frames) != 1 || frames[0].Type != native.TypeErr || frames[0].Err.Retry == 0 {
			t.Fatalf("before the close: %+v", frames)
		}
		a.ws.CloseNow()
		synctest.Wait()
		b.ws.CloseNow()
		synctest.Wait()
		r.connect(native.JSON).hello(native.Hello{CN: 1}) // takes the place of a
		if n := r.srv.Stats().Sessions; n != 2 {
			t.Fatalf("%d sessions", n)
		}
		if w := r.connect(native.JSON).hello(resume(wb, 2, 1, 0)); !w.Res {
			t.Fatal("the younger session went")
		}
		full = r.connect(native.JSON)
		h := resume(wa, 2, 1, 0)
		full.send(native.Frame{Type: native.TypeHello, Hello: &h})
		full.wantClose(native.CloseOverloaded)
	})
}
