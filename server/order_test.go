package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
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

// A connection that was being upgraded when Shutdown began is asked to leave as the
// others are; Close breaks it.
func TestEndDuringUpgrade(t *testing.T) {
	for _, broken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			begun, proceed := make(chan struct{}, 1), make(chan struct{})
			r := newRigBehind(t, nil, wrapping(func(w http.ResponseWriter) http.ResponseWriter { return slowHijacker{w, begun, proceed} }))
			connected := make(chan *client)
			go func() { connected <- r.connect(native.JSON) }()
			<-begun
			ended := make(chan error)
			go func() {
				if broken {
					ended <- r.srv.Close()
					return
				}
				ended <- r.srv.Shutdown(context.Background())
			}()
			synctest.Wait()
			close(proceed)
			want := native.CloseGoingAway
			if broken {
				want = -1
			}
			if code, _ := (<-connected).closed(); code != want {
				t.Errorf("broken %v: closed with %d, want %d", broken, code, want)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// slowHijacker announces a Hijack and waits before it does it.
type slowHijacker struct {
	http.ResponseWriter
	begun   chan<- struct{}
	proceed <-chan struct{}
}

func (w slowHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.begun <- struct{}{}
	<-w.proceed
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// A client that gives up messages keeps the outcomes of those behind them.
func TestGivenUpKeepsWhatIsBehind(t *testing.T) {
	for name, tc := range map[string]struct {
		lo, ack uint64
		sack    []wire.Range
		then    uint64 // the ack of the next message
	}{
		"before the first range": {5, 6, []wire.Range{{Lo: 9, Hi: 9}}, 7},
		"up to the second":       {9, 9, nil, 10},
		"between the ranges":     {8, 7, []wire.Range{{Lo: 9, Hi: 9}}, 9},
		"all":                    {12, 11, nil, 12},
	} {
		t.Run(name, func(t *testing.T) {
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
				w = c.hello(resume(w, 2, tc.lo, 12))
				if w.Ack != tc.ack || !slices.Equal(w.Sack, tc.sack) {
					t.Errorf("welcome ack %d sack %v, want %d and %v", w.Ack, w.Sack, tc.ack, tc.sack)
				}
				c.send(msg(w.Ack+1, idOf(w.Ack+1), "t", "x"))
				c.acked(tc.then)
			})
		})
	}
}

// A connection that is superseded while a hook runs counts as one that was alive: its
// client answers the close frame.
func TestConflictDuringHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			time.Sleep(time.Second)
			return nil
		}}})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); cn <= 4; cn++ {
			before := c
			before.send(msg(1, idOf(cn), "t", "x"))
			synctest.Wait()
			c = r.connect(native.JSON)
			w = c.hello(resume(w, cn, 1, 1))
			before.wantClose(native.CloseSuperseded)
			time.Sleep(2 * time.Second)
		}
		late := r.connect(native.JSON)
		h := resume(w, 5, 1, 1)
		late.send(native.Frame{Type: native.TypeHello, Hello: &h})
		late.wantClose(native.CloseSessionConflict)
	})
}
