package server_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// TestCredit: never more than granted, in messages or in bytes, and no control
// frame waits for it.
func TestCredit(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, Subs: []native.Sub{
			{Ch: 1, Topic: "t", From: native.FromNew},
			{Ch: 2, Topic: "t", From: native.FromNew, Cr: native.Credit{N: 1 << 30, B: 1 << 30}},
		}})
		c.next(native.TypeSubOK)
		c.next(native.TypeSubOK)
		for range 40 {
			r.srv.Publish(context.Background(), "t", make([]byte, 10), nil)
		}
		var sent native.Credit
		others := 0
		// drain reads what is there: a pong marks the end.
		drain := func() {
			c.t.Helper()
			synctest.Wait()
			c.send(native.Frame{Type: native.TypePing, N: 7})
			for {
				f, err := c.read()
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case f.Type == native.TypePong:
					return
				case f.Msg.Ch == 1:
					sent.N++
					sent.B += uint64(len(f.Msg.Payload))
				default:
					others++
				}
			}
		}
		for _, step := range []struct{ n, b, want uint64 }{ // want: messages of 10 bytes so far
			{0, 0, 0}, {0, 1000, 0}, {3, 0, 3}, {2, 10, 3}, {10, 999, 10}, {2, 10, 10}, {200, 999, 40}, {1, 1, 40},
		} {
			c.send(credit(1, step.n, step.b))
			drain()
			if sent.N != step.want {
				t.Fatalf("%d messages after credit %d, %d; want %d", sent.N, step.n, step.b, step.want)
			}
		}
		for range 5 { // what was granted stays granted
			r.srv.Publish(context.Background(), "t", make([]byte, 10), nil)
		}
		drain()
		if sent.N != 45 || others != 45 {
			t.Errorf("%d and %d messages, want 45 of each", sent.N, others)
		}
	})
}

// One message may overdraw the bytes, and then nothing until there are more.
func TestByteCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 10 {
			r.srv.Publish(context.Background(), "t", make([]byte, 10), nil)
		}
		c := r.connect(native.JSON)
		f := sub(1, "t", native.FromFirst, 99)
		f.Sub.Cr.B = 15
		c.hello(native.Hello{CN: 1, Subs: []native.Sub{*f.Sub}})
		c.next(native.TypeSubOK)
		got := 0
		for _, step := range []struct {
			b    uint64
			want int
		}{{15, 2}, {20, 2}, {21, 3}, {30, 3}, {55, 6}, {1000, 10}} {
			c.send(credit(1, 99, step.b), native.Frame{Type: native.TypePing})
			synctest.Wait()
			for pong := false; !pong || got < step.want; {
				f, err := c.read()
				if err != nil {
					t.Fatal(err)
				}
				if pong = pong || f.Type == native.TypePong; f.Type == native.TypeMsg {
					got++
				}
			}
			c.send(native.Frame{Type: native.TypePing})
			if c.next(native.TypePong); got != step.want {
				t.Fatalf("%d messages for %d bytes of credit, want %d", got, step.b, step.want)
			}
		}
	})
}

// A stopped consumer: nothing is buffered, retention removes messages, and when it
// continues it gets one gap for everything that is missing.
func TestGapForSlowConsumer(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Retention: server.Retention{Count: 10}})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(sub(3, "a/*", native.FromNew, 2))
		c.next(native.TypeSubOK)
		for o := 1; o <= 50; o++ {
			r.srv.Publish(context.Background(), []string{"a/x", "b/x"}[o%2], []byte("x"), nil)
			synctest.Wait()
		}
		for _, want := range []uint64{2, 4} {
			if m := c.next(native.TypeMsg).Msg; m.S != want || m.P != want-2 {
				t.Fatalf("message %d after %d", m.S, m.P)
			}
		}
		c.send(native.Frame{Type: native.TypePing, N: 1})
		c.next(native.TypePong) // and no gap yet
		c.send(credit(3, 4, 1<<20))
		if g := c.next(native.TypeGap).Gap; g.P != 4 || g.To != 40 || g.Why != native.GapExpired || len(g.Tag) == 0 {
			t.Fatalf("gap %+v", g)
		}
		for _, want := range []uint64{42, 44} {
			if m := c.next(native.TypeMsg).Msg; m.S != want || m.P != want-2 {
				t.Fatalf("message %d after %d", m.S, m.P)
			}
		}
		if st := r.srv.Stats(); st.Gaps != 1 || st.Delivered != 4 {
			t.Fatalf("%d gaps, %d delivered", st.Gaps, st.Delivered)
		}
	})
}

// The gap at the beginning of a resumed subscription does not wait for credit;
// later ones do, so that a stopped consumer is not sent one after another.
func TestGapAndCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Retention: server.Retention{Count: 2}})
		publish := func(n int) {
			for range n {
				r.srv.Publish(context.Background(), "loud", nil, nil)
			}
		}
		publish(10)
		c := r.connect(native.JSON)
		v := r.srv.Stats()
		c.hello(native.Hello{CN: 1, Subs: []native.Sub{{Ch: 1, Topic: "quiet", From: native.FromResume, Epoch: v.Epoch}}})
		c.next(native.TypeSubOK)
		if g := c.next(native.TypeGap).Gap; g.P != 0 || g.To != 8 {
			t.Fatalf("gap %+v", g)
		}
		for range 20 {
			publish(500) // faster than the reader of the log, now and then
			synctest.Wait()
		}
		c.send(native.Frame{Type: native.TypePing})
		c.next(native.TypePong)
	})
}

