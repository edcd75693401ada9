package limpet

import (
	"github.com/limpet-go/limpet/wire"
)

// dropNewest puts a gap in the place of the message that came last, after the
// position before it. Mu is held.
func (q *queue) dropNewest(before Position) {
	q.dropped++
	to, _ := q.receiver.Position()
	q.append(lossOf(Gap, before, to, 1, wire.CauseOverflow))
}

// dropOldest makes room. Mu is held.
func (q *queue) dropOldest() {
	for q.data > q.d.Buffer || q.data > 1 && q.bytes > q.d.Bytes {
		q.dropOne()
	}
}

// dropOne turns the oldest data message into a gap, joined with its
// neighbours. Mu is held; there is a data message.
func (q *queue) dropOne() {
	i := 0
	for q.items.At(i).Gap != nil {
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
