package limpet

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// startWrite starts a write if there is something to write and none is in
// progress: what the protocol needs first, then subscriptions, then messages.
func (l *loop) startWrite() {
	k := l.link
	if k == nil {
		return
	}
	k.unencoded = false
	if k.writing || k.writeErr != nil || k.fatalError != nil {
		return
	}
	frames := framesPool.Get().(*wire.Frames)
	if k.start != nil {
		frames, k.start = k.start, nil
	}
	args := encodeArgsPool.Get().(*encodeArgs)
	ops := append(args.ops, k.ops...)
	k.ops, k.pingQueued = nil, false
	if k.ready {
		if n := k.namedTopics; n != nil {
			n.leftInWrite, n.left = n.left, nil
		}
		ops = l.askForMore(k, ops)
		ops, args.messages = l.window.nextBatch(ops, args.messages, l.now, l.writeBytes)
		if len(ops) == 0 && len(frames.List) == 0 && l.nothingPending() && l.shuttingDown {
			if k.byeSent || !k.traits.Fin {
				l.end(nil)
				return
			}
			k.byeSent = true
			ops = append(ops, wire.Op{Kind: wire.OpBye})
		}
	} else {
		ops = k.handshakeOps(ops)
	}
	through := l.encode(k, ops, frames)
	if l.link == k {
		l.window.countResends(through)
	} else {
		l.window.countResends(0)
	}
	args.ops = ops
	args.reset()
	encodeArgsPool.Put(args)
	if l.link == k {
		k.confirmed, frames.Confirmed = append(k.confirmed, frames.Confirmed...), nil
	}
	if len(frames.List) == 0 || l.link != k {
		frames.Reset()
		framesPool.Put(frames)
		k.noteWritten(l.now)
		l.confirmWritten(k)
		k.unencoded = k.unencoded || k.ready && len(k.toAsk) > 0
		return
	}
	k.writing, k.writeStarted = true, l.now
	w := writer{k.conn, &l.c.inbox, &l.c.counters}
	l.c.goroutines.spawn(func() { w.write(frames, through) })
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

// handshakeOps returns the operations that are allowed before the welcome and
// keeps the others for later.
func (k *link) handshakeOps(ops []wire.Op) []wire.Op {
	var allowed []wire.Op
	for _, op := range ops {
		if op.Kind == wire.OpStep || op.Kind == wire.OpPong || op.Kind == wire.OpPing {
			allowed = append(allowed, op)
		} else {
			k.ops = append(k.ops, op)
		}
	}
	return allowed
}

// askForMore appends the subscriptions to ask for, at most maxAskedAtOnce of them:
// other frames get their turn between two writes. One that was not answered before
// has a write of its own, since a server may fail to answer a whole request because
// of one bad topic in it.
func (l *loop) askForMore(k *link, ops []wire.Op) []wire.Op {
	if part := l.nextPart(k); len(part) > 0 {
		for _, s := range part {
			l.withdraw(k, s)
			ops = append(ops, l.askFor(k, s))
		}
		return ops
	}
	for n := 0; len(k.toAsk) > 0 && n < maxAskedAtOnce; n++ {
		s := k.toAsk[0]
		if s.failedAsks > 0 && n > 0 {
			break
		}
		k.toAsk = k.toAsk[1:]
		if l.askedOnLink(s) || s.state.Load().Phase == SubEnded || k.mustWaitForTopic(s) {
			n--
			continue
		}
		ops = append(ops, l.askFor(k, s))
		if s.failedAsks > 0 {
			break
		}
	}
	return ops
}

// askFor returns the request for s on k.
func (l *loop) askFor(k *link, s *Subscription) wire.Op {
	traits := &l.c.cfg.traits
	u := k.usedTopic(s.topic)
	served := u != nil && u.served
	l.noteReceived(s)
	request := s.request(k.conn.gen, u != nil && u.tail && traits.Confirms)
	s.askedGeneration = k.conn.gen
	l.noteAsk(k, s)
	if !traits.Confirms || served {
		s.queue.assumeLive()
		l.enterLive(k, s, false)
	}
	l.c.first.arrive()
	return wire.Op{Kind: wire.OpSubscribe, Key: s.key, Cmd: s.key*4 + 1, Topic: s.topic, Subscribe: &request}
}

// confirmWritten confirms the subscriptions whose requests were written and to which the
// server gives no answer.
func (l *loop) confirmWritten(k *link) {
	for _, key := range k.confirmed {
		s := l.c.routes.keyed(key)
		if s == nil || l.link != k {
			continue
		}
		ev := wire.Event{Kind: wire.EventSubscribed, Key: key, Continuity: wire.ContinuityByNumber}
		losses, err := s.queue.offer(k.conn.gen, []wire.Event{ev}, &l.now)
		if err != nil {
			l.violated(k, err)
			return
		}
		events := received{k.conn, nil}
		for _, e := range append(losses, ev) {
			events.events = append(events.events, routedEvent{s, e})
		}
		events.handle(l)
	}
	k.confirmed = nil
}

// requestRefused follows when the server refuses a request without naming the
// topic. A server answers in order, so the oldest request is meant. What it asked
// for is asked for again in parts; one topic alone is refused for now.
func (l *loop) requestRefused(k *link, ev *wire.Event) {
	open := l.oldestRequest(k)
	if len(open) == 1 {
		l.askFailed(open[0], &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Code: shownCode(ev.Code, ev.PeerCode), Detail: peerText(ev.Reason), Err: ErrRejected}, 0)
		return
	}
	l.askInParts(k, open)
}

