package limpet

import (
	"math"
	"time"

	"github.com/limpet-go/limpet/internal/lend"
	"github.com/limpet-go/limpet/internal/saver"
	"github.com/limpet-go/limpet/wire"
)

// ackMessage acknowledges m.
func (q *queue) ackMessage(m *Message) {
	q.mu.Lock()
	q.tracker.AcknowledgeOne(m.number, &m.Position, m.generation)
	acked := q.reported()
	room, drained := q.roomToReport(), q.drainToReport()
	q.watchStandstill()
	q.mu.Unlock()
	q.reportProcessed(acked)
	if q.manualAck {
		q.wakeConsumer() // another message may be taken now
	}
	if room {
		q.owner.roomAvailable()
	}
	if drained {
		q.owner.streamDrained()
	}
}

// releaseMessage follows when m will not be processed. The server delivers it again if
// it can; nothing more is committed.
func (q *queue) releaseMessage(m *Message) {
	q.mu.Lock()
	if q.tracker.Release(m.number, wire.ID(m.ID), &m.Position, m.generation) && q.releases {
		q.receiver.Forget(wire.ID(m.ID))
	}
	report := q.reported()
	room, drained := q.roomToReport(), q.drainToReport()
	q.watchStandstill()
	q.mu.Unlock()
	q.reportProcessed(report)
	q.wakeConsumer()
	if room {
		q.owner.roomAvailable()
	}
	if drained {
		q.owner.streamDrained()
	}
}

// releaseRest returns the positions of the messages of connection gen that nothing has
// processed: those that no consumer got, and those that one got and did not acknowledge.
// What comes after it is released at once.
func (q *queue) releaseRest(gen uint64) []Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tracker.ReleaseRest(gen)
}

// acknowledge follows what was processed, and returns whether the caller must call
// reportProcessed; mu is held.
func (q *queue) acknowledge(processed processedRun) bool {
	if last := processed.last; last != nil {
		q.tracker.Acknowledge(processed.first, last.number, &last.Position, last.generation)
	}
	return q.reported()
}

// reported returns whether there is something to report and the caller must call
// reportProcessed: one goroutine at a time does, so that the order is kept; mu is held.
func (q *queue) reported() bool {
	if q.tracker.Copies() > 0 {
		waiting := uint64(math.MaxUint64)
		if q.waits() > 0 {
			waiting = q.firstWaiting().number
		}
		q.tracker.SettleCopies(waiting)
	}
	if q.tracker.Reports() == 0 {
		return false
	}
	first := !q.reporting
	q.reporting = true
	return first
}

// reportProcessed reports what the tracker has for the server, if report is true. The saver
// looks itself for what was committed.
func (q *queue) reportProcessed(report bool) {
	q.saver.Notice()
	for report {
		q.mu.Lock()
		acked := q.tracker.TakeReports()
		for i := range acked {
			if acked[i].Generation == q.generation {
				q.outstanding--
			}
		}
		if q.prefetch > 0 {
			q.watchStandstill()
		}
		report = len(acked) > 0
		q.reporting = report
		drained := q.drainToReport()
		q.mu.Unlock()
		for i := range acked {
			q.owner.positionProcessed(acked[i].Generation, acked[i].Position, acked[i].Released)
		}
		if drained {
			q.owner.streamDrained()
		}
	}
}

// forgoAcks ends the wait for acknowledgements: the server cannot learn them any
// more.
func (q *queue) forgoAcks() {
	q.mu.Lock()
	q.awaitAcks = q.saver != nil
	drained := q.drainToReport()
	q.mu.Unlock()
	if drained {
		q.owner.streamDrained()
	}
}

// processedRun is what a consumer has processed: everything it took at once, or
// one message. The zero value is nothing.
type processedRun struct {
	first  uint64 // number of the first message
	last   *Message
	inBody bool // the consumer comes back from a loop body

	lent *lend.Batch // what it gives back and takes, with SubscribeOptions.Lend; nil: it takes copies
}

// notAcked returns how many messages consumers got and did not acknowledge; mu is
// held.
func (q *queue) notAcked() int { return max(0, q.tracker.Open()-q.held-q.heldDropped) }

// committedPosition returns the end of the acknowledged prefix.
func (q *queue) committedPosition() Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tracker.Committed()
}

// toSave returns what the saver is to save: what is committed or, before that, where the
// stream began.
func (q *queue) toSave() saver.Committed {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := saver.Committed{Position: q.tracker.Committed(), Number: q.tracker.Through(), Ending: q.finishing}
	if c.Position.IsZero() {
		c.Position = q.began
	}
	return c
}

// measureLag measures how old messages are that a consumer gets; mu is held.
func (q *queue) measureLag(ms []Message) {
	if q.lag == nil {
		return
	}
	for i := range ms {
		m, news := &ms[i], int64(0)
		if m.Loss != nil {
			continue
		}
		if m.Kind == Data && !m.Redelivered {
			news = m.sourceTime
		}
		q.lag.Message(&m.ReceivedAt, news)
	}
	q.lag.End()
}

// countLag counts what measureLag has measured; mu is held.
func (q *queue) countLag() {
	if q.lag != nil {
		q.lag.Count()
	}
}

// stats returns what the queue has counted.
func (q *queue) stats() SubStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return SubStats{
		Received: q.received, Delivered: q.delivered, Dropped: q.dropped, DroppedByClose: q.closed, Conflated: q.conflated,
		Waiting: uint64(q.messages + q.held), Duplicates: q.duplicates, Earlier: q.earlier, Gaps: q.gaps, Resets: q.resets,
		Missed: q.missed, WaitingBytes: uint64(q.bytes), Unacked: uint64(q.notAcked()),
		LastReceived: q.lastReceived, OldestWaiting: q.oldestWaiting(),
	}
}

// oldestWaiting returns how long the oldest message that waits has waited; mu is held.
func (q *queue) oldestWaiting() time.Duration {
	switch {
	case q.held > 0:
		return time.Since(q.heldSince)
	case q.messages == 0:
		return 0
	case q.delivery.Overflow == Latest:
		p := q.keyed.Oldest()
		for q.keyed.At(p).Loss != nil {
			p = q.keyed.Newer(p)
		}
		return time.Since(q.keyed.At(p).ReceivedAt)
	}
	i := 0
	for q.items.At(i).Loss != nil {
		i++
	}
	return time.Since(q.items.At(i).ReceivedAt)
}
