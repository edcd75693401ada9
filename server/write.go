package server

import (
	"errors"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/wire/native"
)

// writer is the state of the goroutine that writes to a connection.
type writer struct {
	p       *peer
	log     readable
	search  searcher
	session *session // nil before WELCOME
	subs    []*subscription
	byCh    map[uint64]*subscription  // subs by channel
	due     fifo.Queue[*subscription] // may have something to send, in order of their turns
	epoch   string                    // of the log when all were made due
	feeds   *listener                 // nil before the first subscription
	limit   int                       // of messages in a batch, in bytes: it follows the speed of the link
	full    bool                      // the batch had no room for what pump offered
	until   time.Time                 // when pump pauses

	frames []native.Frame // the current batch
	size   int            // upper bound of its encoded size
	room   *room          // nil while the writer waits

	wrote   time.Time     // time of the last write
	looked  time.Time     // when watch was called last
	expires time.Time     // of the principal; zero: never
	beat    time.Duration // something is sent at least as often
	reads   uint64        // bytes of the longest message that the client reads; 0: not known
}

// room is the memory that a writer needs only while it writes.
type room struct {
	data    []byte            // the encoded batch
	frames  []native.Frame    // empty
	entries [readChunk]*Entry // read of the log
	ready   []*subscription
}

var rooms = sync.Pool{New: func() any { return new(room) }}

// write sends what is due until the connection ends, then closes it.
func (p *peer) write() {
	defer close(p.gone)
	w := &writer{p: p, log: p.messages, search: searcher{p: p}, wrote: time.Now(), limit: batchLimit, byCh: map[uint64]*subscription{}}
	err := errGoexit
	defer func() { w.close(err) }() // also if the log ends this goroutine
	err = w.run()
}

// close ends the connection because of err, or as peer.end says if err is nil.
func (w *writer) close(err error) {
	p := w.p
	w.shrink()
	if panicked := (*panicError)(nil); errors.As(err, &panicked) || err == errGoexit {
		err = w.broken(err)
	}
	if err != nil {
		if stalled(err) {
			p.server.stats.slow.Add(1)
			p.log.Warn("peer does not read", "code", native.CloseSlowConsumer)
		}
		p.stop(0, "writing failed", true)
	}
	p.mu.Lock()
	end := p.end
	p.mu.Unlock()
	if end.code != 0 && err == nil {
		p.sock.close(end.code, end.reason)
	}
	p.sock.abort()
	w.search.ended.Wait()
	if end.timer != nil {
		end.timer.Stop()
	}
	if w.feeds != nil {
		w.feeds.end(w.subs)
	}
	p.server.stats.subscriptions.Add(-int64(len(w.subs)))
}

// run returns nil when the connection is to end as p.end says. A panic of the log
// becomes an error.
func (w *writer) run() (err error) {
	defer recovered(w.p.log, &err)
	p := w.p
	var rings time.Time // when timer wakes this goroutine
	timer := time.AfterFunc(p.server.opt.HelloTimeout, p.poke)
	defer timer.Stop()
	for {
		w.grow()
		orders, end, busy := p.takeOrders()
		if end != nil && end.mute {
			return nil
		}
		for i := range orders {
			if err := w.execute(&orders[i]); err != nil {
				return err
			}
		}
		if err := w.answer(); err != nil {
			return err
		}
		if end != nil {
			if err := w.flush(); err != nil || !busy {
				return err
			}
			timer.Reset(time.Until(end.waits)) // what read has accepted is acknowledged first
			<-p.wake
			continue
		}
		more, err := w.pump()
		if err != nil {
			return err
		}
		if err := w.flush(); err != nil {
			return err
		}
		next := w.watch()
		if err := w.flush(); err != nil { // of a ping
			return err
		}
		if more {
			continue
		}
		w.shrink()
		// A timer that fires too early costs less than to set it for each message.
		if !rings.After(w.looked) || next.Before(rings) {
			timer.Reset(time.Until(next))
			rings = next
		}
		<-p.wake // whatever has come since takeOrders has left a token
	}
}

// answer adds the frames that answer what read has accepted or asked for.
func (w *writer) answer() error {
	if err := w.found(); err != nil {
		return err
	}
	if err := w.acks(); err != nil {
		return err
	}
	return w.needs()
}

// takeOrders returns what read has asked for since the last call, and how the connection is to
// end, if it is. busy means that read still accepts messages that are to be acknowledged first.
func (p *peer) takeOrders() (orders []order, end *ending, busy bool) {
	p.mu.Lock()
	orders, end = p.queue, p.end
	busy = p.busy && end != nil && time.Now().Before(end.waits)
	p.queue = nil
	p.mu.Unlock()
	if len(orders) >= queueLimit {
		select {
		case p.room <- struct{}{}:
		default:
		}
	}
	return orders, end, busy
}

