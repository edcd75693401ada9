package limpet

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
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
	held        int            // messages that the deliverer took and no consumer has received from C
	heldSince   time.Time      // when the one that it holds was received
	lossHeld    bool           // the deliverer holds a gap or a reset
	released    uint64         // Delivery.Every allows to take what has a number up to this
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
	detected   *wire.Event // a loss that the server did not report, for offer to return

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
	if q.next != nil && gen == q.next.generation {
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
		q.reserve(events, keys)
	}
	before, receivedBefore := q.dropped, q.received
	if key := events[0].Key; key != q.key && key != 0 && q.key != 0 {
		events = nil // of a request that was withdrawn
	}
	for i := range events {
		key := ""
		if q.delivery.Overflow == Latest {
			key = q.keyOf(&events[i], keys, i)
		}
		if err = q.accept(gen, &events[i], key, readAt); err != nil {
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
	switch q.delivery.Overflow {
	case Block:
		if q.tight || q.used.Bytes > q.granted.Bytes || q.account.Held() != q.window || q.waits() > q.messages {
			q.holdWindow()
		}
	case Latest:
		q.giveBack()
		q.holdCost()
	default:
		if q.tight {
			q.giveBack()
		}
		q.holdCost()
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
	if report || began {
		q.reportProcessed(report)
	}
	return detected, err
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
	m := q.items.Next()
	q.lastNumber++
	q.fill(m, q.lastNumber, ev, previous, readAt)
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
