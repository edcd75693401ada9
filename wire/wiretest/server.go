package wiretest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// maxHeard bounds what the model keeps of requests and frames.
const maxHeard = 64 << 10

// epoch is the incarnation of the model's logs.
const epoch = "e1"

// server is the model of a server. All of its state belongs to the goroutine run; others
// reach it through do.
type server struct {
	subject *Subject
	report  *report
	traits  wire.Traits
	host    *limpettest.Host
	calls   chan func()
	stop    chan struct{}

	logs     map[string]*log
	sessions map[string]*session
	conns    []*conn // open ones
	made     int     // connections

	refused  map[string]bool // topics that are refused
	rejected func(n int) bool
	deny     bool // refuse the credential
	mute     bool // answer nothing
	lazy     bool // acknowledge no publish

	taken    map[int]int // how often each publish was taken, by payload
	denied   map[int]int // how often each was rejected
	acked    map[int]int // processed messages, by payload
	released map[int]int
	ended    int      // OpUnsubscribe received
	asked    []string // topics of OpSubscribe received
	pongs    []uint64 // numbers of OpPong received
	pings    int
	heard    []byte // upgrade requests, and the first frames
}

// log holds the messages of one topic.
type log struct {
	entries []entry
	waiting []int // at a broker: indexes that were delivered and not acknowledged
}

type entry struct {
	number  uint64 // in the protocol
	prev    uint64
	payload int // see payloadOf
	again   bool
	taken   bool // of a broker: acknowledged
}

// session is what a server with sessions remembers.
type session struct {
	id    string
	upTo  uint64            // contiguous sequence numbers taken
	ids   map[uint64]uint64 // sequence number to payload number, plus 1
	last  wire.ID           // id of upTo
	next  map[string]int    // with KeepsSubs: index of the next entry for each topic
	topic map[string]ref
}

// ref is how a subscription is named on a connection.
type ref struct {
	key   uint64
	topic string
}

// conn is one connection of the model.
type conn struct {
	peer    Peer
	ws      *websocket.Conn
	out     chan []wire.Frame
	subs    map[string]ref
	session *session
	greeted bool
	gone    chan struct{} // closed at its end
}

func newServer(tb testing.TB, s *Subject, r *report) *server {
	v := &server{
		subject: s, report: r, traits: s.Dialect.Traits(),
		calls: make(chan func()), stop: make(chan struct{}),
		logs: map[string]*log{}, sessions: map[string]*session{}, refused: map[string]bool{},
		rejected: func(int) bool { return false },
		taken:    map[int]int{}, denied: map[int]int{}, acked: map[int]int{}, released: map[int]int{},
	}
	go v.run()
	v.host = limpettest.NewHandler(tb, http.HandlerFunc(v.serve), nil)
	return v
}

func (v *server) run() {
	for {
		select {
		case f := <-v.calls:
			func() {
				defer v.report.recover("the peer")
				f()
			}()
		case <-v.stop:
			return
		}
	}
}

// do runs f where the state is, and waits for it.
func (v *server) do(f func()) {
	done := make(chan struct{})
	select {
	case v.calls <- func() { defer close(done); f() }:
		<-done
	case <-v.stop:
	}
}

func (v *server) serve(w http.ResponseWriter, r *http.Request) {
	var chosen []string
	if offered := r.Header.Values("Sec-WebSocket-Protocol"); len(offered) > 0 {
		chosen = splitList(offered)[:1]
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: chosen, InsecureSkipVerify: true})
	if err != nil {
		return
	}
	ws.SetReadLimit(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &conn{ws: ws, out: make(chan []wire.Frame, 4096), subs: map[string]ref{}, gone: make(chan struct{})}
	defer close(c.gone)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		c.write(ctx)
	}()
	v.do(func() {
		c.peer = v.subject.peer(r)
		v.made++
		v.heard = fmt.Append(v.heard, r.URL, r.Header)
		v.conns = append(v.conns, c)
		c.send(c.peer.Open())
		if v.deny && !v.traits.Greeting {
			v.refuse(c)
			return
		}
		if v.traits.Greeting {
			return
		}
		v.beat(c)
		if v.subject.Pushes {
			v.push(c)
		}
	})
	for {
		typ, data, err := ws.Read(ctx)
		if err != nil {
			break
		}
		f := wire.Frame{Type: wire.Text, Data: data}
		if typ == websocket.MessageBinary {
			f.Type = wire.Binary
		}
		v.do(func() { v.receive(c, f) })
	}
	v.do(func() {
		v.conns = slices.DeleteFunc(v.conns, func(other *conn) bool { return other == c })
		v.lost(c)
	})
	cancel()
	<-wrote
	ws.CloseNow()
}

// send queues frames.
func (c *conn) send(frames []wire.Frame) {
	if len(frames) == 0 {
		return
	}
	select {
	case c.out <- frames:
	default: // the connection is gone, or nothing is read
	}
}

