package server_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// rewindable is a log that makes no promise about its tail.
type rewindable struct{ *server.MemoryLog }

func (l rewindable) View() server.View {
	v := l.MemoryLog.View()
	v.NoRewind = false
	return v
}

// TestResumeRule is the resume rule of docs/protocol.md, section 4, row by row,
// on a log that holds 4 to 10.
func TestResumeRule(t *testing.T) {
	id := func(o uint64) []byte { i := idOf(o); return i[:] }
	base := []byte("base")
	cases := []struct {
		name     string
		epoch    string // "": that of the log; "-": none
		o        uint64
		tag      []byte
		noRewind bool
		reset    bool
		why      native.ResetWhy
		gap      bool
		first    uint64 // of the messages that follow
	}{
		{name: "verified", o: 7, tag: id(7), first: 8},
		{name: "verified at the head", o: 10, tag: id(10)},
		{name: "verified at first", o: 4, tag: id(4), first: 5},
		{name: "nothing read yet", o: 0, gap: true, first: 4},
		{name: "nothing read yet, no rewind", o: 0, noRewind: true, gap: true, first: 4},
		{name: "base tag just below first", o: 3, tag: base, first: 4},
		{name: "base tag further below", o: 1, tag: base, gap: true, first: 4},
		{name: "base tag in range", o: 6, tag: base, first: 7},
		{name: "base tag ahead", o: 11, tag: base, reset: true, why: native.ResetAhead, first: 4},
		{name: "other tag", o: 7, tag: id(6), reset: true, why: native.ResetDiverged, first: 4},
		{name: "no tag", o: 7, reset: true, why: native.ResetUnverifiable, first: 4},
		{name: "other tag, no rewind", o: 7, tag: id(6), noRewind: true, reset: true, why: native.ResetDiverged, first: 4},
		{name: "ahead", o: 11, tag: id(11), reset: true, why: native.ResetAhead, first: 4},
		{name: "ahead, no rewind", o: 11, tag: id(11), noRewind: true, reset: true, why: native.ResetAhead, first: 4},
		{name: "trimmed", o: 2, tag: id(2), reset: true, why: native.ResetUnverifiable, first: 4},
		{name: "trimmed, just below first", o: 3, tag: id(3), reset: true, why: native.ResetUnverifiable, first: 4},
		{name: "trimmed, no rewind", o: 2, tag: id(2), noRewind: true, gap: true, first: 4},
		{name: "trimmed, just below first, no rewind", o: 3, tag: id(3), noRewind: true, first: 4},
		{name: "other epoch", epoch: "e2", o: 7, tag: id(7), noRewind: true, reset: true, why: native.ResetEpoch, first: 4},
		{name: "other epoch at 0", epoch: "e2", o: 0, noRewind: true, reset: true, why: native.ResetEpoch, first: 4},
		{name: "no epoch", epoch: "-", o: 0, noRewind: true, reset: true, why: native.ResetEpoch, first: 4},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				mem := server.NewMemoryLog(server.Retention{Count: 7})
				var log server.Log = rewindable{mem}
				if tc.noRewind {
					log = mem
				}
				r := newRig(t, &server.Options{Log: log})
				for o := uint64(1); o <= 10; o++ {
					r.srv.Publish(context.Background(), "t", []byte("x"), &server.PublishOptions{ID: idOf(o)})
				}
				v := log.View()
				q := native.Sub{Ch: 1, Topic: "t", From: native.FromResume, Epoch: tc.epoch, O: tc.o, Tag: tc.tag, Cr: native.Credit{N: 99, B: 99}}
				switch tc.epoch {
				case "":
					q.Epoch = v.Epoch
				case "-":
					q.Epoch = ""
				}
				if bytes.Equal(tc.tag, base) {
					q.Tag = v.Base
				}
				c := r.connect(enc)
				c.hello(native.Hello{CN: 1, Subs: []native.Sub{q}})
				last := tc.o
				if tc.reset {
					got := c.next(native.TypeReset).Reset
					if got.Ch != 1 || got.Epoch != v.Epoch || got.O != v.First-1 || got.Why != tc.why || !bytes.Equal(got.Tag, v.Base) {
						t.Fatalf("reset %+v", got)
					}
					last = got.O
				} else if ok := c.next(native.TypeSubOK).SubOK; ok.Ch != 1 || ok.Epoch != v.Epoch || ok.O != tc.o || !ok.Rec || ok.Head != 10 {
					t.Fatalf("subok %+v", ok)
				}
				if tc.gap {
					g := c.next(native.TypeGap).Gap
					if g.Ch != 1 || g.P != tc.o || g.To != v.First-1 || !bytes.Equal(g.Tag, v.Base) {
						t.Fatalf("gap %+v", g)
					}
					last = g.To
				}
				for want := tc.first; want != 0 && want <= 10; want++ {
					m := c.next(native.TypeMsg).Msg
					if m.S != want || m.P != last {
						t.Fatalf("message %d after %d, want %d after %d", m.S, m.P, want, last)
					}
					last = m.S
				}
				r.srv.Publish(context.Background(), "t", []byte("x"), nil)
				if m := c.next(native.TypeMsg).Msg; m.S != 11 || m.P != last {
					t.Fatalf("message %d after %d, want 11 after %d", m.S, m.P, last)
				}
				one := map[bool]uint64{true: 1}
				if st := r.srv.Stats(); st.Resets != one[tc.reset] || st.Gaps != one[tc.gap] {
					t.Errorf("%d resets, %d gaps", st.Resets, st.Gaps)
				}
			})
		})
	}
}

func TestFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for o := uint64(1); o <= 600; o++ {
			r.srv.Publish(context.Background(), fmt.Sprintf("t/%d", o%3), []byte("x"), nil)
		}
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		cases := []struct {
			topic string
			from  native.From
			n     uint64
			want  uint64 // first message; 0: none until the next is published
		}{
			{"t/1", native.FromFirst, 0, 1},
			{"t/2", native.FromFirst, 0, 2},
			{"t/1", native.FromNew, 0, 0},
			{"t/0", native.FromLast, 0, 600},
			{"t/1", native.FromLast, 0, 598},
			{"t/1", native.FromLast, 2, 595},
			{"t/1", native.FromLast, 150, 151},
			{"t/1", native.FromLast, 1 << 40, 1},
			{"**", native.FromLast, 3, 598},
			{"nothing", native.FromLast, 1, 0},
		}
		for i, tc := range cases {
			f := sub(uint64(i+1), tc.topic, tc.from, 1)
			f.Sub.N = tc.n
			c.send(f)
			ok := c.next(native.TypeSubOK).SubOK
			if ok.Rec || ok.Head != 600 {
				t.Fatalf("%+v: subok %+v", tc, ok)
			}
			if tc.want == 0 {
				if ok.O != 600 {
					t.Fatalf("%+v: starts after %d", tc, ok.O)
				}
				continue
			}
			if m := c.next(native.TypeMsg).Msg; m.S != tc.want || m.P != ok.O || ok.O >= m.S {
				t.Fatalf("%+v: message %d after %d, starts after %d", tc, m.S, m.P, ok.O)
			}
		}
	})
}

// swapped is a log that is replaced while subscriptions read it.
type swapped struct {
	server.Log
	later server.Log
	epoch chan struct{} // closed: later
}

func (l *swapped) now() server.Log {
	select {
	case <-l.epoch:
		return l.later
	default:
		return l.Log
	}
}
func (l *swapped) View() server.View { return l.now().View() }
func (l *swapped) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	return l.now().Read(from, dst)
}
func (l *swapped) Tag(o uint64) ([]byte, bool) { return l.now().Tag(o) }

func TestEpochChangesLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &swapped{Log: server.NewMemoryLog(server.Retention{}), later: server.NewMemoryLog(server.Retention{}), epoch: make(chan struct{})}
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromNew, 10))
		c.next(native.TypeSubOK)
		for range 3 {
			r.srv.Publish(context.Background(), "t", nil, nil)
			c.next(native.TypeMsg)
		}
		log.later.Append(context.Background(), server.Entry{ID: idOf(1), Topic: "t"})
		close(log.epoch)
		log.Log.Append(context.Background(), server.Entry{ID: idOf(2), Topic: "t"}) // wakes
		if f := c.next(native.TypeReset).Reset; f.Epoch != log.later.View().Epoch || f.O != 0 || f.Why != native.ResetEpoch {
			t.Fatalf("reset %+v", f)
		}
		if m := c.next(native.TypeMsg).Msg; m.S != 1 || m.P != 0 || m.ID != idOf(1) {
			t.Fatalf("msg %+v", m)
		}
	})
}
