package limpet

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
)

// Kind is what a Message is.
type Kind uint8

const (
	Data     Kind = iota + 1 // an application message
	Snapshot                 // a message that replaces what went before
	Gap                      // messages are missing here: see Message.Gap
	Reset                    // the stream starts anew here, continuity cannot be proved: see Message.Gap
)

func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Snapshot:
		return "snapshot"
	case Gap:
		return "gap"
	case Reset:
		return "reset"
	}
	return "kind ?"
}

// Position is where a stream can be resumed, provably.
type Position = wire.Position

// Cause says why messages are missing or a stream restarted.
type Cause = wire.Cause

// Loss describes a Gap or a Reset. The messages in (After, To] are missing; of
// a Reset nothing is known about what lies between After and To, the new start.
type Loss struct {
	After Position
	To    Position
	Count uint64 // messages missing, 0 if not known
	Cause Cause  // of the first, where several were joined
}

// Message is one element of a subscription's stream. Loss is an element too,
// in order, so a consumer cannot compute over a hole without seeing it.
type Message struct {
	Kind        Kind
	Topic       string
	ID          uuid.UUID
	Position    Position // where to resume after this element
	Payload     []byte   // owned by the receiver
	Type        string
	Header      map[string]string
	Redelivered bool
	Gap         *Loss // for Gap and Reset

	prev  uint64
	queue *queue
	taken uint64
	gen   uint64 // the connection it came on
}

// Ack says that the message was processed: the committed position advances
// over the contiguous acknowledged prefix. It is needed with
// SubscribeOptions.ManualAck, and for a message whose loop body was left by
// break or return. It may be called from any goroutine, more than once, and
// after the client closed. A Gap and a Reset need none.
func (m Message) Ack() {
	if m.queue != nil {
		m.queue.acked(m.taken)
	}
}

// queue is the delivery queue of one subscription. The reader puts in, in wire
// order; consumers take out. Its lock is a leaf.
type queue struct {
	topic  string
	d      Delivery
	manual bool
	holes  wire.Holes

	processed wire.Processed
	tell      func(gen uint64, p Position) // the server wants to hear of it; never called under mu

	room func() // consumers made room or the last message left: tells the loop; never called under mu

	wake chan struct{} // 1 slot: there may be something to take
	done chan struct{} // closed when nothing will be taken any more
	cut  chan struct{} // closed by discard: what is in the deliverer's hand is dropped

	mu        sync.Mutex
	items     []Message // head is items[0]
	bytes     int
	data      int // data and snapshots in items
	inHand    int // taken, not yet handed over
	due       int // items released by the pace
	nextDue   time.Time
	finishing bool  // no more comes in
	err       error // why, nil for a clean end
	ended     bool  // done is closed
	discarded bool  // cut is closed

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

	takes     uint64 // messages taken so far
	unacked   []commit
	committed Position
	stuck     bool // a message was left unacknowledged for so long that nothing after it will be committed
}

// maxUnacked bounds, without ManualAck, what is remembered behind a message
// whose loop body was left and that nobody acknowledged.
const maxUnacked = 16 << 10

type commit struct {
	taken    uint64
	position Position
	acked    bool
	gen      uint64
}

