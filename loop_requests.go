package limpet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/calls"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

const opCall = "Call"

const (
	answerTimeout = 10 * time.Second // for a subscription, from the write of its request
	partlyTimeout = 2 * time.Second  // from the refusal of another topic of the same request
	maxFailedAsks = 3                // then the subscription ends
	askBackoff    = 2 * time.Second  // before a subscription is asked for again after a failed request; it doubles
)

// ask is one request for a subscription.
type ask struct {
	sub      *Subscription
	use      *topicUse // of its topic; nil if the dialect routes by key
	number   uint64
	write    uint64 // the number of the write that carries it
	answerBy time.Time
	blamed   bool   // for an error that names no topic
	partly   bool   // another topic of the same write was refused
	behind   uint64 // with the message of this number, which was incomplete at answerBy; 0: none
}

// askPool shares the memory of unanswered requests.
var askPool sync.Pool

// noteAsk follows when s is asked for on k, if the dialect has answers.
func (l *loop) noteAsk(k *link, s *Subscription) {
	traits := &l.c.cfg.traits
	l.registry.postpone(s, time.Time{})
	var u *topicUse
	if !traits.ByKey {
		u = k.useTopic(s.topic)
		u.sub, u.again = s, 0
		k.namedTopics.count(u)
	}
	if !traits.Confirms {
		return
	}
	if u != nil {
		u.owed++
		u.owedUntil = time.Time{}
		if u.served {
			u.again = u.owed
		}
	}
	k.asks++
	s.askNumber = k.asks
	s.askWrite = k.writes
	k.asked = append(k.asked, ask{sub: s, use: u, number: k.asks, write: k.writes})
}

// noteWritten follows when the requests were written: their time begins.
func (k *link) noteWritten(now time.Time) {
	for _, a := range k.asked {
		a.answerBy = now.Add(answerTimeout)
		k.unanswered.Push(a)
		if a.use != nil && a.number == a.sub.askNumber {
			a.use.owedUntil = a.answerBy
		}
	}
	k.asked = nil
	k.writes++
	k.noteLeft(now)
}

// restartAnswers begins the time of every request again.
func (k *link) restartAnswers(now time.Time) {
	for i := range k.unanswered.Len() {
		k.unanswered.At(i).answerBy = now.Add(answerTimeout)
	}
}

// answered follows when the server answers the request for s, in whatever way.
func (k *link) answered(s *Subscription, now time.Time) {
	s.failedAsks, s.suspicion = 0, nil
	if s.askNumber > k.answeredUpTo {
		k.answeredUpTo, k.answeredAt = s.askNumber, now
	}
	if n := k.namedTopics; n != nil && !n.partly[s.askWrite].IsZero() {
		n.partly[s.askWrite] = now
	}
}

// notePartly follows when the server refuses s by name. If it took the rest of the
// request, answers follow soon.
func (k *link) notePartly(s *Subscription, now time.Time) {
	n := k.namedTopics
	if n == nil || s.askNumber == 0 || !n.partly[s.askWrite].IsZero() {
		return
	}
	if n.partly == nil {
		n.partly = make(map[uint64]time.Time)
	}
	n.partly[s.askWrite] = now
	for i := range k.unanswered.Len() {
		if a := k.unanswered.At(i); a.write == s.askWrite {
			a.partly, a.answerBy = true, now.Add(partlyTimeout)
		}
	}
}

// answerBy is when the oldest request counts as unanswered. A server that still
// works off earlier requests gets more time.
func (k *link) answerBy() time.Time {
	a := k.unanswered.At(0)
	if a.partly {
		return later(a.answerBy, k.namedTopics.partly[a.write].Add(partlyTimeout))
	}
	if a.number > k.answeredUpTo && k.answeredUpTo > 0 {
		return later(a.answerBy, k.answeredAt.Add(answerTimeout))
	}
	return a.answerBy
}

// checkAnswers deals with the subscriptions whose request was not answered in
// time. None of them holds up another.
func (l *loop) checkAnswers(k *link) {
	for k.ready && k.unanswered.Len() > 0 {
		a := *k.unanswered.At(0)
		if l.isOpen(&a) {
			by := k.answerBy()
			if !due(by, l.now) {
				return
			}
			if l.answerMayBeBehind(k, k.unanswered.At(0)) {
				return
			}
			if a.partly {
				l.askInParts(k, l.oldestRequest(k))
				continue
			}
			if n := k.namedTopics; n != nil {
				n.mute = len(n.suspects) > 0
			}
			a.sub.holdNoLonger() // what comes now belongs to this subscription
			l.askFailed(a.sub, &Error{Op: "Subscribe", Field: "topic", Class: ClassTimeout, Err: ErrUnanswered}, 0)
		} else if l.waitsForAnswer(&a) && !due(a.answerBy, l.now) {
			return
		}
		k.unanswered.Drop(1)
	}
}

