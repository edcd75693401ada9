package limpet

import (
	"errors"
	"fmt"
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
	if k.writing || k.writeErr != nil {
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
		ops = l.askForMore(k, ops)
		ops, args.messages = l.window.nextBatch(ops, args.messages, l.now, l.writeBytes)
		if len(ops) == 0 && len(frames.List) == 0 && l.nothingPending() && l.shuttingDown {
			if k.byeSent || !l.c.cfg.traits.Fin {
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
	args.ops = ops
	args.reset()
	encodeArgsPool.Put(args)
	if len(frames.List) == 0 || l.link != k {
		frames.Reset()
		framesPool.Put(frames)
		k.noteWritten(l.now)
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
	for n := 0; len(k.toAsk) > 0 && n < maxAskedAtOnce; n++ {
		s := k.toAsk[0]
		if s.timeouts > 0 && n > 0 {
			break
		}
		k.toAsk = k.toAsk[1:]
		if l.askedOnLink(s) || s.state.Load().Phase == SubEnded {
			n--
			continue
		}
		request := s.request(k.conn.gen)
		s.askedGeneration = k.conn.gen
		ops = append(ops, wire.Op{Kind: wire.OpSubscribe, Key: s.key, Cmd: s.key*4 + 1, Topic: s.topic, Subscribe: &request})
		l.noteAsk(k, s)
		if !l.c.cfg.traits.Confirms {
			l.enterSub(s, SubState{Phase: SubLive, Generation: k.conn.gen})
		}
		if s.timeouts > 0 {
			break
		}
	}
	return ops
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
	for i := 0; i < len(ops); i += step {
		err := k.codec.Encode(ops[i:i+step], out)
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

const maxEncodePanics = 3 // until a connection is stable
