// Package server is the reference server for limpet.v1 (docs/protocol.md): a
// library on net/http that keeps sessions, one log of messages, and the promises
// of the protocol.
//
// A session is a small record that outlives its connections. A HELLO with a
// higher connection number takes it over, and from then on the older connection
// has no effect. What clients publish is appended to the log once, then
// acknowledged. One goroutine follows the log for all connections. It keeps the
// newest entries that a subscription wants, in at most 8 MiB, and wakes the
// connections that an entry concerns. A subscription is a filter with a position
// of its own, so the server buffers nothing for a slow consumer: it continues
// when there is credit, in the log if what it needs is older. What retention
// removes in the meantime is reported as a gap.
//
//	        read (HTTP handler)            write
//	client ----> decode, hooks, accept --> orders, acks ----> client
//	                       |                  ^     ^
//	                       v append           | read | wake, newest entries
//	                    [ Store ] ------------+-> follower
package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/fallback"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Server is an http.Handler that speaks limpet.v1 on every path. It is safe for
// concurrent use. Close or Shutdown ends it: the http.Server does not track
// connections once they are upgraded. Until then it does, so give it a
// ReadHeaderTimeout.
type Server struct {
	opt       *Options
	store     Store // opt.Store, or one on opt.Log; its panics are errors
	runLimit  int   // of messages in one Commit
	sessions  *sessions
	slots     slots
	feedLimit feedLimit
	searches  chan struct{} // holds one value for each search of the log in progress
	stats     counters
	ctx       context.Context // of Commits; ends with Close
	cancel    context.CancelFunc

	mountLogged atomic.Bool // a mountError was logged

	id fallback.ServerID // in the ids of connections over plain requests

	mu        sync.Mutex // leaf
	peers     map[*peer]struct{}
	carried   map[[16]byte]*carried // connections over plain requests, by the secret in their id
	plain     int                   // of peers and joining, those over plain requests
	joining   int                   // upgrades in progress
	pending   int                   // of peers and joining, those not welcomed
	follower  *follower             // of the log, for all connections; nil: none is needed
	following int                   // followers that have not ended
	closed    bool
	broken    bool          // closed by Close: no close handshakes
	idle      chan struct{} // closed when closed is set and no connection or follower is left
}

// New returns a server; o may be nil. If Options.Log already holds messages, New first
// reads them all to learn their ids. The error names every option that is wrong,
// or is that of the log.
func New(o *Options) (*Server, error) {
	opt, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opt:       opt,
		slots:     slotsFor(opt.ReconnectRate),
		feedLimit: defaultFeedLimit,
		searches:  make(chan struct{}, searchLimit),
		peers:     map[*peer]struct{}{},
		carried:   map[[16]byte]*carried{},
		id:        fallback.NewServerID(),
		idle:      make(chan struct{}),
	}
	s.sessions = &sessions{server: s, m: map[string]*session{}}
	if err := s.openStore(); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// openStore sets the store.
func (s *Server) openStore() error {
	opt, keep := s.opt, s.opt.Dedup+idMargin
	store, err := opt.Store, error(nil)
	s.runLimit = runLimit
	if store == nil {
		if log, ok := opt.Log.(*MemoryLog); ok {
			store, err = storeOn(log, opt.MaxSessions, opt.MaxIDs, keep)
		} else {
			s.runLimit = 1 // Append is one entry
			store, err = newLogStore(opt.Log, opt.MaxSessions, opt.MaxIDs, keep)
		}
		if err != nil {
			return fmt.Errorf("server: reading the log: %w", err)
		}
	}
	s.store = safely{store, opt.Logger}
	return checkView(store.View())
}

