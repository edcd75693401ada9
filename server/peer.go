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

// peer is one connection. Two goroutines serve it: read, which is that of the HTTP
// handler and applies the client's frames, and write, which owns the
// subscriptions and everything that is sent. A third one runs while subscriptions
// are searched for in the log: see searcher.
type peer struct {
	server   *Server
	sock     *socket
	enc      native.Encoding
	request  *http.Request // nil after HELLO, unless Authenticate decides on new credentials
	log      *slog.Logger
	messages readable        // the log of the server; reads fail once the connection has ended
	ctx      context.Context // ends with the connection
	cancel   context.CancelFunc
	hooks    context.Context // of the hooks; has the values of the request, but outlives it and the connection
	endHooks context.CancelFunc
	started  time.Time

	pending bool // guarded by Server.mu: not welcomed yet

	// Owned by read.
	who       Principal
	session   *session
	live      map[uint64]string // topics by channels in use
	frames    []native.Frame
	run       run           // in progress
	errLogged bool          // an err frame of the client was logged
	early     *native.Hello // of the upgrade request; nil once it was applied
	number    uint64        // hello.cn
	repeats   bool          // the client still has to send the HELLO that was taken from the upgrade request

	principal atomic.Pointer[string] // ID of the principal; nil before HELLO was accepted
	greeted   atomic.Bool            // HELLO arrived
	leaves    atomic.Bool            // the client was asked to make another connection
	calls     atomic.Int64           // that OnCall serves
	callBytes atomic.Int64           // of their payloads
	calling   sync.WaitGroup         // for those calls of OnCall
	working   atomic.Bool            // read is processing a message, not waiting for one
	received  atomic.Uint64          // payload bytes
	creditN   atomic.Uint64          // granted: highest sequence number
	creditB   atomic.Uint64          // granted: payload bytes

	mu     sync.Mutex // leaf; guards what read and whoever ends the connection pass to write
	queue  []order
	naks   map[uint64]uint64 // rejections to send with the next ack: code by sequence number; 0: a duplicate
	ackDue bool              // an ack is to be sent
	busy   bool              // read applies a batch
	needBy time.Time         // when a new credential that the program wants is due; zero: none is, or one has come
	asking bool              // the client is to be asked for it
	end    *ending           // nil while the connection lives
	wake   chan struct{}     // one slot: there is something for write
	room   chan struct{}     // one slot: write has taken a full queue
	gone   chan struct{}     // closed when write has ended
}

// order is one task for write: to send frame, or what its kind says.
type order struct {
	kind    orderKind
	frame   native.Frame
	sub     *subscription
	first   []native.Frame // the answer to a subscribe, unless a search comes first
	credit  native.ChCredit
	session *session
	expires time.Time
	beat    time.Duration // the interval in which write sends something
	limit   uint64        // hello.rl; 0: not known
}

type orderKind uint8

const (
	orderSend orderKind = iota
	orderWelcome
	orderSubscribe
	orderUnsubscribe
	orderCredit
	orderExpires
)

// ending is why a connection ends.
type ending struct {
	code   uint16 // close code; 0: the connection is gone, send nothing
	reason string
	mute   bool        // discard queued frames and send only the close code
	waits  time.Time   // until then write waits for the batch that read applies
	timer  *time.Timer // aborts the connection after closeGrace
	hooks  *time.Timer // of endHook
}

func newPeer(s *Server, sock *socket, enc native.Encoding, r *http.Request, early *native.Hello) *peer {
	p := &peer{
		server: s, sock: sock, enc: enc, request: r, early: early,
		log:     s.opt.Logger.With("remote", r.RemoteAddr),
		started: time.Now(),
		live:    map[uint64]string{},
		wake:    make(chan struct{}, 1), room: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.messages = readable{p.ctx, s.store}
	p.hooks, p.endHooks = context.WithCancel(context.WithoutCancel(r.Context()))
	return p
}

// serve returns when the connection has ended.
func (p *peer) serve() {
	go p.write()
	defer p.over()
	if p.early == nil || p.greet() {
		p.read()
	}
}

// over waits for write and detaches the session. The connection has been ended
// before, unless a panic is on its way to the HTTP server.
func (p *peer) over() {
	p.stop(0, "reading ended", true)
	p.cancel()
	p.endHooks()
	p.end.hooks.Stop()
	if p.session != nil {
		p.server.sessions.leave(p.session)
	}
	<-p.gone
	p.calling.Wait()
	if p.session != nil && p.end.code == native.CloseSuperseded && p.end.mute && p.sock.answered.Load() && !p.leaves.Load() {
		p.session.conflicted()
	}
	p.log.Debug("connection ended", "code", p.end.code, "reason", p.end.reason)
}

// stop ends the connection. The first cause wins. Queued frames are sent first,
// unless mute is set. The connection is closed after closeGrace at the latest,
// whatever the peer does.
func (p *peer) stop(code uint16, reason string, mute bool) {
	p.mu.Lock()
	if p.end != nil {
		p.mu.Unlock()
		return
	}
	p.end = &ending{code: code, reason: reason, mute: mute, waits: time.Now().Add(batchGrace), hooks: time.AfterFunc(hookGrace, p.endHook)}
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

// endHook ends the hook of a connection that has ended a while ago. If it has not returned a
// while after that, the log says so: a goroutine cannot be ended from outside.
func (p *peer) endHook() {
	if p.hooks.Err() != nil {
		p.log.Error("a hook has not returned although its context has ended: until it does, it keeps the place of its connection among Options.MaxConns")
		return
	}
	p.mu.Lock()
	p.end.hooks.Reset(hookGrace) // before the hook can return, which stops it
	p.mu.Unlock()
	p.endHooks()
}

// supersede ends the connection because a newer one owns the session. Queued
// frames must not be sent any more (docs/protocol.md, I8).
func (p *peer) supersede() {
	p.server.stats.evicted.Add(1)
	p.stop(native.CloseSuperseded, "superseded by a newer connection", true)
	p.endHooks() // what they decide no longer counts
}

// ended reports whether the connection is ending.
func (p *peer) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end != nil
}

// beginBatch reports whether read may apply a batch. It may not once the connection is ending:
// what would be accepted then could not be acknowledged any more, and the client may send it to
// another server.
func (p *peer) beginBatch() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = p.end == nil
	return p.busy
}

// endBatch follows when a batch was applied, or has failed.
func (p *peer) endBatch() {
	p.mu.Lock()
	p.busy = false
	ending := p.end != nil
	p.mu.Unlock()
	if ending {
		p.poke() // write waits for it
	}
}

// poke wakes write.
func (p *peer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// post queues an order. It blocks while the queue is full, until the connection
// ends: from a client that does not read its answers, nothing more is read.
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

// send queues a frame: see post.
func (p *peer) send(f native.Frame) { p.post(order{frame: f}) }

// reject queues a rejection, or with code 0 that the message was accepted before, once for
// each sequence number. There are at most as many
// new ones as the window holds, because credit is granted with the acknowledgement
// that carries them; a client that repeats its messages adds none, but those of which
// the record has the id.
func (p *peer) reject(seq, code uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.naks == nil {
		p.naks = map[uint64]uint64{}
	}
	p.naks[seq] = code
}

// acknowledge makes write send an ack.
func (p *peer) acknowledge() {
	p.mu.Lock()
	p.ackDue = true
	p.mu.Unlock()
	p.poke()
}

// farewell sends goaway and ends the connection.
func (p *peer) farewell(spread uint64) {
	p.askToLeave(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: native.CloseGoingAway, Spread: spread, Res: true}})
	p.stop(native.CloseGoingAway, "going away", false)
}
