package server_test

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// absurd are the numbers at which sums and differences go wrong.
var absurd = []uint64{0, 1, 2, 3, 63, 64, 4095, 4096, 4097, 1 << 31, 1<<53 - 1, 1 << 53, 1<<62 - 1, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 2, 1<<64 - 1}

// randomFrame is a frame that decodes, with any numbers in it.
func randomFrame(r *rand.Rand, w *native.Welcome, next *uint64) native.Frame {
	n := func() uint64 {
		if r.IntN(2) == 0 {
			return uint64(r.IntN(6))
		}
		return absurd[r.IntN(len(absurd))]
	}
	text := func() string {
		return []string{"", "t", "a/b", "*", "**", "a/**", "a/**/b", "/", "\u202e", strings.Repeat("x", 300), "\x00"}[r.IntN(11)]
	}
	tag := func() []byte { return make([]byte, r.IntN(17)) }
	sub := func() native.Sub {
		return native.Sub{Ch: n(), Topic: text(), From: native.From(r.IntN(4)), Epoch: text(), O: n(), Tag: tag(), N: n(), Cr: native.Credit{N: n(), B: n()}}
	}
	switch r.IntN(41) / 5 {
	case 8:
		h := &native.Hello{CN: n(), SE: n(), TTL: n()}
		if w != nil && r.IntN(3) > 0 {
			h.SID, h.Key, h.SE = w.SID, w.Key, w.SE
		}
		if r.IntN(2) == 0 {
			h.Up = &native.Uplink{Lo: n(), Hi: n(), HasTag: r.IntN(2) == 0}
		}
		for range r.IntN(4) {
			h.Subs = append(h.Subs, sub())
		}
		return native.Frame{Type: native.TypeHello, Hello: h}
	case 0, 1, 2:
		*next++
		m := native.Msg{Ch: uint64(r.IntN(50) / 49), S: *next, ID: wire.ID{15: byte(r.IntN(40))}, Topic: text(), HasAge: r.IntN(2) == 0, Age: n(), TTL: n(), Flags: uint64(r.IntN(9))}
		if m.Flags&native.FlagVoid == 0 {
			m.Payload = make([]byte, r.IntN(100))
			m.Topic += "t"
		}
		if r.IntN(30) == 0 {
			m.S = n()
		}
		return native.Frame{Type: native.TypeMsg, Msg: m}
	case 3:
		s := sub()
		if r.IntN(10) > 0 {
			s.Ch = uint64(1 + r.IntN(1000))
		}
		return native.Frame{Type: native.TypeSub, Sub: &s}
	case 4:
		return native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: n(), Code: n(), Retry: n()}}
	case 5:
		return native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: n(), HasTo: true, Dcr: []native.ChCredit{{Ch: n(), N: n(), B: n()}, {Ch: n(), N: n(), B: n()}}}}
	case 6:
		return native.Frame{Type: native.TypePing, N: n()}
	case 7:
		return native.Frame{Type: native.TypeAuth, Auth: &native.Auth{Tok: text()}}
	}
	return native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Fin: r.IntN(4) == 0, Code: n()}}
}

// Any well-formed frames, in any order, on several connections of one session at
// once: the server keeps working, and nothing is left behind.
func TestRandomFrames(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			r := newRig(t, &server.Options{Retention: server.Retention{Count: 10}, Logger: slog.New(slog.NewTextHandler(&out, nil))})
			var panics bytes.Buffer
			r.http.ErrorLog = log.New(&panics, "", 0)
			enc := []native.Encoding{native.JSON, native.Binary}[seed%2]
			first := r.connect(enc)
			w := first.hello(native.Hello{CN: 1})
			var all sync.WaitGroup
			for i := range uint64(4) {
				c := r.connect(enc)
				rnd := rand.New(rand.NewPCG(seed, i))
				all.Go(func() {
					defer c.ws.CloseNow()
					all.Go(func() { // reads until the connection ends
						for {
							if _, _, err := c.ws.Read(context.Background()); err != nil {
								return
							}
						}
					})
					h := native.Hello{CN: uint64(rnd.IntN(4)), SID: w.SID, Key: w.Key, SE: w.SE}
					frames := []native.Frame{{Type: native.TypeHello, Hello: &h}}
					next := uint64(0)
					if i < 2 {
						h.SID = ""
					}
					for range 40 {
						for range rnd.IntN(4) {
							frames = append(frames, randomFrame(rnd, w, &next))
						}
						data, err := native.Append(nil, enc, frames)
						if err != nil {
							frames = nil
							continue
						}
						typ := websocket.MessageText
						if enc == native.Binary {
							typ = websocket.MessageBinary
						}
						if c.ws.Write(context.Background(), typ, data) != nil {
							return
						}
						frames = nil
						time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
					}
				})
			}
			all.Wait()
			first.ws.CloseNow()
			synctest.Wait()
			st := r.srv.Stats()
			if st.Conns != 0 || st.Subscriptions != 0 {
				t.Errorf("seed %d: %d connections, %d subscriptions left", seed, st.Conns, st.Subscriptions)
			}
			r.srv.Close()
			synctest.Wait()
			if panics.Len() > 0 || strings.Contains(out.String(), "panic") {
				t.Errorf("seed %d: %s%s", seed, panics.String(), out.String())
			}
		})
	}
}
