package limpet

import (
	"sort"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/lend"
	"github.com/limpet-go/limpet/internal/saver"
	"github.com/limpet-go/limpet/wire"
)

// ackMessage acknowledges m.
func (q *queue) ackMessage(m *Message) {
	q.mu.Lock()
	acked := q.reported(q.tracker.acknowledgeOne(m))
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
	q.tracker.expand()
	q.tracker.abandoned = true
	acked := q.tracker.acknowledgeOne(m)
	for i := range acked {
		acked[i].released = true
		if q.releases {
			q.receiver.Forget(wire.ID(m.ID))
		}
		for j := range q.copies {
			c := &q.copies[j]
			c.run.released = c.run.released || c.id == wire.ID(m.ID) && (c.id != wire.ID{} || c.run.position == m.Position)
		}
	}
	report := q.reported(acked)
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

// keepUnwanted remembers a message of connection gen that no consumer will get, for a
// server that waits for an acknowledgement; mu is held.
func (q *queue) keepUnwanted(gen uint64, p Position) {
	if q.tracker.reports != wire.ProcessedEach || gen != q.generation {
		return
	}
	run := takenRun{generation: gen, position: p, released: true}
	if q.releasing {
		q.toReport = append(q.toReport, run)
	} else if len(q.unwanted) < q.delivery.Buffer+maxUnacked {
		q.unwanted = append(q.unwanted, run)
	}
}

// releaseRest returns the positions of the messages of connection gen that nothing has
// processed: those that no consumer got, and those that one got and did not acknowledge.
// What comes after it is released at once.
func (q *queue) releaseRest(gen uint64) []Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	runs := q.unwanted
	q.unwanted, q.releasing = nil, true
	for i := range q.tracker.unacked.All() {
		if r := q.tracker.unacked.At(i); !r.acked {
			r.acked = true
			runs = append(runs, *r)
		}
	}
	var all []Position
	for i := range runs {
		if runs[i].generation == gen {
			all = append(all, runs[i].position)
		}
	}
	return all
}

// reported adds acked to what reportProcessed is to report, and returns whether the
// caller must call it: one goroutine at a time does, so that the order is kept; mu is
// held.
func (q *queue) reported(acked []takenRun) bool {
	q.toReport = append(q.toReport, acked...)
	q.settleCopies()
	if len(q.toReport) == 0 {
		return false
	}
	first := !q.reporting
	q.reporting = true
	return first
}

