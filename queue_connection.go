package limpet

import (
	"time"

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
	q.mu.Unlock()
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
	q.used, q.roomReported, q.outstanding, q.copies = wire.Credit{}, false, 0, nil
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
	q.next = &nextConnection{gen, hold, nil}
	return q.receiver.Position()
}

// nextConnection is the connection that a queue expects while the one before still delivers.
// Its first event makes it the only one. Its confirmation does not: what the one before sent
// until then may come later.
type nextConnection struct {
	generation   uint64
	hold         bool
	confirmation *wire.Event
}

// changeConnection makes the next connection the only one; mu is held.
func (q *queue) changeConnection(readAt *time.Time) error {
	next := q.next
	q.acceptOnly(next.generation)
	q.answerDue, q.holding = q.firstAnswers, next.hold
	if next.confirmation == nil || q.finishing {
		return nil
	}
	return q.accept(next.generation, next.confirmation, "", readAt)
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
