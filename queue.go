package limpet

import (
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/sequence"
	"github.com/limpet-go/limpet/wire"
)

// queueOwner is what a queue reports to. It is never called under the queue's
// lock.
type queueOwner interface {
	// roomAvailable reports that more messages may be granted, or that the last
	// one left.
	roomAvailable()

	// positionProcessed reports that the message at p, which came on connection
	// gen, was processed; where processing is reported cumulatively, so was every
	// message before it.
	positionProcessed(gen uint64, p Position)
}

// queue is the delivery queue of one subscription. The reader puts in, in wire
// order; consumers take out. Its lock is a leaf.
type queue struct {
	topic  string
	d      Delivery
	manual bool
	owner  queueOwner

	wake chan struct{} // 1 slot: there may be something to take
	cut  chan struct{} // for a deliverer: closed by discard, what is in its hand is dropped

	mu        sync.Mutex
	items     fifo.Queue[Message]
	bytes     int
	data      int  // data and snapshots in items
	inHand    int  // data and snapshots taken, not yet handed over
	lossHeld  bool // a gap or a reset is
	due       int  // items released by the pace
	nextDue   time.Time
	finishing bool  // no more comes in
	err       error // why, nil for a clean end
	ended     bool  // nothing will be taken any more
	discarded bool

	gen      uint64 // the connection whose messages are accepted
	receiver sequence.Receiver
	found    *wire.Event

	received, delivered, dropped, duplicates, gaps, resets uint64

	rxN, rxBytes uint64 // received on this connection
	granted      wire.Credit
	asked        bool // room was told and no credit taken since

	numbered uint64 // elements put in so far
	progress progress
}

// Many idle queues share the memory of a few busy ones.
var messagePool, runPool sync.Pool

func newQueue(topic string, o *SubscribeOptions, t wire.Traits, owner queueOwner) *queue {
	q := &queue{
		topic: topic, d: o.Delivery, manual: o.ManualAck, owner: owner,
		wake: make(chan struct{}, 1), receiver: sequence.New(t),
	}
	q.items.Pool = &messagePool
	q.progress = progress{
		each: o.ManualAck || t.Processed == wire.ProcessedEach, processed: t.Processed,
		most: o.Delivery.Buffer + maxUnacked,
		open: fifo.Queue[run]{Pool: &runPool},
	}
	if o.From == FromResume {
		q.receiver.ResumeFrom(o.Position)
		q.progress.committed = o.Position
	}
	return q
}

// fence ends the connection's say: position does not move until begin.
func (q *queue) fence() {
	q.mu.Lock()
	q.gen = 0
	q.mu.Unlock()
}

func (q *queue) position() (last Position, based bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.receiver.Position()
}

// begin fences every earlier connection and returns where to resume and how
// much may be sent.
func (q *queue) begin(gen uint64) (last Position, based bool, c wire.Credit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gen = gen
	q.receiver.StartConnection()
	q.rxN, q.rxBytes, q.asked = 0, 0, false
	q.granted = q.allowance()
	last, based = q.receiver.Position()
	return last, based, q.granted
}

// allowance is the credit that fits the free room. Mu is held.
func (q *queue) allowance() wire.Credit {
	if q.d.Overflow != Block {
		return wire.Credit{N: q.rxN + uint64(q.d.Buffer), Bytes: q.rxBytes + uint64(q.d.Bytes)}
	}
	held := q.data + q.inHand
	if q.manual {
		held = q.data + q.progress.open.Len()
	}
	return wire.Credit{
		N:     q.rxN + uint64(max(0, q.d.Buffer-held)),
		Bytes: q.rxBytes + uint64(max(0, q.d.Bytes-q.bytes)),
	}
}

// starved reports whether so much room came free that the server should hear
// of it, once until credit is called. Mu is held.
func (q *queue) starved() bool {
	if q.asked || q.finishing {
		return false
	}
	c := q.allowance()
	if c.N < q.granted.N+uint64(max(1, q.d.Buffer/2)) && c.Bytes < q.granted.Bytes+uint64(max(1, q.d.Bytes/2)) {
		return false
	}
	q.asked = true
	return true
}

// credit is what to grant now.
func (q *queue) credit() wire.Credit {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = false
	c := q.allowance()
	q.granted = wire.Credit{N: max(c.N, q.granted.N), Bytes: max(c.Bytes, q.granted.Bytes)}
	return q.granted
}

// offer takes events of connection gen, in wire order. It never blocks. Lost are
// the losses that the queue found by itself. An error is a violation by the
// server; what came before it was taken.
func (q *queue) offer(gen uint64, events []wire.Event) (lost []wire.Event, err error) {
	q.mu.Lock()
	for i := range events {
		if err = q.accept(gen, &events[i]); err != nil {
			break
		}
		if q.found != nil {
			lost = append(lost, *q.found)
			q.found = nil
		}
	}
	free := q.d.Overflow != Block && q.starved()
	waiting := q.items.Len() > 0
	q.mu.Unlock()
	if waiting {
		q.signal()
	}
	if free {
		q.owner.roomAvailable()
	}
	return lost, err
}