// ServeHTTP upgrades a request and serves the connection until it ends. It answers
// 403 if Host or Origin is not allowed, 426 if the request is not an upgrade, 400
// if it offers no subprotocol of limpet.v1, 500 and a line in the log if w cannot be
// hijacked (http.TimeoutHandler and other middlewares hide that), and 503 with Retry-After and
// X-Limpet-Retry-Ms if there are too many connections or the server is closing.
//
// A HELLO in the header Limpet-Hello counts as if it was the first frame (docs/protocol.md,
// section 1). It is a credential: what logs request headers must leave it out.
//
// Where no upgrade comes through, it serves connections over plain requests in the same way
// (docs/protocol.md, section 12), over HTTP/1.1 and HTTP/2: see Options.MaxFallback. All
// requests of one client must reach one Server. For http.Server.Shutdown their GETs are
// requests in progress, so call Shutdown of the Server first.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isPost(r) {
		s.take(w, r)
		return
	}
	enc, ok := s.admit(w, r)
	if !ok {
		return
	}
	if wantsFallback(r) {
		defer s.leftPlain()
	}
	r, early := takeHello(r, enc)
	var p *peer
	defer func() { // even if a middleware panics in Hijack
		if p == nil {
			s.stats.refusedRequest.Add(1)
			s.joined(nil)
		}
	}()
	sock, r, err := s.open(w, r, enc, early != nil && s.opt.Hooks.Authenticate == nil)
	if err != nil {
		var mounted *mountError
		if errors.As(err, &mounted) && !s.mountLogged.Swap(true) {
			s.opt.Logger.Error("no connection can be upgraded", "error", mounted)
		} else {
			s.opt.Logger.Debug("upgrade failed", "remote", r.RemoteAddr, "error", quote(err.Error()))
		}
		return
	}
	if c, ok := sock.raw.Conn.(*carried); ok {
		defer s.dropped(c)
	}
	p = newPeer(s, sock, enc, r, early)
	s.joined(p)
	defer s.left(p)
	p.serve()
}

// open makes the socket for a request that was admitted. It returns the request that the
// hooks see. With hold the 101 leaves together with WELCOME, or what refuses the HELLO: no hook
// decides about it.
func (s *Server) open(w http.ResponseWriter, r *http.Request, enc native.Encoding, hold bool) (*socket, *http.Request, error) {
	if wantsFallback(r) {
		up := asUpgrade(r)
		sock, err := s.carry(w, r, up, enc)
		return sock, up, err
	}
	sock, err := accept(w, r, native.Subprotocol(enc), s.opt.readLimit(), s.opt.WriteTimeout, hold)
	return sock, r, err
}

// takeHello returns the HELLO that an upgrade request has in a header, nil if there is none,
// and the request without it: it is a credential, and hooks may log headers.
func takeHello(r *http.Request, enc native.Encoding) (*http.Request, *native.Hello) {
	if len(r.Header[native.HelloHeader]) == 0 {
		return r, nil
	}
	var early *native.Hello
	if !wantsFallback(r) {
		early = native.HelloOf(r.Header, enc)
	}
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Del(native.HelloHeader)
	return r, early
}

// admit decides on an upgrade request. It answers a refused one and counts an
// accepted one as joining.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (native.Encoding, bool) {
	if !s.opt.hostAllowed(r.Host) || !s.opt.originAllowed(r) {
		s.stats.refusedOrigin.Add(1)
		http.Error(w, "host or origin not allowed", http.StatusForbidden)
		return 0, false
	}
	plain := wantsFallback(r) && s.opt.MaxFallback > 0
	if !plain && !hasToken(r.Header.Values("Upgrade"), "websocket") {
		s.stats.refusedRequest.Add(1)
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "this is a WebSocket endpoint", http.StatusUpgradeRequired)
		return 0, false
	}
	offers := "Sec-WebSocket-Protocol"
	if plain {
		offers = fallback.HeaderProtocol
	}
	enc, ok := subprotocol(r.Header.Values(offers))
	if !ok {
		s.stats.refusedRequest.Add(1)
		http.Error(w, offers+" must offer limpet.v1.bin or limpet.v1.json", http.StatusBadRequest)
		return 0, false
	}
	s.mu.Lock()
	full := s.closed || len(s.peers)+s.joining >= s.opt.MaxConns || s.pending >= s.opt.MaxPending || plain && s.plain >= s.opt.MaxFallback
	if !full {
		s.joining++
		s.pending++
		if plain {
			s.plain++
		}
	}
	s.mu.Unlock()
	if full {
		s.stats.refusedBusy.Add(1)
		unavailable(w, s.slots.next(), "too many connections, or the server is closing")
		return 0, false
	}
	return enc, true
}

