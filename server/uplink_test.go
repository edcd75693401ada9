package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// aged is a message sent for the first time age ago.
func aged(seq uint64, id wire.ID, age uint64) native.Frame {
	f := msg(seq, id, "t", "x")
	f.Msg.HasAge, f.Msg.Age = true, age
	return f
}

// An id is accepted once, whichever session brings it, and by the program too.
func TestDedupeByID(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		calls := 0
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
			calls++
			if string(m.Payload) == "no" {
				return errors.New("no")
			}
			return nil
		}}})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(msg(1, idOf(100), "t", "yes"), msg(2, idOf(200), "t", "no"), msg(3, idOf(100), "t", "yes"))
		nak, _ := c.acked(3)
		if len(nak) != 1 || nak[0] != (native.Reject{S: 2, Code: native.CodeBadRequest}) {
			t.Fatalf("rejections %v", nak)
		}

		d := r.connect(enc)
		d.hello(native.Hello{CN: 1})
		d.send(msg(1, idOf(100), "t", "yes"), msg(2, idOf(200), "t", "no"))
		nak, _ = d.acked(2)
		if len(nak) != 1 || nak[0] != (native.Reject{S: 2, Code: native.CodeBadRequest}) {
			t.Fatalf("stored rejections %v", nak)
		}
		offset, err := r.srv.Publish(context.Background(), "t", []byte("yes"), &server.PublishOptions{ID: idOf(100)})
		if err != nil || offset != 1 {
			t.Fatalf("publish: %d, %v", offset, err)
		}
		var refused *server.Error
		if _, err := r.srv.Publish(context.Background(), "t", []byte("no"), &server.PublishOptions{ID: idOf(200)}); !errors.As(err, &refused) {
			t.Fatalf("publish of a refused id: %v", err)
		}
		if st := r.srv.Stats(); st.Head != 1 || st.Accepted != 1 || calls != 2 {
			t.Fatalf("head %d, accepted %d, hook calls %d", st.Head, st.Accepted, calls)
		}
	})
}

// TestHorizon is the rule for retransmissions into another session (I18).
func TestHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Dedup: 10 * time.Minute})
		c := r.connect(native.Binary)
		c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		c.acked(1)
		c.ws.CloseNow()
		limit := uint64((10 * time.Minute).Milliseconds())

		cases := []struct {
			frame native.Frame
			code  uint64
		}{
			{aged(1, idOf(1), 1000), 0},                                       // known
			{aged(2, idOf(1), native.AgeUnknown), 0},                          // known all the same
			{aged(3, idOf(13), limit-1), 0},                                   // unknown and young
			{aged(4, idOf(14), limit), native.CodeUnknownOutcome},             // as old as the horizon
			{aged(5, idOf(15), limit*100), native.CodeUnknownOutcome},         // older
			{aged(6, idOf(16), native.AgeUnknown), native.CodeUnknownOutcome}, // of unknown age
			{msg(7, idOf(14), "t", "x"), 0},                                   // accepted knowingly the second time
			{msg(8, idOf(17), "t", "x"), 0},                                   // never sent before
			{aged(9, idOf(18), ^uint64(0)-1), native.CodeUnknownOutcome},      // no overflow
		}
		d := r.connect(native.Binary)
		d.hello(native.Hello{CN: 1, SID: "lost", SE: 1, Up: &native.Uplink{Lo: 1, Hi: 9}})
		for i, tc := range cases {
			d.send(tc.frame)
			nak, _ := d.acked(uint64(i + 1))
			switch {
			case tc.code == 0 && len(nak) != 0:
				t.Errorf("case %d: rejected with %d", i+1, nak[0].Code)
			case tc.code != 0 && (len(nak) != 1 || nak[0].Code != tc.code):
				t.Errorf("case %d: rejections %v, want code %d", i+1, nak, tc.code)
			}
		}
		if st := r.srv.Stats(); st.Head != 4 {
			t.Errorf("head %d, want 4", st.Head)
		}
	})
}

