package test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

var sharingSeed = flag.Uint64("sharing.seed", 0, "the seed of TestSharingAtRandom; 0: several")

// crier is a server with one topic, "a". It counts, subscribed or not, and sends each number to
// each connection that is subscribed.
type crier struct {
	t        *testing.T
	srv      *toyServer
	numbered bool

	mu       sync.Mutex
	n        int
	lines    map[int]*cryLine // by connection
	answers  time.Duration    // how long an answer takes
	asked    int
	ended    int
	arrivals []arrival // of messages, as the client has read them
}

type cryLine struct {
	say        func(string)
	subscribed bool
}

type arrival struct {
	n  int
	at time.Time
}

func newCrier(t *testing.T, numbered bool) *crier {
	s := &crier{t: t, numbered: numbered, lines: map[int]*cryLine{}}
	s.srv = newToyServer(t, s.talk)
	return s
}

func (s *crier) talk(conn int, say func(string), hear func() string) {
	line := &cryLine{say: say}
	s.mu.Lock()
	s.lines[conn] = line
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.lines, conn)
		s.mu.Unlock()
	}()
	for {
		switch hear() {
		case "":
			return
		case "subscribe a":
			<-time.After(s.delay())
			s.mu.Lock()
			s.asked++
			if line.subscribed {
				s.t.Error("the server was asked for a topic that it serves")
			}
			line.subscribed = true
			s.mu.Unlock()
			say(eventText(wire.Event{Kind: wire.EventSubscribed, Name: "a", Continuity: wire.ContinuityByNumber}))
		case "unsubscribe a":
			s.mu.Lock()
			s.ended++
			line.subscribed = false
			s.mu.Unlock()
			<-time.After(s.delay())
			say(eventText(wire.Event{Kind: wire.EventUnsubscribed, Name: "a"}))
		}
	}
}

func (s *crier) delay() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers
}

// ends is how many ends the server has heard.
func (s *crier) ends() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// cry sends the next number.
func (s *crier) cry() {
	s.mu.Lock()
	s.n++
	e := wire.Event{Kind: wire.EventData, Name: "a", Message: wire.Message{Payload: strconv.AppendInt(nil, int64(s.n), 10)}}
	if s.numbered {
		e.Numbered, e.Position.Offset, e.Prev = true, uint64(s.n), uint64(s.n-1)
	}
	var says []func(string)
	for _, line := range s.lines {
		if line.subscribed {
			says = append(says, line.say)
		}
	}
	s.mu.Unlock()
	for _, say := range says {
		say(eventText(e))
	}
}

// each says something on each connection that is subscribed.
func (s *crier) each(ends bool, e wire.Event) {
	s.mu.Lock()
	var says []func(string)
	for _, line := range s.lines {
		if line.subscribed {
			line.subscribed = !ends
			says = append(says, line.say)
		}
	}
	s.mu.Unlock()
	for _, say := range says {
		say(eventText(e))
	}
}

// heard is a dialect that notes when messages arrive.
type heard struct {
	flexDialect
	s *crier
}

func (d heard) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.flexDialect.Open(r)
	return heardCodec{c, d.s}, err
}

type heardCodec struct {
	wire.Codec
	s *crier
}

func (c heardCodec) Decode(f wire.Frame, out *wire.Events) error {
	before := len(out.List)
	err := c.Codec.Decode(f, out)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, e := range out.List[before:] {
		if e.Kind == wire.EventData {
			n, _ := strconv.Atoi(string(e.Message.Payload))
			c.s.arrivals = append(c.s.arrivals, arrival{n, time.Now()})
		}
	}
	return err
}

func (s *crier) client(t *testing.T, o limpet.Options) *limpet.Client {
	o.HTTPClient = s.srv.host.HTTPClient()
	o.Dialect = heard{flexDialect{traits: wire.Traits{Confirms: true, ConfirmsEnd: true, Unsubscribe: true}}, s}
	c, err := limpet.New(s.srv.host.URL(), options(&o))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// member is one of those that share the topic.
type member struct {
	name   string
	sub    *limpet.Subscription
	small  bool // it drops
	joined time.Time
	live   time.Time // when it was first seen live; zero: never
	left   time.Time

	mu  sync.Mutex
	got []int // 0: a loss
}

func (m *member) consume(t *testing.T, pause func() time.Duration) {
	for msg, err := range m.sub.Messages(t.Context()) {
		if err != nil {
			return
		}
		m.mu.Lock()
		if msg.Loss != nil {
			m.got = append(m.got, 0)
		} else {
			n, err := strconv.Atoi(string(msg.Payload))
			if err != nil {
				t.Errorf("%s: a payload was changed: %q", m.name, msg.Payload)
			}
			m.got = append(m.got, n)
			clear(msg.Payload) // it is its own
		}
		m.mu.Unlock()
		if d := pause(); d > 0 { // timers of 0 make the race detector crash: go.dev/issue/78156
			<-time.After(d)
		}
	}
}

// check is the oracle: what m got rises, each hole has a loss in its place, it is what arrived
// while m was a member and, if m does not drop, all of it since m was live.
func (m *member) check(t *testing.T, arrivals []arrival) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := map[int]time.Time{}
	for _, a := range arrivals {
		if first[a.n].IsZero() {
			first[a.n] = a.at
		}
	}
	last, lost := 0, false
	for _, n := range m.got {
		switch {
		case n == 0:
			lost = true
			continue
		case n <= last:
			t.Errorf("%s: %d follows %d: %v", m.name, n, last, m.got)
		case last > 0 && n > last+1 && !lost:
			t.Errorf("%s: %d follows %d without a loss: %v", m.name, n, last, m.got)
		case first[n].Before(m.joined) || first[n].After(m.left):
			t.Errorf("%s: it got %d, which arrived %v after it had joined, and it left after %v", m.name, n, first[n].Sub(m.joined), m.left.Sub(m.joined))
		}
		last, lost = n, false
	}
	if m.small || m.live.IsZero() {
		return
	}
	for n, at := range first {
		// Close also drops what came over the next connection and waited for the one before it.
		until := m.left
		if n > last {
			until = until.Add(-4 * time.Second)
		}
		if at.After(m.live) && at.Before(until) && !slices.Contains(m.got, n) {
			t.Errorf("%s: it lacks %d, which arrived %v after it was live, and it left after %v: %v", m.name, n, at.Sub(m.live), m.left.Sub(m.live), m.got)
		}
	}
}

