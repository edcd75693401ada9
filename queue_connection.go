package limpet

import (
	"time"

	"github.com/limpet-go/limpet/internal/sequence"
	"github.com/limpet-go/limpet/wire"
)

// expectKey makes key the only one whose events are accepted.
func (q *queue) expectKey(key uint64) {
	q.mu.Lock()
	q.key = key
	q.mu.Unlock()
}

// fence rejects every further event of connection gen: the position stays.
func (q *queue) fence(gen uint64) {
	q.mu.Lock()
	if q.generation == gen {
		q.generation = 0
	}
	if q.next != nil && q.next.generation == gen {
		q.next = nil
	}
	var next uint64
	if q.next != nil && q.generation == 0 {
		next = q.next.generation
	}
	q.mu.Unlock()
	if next != 0 {
		now := time.Now()
		_, _ = q.acceptAll(next, nil, nil, &now) // where holes are losses, no event is a violation
	}
}

// resumePosition returns the position after which the stream can be resumed,
// and whether it is known.
func (q *queue) resumePosition() (last Position, known bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.receiver.Position()
}

// startConnection makes gen the only connection whose events are accepted. It
// returns where to resume and how much the server may send.
func (q *queue) startConnection(gen uint64) (last Position, known bool, credit wire.Credit) {
	q.roomForWindow()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.acceptOnly(gen)
}

// acceptOnly is startConnection; mu is held.
func (q *queue) acceptOnly(gen uint64) (last Position, known bool, credit wire.Credit) {
	q.generation, q.next = gen, nil
	q.receivedBefore = q.received
	q.receiver.StartConnection()
	q.answerDue, q.holding = false, false
	q.used, q.roomReported, q.outstanding = wire.Credit{}, false, 0
	q.tracker.ForgetCopies()
	if q.delivery.Overflow == Block {
		q.openWindow()
		defer q.holdWindow()
	}
	q.granted = q.allowance()
	last, known = q.receiver.Position()
	return last, known, q.granted
}

// assumeLive follows when the subscription counts as live without a confirmation.
func (q *queue) assumeLive() {
	q.mu.Lock()
	q.receiver.AssumeLive()
	q.mu.Unlock()
}

// startRequest is startConnection and expectAnswer in one step: no message comes
// between the two.
func (q *queue) startRequest(gen uint64, hold bool) (last Position, known bool, credit wire.Credit) {
	q.roomForWindow()
	q.mu.Lock()
	defer q.mu.Unlock()
	last, known, credit = q.acceptOnly(gen)
	q.answerDue, q.holding = q.firstAnswers, hold
	return last, known, credit
}

// expectConnection is startRequest while the connection before still delivers.
func (q *queue) expectConnection(gen uint64, hold bool) (last Position, known bool) {
	q.roomForWindow()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.generation == 0 {
		last, known, _ = q.acceptOnly(gen)
		q.answerDue, q.holding = q.firstAnswers, hold
		return last, known
	}
	last, known = q.receiver.Position()
	q.next = &nextConnection{generation: gen, hold: hold, askedAfter: last.Offset}
	return last, known
}

// nextConnection is the connection that a queue expects while the one before still delivers.
// Its first message makes it the only one, but not as long as the one before may still deliver
// what that would leave out: the ways of the two are not equally long.
type nextConnection struct {
	generation uint64
	hold       bool
	askedAfter uint64         // the number that was reached when it was asked
	ahead      sequence.Ahead // does not count for Options.Memory
	announced  bool           // the loop knows that the first message stands for the answer
}

// follow takes events of the next connection. It returns those to accept now: then it is the
// only one. With answered, a message stands for the answer to a request. mu is held.
func (q *queue) follow(events []wire.Event, keys []string) (now []wire.Event, nowKeys []string, answered bool) {
	n := q.next
	n.ahead.Add(events, keys)
	if q.generation == 0 || !q.receiver.LeavesOut(n.ahead.Events) || n.ahead.Full() {
		q.changeConnection()
		return n.ahead.Events, n.ahead.Keys, false
	}
	for i := range events {
		if events[i].Kind == wire.EventData && q.firstAnswers && !n.announced {
			n.announced, answered = true, true
		}
	}
	return nil, nil, answered
}

// changeConnection makes the next connection the only one; mu is held.
func (q *queue) changeConnection() {
	next := q.next
	q.acceptOnly(next.generation)
	q.answerDue, q.holding = q.firstAnswers && !next.announced, next.hold
	if q.receiver.Numbered() {
		q.receiver.MayRepeat(next.askedAfter)
	}
}

// abandonPosition makes the next connection begin the stream again, with a Reset.
func (q *queue) abandonPosition() {
	q.mu.Lock()
	q.receiver.Abandon()
	q.mu.Unlock()
}

// expectAnswer follows when the server is asked for the subscription. With hold,
// messages before the answer belong to an earlier subscription.
func (q *queue) expectAnswer(hold bool) {
	q.mu.Lock()
	q.answerDue, q.holding = q.firstAnswers, hold
	q.mu.Unlock()
}

// holdNoLonger takes what comes for messages of this subscription.
func (q *queue) holdNoLonger() {
	q.mu.Lock()
	q.holding = false
	q.mu.Unlock()
}

// isEarlier reports whether ev belongs to an earlier subscription; mu is held.
func (q *queue) isEarlier(ev *wire.Event) bool {
	switch {
	case ev.Kind == wire.EventSubscribed || ev.Kind == wire.EventUnsubscribed && ev.Code == 0:
		q.holding = false
	case ev.Kind == wire.EventData && q.holding:
		q.earlier++
	}
	return q.holding
}

// resumeProved follows when the server goes on with the stream on connection gen without
// a new request, and without a loss.
func (q *queue) resumeProved(gen uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if gen == q.generation && !q.finishing {
		last, _ := q.receiver.Position()
		now := time.Now()
		_ = q.acceptControl(&wire.Event{Kind: wire.EventSubscribed, Position: last, Continuity: wire.ContinuityProved}, &now) // its own position is no violation
	}
}

// hasReceivedOn reports whether a message that is not a duplicate came on
// connection gen, which has not been fenced.
func (q *queue) hasReceivedOn(gen uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.generation == gen && q.received > q.receivedBefore
}