// Beyond the horizon an id is forgotten. An id that is forgotten early, for lack of
// room, makes the outcome of an old message unknown if it comes from another
// session, but not within its own.
func TestIDsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Dedup: 10 * time.Minute, MaxIDs: 10})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		for s := uint64(1); s <= 15; s++ {
			c.publish(s, "t", "x")
		}
		c.reached(15)
		if n := r.srv.Stats().IDs; n != 10 {
			t.Fatalf("%d ids known, want 10", n)
		}
		time.Sleep(5 * time.Minute)

		d := r.connect(native.JSON)
		d.hello(native.Hello{CN: 5, SID: "lost", SE: 3, Up: &native.Uplink{Lo: 7, Hi: 10}})
		d.send(
			aged(1, idOf(1), 301_000),   // was accepted, but is forgotten
			aged(2, idOf(15), 301_000),  // still known
			aged(3, idOf(300), 239_000), // younger than what was forgotten
			aged(4, idOf(301), 241_000), // not, if it was under way for a minute since its age was written
			aged(5, idOf(400), 301_000), // not of another session: the fifth of four
		)
		nak, _ := d.acked(5)
		if want := []native.Reject{{S: 1, Code: native.CodeUnknownOutcome}, {S: 4, Code: native.CodeUnknownOutcome}}; !slices.Equal(nak, want) {
			t.Fatalf("rejections %v", nak)
		}
		time.Sleep(12 * time.Minute)
		r.srv.Publish(context.Background(), "t", nil, nil)
		if n := r.srv.Stats().IDs; n != 1 {
			t.Fatalf("%d ids known after the horizon, want 1", n)
		}
	})
}

// A server on a log that outlived another one knows the ids in it.
func TestRestartOnTheSameLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := server.NewMemoryLog(server.Retention{Count: 3})
		r := newRig(t, &server.Options{Log: log, Heartbeat: time.Hour})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for s := uint64(1); s <= 4; s++ {
			c.publish(s, "t", "x")
			time.Sleep(time.Minute)
		}
		c.reached(4)
		r.srv.Close()
		time.Sleep(time.Minute)

		r = newRig(t, &server.Options{Log: log})
		c = r.connect(native.JSON)
		if w := c.hello(resume(w, 2, 1, 6)); w.Res {
			t.Fatal("a session out of nothing")
		}
		c.send(
			aged(1, idOf(1), 300_000), // trimmed, and so unknown
			aged(2, idOf(2), 240_000), aged(3, idOf(3), 180_000), aged(4, idOf(4), 120_000),
			aged(5, idOf(5), 30_000), // sent after all that
		)
		nak, _ := c.acked(5)
		if len(nak) != 1 || nak[0] != (native.Reject{S: 1, Code: native.CodeUnknownOutcome}) || log.View().Head != 5 {
			t.Fatalf("rejections %v, head %d", nak, log.View().Head)
		}
	})
}

