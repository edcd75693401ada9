package limpet

import (
	"math"
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

// maxUnacked bounds, without ManualAck, how many runs are remembered behind one
// that is never acknowledged because its loop body did not finish.
const maxUnacked = 16 << 10

// ackConfig is what an ackTracker follows.
type ackConfig struct {
	PerMessage bool           // each message is a run of its own, else those taken together are one
	ByMarks    bool           // what is committed is the position of a mark
	Processed  wire.Processed // what the server must be sent
	Limit      int            // of the runs, the duplicates and the unwanted messages that are remembered
}

// ackTracker follows the messages that consumers have taken until they are
// acknowledged, and commits the contiguous prefix. It also keeps what the server is to
// be sent. Messages have ascending numbers, above 0. Its methods are not safe for
// concurrent use.
type ackTracker struct {
	ackConfig
	single    numberRange // what is unacknowledged, if that is one run without a loss: unacked is empty then
	unacked   fifo.Queue[takenRun]
	losses    int // how many of unacked are losses; only with PerMessage
	committed wire.Position
	through   uint64                 // the number of the last message that is committed
	abandoned bool                   // Limit was exceeded, or a message released: nothing more is committed
	forgotten int                    // messages that are not acknowledged and not in unacked
	marks     fifo.Queue[commitMark] // in the order of their numbers; only with ByMarks

	reports   []ackReport // what the server is to be sent
	unwanted  []ackReport // what nothing will process, for ReleaseRest
	copies    []ackCopy   // duplicates of what may not be processed yet, the oldest first
	releasing bool        // what is not wanted is reported at once
}

// commitMark is the position to commit once every message up to number is acknowledged.
type commitMark struct {
	number   uint64
	position wire.Position
}

// numberRange is a range of message numbers. The zero value is empty.
type numberRange struct{ first, last uint64 }

// takenRun is a run of messages that were taken together, or a part of one. A
// loss is a run of its own: it is acknowledged from the start and belongs to no
// connection.
type takenRun struct {
	numberRange
	position   wire.Position // of the last message; unknown in a run that came from single or was split
	generation uint64        // the connection it came on; 0: none, or position is unknown
	acked      bool
}

// ackReport is what the server is to be sent of a message, or of all up to it.
type ackReport struct {
	Generation uint64 // the connection it came on
	Position   wire.Position
	Released   bool // it will not be processed
}

// ackCopy is a duplicate of a message, at a server that waits for an acknowledgement of
// each message that it sends.
type ackCopy struct {
	after uint64 // the message is this one or an earlier one
	id    wire.ID
	ackReport
}

func newAckTracker(c ackConfig) ackTracker {
	return ackTracker{ackConfig: c, unacked: fifo.Queue[takenRun]{Pool: &runPool}}
}

// ResumeFrom makes p the committed position.
func (t *ackTracker) ResumeFrom(p wire.Position) { t.committed = p }

// Take follows the messages first to last, n of them and no losses, that a consumer took
// together. It reports false if it must learn of each of them, with TakeOne.
func (t *ackTracker) Take(first, last uint64, n int) bool {
	if t.unacked.Len() > 0 || t.single.last != 0 || t.PerMessage || t.abandoned || last-first != uint64(n-1) {
		return false
	}
	t.single = numberRange{first, last}
	return true
}

// TakeOne follows a message that a consumer took, or a loss, which has generation 0. With
// together it was taken with the one before.
func (t *ackTracker) TakeOne(number uint64, p *wire.Position, generation uint64, together bool) {
	t.expand()
	loss := generation == 0
	if !t.extend(number, p, generation, together) {
		if t.unacked.Len() >= t.Limit {
			t.forgetOldest()
		}
		t.unacked.Push(takenRun{numberRange{number, number}, *p, generation, loss})
		if loss && t.PerMessage {
			t.losses++
		}
	}
	if loss {
		t.commitPrefix() // it needs no acknowledgement
	}
}

// extend adds a message or a loss to the run before it, if they are one.
func (t *ackTracker) extend(number uint64, p *wire.Position, generation uint64, together bool) bool {
	n := t.unacked.Len()
	if n == 0 {
		return false
	}
	r := t.unacked.At(n - 1)
	if t.PerMessage {
		if r.generation != 0 || generation != 0 {
			return false
		}
	} else if !together || r.generation == 0 || generation == 0 || number != r.last+1 {
		return false // a number that no message has would stay unacknowledged
	}
	r.last, r.position, r.generation = number, *p, generation
	return true
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

// Window returns how many messages were taken from the oldest one on that is not
// acknowledged; only with PerMessage.
func (t *ackTracker) Window() int { return t.unacked.Len() - t.losses }

// Oldest returns the first number of the oldest run that is remembered, but for one that
// Take followed; ok is false if there is none.
func (t *ackTracker) Oldest() (number uint64, ok bool) {
	if t.unacked.Len() == 0 {
		return 0, false
	}
	return t.unacked.At(0).first, true
}

// expand moves single to unacked.
func (t *ackTracker) expand() {
	if t.single.last != 0 {
		t.unacked.Push(takenRun{numberRange: t.single})
		t.single.last = 0
	}
}

// Acknowledge follows when a consumer has processed everything that it took at once, the
// messages first to last. The last one has position p and came on connection generation.
func (t *ackTracker) Acknowledge(first, last uint64, p *wire.Position, generation uint64) {
	if t.single == (numberRange{first, last}) && !t.ByMarks && t.Processed != wire.ProcessedCumulative {
		// The usual case. Field by field: see sequence.Receiver.CopyPosition.
		t.single.last, t.through = 0, last
		t.committed.Epoch, t.committed.Offset, t.committed.Tag = p.Epoch, p.Offset, p.Tag
		return
	}
	before := t.committed
	if t.single == (numberRange{first, last}) {
		t.single.last = 0
		t.commit(last, *p)
		t.reportCumulative(ackReport{Generation: generation, Position: *p}, before)
		return
	}
	for i := t.indexOf(first); i < t.unacked.Len() && t.unacked.At(i).last <= last; i++ {
		r := t.unacked.At(i)
		if r.acked {
			continue
		}
		r.acked = true
		if r.last == last && r.generation == 0 {
			// Only if the run has no position: the caller may have changed its copy.
			r.position, r.generation = *p, generation
		}
		if t.Processed == wire.ProcessedEach && r.generation != 0 {
			t.reports = append(t.reports, ackReport{Generation: r.generation, Position: r.position})
		}
	}
	t.reportCumulative(t.commitPrefix(), before)
}

// reportCumulative reports r, of the last run that was committed, if the server takes it
// for all before. before is what was committed before.
func (t *ackTracker) reportCumulative(r ackReport, before wire.Position) {
	if t.Processed != wire.ProcessedCumulative || r.Generation == 0 {
		return
	}
	if t.ByMarks {
		if t.committed == before {
			return
		}
		r.Position = t.committed
	}
	t.reports = append(t.reports, r)
}

// AcknowledgeOne acknowledges one message. If others were taken with it, their
// run is split.
func (t *ackTracker) AcknowledgeOne(number uint64, p *wire.Position, generation uint64) {
	if t.single != (numberRange{number, number}) {
		t.expand()
		if i := t.indexOf(number); i < t.unacked.Len() && t.unacked.At(i).first <= number {
			t.split(i, number)
		}
	}
	t.Acknowledge(number, number, p, generation)
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

// Mark says what to commit once every message up to number is acknowledged; only with
// ByMarks.
func (t *ackTracker) Mark(number uint64, p wire.Position) {
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
func (t *ackTracker) commit(number uint64, p wire.Position) {
	t.through = number
	if !t.ByMarks {
		t.committed = p
		return
	}
	for t.marks.Len() > 0 && t.marks.At(0).number <= number {
		t.committed = t.marks.At(0).position
		t.marks.Drop(1)
	}
}

// commitPrefix commits the acknowledged prefix and returns a report of the last run in it
// that is not a loss. Once the tracker commits nothing more, it only forgets the prefix.
func (t *ackTracker) commitPrefix() (last ackReport) {
	n := 0
	for n < t.unacked.Len() && t.unacked.At(n).acked {
		r := t.unacked.At(n)
		if !t.abandoned {
			t.commit(r.last, r.position)
		}
		if r.generation == 0 && t.PerMessage {
			t.losses--
		} else if r.generation != 0 && !t.abandoned {
			last = ackReport{Generation: r.generation, Position: r.position}
		}
		n++
	}
	if n > 0 {
		t.unacked.Drop(n)
	}
	return last
}

// Open returns how many messages are not acknowledged.
func (t *ackTracker) Open() int {
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

// Committed returns the end of the acknowledged prefix.
func (t *ackTracker) Committed() wire.Position { return t.committed }

// Through returns the number of the last message that is committed.
func (t *ackTracker) Through() uint64 { return t.through }

// Reports returns how many reports TakeReports would return.
func (t *ackTracker) Reports() int { return len(t.reports) }

// TakeReports returns what the server is to be sent, in order, and forgets it.
func (t *ackTracker) TakeReports() []ackReport {
	reports := t.reports
	t.reports = nil
	return reports
}

// Release follows when a message will not be processed: nothing more is committed. It
// returns whether the server learns it.
func (t *ackTracker) Release(number uint64, id wire.ID, p *wire.Position, generation uint64) bool {
	t.expand()
	t.abandoned = true
	before := len(t.reports)
	t.AcknowledgeOne(number, p, generation)
	for i := range t.reports[before:] {
		t.reports[before+i].Released = true
		for j := range t.copies {
			c := &t.copies[j]
			c.Released = c.Released || c.id == id && (c.id != wire.ID{} || c.Position == *p)
		}
	}
	return len(t.reports) > before
}

// Drop follows when a message is dropped that no consumer took. A server that waits for
// acknowledgements gets one.
func (t *ackTracker) Drop(generation uint64, p wire.Position) {
	if t.Processed == wire.ProcessedEach {
		t.reports = append(t.reports, ackReport{Generation: generation, Position: p})
	}
}

// GiveUp remembers a message that no consumer will get, for a server that waits for an
// acknowledgement.
func (t *ackTracker) GiveUp(generation uint64, p wire.Position) {
	if t.Processed != wire.ProcessedEach {
		return
	}
	r := ackReport{Generation: generation, Position: p, Released: true}
	if t.releasing {
		t.reports = append(t.reports, r)
	} else if len(t.unwanted) < t.Limit {
		t.unwanted = append(t.unwanted, r)
	}
}

// ReleaseRest returns the positions of the messages of connection generation that nothing has
// processed: those that were given up, and those that a consumer took and did not acknowledge.
// What is given up after it is reported at once.
func (t *ackTracker) ReleaseRest(generation uint64) (all []wire.Position) {
	for i := range t.unwanted {
		if t.unwanted[i].Generation == generation {
			all = append(all, t.unwanted[i].Position)
		}
	}
	t.unwanted, t.releasing = nil, true
	for i := range t.unacked.All() {
		if r := t.unacked.At(i); !r.acked {
			r.acked = true
			if r.generation == generation {
				all = append(all, r.position)
			}
		}
	}
	return all
}

// KeepCopy keeps a duplicate of a message with a number of at most after until what came before
// it is processed: the server may hold nothing else of the message, if that came on an earlier
// connection. It reports false if the server does not wait for it, or if too many are kept.
func (t *ackTracker) KeepCopy(after uint64, id wire.ID, p wire.Position, generation uint64) bool {
	if t.Processed != wire.ProcessedEach || len(t.copies) >= t.Limit {
		return false
	}
	t.copies = append(t.copies, ackCopy{after, id, ackReport{Generation: generation, Position: p}})
	return true
}

// Copies returns how many duplicates are kept.
func (t *ackTracker) Copies() int { return len(t.copies) }

// SettleCopies reports the duplicates of what is processed: of the messages below waiting, the
// number of the first one that no consumer has taken, that are acknowledged.
func (t *ackTracker) SettleCopies(waiting uint64) {
	if oldest, ok := t.Oldest(); ok {
		waiting = min(waiting, oldest)
	}
	for len(t.copies) > 0 {
		c := &t.copies[0]
		if waiting <= c.after {
			return
		}
		t.reports = append(t.reports, c.ackReport)
		t.copies = t.copies[1:]
	}
	t.copies = nil
}

// GiveUpCopies gives up the duplicates of connection generation, as nothing more is processed,
// and forgets the others.
func (t *ackTracker) GiveUpCopies(generation uint64) {
	for i := range t.copies {
		if c := &t.copies[i]; c.Generation == generation {
			t.GiveUp(c.Generation, c.Position)
		}
	}
	t.copies = nil
}

// ForgetCopies forgets the duplicates: their connection has ended.
func (t *ackTracker) ForgetCopies() { t.copies = nil }

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