// execute does what read asked for.
func (w *writer) execute(o *order) error {
	p := w.p
	switch o.kind {
	case orderSend:
		return w.put(w.readable(&o.frame))
	case orderWelcome:
		w.session, w.expires, w.beat, w.reads = o.session, o.expires, o.beat, o.limit
		if err := w.put(&o.frame); err != nil {
			return err
		}
		return w.flush() // before the log is read: the client waits for it
	case orderSubscribe:
		s := o.sub
		s.place = len(w.subs)
		w.subs = append(w.subs, s)
		w.byCh[s.ch] = s
		if w.feeds == nil {
			w.feeds = p.server.listen(p)
		}
		w.feeds.join(s)
		w.serve(s)
		p.server.stats.subscriptions.Add(1)
		if s.search != nil {
			w.search.add(s.search)
		}
		for i := range o.first {
			w.count(&o.first[i])
			if err := w.put(&o.first[i]); err != nil {
				return err
			}
		}
	case orderExpires:
		w.expires = o.expires
		return w.put(&o.frame)
	case orderUnsubscribe:
		if s := w.byCh[o.credit.Ch]; s != nil {
			w.remove(s)
			p.server.stats.subscriptions.Add(-1)
		}
	case orderCredit:
		if s := w.byCh[o.credit.Ch]; s != nil {
			s.grant(native.Credit{N: o.credit.N, B: o.credit.B})
			w.serve(s)
		}
	}
	return nil
}

// found answers the subscriptions whose search has ended.
func (w *writer) found() error {
	for _, q := range w.search.take() {
		s := q.sub
		if w.byCh[s.ch] != s {
			continue // the client has unsubscribed
		}
		if q.err != nil {
			return w.broken(q.err)
		}
		s.search = nil
		w.serve(s)
		f := s.begin(q.view, q.at(), q.tag, false)
		if err := w.put(&f); err != nil {
			return err
		}
	}
	return nil
}

// broken ends the connection because the log cannot be read, unless it has ended: then
// that is why.
func (w *writer) broken(err error) error {
	if w.p.ctx.Err() != nil {
		return nil
	}
	w.p.log.Error("the log cannot be read", "error", err)
	w.p.stop(native.CloseBackendUnavailable, "the log is not available", true)
	return nil
}

// remove removes s. The last one takes its place, so that it costs the same however
// many there are.
func (w *writer) remove(s *subscription) {
	w.feeds.leave(s)
	delete(w.byCh, s.ch)
	last := len(w.subs) - 1
	w.subs[s.place] = w.subs[last]
	w.subs[s.place].place = s.place
	w.subs[last] = nil
	w.subs = w.subs[:last]
}

// serve makes s due.
func (w *writer) serve(s *subscription) {
	if !s.due {
		s.due = true
		w.due.Push(s)
	}
}

// pump fills the batch from the log, each due subscription in turn, for at most about
// pumpTime. It returns true if there is more to send at once.
func (w *writer) pump() (more bool, err error) {
	if len(w.subs) == 0 && w.due.Len() == 0 {
		return false, nil
	}
	v, err := w.concerned()
	if err != nil {
		return true, w.broken(err)
	}
	w.until, w.full = time.Now().Add(pumpTime), false
	for n := w.due.Len(); n > 0 && !w.full; n-- {
		s, more := *w.due.At(0), false
		if w.byCh[s.ch] == s && s.search == nil {
			sent := len(w.frames)
			if more, err = s.fill(w.log, v, w.room.entries[:], w); err != nil {
				return true, w.broken(err)
			}
			if w.full && len(w.frames) == sent {
				break // its turn is the first one of the next batch
			}
		}
		w.due.Drop(1)
		s.due = false
		if more {
			w.serve(s)
		}
		if n > 1 && w.late() {
			break
		}
	}
	return w.due.Len() > 0, nil
}

// concerned makes the subscriptions due that have something to read, and returns the view in
// which they read it. The error is why the follower of the log has ended, if it has.
func (w *writer) concerned() (View, error) {
	ready, all, err := w.feeds.take(w.room.ready[:0])
	w.room.ready = ready
	if f := w.feeds.f; err == nil && f.stuck(5*w.p.server.opt.Heartbeat/2) {
		err = errStuck
		f.fail(err)
	}
	if err != nil {
		return View{}, err
	}
	v := w.log.View()
	if all || v.Epoch != w.epoch {
		w.epoch, ready = v.Epoch, w.subs
	}
	for _, s := range ready {
		w.serve(s)
	}
	return v, nil
}

// late reports whether pump has read the log for as long as it may.
func (w *writer) late() bool { return !time.Now().Before(w.until) }