// A server that lost its log does not know what its predecessor did with a message, so
// it rejects no old retransmission with a code that claims to: neither one that has
// expired meanwhile nor one that a hook refuses now.
func TestRestartWithoutTheLog(t *testing.T) {
	no := server.Hooks{
		Authorize: func(_ server.Principal, verb server.Verb, topic string) error {
			if verb == server.VerbPublish && topic == "closed" {
				return errors.New("no")
			}
			return nil
		},
		OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
			if m.Topic == "bad" {
				return errors.New("no")
			}
			return nil
		},
	}
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil) // accepts everything
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		for s := uint64(1); s <= 3; s++ {
			c.publish(s, "t", "x")
		}
		c.reached(3)
		if r.srv.Stats().Accepted != 3 {
			t.Fatal("the first server has not accepted the messages")
		}
		r.srv.Close()
		time.Sleep(10 * time.Minute)

		r = newRig(t, &server.Options{Hooks: no})
		time.Sleep(5 * time.Minute)
		c = r.connect(enc)
		if w := c.hello(resume(w, 2, 1, 6)); w.Res {
			t.Fatal("a session out of nothing")
		}
		const old, young = 16 * 60_000, 60_000
		with := func(f native.Frame, topic string, ttl uint64) native.Frame {
			f.Msg.Topic, f.Msg.TTL = topic, ttl
			return f
		}
		c.send(
			with(aged(1, idOf(1), old), "t", 1000),   // accepted before, expired meanwhile
			with(aged(2, idOf(2), old), "closed", 0), // accepted before, forbidden now
			with(aged(3, idOf(3), old), "bad", 0),    // accepted before, refused now
			with(aged(4, idOf(4), young), "t", 1000), // sent to this server first: it knows
			with(aged(5, idOf(5), young), "closed", 0),
			with(msg(6, idOf(6), "", "x"), "bad", 0), // never sent before
			with(aged(7, idOf(7), old), "bad", 0),    // of this session: its record decides
		)
		nak, _ := c.acked(7)
		want := []native.Reject{{S: 1, Code: native.CodeUnknownOutcome}, {S: 2, Code: native.CodeUnknownOutcome}, {S: 3, Code: native.CodeUnknownOutcome},
			{S: 4, Code: native.CodeExpired}, {S: 5, Code: native.CodeForbidden}, {S: 6, Code: native.CodeBadRequest}, {S: 7, Code: native.CodeBadRequest}}
		if !slices.Equal(nak, want) {
			t.Fatalf("rejections %v, want %v", nak, want)
		}
	})
}

func messages(n uint64) (list []native.Frame) {
	for seq := uint64(1); seq <= n; seq++ {
		list = append(list, msg(seq, idOf(seq), "t", "x"))
	}
	return list
}

func TestUplinkViolations(t *testing.T) {
	void := func(seq uint64) native.Frame {
		return native.Frame{Type: native.TypeMsg, Msg: native.Msg{S: seq, ID: idOf(seq), Flags: native.FlagVoid}}
	}
	big := func(seq uint64, n int) native.Frame {
		f := msg(seq, idOf(seq), "t", "")
		f.Msg.Payload = make([]byte, n)
		return f
	}
	cases := []struct {
		name   string
		frames []native.Frame
		code   int // 0: accepted
		err    uint64
		head   uint64
	}{
		{name: "a hole", frames: []native.Frame{msg(2, idOf(2), "t", "x")}, code: native.CloseProtocolError, err: native.CodeBadRequest},
		{name: "seq 0", frames: []native.Frame{msg(0, idOf(2), "t", "x")}, code: native.CloseProtocolError, err: native.CodeBadRequest},
		{name: "beyond the credit", frames: []native.Frame{msg(65, idOf(2), "t", "x")}, code: native.CloseProtocolError, err: native.CodeBadRequest},
		{name: "65 with credit for 64", frames: messages(65), code: native.CloseProtocolError, err: native.CodeBadRequest, head: 64},
		{name: "64 with credit for 64", frames: messages(64), head: 64},
		{name: "on a channel", frames: []native.Frame{{Type: native.TypeMsg, Msg: native.Msg{Ch: 1, S: 1, ID: idOf(1), Topic: "t"}}}, code: native.CloseProtocolError, err: native.CodeBadRequest},
		{name: "repeated", frames: []native.Frame{msg(1, idOf(1), "t", "x"), msg(1, idOf(1), "t", "x")}, head: 1},
		{name: "same seq, other id", frames: []native.Frame{msg(1, idOf(1), "t", "x"), msg(1, idOf(2), "t", "x")}, code: native.CloseRolledBack, err: native.CodeIDConflict, head: 1},
		{name: "one overdraws the bytes", frames: []native.Frame{big(1, 900), big(2, 900)}, head: 2},
		{name: "and no second one", frames: []native.Frame{big(1, 900), big(2, 900), big(3, 1)}, code: native.CloseProtocolError, err: native.CodeBadRequest, head: 2},
		{name: "but one without payload", frames: []native.Frame{big(1, 900), big(2, 900), big(3, 0), void(4)}, head: 3},
		{name: "void", frames: []native.Frame{void(1), msg(2, idOf(2), "t", "x")}, head: 1},
		{name: "a second hello", frames: []native.Frame{{Type: native.TypeHello, Hello: &native.Hello{CN: 2}}}, code: native.CloseProtocolError, err: native.CodeBadRequest},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				r := newRig(t, &server.Options{Window: 64, WindowBytes: 1000})
				c := r.connect(enc)
				c.hello(native.Hello{CN: 1})
				c.send(tc.frames...)
				if tc.code == 0 {
					c.reached(tc.frames[len(tc.frames)-1].Msg.S)
				} else {
					frames := c.wantClose(tc.code)
					found := false
					for _, f := range frames {
						found = found || f.Type == native.TypeErr && f.Err.Code == tc.err &&
							(tc.err != native.CodeIDConflict || f.Err.HasS && f.Err.S == 1)
					}
					if !found {
						t.Errorf("no err %d before the close: %+v", tc.err, frames)
					}
				}
				if head := r.srv.Stats().Head; head != tc.head {
					t.Errorf("head %d, want %d", head, tc.head)
				}
			})
		})
	}
}