// joined turns a joining request into a peer; with nil it forgets the request.
func (s *Server) joined(p *peer) {
	s.mu.Lock()
	s.joining--
	closed, broken := s.closed, s.broken
	if p != nil {
		p.pending = true
		s.peers[p] = struct{}{}
	} else {
		s.pending--
	}
	s.settle()
	s.mu.Unlock()
	switch {
	case p == nil:
	case broken:
		p.stop(0, "closed", true)
	case closed:
		p.stop(native.CloseGoingAway, "going away", false)
	}
}

// welcomed records that p is no longer pending.
func (s *Server) welcomed(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.pending = false
	s.pending--
}

// leftPlain follows when a connection over plain requests has ended, or was not made.
func (s *Server) leftPlain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plain--
}

// left forgets a peer whose connection has ended.
func (s *Server) left(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
	if p.pending {
		s.pending--
	}
	s.settle()
}

// settle closes idle if the last connection of a closed server has ended, with its follower.
// The caller holds mu.
func (s *Server) settle() {
	if !s.closed || len(s.peers)+s.joining+s.following > 0 {
		return
	}
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

// complete sets the fields of WELCOME that do not come from the session record.
func (s *Server) complete(w *native.Welcome, ttl time.Duration, who Principal) {
	w.Cr.B = uint64(s.opt.WindowBytes)
	w.HB = uint64(s.opt.Heartbeat.Milliseconds())
	w.TTL = uint64(ttl / time.Second)
	w.Dedup = uint64(s.opt.Dedup / time.Second)
	w.Lim = &native.Limits{
		Batch: batchLimit, Payload: uint64(s.opt.MaxPayload),
		Headers: native.MaxHeaders, HeaderSize: native.MaxHeaderSize,
		Subs: uint64(s.opt.MaxSubs), HelloSubs: helloSubs, Depth: native.MaxDepth, Token: native.MaxToken,
	}
	if s.opt.Hooks.OnCall != nil {
		w.Feat = []string{native.FeatureCall}
	}
	w.Spread = uint64(s.spread().Milliseconds())
	if !who.Expires.IsZero() {
		w.Exp = millisUntil(who.Expires)
	}
}

// spread returns the window in which all connected clients can reconnect at
// ReconnectRate. One of them may return at once, so a client that is alone need
// not wait.
func (s *Server) spread() time.Duration {
	s.mu.Lock()
	n := max(len(s.peers)-1, 0)
	s.mu.Unlock()
	return min(time.Duration(n)*time.Second/time.Duration(s.opt.ReconnectRate), maxSpread)
}

// PublishOptions are the optional parts of a message.
type PublishOptions struct {
	// ID identifies the message. Defaults to a new UUIDv7.
	ID wire.ID

	// Type is the content type of the payload.
	Type string

	// Header holds application headers: at most 32, together with Type at most
	// 8 KiB.
	Header map[string]string

	// TTL is the lifetime of the message. Zero means that it does not expire.
	TTL time.Duration
}

// Publish appends a message to the log and returns its offset; o may be nil. It
// copies payload. A message with a known ID is not appended again: Publish then
// returns the offset of the first one.
//
// ctx bounds the wait for the store. If it ends during a Commit, it is unknown whether the
// message was appended; it is safe to publish it again under its ID. With Options.Log that
// is so only if the log handles a repeated ID.
//
// The error is ErrClosed, ErrTopic, ErrTooBig, ErrMessage, ErrIDReused, an *Error if the ID was
// refused before, or that of the store. IDs of this program are shared with clients
// whose Principal has no ID, and with no others.
func (s *Server) Publish(ctx context.Context, topic string, payload []byte, o *PublishOptions) (uint64, error) {
	var opt PublishOptions
	if o != nil {
		opt = *o
	}
	if err := native.CheckTopic(wire.UsePublish, topic); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrTopic, err)
	}
	e, err := s.newEntry(topic, payload, &opt)
	if err != nil {
		return 0, err
	}
	if deciding, ok := ctx.Value(decidingKey{}).(messageKey); ok && deciding == (messageKey{id: e.ID}) {
		return 0, errDeciding // which of the two is the message would be left to chance
	}
	done, err := s.store.Commit(ctx, &Change{Entries: []Entry{e}, Keep: s.opt.Dedup + idMargin})
	var known *KnownError
	if !errors.As(err, &known) || len(known.IDs) == 0 {
		return done.Offset, err
	}
	switch was := known.IDs[0]; {
	case was.Hash != 0 && was.Hash != e.Hash:
		return 0, ErrIDReused
	case was.Code != 0:
		return 0, &Error{Code: was.Code, Reason: "a message with this id was refused before"}
	default:
		return was.Offset, nil
	}
}