// offer adds a frame to the batch if it fits, or if the batch is empty.
func (w *writer) offer(f *native.Frame) bool {
	n := native.Size(w.p.enc, f)
	if len(w.frames) > 0 && w.size+n > w.limit-2 {
		w.full = true
		return false
	}
	w.frames = append(w.frames, *f)
	w.size += n
	w.count(f)
	return true
}

// exceeds reports whether the client cannot read a message, which would be a batch by
// itself. native.Size may be too high for JSON, so the encoded length decides.
func (w *writer) exceeds(f *native.Frame) bool {
	m := &f.Msg
	small := len(m.Payload)+len(m.Type) < minBatch && len(m.Header) == 0 // in JSON too
	if w.reads == 0 || small || uint64(native.Size(w.p.enc, f)) <= w.reads {
		return false
	}
	if uint64(len(m.Payload)) > w.reads {
		return true
	}
	data, err := native.Append(nil, w.p.enc, []native.Frame{*f})
	return err == nil && uint64(len(data)) > w.reads
}

// put adds a frame to the batch. If it does not fit, the batch is written first.
func (w *writer) put(f *native.Frame) error {
	n := native.Size(w.p.enc, f)
	if len(w.frames) > 0 && w.size+n > batchLimit-2 || len(w.frames) >= native.MaxFrames {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.frames = append(w.frames, *f)
	w.size += n
	return nil
}

// flush writes the batch.
func (w *writer) flush() error {
	if len(w.frames) == 0 {
		return nil
	}
	data, err := native.Append(w.room.data[:0], w.p.enc, w.frames)
	if err != nil {
		w.p.log.Error("frames could not be encoded", "error", quote(err.Error()))
		return err
	}
	w.room.data = data
	clear(w.frames)
	w.frames, w.size = w.frames[:0], 0
	began := time.Now()
	if err := w.p.sock.write(w.p.enc.FrameType(), data); err != nil {
		return err
	}
	w.wrote = time.Now()
	// Answers and acks wait for the end of a write.
	switch took := w.wrote.Sub(began); {
	case took > writeTime:
		w.limit = min(w.limit, max(int(float64(len(data))*float64(writeTime)/float64(took)), minBatch))
	case took < writeTime/4 && len(data) >= w.limit/2:
		w.limit = min(2*w.limit, batchLimit)
	}
	return nil
}

// grow gets the memory that shrink has released.
func (w *writer) grow() {
	if w.room == nil {
		w.room = rooms.Get().(*room)
		w.frames = w.room.frames
	}
}

// shrink releases memory before a wait.
func (w *writer) shrink() {
	r := w.room
	if r == nil {
		return
	}
	clear(w.frames)
	r.frames, w.frames, w.room = w.frames[:0], nil, nil
	if cap(r.frames) > 256 {
		r.frames = nil
	}
	clear(r.entries[:])
	clear(r.ready)
	r.ready = r.ready[:0]
	rooms.Put(r)
}

// count counts a frame in the statistics.
func (w *writer) count(f *native.Frame) {
	st := &w.p.server.stats
	switch f.Type {
	case native.TypeMsg:
		st.delivered.Add(1)
	case native.TypeGap:
		st.gaps.Add(1)
	case native.TypeReset:
		st.resets.Add(1)
	}
}

// watch handles the timeouts: HELLO, heartbeat, silence of the client and expiry of
// the token. It returns when the next one is due.
func (w *writer) watch() time.Time {
	p, o := w.p, w.p.server.opt
	now := time.Now()
	w.looked = now
	if w.session == nil {
		if by := p.started.Add(o.HelloTimeout); by.After(now) {
			return by
		}
		if !p.greeted.Load() {
			p.server.stats.noHello.Add(1)
			p.stop(native.CloseHelloTimeout, "no hello", false)
			return now
		}
		by := p.started.Add(o.HelloTimeout + authTimeout)
		if !by.After(now) {
			p.stop(native.CloseInternal, "hello was not decided in time", true)
		}
		return by
	}
	wait := w.beat - now.Sub(w.wrote)
	if wait <= 0 {
		if len(w.frames) == 0 {
			w.frames = append(w.frames, native.Frame{Type: native.TypePing, N: uint64(now.UnixMilli())})
		}
		wait = w.beat
	}
	timeout := 5 * o.Heartbeat / 2
	left := timeout
	if !p.working.Load() {
		left = timeout - p.sock.raw.silence()
	}
	if left <= 0 {
		p.server.stats.dead.Add(1)
		p.stop(native.CloseHeartbeatTimeout, "nothing received for 2.5 heartbeats", true)
		return now
	}
	wait = min(wait, left, w.session.touch(now))
	if !w.expires.IsZero() {
		left := w.expires.Sub(now)
		if left <= 0 {
			p.stop(native.CloseAuthExpired, "the token has expired", false)
			return now
		}
		wait = min(wait, left)
	}
	return now.Add(wait)
}
