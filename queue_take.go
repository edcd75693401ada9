package limpet

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/lend"
)

// take acknowledges what was processed, waits until something can be taken, and
// returns at most limit messages and losses: in dst if it is large enough, else
// in memory from batchPool. They count as delivered or, with hold, as waiting
// until finishDelivery is called. When the stream has ended take returns nil and
// the stream's error; when ctx ends, nil and ctx's error.
func (q *queue) take(ctx context.Context, dst []Message, limit int, hold bool, processed processedRun) ([]Message, error) {
	return q.takeFor(nil, ctx, dst, limit, hold, &processed)
}

// takeFor is take, which leaves nothing in processed. With a source it does not wait: it returns
// errNothingYet, and the source becomes ready when there may be something.
func (q *queue) takeFor(src *mergeSource, ctx context.Context, dst []Message, limit int, hold bool, processed *processedRun) ([]Message, error) {
	if err := checkContext("Messages", ctx); err != nil {
		return nil, err
	}
	batch := processed.lent
	for {
		ctxErr := ctx.Err() // may be the caller's code: mu is not held
		q.mu.Lock()
		acked := q.acknowledge(processed)
		if processed.inBody {
			q.bodies--
		}
		if batch != nil {
			q.lent.Return(batch)
		}
		var ms []Message
		var wait time.Duration
		if ctxErr == nil {
			ms, wait = q.takeReady(dst, limit, hold, batch)
		}
		room := (processed.last != nil || len(ms) > 0) && q.roomToReport()
		if len(ms) > 0 {
			q.endIfEmpty()
			if !hold {
				q.bodies++
			}
		}
		q.watchStandstill()
		drained := q.ended && q.drainToReport()
		more := q.waits() > 0
		ended, err := q.ended, q.endErr
		q.mu.Unlock()
		q.report(acked, room, drained)
		*processed = processedRun{}
		switch {
		case ctxErr != nil:
			q.wakeConsumer() // we may have received the signal for a message that we leave
			return nil, ctxErr
		case len(ms) > 0:
			if more || ended {
				q.wakeConsumer() // another consumer may be waiting
			}
			return ms, nil
		case ended:
			if src != nil {
				src.ended = true
			}
			q.wakeConsumer()
			return nil, err
		case src != nil:
			src.readyAfter(wait)
			return nil, errNothingYet
		}
		if err := q.waitAvailable(ctx, wait); err != nil {
			q.wakeConsumer()
			return nil, err
		}
	}
}

