package limpet

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/internal/commit"
	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/histogram"
	"github.com/limpet-go/limpet/internal/latest"
	"github.com/limpet-go/limpet/internal/lend"
	"github.com/limpet-go/limpet/internal/pace"
	"github.com/limpet-go/limpet/internal/saver"
	"github.com/limpet-go/limpet/internal/sequence"
	"github.com/limpet-go/limpet/wire"
)

// queueOwner is what a queue reports to, never under its lock.
type queueOwner interface {
	// roomAvailable reports that consumers made room for more messages.
	roomAvailable()

	// streamDrained reports that the stream has ended and that consumers have
	// taken everything. No positionProcessed that the server is to learn follows.
	streamDrained()

	// positionProcessed reports that the message at p, received on connection
	// gen, was processed. If the server acknowledges cumulatively, so was every
	// message before it. With released it will not be processed.
	positionProcessed(gen uint64, p Position, released bool)

	// messagesDropped reports that the overflow policy dropped n messages since
	// the last report.
	messagesDropped(n uint64)

	// stoodStill reports that for a while no message could come or be taken,
	// because consumers did not take or not acknowledge.
	stoodStill(e DeliveryStopped)

	// keyPanicked reports that Delivery.Key panicked: the queue accepts nothing more.
	keyPanicked(err error)
}

// queue is the delivery queue of one subscription. The reader offers events in
// wire order; consumers take messages. Its lock is a leaf. A comment "mu is
// held" is a condition for the caller.
type queue struct {
	topic     string
	delivery  Delivery
	manualAck bool
	owner     queueOwner
	memory    *budget.Budget // Options.Memory
	saver     *saver.Saver   // of what is committed; nil without SubscribeOptions.Cursor

	available     chan struct{}                  // 1 slot: there may be something to take
	merges        atomic.Pointer[[]*mergeSource] // that learn it too; replaced under mu
	discardSignal chan struct{}                  // closed by discard: the deliverer drops what it holds; nil until C is used

	mu          sync.Mutex
	items       fifo.Blocks[Message]       // messages and losses that wait for a consumer, but with Latest
	keyed       latest.Queue[keyedMessage] // those that wait with Latest
	lastLoss    uint64                     // the number of the last loss, with Latest
	arrivals    uint64                     // with Latest, of messages and losses
	messages    int                        // how many of those that wait are messages
	bytes       int                        // their payloads
	texts       int64                      // what their other contents cost
	lent        *lend.Memory               // of their payloads, with SubscribeOptions.Lend; otherwise nil
	mayWait     queueLimits
	account     budget.Account // of Options.Memory
	window      int64          // of it, with Block
	tight       bool           // there is no more of it
	spare       int64          // at least this much of it is free, with spareBlocks for what waits; 0: not known
	spareBlocks int64
	held        int       // messages that the deliverer took and no consumer has received from C
	heldSince   time.Time // when the one that it holds was received
	lossHeld    bool      // the deliverer holds a gap or a reset
	released    uint64    // Delivery.Every allows to take what has a number up to this
	nextRelease time.Time
	bucket      pace.Bucket // of Delivery.Rate
	finishing   bool        // nothing more is accepted
	endErr      error       // why; nil for a clean end
	ended       bool        // nothing more will be taken
	discarded   bool        // by discard: what waited was dropped

	bodies        int  // loop bodies of consumers that have not finished
	reporting     bool // a goroutine calls positionProcessed for what the tracker reports
	awaitAcks     bool // the stream is drained only when what consumers took is acknowledged
	drainReported bool

	generation uint64          // the connection whose events are accepted; 0: none
	next       *nextConnection // nil: none
	key        uint64          // events with another key are not accepted; 0: any
	receiver   sequence.Receiver
	detected   []wire.Event // losses that the server did not report, for offer to return

	releases     bool // of the dialect: the server delivers again what is given back
	endsAgain    bool // of the dialect: the server may end the stream, and begin again
	firstAnswers bool // of the dialect: the first message stands for the answer to a request
	answerDue    bool // and none has come yet
	firstCame    bool // a message stood for it, for offer to return
	holding      bool // until the answer: messages belong to an earlier subscription

	received, delivered, dropped, conflated, duplicates, earlier, gaps, resets, missed uint64
	closed                                                                             uint64    // of dropped: not by the overflow policy
	lastReceived                                                                       time.Time // when the last message came

	lag *histogram.Lag // nil without Options.Histograms

	receivedBefore uint64 // of received: before the current connection

	unreported dropReports

	prefetch     int         // the server sends no more without an acknowledgement; 0: not known
	outstanding  int         // received on this connection, and not acknowledged to the server
	used         wire.Credit // by what this connection has received
	granted      wire.Credit // to this connection
	roomReported bool        // since the last grant

	lastNumber  uint64   // of a message or loss
	began       Position // where the stream began, for the saver; zero: not known, or not needed
	justBegan   bool     // the saver is to learn it
	tracker     commit.Tracker
	heldDropped int // messages that the tracker follows although no consumer got them

	stillSince    time.Time   // since when the stream stands still; zero: it does not
	stillTimer    *time.Timer // of checkStandstill; nil: not running
	stillReported bool        // since stillSince
}

