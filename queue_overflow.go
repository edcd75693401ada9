package limpet

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// dropNewest adds a gap in place of the message that the receiver has just
// accepted after position before; mu is held.
func (q *queue) dropNewest(before Position, readAt *time.Time) {
	q.dropped++
	to, _ := q.receiver.Position()
	q.reportDropped(q.generation, to)
	q.appendLoss(newLoss(readAt, Gap, before, to, 1, wire.CauseOverflow))
}

// dropOldest drops messages from the head until the rest fits; mu is held.
func (q *queue) dropOldest(readAt *time.Time) {
	for q.messages > q.delivery.Buffer || q.messages > 1 && q.bytes > q.delivery.Bytes {
		q.dropFirst(readAt)
	}
}

// dropFirst turns the first message into a gap and joins it with its
// neighbours; mu is held, and there is a message.
func (q *queue) dropFirst(readAt *time.Time) {
	i := 0
	for q.items.At(i).Loss != nil {
		i++
	}
	m := *q.items.At(i)
	q.dropped++
	q.reportDropped(m.generation, m.Position)
	q.messages--
	q.bytes -= len(m.Payload)
	after := Position{Epoch: m.Position.Epoch, Offset: m.previous}
	g := newLoss(readAt, Gap, after, m.Position, 1, wire.CauseOverflow)
	g.Topic, g.queue, g.number = q.topic, q, m.number
	*q.items.At(i) = g
	if i+1 < q.items.Len() && q.joinLoss(i, *q.items.At(i + 1)) {
		q.removeItem(i + 1)
	}
	if i > 0 && q.joinLoss(i-1, *q.items.At(i)) {
		q.removeItem(i)
		i--
	}
	// Nothing is left between two resets: they are one.
	if i > 0 && i+1 < q.items.Len() && q.items.At(i-1).Kind == Reset && q.joinLoss(i-1, *q.items.At(i + 1)) {
		q.removeItem(i + 1)
		q.removeItem(i)
	}
}

// newLoss returns the loss that the client learned of at readAt.
func newLoss(readAt *time.Time, kind Kind, after, to Position, count uint64, cause Cause) Message {
	return Message{Kind: kind, Position: to, ReceivedAt: *readAt, Loss: &Loss{After: after, To: to, Count: count, Cause: cause}}
}

// joinLoss extends the loss at items[i] by the loss m that follows it, if both
// are gaps of one epoch or both are resets; mu is held.
func (q *queue) joinLoss(i int, m Message) bool {
	old := q.items.At(i)
	switch {
	case old.Kind == Gap && m.Kind == Gap && old.Loss.To.Epoch == m.Loss.To.Epoch:
		g := *old.Loss
		g.To = m.Loss.To
		if g.Count != 0 && m.Loss.Count != 0 {
			g.Count += m.Loss.Count
		} else {
			g.Count = 0
		}
		old.Loss, old.Position = &g, g.To
		old.firstReceived(m.ReceivedAt)
		return true
	case old.Kind == Reset && m.Kind == Reset:
		g := *old.Loss
		g.To = m.Loss.To
		old.Loss, old.Position = &g, g.To
		old.firstReceived(m.ReceivedAt)
		return true
	}
	return false
}

// firstReceived makes at the time of a loss if it is earlier.
func (m *Message) firstReceived(at time.Time) {
	if at.Before(m.ReceivedAt) {
		m.ReceivedAt = at
	}
}

// reportDropped acknowledges a message that the policy dropped, to a server that waits
// for acknowledgements: the policy has done with it; mu is held.
func (q *queue) reportDropped(gen uint64, p Position) {
	if q.tracker.reports == wire.ProcessedEach {
		q.toReport = append(q.toReport, takenRun{generation: gen, position: p})
	}
}

// removeItem removes items[i]; mu is held.
func (q *queue) removeItem(i int) {
	q.items.Remove(i)
	if q.released > i {
		q.released--
	}
}

// dropsToReport counts n dropped messages and returns how many to report: 0
// within a second of the last report; mu is held.
func (q *queue) dropsToReport(n uint64, now time.Time) uint64 {
	q.unreportedDrops += n
	if now.Sub(q.dropsReportedAt) < time.Second {
		return 0
	}
	n, q.unreportedDrops, q.dropsReportedAt = q.unreportedDrops, 0, now
	return n
}

// standstillTimeout is how long a stream may stand still before it is reported.
const standstillTimeout = 30 * time.Second

// standsStill reports whether no message can come or be taken until consumers act:
// with ManualAck the window is full from the oldest message that is not acknowledged
// on, or with Block the server has used its credit, gets no more and no consumer is at
// work; mu is held.
func (q *queue) standsStill() bool {
	if q.manualAck && !q.ended && q.tracker.window() >= q.delivery.Buffer {
		return true
	}
	if q.delivery.Overflow != Block || q.messages == 0 || q.bodies > 0 || q.finishing {
		return false
	}
	taken := q.held
	if q.manualAck {
		taken = q.tracker.window()
	}
	// Less than half of the room is not granted while messages wait: see roomToReport.
	little := q.messages+taken > q.delivery.Buffer-max(1, q.delivery.Buffer/2)
	return little && q.used.N >= q.granted.N || q.bytes >= q.delivery.Bytes
}

// watchStandstill follows when standsStill may have changed. The timer is set
// only once in standstillTimeout, however often that happens; mu is held.
func (q *queue) watchStandstill() {
	still := q.standsStill()
	if !still {
		q.stillSince = time.Time{}
	} else if q.stillSince.IsZero() {
		q.stillSince, q.stillReported = time.Now(), false
		if q.messages > 0 && q.released == 0 {
			q.stillSince = later(q.stillSince, q.nextRelease) // until then consumers cannot take
		}
		if q.stillTimer == nil {
			q.stillTimer = time.AfterFunc(standstillTimeout, q.checkStandstill)
		}
	}
}

// checkStandstill reports a stream that has stood still for standstillTimeout, once.
func (q *queue) checkStandstill() {
	q.mu.Lock()
	q.watchStandstill()
	left := standstillTimeout - time.Since(q.stillSince)
	if !q.stillSince.IsZero() && !q.stillReported && left > 0 {
		q.stillTimer.Reset(left)
		q.mu.Unlock()
		return
	}
	q.stillTimer = nil
	report := !q.stillSince.IsZero() && !q.stillReported
	q.stillReported = true
	e := DeliveryStopped{Topic: q.topic, Waiting: uint64(q.messages + q.held), Unacked: uint64(q.notAcked()), Err: errNotTaken}
	if q.manualAck && q.tracker.window() >= q.delivery.Buffer {
		e.Err = errNotAcknowledged
	}
	q.mu.Unlock()
	if report {
		q.owner.stoodStill(e)
	}
}

// startRequest is startConnection and expectAnswer in one step: no message comes
// between the two.
func (q *queue) startRequest(gen uint64, hold bool) (last Position, known bool, credit wire.Credit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	last, known, credit = q.acceptOnly(gen)
	q.answerDue, q.holding = q.firstAnswers, hold
	return last, known, credit
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