// A quiet topic gets no gap for the expired messages of other topics.
func TestNoGapForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Retention: server.Retention{Count: 2, Age: time.Minute}})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "quiet", native.FromNew, 0), sub(2, "quiet", native.FromNew, 5))
		c.next(native.TypeSubOK)
		c.next(native.TypeSubOK)
		for range 50 {
			r.srv.Publish(context.Background(), "loud", nil, nil)
			synctest.Wait()
		}
		for range 4 {
			time.Sleep(30 * time.Second)
			c.send(native.Frame{Type: native.TypePong})
		}
		r.srv.Publish(context.Background(), "quiet", nil, nil)
		if m := c.next(native.TypeMsg).Msg; m.Ch != 2 || m.S != 51 || m.P != 0 {
			t.Fatalf("msg %+v", m)
		}
		c.send(credit(1, 1, 1))
		if m := c.next(native.TypeMsg).Msg; m.Ch != 1 || m.S != 51 || m.P != 0 {
			t.Fatalf("msg %+v", m)
		}
	})
}

func TestSubscribeViolations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{MaxSubs: 2})
		for _, frames := range [][]native.Frame{
			{sub(0, "t", native.FromNew, 1)},
			{sub(1, "t", native.FromNew, 1), sub(1, "u", native.FromNew, 1)},
		} {
			c := r.connect(native.JSON)
			c.hello(native.Hello{CN: 1})
			c.send(frames...)
			c.wantClose(native.CloseProtocolError)
		}
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromNew, 1), sub(2, "t", native.FromNew, 1), sub(3, "t", native.FromNew, 1))
		c.next(native.TypeSubOK)
		c.next(native.TypeSubOK)
		if u := c.next(native.TypeUnsub).Unsub; u.Ch != 3 || u.Code != native.CodeQuota {
			t.Fatalf("unsub %+v", u)
		}
		// A channel is free again once the client has given it up.
		c.send(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1}}, sub(1, "u", native.FromNew, 1))
		c.next(native.TypeSubOK)
		r.srv.Publish(context.Background(), "t", nil, nil)
		if m := c.next(native.TypeMsg).Msg; m.Ch != 2 {
			t.Fatalf("msg %+v", m)
		}
		synctest.Wait()
		if n := r.srv.Stats().Subscriptions; n != 2 {
			t.Fatalf("%d subscriptions", n)
		}
		c.send(credit(99, 1, 1), native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 99}}) // unknown: a race, no fault
		c.send(native.Frame{Type: native.TypePing, N: 5})
		if f := c.next(native.TypePong); f.N != 5 {
			t.Fatalf("pong %d", f.N)
		}
	})
}

// A message without payload costs no bytes, so it is sent, and accepted, when the
// bytes are used up (docs/protocol.md, section 2).
func TestEmptyMessagesAndByteCredit(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{WindowBytes: 1000})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		f := sub(1, "t", native.FromNew, 4)
		f.Sub.Cr.B = 1000
		c.send(f)
		c.next(native.TypeSubOK)

		void := native.Frame{Type: native.TypeMsg, Msg: native.Msg{S: 3, ID: idOf(3), Flags: native.FlagVoid}}
		c.send(msg(1, idOf(1), "t", string(make([]byte, 2000))), msg(2, idOf(2), "t", ""), void, msg(4, idOf(4), "t", ""))
		var acked uint64
		var got []uint64
		for acked < 4 || len(got) < 3 {
			f, err := c.read()
			switch {
			case err != nil:
				t.Fatalf("acked to %d, received %v: %v", acked, got, err)
			case f.Type == native.TypeAck:
				acked = f.Ack.To
			case f.Type == native.TypeMsg:
				got = append(got, f.Msg.S)
			default:
				t.Fatalf("unexpected frame %s", show(f))
			}
		}

		// Messages without payload still use the count, and more of it is enough for them.
		c.send(msg(5, idOf(5), "t", ""), msg(6, idOf(6), "t", ""))
		for got = nil; acked < 6 || len(got) < 1; { // in any order
			switch f, err := c.read(); {
			case err != nil:
				t.Fatalf("acked to %d, received %v: %v", acked, got, err)
			case f.Type == native.TypeAck:
				acked = f.Ack.To
			case f.Type == native.TypeMsg:
				got = append(got, f.Msg.S)
			}
		}
		c.send(native.Frame{Type: native.TypePing}, credit(1, 5, 1000))
		c.next(native.TypePong)
		if m := c.next(native.TypeMsg).Msg; m.S != 5 {
			t.Fatalf("message %d, want 5", m.S)
		}
	})
}

// With payload a message beyond the bytes is a violation.
func TestByteCreditOfUplink(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{WindowBytes: 1000})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(msg(1, idOf(1), "t", string(make([]byte, 1001))), msg(2, idOf(2), "t", ""), msg(3, idOf(3), "t", "x"))
		c.wantClose(native.CloseProtocolError)
	})
}

// A lifetime below a millisecond is one: to a client 0 would mean that there is no end.
func TestShortTTLIsSent(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromNew, 9))
		c.next(native.TypeSubOK)
		for _, tc := range []struct {
			ttl  time.Duration
			want uint64
		}{{time.Nanosecond, 1}, {1001 * time.Microsecond, 2}, {time.Second, 1000}, {math.MaxInt64, math.MaxInt64/1_000_000 + 1}, {0, 0}} {
			if _, err := r.srv.Publish(context.Background(), "t", nil, &server.PublishOptions{TTL: tc.ttl}); err != nil {
				t.Fatal(err)
			}
			if got := c.next(native.TypeMsg).Msg.TTL; got != tc.want {
				t.Errorf("%v was sent as %d ms, want %d", tc.ttl, got, tc.want)
			}
		}
	})
}
