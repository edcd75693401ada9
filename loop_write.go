package limpet

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/wire"
)

// startWrite starts a write if there is something to write and none is in
// progress: what the protocol needs first, then subscriptions, then messages.
func (l *loop) startWrite() {
	k := l.link
	if k == nil {
		return
	}
	k.unencoded, k.paceAt = false, time.Time{}
	if k.writing || k.writeErr != nil || k.fatalError != nil || l.holdsFrames(k) || l.writeStream(k) {
		return
	}
	room := l.roomToSend(k)
	if k.unwritten.frames != nil {
		if l.insertReplies(k, room); l.link == k {
			l.write(k, room)
		}
		return
	}
	frames := framesPool.Get().(*wire.Frames)
	if k.start != nil {
		frames, k.start = k.start, nil
	}
	args := encodeArgsPool.Get().(*encodeArgs)
	ops, left := args.ops, room-len(frames.List)
	if !k.ready {
		ops = l.takeReplies(k, ops, left)
	} else if ops = l.nextOps(k, args, left); len(ops) == 0 && len(frames.List) == 0 && l.finishesShutdown(k) {
		if k.byeSent || !k.traits.Fin {
			l.end(nil)
			return
		}
		if left > 0 {
			k.byeSent = true
			ops = append(ops, wire.Op{Kind: wire.OpBye})
		}
	}
	before := len(frames.List)
	u := unwritten{frames: frames, alone: before, through: l.encode(k, ops, frames)}
	if l.pacing != nil {
		u.repliesOnly = l.learnPacking(ops, len(frames.List)-before, left) && before == 0
	}
	args.ops = ops
	args.reset()
	encodeArgsPool.Put(args)
	l.noteEncoded(k, &u)
	if len(frames.List) == 0 || l.link != k {
		frames.Reset()
		framesPool.Put(frames)
		k.noteWritten(l.now)
		l.confirmWritten(k)
		k.unencoded = room > 0 && (k.unencoded || k.ready && len(k.toAsk) > 0)
		l.waitForRoom(k, room)
		return
	}
	k.unwritten = u
	l.write(k, room)
}

// noteEncoded follows when frames were encoded, or the dialect has failed.
func (l *loop) noteEncoded(k *link, u *unwritten) {
	if l.link == k {
		l.window.countResends(u.through)
		k.confirmed, u.frames.Confirmed = append(k.confirmed, u.frames.Confirmed...), nil
	} else {
		l.window.countResends(0)
	}
	for _, p := range u.frames.Prefetches {
		if s := l.c.routes.keyed(p.Key); s != nil {
			s.queue.limitUnacked(p.Messages)
		}
	}
	u.frames.Prefetches = nil
}

// nextOps returns the operations to encode now: those that wait, requests and messages,
// in as many frames as there is room for.
func (l *loop) nextOps(k *link, args *encodeArgs, room int) []wire.Op {
	ops := l.takeReplies(k, args.ops, room)
	room -= len(ops)
	n, used := l.fitting(k, k.ops, room)
	ops = k.takeOps(ops, n)
	room -= used
	if len(k.ops) == 0 {
		k.ops = nil
		if n := k.namedTopics; n != nil { // not while the end of one may wait
			n.leftInWrite, n.left = n.left, nil
		}
	}
	ops, used = l.askForMore(k, ops, room)
	if l.holdsMessages() {
		return ops
	}
	if l.calls.Len() > 0 {
		before := len(ops)
		ops = l.nextCalls(k, ops, room-used)
		used += len(ops) - before
	}
	ops, args.messages = l.window.nextBatch(ops, args.messages, l.now, l.writeBytes, room-used)
	return ops
}

// Memory is borrowed for one write: an idle client holds none.
var (
	framesPool     = sync.Pool{New: func() any { return new(wire.Frames) }}
	encodeArgsPool = sync.Pool{New: func() any { return new(encodeArgs) }}
)

// encodeArgs holds the arguments of one Encode call.
type encodeArgs struct {
	ops      []wire.Op
	messages []wire.Message // of the ops that publish
}

// reset empties a for window.nextBatch, which sets what most messages have.
// Clearing all of it costs more while the garbage collector is at work.
func (a *encodeArgs) reset() {
	for i := range a.ops {
		if op := &a.ops[i]; op.Kind == wire.OpPublish {
			op.Message = nil
		} else {
			*op = wire.Op{}
		}
	}
	for i := range a.messages {
		m := &a.messages[i]
		m.Topic, m.Payload = "", nil
		if m.Type != "" || m.Header != nil || m.TTL != 0 || m.Resent {
			*m = wire.Message{}
		}
	}
	a.ops, a.messages = a.ops[:0], a.messages[:0]
}

