package limpet

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

// event is something that happened, or that a caller wants. Only apply receives
// the loop.
//
// Most events are here, in the order in which they happen: an attempt, a connection and
// its end, the timer, then what callers and consumers ask for, and the end of the
// client. Others are in the file of their subject. docs/design.md, section 4 has the table
// of phases and events.
type event interface{ apply(*loop) }

// started is the first event of all.
type started struct{}

func (started) apply(l *loop) {
	l.disconnectedAt = l.now
	l.connect()
}

// dialed is the end of an attempt.
type dialed struct {
	conn     *conn
	token    string
	state    any // of the dialect's attempt
	failure  *wire.Failure
	timedOut bool
}

func (e dialed) apply(l *loop) {
	l.cancelAttempt = nil
	if l.ended {
		if e.conn != nil {
			e.conn.abandon()
		}
		return
	}
	var user *fault.User
	if e.failure == nil || !errors.As(e.failure.Err, &user) || !user.IsCredential() {
		l.refreshCredential = false // Auth and Ticket have answered
	}
	if k := l.link; k != nil && l.rotation.attempting {
		l.rotation.attempting = false
		l.rotated(k, &e)
		return
	}
	l.rotation.attempting = false
	if e.failure != nil {
		l.attemptFailed(e.failure, e.timedOut)
		return
	}
	l.policy.DialTimeout = l.policy.FirstDialTimeout
	l.open(e.conn, e.token, e.state)
}

// received carries what the reader passes on to the loop.
type received struct {
	conn   *conn
	events []routedEvent
}

func (e received) apply(l *loop) {
	e.conn.slots.Release()
	e.handle(l)
}

func (e received) handle(l *loop) {
	for i := range e.events {
		k := l.linkOf(e.conn)
		if k == nil {
			return
		}
		switch ev := &e.events[i]; {
		case ev.Kind.OfSubscription() && !l.c.cfg.traits.ByKey:
			l.handleNamed(k, ev.sub, &ev.Event)
		case ev.sub == nil:
			l.forgetKept(&ev.Event)
			l.handle(k, &ev.Event)
		case ev.sub.wireState().Phase != SubEnded:
			l.handleSubscription(k, ev.sub, &ev.Event)
		}
	}
}

// linkOf returns what the loop knows of a connection, or nil if the connection
// or the client has ended: what comes from it no longer counts.
func (l *loop) linkOf(c *conn) *link {
	if l.ended || l.link == nil || l.link.conn != c {
		return nil
	}
	return l.link
}

// handle handles what concerns the whole connection.
func (l *loop) handle(k *link, ev *wire.Event) {
	switch ev.Kind {
	case wire.EventReady:
		if ev.Ready == nil {
			l.violated(k, &wire.CodeError{Code: 1002, Reason: "dialect decoded a welcome without content"})
			return
		}
		l.welcome(k, ev.Ready)
	case wire.EventSession:
		if ev.Ready == nil {
			l.violated(k, &wire.CodeError{Code: 1002, Reason: "dialect decoded a session without content"})
			return
		}
		l.session = ev.Ready.Session
		l.keepSession()
		l.c.secrets.AddKey(l.session.Key)
	case wire.EventAck:
		if ev.Ack == nil {
			l.violated(k, &wire.CodeError{Code: 1002, Reason: "dialect decoded an acknowledgement without content"})
			return
		}
		open := l.window.pending
		for _, r := range ev.Ack.Rejects { // before their messages have left the window
			l.refusedForPace(k, r.PeerCode, r.Reason, l.topicOf(r.Seq))
		}
		if err := l.window.acknowledge(ev.Ack); err != nil {
			l.violated(k, err)
			return
		}
		k.proved = k.proved || l.window.pending < open // an ack may bring credit only
	case wire.EventStep:
		if k.waitingSteps() >= maxReplies {
			l.violated(k, violation("too many handshake steps"))
			return
		}
		if ev.Delay > 0 {
			k.delayStep(ev.Step, l.now.Add(min(ev.Delay, maxStepDelay)))
			return
		}
		k.ops = append(k.ops, wire.Op{Kind: wire.OpStep, Step: ev.Step})
	case wire.EventPing:
		if len(k.replies) < maxReplies {
			k.replies = append(k.replies, wire.Op{Kind: wire.OpPong, N: ev.N, Step: ev.Step})
		}
	case wire.EventPong:
		l.c.counters.pinged(&k.pingSent, l.now)
	case wire.EventGoAway:
		l.spread = min(max(l.spread, ev.Spread), policy.MaxSpread)
		l.goAwayUntil = l.now.Add(min(ev.Delay, headers.MaxRetryAfter))
		l.planLeaving(k, ev)
		l.c.notify.post(ServerNotice{Code: shownCode(ev.Code, ev.PeerCode), Reason: text.Quote(ev.Reason), Next: k.renewAt})
	case wire.EventAuth:
		l.credentialNews(k, ev)
	case wire.EventMalformed:
		l.c.notify.post(MessageSkipped{text.ForLog(ev.Name), text.ForLog(ev.Reason)})
	case wire.EventError:
		l.handleError(k, ev)
	case wire.EventReply:
		l.replied(k, ev)
	case wire.EventOutnumbered:
		l.outnumbered(k, ev.N)
	}
}

