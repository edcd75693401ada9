package limpet

import (
	"errors"
	"slices"
	"sync"

	"github.com/limpet-go/limpet/wire"
)

// flush starts a write if there is something to write and none is under way:
// what the protocol needs first, then subscriptions, then messages.
func (l *loop) flush() {
	l.again = false
	if l.conn == nil || l.writing || l.writeErr != nil {
		return
	}
	l.registry.publish()
	frames := framesPool.Get().(*wire.Frames)
	if l.start != nil {
		frames, l.start = l.start, nil
	}
	lent := sayPool.Get().(*say)
	ops := append(lent.ops, l.ops...)
	l.ops = nil
	if l.ready {
		ops = l.askMore(ops)
		ops, lent.messages = l.window.nextBatch(ops, lent.messages, l.now, batchBytes)
		if len(ops) == 0 && len(frames.List) == 0 && l.idle() && l.shutdown {
			if l.bye || !l.c.cfg.traits.Fin {
				l.end(nil)
				return
			}
			l.bye = true
			ops = append(ops, wire.Op{Kind: wire.OpBye})
		}
	} else {
		ops = l.handshakeOps(ops)
	}
	through := l.encode(ops, frames)
	lent.ops = ops
	lent.reset()
	sayPool.Put(lent)
	if len(frames.List) == 0 || l.conn == nil {
		frames.Reset()
		framesPool.Put(frames)
		return
	}
	l.writing, l.writeSince = true, l.now
	k := l.conn
	l.c.spawn(&l.c.workers, func() { l.c.write(k, frames, through) })
}

// The memory of a write is lent for it: an idle client holds none.
var (
	framesPool = sync.Pool{New: func() any { return new(wire.Frames) }}
	sayPool    = sync.Pool{New: func() any { return new(say) }}
)

// say is what one call of Encode is given.
type say struct {
	ops      []wire.Op
	messages []wire.Message // of the ops that publish
}

// reset empties s for window.nextBatch, which sets what most messages have. To
// clear all of it costs more while the garbage collector is at work.
func (s *say) reset() {
	for i := range s.ops {
		if op := &s.ops[i]; op.Kind == wire.OpPublish {
			op.Message = nil
		} else {
			*op = wire.Op{}
		}
	}
	for i := range s.messages {
		m := &s.messages[i]
		m.Topic, m.Payload = "", nil
		if m.Type != "" || m.Header != nil || m.TTL != 0 || m.Resent {
			*m = wire.Message{}
		}
	}
	s.ops, s.messages = s.ops[:0], s.messages[:0]
}

// handshakeOps keeps back what may be said only after the welcome.
func (l *loop) handshakeOps(ops []wire.Op) []wire.Op {
	var now []wire.Op
	for _, op := range ops {
		if op.Kind == wire.OpStep || op.Kind == wire.OpPong || op.Kind == wire.OpPing {
			now = append(now, op)
		} else {
			l.ops = append(l.ops, op)
		}
	}
	return now
}

// askMore appends the subscriptions to ask for, so many at a time that half of
// what was asked is answered before more is.
func (l *loop) askMore(ops []wire.Op) []wire.Op {
	confirms := l.c.cfg.traits.Confirms
	if len(l.ask) == 0 || confirms && l.asking > subsAtOnce/2 {
		return ops
	}
	for len(l.ask) > 0 && l.asking < subsAtOnce {
		s := l.ask[0]
		l.ask = l.ask[1:]
		if s.asked || s.state.Load().Phase == SubEnded {
			continue
		}
		request := s.request(l.conn.gen)
		s.asked = true
		ops = append(ops, wire.Op{Kind: wire.OpSubscribe, Key: s.key, Cmd: s.key*4 + 1, Topic: s.topic, Subscribe: &request})
		if confirms {
			l.asking++
		} else {
			l.setSub(s, SubState{Phase: SubLive, Generation: l.conn.gen})
		}
	}
	return ops
}

// encode spells ops and returns the highest sequence number among them. A
// message that cannot be spelled is rejected, and the others are spelled in
// the next round.
func (l *loop) encode(ops []wire.Op, out *wire.Frames) (through uint64) {
	if l.c.cfg.traits.Silent {
		return 0
	}
	for len(ops) > 0 {
		err := l.codec.Encode(ops, out)
		n := len(ops)
		var oe *wire.OpError
		if err != nil {
			if !errors.As(err, &oe) || oe.Index < 0 || oe.Index >= len(ops) {
				l.fault(&wire.CodeError{Code: 1002, Reason: "dialect cannot encode"})
				return through
			}
			n = oe.Index
		}
		if n > 0 && ops[n-1].Kind == wire.OpPublish { // messages come last, in order
			through = ops[n-1].Message.Seq
		}
		if err == nil {
			return through
		}
		switch bad := &ops[n]; bad.Kind {
		case wire.OpPublish:
			if !l.window.rejectUnencodable(bad.Message.Seq, oe.Err, l.now) {
				l.fault(&wire.CodeError{Code: 1002, Reason: "dialect cannot encode"})
			}
			l.again = true
			return through // messages come last: the rest is sent again from there
		case wire.OpSubscribe:
			l.refuseSub(bad.Key, oe.Err)
		}
		ops = ops[n+1:]
	}
	return through
}

func (l *loop) refuseSub(key uint64, cause error) {
	s := l.c.routes.Load().keyed(key)
	if s == nil {
		return
	}
	err := &Error{Op: "Subscribe", Class: ClassInput, Err: joinReason(ErrRejected, cause)}
	l.asking--
	l.endSub(s, err)
}

// idle reports whether nothing is left to do before an ordered end.
func (l *loop) idle() bool { return l.window.pending == 0 && l.drainedSubs() }

// drainedSubs forgets the ended subscriptions whose consumers have taken
// everything and reports whether that was all of them.
func (l *loop) drainedSubs() bool {
	l.draining = slices.DeleteFunc(l.draining, func(s *Subscription) bool { return s.queue.drained() })
	return len(l.draining) == 0
}
