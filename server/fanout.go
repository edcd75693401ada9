package server

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/wire"
)

// feedLimit bounds what the feeds of a server hold, all together. A subscription that needs an
// older entry reads the log.
type feedLimit struct {
	entries int // one counts once for each pattern that it matches
	bytes   int // as in Retention.Bytes
}

var defaultFeedLimit = feedLimit{8192, 8 << 20}

// follower reads the log for all connections of a server. It puts each entry into the feeds
// that it matches, and wakes the connections that have nothing else to read. It begins with
// the first subscription and ends when no connection has one. Then, or when the log cannot be
// read, another one may begin: what it has is never mended.
//
// Only its own goroutine calls the store for it, and never with mu held.
type follower struct {
	server *Server
	ctx    context.Context
	cancel context.CancelFunc
	busy   atomic.Int64 // when it began to call the store, as time.Duration since began; 0: it waits
	began  time.Time

	id   wire.ID // of the entry at seen; owned by run
	held bool    // id is known; owned by run

	mu        sync.Mutex // leaf
	err       error      // why it has ended; errUnused if no connection needed it
	listeners map[*listener]struct{}
	feeds     feeds
	begun     bool   // epoch and seen are known
	epoch     string // of seen and all offsets
	seen      uint64 // the entries up to here were read
	floor     uint64 // no feed has the entries up to here, which may match
	round     uint64 // it rises when floor does: what at says of a subscription is then of no use
	order     fifo.Queue[shared]
	bytes     int             // of order
	behind    []*subscription // those that read the log and may have come to its end
	found     []*feed         // buffer
	woken     []*listener     // buffer
	wakes     uint64          // how often a connection was woken
}

// shared is one entry in a feed: in order, it is the oldest one that the feed has.
type shared struct {
	feed   *feed
	offset uint64
	size   int
}

// listener is a connection with subscriptions.
type listener struct {
	f     *follower
	p     *peer
	ready []*subscription // have something to read; guarded by follower.mu
	all   bool            // so may all of the connection; guarded by follower.mu
}

// at is where a subscription is in its feed. It is guarded by follower.mu.
type at struct {
	listener *listener
	feed     *feed
	quiet    int    // place in feed.quiet, plus one; 0: not there
	behind   bool   // in follower.behind
	round    uint64 // of the follower, when the rest was written
	taken    uint64 // it was given everything up to here; math.MaxUint64: that is not known
	first    uint64 // the first matching entry behind taken; 0: there is none
}

var (
	errUnused   = errors.New("no connection has a subscription")
	errDiverged = errors.New("server: the log no longer has the entries that it had; it was rewound or replaced under the same epoch")
	errStuck    = errors.New("server: a call of the store has not returned for 2.5 heartbeats")
)

// listen makes a connection a listener of the follower of the server, which it starts if
// there is none.
func (s *Server) listen(p *peer) *listener {
	for {
		s.mu.Lock()
		f := s.follower
		if f == nil {
			f = &follower{server: s, listeners: map[*listener]struct{}{}, began: time.Now()}
			f.ctx, f.cancel = context.WithCancel(context.Background())
			s.follower = f
			s.following++
			go f.run()
		}
		s.mu.Unlock()
		l := &listener{f: f, p: p}
		if f.add(l) {
			return l
		}
		s.unfollow(f)
	}
}

// unfollow follows when f has ended: the next connection starts another.
func (s *Server) unfollow(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follower == f {
		s.follower = nil
	}
}

// add reports whether the follower lives, and then adds l.
func (f *follower) add(l *listener) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	f.listeners[l] = struct{}{}
	return true
}

// end removes a listener with its subscriptions. The last one ends the follower.
func (l *listener) end(subs []*subscription) {
	f := l.f
	f.mu.Lock()
	for _, s := range subs {
		f.leave(s)
	}
	delete(f.listeners, l)
	last := len(f.listeners) == 0 && f.err == nil
	if last {
		f.err = errUnused
	}
	f.mu.Unlock()
	if last {
		f.server.unfollow(f)
		f.cancel()
	}
}