// maxReplies bounds the replies that wait for a peer that requests them and does
// not read.
const maxReplies = 1024

// handleSubscription handles what concerns s. Its queue has received it already.
func (l *loop) handleSubscription(k *link, s *Subscription, ev *wire.Event) {
	if ev.Key != 0 && ev.Key != s.key {
		return // the answer to an earlier request, which was withdrawn
	}
	switch ev.Kind {
	case wire.EventData: // the first message, which stands for the answer
		l.confirmed(k, s, ev)
	case wire.EventSubscribed:
		s.holdNoLonger()
		l.confirmed(k, s, ev)
	case wire.EventReset:
		if !s.held {
			l.reportLoss(s, Reset, ev)
			l.confirmed(k, s, ev)
		}
	case wire.EventGap:
		if !s.held {
			l.reportLoss(s, Gap, ev)
		}
	case wire.EventUnsubscribed:
		l.unsubscribed(k, s, ev)
	}
}

// confirmed makes s live: the server serves it.
func (l *loop) confirmed(k *link, s *Subscription, ev *wire.Event) {
	if !s.wireState().Phase.waits() {
		return
	}
	if !l.c.cfg.traits.ByKey {
		s.askedGeneration = k.conn.gen // also if the request was withdrawn meanwhile
	}
	k.answered(s, l.now)
	s.refusals = 0
	l.registry.postpone(s, time.Time{})
	if ev.Name != "" {
		s.wireName = ev.Name
	}
	l.enterLive(k, s, ev.Kind != wire.EventSubscribed || ev.Continuity == wire.ContinuityProved)
}

// unsubscribed follows when the server has refused or ended s.
func (l *loop) unsubscribed(k *link, s *Subscription, ev *wire.Event) {
	pending := s.wireState().Phase.waits()
	err := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Code: shownCode(ev.Code, ev.PeerCode), Detail: text.Quote(ev.Reason), Err: ErrRejected}
	u := k.usedTopic(s.topic)
	switch {
	case ev.Code != 0 && l.refusedForPace(k, ev.PeerCode, ev.Reason, slices.Values([]string{s.topic, s.wireName})):
		if pending {
			k.answered(s, l.now)
		}
		l.refused(s, err, max(ev.Retry, pacePause))
	case ev.Code == 0 && ev.Key == 0 && pending:
		s.held = false // the end of an earlier subscription to the same topic
	case ev.Code == 0 && ev.Key == 0 && l.c.cfg.traits.ConfirmsEnd:
		l.endedByServer(s, ev)
	case ev.Code == 0:
		if pending {
			k.answered(s, l.now)
		}
		l.endSub(s, nil)
	case u != nil && u.recent:
		l.refusalInDoubt(s, err, ev.Retry)
	default:
		if pending {
			k.answered(s, l.now)
			k.notePartly(s, l.now)
		}
		l.refused(s, err, ev.Retry)
	}
}