// Many idle queues share the memory of a few busy ones.
var messagePool, keyedPool sync.Pool

func newQueue(topic string, o *SubscribeOptions, t wire.Traits, owner queueOwner, memory *budget.Budget) *queue {
	q := &queue{
		topic: topic, delivery: o.Delivery, manualAck: o.ManualAck, releases: t.Release, owner: owner, memory: memory,
		mayWait:   queueLimits{o.Delivery.Buffer, o.Delivery.Bytes},
		available: make(chan struct{}, 1), receiver: sequence.New(t),
		endsAgain: !t.ByKey && t.ConfirmsEnd, firstAnswers: !t.ByKey && t.Confirms && t.Holes != wire.HolesFault,
	}
	q.items.Pool, q.keyed.Pool = &messagePool, &keyedPool
	if o.Lend {
		q.lent = new(lend.Memory)
	}
	if o.Delivery.Overflow == Block {
		q.account.Open(memory, nil)
	} else {
		q.account.Open(memory, q)
	}
	q.tracker = commit.New(commit.Config{
		PerMessage: o.ManualAck || t.Processed == wire.ProcessedEach, Processed: t.Processed,
		ByMarks: o.Delivery.Overflow == Latest, Limit: o.Delivery.Buffer + commit.MaxUnacked,
	})
	q.bucket = pace.New(o.Delivery.Rate, o.Delivery.Burst)
	if o.From == FromResume {
		q.receiver.ResumeFrom(o.Position)
		q.tracker.ResumeFrom(o.Position)
	}
	return q
}

// waits returns how many messages and losses wait for a consumer; mu is held.
func (q *queue) waits() int { return q.items.Len() + q.keyed.Len() }

// firstWaiting returns the first message or loss that waits, of which there must be one;
// mu is held.
func (q *queue) firstWaiting() *Message {
	if q.delivery.Overflow == Latest {
		return &q.keyed.At(q.keyed.First()).Message
	}
	return q.items.At(0)
}

// processedRun is what a consumer has processed: everything it took at once, or
// one message. The zero value is nothing.
type processedRun struct {
	first  uint64 // number of the first message
	last   *Message
	inBody bool // the consumer comes back from a loop body

	lent *lend.Batch // what it gives back and takes, with SubscribeOptions.Lend; nil: it takes copies
}

// acknowledge follows what was processed, and returns whether the caller must call
// reportProcessed; mu is held.
func (q *queue) acknowledge(processed *processedRun) bool {
	if last := processed.last; last != nil {
		q.tracker.Acknowledge(processed.first, last.number, &last.Position, last.generation)
	}
	return q.reported()
}