// fail ends the follower and, for the reason err, all connections with subscriptions.
func (f *follower) fail(err error) {
	f.server.unfollow(f)
	f.cancel()
	f.mu.Lock()
	if f.err == nil {
		f.err = err
	}
	woken := f.everyone()
	f.mu.Unlock()
	for _, l := range woken {
		l.p.poke()
	}
}

// everyone makes all subscriptions ready and returns whom to wake. The caller holds mu.
func (f *follower) everyone() []*listener {
	all := make([]*listener, 0, len(f.listeners))
	for l := range f.listeners {
		l.all = true
		all = append(all, l)
	}
	f.wakes += uint64(len(all))
	return all
}

// run follows the log until an error, or until the last listener has left.
func (f *follower) run() {
	defer f.server.followed()
	err := errGoexit
	defer func() { f.fail(err) }() // also if the store ends this goroutine
	err = f.follow()
}

// followed follows when the goroutine of a follower has ended.
func (s *Server) followed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.following--
	s.settle()
}

// follow reads the log whenever it changes. A panic of the store becomes an error.
func (f *follower) follow() (err error) {
	defer recovered(f.server.opt.Logger, &err)
	buf := make([]*Entry, readChunk)
	for {
		f.works()
		changed := f.server.store.Changed() // before the log is read, so that no entry is missed
		if err := f.read(buf); err != nil {
			return err
		}
		clear(buf)
		f.busy.Store(0)
		select {
		case <-changed:
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
	}
}

// works notes that a call of the store begins.
func (f *follower) works() { f.busy.Store(int64(time.Since(f.began)) + 1) }

// stuck reports whether a call of the store has not returned for at least d.
func (f *follower) stuck(d time.Duration) bool {
	busy := f.busy.Load()
	return busy != 0 && time.Since(f.began)-time.Duration(busy) >= d
}

// read reads what the log has more, at least once, because what it had may be another.
func (f *follower) read(buf []*Entry) error {
	store := f.server.store
	short := false // the last read had only the entry at seen
	for again := true; again && f.ctx.Err() == nil; {
		f.works()
		v := store.View()
		if !f.begun || v.Epoch != f.epoch {
			if err := f.begin(v); err != nil {
				return err
			}
		}
		if v.Head < f.seen {
			return errDiverged
		}
		from := f.seen
		if !f.held || short {
			from++
		}
		n, first, err := store.Read(f.ctx, from, buf)
		if err != nil {
			return err
		}
		if store.View().Epoch != f.epoch { // the entries may belong to another one
			continue
		}
		entries := buf[:n]
		short = from == f.seen && n == 1
		if from == f.seen && first <= f.seen {
			if n == 0 || entries[0].Offset != f.seen || entries[0].ID != f.id {
				return errDiverged
			}
			entries = entries[1:]
		}
		f.spread(entries, first)
		again = n > 0 && f.seen < v.Head
	}
	return nil
}

// begin starts at the end of the log. What is before it, subscriptions read themselves.
func (f *follower) begin(v View) error {
	tag, held, err := f.server.store.Tag(f.ctx, v.Head)
	if err != nil {
		return err
	}
	if f.held = held && len(tag) == len(f.id); f.held {
		copy(f.id[:], tag)
	}
	f.mu.Lock()
	f.begun, f.epoch, f.seen = true, v.Epoch, v.Head
	f.order.Reset()
	f.bytes = 0
	for _, d := range f.feeds.all {
		d.items.Reset()
		d.after = 0
	}
	f.raise(v.Head)
	woken := f.everyone()
	f.mu.Unlock()
	for _, l := range woken {
		l.p.poke()
	}
	return nil
}

// raise raises floor. The caller holds mu, and wakes everyone.
func (f *follower) raise(floor uint64) {
	f.floor = floor
	f.round++
}

// spread puts entries into the feeds. first is the offset of the oldest entry that the log
// holds.
func (f *follower) spread(entries []*Entry, first uint64) {
	f.mu.Lock()
	woken := f.woken[:0]
	if first > f.seen+1 { // entries were gone before they could be read
		f.seen, f.held = first-1, false
		f.raise(f.seen)
		woken = append(woken, f.everyone()...)
	}
	wake := func(s *subscription) {
		if l := s.at.listener; len(l.ready) == 0 {
			woken = append(woken, l)
			f.wakes++
		}
		s.at.listener.ready = append(s.at.listener.ready, s)
	}
	for _, s := range f.behind {
		if s.at.behind {
			s.at.behind = false
			wake(s)
		}
	}
	clear(f.behind)
	f.behind = f.behind[:0]
	for _, e := range entries {
		if e.Offset <= f.seen {
			continue
		}
		f.seen, f.id, f.held = e.Offset, e.ID, true
		f.found = f.feeds.match(e.Topic, f.found[:0])
		for _, d := range f.found {
			d.items.Push(e)
			f.order.Push(shared{d, e.Offset, e.size()})
			f.bytes += e.size()
			for _, s := range d.quiet {
				s.at.quiet, s.at.first = 0, e.Offset
				wake(s)
			}
			clear(d.quiet)
			d.quiet = d.quiet[:0]
		}
	}
	clear(f.found)
	f.trim(first)
	f.mu.Unlock()
	for _, l := range woken {
		l.p.poke()
	}
	clear(woken)
	f.woken = woken
}

// trim drops the oldest entries until the bounds are kept and none is older than the log.
// The caller holds mu.
func (f *follower) trim(first uint64) {
	for f.order.Len() > 0 {
		h := *f.order.At(0)
		if limit := f.server.feedLimit; f.order.Len() <= limit.entries && f.bytes <= limit.bytes && h.offset >= first {
			return
		}
		f.order.Drop(1)
		f.bytes -= h.size
		if h.feed.subs > 0 {
			h.feed.items.Drop(1)
			h.feed.after = h.offset
		}
	}
}

// join adds a subscription of l.
func (l *listener) join(s *subscription) {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	d, made := f.feeds.get(s.pattern, s.wild)
	if made {
		d.after = f.seen
	}
	d.subs++
	s.at = at{listener: l, feed: d, round: f.round, taken: math.MaxUint64}
}

// leave removes a subscription of l.
func (l *listener) leave(s *subscription) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.leave(s)
}