func newQueue(topic string, o *SubscribeOptions, t wire.Traits, room func()) *queue {
	q := &queue{
		topic: topic, d: o.Delivery, manual: o.ManualAck, holes: t.Holes, processed: t.Processed, room: room,
		wake: make(chan struct{}, 1), done: make(chan struct{}), cut: make(chan struct{}),
	}
	q.repeats.most = t.Repeats
	if o.From == FromResume {
		q.last, q.based, q.epoch = o.Position, true, o.Position.Epoch
		q.committed = o.Position
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
		held = q.data + len(q.unacked)
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

// offer takes one event of connection gen. It never blocks. Lost is the loss
// that the queue found by itself, nil if there was none. An error is a
// violation by the server.
func (q *queue) offer(gen uint64, ev *wire.Event) (lost *wire.Event, err error) {
	q.mu.Lock()
	q.found = nil
	err = q.accept(gen, ev)
	lost = q.found
	free := q.d.Overflow != Block && q.starved()
	waiting := len(q.items) > 0
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
	at := Position{Epoch: q.epoch, Offset: ev.Position.Offset, Tag: ev.Position.Tag}
	if ev.Position.Epoch != "" {
		at.Epoch = ev.Position.Epoch
	}
	if q.repeats.add(ev.Message.ID) {
		q.duplicates++
		return nil
	}
	if ev.Numbered {
		switch {
		case !q.based:
			q.based = true
		case at.Offset <= q.last.Offset:
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
	kind := Data
	if ev.Message.Snapshot {
		kind = Snapshot
	}
	prev := q.last
	after := ev.Prev
	if prev.Epoch == at.Epoch {
		after = max(after, prev.Offset) // what a filtered stream left out before it began is not missing
	}
	q.last = at
	topic := ev.Message.Topic
	if topic == "" {
		topic = q.topic
	}
	q.received++
	q.put(prev, Message{
		Kind: kind, Topic: topic, ID: uuid.UUID(ev.Message.ID), Position: at,
		Payload: ev.Message.Payload, Type: ev.Message.Type, Header: ev.Message.Header,
		Redelivered: ev.Message.Redelivered, prev: after, queue: q, gen: q.gen,
	})
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

// put adds a data message and applies the overflow policy.
func (q *queue) put(prev Position, m Message) {
	full := q.data >= q.d.Buffer || q.data > 0 && q.bytes+len(m.Payload) > q.d.Bytes
	if !full || q.d.Overflow == Block {
		q.items = append(q.items, m)
		q.data++
		q.bytes += len(m.Payload)
		return
	}
	if q.d.Overflow == DropNewest {
		q.dropped++
		q.append(lossOf(Gap, prev, m.Position, 1, wire.CauseOverflow))
		return
	}
	q.items = append(q.items, m)
	q.data++
	q.bytes += len(m.Payload)
	for q.data > q.d.Buffer || q.data > 1 && q.bytes > q.d.Bytes {
		q.dropOldest()
	}
}

// dropOldest turns the oldest data message into a gap, joined with its
// neighbours. Mu is held; there is a data message.
func (q *queue) dropOldest() {
	i := 0
	for q.items[i].Kind == Gap || q.items[i].Kind == Reset {
		i++
	}
	m := q.items[i]
	q.dropped++
	q.data--
	q.bytes -= len(m.Payload)
	after := Position{Epoch: m.Position.Epoch, Offset: m.prev}
	g := lossOf(Gap, after, m.Position, 1, wire.CauseOverflow)
	g.Topic = q.topic
	q.items[i] = g
	if i+1 < len(q.items) && q.join(i, q.items[i+1]) {
		q.remove(i + 1)
	}
	if i > 0 && q.join(i-1, q.items[i]) {
		q.remove(i)
	}
}

func (q *queue) remove(i int) {
	copy(q.items[i:], q.items[i+1:])
	q.items[len(q.items)-1] = Message{}
	q.items = q.items[:len(q.items)-1]
	if q.due > i {
		q.due--
	}
}

// join extends the loss at items[i] by m if they are one.
func (q *queue) join(i int, m Message) bool {
	old := q.items[i]
	switch {
	case old.Kind == Gap && m.Kind == Gap && old.Gap.To.Epoch == m.Gap.To.Epoch:
		g := *old.Gap
		g.To = m.Gap.To
		if g.Count != 0 && m.Gap.Count != 0 {
			g.Count += m.Gap.Count
		} else {
			g.Count = 0
		}
		q.items[i].Gap, q.items[i].Position = &g, g.To
		return true
	case old.Kind == Reset && m.Kind == Reset:
		g := *old.Gap
		g.To = m.Gap.To
		q.items[i].Gap, q.items[i].Position = &g, g.To
		return true
	}
	return false
}

func lossOf(k Kind, after, to Position, count uint64, why Cause) Message {
	return Message{Kind: k, Position: to, Gap: &Loss{After: after, To: to, Count: count, Cause: why}}
}

// lose puts a Gap or a Reset into the stream.
func (q *queue) lose(k Kind, to Position, count uint64, why Cause) {
	if k == Gap {
		q.gaps++
	} else {
		q.resets++
	}
	q.append(lossOf(k, q.last, to, count, why))
}

// find is lose for what nobody told.
func (q *queue) find(k Kind, to Position, count uint64, why Cause) {
	q.lose(k, to, count, why)
	kind := wire.EventGap
	if k == Reset {
		kind = wire.EventReset
	}
	q.found = &wire.Event{Kind: kind, Cause: why}
}

func (q *queue) append(m Message) {
	m.Topic, m.queue = q.topic, q
	if n := len(q.items); n > 0 && q.join(n-1, m) {
		return
	}
	q.items = append(q.items, m)
}

// crowded bounds what a server can pile up without sending a message.
func (q *queue) crowded() error {
	if len(q.items)-q.data > q.d.Buffer+16 {
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
		q.room()
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
	q.items, q.data, q.bytes, q.due = nil, 0, 0, 0
	if !q.ended {
		q.ended = true
		close(q.done)
	}
	if !q.discarded {
		q.discarded = true
		close(q.cut)
	}
	q.mu.Unlock()
}

// drained reports whether everything was handed over or dropped, and no more
// comes.
func (q *queue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ended && q.inHand == 0
}

func (q *queue) endIfEmpty() bool {
	if !q.finishing || q.ended || len(q.items) > 0 {
		return false
	}
	q.ended = true
	close(q.done)
	return true
}

// take blocks until messages are due and returns max at most. They count as
// waiting until handed is called. When the stream has ended it returns nil and
// the stream's error; when ctx ends, its error.
func (q *queue) take(ctx context.Context, max int) ([]Message, error) {
	for {
		if err := ctx.Err(); err != nil {
			q.signal() // the word may have been for us: another consumer must have it
			return nil, err
		}
		q.mu.Lock()
		ms, wait := q.pop(max)
		free := len(ms) > 0 && q.starved()
		end := len(ms) > 0 && q.endIfEmpty()
		more := len(q.items) > 0
		ended, err := q.ended, q.err
		q.mu.Unlock()
		if len(ms) > 0 {
			if more {
				q.signal() // another consumer may be waiting
			}
			if free || end {
				q.room()
			}
			return ms, nil
		}
		if ended {
			return nil, err
		}
		if err := q.pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func (q *queue) pause(ctx context.Context, wait time.Duration) error {
	var due <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-q.wake:
	case <-q.done:
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// pop takes what is due, or says how long until something is. Mu is held.
func (q *queue) pop(most int) ([]Message, time.Duration) {
	n := min(len(q.items), most)
	if n == 0 {
		return nil, 0
	}
	if q.manual {
		if n = min(n, q.d.Buffer-len(q.unacked)); n <= 0 {
			return nil, 0
		}
	}
	if q.d.Every > 0 {
		if q.due == 0 {
			now := time.Now()
			if wait := q.nextDue.Sub(now); wait > 0 {
				return nil, wait
			}
			q.nextDue, q.due = now.Add(q.d.Every), len(q.items)
		}
		n = min(n, q.due)
		q.due -= n
	}
	ms := make([]Message, n)
	copy(ms, q.items)
	clear(q.items[:n])
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	}
	for i := range ms {
		m := &ms[i]
		q.takes++
		m.taken = q.takes
		if len(q.unacked) >= q.d.Buffer+maxUnacked {
			q.stuck, q.unacked = true, nil
		}
		if !q.stuck {
			loss := m.Kind == Gap || m.Kind == Reset
			q.unacked = append(q.unacked, commit{m.taken, m.Position, loss, m.gen})
		}
		q.bytes -= len(m.Payload)
		if m.Kind == Data || m.Kind == Snapshot {
			q.data--
			q.inHand++
		}
	}
	if q.manual {
		q.advance() // over a loss, which nobody acknowledges
	}
	return ms, 0
}

// advance moves the committed position over the contiguous acknowledged prefix
// and returns its length and its last message. Mu is held.
func (q *queue) advance() (n int, last commit) {
	for n < len(q.unacked) && q.unacked[n].acked {
		q.committed = q.unacked[n].position
		if q.unacked[n].gen != 0 {
			last = q.unacked[n]
		}
		n++
	}
	if q.unacked = q.unacked[n:]; len(q.unacked) == 0 {
		q.unacked = nil
	}
	return n, last
}

// handed counts ms as delivered, or as dropped when the stream ended in the
// deliverer's hand.
func (q *queue) handed(ms []Message, delivered bool) {
	q.mu.Lock()
	for i := range ms {
		if ms[i].Kind == Gap || ms[i].Kind == Reset {
			continue
		}
		q.inHand--
		if delivered {
			q.delivered++
		} else {
			q.dropped++
		}
	}
	tell := q.starved() || q.ended && q.inHand == 0
	q.mu.Unlock()
	if tell {
		q.room()
	}
}

// acked marks one taken message as processed and commits the contiguous
// prefix.
func (q *queue) acked(taken uint64) {
	q.mu.Lock()
	var told commit
	if n := len(q.unacked); n > 0 && taken >= q.unacked[0].taken && taken <= q.unacked[n-1].taken {
		c := &q.unacked[taken-q.unacked[0].taken]
		if !c.acked && q.processed == wire.ProcessedEach {
			told = *c
		}
		c.acked = true
	}
	n, last := q.advance()
	if q.processed == wire.ProcessedCumulative {
		told = last
	}
	free := n > 0 && q.starved()
	q.mu.Unlock()
	if n > 0 && q.manual {
		q.signal()
	}
	if told.gen != 0 {
		q.tell(told.gen, told.position)
	}
	if free {
		q.room()
	}
}

// Messages iterates over the stream. Several iterations, and C, share it: each
// element goes to one of them. A normally finished loop body acknowledges its
// message, unless ManualAck is set. It ends quietly when the subscription or
// the client was closed by its owner; otherwise the last pair is a zero Message
// and the reason: ctx's error, or why the subscription ended.
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			ms, err := s.queue.take(ctx, 1)
			if ms == nil {
				if err != nil {
					yield(Message{}, err)
				}
				return
			}
			s.queue.handed(ms, true)
			if !yield(ms[0], nil) {
				return
			}
			if !s.queue.manual {
				s.queue.acked(ms[0].taken)
			}
		}
	}
}

// maxBatch bounds one element of Batches.
const maxBatch = 1024

// Batches is Messages with everything that is due together, at most 1,024
// messages, in one slice that the receiver owns.
func (s *Subscription) Batches(ctx context.Context) iter.Seq2[[]Message, error] {
	return func(yield func([]Message, error) bool) {
		for {
			ms, err := s.queue.take(ctx, maxBatch)
			if ms == nil {
				if err != nil {
					yield(nil, err)
				}
				return
			}
			s.queue.handed(ms, true)
			if !yield(ms, nil) {
				return
			}
			if !s.queue.manual {
				for i := range ms {
					s.queue.acked(ms[i].taken)
				}
			}
		}
	}
}

// C is the delivery channel: unbuffered, closed once, after the last message.
// Taking a message acknowledges the one before it, unless ManualAck is set, so
// several goroutines on one C need ManualAck. Err tells why it was closed.
func (s *Subscription) C() <-chan Message {
	s.startDeliver.Do(func() {
		if !s.client.spawn(&s.client.delivers, s.deliver) {
			go s.deliver() // the client has ended: what is waiting is still to be had
		}
	})
	return s.c
}

func (s *Subscription) deliver() {
	defer close(s.c)
	var before uint64
	for {
		ms, _ := s.queue.take(context.Background(), 1)
		if ms == nil {
			return
		}
		select {
		case s.c <- ms[0]:
		default:
			select {
			case s.c <- ms[0]:
			case <-s.queue.cut:
				s.queue.handed(ms, false)
				return
			}
		}
		s.queue.handed(ms, true)
		if !s.queue.manual && before != 0 {
			s.queue.acked(before)
		}
		before = ms[0].taken
	}
}
