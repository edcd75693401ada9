package limpet

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// leavingSub is a subscription that its owner closed while messages of it were not
// acknowledged, at a server that waits for acknowledgements. First consumers may
// finish what they have taken, for at most answerTimeout. Then everything else is
// released, and the subscription ends at the server. What still comes is released at
// once, for answerTimeout.
type leavingSub struct {
	sub   *Subscription
	ended bool      // at the server, or that is all that the client can do
	until time.Time // when it goes on, or is forgotten; zero: not before the connection ends
}

func (k *link) isLeaving(s *Subscription) bool { return k.leaving[s] != nil }

// leavingDeadline is the moment at which a leavingSub goes on, unless that has changed.
type leavingDeadline struct {
	of *leavingSub
	at time.Time
}

// goOnAfter makes v go on after answerTimeout: deadlines are added in order of their time.
func (k *link) goOnAfter(v *leavingSub, now time.Time) {
	v.until = now.Add(answerTimeout)
	k.leavingUntil.Push(leavingDeadline{v, v.until})
}

// leaveInOrder begins the end of a subscription that its owner closed, if the server
// waits for acknowledgements. It reports false if that end is the usual one.
func (l *loop) leaveInOrder(s *Subscription) bool {
	k := l.link
	if s.state.Load().Phase == SubEnded || !l.askedOnLink(s) || k.traits.Processed != wire.ProcessedEach {
		return false
	}
	l.noteReceived(s)
	l.registry.remove(s)
	if l.c.cfg.traits.ByKey {
		l.c.routes.setKey(s.key, s) // messages of it still come
	}
	if u := k.usedTopic(s.topic); u != nil && u.sub == s {
		u.closing = true
	}
	l.keepClosed(s)
	s.acksOwed = true
	if k.leaving == nil {
		k.leaving = make(map[*Subscription]*leavingSub)
	}
	v := &leavingSub{sub: s}
	k.leaving[s] = v
	k.goOnAfter(v, l.now)
	l.drain(s, nil) // consumersDone follows
	l.enterSub(s, SubState{Phase: SubEnded})
	return true
}

// finishLeaving releases what was not processed and ends s at the server.
func (l *loop) finishLeaving(k *link, s *Subscription) {
	v := k.leaving[s]
	if v.ended {
		return
	}
	s.acksOwed = false
	for _, p := range s.queue.releaseRest(k.conn.gen) {
		k.release(s, p)
	}
	v.ended, v.until = true, time.Time{}
	if k.traits.Unsubscribe {
		k.unsubscribe(s)
		k.goOnAfter(v, l.now)
	}
	l.leaveTopic(s, k.traits.Unsubscribe)
}

// leaveInTime goes on with the subscriptions that are leaving.
func (l *loop) leaveInTime(k *link) {
	for k.leavingUntil.Len() > 0 && due(k.leavingUntil.At(0).at, l.now) {
		d := *k.leavingUntil.At(0)
		k.leavingUntil.Drop(1)
		switch {
		case !d.of.until.Equal(d.at):
		case d.of.ended:
			l.c.routes.setKey(d.of.sub.key, nil)
			delete(k.leaving, d.of.sub)
		default:
			l.finishLeaving(k, d.of.sub)
		}
	}
}

// release tells the server that nothing will process the message at p. A server that
// would only send it here again, because the subscription goes on, gets an
// acknowledgement, like one that takes nothing back, once the subscription is closed.
func (k *link) release(s *Subscription, p Position) {
	op := wire.Op{Kind: wire.OpRelease, Key: s.key, Name: s.wireName, Position: p}
	switch closed := s.state.Load().Phase == SubEnded; {
	case !closed && !k.traits.Release:
		return // a Nack: it stays unacknowledged
	case closed && !(k.traits.Release && k.traits.Unsubscribe):
		op.Kind = wire.OpAck
	}
	k.ops = append(k.ops, op)
}