// reportProcessed reports what reported has added, if report is true. The saver looks
// itself for what was committed.
func (q *queue) reportProcessed(report bool) {
	q.saver.Notice()
	for report {
		q.mu.Lock()
		acked := q.toReport
		q.toReport = nil
		for i := range acked {
			if acked[i].generation == q.generation {
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
			q.owner.positionProcessed(acked[i].generation, acked[i].position, acked[i].released)
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

// maxUnacked bounds, without ManualAck, how many runs are remembered behind one
// that is never acknowledged because its loop body did not finish.
const maxUnacked = 16 << 10

// ackTracker follows the messages that consumers have taken until they are
// acknowledged, and commits the contiguous prefix. The lock of its queue guards
// it.
type ackTracker struct {
	perMessage bool           // each message is a run of its own, else those taken together are one
	reports    wire.Processed // what the server must be sent
	limit      int            // of unacked
	single     numberRange    // what is unacknowledged, if that is one run without a loss: unacked is empty then
	unacked    fifo.Queue[takenRun]
	losses     int // how many of unacked are losses; only with perMessage
	committed  Position
	through    uint64 // the number of the last message that is committed
	abandoned  bool   // limit was exceeded: nothing more is committed
	forgotten  int    // messages that are not acknowledged and not in unacked

	byMarks bool                   // with Latest: what is committed is the position of a mark
	marks   fifo.Queue[commitMark] // in the order of their numbers
}

// commitMark is the position to commit once every message up to number is acknowledged.
type commitMark struct {
	number   uint64
	position Position
}

// numberRange is a range of message numbers. The zero value is empty.
type numberRange struct{ first, last uint64 }

// takenRun is a run of messages that were taken together, or a part of one. A
// loss is a run of its own: it is acknowledged from the start and belongs to no
// connection.
type takenRun struct {
	numberRange
	position   Position // of the last message; unknown in a run that came from single or was split
	generation uint64   // the connection it came on; 0: none, or position is unknown
	acked      bool
	released   bool // it will not be processed
}

// processedRun is what a consumer has processed: everything it took at once, or
// one message. The zero value is nothing.
type processedRun struct {
	first  uint64 // number of the first message
	last   *Message
	inBody bool // the consumer comes back from a loop body

	lent *lend.Batch // what it gives back and takes, with SubscribeOptions.Lend; nil: it takes copies
}

// track adds what a consumer has taken. losses is how many of ms are losses.
func (t *ackTracker) track(ms []Message, losses int) {
	first, last := ms[0].number, ms[len(ms)-1].number
	if t.unacked.Len() == 0 && t.single.last == 0 && losses == 0 && !t.perMessage && !t.abandoned && last-first == uint64(len(ms)-1) {
		t.single = numberRange{first, last}
		return
	}
	t.expand()
	for len(ms) > 0 {
		if ms[0].Loss != nil && t.perMessage && t.extendLoss(&ms[0]) {
			ms = ms[1:]
			continue
		}
		if t.unacked.Len() >= t.limit {
			t.forgetOldest()
		}
		n := 1
		for !t.perMessage && n < len(ms) && ms[0].Loss == nil && ms[n].Loss == nil && ms[n].number == ms[n-1].number+1 {
			n++ // a number that no message has would stay unacknowledged
		}
		last := &ms[n-1]
		if t.perMessage && ms[0].Loss != nil {
			t.losses++
		}
		t.unacked.Push(takenRun{numberRange{ms[0].number, last.number}, last.Position, last.generation, ms[0].Loss != nil, false})
		ms = ms[n:]
	}
}

// forgetOldest forgets the oldest run, which is not acknowledged: nothing more is
// committed.
func (t *ackTracker) forgetOldest() {
	r := t.unacked.At(0)
	t.abandoned = true
	t.forgotten += int(r.last-r.first) + 1
	t.unacked.Drop(1)
	t.commitPrefix()
}

// extendLoss adds a loss to the run before it, if that is a loss too.
func (t *ackTracker) extendLoss(m *Message) bool {
	n := t.unacked.Len()
	if n == 0 || t.unacked.At(n-1).generation != 0 {
		return false
	}
	r := t.unacked.At(n - 1)
	r.last, r.position = m.number, m.Position
	return true
}

// window returns how many messages were taken from the oldest one on that is not
// acknowledged; only with perMessage.
func (t *ackTracker) window() int { return t.unacked.Len() - t.losses }

// expand moves single to unacked.
func (t *ackTracker) expand() {
	if t.single.last != 0 {
		t.unacked.Push(takenRun{numberRange: t.single})
		t.single.last = 0
	}
}

// acknowledge marks what was processed, commits, and returns what to report to
// the server.
func (t *ackTracker) acknowledge(processed processedRun) (acked []takenRun) {
	if processed.last == nil {
		return nil
	}
	last := processed.last
	if t.single == (numberRange{processed.first, last.number}) && !t.byMarks && t.reports != wire.ProcessedCumulative {
		// The usual case. Field by field: see sequence.Receiver.CopyPosition.
		t.single.last, t.through = 0, last.number
		t.committed.Epoch, t.committed.Offset, t.committed.Tag = last.Position.Epoch, last.Position.Offset, last.Position.Tag
		return nil
	}
	before := t.committed
	if t.single == (numberRange{processed.first, last.number}) {
		t.single.last = 0
		t.commit(last.number, last.Position)
		return t.cumulative(takenRun{position: last.Position, generation: last.generation}, before, nil)
	}
	for i := t.indexOf(processed.first); i < t.unacked.Len() && t.unacked.At(i).last <= last.number; i++ {
		r := t.unacked.At(i)
		if r.acked {
			continue
		}
		r.acked = true
		if r.last == last.number && r.generation == 0 {
			// Only if the run has no position: the caller may have changed its copy.
			r.position, r.generation = last.Position, last.generation
		}
		if t.reports == wire.ProcessedEach && r.generation != 0 {
			acked = append(acked, *r)
		}
	}
	return t.cumulative(t.commitPrefix(), before, acked)
}

// cumulative adds r, the last run that was committed, to acked if the server takes it for
// all before. before is what was committed before.
func (t *ackTracker) cumulative(r takenRun, before Position, acked []takenRun) []takenRun {
	if t.reports != wire.ProcessedCumulative || r.generation == 0 {
		return acked
	}
	if t.byMarks {
		if t.committed == before {
			return acked
		}
		r.position = t.committed
	}
	return append(acked, r)
}

// mark says what to commit once every message up to number is acknowledged; only with
// byMarks.
func (t *ackTracker) mark(number uint64, p Position) {
	known := t.committed
	if n := t.marks.Len(); n > 0 {
		known = t.marks.At(n - 1).position
	}
	if p != known && !t.abandoned {
		t.marks.Push(commitMark{number, p})
	}
}

// commit follows when every message up to number is acknowledged; p is the position of
// the last one.
func (t *ackTracker) commit(number uint64, p Position) {
	t.through = number
	if !t.byMarks {
		t.committed = p
		return
	}
	for t.marks.Len() > 0 && t.marks.At(0).number <= number {
		t.committed = t.marks.At(0).position
		t.marks.Drop(1)
	}
}

// acknowledgeOne acknowledges one message. If others were taken with it, their
// run is split.
func (t *ackTracker) acknowledgeOne(m *Message) (acked []takenRun) {
	if t.single != (numberRange{m.number, m.number}) {
		t.expand()
		if i := t.indexOf(m.number); i < t.unacked.Len() && t.unacked.At(i).first <= m.number {
			t.split(i, m.number)
		}
	}
	return t.acknowledge(processedRun{first: m.number, last: m})
}

// indexOf returns the index of the run that contains number, or else of the
// first run after it.
func (t *ackTracker) indexOf(number uint64) int {
	return sort.Search(t.unacked.Len(), func(i int) bool { return t.unacked.At(i).last >= number })
}

// split makes the message with number, in the run at i, a run of its own. The
// parts learn their positions when they are acknowledged.
func (t *ackTracker) split(i int, number uint64) {
	if r := t.unacked.At(i); r.first < number && !r.acked {
		before := takenRun{numberRange: numberRange{r.first, number - 1}}
		r.first = number
		t.unacked.Insert(i, before)
		i++
	}
	if r := t.unacked.At(i); r.last > number && !r.acked {
		r.first = number + 1
		t.unacked.Insert(i, takenRun{numberRange: numberRange{number, number}})
	}
}

// commitPrefix commits the acknowledged prefix and returns the last run in it
// that is not a loss. After forgetOldest it only forgets the prefix.
func (t *ackTracker) commitPrefix() (last takenRun) {
	n := 0
	for n < t.unacked.Len() && t.unacked.At(n).acked {
		r := t.unacked.At(n)
		if !t.abandoned {
			t.commit(r.last, r.position)
		}
		if r.generation == 0 && t.perMessage {
			t.losses--
		} else if r.generation != 0 && !t.abandoned {
			last = *r
		}
		n++
	}
	if n > 0 {
		t.unacked.Drop(n)
	}
	return last
}

// open returns how many messages are not acknowledged.
func (t *ackTracker) open() int {
	n := t.forgotten
	if t.single.last != 0 {
		n = int(t.single.last-t.single.first) + 1
	}
	for _, r := range t.unacked.All() {
		if !r.acked {
			n += int(r.last-r.first) + 1
		}
	}
	return n
}

// notAcked returns how many messages consumers got and did not acknowledge; mu is
// held.
func (q *queue) notAcked() int { return max(0, q.tracker.open()-q.held-q.heldDropped) }

// committedPosition returns the end of the acknowledged prefix.
func (q *queue) committedPosition() Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tracker.committed
}

// toSave returns what the saver is to save: what is committed or, before that, where the
// stream began.
func (q *queue) toSave() saver.Committed {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := saver.Committed{Position: q.tracker.committed, Number: q.tracker.through, Ending: q.finishing}
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
