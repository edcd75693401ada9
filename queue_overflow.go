package limpet

import (
	"errors"
	"iter"
	"runtime/debug"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/latest"
	"github.com/limpet-go/limpet/internal/sequence"
	"github.com/limpet-go/limpet/wire"
)

// A queue is full when Delivery.Buffer messages or Delivery.Bytes wait, or when there is no more
// Options.Memory: accept in queue_offer.go decides it for each message. Then the policy counts:
//
//   - Block, the default for a dialect with the trait Credit: nothing is dropped. The server gets no
//     more credit: see queue_memory.go. checkStandstill reports a wait that lasts.
//   - DropOldest, the default for the others: dropOne makes a gap of the message that has waited longest.
//   - DropNewest: dropNewest makes a gap of the message that has just come.
//   - Latest: keepLatest replaces the waiting message of the same key, full or not. Beyond the
//     bounds, dropFirstKey makes a gap of the message that would be taken first.

// dropNewest adds a gap in place of the message that the receiver has just
// accepted after position before; mu is held.
func (q *queue) dropNewest(before Position, readAt *time.Time) {
	q.dropped++
	to, _ := q.receiver.Position()
	q.tracker.Drop(q.generation, to)
	q.appendLoss(newLoss(readAt, Gap, before, to, 1, wire.CauseOverflow))
}

// dropUntilItFits drops messages, as the policy says, until the rest fits; mu is held.
func (q *queue) dropUntilItFits(readAt *time.Time) {
	for q.messages > q.delivery.Buffer || q.messages > 1 && q.bytes > q.delivery.Bytes || q.overMemory() {
		q.dropOne(readAt)
	}
}

// dropOne drops the message that the policy says, with DropNewest one that waits; mu is
// held, and there is a message.
func (q *queue) dropOne(readAt *time.Time) {
	switch q.delivery.Overflow {
	case Latest:
		q.dropFirstKey(readAt)
	case DropNewest:
		i := q.items.Len() - 1
		for q.items.At(i).Loss != nil {
			i--
		}
		q.dropAt(i, readAt)
	default:
		i := 0
		for q.items.At(i).Loss != nil {
			i++
		}
		q.dropAt(i, readAt)
	}
}

// dropAt turns a message into a gap and joins it with its neighbours; mu is held.
func (q *queue) dropAt(i int, readAt *time.Time) {
	m := *q.items.At(i)
	q.dropped++
	q.spare = 0
	q.tracker.Drop(m.generation, m.Position)
	q.uncountDropped(&m)
	after := Position{Epoch: m.Position.Epoch, Offset: m.previous}
	g := newLoss(readAt, Gap, after, m.Position, 1, wire.CauseOverflow)
	g.Topic, g.queue, g.number = q.topic, q, m.number
	*q.items.At(i) = g
	if i+1 < q.items.Len() && joinLoss(q.items.At(i), q.items.At(i+1)) {
		q.items.Remove(i + 1)
	}
	if i > 0 && joinLoss(q.items.At(i-1), q.items.At(i)) {
		q.items.Remove(i)
		i--
	}
	// Nothing is left between two resets: they are one.
	if i > 0 && i+1 < q.items.Len() && q.items.At(i-1).Kind == Reset && joinLoss(q.items.At(i-1), q.items.At(i+1)) {
		q.items.Remove(i + 1)
		q.items.Remove(i)
	}
}

// newLoss returns the loss that the client learned of at readAt.
func newLoss(readAt *time.Time, kind Kind, after, to Position, count uint64, cause Cause) Message {
	return Message{Kind: kind, Position: to, ReceivedAt: *readAt, Loss: &Loss{After: after, To: to, Count: count, Cause: cause}}
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
	q.missed = addCapped(q.missed, loss.Count)
	q.appendLoss(newLoss(readAt, kind, loss.After, loss.To, loss.Count, loss.Cause))
	if loss.Detected {
		q.detected = append(q.detected, wire.Event{Kind: loss.Kind, Cause: loss.Cause, Prev: loss.After.Offset, Position: loss.To, Count: loss.Count})
	}
}

