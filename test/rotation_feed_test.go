package test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// Make before break, with 1,000 numbered messages a second around each rotation.

// ticks is a feed with numbers. Its subscriptions are confirmed and do not resume.
func ticks() feed.Table {
	return feed.Table{
		Name:      "ticks",
		Subscribe: feed.Request{JSON: `{"op":"sub","p":"$product"}`},
		Type:      "t", Product: "p", Ping: wire.PingNone,
		Channels: []feed.Channel{{Name: "all", Types: []string{"x"}, Number: "n"}},
		Confirm:  feed.Confirm{Type: "ok", Channel: "ch", Products: "p"},
		GoAway:   "move",
	}
}

// ticker sends each message to every connection that has asked for it.
type ticker struct {
	host *limpettest.Host

	mu       sync.Mutex
	n        int // of the last message
	dials    int
	fast     bool
	paused   bool
	ended    bool
	bare     bool // its clients do not know the numbers
	conns    map[int]*tickConn
	refuse   func(dial int) (status int, hang bool) // of an upgrade; nil: none
	confirms func(dial int) time.Duration           // after which it confirms; below 0: never
	lags     func(dial int) time.Duration
}

type tickConn struct {
	ws    *websocket.Conn
	live  bool
	lag   time.Duration    // of its way to the client
	texts chan delayedText // with lag
}

type delayedText struct {
	at   time.Time
	text string
}

// deliverLate says what is late, in time.
func (c *tickConn) deliverLate() {
	for late := range c.texts {
		time.Sleep(time.Until(late.at))
		c.ws.Write(context.Background(), websocket.MessageText, []byte(late.text))
	}
}

func (c *tickConn) say(text string) {
	if c.lag == 0 {
		c.ws.Write(context.Background(), websocket.MessageText, []byte(text))
		return
	}
	c.texts <- delayedText{time.Now().Add(c.lag), text}
}

func newTicker(t *testing.T) *ticker {
	s := &ticker{conns: map[int]*tickConn{}}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveTicks(w, r) }), nil)
	var producer sync.WaitGroup
	producer.Go(func() { s.produce() })
	t.Cleanup(func() {
		s.set(func() { s.ended = true })
		producer.Wait()
	})
	return s
}

func (s *ticker) serveTicks(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.dials++
	dial := s.dials
	refuse, confirms, lags := s.refuse, s.confirms, s.lags
	s.mu.Unlock()
	if refuse != nil {
		status, hang := refuse(dial)
		if hang {
			<-r.Context().Done()
			return
		}
		if status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	c := &tickConn{ws: ws, texts: make(chan delayedText, 10_000)}
	if lags != nil {
		c.lag = lags(dial)
	}
	var late sync.WaitGroup
	late.Go(func() { c.deliverLate() })
	defer late.Wait()
	defer close(c.texts)
	s.mu.Lock()
	s.conns[dial] = c
	s.mu.Unlock()
	for {
		if _, _, err := ws.Read(context.Background()); err != nil {
			break
		}
		if confirms != nil {
			if d := confirms(dial); d > 0 {
				time.Sleep(d)
			} else if d < 0 {
				continue
			}
		}
		s.mu.Lock()
		c.live = true
		c.say(`{"t":"ok","ch":"all","p":"a"}`)
		s.mu.Unlock()
	}
	s.mu.Lock()
	delete(s.conns, dial)
	s.mu.Unlock()
}

// produce is the producer.
func (s *ticker) produce() {
	for {
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			return
		}
		if !s.paused {
			s.n++
			s.tell(fmt.Sprintf(`{"t":"x","p":"a","n":%d}`, s.n))
		}
		pause := time.Second / 2
		if s.fast {
			pause = time.Millisecond
		}
		s.mu.Unlock()
		time.Sleep(pause)
	}
}

// tell sends text on every live connection; mu is held.
func (s *ticker) tell(text string) {
	for _, c := range s.conns {
		if c.live {
			c.say(text)
		}
	}
}

// move asks every client for a new connection.
func (s *ticker) move() { s.set(func() { s.tell(`{"t":"move"}`) }) }

func (s *ticker) setFast(fast bool) { s.set(func() { s.fast = fast }) }

func (s *ticker) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *ticker) dialled() (n int) {
	s.set(func() { n = s.dials })
	return n
}

func (s *ticker) produced() (n int) {
	s.set(func() { n = s.n })
	return n
}

