package limpet

import (
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/wire"
)

// queue is the delivery queue of one subscription. The reader puts in, in wire
// order; consumers take out. Its lock is a leaf.
type queue struct {
	topic  string
	d      Delivery
	manual bool
	holes  wire.Holes

	tell func(gen uint64, p Position) // the server wants to hear of it; never called under mu

	room func() // consumers made room or the last message left: tells the loop; never called under mu

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

	gen       uint64 // the connection whose messages are accepted
	epoch     string
	last      Position // last received
	based     bool     // last means something
	confirmed bool     // this connection said where delivery starts
	lived     bool     // a connection did
	found     *wire.Event

	repeats repeats

	received, delivered, dropped, duplicates, gaps, resets uint64

	rxN, rxBytes uint64 // received on this connection
	granted      wire.Credit
	asked        bool // room was told and no credit taken since

	numbered uint64 // elements put in so far
	progress progress
}

// Many idle queues share the memory of a few busy ones.
var messagePool, runPool sync.Pool

func newQueue(topic string, o *SubscribeOptions, t wire.Traits, room func()) *queue {
	q := &queue{
		topic: topic, d: o.Delivery, manual: o.ManualAck, holes: t.Holes, room: room,
		wake: make(chan struct{}, 1),
	}
	q.items.Pool = &messagePool
	q.progress = progress{
		each: o.ManualAck || t.Processed == wire.ProcessedEach, processed: t.Processed,
		most: o.Delivery.Buffer + maxUnacked,
		open: fifo.Queue[run]{Pool: &runPool},
	}
	q.repeats.most = t.DedupWindow
	if o.From == FromResume {
		q.last, q.based, q.epoch = o.Position, true, o.Position.Epoch
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
	return q.last, q.based
}

// begin fences every earlier connection and returns where to resume and how
// much may be sent.
func (q *queue) begin(gen uint64) (last Position, based bool, c wire.Credit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gen = gen
	q.confirmed = false
	q.rxN, q.rxBytes, q.asked = 0, 0, false
	q.granted = q.allowance()
	return q.last, q.based, q.granted
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
		q.room()
	}
	return lost, err
}

func (q *queue) accept(gen uint64, ev *wire.Event) error {
	if gen != q.gen || q.finishing {
		return nil
	}
	switch ev.Kind {
	case wire.EventSubscribed:
		return q.subscribed(ev)
	case wire.EventReset:
		q.lose(Reset, ev.Position, 0, ev.Cause)
		q.epoch, q.last, q.based, q.confirmed = ev.Position.Epoch, ev.Position, true, true
		return q.crowded()
	case wire.EventGap:
		return q.gap(ev)
	case wire.EventData:
		return q.message(ev)
	}
	return nil
}

func (q *queue) subscribed(ev *wire.Event) error {
	if q.confirmed && q.holes == wire.HolesFault {
		return violation("subscription confirmed twice on one connection")
	}
	first, again := !q.confirmed, q.lived
	q.confirmed, q.lived = true, true
	switch {
	case ev.Continuity == wire.ContinuityProved:
		if q.based && ev.Position.Epoch != q.epoch {
			return violation("continuity claimed across epochs")
		}
		if q.based && ev.Position.Offset > q.last.Offset {
			return violation("delivery starts after messages that were not received")
		}
		if !q.based {
			q.last = ev.Position
		}
	case ev.Continuity == wire.ContinuityByNumber && again && first && !q.based:
		// Live before and no number seen: the next one proves nothing.
		q.find(Reset, ev.Position, 0, wire.CauseUnverifiable)
		return q.crowded()
	case ev.Continuity == wire.ContinuityByNumber:
		return nil // the next number tells; the first of all is the base
	case q.based && first:
		q.find(Reset, ev.Position, 0, wire.CauseUnverifiable)
		q.last = ev.Position
	case first:
		q.last = ev.Position
	}
	q.epoch, q.based = ev.Position.Epoch, true
	return q.crowded()
}

func (q *queue) gap(ev *wire.Event) error {
	if !q.confirmed && q.holes == wire.HolesFault {
		return violation("gap before the subscription was confirmed")
	}
	if ev.Prev > q.last.Offset {
		return violation("gap does not join the last message")
	}
	if ev.Position.Offset <= q.last.Offset {
		return nil // known already
	}
	to := Position{Epoch: q.epoch, Offset: ev.Position.Offset, Tag: ev.Position.Tag}
	q.lose(Gap, to, ev.Count, ev.Cause)
	q.last = to
	return q.crowded()
}

// message is the receiver machine of docs/protocol.md, section 5.
func (q *queue) message(ev *wire.Event) error {
	if !q.confirmed {
		if q.holes == wire.HolesFault {
			return violation("message before the subscription was confirmed")
		}
		if q.lived && ev.Numbered != q.based {
			q.find(Reset, Position{}, 0, wire.CauseUnverifiable)
		}
		q.confirmed, q.lived = true, true
	}
	q.rxN++
	q.rxBytes += uint64(len(ev.Message.Payload))
	if q.d.Overflow == Block && (q.rxN > q.granted.N || q.rxBytes-uint64(len(ev.Message.Payload)) > q.granted.Bytes) {
		return &wire.CodeError{Code: 4204, Reason: "server sent more than the credit it was given"}
	}
	if q.repeats.add(ev.Message.ID) {
		q.duplicates++
		return nil
	}
	offset := ev.Position.Offset
	if ev.Numbered && q.based {
		switch {
		case offset <= q.last.Offset:
			q.duplicates++
			return nil
		case ev.Prev > q.last.Offset && q.holes == wire.HolesFault:
			return violation("a message is missing and no gap was told")
		case ev.Prev > q.last.Offset:
			lost := Position{Epoch: q.epoch, Offset: ev.Prev}
			q.find(Gap, lost, ev.Prev-q.last.Offset, wire.CauseLost)
		}
	}
	q.based = true
	q.received++
	q.put(ev)
	return nil
}

// repeats remembers the latest ids, for languages whose cursor includes the
// last message. The zero value remembers none.
type repeats struct {
	most  int
	seen  map[wire.ID]struct{}
	order []wire.ID
	next  int
}

// add reports whether id is among the latest, and remembers it.
func (r *repeats) add(id wire.ID) bool {
	if r.most == 0 || id == (wire.ID{}) {
		return false
	}
	if _, ok := r.seen[id]; ok {
		return true
	}
	if r.seen == nil {
		r.seen = make(map[wire.ID]struct{})
	}
	if len(r.order) < r.most {
		r.order = append(r.order, id)
	} else {
		delete(r.seen, r.order[r.next])
		r.order[r.next] = id
		r.next = (r.next + 1) % r.most
	}
	r.seen[id] = struct{}{}
	return false
}

func violation(reason string) error { return &wire.CodeError{Code: 4000, Reason: reason} }
