package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// fanoutModel drives a server at random and compares what each subscription got with a plain
// scan of all that was published.
type fanoutModel struct {
	t     *testing.T
	rnd   *rand.Rand
	rig   *rig
	store *server.MemoryStore
	calm  bool     // everything that was asked for and published is done before more is published at once
	log   []string // topics; the first one has the offset 1
	conns []*modelConn
}

type modelConn struct {
	c    *client
	next uint64 // channel
	subs map[uint64]*modelSub
	done chan struct{}

	mu     sync.Mutex
	frames []native.Frame
	pongs  uint64
}

type modelSub struct {
	pattern string
	from    native.From
	credit  uint64
	ended   bool // the client has unsubscribed
}

var (
	modelTopics   = []string{"a", "b", "a/x", "a/y", "b/x", "c/x/y"}
	modelPatterns = []string{"a", "b", "*", "a/x", "a/*", "*/x", "**", "a/**", "c/**", "*/*/y", "none", "none/*"}
)

func (m *fanoutModel) connect() {
	enc := []native.Encoding{native.JSON, native.Binary}[m.rnd.IntN(2)]
	mc := &modelConn{c: m.rig.connect(enc), subs: map[uint64]*modelSub{}, done: make(chan struct{})}
	mc.c.hello(native.Hello{CN: 1})
	m.conns = append(m.conns, mc)
	go func() {
		defer close(mc.done)
		for {
			_, data, err := mc.c.ws.Read(context.Background())
			if err != nil {
				return
			}
			frames, err := native.Decode(nil, enc, native.FromServer, data, native.DefaultLimits)
			if err != nil {
				m.t.Error(err)
				return
			}
			mc.mu.Lock()
			for _, f := range frames {
				if f.Type == native.TypePong {
					mc.pongs = f.N
				}
			}
			mc.frames = append(mc.frames, frames...)
			mc.mu.Unlock()
		}
	}()
}

// subscribe begins anywhere: at the end, at the beginning, or at an entry that the log holds.
func (m *fanoutModel) subscribe(mc *modelConn) {
	mc.next++
	v := m.store.View()
	s := &modelSub{pattern: modelPatterns[m.rnd.IntN(len(modelPatterns))], credit: uint64(m.rnd.IntN(3) * m.rnd.IntN(20))}
	q := sub(mc.next, s.pattern, native.FromNew, s.credit)
	switch m.rnd.IntN(4) {
	case 0:
		q.Sub.From = native.FromFirst
	case 1:
		q.Sub.From, q.Sub.N = native.FromLast, uint64(1+m.rnd.IntN(5))
	case 2:
		if v.Head >= v.First {
			o := v.First + m.rnd.Uint64N(v.Head-v.First+1)
			id := idOf(o)
			q.Sub.From, q.Sub.Epoch, q.Sub.O, q.Sub.Tag = native.FromResume, v.Epoch, o, id[:]
		}
	}
	s.from = q.Sub.From
	mc.subs[mc.next] = s
	mc.c.send(q)
}

func (m *fanoutModel) publish(n int) {
	if m.calm {
		synctest.Wait()
	}
	for range n {
		topic := modelTopics[m.rnd.IntN(len(modelTopics))]
		m.log = append(m.log, topic)
		o := uint64(len(m.log))
		if got, err := m.rig.srv.Publish(context.Background(), topic, []byte("1"), &server.PublishOptions{ID: idOf(o)}); got != o || err != nil {
			m.t.Fatalf("offset %d, want %d: %v", got, o, err)
		}
	}
	if m.calm {
		synctest.Wait()
	}
}

func (m *fanoutModel) step() {
	mc := m.conns[m.rnd.IntN(len(m.conns))]
	ch := 1 + m.rnd.Uint64N(mc.next+1)
	s := mc.subs[ch]
	switch m.rnd.IntN(10) {
	case 0, 1:
		m.subscribe(mc)
	case 2, 3:
		if s != nil {
			s.credit += uint64(m.rnd.IntN(30))
			mc.c.send(credit(ch, s.credit, 1<<30))
		}
	case 4:
		if s != nil {
			s.ended = true
			mc.c.send(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: ch}})
		}
	case 5:
		synctest.Wait()
	case 6:
		<-time.After(time.Millisecond)
	default:
		m.publish(1 + m.rnd.IntN(8))
	}
}

