package limpet

import (
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/sequence"
	"github.com/limpet-go/limpet/wire"
)

// offer accepts events of connection gen, read from the socket at readAt, in wire
// order, all with one key. It does not block. It returns the losses that the server
// did not report, and EventData for a message that stands for the answer to a request.
// An error is a violation by the server; the events before it were accepted.
func (q *queue) offer(gen uint64, events []wire.Event, readAt *time.Time) (detected []wire.Event, err error) {
	if q.lent == nil {
		for i := range events {
			events[i].OwnPayload()
		}
	}
	if q.delivery.Key != nil && events[0].Kind == wire.EventData {
		return q.offerKeyed(gen, events, readAt)
	}
	return q.acceptAll(gen, events, nil, readAt)
}

// acceptAll is offer, with the keys that Delivery.Key gave the messages, if it is set.
func (q *queue) acceptAll(gen uint64, events []wire.Event, keys []string, readAt *time.Time) (detected []wire.Event, err error) {
	q.mu.Lock()
	if q.next != nil && gen == q.next.generation && !q.next.ended {
		var answered bool
		if events, keys, answered = q.follow(events, keys); answered {
			detected = []wire.Event{{Kind: wire.EventData, Name: q.topic}}
		}
	}
	if len(events) == 0 {
		q.mu.Unlock()
		return detected, nil
	}
	if kind := events[0].Kind; gen == q.generation && !q.finishing && (kind == wire.EventData || kind == wire.EventGap || kind == wire.EventReset) {
		if !q.useSpare(events) {
			q.reserve(events, keys)
		}
	}
	before, receivedBefore, losses := q.dropped, q.received, q.waits()-q.messages
	if key := events[0].Key; key != q.key && key != 0 && q.key != 0 {
		events = nil // of a request that was withdrawn
	}
	if len(events) == 1 && q.delivery.Overflow != Latest { // the usual case
		err = q.accept(gen, &events[0], "", readAt)
	} else {
		err = q.acceptEach(gen, events, keys, readAt)
	}
	if q.detected != nil || q.firstCame {
		detected = q.takeDetected(detected)
	}
	if q.tight || q.delivery.Overflow == Latest || q.delivery.Overflow == Block || q.waits()-q.messages > losses+1 {
		q.holdAccepted() // otherwise reserve has taken enough
	}
	room := q.delivery.Overflow != Block && q.roomToReport()
	report := q.tracker.Reports()+q.tracker.Copies() > 0 && q.reported()
	waiting := q.waits() > 0
	began := q.justBegan
	q.justBegan = false
	q.watchStandstill()
	if q.received > receivedBefore {
		q.lastReceived = *readAt
	}
	dropped := q.dropsSince(before)
	q.mu.Unlock()
	if dropped > 0 {
		q.owner.messagesDropped(dropped)
	}
	if waiting {
		q.wakeConsumer()
	}
	if room {
		q.owner.roomAvailable()
	}
	if report || began {
		q.reportProcessed(report)
	}
	return detected, err
}

// takeDetected appends what offer is to return; mu is held.
func (q *queue) takeDetected(detected []wire.Event) []wire.Event {
	detected, q.detected = append(detected, q.detected...), nil
	if q.firstCame {
		detected, q.firstCame = append(detected, wire.Event{Kind: wire.EventData, Name: q.topic}), false
	}
	return detected
}

// acceptEach accepts events, up to a violation; mu is held.
func (q *queue) acceptEach(gen uint64, events []wire.Event, keys []string, readAt *time.Time) error {
	for i := range events {
		key := ""
		if q.delivery.Overflow == Latest {
			key = q.keyOf(&events[i], keys, i)
		}
		if err := q.accept(gen, &events[i], key, readAt); err != nil {
			return err
		}
	}
	return nil
}

// accept accepts one event; mu is held.
func (q *queue) accept(gen uint64, ev *wire.Event, key string, readAt *time.Time) error {
	switch {
	case gen != q.generation:
		return nil
	case q.finishing:
		if ev.Kind == wire.EventData {
			q.tracker.GiveUp(gen, ev.Position)
		}
		return nil
	case q.holding && q.isEarlier(ev):
		return nil
	case ev.Kind != wire.EventData:
		return q.acceptControl(ev, readAt)
	}
	size := len(ev.Message.Payload)
	beyondCredit := q.receiver.Open() && q.useCredit(size)
	full := q.delivery.Overflow != Block &&
		(q.messages >= q.delivery.Buffer || q.messages > 0 && q.bytes+size > q.delivery.Bytes || q.tight && q.neededWithOne(ev) > q.account.Held())
	var before Position
	if full || q.delivery.Overflow == Latest {
		before, _ = q.receiver.Position()
	}
	step, err := q.receiver.Accept(ev, beyondCredit)
	if step.Loss != nil {
		q.recordLoss(step.Loss, readAt)
	}
	if q.answerDue && err == nil {
		q.answerDue, q.firstCame = false, true
	}
	switch step.Effect {
	case sequence.Duplicate:
		q.duplicates++
		if q.tracker.KeepCopy(q.lastNumber, ev.Message.ID, ev.Position, q.generation) {
			q.outstanding++
		}
	case sequence.Next:
		q.received++
		q.outstanding++
		switch {
		case q.delivery.Overflow == Latest:
			q.keepLatest(ev, key, before, step, readAt)
		case full && q.delivery.Overflow == DropNewest:
			q.dropNewest(before, readAt)
			q.dropUntilItFits(readAt) // the gap may need memory too
		default:
			q.appendMessage(ev, step.Previous, readAt)
			if full {
				q.dropUntilItFits(readAt)
			}
		}
	}
	return err
}