// answerMayBeBehind gives a request more time while the message is received that
// was incomplete when its time ended: on a slow link that can take minutes.
func (l *loop) answerMayBeBehind(k *link, a *ask) bool {
	next := l.c.counters.frames.Load() + 1
	if !k.conn.Receiving() || a.behind != 0 && a.behind != next {
		return false
	}
	a.behind, a.answerBy = next, l.now.Add(answerTimeout/10)
	return true
}

// isOpen reports whether the subscription of a waits for the answer to it.
func (l *loop) isOpen(a *ask) bool {
	return a.number == a.sub.askNumber && l.askedOnLink(a.sub) && a.sub.wireState().Phase.waits()
}

// askFailed schedules another request for s after one that was not answered, or was
// refused in a way that another topic may have caused. It ends s after the last one.
// Until the next request, an answer to this one still counts.
func (l *loop) askFailed(s *Subscription, err *Error, pause time.Duration) {
	if s.failedAsks++; s.failedAsks >= maxFailedAsks {
		if err.Class != ClassRejected {
			l.releaseSub(s)
		}
		l.endSub(s, err)
		return
	}
	l.askAgainAfter(s, max(askPause(s.failedAsks), min(pause, headers.MaxRetryAfter)))
	l.enterWaiting(s, 0, err)
}

// askPause is the pause before a subscription is asked for again after n failures in
// a row.
func askPause(n int) time.Duration {
	v := askBackoff << (n - 1)
	return v/2 + policy.Uniform(v/2)
}

// askAgainAfter postpones the next request for s, on whatever connection.
func (l *loop) askAgainAfter(s *Subscription, d time.Duration) {
	l.registry.postpone(s, l.now.Add(d))
}

// nextAskAt is when the next subscriptions are asked for again: few rounds for
// many. Zero: never.
func (l *loop) nextAskAt() time.Time {
	at := l.registry.waiting.Next()
	if at.IsZero() {
		return at
	}
	return later(at, l.askedAgainAt.Add(minBetweenAttempts))
}

// mustWait reports whether s must not be asked for yet.
func (s *Subscription) mustWait(now time.Time) bool { return s.askAgain.At().After(now) }

// askAgain takes up the subscriptions that are due to be asked for again.
func (l *loop) askAgain(k *link) {
	if !due(l.nextAskAt(), l.now) {
		return
	}
	l.askedAgainAt = l.now
	for _, s := range l.registry.takeDue(l.now) {
		if l.askedOnLink(s) {
			l.withdraw(k, s)
		}
		k.queueRequest(s)
	}
}

// withdraw takes back the request for s that was not answered. The next one has a
// key of its own, so that a late answer to this one cannot count for it. A dialect
// that routes by name has no such key: there a late answer counts.
func (l *loop) withdraw(k *link, s *Subscription) {
	if k.traits.Unsubscribe && k.traits.ByKey {
		k.unsubscribe(s)
	} else {
		k.abandon()
	}
	l.registry.renewKey(s)
	s.askedGeneration = 0
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
		if l.askedOnLink(s) || s.wireState().Phase == SubEnded || k.mustWaitForTopic(s) {
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
		s.assumeLive()
		l.enterLive(k, s, false)
	}
	l.c.first.Arrive()
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
		events := received{k.conn, nil}
		for q := range s.queues {
			losses, err := q.offer(k.conn.gen, []wire.Event{ev}, &l.now)
			if err != nil {
				l.violated(k, err)
				return
			}
			for _, e := range losses {
				events.events = append(events.events, routedEvent{s, e})
			}
		}
		events.events = append(events.events, routedEvent{s, ev})
		events.handle(l)
	}
	k.confirmed = nil
}

// handleError handles an error that concerns the connection, or a request without a name.
func (l *loop) handleError(k *link, ev *wire.Event) {
	l.c.notify.post(ServerNotice{Code: shownCode(ev.Code, ev.PeerCode), Reason: text.Quote(ev.Reason)})
	if ev.Fatal && k.fatalError == nil {
		k.fatalError, k.fatalAt, k.closeBy = ev, l.now, l.now.Add(fatalCloseTimeout)
		if l.c.cfg.traits.ErrorStaysOpen {
			k.closeBy = l.now
		}
	}
	slow := l.refusedForPace(k, ev.PeerCode, ev.Reason, l.registry.topics())
	if traits := &l.c.cfg.traits; !traits.ByKey && traits.Confirms && !ev.Fatal && ev.Code != 0 && ev.Key == 0 && ev.N == 0 {
		l.requestRefused(k, ev, slow)
	}
}

// CallOptions are the options of one call.
type CallOptions struct {
	// Type is the content type. It must be UTF-8.
	Type string

	// Header holds at most 32 entries. They must be UTF-8, and together with Type
	// take at most 8 KiB.
	Header map[string]string

	// Resend is what happens to a call that may have left when its connection is lost. With
	// AtLeastOnce it is sent again on the next one, until ctx ends: the server may serve it
	// twice. Otherwise the error is ErrOutcomeUnknown, because no server recognises a call.
	Resend Resend
}

