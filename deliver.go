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
	q.items.reset()
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
	return q.ended && q.inHand == 0
}

func (q *queue) endIfEmpty() bool {
	if !q.finishing || q.ended || q.items.len() > 0 {
		return false
	}
	q.ended = true
	return true
}

// span is a run of messages that were processed, by their number of taking. The
// zero value is none.
type span struct{ from, to uint64 }

// take blocks until messages are due and returns max at most, in dst if that
// has room. They count as delivered, or, if kept, as waiting until handed is
// called. Processed ones are acknowledged first. When the stream has ended it
// returns nil and the stream's error; when ctx ends, its error.
func (q *queue) take(ctx context.Context, dst []Message, max int, kept bool, processed span) ([]Message, error) {
	for {
		q.mu.Lock()
		told := q.ack(processed)
		ctxErr := ctx.Err()
		var ms []Message
		var wait time.Duration
		if ctxErr == nil {
			ms, wait = q.pop(dst, max, kept)
		}
		tell := processed.to != 0 || len(ms) > 0
		tell = tell && (q.starved() || len(ms) > 0 && q.endIfEmpty())
		more := q.items.len() > 0
		ended, err := q.ended, q.err
		q.mu.Unlock()
		q.report(told)
		processed = span{}
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
	n := min(q.items.len(), most)
	if n == 0 {
		return nil, 0
	}
	if q.manual {
		if n = min(n, q.d.Buffer-q.unacked.len()); n <= 0 {
			return nil, 0
		}
	}
	if q.d.Every > 0 {
		if q.due == 0 {
			now := time.Now()
			if wait := q.nextDue.Sub(now); wait > 0 {
				return nil, wait
			}
			q.nextDue, q.due = now.Add(q.d.Every), q.items.len()
		}
		n = min(n, q.due)
		q.due -= n
	}
	if cap(dst) < n {
		dst = make([]Message, n)
	}
	ms := dst[:n]
	copy(ms, q.items.all())
	q.items.drop(n)
	for i := range ms {
		m := &ms[i]
		q.takes++
		m.taken = q.takes
		if q.unacked.len() >= q.d.Buffer+maxUnacked {
			q.stuck = true
			q.unacked.reset()
		}
		if !q.stuck {
			q.unacked.push(commit{m.taken, m.Position, m.Gap != nil, m.gen})
		}
		q.bytes -= len(m.Payload)
		switch {
		case m.Gap != nil:
		case kept:
			q.data--
			q.inHand++
		default:
			q.data--
			q.delivered++
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
	for n < q.unacked.len() && q.unacked.at(n).acked {
		c := q.unacked.at(n)
		q.committed = c.position
		if c.gen != 0 {
			last = *c
		}
		n++
	}
	q.unacked.drop(n)
	return n, last
}

// handed counts ms as delivered, or as dropped when the stream ended in the
// deliverer's hand.
func (q *queue) handed(ms []Message, delivered bool) {
	q.mu.Lock()
	for i := range ms {
		if ms[i].Gap != nil {
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

// ack marks taken messages as processed, commits the contiguous prefix and
// returns what the server wants to hear. Mu is held.
func (q *queue) ack(s span) (told []commit) {
	if s.to == 0 || q.unacked.len() == 0 {
		return nil
	}
	first := q.unacked.at(0).taken
	for taken := max(s.from, first); taken <= s.to && taken-first < uint64(q.unacked.len()); taken++ {
		c := q.unacked.at(int(taken - first))
		if !c.acked && q.processed == wire.ProcessedEach && c.gen != 0 {
			told = append(told, *c)
		}
		c.acked = true
	}
	if _, last := q.advance(); q.processed == wire.ProcessedCumulative && last.gen != 0 {
		told = append(told, last)
	}
	return told
}

func (q *queue) report(told []commit) {
	for _, c := range told {
		q.tell(c.gen, c.position)
	}
}

// acked is ack for one message.
func (q *queue) acked(taken uint64) {
	q.mu.Lock()
	told := q.ack(span{taken, taken})
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
		var processed span
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
				processed = span{ms[0].taken, ms[0].taken}
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
		var processed span
		for {
			ms, err := s.queue.take(ctx, nil, maxBatch, false, processed)
			if ms == nil {
				if err != nil {
					yield(nil, err)
				}
				return
			}
			all := span{ms[0].taken, ms[len(ms)-1].taken} // the receiver may change ms
			if !yield(ms, nil) {
				return
			}
			if !s.queue.manual {
				processed = all
			}
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
		if !s.client.spawn(&s.client.delivers, s.deliver) {
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
	var room [1]Message
	var before uint64
	for {
		ms, _ := s.queue.take(context.Background(), room[:0], 1, true, span{})
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