// encode encodes ops and returns the highest sequence number among them. A
// message that cannot be encoded is rejected; those behind it are encoded in
// the next round.
func (l *loop) encode(k *link, ops []wire.Op, out *wire.Frames) (through uint64) {
	if l.c.cfg.traits.Silent {
		return 0
	}
	for len(ops) > 0 {
		err := l.encodeOnce(k, ops, out)
		n := len(ops)
		var oe *wire.OpError
		if err != nil {
			if !errors.As(err, &oe) || oe.Index < 0 || oe.Index >= len(ops) {
				l.violated(k, asViolation(fmt.Errorf("dialect cannot encode: %w", err)))
				return through
			}
			n = oe.Index
			oe = &wire.OpError{Index: n, Err: l.c.secrets.HideError(oe.Err)}
		}
		if n > 0 && ops[n-1].Kind == wire.OpPublish { // messages come last, in order
			through = ops[n-1].Message.Seq
		}
		if err == nil {
			return through
		}
		var panicked *fault.User
		switch bad := &ops[n]; bad.Kind {
		case wire.OpPublish:
			if !l.window.rejectUnencodable(bad.Message.Seq, oe.Err, l.now) || errors.As(err, &panicked) {
				l.violated(k, asViolation(fmt.Errorf("dialect cannot encode: %w", err)))
			}
			k.unencoded = true
			return through // the messages behind it are sent again from there
		case wire.OpSubscribe:
			if s := l.c.routes.keyed(bad.Key); s != nil {
				if u := k.usedTopic(s.topic); u != nil && u.sub == s {
					u.owed = 0 // it was not asked for
				}
				l.endSub(s, &Error{Op: "Subscribe", Class: ClassInput, Err: joinReason(ErrRejected, oe.Err)})
			}
		case wire.OpCall:
			l.calls.Reject(bad.N, oe.Err)
			k.unencoded = true
		default:
			l.reportUnencoded(k, bad.Kind, oe.Err)
		}
		if errors.As(err, &panicked) || ops[n].Kind == wire.OpStep && !k.ready { // it would wait for ever
			l.violated(k, asViolation(oe))
			return through
		}
		ops = ops[n+1:]
	}
	return through
}

// encodeOnce encodes ops. After a panic of Encode it encodes them one by one, to
// find the operation at which Encode panics. An operation with maxEncodePanics is
// named: it is refused, and the next connection does without it.
func (l *loop) encodeOnce(k *link, ops []wire.Op, out *wire.Frames) error {
	step := len(ops)
	if l.encodePanics > 0 {
		l.checkStable(k)
	}
	if l.encodePanics > 0 {
		step = 1
	}
	for i, n := 0, 0; i < len(ops); i += n {
		n = k.leadingOps(ops[i:], step)
		err := k.encodeWithin(ops[i:i+n], out)
		var panicked *fault.User
		var oe *wire.OpError
		switch {
		case errors.As(err, &panicked):
			if l.encodePanics++; step > 1 || l.encodePanics < maxEncodePanics {
				return err
			}
			return &wire.OpError{Index: i, Err: panicked}
		case errors.As(err, &oe):
			return &wire.OpError{Index: i + oe.Index, Err: oe.Err}
		case err != nil:
			return err
		}
	}
	return nil
}

// leadingOps returns how many ops to encode together, at most limit: about as many as
// fit into one frame of the peer.
func (k *link) leadingOps(ops []wire.Op, limit int) (n int) {
	if k.limits.Batch == 0 {
		return min(len(ops), limit)
	}
	const envelope = 32 // at least
	for size := 0; n < min(len(ops), limit); n++ {
		size += envelope
		if m := ops[n].Message; m != nil {
			size += len(m.Topic) + len(m.Payload)
		}
		if n > 0 && size > k.limits.Batch {
			break
		}
	}
	return n
}

