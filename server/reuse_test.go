package server_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// The same message under its id again is acknowledged as a duplicate, in ack and in WELCOME;
// another message under that id is refused by name.
func TestIDIsUsedAgain(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(msg(1, idOf(1), "t", "x"), msg(2, idOf(2), "t", "y"), msg(3, idOf(1), "t", "x"))
		if nak, a := c.acked(3); len(nak) != 0 || !slices.Equal(a.Dup, []wire.Range{{Lo: 3, Hi: 3}}) {
			t.Fatalf("rejections %v, duplicates %v", nak, a.Dup)
		}

		c = r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		c.send(msg(1, idOf(1), "t", "x"), msg(2, idOf(2), "t", "y"), msg(3, idOf(3), "t", "z"), msg(4, idOf(2), "t", "other"), msg(5, idOf(2), "u", "y"))
		nak, a := c.acked(5)
		if want := []native.Reject{{S: 4, Code: native.CodeIDReused}, {S: 5, Code: native.CodeIDReused}}; !slices.Equal(nak, want) {
			t.Fatalf("rejections %v, want %v", nak, want)
		}
		if !slices.Equal(a.Dup, []wire.Range{{Lo: 1, Hi: 2}}) {
			t.Fatalf("duplicates %v", a.Dup)
		}
		c.ws.CloseNow()
		synctest.Wait()
		c = r.connect(enc)
		w = c.hello(resume(w, 2, 2, 5))
		if !slices.Equal(w.Dup, []wire.Range{{Lo: 2, Hi: 2}}) || len(w.Out) != 2 {
			t.Fatalf("in WELCOME: duplicates %v, rejections %v", w.Dup, w.Out)
		}
		_, err := r.srv.Publish(context.Background(), "t", []byte("mine"), &server.PublishOptions{ID: idOf(2)})
		if !errors.Is(err, server.ErrIDReused) {
			t.Fatalf("publish: %v", err)
		}
		if st := r.srv.Stats(); st.Head != 3 || st.Accepted != 3 || st.Duplicates != 5 || st.Rejected != 2 {
			t.Fatalf("head %d, accepted %d, duplicates %d, rejected %d", st.Head, st.Accepted, st.Duplicates, st.Rejected)
		}
	})
}

// A server whose log has trimmed a message does not reject it with a code that claims to know that it was not accepted.
func TestRestartOnATrimmedLog(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		log := server.NewMemoryLog(server.Retention{Count: 2})
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		for s := uint64(1); s <= 4; s++ {
			c.publish(s, "t", "x")
		}
		c.reached(4)
		r.srv.Close()
		time.Sleep(time.Minute)

		r = newRig(t, &server.Options{Log: log, Hooks: server.Hooks{Authorize: func(_ server.Principal, verb server.Verb, _ string) error {
			return map[server.Verb]error{server.VerbPublish: errors.New("no")}[verb]
		}}})
		time.Sleep(5 * time.Minute)
		c = r.connect(enc)
		c.hello(resume(w, 2, 1, 6))
		expired := func(f native.Frame) native.Frame {
			f.Msg.TTL = 1000
			return f
		}
		const old, young = 400_000, 30_000
		c.send(
			aged(1, idOf(1), old),            // trimmed, forbidden now
			expired(aged(2, idOf(2), old)),   // trimmed, forbidden now, and too old in any case
			aged(3, idOf(3), old),            // in the log
			aged(4, idOf(9), young),          // sent after the restart
			expired(aged(5, idOf(8), young)), // the same
		)
		nak, _ := c.acked(5)
		want := []native.Reject{{S: 1, Code: native.CodeUnknownOutcome}, {S: 2, Code: native.CodeUnknownOutcome}, {S: 4, Code: native.CodeForbidden}, {S: 5, Code: native.CodeForbidden}}
		if !slices.Equal(nak, want) {
			t.Fatalf("rejections %v, want %v", nak, want)
		}
	})
	synctest.Test(t, func(t *testing.T) { // without a hook
		log := server.NewMemoryLog(server.Retention{Count: 2})
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for s := uint64(1); s <= 4; s++ {
			c.publish(s, "t", "x")
		}
		c.reached(4)
		r.srv.Close()
		r = newRig(t, &server.Options{Log: log})
		c = r.connect(native.JSON)
		c.hello(resume(w, 2, 1, 4))
		f := aged(1, idOf(1), 2000)
		f.Msg.TTL = 1000
		c.send(f)
		if nak, _ := c.acked(1); !slices.Equal(nak, []native.Reject{{S: 1, Code: native.CodeUnknownOutcome}}) {
			t.Fatalf("rejections %v", nak)
		}
	})
}