// askInParts asks again for what one request named.
func (l *loop) askInParts(k *link, subs []*Subscription) {
	if len(subs) == 0 {
		return
	}
	size := min((len(subs)+1)/2, maxAskedAtOnce)
	k.namedTopics.suspects = append(slices.Collect(slices.Chunk(subs, size)), k.namedTopics.suspects...)
}

// oldestRequest takes an error for the refusal of the oldest request without an
// answer, and returns those of its subscriptions that wait for one. The error may
// mean something else, so an answer is still owed: only time makes the topics free.
func (l *loop) oldestRequest(k *link) (open []*Subscription) {
	var oldest *ask
	take := func(asks []ask) {
		for i := range asks {
			a := &asks[i]
			if oldest != nil && a.write != oldest.write {
				return
			}
			if !l.waitsForAnswer(a) {
				continue
			}
			if oldest == nil {
				oldest = a
			}
			a.blamed = true
			if a.use.sub == a.sub {
				k.answeredUpTo, k.answeredAt = max(k.answeredUpTo, a.number), l.now
				a.sub.askNumber = 0
				open = append(open, a.sub)
			}
		}
	}
	take(k.unanswered.All())
	if k.writing || oldest != nil {
		take(k.asked)
	}
	return open
}

// waitsForAnswer reports whether an answer to a is to come: for its subscription, or
// before its topic is free.
func (l *loop) waitsForAnswer(a *ask) bool {
	switch {
	case a.use == nil || a.use.owed == 0 || a.blamed:
		return false
	case a.use.sub == a.sub:
		return l.isOpen(a)
	}
	return a.use.leaving && a.use.sub == nil && a.number == a.sub.askNumber
}

// nextPart returns the next part of a request that was refused, once the part before
// it was answered. If that took too long, the others do not wait.
func (l *loop) nextPart(k *link) []*Subscription {
	waits := func(s *Subscription) bool { return s.state.Load().Phase == SubPending && l.askedOnLink(s) }
	n := k.namedTopics
	if n == nil {
		return nil
	}
	for len(n.trial) > 0 && (n.mute || !waits(n.trial[0]) || n.trial[0].askNumber == 0 || !n.trial[0].askAgainAt.IsZero()) {
		n.trial = n.trial[1:]
	}
	for len(n.trial) == 0 && len(n.suspects) > 0 {
		part := n.suspects[0]
		n.suspects = n.suspects[1:]
		n.trial = slices.DeleteFunc(part, func(s *Subscription) bool { return !waits(s) || s.askNumber != 0 })
		if len(n.trial) > 0 {
			return slices.Clone(n.trial)
		}
	}
	n.mute = n.mute && len(n.suspects) > 0
	return nil
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
		var panicked *userError
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
		}
		if errors.As(err, &panicked) {
			l.violated(k, err)
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
		var panicked *userError
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

const maxEncodePanics = 3 // until a connection is stable

// appendReused extends s by one element. The element is zero, or as
// encodeArgs.reset left it.
func appendReused[T any](s []T) ([]T, *T) {
	if len(s) == cap(s) {
		s = slices.Grow(s, 1)
	}
	s = s[:len(s)+1]
	return s, &s[len(s)-1]
}
