package limpet

import (
	"slices"
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
	if q.follows == gen {
		q.follows, q.ahead = 0, nil
	}
	next, waits := q.follows, q.ahead != nil && q.generation == 0
	q.mu.Unlock()
	if waits {
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
	q.generation, q.follows, q.ahead = gen, 0, nil
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
	q.follows, q.followsHold, q.ahead = gen, hold, nil
	last, known = q.receiver.Position()
	q.askedAfter = last.Offset
	return last, known
}

// aheadEvents came on the connection that is expected, before what the one in use still has to
// deliver.
type aheadEvents struct {
	events   []wire.Event
	keys     []string
	bytes    int
	answered bool // the loop knows that the first message stands for the answer
}

// The bounds of aheadEvents: with more, the connection in use is left, and what it has not
// delivered is a loss.
const (
	maxAhead      = 4096
	maxAheadBytes = 1 << 20
)

// follow takes events of the connection that is expected. It returns those to accept now: then
// this connection is the one in use. Before, the one in use must have delivered what these
// would leave out: the ways of the two are not equally long. With answered, a message stands
// for the answer to a request. mu is held.
func (q *queue) follow(events []wire.Event, keys []string) (now []wire.Event, nowKeys []string, answered bool) {
	if a := q.ahead; a != nil {
		events, keys = append(a.events, cloneEvents(events)...), append(a.keys, keys...)
	}
	if !q.leavesOut(events) || len(events) > maxAhead || q.ahead != nil && q.ahead.bytes > maxAheadBytes {
		q.changeConnection()
		return events, keys, false
	}
	a := q.ahead
	if a == nil {
		a = new(aheadEvents)
		q.ahead, events, keys = a, cloneEvents(events), slices.Clone(keys)
	}
	for i := len(a.events); i < len(events); i++ {
		a.bytes += len(events[i].Message.Payload)
		if events[i].Kind == wire.EventData && q.firstAnswers && !a.answered {
			a.answered, answered = true, true
		}
	}
	a.events, a.keys = events, keys
	return nil, nil, answered
}

// cloneEvents returns copies that share no memory with the reader.
func cloneEvents(events []wire.Event) []wire.Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].OwnPayload()
	}
	return events
}

// leavesOut reports whether events of the connection that is expected are ahead of what the
// one in use may still deliver; mu is held.
func (q *queue) leavesOut(events []wire.Event) bool {
	if q.generation == 0 || !q.receiver.Numbered() {
		return false
	}
	for i := range events {
		switch events[i].Kind {
		case wire.EventSubscribed:
		case wire.EventData:
			return q.receiver.Leaves(&events[i])
		default:
			return false
		}
	}
	return true
}

// changeConnection makes the connection that was expected the one in use; mu is held.
func (q *queue) changeConnection() {
	hold := q.followsHold
	due := q.firstAnswers && (q.ahead == nil || !q.ahead.answered)
	q.acceptOnly(q.follows)
	q.answerDue, q.holding = due, hold
	if q.receiver.Numbered() {
		q.receiver.MayRepeat(q.askedAfter)
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