func (c *conn) write(ctx context.Context) {
	for {
		select {
		case frames := <-c.out:
			for _, f := range frames {
				typ := websocket.MessageText
				if f.Type == wire.Binary {
					typ = websocket.MessageBinary
				}
				if c.ws.Write(ctx, typ, f.Data) != nil {
					return
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

func (v *server) receive(c *conn, f wire.Frame) {
	if len(v.heard) < maxHeard {
		v.heard = append(v.heard, f.Data...)
	}
	requests, err := c.peer.Decode(f)
	if err != nil {
		v.report.add("the client sends a frame that is not of the protocol: %v: %q", err, cut(f.Data))
		return
	}
	for _, q := range requests {
		c.send(q.Reply)
		if v.mute {
			continue
		}
		if q.Hello != nil {
			v.greet(c, q.Hello)
		}
		if q.Kind == wire.OpSubscribe && v.subject.Pushes {
			v.report.add("Subject.Pushes is set, and the client asks for %q: leave Pushes false", q.Topic)
		}
		v.handle(c, q.Op)
	}
}

func (v *server) greet(c *conn, hello *wire.Resume) {
	if v.deny {
		v.refuse(c)
		return
	}
	ready := &wire.Ready{Conn: hello.Conn}
	s := v.sessions[hello.Session.ID]
	ready.Resumed = s != nil
	if s == nil {
		s = &session{id: fmt.Sprintf("session-%d", len(v.sessions)+1), ids: map[uint64]uint64{},
			next: map[string]int{}, topic: map[string]ref{}}
		v.sessions[s.id] = s
		if hello.Uplink.Lo > 0 {
			s.upTo = hello.Uplink.Lo - 1
		}
	}
	c.session = s
	if v.subject.Replay && ready.Resumed {
		for _, sub := range hello.Subs {
			at := ref{topic: sub.Topic}
			c.subs[sub.Topic] = at
			v.replay(c, at, v.log(sub.Topic).after(sub.Position.Offset))
		}
	}
	ready.Session = wire.Session{ID: s.id, Key: []byte("key-of-" + s.id), Epoch: 1}
	ready.Ack = wire.Ack{To: s.upTo, HasCredit: true, Credit: wire.Credit{N: s.upTo + 1000, Bytes: 1 << 30}}
	ready.Tag = s.last
	if v.traits.KeepsSubs && ready.Resumed {
		c.subs = maps.Clone(s.topic)
	}
	c.send(c.peer.Encode(wire.Event{Kind: wire.EventReady, Ready: ready}))
	c.greeted = true
	v.beat(c)
	if v.subject.Replay && ready.Resumed {
		return
	}
	if ready.Resumed && v.traits.KeepsSubs {
		for topic, at := range c.subs {
			v.replay(c, at, s.next[topic])
		}
	} else if v.subject.Pushes {
		v.push(c)
	}
	for _, sub := range hello.Subs {
		v.handle(c, wire.Op{Kind: wire.OpSubscribe, Key: sub.Key, Topic: sub.Topic, Name: sub.Topic, Subscribe: &sub})
	}
}

// beat sends pings until the connection ends.
func (v *server) beat(c *conn) {
	if v.subject.Beat == 0 {
		return
	}
	go func() {
		ticker := time.NewTicker(v.subject.Beat)
		defer ticker.Stop()
		for n := uint64(1); ; n++ {
			select {
			case <-ticker.C:
				v.do(func() { c.send(c.peer.Encode(wire.Event{Kind: wire.EventPing, N: n})) })
			case <-c.gone:
				return
			}
		}
	}()
}

// push makes every message of every topic go to c.
func (v *server) push(c *conn) {
	for _, topic := range v.subject.Topics {
		if topic == "" {
			continue
		}
		c.subs[topic] = ref{topic: topic}
		v.keep(c, ref{topic: topic}, len(v.log(topic).entries))
	}
}

func (v *server) refuse(c *conn) {
	r := v.subject.Refusal
	c.send(r.Frames)
	if r.Code != 0 {
		go c.ws.Close(websocket.StatusCode(r.Code), "refused")
	}
}

func (v *server) keep(c *conn, at ref, next int) {
	if c.session != nil {
		c.session.topic[at.topic], c.session.next[at.topic] = at, next
	}
}

func (v *server) handle(c *conn, op wire.Op) {
	switch op.Kind {
	case wire.OpSubscribe:
		v.subscribe(c, op)
	case wire.OpUnsubscribe:
		at, ok := c.find(op)
		v.ended++
		if !ok {
			return
		}
		delete(c.subs, at.topic)
		if c.session != nil {
			delete(c.session.topic, at.topic)
		}
		v.requeue(at.topic)
		c.send(c.peer.Encode(wire.Event{Kind: wire.EventUnsubscribed, Key: at.key, Name: at.topic}))
	case wire.OpPublish:
		v.publish(c, op)
	case wire.OpAck, wire.OpRelease:
		at, ok := c.find(op)
		if ok {
			v.settle(at.topic, op.Position.Offset, op.Kind == wire.OpAck)
		}
	case wire.OpPing:
		v.pings++
		c.send(c.peer.Encode(wire.Event{Kind: wire.EventPong, N: op.N}))
	case wire.OpPong:
		v.pongs = append(v.pongs, op.N)
	}
}

// find returns the subscription that op names.
func (c *conn) find(op wire.Op) (ref, bool) {
	for topic, at := range c.subs {
		if op.Key != 0 && at.key == op.Key || op.Key == 0 && (topic == op.Name || topic == op.Topic) {
			return at, true
		}
	}
	return ref{}, false
}
