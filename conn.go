package limpet

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/pace"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/tasks"
	"github.com/limpet-go/limpet/wire"
)

const (
	closeTimeout = time.Second      // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second // a write must move bytes within it
)

// conn is one connection as the loop sees it.
type conn struct {
	*socket.Conn
	unchosen []string // the subprotocols of the dialect, if the server chose none of them
	gen      uint64
	slots    *tasks.Slots // batches of events that the reader has posted and the loop has not applied
	refusal  int          // with the fallback: the status that refused the upgrade; 0: none did in this attempt
}

func newConn() *conn { return &conn{slots: tasks.NewSlots()} }

// abandon closes without a close frame, except for the answer to the peer's.
func (c *conn) abandon() { c.Close(0, "", closeFrameTimeout) }

// writer makes one write, on a goroutine of its own.
type writer struct {
	conn     *conn
	inbox    *inbox
	counters *counters
}

// write writes the first n frames of u that are not written, and posts how it went.
func (w writer) write(u unwritten, n int) {
	list := u.frames.List[u.from : u.from+n]
	err := w.conn.Send(list)
	bytes := 0
	for _, f := range list {
		bytes += len(f.Data)
	}
	if err == nil {
		w.counters.bytesWritten.Add(uint64(bytes))
	}
	if u.from+n == len(u.frames.List) {
		u.frames.Reset()
		framesPool.Put(u.frames)
	}
	w.inbox.post(wrote{w.conn, asCallersFault(err), u.through, bytes})
}

// unwritten are frames that were encoded and are not all written. The zero value is none.
type unwritten struct {
	frames  *wire.Frames
	from    int    // index of the first that is not written
	through uint64 // highest sequence number among them
	alone   int    // of the first ones, those of Start: others may come between them

	repliesOnly bool // they are pings and pongs
}

// write starts a write of what is encoded: all of it, or as much as there is room for.
func (l *loop) write(k *link, room int) {
	u := k.unwritten
	n := min(len(u.frames.List)-u.from, room)
	if n <= 0 {
		l.waitForRoom(k, room)
		return
	}
	if k.unwritten.from += n; k.unwritten.from == len(u.frames.List) {
		k.unwritten = unwritten{}
	}
	if p := l.pacing; p != nil {
		p.bucket.Take(l.now, n)
		if p.turn || !u.repliesOnly {
			p.starvedSince = time.Time{}
		}
	}
	k.writing, k.writeStarted = true, l.now
	w := writer{k.conn, &l.c.inbox, &l.c.counters}
	l.c.goroutines.Go(func() { w.write(u, n) })
}

// pacing keeps what a client sends within wire.ConnectionLimits. It is the client's, not a
// connection's: a server that counts by address goes on over a reconnect.
type pacing struct {
	bucket       pace.Bucket
	interval     time.Duration // of a token
	starvedSince time.Time     // since when there is no room for what waits; zero: there is, or nothing waits
	turn         bool          // this round has no room for pings and pongs
	perFrame     int           // operations in a frame that are tried next, of a codec without wire.Packer
}

// starving is how many intervals something waits while pings and pongs take all the room.
// Then it has its turn, however often the server asks for signs of life.
const starving = 16

// newPacing returns nil if the server has no limit of messages.
func newPacing(c *wire.ConnectionLimits) *pacing {
	if c.Messages == 0 {
		return nil
	}
	per := c.Per
	if per == 0 {
		per = time.Second
	}
	rate, burst := 0.8*float64(c.Messages)/per.Seconds(), c.Burst*4/5
	if c.Burst == 0 {
		burst = c.Messages / 5 // with four fifths in the time that follows these are all
	}
	return &pacing{bucket: pace.New(rate, burst), interval: time.Duration(float64(time.Second) / rate), perFrame: 2}
}

// roomToSend returns how many frames may be written now.
func (l *loop) roomToSend(k *link) int {
	p := l.pacing
	if p == nil {
		return math.MaxInt
	}
	pings := k.conn.Pings() // whose pongs were sent already
	p.bucket.Take(l.now, int(min(pings-k.pingsCounted, maxReplies)))
	k.pingsCounted = pings
	room := p.bucket.Available(l.now)
	p.turn = (room == 0 || !p.starvedSince.IsZero()) && l.starves(k)
	if p.turn && room == 0 {
		if p.turn = p.bucket.Wait(l.now) > p.interval; p.turn { // after pongs that were sent without room it may never come
			return 1
		}
	}
	return room
}

// starves reports whether something has waited for its turn long enough. It follows when it
// begins to.
func (l *loop) starves(k *link) bool {
	p := l.pacing
	if len(k.ops) == 0 && len(k.toAsk) == 0 && len(l.streams) == 0 && l.window.nextToSend == l.window.slots.Len() && k.unwritten.frames == nil {
		p.starvedSince = time.Time{}
		return false
	}
	if p.starvedSince.IsZero() {
		p.starvedSince = l.now
	}
	return due(p.starvedUntil(), l.now)
}

func (p *pacing) starvedUntil() time.Time { return p.starvedSince.Add(starving * p.interval) }

