package limpet

import (
	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
)

// put adds a data message and applies the overflow policy.
func (q *queue) put(ev *wire.Event) {
	epoch := ev.Position.Epoch
	if epoch == "" {
		epoch = q.epoch
	}
	size := len(ev.Message.Payload)
	full := q.d.Overflow != Block && (q.data >= q.d.Buffer || q.data > 0 && q.bytes+size > q.d.Bytes)
	if full && q.d.Overflow == DropNewest {
		q.dropped++
		prev := q.last
		q.last = Position{Epoch: epoch, Offset: ev.Position.Offset, Tag: ev.Position.Tag}
		q.append(lossOf(Gap, prev, q.last, 1, wire.CauseOverflow))
		return
	}
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
	m.Position.Epoch, m.Position.Offset, m.Position.Tag = epoch, ev.Position.Offset, ev.Position.Tag
	m.Payload, m.Type, m.Header = ev.Message.Payload, ev.Message.Type, ev.Message.Header
	m.prev = ev.Prev
	if epoch == q.last.Epoch {
		m.prev = max(m.prev, q.last.Offset) // what a filtered stream left out before it began is not missing
	}
	q.last.Epoch, q.last.Offset, q.last.Tag = epoch, ev.Position.Offset, ev.Position.Tag
	q.data++
	q.bytes += size
	for full && (q.data > q.d.Buffer || q.data > 1 && q.bytes > q.d.Bytes) {
		q.dropOldest()
	}
}

// dropOldest turns the oldest data message into a gap, joined with its
// neighbours. Mu is held; there is a data message.
func (q *queue) dropOldest() {
	i := 0
	for q.items.At(i).Loss != nil {
		i++
	}
	m := *q.items.At(i)
	q.dropped++
	q.data--
	q.bytes -= len(m.Payload)
	after := Position{Epoch: m.Position.Epoch, Offset: m.prev}
	g := lossOf(Gap, after, m.Position, 1, wire.CauseOverflow)
	g.Topic, g.queue, g.number = q.topic, q, m.number
	*q.items.At(i) = g
	if i+1 < q.items.Len() && q.join(i, *q.items.At(i + 1)) {
		q.remove(i + 1)
	}
	if i > 0 && q.join(i-1, *q.items.At(i)) {
		q.remove(i)
		i--
	}
	// Nothing is left between two restarts: they are one.
	if i > 0 && i+1 < q.items.Len() && q.items.At(i-1).Kind == Reset && q.join(i-1, *q.items.At(i + 1)) {
		q.remove(i + 1)
		q.remove(i)
	}
}

func (q *queue) remove(i int) {
	q.items.Remove(i)
	if q.due > i {
		q.due--
	}
}

// join extends the loss at items[i] by m if they are one.
func (q *queue) join(i int, m Message) bool {
	old := q.items.At(i)
	switch {
	case old.Kind == Gap && m.Kind == Gap && old.Loss.To.Epoch == m.Loss.To.Epoch:
		g := *old.Loss
		g.To = m.Loss.To
		if g.Count != 0 && m.Loss.Count != 0 {
			g.Count += m.Loss.Count
		} else {
			g.Count = 0
		}
		old.Loss, old.Position = &g, g.To
		return true
	case old.Kind == Reset && m.Kind == Reset:
		g := *old.Loss
		g.To = m.Loss.To
		old.Loss, old.Position = &g, g.To
		return true
	}
	return false
}

func lossOf(k Kind, after, to Position, count uint64, why Cause) Message {
	return Message{Kind: k, Position: to, Loss: &Loss{After: after, To: to, Count: count, Cause: why}}
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
	q.numbered++
	m.Topic, m.queue, m.number = q.topic, q, q.numbered
	n := q.items.Len()
	if n > 0 && q.join(n-1, m) {
		return
	}
	if n > 1 && m.Kind == Reset && q.items.At(n-1).Loss != nil && q.items.At(n-1).Loss.Cause == wire.CauseOverflow && q.join(n-2, m) {
		q.remove(n - 1) // nothing was kept between two restarts
		return
	}
	q.items.Push(m)
}

// crowded bounds what a server can pile up without sending a message.
func (q *queue) crowded() error {
	if q.items.Len()-q.data > q.d.Buffer+16 {
		return violation("gaps and resets without end")
	}
	return nil
}