// appendLoss adds a loss, or extends the one before it; mu is held.
func (q *queue) appendLoss(m Message) {
	q.lastNumber++
	q.spare = 0
	m.Topic, m.queue, m.number = q.topic, q, q.lastNumber
	if q.delivery.Overflow == Latest {
		q.appendKeyedLoss(m)
		return
	}
	n := q.items.Len()
	if n > 0 && joinLoss(q.items.At(n-1), &m) {
		return
	}
	if n > 1 && m.Kind == Reset && q.items.At(n-1).Loss != nil && q.items.At(n-1).Loss.Cause == wire.CauseOverflow && joinLoss(q.items.At(n-2), &m) {
		q.items.Remove(n - 1) // nothing is left between two resets: they are one
		return
	}
	q.items.Push(m)
}

// checkLosses bounds how many losses a server can add without a message; mu is
// held.
func (q *queue) checkLosses() error {
	if q.waits()-q.messages > q.delivery.Buffer+16 {
		return violation("too many gaps without a message")
	}
	return nil
}

// joinLoss extends old by the loss m that follows it, if both are gaps of one epoch or
// both are resets.
func joinLoss(old, m *Message) bool {
	if old.Loss == nil || old.Kind != m.Kind || old.Kind == Gap && old.Loss.To.Epoch != m.Loss.To.Epoch {
		return false
	}
	joined := *old.Loss
	if old.Kind == Reset || m.Loss.To.Offset >= joined.To.Offset { // with Latest it may be before
		joined.To = m.Loss.To
	}
	if old.Kind == Gap {
		if m.Loss.After.Offset < joined.After.Offset {
			joined.After = m.Loss.After
		}
		if joined.Count != 0 && m.Loss.Count != 0 {
			joined.Count = addCapped(joined.Count, m.Loss.Count)
		} else {
			joined.Count = 0
		}
	}
	old.Loss, old.Position = &joined, joined.To
	old.firstReceived(m.ReceivedAt)
	return true
}

// firstReceived makes at the time of a loss if it is earlier.
func (m *Message) firstReceived(at time.Time) {
	if at.Before(m.ReceivedAt) {
		m.ReceivedAt = at
	}
}

// standstillTimeout is how long a stream may stand still before it is reported.
const standstillTimeout = 30 * time.Second

// standsStill reports whether no message can come or be taken until consumers act:
// with ManualAck the window is full from the oldest message that is not acknowledged
// on, or with Block the server has used its credit, gets no more and no consumer is at
// work; mu is held.
func (q *queue) standsStill() bool {
	if q.manualAck && !q.ended && q.tracker.Window() >= q.delivery.Buffer {
		return true
	}
	if q.serverWaits() {
		return true
	}
	if q.delivery.Overflow != Block || q.messages+q.held == 0 || q.bodies > 0 || q.finishing {
		return false
	}
	// Less than half of the room is not granted while messages wait: see roomToReport.
	few := q.used.N >= q.granted.N && q.roomForMessages() < max(1, q.mayWait.messages/2)
	return few || q.used.Bytes >= q.granted.Bytes && q.mayWait.bytes-q.bytes < max(1, q.mayWait.bytes/2)
}

// serverWaits reports whether the server sends no more before consumers acknowledge, and
// none is at work; mu is held.
func (q *queue) serverWaits() bool {
	return q.prefetch > 0 && q.outstanding >= q.prefetch && q.bodies == 0 && !q.finishing
}

// limitUnacked follows when the server was asked to send no more than n messages
// without an acknowledgement.
func (q *queue) limitUnacked(n int) {
	q.mu.Lock()
	q.prefetch = n
	q.followStandstill()
	q.mu.Unlock()
}

// watchStandstill follows when standsStill may have changed. The timer is set
// only once in standstillTimeout, however often that happens; mu is held.
func (q *queue) watchStandstill() {
	if q.manualAck || q.delivery.Overflow == Block || q.prefetch > 0 { // nothing else holds it up
		q.followStandstill()
	}
}

