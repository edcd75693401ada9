package limpet

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/fifo"
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
}

// queue is the delivery queue of one subscription. The reader offers events in
// wire order; consumers take messages. Its lock is a leaf. A comment "mu is
// held" is a condition for the caller.
type queue struct {
	topic     string
	delivery  Delivery
	manualAck bool
	owner     queueOwner

	available     chan struct{}                  // 1 slot: there may be something to take
	merges        atomic.Pointer[[]*mergeSource] // that learn it too; replaced under mu
	discardSignal chan struct{}                  // closed by discard: the deliverer drops what it holds; nil until C is used

	mu          sync.Mutex
	items       fifo.Queue[Message] // messages and losses that wait for a consumer
	messages    int                 // how many of items are messages
	bytes       int                 // their payloads
	held        int                 // messages that the deliverer took and no consumer has received from C
	lossHeld    bool                // the deliverer holds a gap or a reset
	released    int                 // how many of items Delivery.Every allows to be taken
	nextRelease time.Time
	finishing   bool  // nothing more is accepted
	endErr      error // why; nil for a clean end
	ended       bool  // nothing more will be taken
	discarded   bool  // by discard: what waited was dropped

	bodies        int  // loop bodies of consumers that have not finished
	reporting     bool // a goroutine calls positionProcessed for what is in toReport
	awaitAcks     bool // the stream is drained only when what consumers took is acknowledged
	drainReported bool

	generation uint64 // the connection whose events are accepted; 0: none
	key        uint64 // events with another key are not accepted; 0: any
	receiver   sequence.Receiver
	detected   *wire.Event // a loss that the server did not report, for offer to return

	endsAgain    bool // of the dialect: the server may end the stream, and begin again
	firstAnswers bool // of the dialect: the first message stands for the answer to a request
	answerDue    bool // and none has come yet
	firstCame    bool // a message stood for it, for offer to return
	holding      bool // until the answer: messages belong to an earlier subscription

	received, delivered, dropped, duplicates, earlier, gaps, resets, missed uint64

	lag *lagMeter // nil without Options.Histograms

	receivedBefore uint64 // of received: before the current connection

	unreportedDrops uint64 // by the overflow policy
	dropsReportedAt time.Time

	used         wire.Credit // by what this connection has received
	granted      wire.Credit // to this connection
	roomReported bool        // since the last grant

	toReport    []takenRun // what was processed, for positionProcessed
	unwanted    []takenRun // what nothing will process, for releaseRest
	releasing   bool       // what comes is released at once
	lastNumber  uint64     // of a message or loss
	tracker     ackTracker
	heldDropped int // messages that the tracker follows although no consumer got them

	stillSince    time.Time   // since when the stream stands still; zero: it does not
	stillTimer    *time.Timer // of checkStandstill; nil: not running
	stillReported bool        // since stillSince
}

// Many idle queues share the memory of a few busy ones.
var messagePool, runPool sync.Pool

func newQueue(topic string, o *SubscribeOptions, t wire.Traits, owner queueOwner) *queue {
	q := &queue{
		topic: topic, delivery: o.Delivery, manualAck: o.ManualAck, owner: owner,
		available: make(chan struct{}, 1), receiver: sequence.New(t),
		endsAgain: !t.ByKey && t.ConfirmsEnd, firstAnswers: !t.ByKey && t.Confirms && t.Holes != wire.HolesFault,
	}
	q.items.Pool = &messagePool
	q.tracker = ackTracker{
		perMessage: o.ManualAck || t.Processed == wire.ProcessedEach, reports: t.Processed,
		limit:   o.Delivery.Buffer + maxUnacked,
		unacked: fifo.Queue[takenRun]{Pool: &runPool},
	}
	if o.From == FromResume {
		q.receiver.ResumeFrom(o.Position)
		q.tracker.committed = o.Position
	}
	return q
}

// expectKey makes key the only one whose events are accepted.
func (q *queue) expectKey(key uint64) {
	q.mu.Lock()
	q.key = key
	q.mu.Unlock()
}

// fence rejects every event of the current connection: the position stays until
// startConnection.
func (q *queue) fence() {
	q.mu.Lock()
	q.generation = 0
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
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.acceptOnly(gen)
}

