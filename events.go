package limpet

import (
	"errors"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// publish admits messages; their order is the order of the inbox.
type publish [][]Receipt

func (e publish) apply(l *loop) {
	for _, receipts := range e {
		for i := range receipts {
			l.window.add(&receipts[i])
		}
		l.c.counters.published.Add(uint64(len(receipts)))
	}
	if l.ended {
		l.window.close()
	}
}

// apply makes a receipt the event of its own admission.
func (r *Receipt) apply(l *loop) {
	l.window.add(r)
	l.c.counters.published.Add(1)
	if l.ended {
		l.window.close()
	}
}

// flush closes done when every message admitted before it has its outcome.
type flush struct{ done chan struct{} }

func (e flush) apply(l *loop) { l.window.mark(e.done) }

type pendingQuery struct{ reply chan []*Receipt }

func (e pendingQuery) apply(l *loop) {
	var rs []*Receipt
	for _, r := range l.window.slots.All() {
		if r.verdict == Pending {
			rs = append(rs, r)
		}
	}
	e.reply <- rs
}

type subscribe struct {
	s     *Subscription
	reply chan error
}

func (e subscribe) apply(l *loop) {
	switch s := e.s; {
	case l.ended || l.shutdown:
		e.reply <- &Error{Op: "Subscribe", Class: ClassClosed, Err: ErrClosed}
	case l.c.cfg.traits.ByName && l.registry.named(s.topic) != nil:
		e.reply <- &Error{Op: "Subscribe", Field: "topic", Class: ClassInput, Err: ErrDuplicate}
	default:
		l.registry.nextID++
		s.key = l.registry.nextID
		l.registry.add(s)
		if l.conn != nil {
			l.ask = append(l.ask, s)
		}
		e.reply <- nil
	}
}

type unsubscribe struct{ s *Subscription }

func (e unsubscribe) apply(l *loop) {
	if l.ended || !l.release(e.s) {
		return
	}
	l.setSub(e.s, SubState{Phase: SubEnded})
}

// release takes s out of the registry and tells the server.
func (l *loop) release(s *Subscription) bool {
	if s.state.Load().Phase == SubEnded {
		return false
	}
	l.registry.remove(s)
	if l.conn == nil || !s.asked {
		return true
	}
	if s.state.Load().Phase == SubPending {
		l.asking--
	}
	if l.c.cfg.traits.Unsubscribe {
		l.ops = append(l.ops, wire.Op{Kind: wire.OpUnsubscribe, Key: s.key, Cmd: s.key*4 + 2, Name: s.wireName, Topic: s.topic})
	}
	return true
}

// roomMade says that a consumer took messages: more may be granted.
type roomMade struct{ s *Subscription }

func (e roomMade) apply(l *loop) {
	s := e.s
	if l.conn == nil || !s.asked || !l.c.cfg.traits.Credit || s.state.Load().Phase == SubEnded {
		return
	}
	l.ops = append(l.ops, wire.Op{Kind: wire.OpCredit, Key: s.key, Name: s.wireName, Credit: s.queue.grant()})
}

// processed says that messages were, on the connection that brought them.
type processed struct {
	s        *Subscription
	gen      uint64
	position Position
}

func (e processed) apply(l *loop) {
	if l.conn == nil || l.conn.gen != e.gen || !e.s.asked || e.s.state.Load().Phase == SubEnded {
		return
	}
	if l.c.cfg.traits.Processed == wire.ProcessedCumulative {
		for i := range l.ops {
			if op := &l.ops[i]; op.Kind == wire.OpAck && op.Key == e.s.key {
				op.Position = e.position
				return
			}
		}
	}
	l.ops = append(l.ops, wire.Op{Kind: wire.OpAck, Key: e.s.key, Name: e.s.wireName, Position: e.position})
}

type retry struct{}

func (retry) apply(l *loop) {
	if !l.ended && l.state.Phase == Waiting && later(l.now, l.earliest()).Before(l.wakeAt) {
		l.wait(0)
	}
}

type stop struct{}

func (stop) apply(l *loop) {
	if l.ended { // by a failure, which leaves consumers what is waiting
		l.discard()
	}
	l.end(nil)
}

type shutdown struct{}

func (shutdown) apply(l *loop) {
	if l.ended || l.shutdown {
		return
	}
	l.shutdown = true
	l.c.gate.close(&Error{Op: "client", Class: ClassClosed, Err: ErrClosed})
	for _, s := range append([]*Subscription(nil), l.registry.subs...) {
		l.release(s)
		s.queue.finish(nil)
		l.draining = append(l.draining, s)
		l.setSub(s, SubState{Phase: SubEnded})
	}
	l.state.Draining = true
	l.c.state.Set(l.state)
}

// received carries what the reader read and did not keep to itself.
type received struct {
	conn   *conn
	events []wire.Event
}

func (e received) apply(l *loop) {
	e.conn.ahead.leave()
	for i := range e.events {
		if l.conn != e.conn || l.ended {
			return
		}
		l.hear(&e.events[i])
	}
}

func (l *loop) hear(ev *wire.Event) {
	if ev.Kind.OfSubscription() {
		if s := l.c.routes.Load().find(ev); s != nil && s.state.Load().Phase != SubEnded {
			l.hearOf(s, ev)
		}
		return
	}
	switch ev.Kind {
	case wire.EventReady:
		l.welcome(ev.Ready)
	case wire.EventAck:
		open := l.window.pending
		if err := l.window.ack(ev.Ack); err != nil {
			l.fault(err)
			return
		}
		l.acked = l.acked || l.window.pending < open // a credit alone proves nothing
	case wire.EventStep:
		if len(l.ops) >= maxPongs {
			l.fault(violation("steps without end"))
			return
		}
		l.ops = append(l.ops, wire.Op{Kind: wire.OpStep, Step: ev.Step})
	case wire.EventPing:
		if len(l.ops) < maxPongs {
			l.ops = append(l.ops, wire.Op{Kind: wire.OpPong, N: ev.N})
		}
	case wire.EventGoAway:
		l.spread = min(max(l.spread, ev.Spread), maxSpread)
		l.goAway = min(ev.Delay, maxRetryAfter)
		l.c.notify.post(ServerSaid{int(ev.Code), peerText(ev.Reason)})
	case wire.EventError:
		l.c.notify.post(ServerSaid{int(ev.Code), peerText(ev.Reason)})
		if ev.Fatal && l.last == nil {
			l.last, l.closeBy = ev, l.now.Add(patience)
		}
	}
}

// maxPongs bounds what a peer that asks for answers and reads none can pile up.
const maxPongs = 1024

// hearOf follows what the queue of s was told already.
func (l *loop) hearOf(s *Subscription, ev *wire.Event) {
	switch ev.Kind {
	case wire.EventSubscribed, wire.EventReset:
		if ev.Kind == wire.EventReset {
			l.c.notify.post(LossTold{s.topic, Reset, ev.Cause})
		}
		if s.state.Load().Phase == SubPending {
			l.asking--
			s.retries, s.retry = 0, time.Time{}
			if ev.Name != "" {
				s.wireName = ev.Name
			}
			l.setSub(s, SubState{Phase: SubLive, Generation: l.conn.gen})
		}
	case wire.EventGap:
		l.c.notify.post(LossTold{s.topic, Gap, ev.Cause})
	case wire.EventUnsubscribed:
		if s.state.Load().Phase == SubPending {
			if ev.Code == 0 && ev.Key == 0 {
				return // by its name: the end of an earlier subscription to the same topic
			}
			l.asking--
		}
		if ev.Code == 0 {
			l.endSub(s, nil)
			return
		}
		err := &Error{Op: "Subscribe", Field: "topic", Class: ClassOther, Code: int(ev.Code), Detail: peerText(ev.Reason), Err: ErrRejected}
		s.asked = false
		if ev.Retry > 0 {
			s.retries++
			// Refused again and again, it is asked for less and less often.
			pause := min(ev.Retry, maxRetryAfter)
			more := max(pause, l.c.cfg.Backoff.Initial) * time.Duration(min(s.retries, 10))
			s.retry = l.now.Add(pause + more/2 + uniform(more/2))
			if l.retryAt.IsZero() || s.retry.Before(l.retryAt) {
				l.retryAt = s.retry
			}
			l.setSub(s, SubState{Phase: SubPending, Err: err})
			return
		}
		l.endSub(s, err)
	}
}

// endSub ends s after what is waiting.
func (l *loop) endSub(s *Subscription, err error) {
	l.registry.remove(s)
	s.queue.finish(err)
	l.drainedSubs()
	l.draining = append(l.draining, s)
	l.setSub(s, SubState{Phase: SubEnded, Err: err})
}

// downed is the end of a connection as its reader saw it.
type downed struct {
	conn *conn
	err  error
}

func (e downed) apply(l *loop) {
	if l.conn != e.conn || l.ended {
		return
	}
	var ce *wire.CodeError
	if errors.As(e.err, &ce) {
		l.fault(ce)
		return
	}
	code, reason := closeCode(e.err)
	err := e.err
	if l.writeErr != nil && code == 0 {
		err = fmt.Errorf("%w (after a write failed: %w)", err, l.writeErr)
	}
	l.broke(code, reason, err)
}

// broke ends the present connection; a fatal error frame speaks where no close
// frame did.
func (l *loop) broke(code uint16, reason string, err error) {
	f := &wire.Failure{Stage: wire.StageOpen, Code: code, Reason: reason, Err: err}
	if !l.ready {
		f.Stage = wire.StageHandshake
	}
	if l.last != nil {
		f.Retry = l.last.Retry
		if code == 0 {
			f.Code, f.Reason = l.last.Code, l.last.Reason
		}
	}
	l.fail(f)
}

// wrote is the end of one write.
type wrote struct {
	conn    *conn
	err     error
	through uint64 // highest sequence number in it
}

func (e wrote) apply(l *loop) {
	if l.conn != e.conn || l.ended {
		return
	}
	l.writing = false
	if e.err != nil {
		// The reader learns why: the close code is only there.
		l.writeErr = e.err
		e.conn.kill()
		return
	}
	if !l.c.cfg.traits.Acks && e.through > 0 {
		l.window.written(e.through)
	}
}

type ponged struct{ conn *conn }

func (e ponged) apply(l *loop) {
	if l.conn == e.conn {
		l.pinging = false
	}
}