// waitForRoom makes the loop look again when there is room.
func (l *loop) waitForRoom(k *link, room int) {
	p := l.pacing
	switch {
	case p == nil:
		return
	case p.turn: // it was not used
		p.starvedSince = time.Time{}
	case room > 0:
		return
	}
	k.paceAt = l.now.Add(p.bucket.Wait(l.now))
	if until := p.starvedUntil(); until.After(l.now) && until.Before(k.paceAt) {
		k.paceAt = until
	}
}

// roomForPing reports whether a WebSocket ping may be sent now, and counts it. If not, it
// is due when there is room: a ping comes before everything else.
func (l *loop) roomForPing(k *link) bool {
	p := l.pacing
	if p == nil {
		return true
	}
	if starved := !p.starvedSince.IsZero() && due(p.starvedUntil(), l.now); starved || p.bucket.Available(l.now) == 0 {
		k.pingAt = l.now.Add(max(p.bucket.Wait(l.now), p.interval/16))
		return false
	}
	p.bucket.Take(l.now, 1)
	return true
}

// waitingSteps returns how many steps wait.
func (k *link) waitingSteps() int {
	n := len(k.steps)
	for i := range k.ops {
		if k.ops[i].Kind == wire.OpStep {
			n++
		}
	}
	return n
}

// takeReplies moves pings and pongs to ops, before the welcome steps too: all of them, or
// as many as there is room for.
func (l *loop) takeReplies(k *link, ops []wire.Op, room int) []wire.Op {
	n := min(len(k.replies), max(room, 0))
	if p := l.pacing; p != nil && p.turn {
		n = 0
	}
	ops, k.replies = append(ops, k.replies[:n]...), k.replies[n:]
	if len(k.replies) == 0 {
		k.replies = nil
	}
	if !k.ready {
		k.ops = slices.DeleteFunc(k.ops, func(op wire.Op) bool {
			taken := op.Kind == wire.OpStep && len(ops) < room
			if taken {
				ops = append(ops, op)
			}
			return taken
		})
	}
	k.pingQueued = slices.ContainsFunc(k.replies, func(op wire.Op) bool { return op.Kind == wire.OpPing })
	return ops
}

// insertReplies puts pings and pongs before the frames of Start that wait: these can take
// minutes. With the trait Greeting they belong together.
func (l *loop) insertReplies(k *link, room int) {
	u := &k.unwritten
	if u.from >= u.alone || k.traits.Greeting {
		return
	}
	n := len(u.frames.List)
	l.encode(k, l.takeReplies(k, nil, room), u.frames)
	if l.link == k {
		replies := slices.Clone(u.frames.List[n:])
		u.frames.List = slices.Insert(u.frames.List[:n], u.from, replies...)
		u.alone += len(replies)
		u.repliesOnly = len(replies) > 0 && len(replies) >= room
	}
}

// fitting returns how many of ops fit into as many frames as there is room for, and how
// many frames they take. Where there is room for one frame, one operation fits.
func (l *loop) fitting(k *link, ops []wire.Op, room int) (n, frames int) {
	if l.pacing == nil {
		return len(ops), 0
	}
	if room <= 0 || len(ops) == 0 {
		return 0, 0
	}
	count := func(n int) (frames int) {
		if g, ok := k.codec.(guardedCodec); ok {
			if frames, ok = g.countFrames(ops[:n]); ok {
				return frames
			}
		}
		return (n + l.pacing.perFrame - 1) / l.pacing.perFrame
	}
	if frames = count(len(ops)); frames <= room {
		return len(ops), frames
	}
	n, frames = 1, count(1)
	for tooMany := len(ops); n+1 < tooMany; {
		middle := (n + tooMany) / 2
		if f := count(middle); f <= room {
			n, frames = middle, f
		} else {
			tooMany = middle
		}
	}
	return n, frames
}

// learnPacking follows when ops were encoded as a number of frames, for which there was
// room: it tries more at once the next time, or as many as would have fitted. It reports
// whether there are only pings and pongs.
func (p *pacing) learnPacking(ops []wire.Op, frames, room int) (repliesOnly bool) {
	requests, replies := 0, 0
	for i := range ops {
		switch ops[i].Kind {
		case wire.OpPing, wire.OpPong:
			replies++
		case wire.OpStep, wire.OpPublish, wire.OpBye:
			frames--
			room--
		default:
			requests++
		}
	}
	frames -= replies
	room -= replies
	switch {
	case requests == 0:
	case frames <= room:
		p.perFrame = min(2*p.perFrame, maxAskedAtOnce)
	default:
		p.perFrame = max(1, requests*max(room, 1)/max(frames, 1))
	}
	return replies == len(ops)
}

// fittingRequests is fitting for requests for subscriptions.
func (l *loop) fittingRequests(k *link, subs []*Subscription, room int) (n, frames int) {
	if l.pacing == nil {
		return len(subs), 0
	}
	ops := make([]wire.Op, len(subs))
	for i, s := range subs {
		ops[i] = wire.Op{Kind: wire.OpSubscribe, Key: s.key, Topic: s.topic, Subscribe: &wire.Subscribe{Key: s.key, Topic: s.topic}}
	}
	return l.fitting(k, ops, room)
}

