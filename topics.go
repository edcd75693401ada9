package limpet

import (
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

// topicTable is what one connection knows of its topics, where the dialect routes by name.
type topicTable struct {
	topics      map[string]*topicUse
	holding     int                    // topics that have a place at the server
	served      map[*topicUse]struct{} // those that the server goes on with
	left        []*topicUse            // whose subscriptions have ended: the end is to be written
	leftInWrite []*topicUse            // the end is being written
	freed       fifo.Queue[topicDeadline]

	// A request that the server refused as a whole is made again in parts.
	suspects [][]*Subscription    // the parts that are left
	trial    []*Subscription      // of the part that was asked for last: those not answered yet
	mute     bool                 // a request was not answered in time
	partly   map[uint64]time.Time // when the server last answered for a topic of a write, of those writes of which it has refused one by name
}

// usedTopic returns what k knows of a topic, nil if it knows nothing.
func (k *link) usedTopic(name string) *topicUse {
	if k.namedTopics == nil {
		return nil
	}
	return k.namedTopics.topics[name]
}

// topicUse is what one connection knows of a topic of a dialect that routes by
// name. The client asks for a topic again only when the server has finished with
// the earlier subscription to it: see wire.Traits.ByKey.
type topicUse struct {
	topic   string
	sub     *Subscription // that asked last, until it ends
	waiting *Subscription // asks once the topic is free

	owed      int       // answers to requests
	owedUntil time.Time // after it they do not count; zero: the last request is not written
	again     int       // of owed: answers to requests for what the server serves already

	closing   bool      // sub was closed, and its end is to be written when consumers have finished
	leaving   bool      // the server has not finished with the subscription that ended
	awaitsEnd bool      // because it has to confirm the end; otherwise it owes an answer
	tail      bool      // messages of that subscription may still come
	recent    bool      // a refusal may concern that subscription
	until     time.Time // all three end at the latest; zero: the end is not written
	served    bool      // the server goes on with it: the client cannot end it
	holds     bool      // in topicTable.holding
}

// count follows when u has changed.
func (n *topicTable) count(u *topicUse) {
	if holds := u.sub != nil || u.leaving || u.served; holds != u.holds {
		if u.holds = holds; holds {
			n.holding++
		} else {
			n.holding--
		}
	}
	if !u.served {
		delete(n.served, u)
	} else if n.served == nil {
		n.served = map[*topicUse]struct{}{u: {}}
	} else {
		n.served[u] = struct{}{}
	}
}

// useTopic is usedTopic for one that is asked for.
func (k *link) useTopic(topic string) *topicUse {
	u := k.namedTopics.topics[topic]
	if u == nil {
		if k.namedTopics.topics == nil {
			k.namedTopics.topics = make(map[string]*topicUse)
		}
		u = &topicUse{topic: topic}
		k.namedTopics.topics[topic] = u
	}
	return u
}

// mustWaitForTopic makes s wait if the server has not finished with an earlier
// subscription to the same topic.
func (k *link) mustWaitForTopic(s *Subscription) bool {
	u := k.usedTopic(s.topic)
	if u == nil || !u.leaving && !u.closing {
		return false
	}
	u.waiting = s
	return true
}

// leaveTopic follows when s has ended. With closing, an OpUnsubscribe ends it at the server too.
func (l *loop) leaveTopic(s *Subscription, closing bool) {
	traits, k := &l.c.cfg.traits, l.link
	if k == nil {
		return
	}
	u := k.usedTopic(s.topic)
	if u == nil || u.sub != s {
		return
	}
	u.sub, u.tail, u.closing = nil, closing, false
	u.served = !k.traits.Unsubscribe && s.wireState().Phase == SubLive
	owed := u.owed > 0 && !due(u.owedUntil, l.now) && !u.served
	u.awaitsEnd = closing && (traits.ConfirmsEnd || !traits.Confirms)
	u.leaving = owed || u.awaitsEnd
	if u.leaving || u.tail {
		u.recent, u.until = true, time.Time{}
		k.namedTopics.left = append(k.namedTopics.left, u)
	}
	if !u.leaving {
		k.askForWaiting(u)
	}
	k.forget(u)
}

// forget follows when a topic has changed: it drops one of which nothing needs to be known.
func (k *link) forget(u *topicUse) {
	k.namedTopics.count(u)
	if u.sub == nil && u.waiting == nil && !u.leaving && !u.tail && !u.served && !u.recent {
		delete(k.namedTopics.topics, u.topic)
	}
}

// free follows when the server has finished with the subscription to a topic that
// ended. With tail its messages may still come.
func (k *link) free(u *topicUse, tail bool) {
	u.leaving, u.tail = false, tail
	k.askForWaiting(u)
	k.forget(u)
}

// askForWaiting asks for the subscription that has waited for its topic.
func (k *link) askForWaiting(u *topicUse) {
	if u.waiting != nil {
		k.queueRequest(u.waiting)
		u.waiting = nil
	}
}

// noteLeft follows when the ends of subscriptions were written: their time begins.
func (k *link) noteLeft(now time.Time) {
	n := k.namedTopics
	if n == nil {
		return
	}
	for _, u := range n.leftInWrite {
		u.until = now.Add(answerTimeout)
		n.freed.Push(topicDeadline{u, u.until})
	}
	n.leftInWrite = nil
}

// topicDeadline is the moment at which the time of a topicUse ends, unless that has
// changed.
type topicDeadline struct {
	use *topicUse
	at  time.Time
}

// freeTopics frees the topics whose time has ended.
func (l *loop) freeTopics(k *link) {
	for n := k.namedTopics; n != nil && n.freed.Len() > 0 && due(n.freed.At(0).at, l.now); {
		d := *n.freed.At(0)
		n.freed.Drop(1)
		switch {
		case !d.use.until.Equal(d.at):
		case l.now.Sub(d.at) > answerTimeout/2: // this process stood still: what the server has sent may wait
			d.use.until = l.now.Add(answerTimeout)
			n.freed.Push(topicDeadline{d.use, d.use.until})
		default:
			d.use.recent, d.use.until = false, time.Time{}
			k.free(d.use, false)
		}
	}
}

// handleNamed handles what the server says of a topic. s is the subscription to
// which the reader has routed it, nil if there is none. Only a subscription that was
// asked for can be meant.
func (l *loop) handleNamed(k *link, s *Subscription, ev *wire.Event) {
	name := ev.Name
	if s != nil {
		name = s.topic // losses that a queue has found have no name
	}
	u := k.usedTopic(name)
	if u == nil {
		return
	}
	ended := ev.Kind == wire.EventUnsubscribed && ev.Code == 0
	answer := ev.Kind == wire.EventSubscribed || ev.Kind == wire.EventUnsubscribed
	if answer && !ended && u.owed > 0 {
		u.owed--
	}
	refused := answer && ev.Code != 0
	refusedAgain := refused && u.again > 0
	switch {
	case refusedAgain:
		u.again-- // a server answers in order: the request before was not refused
	case ev.Kind == wire.EventSubscribed:
		u.again = u.owed
	case ended:
		u.again = 0
	}
	switch {
	case u.leaving:
		if ended || refused && !refusedAgain && u.owed == 0 {
			k.free(u, false)
		} else if answer && u.owed == 0 && !u.awaitsEnd {
			u.served = !k.traits.Unsubscribe
			k.free(u, u.tail)
		}
	case u.sub == nil:
		if answer {
			u.tail, u.served = u.tail && !ended, u.served && !ended
			k.forget(u)
		}
	case u.sub != s || s.wireState().Phase == SubEnded:
	case refusedAgain:
		l.c.notify.post(ServerNotice{Code: shownCode(ev.Code, ev.PeerCode), Reason: text.Quote(ev.Reason)})
	default:
		l.handleSubscription(k, s, ev)
	}
}

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
	if s.wireState().Phase == SubEnded || !l.askedOnLink(s) || k.traits.Processed != wire.ProcessedEach {
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
	switch closed := s.wireState().Phase == SubEnded; {
	case !closed && !k.traits.Release:
		return // a Nack: it stays unacknowledged
	case closed && !(k.traits.Release && k.traits.Unsubscribe):
		op.Kind = wire.OpAck
	}
	k.ops = append(k.ops, op)
}

// requestRefused follows when the server refuses a request without naming the
// topic. A server answers in order, so the oldest request is meant. What it asked
// for is asked for again in parts; one topic alone is refused for now. If the server
// says when to ask again, all of it is asked for then. slow says that it was refused for the
// pace, so no topic is to blame, and the answer to some of it may still come.
func (l *loop) requestRefused(k *link, ev *wire.Event, slow bool) {
	open := l.oldestRequest(k)
	err := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Code: shownCode(ev.Code, ev.PeerCode), Detail: text.Quote(ev.Reason), Err: ErrRejected}
	switch {
	case ev.Retry > 0:
		for _, s := range open {
			l.refused(s, err, ev.Retry)
		}
	case slow:
		for _, s := range open {
			l.askLater(s, err, pacePause)
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
	waits := func(s *Subscription) bool { return s.wireState().Phase.waits() && l.askedOnLink(s) }
	n := k.namedTopics
	if n == nil {
		return nil
	}
	for len(n.trial) > 0 && (n.mute || !waits(n.trial[0]) || n.trial[0].askNumber == 0 || !n.trial[0].askAgain.At().IsZero()) {
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

// sharing is a topic that several subscriptions share: the server knows one of them. That one
// stays on the wire when its user has closed it, until the last of the others ends.
type sharing struct {
	wire   *Subscription   // it has the requests, the key and the place at the server
	others []*Subscription // have a user each, and a queue that gets what that of wire gets
	left   bool            // wire has no user any more
	state  SubState        // of wire at the server, if left
}

// receiving returns the queues that get what comes for the topic.
func (g *sharing) receiving() (queues []*queue) {
	for s := range g.wire.users {
		queues = append(queues, s.queue)
	}
	return queues
}

// isShared reports whether s is on the wire for others.
func (s *Subscription) isShared() bool { return s.sharing != nil && s.sharing.wire == s }

// wireState is the state of s at the server. Its user may see another one.
func (s *Subscription) wireState() SubState {
	if s.isShared() && s.sharing.left {
		return s.sharing.state
	}
	return s.state.Load()
}

// users iterates over the subscriptions that see what becomes of s, which is on the wire.
func (s *Subscription) users(yield func(*Subscription) bool) {
	if !s.isShared() {
		yield(s)
		return
	}
	if !s.sharing.left && !yield(s) {
		return
	}
	for _, u := range s.sharing.others {
		if !yield(u) {
			return
		}
	}
}

// queues iterates over the queues that follow the requests for s, its own first.
func (s *Subscription) queues(yield func(*queue) bool) {
	if !yield(s.queue) || !s.isShared() {
		return
	}
	for _, u := range s.sharing.others {
		if !yield(u.queue) {
			return
		}
	}
}