// Call sends a request and returns the reply of the server, of which Payload and Type are set, and
// Topic. It needs the trait Calls. Calls are served in any order; up to 64 of them wait for their reply at a time, and others
// for their turn. Call waits until the reply comes, the server refuses, ctx ends or the client ends, and
// before that for a connection. The server learns how long ctx lasts. Call copies payload and the header.
//
// The error is an *Error that names the argument at fault, or that wraps ErrTopic, ErrTooBig or
// ErrUnsupported; ErrRejected, if the server refuses the call, with its Code and Detail, or the dialect; ErrUnsent,
// if the call has not left and will not; or ErrOutcomeUnknown, if the server may have served it. The
// last two also wrap ctx's error, if ctx has ended: after that a reply changes nothing.
func (c *Client) Call(ctx context.Context, topic string, payload []byte, o *CallOptions) (Message, error) {
	if o == nil {
		o = new(CallOptions)
	}
	if err := c.checkCall(ctx, topic, payload, o); err != nil {
		return Message{}, err
	}
	deadline, _ := ctx.Deadline()
	x := calls.New(wire.Message{Topic: topic, Payload: slices.Clone(payload), Type: o.Type, Header: maps.Clone(o.Header)}, deadline, o.Resend == AtLeastOnce)
	r := x.Wait(ctx, func() {
		if !c.inbox.Post(callMade{x}) {
			x.End(c.admission.ClosedBy())
		}
	}, func() { c.inbox.Post(callLeft{x}) })
	return replyOf(x, &r)
}

func (c *Client) checkCall(ctx context.Context, topic string, payload []byte, o *CallOptions) error {
	if err := checkContext(opCall, ctx); err != nil {
		return err
	}
	if !c.cfg.traits.Calls {
		return unsupported(opCall, "", "dialect "+c.cfg.Dialect.Name()+" has no request with a reply (trait Calls)")
	}
	if err := c.cfg.Dialect.CheckTopic(wire.UsePublish, topic); err != nil {
		return topicError(opCall, err)
	}
	if err := c.cfg.checkMessage(&Outgoing{Payload: payload, PublishOptions: PublishOptions{Type: o.Type, Header: o.Header, Resend: o.Resend}}); err != nil {
		err.Op, err.Field = opCall, strings.Replace(err.Field, "PublishOptions", "CallOptions", 1)
		return err
	}
	return nil
}

// replyOf returns what Call returns.
func replyOf(x *calls.Call, r *calls.Result) (Message, error) {
	e := &Error{Op: opCall, Class: ClassOutcome, Err: ErrUnsent}
	switch ev := &r.Reply; r.Fate {
	case calls.Replied:
		return Message{Kind: Data, Topic: x.Topic(), Payload: ev.Message.Payload, Type: ev.Message.Type, ReceivedAt: r.At}, nil
	case calls.Refused:
		e.Class, e.Code, e.Err = ClassRejected, shownCode(ev.Code, ev.PeerCode), ErrRejected
		e.Detail = text.Quote(ev.Reason)
		return Message{}, e
	case calls.Unencodable:
		e.Class, e.Err = ClassInput, joinReason(ErrRejected, r.Err)
		if big := (*wire.TooBigError)(nil); errors.As(r.Err, &big) {
			e.Err = joinReason(ErrTooBig, r.Err)
		}
		return Message{}, e
	case calls.Unsupported:
		return Message{}, unsupported(opCall, "", "the server takes no calls")
	case calls.Unknown:
		e.Err = ErrOutcomeUnknown
	}
	if r.Err != nil {
		e.Err = joinReason(e.Err, r.Err)
	}
	return Message{}, e
}

// callMade is a call that waits for its turn.
type callMade struct{ *calls.Call }

func (e callMade) apply(l *loop) {
	switch {
	case l.ended:
		e.End(l.state.Cause)
	case l.shuttingDown:
		e.End(errClientClosed())
	default:
		l.calls.Add(e.Call)
	}
}

// callLeft follows when the caller waits no longer.
type callLeft struct{ *calls.Call }

func (e callLeft) apply(l *loop) { l.calls.Left(e.Call) }

// nextCalls appends the calls to send now, or refuses them at a server that takes none.
func (l *loop) nextCalls(k *link, ops []wire.Op, room int) []wire.Op {
	if !k.traits.Calls {
		l.calls.Refuse()
		return ops
	}
	return l.calls.Next(ops, l.now, room, l.writeBytes)
}

// replied follows when the server answers a call.
func (l *loop) replied(k *link, ev *wire.Event) {
	x := l.calls.Answer(ev, l.now)
	if x == nil {
		return
	}
	k.proved = true
	if ev.Code != 0 {
		l.refusedForPace(k, ev.PeerCode, ev.Reason, slices.Values([]string{x.Topic()}))
	}
}

// loseRequests follows when k is no longer in use.
func (l *loop) loseRequests(k *link) {
	l.loseStream(k)
	l.calls.Lost()
}

// endRequests follows when the client ends.
func (l *loop) endRequests() {
	l.endStreams()
	l.calls.End(l.state.Cause)
}