// encodeWithin encodes ops. If a frame with several of them exceeds the peer's limit,
// it encodes each half by itself.
func (k *link) encodeWithin(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		if err := k.exceeds(ops[i].Message); err != nil {
			if err := k.encodeWithin(ops[:i], out); err != nil {
				return err
			}
			return &wire.OpError{Index: i, Err: err}
		}
	}
	if len(ops) == 0 {
		return nil
	}
	before, confirmed := len(out.List), len(out.Confirmed)
	err := k.codec.Encode(ops, out)
	tooBig := func(f wire.Frame) bool { return len(f.Data) > k.limits.Batch }
	if k.limits.Batch == 0 || len(ops) == 1 || !slices.ContainsFunc(out.List[before:], tooBig) {
		return err
	}
	clear(out.List[before:])
	out.List, out.Confirmed = out.List[:before], out.Confirmed[:confirmed]
	half := len(ops) / 2
	if err := k.encodeWithin(ops[:half], out); err != nil {
		return err
	}
	err = k.encodeWithin(ops[half:], out)
	if oe := (*wire.OpError)(nil); errors.As(err, &oe) {
		return &wire.OpError{Index: half + oe.Index, Err: oe.Err}
	}
	return err
}

const maxEncodePanics = 3 // until a connection is stable

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
	l.noteSent(n, u.repliesOnly)
	k.writing, k.writeStarted = true, l.now
	w := writer{k.conn, &l.c.inbox, &l.c.counters}
	l.c.goroutines.Go(func() { w.write(u, n) })
}

// roomToSend returns how many frames may be written now.
func (l *loop) roomToSend(k *link) int {
	if l.pacing == nil {
		return math.MaxInt
	}
	if l.pacing.Raise(l.now) {
		l.paceChanged(SendPaceChanged{})
	}
	pings := k.conn.Pings() // whose pongs were sent already
	pongs := min(pings-k.pingsCounted, maxReplies)
	k.pingsCounted = pings
	waits := len(k.ops) > 0 || len(k.toAsk) > 0 || len(l.streams) > 0 || l.calls.Sendable() || l.window.nextToSend < l.window.slots.Len() || k.unwritten.frames != nil
	return l.pacing.Room(l.now, int(pongs), waits)
}

// waitForRoom makes the loop look again when there is room.
func (l *loop) waitForRoom(k *link, room int) { k.paceAt = l.pacing.NextRoom(l.now, room) }

// takeReplies moves pings and pongs to ops, before the welcome steps too: all of them, or
// as many as there is room for.
func (l *loop) takeReplies(k *link, ops []wire.Op, room int) []wire.Op {
	n := min(len(k.replies), max(room, 0))
	if l.pacing.IsTurnOfOthers() {
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
// many frames they take.
func (l *loop) fitting(k *link, ops []wire.Op, room int) (n, frames int) {
	return l.pacing.Fit(len(ops), room, func(n int) (int, bool) {
		if g, ok := k.codec.(*guard.Codec); ok {
			return g.CountFrames(ops[:n])
		}
		return 0, false
	})
}

// learnPacking follows when ops were encoded as a number of frames, for which there was
// room. It reports whether there are only pings and pongs.
func (l *loop) learnPacking(ops []wire.Op, frames, room int) (repliesOnly bool) {
	requests, others := 0, 0
	for i := range ops {
		switch ops[i].Kind {
		case wire.OpPing, wire.OpPong, wire.OpStep, wire.OpPublish, wire.OpCall, wire.OpBye:
			others++
		default:
			requests++
		}
	}
	l.pacing.Learn(requests, frames-others, room-others, maxAskedAtOnce)
	return !slices.ContainsFunc(ops, func(op wire.Op) bool { return op.Kind != wire.OpPing && op.Kind != wire.OpPong })
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

// reportUnencoded reports an operation that no caller waits for and that the dialect could
// not encode, once for each kind on a connection.
func (l *loop) reportUnencoded(k *link, kind wire.OpKind, err error) {
	if kind == wire.OpAuth {
		l.refreshFailed(k, &Error{Op: "refresh", Field: fault.OptionDialect, Class: ClassUser, Err: err}, 0)
		return
	}
	if bit := uint32(1) << (kind % 32); k.unencodable&bit == 0 {
		k.unencodable |= bit
		l.c.notify.post(CallbackFailed{fault.OptionDialect, &Error{Op: "Encode", Field: fault.OptionDialect, Class: ClassUser, Detail: kind.String(), Err: err}})
	}
}

// appendReused extends s by one element. The element is zero, or as
// encodeArgs.reset left it.
func appendReused[T any](s []T) ([]T, *T) {
	if len(s) == cap(s) {
		s = slices.Grow(s, 1)
	}
	s = s[:len(s)+1]
	return s, &s[len(s)-1]
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