// waitAvailable blocks until there may be something to take, or until wait has
// passed if it is not 0. If ctx ends first it returns ctx's error.
func (q *queue) waitAvailable(ctx context.Context, wait time.Duration) error {
	var due <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-q.available:
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// wakeConsumer wakes one consumer that waits for this queue alone, now or when it next
// waits, and each that waits for several.
func (q *queue) wakeConsumer() {
	if merges := q.merges.Load(); merges != nil {
		for _, src := range *merges {
			src.becomeReady()
		}
	}
	if len(q.available) > 0 {
		return // costs less than to try
	}
	select {
	case q.available <- struct{}{}:
	default:
	}
}

// takeReady takes what can be taken now. If Every or Rate hold everything
// back, wait is for how long; mu is held.
func (q *queue) takeReady(dst []Message, limit int, hold bool, batch *lend.Batch) (ms []Message, wait time.Duration) {
	n, wait := q.mayTake(limit)
	if n == 0 {
		q.countLag()
		return nil, wait
	}
	if cap(dst) < n {
		dst = batchPool.Get().(*[maxBatch]Message)[:0]
	}
	if q.delivery.Overflow == Latest {
		ms = q.takeKeyed(dst[:0], n)
	} else {
		ms = q.items.Take(dst[:0], n)
	}
	if q.lent != nil {
		q.lendTo(batch, ms)
	}
	losses := q.uncountTaken(ms)
	n -= losses
	if q.tight || q.delivery.Overflow == Latest || q.items.Aligned() {
		q.giveBack()
	}
	if hold {
		q.held, q.heldSince = q.held+n, ms[0].ReceivedAt
		q.lossHeld = losses > 0
	} else {
		q.delivered += uint64(n)
		q.measureLag(ms)
	}
	if losses > 0 || !q.tracker.Take(ms[0].number, ms[len(ms)-1].number, len(ms)) {
		for i := range ms {
			q.tracker.TakeOne(ms[i].number, &ms[i].Position, ms[i].generation, i > 0)
		}
	}
	return ms, 0
}

// mayTake returns how many of at most limit elements can be taken now. If none can,
// although some wait, wait is for how long, 0 if that depends on acknowledgements; mu is held.
func (q *queue) mayTake(limit int) (n int, wait time.Duration) {
	n = min(q.waits(), limit)
	if n == 0 || !q.manualAck && q.delivery.Every == 0 && q.delivery.Rate == 0 {
		return n, 0
	}
	room := n
	if q.manualAck {
		if room = q.delivery.Buffer - q.tracker.Window(); room <= 0 {
			return 0, 0
		}
	}
	if q.delivery.Every > 0 {
		if wait := q.release(); wait > 0 {
			return 0, wait
		}
		n, _, _ = q.leadingItems(n, room, q.released)
		return n, 0
	}
	if q.delivery.Rate == 0 {
		n, _, _ = q.leadingItems(n, room, q.lastNumber)
		return n, 0
	}
	now := time.Now()
	n, messages, _ := q.leadingItems(n, min(room, q.bucket.Available(now)), q.lastNumber)
	if n == 0 {
		return 0, q.bucket.Wait(now)
	}
	q.bucket.Take(now, messages)
	return n, 0
}

// release lets what waits be taken, up to what Rate allows, if Every has passed.
// Otherwise, if nothing can be taken, it returns how long to wait; mu is held.
func (q *queue) release() (wait time.Duration) {
	if q.firstWaiting().number <= q.released {
		return 0
	}
	now := time.Now()
	if wait := q.nextRelease.Sub(now); wait > 0 {
		return wait
	}
	q.nextRelease = now.Add(q.delivery.Every)
	if q.delivery.Rate == 0 {
		q.released = q.lastNumber
		return 0
	}
	n, messages, last := q.leadingItems(q.waits(), q.bucket.Available(now), q.lastNumber)
	if n == 0 {
		return q.delivery.Every
	}
	q.bucket.Take(now, messages)
	q.released = last
	return 0
}

// leadingItems returns how many of the first n elements that wait may be taken: messages
// for which there is room, up to number through. Losses need no room. It also returns how
// many of them are messages, and the number of the last; mu is held.
func (q *queue) leadingItems(n, room int, through uint64) (count, messages int, last uint64) {
	for m := range q.allWaiting() {
		if count == n || m.Loss == nil && messages == room || m.number > through {
			break
		}
		if m.Loss == nil {
			messages++
		}
		count, last = count+1, m.number
	}
	return count, messages, last
}

// heldBackUntil returns until when Every or Rate hold back what waits, zero if they do
// not; mu is held, and something waits.
func (q *queue) heldBackUntil() time.Time {
	switch {
	case q.delivery.Every > 0 && q.firstWaiting().number > q.released:
		return q.nextRelease
	case q.delivery.Every == 0 && q.delivery.Rate > 0:
		now := time.Now()
		if wait := q.bucket.Wait(now); wait > 0 {
			return now.Add(wait)
		}
	}
	return time.Time{}
}

// takeKeyed takes the first n elements, with Latest; mu is held.
func (q *queue) takeKeyed(ms []Message, n int) []Message {
	if n == q.keyed.Len() && !q.tracker.PerMessage { // all at once, which costs less
		for m := range q.allWaiting() {
			ms = append(ms, *m)
		}
		q.keyed.Reset()
		n = 0
	}
	for range n {
		first := q.keyed.First()
		ms = append(ms, q.keyed.At(first).Message)
		q.keyed.Remove(first)
		if q.tracker.PerMessage {
			q.tracker.Mark(ms[len(ms)-1].number, q.lowWater())
		}
	}
	q.tracker.Mark(ms[len(ms)-1].number, q.lowWater())
	return ms
}

// finishDelivery counts messages that the deliverer held as delivered or as
// dropped, and acknowledges what was processed.
func (q *queue) finishDelivery(ms []Message, delivered bool, processed processedRun) {
	q.mu.Lock()
	q.lossHeld = false
	for i := range ms {
		if ms[i].Loss != nil {
			continue
		}
		q.held--
		if delivered {
			q.delivered++
		} else {
			q.dropped++
			q.closed++
			q.heldDropped++
		}
	}
	if delivered {
		q.measureLag(ms)
	}
	acked := q.acknowledge(&processed)
	room, drained := q.roomToReport(), q.drainToReport()
	q.watchStandstill()
	q.mu.Unlock()
	q.report(acked, room, drained)
}

// leaveBody follows when a consumer leaves a loop body and takes nothing more for now.
// processed is nothing after break, return or a panic.
func (q *queue) leaveBody(processed processedRun) {
	q.mu.Lock()
	acked := q.acknowledge(&processed)
	q.bodies--
	q.watchStandstill()
	drained := q.drainToReport()
	q.mu.Unlock()
	q.report(acked, false, drained)
}

// Messages iterates over the stream: messages, gaps and resets in order. The
// iteration blocks while there is no element, while Delivery.Every or Delivery.Rate
// hold back what waits, and with ManualAck while Delivery.Buffer messages are unacknowledged.
//
// A loop body that finishes normally acknowledges its message, unless ManualAck
// is set. After break, return or a panic the message stays unacknowledged until
// Message.Ack is called.
//
// The iteration ends without an error when the subscription or the client was
// closed or shut down. When ctx ends, the subscription is refused or the client
// fails permanently, the last pair is a zero Message and the error.
//
// Iterations and C may be used at the same time: each element goes to one of
// them.
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		var memory [1]Message
		var processed processedRun
		defer func() {
			if processed.inBody {
				s.queue.leaveBody(processedRun{})
			}
		}()
		for {
			ms, err := s.queue.takeFor(nil, ctx, memory[:0], 1, false, &processed)
			processed.inBody = ms != nil
			if ms == nil {
				if err != nil {
					yield(Message{}, err)
				}
				return
			}
			if !yield(ms[0], nil) {
				return
			}
			if !s.queue.manualAck {
				processed.first, processed.last = ms[0].number, &memory[0]
			}
		}
	}
}