// acceptOnly is startConnection; mu is held.
func (q *queue) acceptOnly(gen uint64) (last Position, known bool, credit wire.Credit) {
	q.generation = gen
	q.receivedBefore = q.received
	q.receiver.StartConnection()
	q.answerDue, q.holding = false, false
	q.used, q.roomReported = wire.Credit{}, false
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

// allowance returns the credit that fits the free room; mu is held.
func (q *queue) allowance() wire.Credit {
	if q.delivery.Overflow != Block {
		return wire.Credit{N: q.used.N + uint64(q.delivery.Buffer), Bytes: q.used.Bytes + uint64(q.delivery.Bytes)}
	}
	occupied := q.messages + q.held
	if q.manualAck {
		occupied = q.messages + q.tracker.window()
	}
	return wire.Credit{
		N:     q.used.N + uint64(max(0, q.delivery.Buffer-occupied)),
		Bytes: q.used.Bytes + uint64(max(0, q.delivery.Bytes-q.bytes)),
	}
}

// roomToReport reports whether enough room is free for another grant: half of
// the limits, or any room if the server has used its credit and nothing waits.
// After it has returned true it returns false until grant is called; mu is held.
func (q *queue) roomToReport() bool {
	if q.roomReported || q.finishing {
		return false
	}
	c := q.allowance()
	step := wire.Credit{N: uint64(max(1, q.delivery.Buffer/2)), Bytes: uint64(max(1, q.delivery.Bytes/2))}
	if q.messages == 0 {
		// The consumer waits, and with ManualAck half of the room may never come free.
		if q.used.N >= q.granted.N {
			step.N = 1
		}
		if q.used.Bytes >= q.granted.Bytes {
			step.Bytes = 1
		}
	}
	if c.N < q.granted.N+step.N && c.Bytes < q.granted.Bytes+step.Bytes {
		return false
	}
	q.roomReported = true
	return true
}

// grant returns the credit that the server should have now.
func (q *queue) grant() wire.Credit {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.roomReported = false
	c := q.allowance()
	q.granted = wire.Credit{N: max(c.N, q.granted.N), Bytes: max(c.Bytes, q.granted.Bytes)}
	return q.granted
}

// offer accepts events of connection gen, read from the socket at readAt, in wire
// order, all with one key. It does not block. It returns the losses that the server
// did not report, and EventData for a message that stands for the answer to a request.
// An error is a violation by the server; the events before it were accepted.
func (q *queue) offer(gen uint64, events []wire.Event, readAt *time.Time) (detected []wire.Event, err error) {
	q.mu.Lock()
	before := q.dropped
	if key := events[0].Key; key != q.key && key != 0 && q.key != 0 {
		events = nil // of a request that was withdrawn
	}
	for i := range events {
		if err = q.accept(gen, &events[i], readAt); err != nil {
			break
		}
		if q.detected != nil {
			detected = append(detected, *q.detected)
			q.detected = nil
		}
	}
	if q.firstCame {
		detected = append(detected, wire.Event{Kind: wire.EventData, Name: q.topic})
		q.firstCame = false
	}
	room := q.delivery.Overflow != Block && q.roomToReport()
	report := len(q.toReport) > 0 && q.reported(nil)
	waiting := q.items.Len() > 0
	q.watchStandstill()
	var dropped uint64
	if q.dropped > before && !q.finishing {
		dropped = q.dropsToReport(q.dropped-before, time.Now())
	}
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
	q.reportProcessed(report)
	return detected, err
}

// accept accepts one event; mu is held.
func (q *queue) accept(gen uint64, ev *wire.Event, readAt *time.Time) error {
	switch {
	case gen != q.generation:
		return nil
	case q.finishing:
		if ev.Kind == wire.EventData {
			q.keepUnwanted(gen, ev.Position)
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
		(q.messages >= q.delivery.Buffer || q.messages > 0 && q.bytes+size > q.delivery.Bytes)
	var before Position
	if full {
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
	case sequence.Next:
		q.received++
		if full && q.delivery.Overflow == DropNewest {
			q.dropNewest(before, readAt)
			break
		}
		q.appendMessage(ev, step.Previous, readAt)
		if full {
			q.dropOldest(readAt)
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
	if err != nil || step.Effect == sequence.Nothing && step.Loss == nil {
		return err
	}
	return q.checkLosses()
}

// useCredit counts a message of size bytes and reports whether the server had
// no credit for it. The last message may exceed the bytes, and one without
// payload needs none; mu is held.
func (q *queue) useCredit(size int) (exceeded bool) {
	q.used.N++
	exceeded = q.delivery.Overflow == Block && (q.used.N > q.granted.N || size > 0 && q.used.Bytes > q.granted.Bytes)
	q.used.Bytes += uint64(size)
	return exceeded
}

func violation(reason string) error { return &wire.CodeError{Code: 4000, Reason: reason} }

// appendMessage adds the message that the receiver has just accepted; mu is
// held.
func (q *queue) appendMessage(ev *wire.Event, previous uint64, readAt *time.Time) {
	m := q.items.Next()
	q.lastNumber++
	m.number, m.queue, m.generation = q.lastNumber, q, q.generation
	m.Kind, m.Redelivered = Data, ev.Message.Redelivered
	if ev.Message.Snapshot {
		m.Kind = Snapshot
	}
	if m.Topic = ev.Message.Topic; m.Topic == "" {
		m.Topic = q.topic
	}
	m.ID = uuid.UUID(ev.Message.ID)
	q.receiver.CopyPosition(&m.Position)
	m.Payload, m.Type, m.Header = ev.Message.Payload, ev.Message.Type, ev.Message.Header
	m.ReceivedAt = *readAt
	m.previous = previous
	q.messages++
	q.bytes += len(ev.Message.Payload)
}

// recordLoss adds a gap or a reset to the stream; mu is held.
func (q *queue) recordLoss(loss *sequence.Loss, readAt *time.Time) {
	kind := Gap
	if loss.Kind == wire.EventReset {
		kind = Reset
		q.resets++
	} else {
		q.gaps++
	}
	q.missed += loss.Count
	q.appendLoss(newLoss(readAt, kind, loss.After, loss.To, loss.Count, loss.Cause))
	if loss.Detected {
		q.detected = &wire.Event{Kind: loss.Kind, Cause: loss.Cause, Prev: loss.After.Offset, Position: loss.To, Count: loss.Count}
	}
}

// appendLoss adds a loss, or extends the one before it; mu is held.
func (q *queue) appendLoss(m Message) {
	q.lastNumber++
	m.Topic, m.queue, m.number = q.topic, q, q.lastNumber
	n := q.items.Len()
	if n > 0 && q.joinLoss(n-1, m) {
		return
	}
	if n > 1 && m.Kind == Reset && q.items.At(n-1).Loss != nil && q.items.At(n-1).Loss.Cause == wire.CauseOverflow && q.joinLoss(n-2, m) {
		q.removeItem(n - 1) // nothing is left between two resets: they are one
		return
	}
	q.items.Push(m)
}

// checkLosses bounds how many losses a server can add without a message; mu is
// held.
func (q *queue) checkLosses() error {
	if q.items.Len()-q.messages > q.delivery.Buffer+16 {
		return violation("too many gaps without a message")
	}
	return nil
}

// finish ends the stream after the messages that wait. err is the last thing
// that consumers get; nil for a clean end. With awaitAcks the stream is drained
// only when consumers have processed what they took.
func (q *queue) finish(err error, awaitAcks bool) {
	q.mu.Lock()
	if !q.finishing {
		q.finishing, q.endErr = true, err
	}
	q.awaitAcks, q.drainReported = awaitAcks, false
	q.endIfEmpty()
	drained := q.drainToReport()
	q.mu.Unlock()
	if drained {
		q.owner.streamDrained()
	}
	q.wakeConsumer()
}

// forgoAcks ends the wait for acknowledgements: the server cannot learn them any
// more.
func (q *queue) forgoAcks() {
	q.mu.Lock()
	q.awaitAcks = false
	drained := q.drainToReport()
	q.mu.Unlock()
	if drained {
		q.owner.streamDrained()
	}
}

// discard ends the stream now; messages that wait are dropped and counted.
func (q *queue) discard(err error) {
	q.mu.Lock()
	if !q.finishing {
		q.finishing, q.endErr = true, err
	}
	q.dropped += uint64(q.messages)
	for i := range q.items.All() {
		if m := q.items.At(i); m.Loss == nil {
			q.keepUnwanted(m.generation, m.Position)
		}
	}
	q.items.Reset()
	q.messages, q.bytes, q.released = 0, 0, 0
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
	if drained {
		q.owner.streamDrained()
	}
	q.wakeConsumer()
}

// hasReceivedOn reports whether a message that is not a duplicate came on
// connection gen, which has not been fenced.
func (q *queue) hasReceivedOn(gen uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.generation == gen && q.received > q.receivedBefore
}
