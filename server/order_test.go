package server_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// Frames are applied one by one, in order (docs/protocol.md, section 1): where a
// subscription starts is decided when it is read, so a message behind it in the
// same batch is delivered.
func TestSubscribeThenPublish(t *testing.T) {
	held := idOf(100)
	next := idOf(1)
	for _, tc := range []struct {
		name  string
		sub   native.Sub
		reset bool     // instead of subok
		start uint64   // subok.o or reset.o
		want  []uint64 // offsets
	}{
		{"new", native.Sub{From: native.FromNew}, false, 1, []uint64{2}},
		{"last", native.Sub{From: native.FromLast}, false, 0, []uint64{1, 2}},
		{"first", native.Sub{From: native.FromFirst}, false, 0, []uint64{1, 2}},
		{"resume", native.Sub{From: native.FromResume, O: 1, Tag: held[:]}, false, 1, []uint64{2}},
		{"resume beyond the head", native.Sub{From: native.FromResume, O: 2, Tag: next[:]}, true, 0, []uint64{1, 2}},
	} {
		for _, inHello := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in hello %v", tc.name, inHello), func(t *testing.T) {
				both(t, func(t *testing.T, enc native.Encoding) {
					r := newRig(t, nil)
					r.srv.Publish(context.Background(), "t", []byte("held"), &server.PublishOptions{ID: held})
					q := tc.sub
					q.Ch, q.Topic, q.Cr = 1, "t", native.Credit{N: 9, B: 999}
					q.Epoch = r.srv.Stats().Epoch
					c := r.connect(enc)
					if inHello {
						c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1, Subs: []native.Sub{q}}}, msg(1, next, "t", "x"))
						c.next(native.TypeWelcome)
					} else {
						c.hello(native.Hello{CN: 1})
						c.send(native.Frame{Type: native.TypeSub, Sub: &q}, msg(1, next, "t", "x"))
					}
					var got []uint64
					answered := false
					for len(got) < len(tc.want) {
						f, err := c.read()
						switch {
						case err != nil:
							t.Fatal(err)
						case f.Type == native.TypeSubOK && !tc.reset && f.SubOK.O == tc.start:
							answered = true
						case f.Type == native.TypeReset && tc.reset && f.Reset.O == tc.start && f.Reset.Why == native.ResetAhead:
							answered = true
						case f.Type == native.TypeMsg && answered:
							got = append(got, f.Msg.S)
						case f.Type != native.TypeAck:
							t.Fatalf("unexpected frame %s", show(f))
						}
					}
					if fmt.Sprint(got) != fmt.Sprint(tc.want) {
						t.Fatalf("offsets %v, want %v", got, tc.want)
					}
				})
			})
		}
	}
}

// slowReads is a log whose reads take a moment.
type slowReads struct {
	server.Log
	reads atomic.Int64
}

func (l *slowReads) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	<-time.After(time.Millisecond)
	l.reads.Add(1)
	return l.Log.Read(from, dst)
}

// WELCOME does not wait for what a subscription must search for in the log, and
// neither do pings, messages and acks.
func TestSearchesAside(t *testing.T) {
	for _, from := range []native.From{native.FromLast, native.FromFirst} {
		t.Run(fmt.Sprint("from ", from), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := server.NewMemoryLog(server.Retention{Count: -1, Bytes: -1})
				log := &slowReads{Log: store}
				r := newRig(t, &server.Options{Log: log})
				for i := range 100_000 {
					store.Append(context.Background(), server.Entry{ID: idOf(uint64(i + 1)), Topic: "loud"})
				}
				log.reads.Store(0)
				began := time.Now()
				within := func(what string, limit time.Duration) {
					t.Helper()
					if took := time.Since(began); took > limit {
						t.Fatalf("%s after %v, want %v", what, took, limit)
					}
				}
				h := native.Hello{CN: 1}
				const topics = 250
				for i := range uint64(topics) {
					h.Subs = append(h.Subs, *sub(i+1, fmt.Sprint("quiet/", i), from, 10).Sub)
				}
				c := r.connect(native.Binary)
				c.hello(h)
				within("WELCOME", time.Millisecond)
				for log.reads.Load() == 0 {
					time.Sleep(time.Millisecond) // until the searches have begun
				}
				began = time.Now()
				c.send(sub(999, "live", native.FromNew, 10), msg(1, idOf(1<<40), "live", "x"), native.Frame{Type: native.TypePing, N: 5})
				live := 0
				for pong, acked, delivered := false, false, false; !pong || !acked || !delivered; {
					f, err := c.read()
					if err != nil {
						t.Fatal(err)
					}
					pong = pong || f.Type == native.TypePong
					acked = acked || f.Type == native.TypeAck
					delivered = delivered || f.Type == native.TypeMsg && f.Msg.Ch == 999
					if f.Type == native.TypeSubOK && f.SubOK.Ch != 999 {
						live++
					}
				}
				if from == native.FromLast {
					within("pong, ack and message", 100*time.Millisecond)
				} else {
					within("pong, ack and message", 3*time.Second) // each subscription has its turn, of 10 ms
				}
				for live < topics {
					c.next(native.TypeSubOK)
					live++
				}
				within("the last subscription", 10*time.Second)
				if log.reads.Load() == 0 {
					t.Fatal("nothing was searched")
				}
			})
		})
	}
}

// Subscriptions with much to send take turns, also when each batch is full before the
// second one gets its turn.
func TestTurns(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		const topics, each = 3, 200
		for i := range topics * each {
			if _, err := r.srv.Publish(context.Background(), fmt.Sprint("t", i%topics), make([]byte, 4<<10), nil); err != nil {
				t.Fatal(err)
			}
		}
		c := r.connect(enc)
		var subs []native.Sub
		for i := range topics {
			subs = append(subs, native.Sub{Ch: uint64(i + 1), Topic: fmt.Sprint("t", i), From: native.FromFirst, Cr: native.Credit{N: 1000, B: 1 << 30}})
		}
		c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1, Subs: subs}})
		var got [topics + 1]int
		for n := 0; n < topics*each; {
			f, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			if f.Type != native.TypeMsg {
				continue
			}
			got[f.Msg.Ch]++
			n++
			if ahead := slices.Max(got[1:]) - slices.Min(got[1:]); ahead > 2*64 {
				t.Fatalf("after %d messages the subscriptions have %v", n, got[1:])
			}
		}
	})
}
