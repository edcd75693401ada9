package limpet

import (
	"context"
	"iter"
	"time"

	"github.com/limpet-go/limpet/wire"
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
