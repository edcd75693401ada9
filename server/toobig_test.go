package server_test

import (
	"context"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// TestTooBigForTheClient: a message that is longer than the client reads is a gap in its
// place, with the tag of its position and without credit; one that just fits is sent. A
// client that has not said what it reads gets everything.
func TestTooBigForTheClient(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		const limit = native.MaxBatch
		r := newRig(t, &server.Options{MaxPayload: 4 * limit})
		publish := func(payload string) uint64 {
			o, err := r.srv.Publish(context.Background(), "t", []byte(payload), &server.PublishOptions{ID: idOf(1000 + uint64(len(payload)))})
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		c, unlimited := r.connect(enc), r.connect(enc)
		c.hello(native.Hello{CN: 1, RL: limit, Subs: []native.Sub{*sub(3, "t", native.FromNew, 3).Sub}})
		unlimited.hello(native.Hello{CN: 1, Subs: []native.Sub{*sub(3, "t", native.FromNew, 9).Sub}})
		c.next(native.TypeSubOK)
		unlimited.next(native.TypeSubOK)

		// The overhead of a frame with a payload of this length, which is valid JSON.
		text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
		before := native.Msg{Ch: 3, S: 1, P: 0, HasP: true, ID: idOf(0), Payload: []byte(text(limit - 200))}
		data, err := native.Append(nil, enc, []native.Frame{{Type: native.TypeMsg, Msg: before}})
		if err != nil {
			t.Fatal(err)
		}
		fits := limit - (len(data) - (limit - 200))
		for i, payload := range []string{text(fits), text(fits + 1), strings.Repeat("\xff", 2*limit), "small"} {
			offset := publish(payload)
			if m := unlimited.next(native.TypeMsg).Msg; m.S != offset || string(m.Payload) != payload {
				t.Fatalf("without a limit: message %d of %d bytes", m.S, len(m.Payload))
			}
			switch i {
			case 0, 3:
				if m := c.next(native.TypeMsg).Msg; m.S != offset || m.P != offset-1 || string(m.Payload) != payload {
					t.Fatalf("message %d after %d of %d bytes, want %d of %d", m.S, m.P, len(m.Payload), offset, len(payload))
				}
			default:
				id := idOf(1000 + uint64(len(payload)))
				g := c.next(native.TypeGap).Gap
				if g.P != offset-1 || g.To != offset || g.Why != native.GapTooBig || g.N != 1 || string(g.Tag) != string(id[:]) {
					t.Fatalf("%s", show(native.Frame{Type: native.TypeGap, Gap: g}))
				}
			}
		}
		publish("last")
		if m := c.next(native.TypeMsg).Msg; m.S != 5 { // the gaps have used no credit
			t.Fatalf("message %d, want 5", m.S)
		}
		if n := r.srv.Stats().Gaps; n != 2 {
			t.Errorf("%d gaps are counted, want 2", n)
		}
	})
}

// TestTooBigWaitsForCredit: without credit no gap is sent either, and with credit one comes
// for each message in its order.
func TestTooBigWaitsForCredit(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, RL: native.MaxBatch})
		c.send(sub(1, "t", native.FromNew, 1))
		c.next(native.TypeSubOK)
		for _, n := range []int{1, 200 << 10, 2, 200 << 10} {
			r.srv.Publish(context.Background(), "t", make([]byte, n), nil)
		}
		c.next(native.TypeMsg)
		c.send(native.Frame{Type: native.TypePing})
		c.next(native.TypePong)
		c.send(credit(1, 3, 1<<30))
		for i, want := range []native.Type{native.TypeGap, native.TypeMsg, native.TypeGap} {
			if f := c.next(want); f.Type == native.TypeGap && f.Gap.To != uint64(i)+2 {
				t.Errorf("%s", show(f))
			}
		}
	})
}

// TestReadLimitBelowABatch: a client that cannot read a batch is refused when it says so,
// not by what it cannot read.
func TestReadLimitBelowABatch(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1, RL: native.MaxBatch - 1}})
		c.wantClose(native.CloseProtocolError)
	})
}