// The window moves with the acks, so a client that respects it is never stopped.
func TestUplinkWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Window: 64, WindowBytes: 1000})
		c := r.connect(native.Binary)
		w := c.hello(native.Hello{CN: 1})
		cr, sent := w.Cr, native.Credit{}
		for sent.N < 1000 {
			for sent.N < cr.N && sent.B < cr.B && sent.N < 1000 {
				f := msg(sent.N+1, idOf(sent.N+1), "t", "")
				f.Msg.Payload = make([]byte, sent.N%100)
				c.send(f)
				sent.N++
				sent.B += uint64(len(f.Msg.Payload))
			}
			a := c.next(native.TypeAck).Ack
			if a.Cr.N < cr.N || a.Cr.B < cr.B || a.To > sent.N || a.Cr.N > a.To+64 {
				t.Fatalf("ack %d %+v after %+v", a.To, *a.Cr, cr)
			}
			cr = *a.Cr
		}
	})
}

func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := server.Hooks{
			Authenticate: func(_ context.Context, r *http.Request, token string) (server.Principal, error) {
				switch token {
				case "":
					return server.Principal{}, &server.Error{Code: native.CloseAuthRequired, Reason: "who are you?"}
				case "bad":
					return server.Principal{}, errors.New("secret reason")
				case "later":
					return server.Principal{}, &server.Error{Code: native.CloseOverloaded, Reason: "later", Retry: 3 * time.Second}
				case "panic":
					panic("secret")
				}
				return server.Principal{ID: token}, nil
			},
			Authorize: func(who server.Principal, verb server.Verb, topic string) error {
				if topic == "panic" {
					panic("secret")
				}
				if topic == "limited" {
					return fmt.Errorf("wrapped: %w", &server.Error{Code: native.CodeRateLimited, Reason: "slowly", Retry: time.Second})
				}
				if who.ID != "ann" || topic == "closed" {
					return errors.New("secret reason")
				}
				return nil
			},
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if string(m.Payload) == "panic" {
					panic("secret")
				}
				return nil
			},
		}
		var out bytes.Buffer
		r := newRig(t, &server.Options{Hooks: hooks, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		for token, code := range map[string]int{"": native.CloseAuthRequired, "bad": native.CloseAuthInvalid,
			"later": native.CloseOverloaded, "panic": native.CloseInternal} {
			c := r.connect(native.JSON)
			c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1, Tok: token}})
			frames := c.wantClose(code)
			if (token == "later") != (len(frames) == 1 && frames[0].Err.Retry == 3000) {
				t.Errorf("token %q: %+v", token, frames)
			}
		}
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1, Tok: "ann", Subs: []native.Sub{
			{Ch: 1, Topic: "closed"}, {Ch: 2, Topic: "limited"}, {Ch: 3, Topic: "panic"}, {Ch: 4, Topic: "a/**/b"}, {Ch: 5, Topic: "fine", From: native.FromNew},
		}})
		for ch, code := range []uint64{native.CodeForbidden, native.CodeRateLimited, native.CodeInternal, native.CodeBadRequest} {
			u := c.next(native.TypeUnsub).Unsub
			if u.Ch != uint64(ch+1) || u.Code != code || (code == native.CodeRateLimited) != (u.Retry == 1000 && u.Msg == "slowly") {
				t.Errorf("unsub %+v, want code %d", u, code)
			}
		}
		c.next(native.TypeSubOK)
		c.send(msg(1, idOf(1), "closed", "x"), msg(2, idOf(2), "limited", "x"), msg(3, idOf(3), "panic", "x"),
			msg(4, idOf(4), "a/*", "x"), msg(5, idOf(5), "t", "panic"), msg(6, idOf(6), "t", "x"), msg(7, wire.ID{}, "t", "x"))
		nak, _ := c.acked(7)
		want := []native.Reject{{S: 1, Code: native.CodeForbidden}, {S: 2, Code: native.CodeRateLimited}, {S: 3, Code: native.CodeInternal},
			{S: 4, Code: native.CodeBadRequest}, {S: 5, Code: native.CodeInternal}, {S: 7, Code: native.CodeBadRequest}}
		if !slices.Equal(nak, want) {
			t.Errorf("rejections %v, want %v", nak, want)
		}
		r.srv.Close()
		synctest.Wait()
		// Each of the four panics can be found.
		if text := out.String(); strings.Count(text, "msg=\"panic in a hook") != 4 || strings.Count(text, "uplink_test.go") < 4 {
			t.Errorf("panics in the log:\n%s", text)
		}
	})
}

