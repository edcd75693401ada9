package limpet

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/text"
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
	if k.writing || k.writeErr != nil || k.fatalError != nil || l.writeStream(k) {
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
	if p := l.pacing; p != nil {
		u.repliesOnly = p.learnPacking(ops, len(frames.List)-before, left) && before == 0
	}
	if l.link == k {
		l.window.countResends(u.through)
	} else {
		l.window.countResends(0)
	}
	args.ops = ops
	args.reset()
	encodeArgsPool.Put(args)
	if l.link == k {
		k.confirmed, frames.Confirmed = append(k.confirmed, frames.Confirmed...), nil
	}
	for _, p := range frames.Prefetches {
		if s := l.c.routes.keyed(p.Key); s != nil {
			s.queue.limitUnacked(p.Messages)
		}
	}
	frames.Prefetches = nil
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

// askForMore appends the subscriptions to ask for, in as many frames as there is room
// for, and returns their number.
func (l *loop) askForMore(k *link, ops []wire.Op, room int) (more []wire.Op, frames int) {
	if room <= 0 {
		return ops, 0
	}
	if part := l.nextPart(k); len(part) > 0 {
		n, frames := l.fittingRequests(k, part, room)
		if topics := k.namedTopics; n < len(part) {
			topics.suspects, topics.trial = slices.Insert(topics.suspects, 0, part[n:]), topics.trial[:n]
		}
		for _, s := range part[:n] {
			l.withdraw(k, s)
			ops = append(ops, l.askFor(k, s))
		}
		return ops, frames
	}
	chosen := l.nextToAsk(k)
	n, frames := l.fittingRequests(k, chosen, room)
	if n < len(chosen) {
		k.toAsk = slices.Concat(chosen[n:], k.toAsk)
	}
	for _, s := range chosen[:n] {
		if !l.askedOnLink(s) { // once, however often it was to be asked for
			ops = append(ops, l.askFor(k, s))
		}
	}
	return ops, frames
}

// nextToAsk takes the subscriptions to ask for next, at most maxAskedAtOnce of them:
// other frames get their turn between two writes. One that was not answered before
// has a write of its own, since a server may fail to answer a whole request because
// of one bad topic in it, or because it is too big.
func (l *loop) nextToAsk(k *link) (chosen []*Subscription) {
	places := l.freePlaces(k)
	if places > 0 && len(k.crowded) > 0 {
		k.toAsk, k.crowded = append(k.crowded, k.toAsk...), nil
	}
	for len(k.toAsk) > 0 && len(chosen) < maxAskedAtOnce {
		s := k.toAsk[0]
		if s.isAskedAlone() && len(chosen) > 0 {
			break
		}
		k.toAsk = k.toAsk[1:]
		if l.askedOnLink(s) || s.state.Load().Phase == SubEnded || k.mustWaitForTopic(s) {
			continue
		}
		if !k.hasPlace(s) {
			if places == 0 {
				l.waitForPlace(k, s)
				continue
			}
			places--
		}
		if chosen = append(chosen, s); s.isAskedAlone() {
			break
		}
	}
	return chosen
}

// askFor returns the request for s on k.
func (l *loop) askFor(k *link, s *Subscription) wire.Op {
	traits := &l.c.cfg.traits
	u := k.usedTopic(s.topic)
	served := u != nil && u.served
	l.noteReceived(s)
	request := l.registry.request(s, k.conn.gen, u != nil && u.tail && traits.Confirms)
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
	l.forgetWritten(k)
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
// for is asked for again in parts; one topic alone is refused for now. If the server
// says when to ask again, all of it is asked for then.
func (l *loop) requestRefused(k *link, ev *wire.Event) {
	open := l.oldestRequest(k)
	err := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Code: shownCode(ev.Code, ev.PeerCode), Detail: text.Quote(ev.Reason), Err: ErrRejected}
	switch {
	case ev.Retry > 0:
		for _, s := range open {
			l.refused(s, err, ev.Retry)
		}
	case len(open) == 1:
		l.askFailed(open[0], err, 0)
	default:
		l.askInParts(k, open)
	}
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
	if k.writing || k.unwritten.frames != nil || oldest != nil {
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