// finishesShutdown reports whether Shutdown has nothing left to write but OpBye.
func (l *loop) finishesShutdown(k *link) bool {
	return l.shuttingDown && l.nothingPending() && len(k.ops) == 0
}

// exceeds returns a *wire.TooBigError for a message beyond a limit that the peer has
// announced.
func (k *link) exceeds(m *wire.Message) error {
	limits := &k.limits
	if m == nil || m.Void {
		return nil
	}
	if limits.Payload > 0 && len(m.Payload) > limits.Payload {
		return &wire.TooBigError{What: "payload bytes", Size: len(m.Payload), Limit: limits.Payload}
	}
	if limits.Headers > 0 && len(m.Header) > limits.Headers {
		return &wire.TooBigError{What: "header count", Size: len(m.Header), Limit: limits.Headers}
	}
	if limits.HeaderSize > 0 && (m.Type != "" || len(m.Header) > 0) {
		size := len(m.Type)
		for name, value := range m.Header {
			size += len(name) + len(value)
		}
		if size > limits.HeaderSize {
			return &wire.TooBigError{What: "header bytes", Size: size, Limit: limits.HeaderSize}
		}
	}
	return nil
}

// exceedsPlaces reports whether the server has no place for s, now or later on the
// connection: what was closed and cannot be ended at the server keeps its place.
func (l *loop) exceedsPlaces(s *Subscription) bool {
	limit := l.c.cfg.traits.Connection.Subscriptions
	if limit == 0 {
		return false
	}
	used := len(l.registry.subs) - l.registry.removed
	if k := l.link; k != nil {
		used += k.abandoned
		if n := k.namedTopics; n != nil {
			for u := range n.served {
				if u.topic != s.topic && l.registry.named(u.topic) == nil {
					used++
				}
			}
		}
	}
	return used >= limit
}

// freePlaces returns how many more subscriptions the server takes on k. One that was
// closed has its place until the server has finished with it.
func (l *loop) freePlaces(k *link) int {
	limit := l.c.cfg.traits.Connection.Subscriptions
	if limit == 0 || len(k.toAsk)+len(k.crowded) == 0 {
		return math.MaxInt
	}
	if n := k.namedTopics; n != nil {
		return max(0, limit-n.holding)
	}
	used := k.abandoned
	for s := range l.registry.all() {
		if k.hasPlace(s) {
			used++
		}
	}
	for i := range k.leaving {
		if !k.leaving[i].ended {
			used++
		}
	}
	return max(0, limit-used)
}

// hasPlace reports whether s counts among the subscriptions of k already.
func (k *link) hasPlace(s *Subscription) bool {
	if k.namedTopics == nil {
		return s.askedGeneration == k.conn.gen
	}
	u := k.usedTopic(s.topic)
	return u != nil && (u.sub == s || u.served)
}

// abandon follows when the client leaves a subscription that it cannot end at the server.
// Where topics are the names of subscriptions, topicUse knows it.
func (k *link) abandon() {
	if k.namedTopics == nil {
		k.abandoned++
	}
}

// waitForPlace makes s wait until the server has a place for it. Where none becomes free, one
// that was not answered ends as if it was not answered again.
func (l *loop) waitForPlace(k *link, s *Subscription) {
	if s.failedAsks > 0 && !k.traits.Unsubscribe {
		l.askFailed(s, &Error{Op: "Subscribe", Field: "topic", Class: ClassTimeout, Err: ErrUnanswered}, 0)
		return
	}
	k.crowded = append(k.crowded, s)
}

// byPriority returns the subscriptions in the order in which the server is asked for them.
func (r *registry) byPriority() iter.Seq[*Subscription] {
	if !r.prioritized {
		return r.all()
	}
	return slices.Values(slices.SortedStableFunc(r.all(), func(a, b *Subscription) int { return cmp.Compare(b.priority, a.priority) }))
}

// queueRequest puts s among those to ask for, before those with a lower priority.
func (k *link) queueRequest(s *Subscription) {
	i := len(k.toAsk)
	for i > 0 && k.toAsk[i-1].priority < s.priority {
		i--
	}
	k.toAsk = slices.Insert(k.toAsk, i, s)
}

// The next control frames get their turn after one write, so it should not take longer
// than a quarter of a heartbeat interval, within these bounds.
const (
	minWriteTime = 50 * time.Millisecond
	maxWriteTime = 500 * time.Millisecond
)

func (k *link) writeTime() time.Duration {
	return min(max(k.heartbeat/4, minWriteTime), maxWriteTime)
}

// followLink adapts the size of the next writes to the time that one of n bytes took.
func (l *loop) followLink(k *link, n int) {
	took, limit := l.now.Sub(k.writeStarted), k.writeTime()
	switch {
	case took > limit:
		fits := int(float64(n) * float64(limit) / float64(took))
		l.writeBytes = min(l.writeBytes, max(fits, minWriteBytes))
	case took < limit/4 && n >= l.writeBytes/2:
		l.writeBytes = min(2*l.writeBytes, maxWriteBytes)
	}
}