// followStandstill is watchStandstill for a stream that consumers can hold up; mu is held.
func (q *queue) followStandstill() {
	if !q.standsStill() {
		q.stillSince = time.Time{}
		return
	}
	if q.stillSince.IsZero() {
		q.stillSince, q.stillReported = time.Now(), false
		if q.stillTimer == nil {
			q.stillTimer = time.AfterFunc(standstillTimeout, q.checkStandstill)
		}
	}
	if q.messages > 0 {
		q.stillSince = later(q.stillSince, q.heldBackUntil()) // until then consumers cannot take
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
	if q.manualAck && q.tracker.Window() >= q.delivery.Buffer {
		e.Err = errNotAcknowledged
	} else if q.messages+q.held == 0 && q.serverWaits() {
		e.Err = errServerWaits
	}
	q.mu.Unlock()
	if report {
		q.owner.stoodStill(e)
	}
}

// keyedMessage is what waits with Latest: a message, or a loss without a key.
type keyedMessage struct {
	Message
	before  Position // of the stream before it came
	arrival uint64   // ascending in the order in which the values came
}

// offerKeyed is offer, with a key for each message from Delivery.Key. A panic there ends
// the stream behind the messages before, and so does the end of the goroutine.
func (q *queue) offerKeyed(gen uint64, events []wire.Event, readAt *time.Time) (detected []wire.Event, err error) {
	memory := keysPool.Get().(*[]string)
	keys, returned := (*memory)[:0], false
	defer func() {
		if !returned {
			_, _ = q.acceptKeyed(gen, events, keys, errKeyGoexit, readAt) // the connection ends
		}
	}()
	panicked := q.keysOf(&keys, events, readAt)
	returned = true
	detected, err = q.acceptKeyed(gen, events, keys, panicked, readAt)
	clear(keys)
	*memory = keys
	keysPool.Put(memory)
	return detected, err
}

// acceptKeyed accepts the events that have a key. If panicked is not nil, nothing is
// accepted after them.
func (q *queue) acceptKeyed(gen uint64, events []wire.Event, keys []string, panicked error, readAt *time.Time) (detected []wire.Event, err error) {
	if len(keys) > 0 {
		detected, err = q.acceptAll(gen, events[:len(keys)], keys, readAt)
	}
	if panicked != nil && err == nil {
		q.fence(gen)
		q.owner.keyPanicked(panicked)
	}
	return detected, err
}

var keysPool = sync.Pool{New: func() any { return new([]string) }}

// keysOf appends to keys what Delivery.Key returns for each message, up to a panic. It
// holds no lock.
func (q *queue) keysOf(keys *[]string, events []wire.Event, readAt *time.Time) (panicked error) {
	defer func() {
		if p := recover(); p != nil {
			panicked = keyError(&PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	var m Message
	for i := range events {
		q.fillContent(&m, &events[i], readAt)
		*keys = append(*keys, q.delivery.Key(m))
	}
	return nil
}

// keyOf returns the key of ev, the one at i, with Latest: its topic without Delivery.Key.
func (q *queue) keyOf(ev *wire.Event, keys []string, i int) string {
	switch {
	case keys != nil:
		return keys[i]
	case ev.Message.Topic != "":
		return ev.Message.Topic
	}
	return q.topic
}

// keepLatest adds the message that the receiver has just accepted. It takes the place of
// the one with its key, unless a loss came between the two; mu is held.
func (q *queue) keepLatest(ev *wire.Event, key string, before Position, step sequence.Step, readAt *time.Time) {
	place, number := q.keyed.Find(key), uint64(0)
	if place != 0 {
		old := q.keyed.At(place)
		q.conflated++
		q.uncount(&old.Message)
		q.tracker.Drop(old.generation, old.Position)
		if number = old.number; number < q.lastLoss {
			q.removeKeyed(place)
			place = 0
		}
	}
	if place != 0 {
		q.keyed.Renew(place)
	} else {
		place = q.keyed.AppendKey(key)
		q.lastNumber++
		number = q.lastNumber
	}
	m := q.keyed.At(place)
	q.arrivals++
	m.before, m.arrival = before, q.arrivals
	q.fill(&m.Message, number, ev, step.Previous, readAt)
	q.dropUntilItFits(readAt)
}

// appendKeyedLoss is appendLoss with Latest; mu is held.
func (q *queue) appendKeyedLoss(m Message) {
	q.lastLoss = m.number
	place := q.keyed.Append()
	q.arrivals++
	*q.keyed.At(place) = keyedMessage{m, m.Loss.After, q.arrivals}
	if ahead := q.keyed.Ahead(place); ahead != 0 && q.keyed.At(ahead).Loss != nil {
		q.settleLoss(ahead)
	}
}

// dropFirstKey turns the first message into a gap, with Latest; mu is held.
func (q *queue) dropFirstKey(readAt *time.Time) {
	place := q.keyed.First()
	for q.keyed.At(place).Loss != nil {
		place = q.keyed.After(place)
	}
	m := q.keyed.At(place)
	q.dropped++
	q.tracker.Drop(m.generation, m.Position)
	q.uncount(&m.Message)
	gap := newLoss(readAt, Gap, m.before, m.Position, 1, wire.CauseOverflow)
	gap.Topic, gap.queue, gap.number = q.topic, q, m.number
	m.Message = gap
	q.keyed.Unkey(place)
	q.settleLoss(place)
}

// removeKeyed removes what waits at place; mu is held.
func (q *queue) removeKeyed(place latest.Place) {
	ahead := q.keyed.Ahead(place)
	q.keyed.Remove(place)
	if ahead != 0 && q.keyed.At(ahead).Loss != nil {
		q.settleLoss(ahead)
	}
}

// settleLoss joins the loss at place with its neighbours; mu is held.
func (q *queue) settleLoss(place latest.Place) {
	if joined := q.joinKeyed(place, q.keyed.After(place)); joined != 0 {
		place = joined
	}
	if joined := q.joinKeyed(q.keyed.Ahead(place), place); joined != 0 {
		place = joined
	}
	ahead, after, m := q.keyed.Ahead(place), q.keyed.After(place), q.keyed.At(place)
	if ahead == 0 || after == 0 || m.Kind != Gap || m.Loss.Cause != wire.CauseOverflow {
		return
	}
	if reset := q.keyed.At(ahead); reset.Kind == Reset && q.keyed.At(after).Kind == Reset {
		// Nothing is left between two resets: they are one.
		q.joinKeyed(q.keepOlder(ahead, place, reset.Message), after)
	}
}

// joinKeyed joins two losses that are neighbours, if they can be, and returns the place of
// the loss, 0 if they cannot; mu is held.
func (q *queue) joinKeyed(first, second latest.Place) latest.Place {
	if first == 0 || second == 0 || q.keyed.At(second).Loss == nil {
		return 0
	}
	joined := q.keyed.At(first).Message
	if !joinLoss(&joined, &q.keyed.At(second).Message) {
		return 0
	}
	return q.keepOlder(first, second, joined)
}

// keepOlder puts m in the place of two neighbours, and returns where. The age of the older
// one stays, so that the committed position does not pass a loss that waits; mu is held.
func (q *queue) keepOlder(first, second latest.Place, m Message) latest.Place {
	if q.keyed.At(second).arrival < q.keyed.At(first).arrival {
		first, second = second, first
	}
	q.keyed.Remove(second)
	q.keyed.At(first).Message = m
	return first
}

// lowWater returns the position before the oldest message or loss that waits, or, if none
// does, that of the last one received; mu is held.
func (q *queue) lowWater() Position {
	if oldest := q.keyed.Oldest(); oldest != 0 {
		return q.keyed.At(oldest).before
	}
	last, _ := q.receiver.Position()
	return last
}

// allWaiting returns what waits, in order; mu is held.
func (q *queue) allWaiting() iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		for i := range q.items.Len() {
			if !yield(q.items.At(i)) {
				return
			}
		}
		for p := q.keyed.First(); p != 0; p = q.keyed.After(p) {
			if !yield(&q.keyed.At(p).Message) {
				return
			}
		}
	}
}

// errKeyGoexit is why a stream and a connection end when Delivery.Key has ended the
// goroutine that reads.
var errKeyGoexit = keyError(errors.New("it called runtime.Goexit, as t.FailNow does; return a key instead"))

func keyError(err error) *Error {
	return &Error{Op: "Subscribe", Field: "Delivery.Key", Class: ClassUser, Err: err}
}