// WELCOME repeats a lost ack, rejections included, until lo has passed them.
func TestOutcomesInWelcome(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		c.send(msg(1, idOf(1), "t", "x"), msg(2, idOf(2), "a/*", "x"), msg(3, idOf(3), "t", "x"), msg(4, idOf(4), "/", "x"))
		c.ws.CloseNow() // before the ack arrived
		synctest.Wait()
		c = r.connect(enc)
		w = c.hello(resume(w, 2, 1, 4))
		if w.Ack != 4 || !slices.Equal(w.Out, []native.Reject{{S: 2, Code: 1}, {S: 4, Code: 1}}) {
			t.Fatalf("welcome ack %d out %v", w.Ack, w.Out)
		}
		c.send(msg(4, idOf(4), "/", "x")) // a client that did not listen
		if nak, _ := c.acked(4); len(nak) != 1 || nak[0].S != 4 {
			t.Fatalf("rejections %v", nak)
		}
		c.ws.CloseNow()
		synctest.Wait()
		c = r.connect(enc)
		if w = c.hello(resume(w, 3, 3, 4)); !slices.Equal(w.Out, []native.Reject{{S: 4, Code: 1}}) {
			t.Fatalf("out %v", w.Out)
		}
	})
}

// A log that refuses makes the client come back with the same message.
func TestLogRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &failingLog{Log: server.NewMemoryLog(server.Retention{}), fail: true}
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		c.wantClose(native.CloseBackendUnavailable)
		if _, err := r.srv.Publish(context.Background(), "t", nil, nil); !errors.Is(err, errDisk) {
			t.Fatalf("publish: %v", err)
		}
		log.fail = false
		c = r.connect(native.JSON)
		if w := c.hello(resume(w, 2, 1, 1)); w.Ack != 0 {
			t.Fatalf("ack %d for what is not in the log", w.Ack)
		}
		c.send(aged(1, idOf(1), 50))
		c.acked(1)
	})
}

var errDisk = errors.New("disk full")

type failingLog struct {
	server.Log
	fail bool
}

func (l *failingLog) Append(ctx context.Context, e server.Entry) (uint64, error) {
	if l.fail {
		return 0, errDisk
	}
	return l.Log.Append(ctx, e)
}