// newEntry returns the entry of a message of this program, with an ID.
func (s *Server) newEntry(topic string, payload []byte, opt *PublishOptions) (Entry, error) {
	e := Entry{Time: time.Now(), ID: opt.ID, Topic: topic, Payload: append([]byte{}, payload...), Type: opt.Type, TTL: opt.TTL, Hash: HashOf(topic, payload)}
	if len(opt.Header) > 0 {
		e.Header = make(map[string]string, len(opt.Header))
	}
	size, fit := len(opt.Type), utf8.ValidString(opt.Type) && opt.TTL >= 0
	for k, v := range opt.Header {
		e.Header[k] = v
		size += len(k) + len(v)
		fit = fit && utf8.ValidString(k) && utf8.ValidString(v)
	}
	if !fit {
		return e, ErrMessage
	}
	if len(payload) > s.opt.MaxPayload || len(opt.Header) > native.MaxHeaders || size > native.MaxHeaderSize {
		return e, ErrTooBig
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return e, ErrClosed
	}
	if e.ID == (wire.ID{}) {
		id, err := uuid.NewV7()
		if err != nil {
			return e, err
		}
		e.ID = wire.ID(id)
	}
	return e, nil
}

var errDeciding = errors.New("server: OnPublish cannot publish under the id of the message on which it decides; use another PublishOptions.ID")

// Shutdown accepts no more connections, asks every client to leave and to return
// within the reconnect window, acknowledges what it has accepted, and closes every
// connection with 4300. Messages that have arrived and are not in the Log half a second later
// are not acknowledged. It returns when all have ended. If ctx ends first, it does
// what Close does and returns the error of ctx. The Log stays open.
func (s *Server) Shutdown(ctx context.Context) error {
	spread := uint64(s.spread().Milliseconds())
	for _, p := range s.shut(false) {
		p.farewell(spread)
	}
	select {
	case <-s.idle:
		s.release()
		return nil
	case <-ctx.Done():
		s.Close()
		return ctx.Err()
	}
}

// Close accepts no more connections and breaks the existing ones. It returns when
// they have ended, at the latest after 100 ms; only hooks that are still running
// can delay it that long. The Log stays open. Close may be called more than once;
// it always returns nil.
func (s *Server) Close() error {
	for _, p := range s.shut(true) {
		p.stop(0, "closed", true)
		p.endHooks()
		p.sock.abort() // even if the connection is already in its close handshake
	}
	s.release()
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-s.idle:
	case <-timer.C:
	}
	return nil
}

// shut marks the server closed and returns the connected peers.
func (s *Server) shut(broken bool) []*peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.broken = s.broken || broken
	s.settle()
	all := make([]*peer, 0, len(s.peers))
	for p := range s.peers {
		all = append(all, p)
	}
	return all
}

// release ends Commits.
func (s *Server) release() { s.cancel() }

// quote makes a text from outside safe for a log line: quoted, at most 256 bytes.
func quote(text string) string { return fmt.Sprintf("%+q", cut(text, 256)) }
