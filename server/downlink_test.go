package server_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

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
			{0, 0, 0}, {0, 1000, 0}, {3, 0, 3}, {2, 10, 3}, {10, 999, 10}, {200, 999, 40},
		} {
			c.send(credit(1, step.n, step.b))
			drain()
			if sent.N != step.want {
				t.Fatalf("%d messages after credit %d, %d; want %d", sent.N, step.n, step.b, step.want)
			}
		}
		if others != 40 {
			t.Errorf("the other subscription got %d of 40", others)
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

// A stopped consumer: nothing is buffered, retention passes, and when it comes
// back it is told once what is missing.
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

// A quiet topic is not told that messages of others have gone.
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

// TestChains compares the p chain of many subscriptions with a naive model:
// what matches the pattern, in the order of the log.
func TestChains(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	level := func(wild bool) string {
		if wild && rng.IntN(3) == 0 {
			return "*"
		}
		return string(rune('a' + rng.IntN(2)))
	}
	topic := func(wild bool) string {
		s := level(wild)
		for range rng.IntN(3) {
			s += "/" + level(wild)
		}
		if wild && rng.IntN(4) == 0 {
			s += "/**"
		}
		return s
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		type entry struct {
			offset uint64
			topic  string
		}
		var all []entry
		publish := func(n int) {
			for range n {
				e := entry{topic: topic(false)}
				var err error
				if e.offset, err = r.srv.Publish(context.Background(), e.topic, []byte(e.topic), nil); err != nil {
					t.Fatal(err)
				}
				all = append(all, e)
			}
		}
		publish(150)
		c := r.connect(native.Binary)
		c.hello(native.Hello{CN: 1})
		type chain struct {
			pattern string
			start   uint64
			last    uint64
			got     []uint64
			credit  uint64
		}
		chains := map[uint64]*chain{}
		for ch := uint64(1); ch <= 40; ch++ {
			p := topic(true)
			from := []native.From{native.FromFirst, native.FromNew}[rng.IntN(2)]
			chains[ch] = &chain{pattern: p, credit: uint64(1 + rng.IntN(20))}
			c.send(sub(ch, p, from, chains[ch].credit))
		}
		take := func() {
			synctest.Wait()
			c.send(native.Frame{Type: native.TypePing})
			for {
				f, err := c.read()
				if err != nil {
					t.Fatal(err)
				}
				switch f.Type {
				case native.TypePong:
					return
				case native.TypeSubOK:
					chains[f.SubOK.Ch].start, chains[f.SubOK.Ch].last = f.SubOK.O, f.SubOK.O
				case native.TypeMsg:
					ch := chains[f.Msg.Ch]
					if f.Msg.P != ch.last || f.Msg.S <= ch.last {
						t.Fatalf("%s: message %d after %d, last was %d", ch.pattern, f.Msg.S, f.Msg.P, ch.last)
					}
					if want := all[f.Msg.S-1].topic; string(f.Msg.Payload) != want || f.Msg.Topic != "" && f.Msg.Topic != want {
						t.Fatalf("message %d is of %q, want %q", f.Msg.S, f.Msg.Payload, want)
					}
					ch.last = f.Msg.S
					ch.got = append(ch.got, f.Msg.S)
					if uint64(len(ch.got)) > ch.credit {
						t.Fatalf("%s: %d messages with credit for %d", ch.pattern, len(ch.got), ch.credit)
					}
				default:
					t.Fatal(show(f))
				}
			}
		}
		for range 30 {
			take()
			publish(rng.IntN(30))
			for ch, c2 := range chains {
				if rng.IntN(2) == 0 {
					c2.credit += uint64(rng.IntN(30))
					c.send(credit(ch, c2.credit, 1<<40))
				}
			}
		}
		for ch, c2 := range chains {
			c2.credit = 1 << 30
			c.send(credit(ch, c2.credit, 1<<40))
		}
		take()
		for _, ch := range chains {
			var want []uint64
			for _, e := range all {
				if e.offset > ch.start && native.Match(ch.pattern, e.topic) {
					want = append(want, e.offset)
				}
			}
			if !slices.Equal(ch.got, want) {
				t.Errorf("%s: got %v, want %v", ch.pattern, ch.got, want)
			}
		}
	})
}

// TestBatches: small messages share a WebSocket message of 64 KiB at most, and a
// bigger one travels alone, whole.
func TestBatches(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		sizes := []int{0}
		for i := range 400 {
			sizes = append(sizes, 1000+i)
		}
		sizes = append(sizes, 200_000, 40_000, 40_000, 256<<10, 10)
		for i, n := range sizes {
			payload := bytes.Repeat([]byte{byte(i)}, n)
			if _, err := r.srv.Publish(context.Background(), "t", payload, nil); err != nil {
				t.Fatal(err)
			}
		}
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromFirst, 1<<20))
		batches := 0
		for got := 0; got < len(sizes); {
			_, data, err := c.ws.Read(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			frames, err := native.Decode(nil, enc, native.FromServer, data, native.DefaultLimits)
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) > 1 && len(data) > 64<<10 {
				t.Fatalf("a batch of %d frames has %d bytes", len(frames), len(data))
			}
			batches++
			for _, f := range frames {
				if f.Type != native.TypeMsg {
					continue
				}
				if !bytes.Equal(f.Msg.Payload, bytes.Repeat([]byte{byte(got)}, sizes[got])) {
					t.Fatalf("payload %d is damaged", got)
				}
				got++
			}
		}
		if batches > 30 {
			t.Errorf("%d batches for %d messages", batches, len(sizes))
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
