package server_test

import (
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

func both(t *testing.T, f func(t *testing.T, enc native.Encoding)) {
	for _, enc := range []native.Encoding{native.JSON, native.Binary} {
		t.Run(native.Subprotocol(enc), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, enc) })
		})
	}
}

func TestRoundTrip(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		if w.Res || w.SID == "" || len(w.Key) != 32 || w.SE != 1 || w.Ack != 0 || w.CN != 1 || w.Cr.N != 4096 {
			t.Fatalf("welcome %+v", w)
		}
		c.send(sub(7, "a/*", native.FromFirst, 10))
		ok := c.next(native.TypeSubOK).SubOK
		if ok.Ch != 7 || ok.O != 0 || ok.Rec {
			t.Fatalf("subok %+v", ok)
		}
		id := c.publish(1, "a/b", `{"x":1}`)
		var m *native.Msg
		for range 2 {
			f, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			switch f.Type {
			case native.TypeMsg:
				m = &f.Msg
			case native.TypeAck:
				if f.Ack.To != 1 || f.Ack.Cr.N != 4097 {
					t.Fatalf("ack %+v", f.Ack)
				}
			default:
				t.Fatal(show(f))
			}
		}
		if m == nil || m.S != 1 || m.P != 0 || m.ID != id || m.Topic != "a/b" || string(m.Payload) != `{"x":1}` {
			t.Fatalf("msg %+v", m)
		}
		c.ws.CloseNow()

		c = r.connect(enc)
		w2 := c.hello(native.Hello{CN: 2, SID: w.SID, Key: w.Key, SE: w.SE,
			Up:   &native.Uplink{Lo: 1, Hi: 1},
			Subs: []native.Sub{{Ch: 3, Topic: "a/*", From: native.FromResume, Epoch: ok.Epoch, O: 1, Tag: id[:], Cr: native.Credit{N: 5, B: 500}}}})
		if !w2.Res || w2.Ack != 1 || w2.Tag != id || w2.SID != w.SID {
			t.Fatalf("welcome %+v", w2)
		}
		if ok := c.next(native.TypeSubOK).SubOK; !ok.Rec || ok.O != 1 {
			t.Fatalf("subok %+v", ok)
		}
		c.publish(2, "a/c", `2`)
		c.acked(2)
	})
}