func (l *loop) reportLoss(s *Subscription, k Kind, ev *wire.Event) {
	l.outage.gaps++
	l.outage.missed = addCapped(l.outage.missed, ev.Count)
	l.c.notify.post(LossReported{Topic: s.topic, Kind: k, Cause: ev.Cause, After: ev.Prev, To: ev.Position.Offset, Count: ev.Count})
}

// wrote is the end of one write.
type wrote struct {
	conn    *conn
	err     error
	through uint64 // highest sequence number in it
	bytes   int
}

func (e wrote) apply(l *loop) {
	k := l.linkOf(e.conn)
	if k == nil {
		return
	}
	k.noteProgress()
	k.writing = false
	if e.err != nil {
		// The reader learns why: only it sees the close code, which may have arrived
		// already.
		k.writeErr = e.err
		k.killBy = l.now.Add(closeFrameTimeout)
		return
	}
	l.followLink(k, e.bytes)
	if k.unwritten.frames != nil {
		return
	}
	k.noteWritten(l.now)
	l.confirmWritten(k)
	if l.link != k {
		return
	}
	if !k.traits.Acks && e.through > 0 {
		l.window.written(e.through)
	}
}

// ponged is the end of one WebSocket ping.
type ponged struct{ conn *conn }

func (e ponged) apply(l *loop) {
	if k := l.linkOf(e.conn); k != nil {
		k.pinging = false
	}
}

// readFailed is the end of a connection as its reader saw it.
type readFailed struct {
	conn *conn
	err  error
}

func (e readFailed) apply(l *loop) {
	if e.conn == l.rotation.old {
		l.finishOverlap()
	}
	k := l.linkOf(e.conn)
	if k == nil {
		return
	}
	var ce *wire.CodeError
	var panicked *fault.User
	if errors.As(e.err, &ce) || errors.As(e.err, &panicked) {
		l.violated(k, e.err)
		return
	}
	code, reason := socket.CloseCode(e.err)
	if code != 0 {
		l.connectionLost(k, code, reason, e.err)
		return
	}
	l.connectionLost(k, 0, "", k.lostError(e.err))
}

// lostError is why a connection ended without a close code: read is what its reader
// saw.
func (k *link) lostError(read error) error {
	switch {
	case k.writeErr == nil:
		return read
	case errors.Is(read, net.ErrClosed): // because the failed write closed the connection
		return fmt.Errorf("a write failed, so the peer is gone: %w", k.writeErr)
	}
	return fmt.Errorf("a write failed: %w; reading: %w", k.writeErr, read)
}

// elapsed wakes the loop when the timer fires. tick does what is due.
type elapsed struct{}

func (elapsed) apply(*loop) {}

// flushAll replies with a point that is completed when every message admitted before
// has its outcome.
type flushAll struct{ reply chan<- *flush.Point }

func (e flushAll) apply(l *loop) { e.reply <- l.window.addFlushPoint() }

// leaveFlush follows when a caller waits no more for a point that it was given.
type leaveFlush struct{ point *flush.Point }

func (e leaveFlush) apply(l *loop) { l.window.flushes.Leave(e.point) }

// subscribe registers a subscription and replies with a local error or nil.
type subscribe struct {
	s     *Subscription
	reply chan error
}

func (e subscribe) apply(l *loop) {
	switch s := e.s; {
	case l.ended || l.shuttingDown:
		e.reply <- l.c.endError("Subscribe")
	case !l.c.cfg.traits.ByKey && l.registry.named(s.topic) != nil:
		e.reply <- l.share(l.registry.named(s.topic), s)
	case l.exceedsPlaces(s):
		e.reply <- l.placesError()
	default:
		l.registry.add(s)
		l.c.totals.add(s)
		if l.link != nil {
			l.link.queueRequest(s)
		}
		e.reply <- nil
	}
}