// leave removes a subscription, and its feed if it was the last one. The caller holds mu.
func (f *follower) leave(s *subscription) {
	d := s.at.feed
	d.unrest(s)
	s.at.behind = false
	if d.subs--; d.subs == 0 {
		d.items.Reset()
		f.feeds.remove(d)
	}
}

// take returns the subscriptions that have something to read, or all, which may.
func (l *listener) take(dst []*subscription) (ready []*subscription, all bool, err error) {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	ready, all = append(dst, l.ready...), l.all
	clear(l.ready)
	l.ready, l.all = l.ready[:0], false
	return ready, all, f.err
}

// take copies to dst the entries of its feed that s has not read. It moves s.next over what
// does not match. It returns the offset up to which s has everything once it has used dst,
// and false if s must read the log.
func (s *subscription) take(dst []*Entry) (n int, to uint64, ok bool) {
	f, m := s.at.listener.f, &s.at
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.round != f.round {
		m.round, m.taken, m.first = f.round, math.MaxUint64, 0
	}
	known := f.begun && f.epoch == s.epoch
	if known && s.next > m.taken { // it has used all that it was given
		if m.first == 0 {
			s.next = max(s.next, f.seen+1)
		} else {
			s.next = max(s.next, m.first)
		}
	}
	if !known || s.next <= max(m.feed.after, f.floor) {
		if !m.behind {
			m.behind = true
			f.behind = append(f.behind, s)
		}
		return 0, 0, false
	}
	m.behind = false
	items := m.feed.items.All()[m.feed.from(s.next):]
	if n = copy(dst, items); n < len(items) {
		m.taken = math.MaxUint64
		return n, dst[n-1].Offset, true
	}
	m.taken, m.first = f.seen, 0
	m.feed.rest(s)
	return n, max(f.seen, s.next-1), true
}
