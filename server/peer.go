package server

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// peer is one connection. Two goroutines serve it: read, which is the one of the
// HTTP handler and applies what the client says, and write, which owns the
// subscriptions and everything that is sent.
type peer struct {
	server  *Server
	sock    *socket
	enc     native.Encoding
	request *http.Request // nil after HELLO
	log     *slog.Logger
	ctx     context.Context // of the hooks; ends with the connection
	cancel  context.CancelFunc
	started time.Time

	pending bool // guarded by Server.mu: not welcomed yet

	// Owned by read.
	who     Principal
	session *session
	live    map[uint64]struct{} // channels in use
	frames  []native.Frame
	scolded bool // an err frame of the client was logged

	greeted  atomic.Bool   // HELLO arrived
	working  atomic.Bool   // read is not waiting for bytes
	received atomic.Uint64 // payload bytes
	creditN  atomic.Uint64 // granted: highest seq
	creditB  atomic.Uint64 // granted: payload bytes

	mu     sync.Mutex // leaf: from read, and from anyone who ends the connection, to write
	queue  []order
	naks   []native.Reject
	ackDue bool
	end    *ending
	wake   chan struct{} // one slot
	room   chan struct{} // one slot: the queue was taken
	gone   chan struct{} // closed when write has ended
}

// order is one thing for write to do: send frame, or what its kind says.
type order struct {
	kind    orderKind
	frame   native.Frame
	sub     *native.Sub
	credit  native.ChCredit
	session *session
	expires time.Time
}

type orderKind uint8

const (
	orderSend orderKind = iota
	orderWelcome
	orderSubscribe
	orderUnsubscribe
	orderCredit
)

// ending is why a connection ends. Code 0: it is gone already, say nothing.
type ending struct {
	code   uint16
	reason string
	mute   bool // send nothing that waits, only the close code
	timer  *time.Timer
}

func newPeer(s *Server, sock *socket, enc native.Encoding, r *http.Request) *peer {
	p := &peer{
		server: s, sock: sock, enc: enc, request: r,
		log:     s.opt.Logger.With("remote", r.RemoteAddr),
		started: time.Now(),
		live:    map[uint64]struct{}{},
		wake:    make(chan struct{}, 1), room: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(r.Context())
	return p
}

// serve returns when the connection is over.
func (p *peer) serve() {
	go p.write()
	defer p.over()
	p.read()
}

// over joins write and lets the session go. The connection was ended before,
// unless a panic on its way to the HTTP server brought us here.
func (p *peer) over() {
	p.stop(0, "reading ended", true)
	p.cancel()
	if p.session != nil {
		p.server.sessions.leave(p.session, p)
	}
	<-p.gone
	if p.session != nil && p.end.code == native.CloseSuperseded && p.end.mute && p.sock.answered.Load() {
		p.session.conflicted()
	}
	p.log.Debug("connection ended", "code", p.end.code, "reason", p.end.reason)
}

// stop ends the connection; the first cause wins. What waits is sent first
// unless mute is set. Whatever the peer does, it is closed after closeGrace.
func (p *peer) stop(code uint16, reason string, mute bool) {
	p.mu.Lock()
	if p.end != nil {
		p.mu.Unlock()
		return
	}
	p.end = &ending{code: code, reason: reason, mute: mute}
	if code != 0 {
		p.end.timer = time.AfterFunc(closeGrace, p.sock.abort)
	}
	p.mu.Unlock()
	p.cancel()
	if code == 0 {
		p.sock.abort()
	}
	p.poke()
}

// supersede ends the connection because a newer one owns the session. Nothing
// that waits may be sent any more (docs/protocol.md, I8).
func (p *peer) supersede() {
	p.server.stats.evicted.Add(1)
	p.stop(native.CloseSuperseded, "superseded by a newer connection", true)
}

func (p *peer) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end != nil
}

func (p *peer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// post queues an order. It waits while the queue is full, until the connection
// ends: a client that does not read what it asked for is not read any further.
func (p *peer) post(o order) {
	for {
		p.mu.Lock()
		if p.end != nil {
			p.mu.Unlock()
			return
		}
		if len(p.queue) < queueLimit {
			p.queue = append(p.queue, o)
			p.mu.Unlock()
			p.poke()
			return
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-p.gone:
			return
		}
	}
}

func (p *peer) send(f native.Frame) { p.post(order{frame: f}) }

// reject queues a rejection. There are no more of them than the window: credit
// is granted with the acknowledgement that carries them.
func (p *peer) reject(seq, code uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.naks = append(p.naks, native.Reject{S: seq, Code: code})
}

func (p *peer) acknowledge() {
	p.mu.Lock()
	p.ackDue = true
	p.mu.Unlock()
	p.poke()
}

// farewell ends the connection in good order.
func (p *peer) farewell(spread uint64) {
	p.mu.Lock()
	if p.end == nil {
		p.queue = append(p.queue, order{frame: native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{
			Code: native.CloseGoingAway, Spread: spread, Res: true,
		}}})
	}
	p.mu.Unlock()
	p.stop(native.CloseGoingAway, "going away", false)
}
