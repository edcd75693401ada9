package limpet

import (
	"context"
	"iter"
	"sync"
	"time"
)

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

// take blocks until messages are due and returns max at most, in dst if that
// has room, else in memory lent by batches. They count as delivered, or, if
// kept, as waiting until handed is called. Processed ones are acknowledged
// first. When the stream has ended it returns nil and the stream's error; when
// ctx ends, its error.
func (q *queue) take(ctx context.Context, dst []Message, max int, kept bool, processed done) ([]Message, error) {
	for {
		q.mu.Lock()
		told := q.progress.ack(processed)
		ctxErr := ctx.Err()
		var ms []Message
		var wait time.Duration
		if ctxErr == nil {
			ms, wait = q.pop(dst, max, kept)
		}
		tell := processed.last != nil || len(ms) > 0
		tell = tell && (q.starved() || len(ms) > 0 && q.endIfEmpty())
		more := q.items.Len() > 0
		ended, err := q.ended, q.err
		q.mu.Unlock()
		q.report(told)
		processed = done{}
		if tell {
			q.room()
		}
		switch {
		case ctxErr != nil:
			q.signal() // the word may have been for us: another consumer must have it
			return nil, ctxErr
		case len(ms) > 0:
			if more || ended {
				q.signal() // another consumer may be waiting
			}
			return ms, nil
		case ended:
			q.signal()
			return nil, err
		}
		if err := q.pause(ctx, wait); err != nil {
			q.signal()
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
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// pop takes what is due, or says how long until something is. Mu is held.
func (q *queue) pop(dst []Message, most int, kept bool) ([]Message, time.Duration) {
	n := min(q.items.Len(), most)
	if n == 0 {
		return nil, 0
	}
	if q.manual {
		if n = min(n, q.d.Buffer-q.progress.open.Len()); n <= 0 {
			return nil, 0
		}
	}
	if q.d.Every > 0 {
		if q.due == 0 {
			now := time.Now()
			if wait := q.nextDue.Sub(now); wait > 0 {
				return nil, wait
			}
			q.nextDue, q.due = now.Add(q.d.Every), q.items.Len()
		}
		n = min(n, q.due)
		q.due -= n
	}
	if cap(dst) < n {
		dst = batches.Get().(*[maxBatch]Message)[:0]
	}
	ms := append(dst[:0], q.items.All()[:n]...)
	q.items.Drop(n)
	losses := 0
	for i := range ms {
		if ms[i].Loss != nil {
			losses++
		}
		q.bytes -= len(ms[i].Payload)
	}
	n -= losses
	q.data -= n
	if kept {
		q.inHand += n
		q.lossHeld = losses > 0
	} else {
		q.delivered += uint64(n)
	}
	q.progress.took(ms, losses)
	if losses > 0 {
		q.progress.advance() // over a loss, which nobody acknowledges
	}
	return ms, 0
}

// handed counts ms as delivered, or as dropped when the stream ended in the
// deliverer's hand, and acknowledges what is processed.
func (q *queue) handed(ms []Message, delivered bool, processed done) {
	q.mu.Lock()
	q.lossHeld = false
	for i := range ms {
		if ms[i].Loss != nil {
			continue
		}
		q.inHand--
		if delivered {
			q.delivered++
		} else {
			q.dropped++
		}
	}
	told := q.progress.ack(processed)
	tell := q.starved() || q.ended && q.inHand == 0
	q.mu.Unlock()
	q.report(told)
	if tell {
		q.room()
	}
}

func (q *queue) report(told []run) {
	for i := range told {
		q.tell(told[i].gen, told[i].position)
	}
}

// acked says that m was processed.
func (q *queue) acked(m *Message) {
	q.mu.Lock()
	told := q.progress.ackOne(m)
	free := q.starved()
	q.mu.Unlock()
	q.report(told)
	if q.manual {
		q.signal() // the window may have opened
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
		var room [1]Message
		var processed done
		for {
			ms, err := s.queue.take(ctx, room[:0], 1, false, processed)
			if ms == nil {
				if err != nil {
					yield(Message{}, err)
				}
				return
			}
			if !yield(ms[0], nil) {
				return
			}
			if !s.queue.manual {
				processed = done{ms[0].number, &room[0]}
			}
		}
	}
}

// maxBatch bounds one element of Batches.
const maxBatch = 128

// batches lends the memory of one batch.
var batches = sync.Pool{New: func() any { return new([maxBatch]Message) }}

// Batches is Messages with everything that is due together, at most 128
// messages, in one slice. The slice is the receiver's until the next batch is
// taken, then its memory is used again: keep messages with slices.Clone. Their
// payloads are the receiver's for good.
func (s *Subscription) Batches(ctx context.Context) iter.Seq2[[]Message, error] {
	return func(yield func([]Message, error) bool) {
		var processed done
		var last Message // the receiver may change ms
		for {
			ms, err := s.queue.take(ctx, nil, maxBatch, false, processed)
			if ms == nil {
				if err != nil {
					yield(nil, err)
				}
				return
			}
			last, processed = ms[len(ms)-1], done{ms[0].number, &last}
			if !yield(ms[:len(ms):len(ms)], nil) {
				return
			}
			if s.queue.manual {
				processed = done{}
			}
			clear(ms)
			batches.Put((*[maxBatch]Message)(ms[:maxBatch]))
		}
	}
}

// C is the delivery channel: unbuffered, closed once, after the last message.
// Taking a message acknowledges the one before it, unless ManualAck is set, so
// several goroutines on one C need ManualAck. Err tells why it was closed.
func (s *Subscription) C() <-chan Message {
	s.startDeliver.Do(func() {
		s.c = make(chan Message)
		s.queue.cutter()
		if !s.client.goroutines.spawnDeliverer(s.deliver) {
			go s.deliver() // the client has ended: what is waiting is still to be had
		}
	})
	return s.c
}

// cutter makes cut.
func (q *queue) cutter() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cut = make(chan struct{})
	if q.discarded {
		close(q.cut)
	}
}

func (s *Subscription) deliver() {
	defer close(s.c)
	var room [2]Message
	var before done
	for i := 0; ; i = 1 - i {
		ms, _ := s.queue.take(context.Background(), room[i:i], 1, true, done{})
		if ms == nil {
			return
		}
		select {
		case s.c <- ms[0]:
		case <-s.queue.cut:
			s.queue.handed(ms, false, done{})
			return
		}
		s.queue.handed(ms, true, before)
		if !s.queue.manual {
			before = done{ms[0].number, &ms[0]}
		}
	}
}