// maxBatch bounds one element of Batches.
const maxBatch = 128

// batchPool holds the memory of batches.
var batchPool = sync.Pool{New: func() any { return new([maxBatch]Message) }}

// Batches is like Messages, but each element is a slice of all that can be taken
// at once, at least 1 and at most 128 messages, gaps and resets. A loop body that
// finishes normally acknowledges the whole batch, unless ManualAck is set.
//
// The slice is valid until the loop body ends; then its memory is reused. Use
// slices.Clone to keep it. Payloads and headers are not reused, unless
// SubscribeOptions.Lend is set.
func (s *Subscription) Batches(ctx context.Context) iter.Seq2[[]Message, error] {
	return func(yield func([]Message, error) bool) {
		var processed processedRun
		var batch *lend.Batch
		if s.queue.lent != nil {
			batch = new(lend.Batch)
		}
		var last Message // a copy: the caller may change ms
		defer func() {
			if processed.inBody {
				s.queue.leaveBody(processedRun{})
			}
		}()
		for {
			processed.lent = batch
			ms, err := s.queue.takeFor(nil, ctx, nil, maxBatch, false, &processed)
			processed.inBody = ms != nil
			if ms == nil {
				if err != nil {
					yield(nil, err)
				}
				return
			}
			var first uint64
			last, first = ms[len(ms)-1], ms[0].number
			if !yield(ms[:len(ms):len(ms)], nil) {
				return
			}
			if !s.queue.manualAck {
				processed.first, processed.last = first, &last
			}
			clear(ms)
			batchPool.Put((*[maxBatch]Message)(ms[:maxBatch]))
		}
	}
}

// C returns the channel that delivers the stream: messages, gaps and resets in
// order. Every call returns the same channel. It is unbuffered, and closed when
// the stream has ended; then Err says why.
//
// Receiving an element acknowledges the message before it, unless ManualAck is
// set. Several goroutines that receive from C therefore need ManualAck. The last
// message before the channel is closed stays unacknowledged: call Message.Ack.
func (s *Subscription) C() <-chan Message {
	s.startDeliver.Do(func() {
		s.c = make(chan Message)
		s.queue.makeDiscardSignal()
		if !s.client.goroutines.GoDeliverer(s.deliver) {
			go s.deliver() // the client has ended; what waits can still be received
		}
	})
	return s.c
}

// makeDiscardSignal prepares discardSignal for the deliverer.
func (q *queue) makeDiscardSignal() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.discardSignal = make(chan struct{})
	if q.discarded {
		close(q.discardSignal)
	}
}

// deliver is the deliverer: the goroutine that sends to C until the stream ends.
// It keeps the last two messages, so that the one before can be acknowledged.
func (s *Subscription) deliver() {
	defer close(s.c)
	var memory [2]Message
	var before processedRun
	for i := 0; ; i = 1 - i {
		ms, _ := s.queue.take(context.Background(), memory[i:i], 1, true, processedRun{})
		if ms == nil {
			return
		}
		select {
		case s.c <- ms[0]:
		case <-s.queue.discardSignal:
			s.queue.finishDelivery(ms, false, processedRun{})
			return
		}
		s.queue.finishDelivery(ms, true, before)
		if !s.queue.manualAck {
			before = processedRun{first: ms[0].number, last: &ms[0]}
		}
	}
}