// client returns a client of s, and the check of its one subscription.
func (s *ticker) client(t *testing.T, o limpet.Options) (*limpet.Client, *inOrder) {
	table := ticks()
	if s.bare {
		table.Channels[0].Number = ""
	}
	d, err := feed.New(table)
	assert.NoError(t, err)
	o.HTTPClient, o.Dialect = s.host.HTTPClient(), d
	c, err := limpet.New(s.host.URL(), options(&o))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c, followNumbers(t, subscribeLive(t, c, "all/a", nil))
}

// inOrder checks that messages are numbered without a hole.
type inOrder struct {
	mu    sync.Mutex
	joins bool // after a Gap or a Reset
	lossy bool // an outage leaves out messages
	last  int
	count int
	at    time.Time // of the last one
	wrong []string
}

func followNumbers(t *testing.T, s *limpet.Subscription) *inOrder {
	f := new(inOrder)
	go func() {
		for m, err := range s.Messages(context.Background()) {
			if err != nil {
				return
			}
			f.take(m)
		}
	}()
	t.Cleanup(func() { f.checkOrder(t) })
	return f
}

func (f *inOrder) take(m limpet.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	text := string(m.Payload)
	if i := strings.Index(text, `"n":`); i >= 0 {
		text = text[i+4:]
	}
	fmt.Sscan(text, &n)
	switch {
	case m.Kind != limpet.Data:
		f.wrong = append(f.wrong, fmt.Sprintf("%v after %d: %+v", m.Kind, f.last, m.Loss))
		f.joins = true
		return
	case f.last != 0 && n != f.last+1 && !f.joins:
		f.wrong = append(f.wrong, fmt.Sprintf("%d after %d", n, f.last))
	}
	f.last, f.at, f.joins = n, time.Now(), false
	f.count++
}

func (f *inOrder) checkOrder(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.wrong) > 0 && !f.lossy {
		t.Errorf("%d messages, of which %d are wrong: %v", f.count, len(f.wrong), f.wrong[:min(len(f.wrong), 5)])
	}
	f.wrong = nil
}

func (f *inOrder) wrongs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wrong)
}

// number returns the last number and since when nothing has come.
func (f *inOrder) number() (int, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, time.Since(f.at)
}

// waitGeneration waits for connection gen.
func waitGeneration(t *testing.T, c *limpet.Client, gen uint64) {
	t.Helper()
	if _, err := c.WaitState(within(t, 5*time.Minute), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation >= gen }); err != nil {
		t.Fatalf("no connection %d: %+v", gen, c.State())
	}
}

// rotations follow each other, by the wish of the server or because of the age of a
// connection. A feed without sessions delivers everything all the same.
func TestRotationsOfAFeed(t *testing.T) {
	rotations := manyReconnects(5, 100)
	for _, byAge := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newTicker(t)
			var o limpet.Options
			if byAge {
				o.Limits = wire.ConnectionLimits{Age: time.Minute}
			}
			c, f := s.client(t, o)
			for i := range rotations {
				if time.Sleep(53 * time.Second); !byAge {
					time.Sleep(8 * time.Second)
				}
				s.setFast(true)
				if time.Sleep(100 * time.Millisecond); !byAge {
					s.move()
				}
				waitGeneration(t, c, uint64(i+2))
				time.Sleep(200 * time.Millisecond)
				s.setFast(false)
			}
			time.Sleep(time.Second)
			st := c.Stats()
			t.Logf("by age %v: %d messages on %d connections, %d outages, %d lost", byAge, s.produced(), st.Connections, st.Outages, lostConnections(st))
			if st.Outages != 0 || lostConnections(st) != 0 || st.Connections != uint64(rotations+1) || st.Attempts != st.Connections {
				t.Errorf("%+v", st)
			}
			if n, _ := f.number(); n < s.produced()-1 {
				t.Errorf("%d of %d came", n, s.produced())
			}
		})
	}
}

func lostConnections(s limpet.Stats) (n uint64) {
	for _, lost := range s.Lost.All() {
		n += lost
	}
	return n
}

// relay stands between a client and the reference server, and can say something itself.
type relay struct {
	host *limpettest.Host
	srv  *limpettest.Server
	mu   sync.Mutex
	open map[*websocket.Conn]bool
}