// unsubscribe ends a subscription that its owner closed.
type unsubscribe struct{ s *Subscription }

func (e unsubscribe) apply(l *loop) {
	if l.ended || l.leaveSharing(e.s, nil) || l.leaveInOrder(e.s) || !l.releaseSub(e.s) {
		return
	}
	l.enterSub(e.s, SubState{Phase: SubEnded})
}

// grantCredit comes after consumers took messages: the server may send more.
type grantCredit struct{ s *Subscription }

func (e grantCredit) apply(l *loop) {
	s := e.s
	if !l.askedOnLink(s) || !l.link.traits.Credit || s.wireState().Phase == SubEnded {
		return
	}
	l.link.ops = append(l.link.ops, wire.Op{Kind: wire.OpCredit, Key: s.key, Name: s.wireName, Credit: s.queue.grant()})
}

// sendProcessed comes after consumers processed messages. The server learns it on
// the connection that delivered them, or not at all.
type sendProcessed struct {
	s        *Subscription
	gen      uint64
	position Position
	released bool
}

func (e sendProcessed) apply(l *loop) {
	s := e.s
	if !l.askedOnLink(s) || l.link.conn.gen != e.gen || s.wireState().Phase == SubEnded && !s.acksOwed && !e.released {
		return
	}
	k := l.link
	if e.released {
		k.release(s, e.position)
		return
	}
	switch k.traits.Processed {
	case wire.ProcessedNothing:
		return
	case wire.ProcessedCumulative:
		if i := s.ackOp; i < len(k.ops) && k.ops[i].Kind == wire.OpAck && k.ops[i].Key == s.key {
			k.ops[i].Position = e.position
			return
		}
		s.ackOp = len(k.ops)
	}
	k.ops = append(k.ops, wire.Op{Kind: wire.OpAck, Key: s.key, Name: s.wireName, Position: e.position})
}

// consumersDone follows when the consumers of a subscription that has ended have
// taken everything, and after their sendProcessed.
type consumersDone struct{ s *Subscription }

func (e consumersDone) apply(l *loop) {
	s := e.s
	delete(l.draining, s)
	l.c.totals.forget(s)
	if k := l.link; k != nil && k.isLeaving(s) {
		l.finishLeaving(k, s)
		return
	}
	if s.acksOwed && l.askedOnLink(s) && l.link.traits.Unsubscribe {
		l.link.unsubscribe(s)
	}
	s.acksOwed = false
}

// reconnectNow makes the loop look whether the connection still works.
type reconnectNow struct{}

func (reconnectNow) apply(l *loop) { l.look(0) }

// networkChanged does the same, and shortens fewer waits.
type networkChanged struct{}

func (networkChanged) apply(l *loop) { l.look(betweenShortcuts) }

// shutdown begins the graceful end.
type shutdown struct{}

func (shutdown) apply(l *loop) {
	if l.ended || l.shuttingDown {
		return
	}
	l.shuttingDown = true
	l.abandonNext()
	l.c.admission.Close(errClientClosed())
	for _, s := range slices.Collect(l.registry.all()) {
		if l.askedOnLink(s) && l.link.traits.Processed != wire.ProcessedNothing {
			s.acksOwed = true // released by consumersDone
			l.registry.remove(s)
		} else {
			l.releaseSub(s)
		}
		for u := range s.users {
			l.drain(u, nil)
			u.endedByClient.Store(true)
		}
		l.enterSub(s, SubState{Phase: SubEnded})
	}
	l.state.Draining = true
	l.c.state.Set(l.state)
}

// closeNow is the end at once.
type closeNow struct{}

func (closeNow) apply(l *loop) {
	if l.ended { // by a failure: consumers can still take what is waiting
		l.discardWaiting()
	}
	l.end(nil)
}