func (q *queue) accept(gen uint64, ev *wire.Event) error {
	switch {
	case gen != q.gen || q.finishing:
		return nil
	case ev.Kind != wire.EventData:
		return q.control(ev)
	}
	size := len(ev.Message.Payload)
	beyond := q.receiver.Open() && q.spend(size)
	full := q.d.Overflow != Block && (q.data >= q.d.Buffer || q.data > 0 && q.bytes+size > q.d.Bytes)
	var before Position
	if full {
		before, _ = q.receiver.Position()
	}
	step, err := q.receiver.Accept(ev, beyond)
	if step.Loss != nil {
		q.lose(step.Loss)
	}
	switch step.Effect {
	case sequence.Duplicate:
		q.duplicates++
	case sequence.Next:
		q.received++
		if full && q.d.Overflow == DropNewest {
			q.dropNewest(before)
			break
		}
		q.put(ev, step.Previous)
		if full {
			q.dropOldest()
		}
	}
	return err
}

// control takes an event that is no message.
func (q *queue) control(ev *wire.Event) error {
	step, err := q.receiver.Accept(ev, false)
	if step.Loss != nil {
		q.lose(step.Loss)
	}
	if err != nil || step.Effect == sequence.Nothing && step.Loss == nil {
		return err
	}
	return q.crowded()
}

// spend counts a message against the credit of the connection and reports
// whether it is beyond it.
func (q *queue) spend(size int) (beyond bool) {
	q.rxN++
	beyond = q.d.Overflow == Block && (q.rxN > q.granted.N || q.rxBytes > q.granted.Bytes)
	q.rxBytes += uint64(size)
	return beyond
}

func violation(reason string) error { return &wire.CodeError{Code: 4000, Reason: reason} }

// put adds a message.
func (q *queue) put(ev *wire.Event, previous uint64) {
	m := q.items.Next()
	q.numbered++
	m.number, m.queue, m.gen = q.numbered, q, q.gen
	m.Kind, m.Redelivered = Data, ev.Message.Redelivered
	if ev.Message.Snapshot {
		m.Kind = Snapshot
	}
	if m.Topic = ev.Message.Topic; m.Topic == "" {
		m.Topic = q.topic
	}
	m.ID = uuid.UUID(ev.Message.ID)
	m.Position.Epoch, m.Position.Offset, m.Position.Tag = q.receiver.Epoch(), ev.Position.Offset, ev.Position.Tag
	m.Payload, m.Type, m.Header = ev.Message.Payload, ev.Message.Type, ev.Message.Header
	m.prev = previous
	q.data++
	q.bytes += len(ev.Message.Payload)
}

// lose puts a Gap or a Reset into the stream.
func (q *queue) lose(loss *sequence.Loss) {
	kind := Gap
	if loss.Kind == wire.EventReset {
		kind = Reset
		q.resets++
	} else {
		q.gaps++
	}
	q.append(lossOf(kind, loss.After, loss.To, loss.Count, loss.Cause))
	if loss.Detected {
		q.found = &wire.Event{Kind: loss.Kind, Cause: loss.Cause}
	}
}

func (q *queue) append(m Message) {
	q.numbered++
	m.Topic, m.queue, m.number = q.topic, q, q.numbered
	n := q.items.Len()
	if n > 0 && q.join(n-1, m) {
		return
	}
	if n > 1 && m.Kind == Reset && q.items.At(n-1).Gap != nil && q.items.At(n-1).Gap.Cause == wire.CauseOverflow && q.join(n-2, m) {
		q.remove(n - 1) // nothing was kept between two restarts
		return
	}
	q.items.Push(m)
}

func lossOf(k Kind, after, to Position, count uint64, why Cause) Message {
	return Message{Kind: k, Position: to, Gap: &Loss{After: after, To: to, Count: count, Cause: why}}
}

// join extends the loss at items[i] by m if they are one.
func (q *queue) join(i int, m Message) bool {
	old := q.items.At(i)
	switch {
	case old.Kind == Gap && m.Kind == Gap && old.Gap.To.Epoch == m.Gap.To.Epoch:
		g := *old.Gap
		g.To = m.Gap.To
		if g.Count != 0 && m.Gap.Count != 0 {
			g.Count += m.Gap.Count
		} else {
			g.Count = 0
		}
		old.Gap, old.Position = &g, g.To
		return true
	case old.Kind == Reset && m.Kind == Reset:
		g := *old.Gap
		g.To = m.Gap.To
		old.Gap, old.Position = &g, g.To
		return true
	}
	return false
}

// crowded bounds what a server can pile up without sending a message.
func (q *queue) crowded() error {
	if q.items.Len()-q.data > q.d.Buffer+16 {
		return violation("gaps and resets without end")
	}
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// finish ends the stream after what is waiting; err is what consumers get
// last, nil for a clean end.
func (q *queue) finish(err error) {
	q.mu.Lock()
	if !q.finishing {
		q.finishing, q.err = true, err
	}
	end := q.endIfEmpty()
	q.mu.Unlock()
	if end {
		q.owner.roomAvailable()
	}
	q.signal()
}

// discard ends the stream now and counts what was waiting as dropped.
func (q *queue) discard(err error) {
	q.mu.Lock()
	if !q.finishing {
		q.finishing, q.err = true, err
	}
	q.dropped += uint64(q.data)
	q.items.Reset()
	q.data, q.bytes, q.due = 0, 0, 0
	q.ended = true
	if !q.discarded {
		q.discarded = true
		if q.cut != nil {
			close(q.cut)
		}
	}
	q.mu.Unlock()
	q.signal()
}

// drained reports whether everything was handed over or dropped, and no more
// comes.
func (q *queue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ended && q.inHand == 0 && !q.lossHeld
}

func (q *queue) endIfEmpty() bool {
	if !q.finishing || q.ended || q.items.Len() > 0 {
		return false
	}
	q.ended = true
	return true
}