func newRelay(t *testing.T) *relay {
	r := &relay{open: map[*websocket.Conn]bool{}, srv: limpettest.NewServer(t, nil)}
	r.host = limpettest.NewHandler(t, http.HandlerFunc(r.serve), nil)
	return r
}

func (r *relay) serve(w http.ResponseWriter, req *http.Request) {
	protocols := []string{native.Subprotocol(native.JSON)}
	client, err := websocket.Accept(w, req, &websocket.AcceptOptions{Subprotocols: protocols})
	if err != nil {
		return
	}
	defer client.CloseNow()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	srv, _, err := websocket.Dial(ctx, r.srv.URL(), &websocket.DialOptions{HTTPClient: r.srv.HTTPClient(), Subprotocols: protocols})
	if err != nil {
		return
	}
	defer srv.CloseNow()
	client.SetReadLimit(-1)
	srv.SetReadLimit(-1)
	r.set(client, true)
	defer r.set(client, false)
	var pumps sync.WaitGroup
	defer pumps.Wait()
	pumps.Go(func() {
		pump(ctx, srv, client)
		client.CloseNow()
	})
	pump(ctx, client, srv)
	srv.CloseNow()
}

func (r *relay) set(c *websocket.Conn, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[c] = open; !open {
		delete(r.open, c)
	}
}

func pump(ctx context.Context, from, to *websocket.Conn) {
	for {
		typ, data, err := from.Read(ctx)
		if err != nil || to.Write(ctx, typ, data) != nil {
			return
		}
	}
}

// move asks every client for a new connection within spread.
func (r *relay) move(spread time.Duration) {
	data, err := native.Append(nil, native.JSON, []native.Frame{{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, Spread: uint64(spread.Milliseconds())}}})
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		c.Write(context.Background(), websocket.MessageText, data)
	}
}

// The same at the reference server, which resumes: messages in both directions.
func TestRotationsOfSessions(t *testing.T) {
	rotations := manyReconnects(reduced(5, 2), 100)
	for _, byAge := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRelay(t)
			o := limpet.Options{HTTPClient: r.host.HTTPClient(), Dialect: native.New(&native.Options{Encoding: native.JSON})}
			if byAge {
				o.Limits = wire.ConnectionLimits{Age: time.Minute}
			}
			c, err := limpet.New(r.host.URL(), options(&o))
			assert.NoError(t, err)
			t.Cleanup(func() { closeAndWait(t, c) })
			down, up := followNumbers(t, subscribeLive(t, c, "down", nil)), followNumbers(t, subscribeLive(t, c, "up", nil))
			sent := 0
			var receipts []*limpet.Receipt
			burst := func(until func() bool) {
				for !until() {
					sent++
					_, err := r.srv.Server.Publish(context.Background(), "down", []byte(fmt.Sprint(sent)), nil)
					assert.NoError(t, err)
					receipt, err := c.Publish(context.Background(), "up", []byte(fmt.Sprint(sent)), nil)
					assert.NoError(t, err)
					receipts = append(receipts, receipt)
					time.Sleep(time.Millisecond)
				}
			}
			for i := range rotations {
				if time.Sleep(53 * time.Second); !byAge {
					time.Sleep(8 * time.Second)
					r.move(time.Second)
				}
				burst(func() bool { st := c.State(); return st.Phase == limpet.Ready && st.Generation >= uint64(i+2) })
				again := sent + 100
				burst(func() bool { return sent == again })
			}
			time.Sleep(time.Second)
			st := c.Stats()
			t.Logf("by age %v: %d messages in each direction on %d connections, %d resumed, %d outages, %d lost", byAge, sent, st.Connections, st.Resumes, st.Outages, lostConnections(st))
			if st.Outages != 0 || lostConnections(st) != 0 || st.Resumes != uint64(rotations) || st.Acked != uint64(sent) {
				t.Errorf("%+v", st)
			}
			for _, receipt := range receipts {
				if receipt.Outcome() != limpet.Acked {
					t.Fatalf("%v", receipt.Outcome())
				}
			}
			for _, f := range []*inOrder{down, up} {
				if n, _ := f.number(); n != sent {
					t.Errorf("%d of %d came", n, sent)
				}
			}
		})
	}
}

// manyReconnects is few, or many in the long run.
func manyReconnects(few, many int) int {
	if *enduranceFlag >= 24*time.Hour {
		return many
	}
	return few
}