// end grants all credit, and waits until the server has nothing to send.
func (m *fanoutModel) end() {
	for _, mc := range m.conns {
		for ch := range mc.subs {
			mc.c.send(credit(ch, 1<<40, 1<<50))
		}
		synctest.Wait()
		mc.c.send(native.Frame{Type: native.TypePing, N: 99})
		synctest.Wait()
		mc.c.ws.CloseNow()
		<-mc.done
		if mc.pongs != 99 {
			m.t.Error("a connection has ended")
		}
	}
}

// check compares the frames of one subscription with the log.
func (m *fanoutModel) check(ch uint64, s *modelSub, frames []native.Frame) error {
	at, begun, fresh := uint64(0), false, false
	missing := func(to uint64) bool { // whether an entry behind at, up to to, matches
		return slices.ContainsFunc(m.log[at:to], func(topic string) bool { return native.Match(s.pattern, topic) })
	}
	for _, f := range frames {
		switch {
		case f.Type == native.TypeSubOK && f.SubOK.Ch == ch:
			at, begun, fresh = f.SubOK.O, true, true
		case f.Type == native.TypeReset && f.Reset.Ch == ch:
			at, begun, fresh = f.Reset.O, true, true
		case f.Type == native.TypeMsg && f.Msg.Ch == ch:
			o := f.Msg.S
			switch {
			case !begun || f.Msg.P != at || o <= at:
				return fmt.Errorf("message %d behind %d, the position is %d", o, f.Msg.P, at)
			case !native.Match(s.pattern, m.log[o-1]) || f.Msg.ID != idOf(o):
				return fmt.Errorf("message %d of %s with id %x", o, m.log[o-1], f.Msg.ID)
			case missing(o - 1):
				return fmt.Errorf("something is missing between %d and %d", at, o)
			}
			at, fresh = o, false
		case f.Type == native.TypeGap && f.Gap.Ch == ch:
			if !begun || f.Gap.P != at || f.Gap.To <= at {
				return fmt.Errorf("gap from %d to %d, the position is %d", f.Gap.P, f.Gap.To, at)
			}
			if m.calm && !fresh && !missing(f.Gap.To) {
				return fmt.Errorf("gap from %d to %d, where nothing matches", at, f.Gap.To)
			}
			at = f.Gap.To
		}
	}
	if !s.ended && (!begun || missing(uint64(len(m.log)))) {
		return fmt.Errorf("it ends at %d of %d (begun: %v)", at, len(m.log), begun)
	}
	return nil
}

// TestFanoutAgainstAScan: every subscription gets what a plain scan of the log finds, in its
// order and with its positions, whatever the feeds and the log still hold.
func TestFanoutAgainstAScan(t *testing.T) {
	first, seeds := rand.Uint64N(1<<40), uint64(60)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { scanModel(t, seed) }) })
	}
}

func scanModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 35))
	m := &fanoutModel{t: t, rnd: rnd, calm: seed%2 == 0}
	m.store = memoryStore(server.Retention{Count: []int{30, 100, 10_000}[rnd.IntN(3)]})
	m.rig = newRig(t, &server.Options{Store: &shortStore{m.store, []int{1, 2, 7, 10_000}[rnd.IntN(4)]}})
	m.rig.srv.LimitFeeds([]int{0, 1, 5, 40, 10_000}[rnd.IntN(5)], 1<<20)
	for range 1 + rnd.IntN(4) {
		m.connect()
	}
	for range 150 {
		m.step()
	}
	m.end()
	for i, mc := range m.conns {
		for ch, s := range mc.subs {
			if err := m.check(ch, s, mc.frames); err != nil {
				t.Errorf("connection %d, channel %d (%s, from %v): %v", i, ch, s.pattern, s.from, err)
			}
		}
	}
}