// ackMessage acknowledges m.
func (q *queue) ackMessage(m *Message) {
	q.mu.Lock()
	q.tracker.AcknowledgeOne(m.number, &m.Position, m.generation)
	acked := q.reported()
	room, drained := q.roomToReport(), q.drainToReport()
	q.watchStandstill()
	q.mu.Unlock()
	q.report(acked, room, drained)
	if q.manualAck {
		q.wakeConsumer() // another message may be taken now
	}
}

// report reports to the owner what followed a call of a consumer: mu is not held.
func (q *queue) report(processed, room, drained bool) {
	if processed || q.saver != nil {
		q.reportProcessed(processed)
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
	released := q.reported()
	room, drained := q.roomToReport(), q.drainToReport()
	q.watchStandstill()
	q.mu.Unlock()
	q.report(released, room, drained)
	q.wakeConsumer()
}

// releaseRest returns the positions of the messages of connection gen that nothing has
// processed: those that no consumer got, and those that one got and did not acknowledge.
// What comes after it is released at once.
func (q *queue) releaseRest(gen uint64) []Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tracker.ReleaseRest(gen)
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

// finish ends the stream after the messages that wait. err is the last thing
// that consumers get; nil for a clean end. With awaitAcks the stream is drained
// only when consumers have processed what they took.
func (q *queue) finish(err error, awaitAcks bool) {
	q.mu.Lock()
	if !q.finishing {
		q.finishing, q.endErr = true, err
	}
	if q.delivery.Rate == 0 {
		q.released = q.lastNumber // nothing more comes for which Every could wait
	}
	q.awaitAcks, q.drainReported = awaitAcks || q.saver != nil, false
	q.endIfEmpty()
	drained := q.drainToReport()
	q.mu.Unlock()
	q.saver.Notice()
	if drained {
		q.owner.streamDrained()
	}
	q.wakeConsumer()
}

// discard ends the stream now; messages that wait are dropped and counted.
func (q *queue) discard(err error) {
	q.mu.Lock()
	if !q.finishing {
		q.finishing, q.endErr = true, err
	}
	q.dropped += uint64(q.messages)
	q.closed += uint64(q.messages)
	for m := range q.allWaiting() {
		if m.Loss == nil && m.generation == q.generation {
			q.tracker.GiveUp(m.generation, m.Position)
		}
	}
	q.tracker.GiveUpCopies(q.generation)
	q.items.Reset()
	q.keyed.Reset()
	q.messages, q.bytes, q.texts = 0, 0, 0
	if q.lent != nil {
		q.lent.Reset()
	}
	q.account.Close()
	q.countLag()
	q.ended = true
	if !q.discarded {
		q.discarded = true
		if q.discardSignal != nil {
			close(q.discardSignal)
		}
	}
	if q.stillTimer != nil {
		q.stillTimer.Stop()
	}
	drained := q.drainToReport()
	q.mu.Unlock()
	q.reportDrops()
	q.saver.Notice()
	if drained {
		q.owner.streamDrained()
	}
	q.wakeConsumer()
}

// endIfEmpty ends a stream that finishes, once nothing waits; mu is held.
func (q *queue) endIfEmpty() {
	if q.finishing && q.waits() == 0 {
		q.end()
	}
}

// end ends the stream; mu is held.
func (q *queue) end() {
	q.ended = true
	q.account.Close()
}

// drainToReport reports whether the stream is drained: it has ended, and everything
// in it was delivered or dropped. It returns true only once; mu is held.
func (q *queue) drainToReport() bool {
	if q.drainReported || !q.ended || q.held > 0 || q.lossHeld || q.reporting {
		return false
	}
	if _, unacked := q.tracker.Oldest(); q.awaitAcks && (q.bodies > 0 || q.manualAck && unacked) {
		return false
	}
	q.drainReported = true
	return true
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