// Members join and leave, do not consume, drop, and lose their connection, or it is replaced: each
// has what arrived while it was a member, in order, or a loss in its place.
func TestSharingAtRandom(t *testing.T) {
	seeds := []uint64{*sharingSeed}
	if *sharingSeed == 0 {
		seeds = nil
		for range 40 {
			seeds = append(seeds, rand.Uint64())
		}
	}
	for i, seed := range seeds {
		t.Run(fmt.Sprintf("sharing.seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { shareAtRandom(t, seed, seed%2 == 0) })
		})
		if t.Failed() && i > 3 {
			return
		}
	}
}

func shareAtRandom(t *testing.T, seed uint64, numbered bool) {
	r := rand.New(rand.NewPCG(seed, 1))
	var all, open []*member
	s := newCrier(t, numbered)
	c := s.client(t, limpet.Options{})
	assert.NoError(t, c.WaitReady(t.Context()))
	look := func() {
		synctest.Wait()
		for _, m := range open {
			if m.live.IsZero() && m.sub.State().Phase == limpet.SubLive {
				m.live = time.Now()
			}
		}
	}
	leave := func(i int) {
		m := open[i]
		for synctest.Wait(); !m.small && m.sub.Stats().Waiting > 0; synctest.Wait() {
			time.Sleep(time.Millisecond) // Close drops what waits
		}
		m.left = time.Now()
		assert.NoError(t, m.sub.Close())
		open = slices.Delete(open, i, i+1)
	}
	for range 120 {
		switch k := r.IntN(20); {
		case k < 3 && len(open) < 5:
			m := &member{name: fmt.Sprint("member ", len(all)+1), small: r.IntN(3) == 0, joined: time.Now()}
			o := &limpet.SubscribeOptions{Lend: !m.small && r.IntN(3) == 0}
			if m.small {
				o.Delivery = limpet.Delivery{Buffer: 1 + r.IntN(4), Overflow: []limpet.Overflow{limpet.DropOldest, limpet.DropNewest}[r.IntN(2)]}
			}
			var err error
			m.sub, err = c.Subscribe(t.Context(), "a", o)
			assert.NoError(t, err)
			all, open = append(all, m), append(open, m)
			slow := time.Duration(0)
			if m.small {
				slow = time.Duration(r.IntN(3)) * 20 * time.Millisecond
			}
			if !m.small || r.IntN(3) > 0 { // otherwise nothing takes what waits
				go m.consume(t, func() time.Duration { return slow })
			}
		case k < 5 && len(open) > 0:
			leave(r.IntN(len(open)))
		case k == 5:
			s.srv.host.Network.CutAll()
		case k == 6:
			s.cry() // or the client gives up a server that ends the topic again and again
			synctest.Wait()
			s.each(true, wire.Event{Kind: wire.EventUnsubscribed, Name: "a"})
		case k == 7 && numbered:
			s.each(false, wire.Event{Kind: wire.EventGoAway})
		case k == 8:
			s.mu.Lock()
			s.answers = time.Duration(r.IntN(30)) * 10 * time.Millisecond
			s.mu.Unlock()
		case k == 9:
			time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
		default:
			for range 1 + r.IntN(5) {
				s.cry()
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
				look()
			}
		}
		look()
	}
	time.Sleep(time.Minute) // everything has settled
	look()
	s.cry()
	look()
	for _, m := range open {
		m.mu.Lock()
		if st := m.sub.State(); st.Phase != limpet.SubLive || m.sub.Stats().Received == 0 || !m.small && !slices.Contains(m.got, s.n) {
			t.Errorf("%s is mute: %+v, %+v", m.name, st, m.sub.Stats())
		}
		m.mu.Unlock()
	}
	for len(open) > 0 {
		before := s.ends()
		leave(0)
		time.Sleep(time.Second)
		if n := s.ends() - before; (n == 1) != (len(open) == 0) || n > 1 {
			t.Errorf("%d are left, and the server heard %d ends", len(open), n)
		}
	}
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range all {
		m.check(t, s.arrivals)
	}
	got, lost := 0, 0
	for _, m := range all {
		for _, n := range m.got {
			if got++; n == 0 {
				lost++
			}
		}
	}
	t.Logf("-sharing.seed=%d: %d members, %d arrivals, %d messages and %d losses, %d requests, %d ends, %d connections", seed, len(all), len(s.arrivals), got, lost, s.asked, s.ended, c.Stats().Connections)
}