// acceptControl accepts an event that is not a message; mu is held.
func (q *queue) acceptControl(ev *wire.Event, readAt *time.Time) error {
	switch {
	case ev.Kind == wire.EventSubscribed:
		q.answerDue = false
	case ev.Kind == wire.EventUnsubscribed && ev.Code == 0 && q.endsAgain:
		q.receiver.StartConnection() // what comes next may leave out messages
	case isGapHere(ev):
		q.used.N += ev.Count // the server has sent these messages
	}
	step, err := q.receiver.Accept(ev, false)
	if step.Loss != nil {
		q.recordLoss(step.Loss, readAt)
	}
	if q.saver != nil && ev.Kind == wire.EventSubscribed && q.lastNumber == 0 {
		q.began, q.justBegan = q.receiver.Position()
	}
	if err != nil || step.Effect == sequence.Nothing && step.Loss == nil {
		return err
	}
	return q.checkLosses()
}

func violation(reason string) error { return &wire.CodeError{Code: 4000, Reason: reason} }

// appendMessage adds the message that the receiver has just accepted; mu is
// held.
func (q *queue) appendMessage(ev *wire.Event, previous uint64, readAt *time.Time) {
	q.lastNumber++
	q.fill(q.items.Next(), q.lastNumber, ev, previous, readAt)
}

// fill makes m the message that the receiver has just accepted, and counts it as
// waiting; mu is held.
func (q *queue) fill(m *Message, number uint64, ev *wire.Event, previous uint64, readAt *time.Time) {
	m.number, m.queue, m.generation, m.previous = number, q, q.generation, previous
	q.fillContent(m, ev, readAt)
	if q.lent != nil {
		m.Payload = q.keepPayload(number, ev)
	}
	q.receiver.CopyPosition(&m.Position)
	q.count(m)
}

// fillContent sets what a message says of itself.
func (q *queue) fillContent(m *Message, ev *wire.Event, readAt *time.Time) {
	m.Kind, m.Redelivered = Data, ev.Message.Redelivered
	if ev.Message.Snapshot {
		m.Kind = Snapshot
	}
	if m.Topic = ev.Message.Topic; m.Topic == "" {
		m.Topic = q.topic
	}
	m.ID = uuid.UUID(ev.Message.ID)
	m.Payload, m.Type, m.Header = ev.Message.Payload, ev.Message.Type, ev.Message.Header
	m.ReceivedAt, m.sourceTime = *readAt, ev.Message.Time
}

// startConnection makes gen the only connection whose events are accepted. It
// returns where to resume and how much the server may send.
func (q *queue) startConnection(gen uint64) (last Position, known bool, credit wire.Credit) {
	q.acceptAhead()
	q.roomForWindow()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.acceptOnly(gen)
}

// startRequest is startConnection and expectAnswer in one step: no message comes
// between the two.
func (q *queue) startRequest(gen uint64, hold bool) (last Position, known bool, credit wire.Credit) {
	q.acceptAhead()
	q.roomForWindow()
	q.mu.Lock()
	defer q.mu.Unlock()
	last, known, credit = q.acceptOnly(gen)
	q.answerDue, q.holding = q.firstAnswers, hold
	return last, known, credit
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

// expectKey makes key the only one whose events are accepted.
func (q *queue) expectKey(key uint64) {
	q.acceptAhead()
	q.mu.Lock()
	q.key = key
	q.mu.Unlock()
}

// fence rejects every further event of connection gen: the position stays. What the next
// connection has delivered counts once the one before is fenced, also if it has ended itself.
func (q *queue) fence(gen uint64) {
	q.mu.Lock()
	if q.generation == gen {
		q.generation = 0
	}
	next, accept, ended := q.next, false, false
	if next != nil {
		next.ended = next.ended || next.generation == gen
		ended = next.ended
		switch accept = q.generation == 0; {
		case ended && len(next.ahead.Events) == 0:
			q.next, accept = nil, false
		case accept:
			next.ended = false
		}
	}
	q.mu.Unlock()
	if accept {
		now := time.Now()
		_, _ = q.acceptAll(next.generation, nil, nil, &now) // where holes are losses, no event is a violation
	}
	if accept && ended {
		q.fence(next.generation)
	}
}

// resumePosition returns the position after which the stream can be resumed,
// and whether it is known.
func (q *queue) resumePosition() (last Position, known bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.receiver.Position()
}

// abandonPosition makes the next connection begin the stream again, with a Reset.
func (q *queue) abandonPosition() {
	q.mu.Lock()
	q.receiver.Abandon()
	q.mu.Unlock()
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

// acceptAhead accepts what waits for the connection before, which is asked no more: a new request
// follows.
func (q *queue) acceptAhead() {
	q.mu.Lock()
	gen, ahead := q.generation, q.next != nil && len(q.next.ahead.Events) > 0
	q.mu.Unlock()
	if ahead {
		q.fence(gen)
	}
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
	ended      bool           // it was fenced before the one before it
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
