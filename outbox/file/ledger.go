package file

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/limpet-go/limpet/outbox"
)

// ledger is what the store has to know between commits: which messages are needed, and where they are.
type ledger struct {
	bounds
	entries []entry // of the messages through+1 and so on
	gone    uint64  // of these, how many are removed
	live    int64   // bytes of these messages, about
}

const (
	overhead    = 64 // bytes of a message besides its payload, about
	settledSize = 20 // bytes of a message that is settled
)

type entry struct {
	id      outbox.ID
	segment uint64
	size    int64
	settled bool // or removed
	removed bool
}

// check returns an error if c cannot be applied.
func (l *ledger) check(c *outbox.Change) error {
	last := l.last - l.removed - l.gone
	if c.Reset {
		last = 0
	}
	for i := range c.Messages {
		if last++; c.Messages[i].Seq != last {
			return fmt.Errorf("%w (message %d follows %d)", outbox.ErrInUse, c.Messages[i].Seq, last-1)
		}
	}
	return nil
}

// inLog returns a change with the numbers that the messages have in the log.
func (l *ledger) inLog(c *outbox.Change) *outbox.Change {
	if c.Reset || l.removed+l.gone == 0 {
		return c
	}
	first := l.through - l.removed + 1 // as the client numbers the messages
	var stay []uint64
	for i := range l.entries {
		if !l.entries[i].removed {
			stay = append(stay, l.through+1+uint64(i))
		}
	}
	number := func(n uint64) uint64 {
		switch {
		case n < first:
			return min(n, l.through)
		case n-first < uint64(len(stay)):
			return stay[n-first]
		}
		return n + min(l.removed+l.gone, math.MaxUint64-n)
	}
	ranges := func(list []outbox.Range) (in []outbox.Range) {
		for _, r := range list {
			in = append(in, outbox.Range{Lo: number(r.Lo), Hi: number(r.Hi)})
		}
		return in
	}
	in := *c
	in.Messages = slices.Clone(c.Messages)
	for i := range in.Messages {
		in.Messages[i].Seq = number(in.Messages[i].Seq)
	}
	in.Sent.Seq = number(in.Sent.Seq)
	in.Void, in.Settled, in.Removed = ranges(c.Void), ranges(c.Settled), ranges(c.Removed)
	return &in
}

// apply applies a change that check allows, and that is in a segment, with the numbers of the log.
func (l *ledger) apply(c *outbox.Change, segment uint64) {
	if c.Reset {
		l.epoch++
		l.through, l.last, l.removed, l.tag, l.live = 0, 0, 0, outbox.ID{}, 0
		l.entries, l.gone = nil, 0
	}
	for i := range c.Messages {
		m := &c.Messages[i]
		e := entry{id: m.ID, segment: segment, size: int64(len(m.Payload) + overhead)}
		l.live += e.size
		if m.Settled {
			l.settle(&e)
		}
		l.entries = append(l.entries, e)
		l.last++
	}
	for _, r := range c.Settled {
		for i, end := within(r, l.through, len(l.entries)); i < end; i++ {
			l.settle(&l.entries[i])
		}
	}
	l.dropSettled()
	for _, r := range c.Removed {
		for i, end := within(r, l.through, len(l.entries)); i < end; i++ {
			if e := &l.entries[i]; !e.removed {
				l.settle(e)
				e.removed = true
				l.gone++
			}
		}
	}
	l.dropSettled()
	if c.State != nil {
		l.state = slices.Clone(c.State)
	}
}

// dropSettled drops what is settled or removed from the beginning.
func (l *ledger) dropSettled() {
	n := 0
	for ; n < len(l.entries) && l.entries[n].settled; n++ {
		l.live -= l.entries[n].size
		if l.entries[n].removed {
			l.removed++
			l.gone--
		} else {
			l.tag = l.entries[n].id
		}
	}
	l.through += uint64(n)
	l.entries = l.entries[n:]
}

// renumber gives the messages the numbers that the client knows: a segment begins that needs none before it.
func (l *ledger) renumber(segment uint64) {
	l.entries = slices.DeleteFunc(l.entries, func(e entry) bool { return e.removed })
	for i := range l.entries {
		l.entries[i].segment = segment
	}
	l.through -= l.removed
	l.last -= l.removed + l.gone
	l.removed, l.gone = 0, 0
}

// settle marks an entry of which only the ID is needed.
func (l *ledger) settle(e *entry) {
	if !e.settled {
		l.live -= e.size - settledSize
		e.size, e.settled = settledSize, true
	}
}

// needed returns the oldest segment that has a message that is not settled; none if there is no such
// message.
func (l *ledger) needed(none uint64) uint64 {
	if len(l.entries) == 0 {
		return none
	}
	return l.entries[0].segment
}

// within returns which of n messages, of which the first has the number through+1, are in a range.
func within(r outbox.Range, through uint64, n int) (begin, end int) {
	lo, hi := max(r.Lo, through+1), min(r.Hi, through+uint64(n))
	if lo > hi {
		return 0, 0
	}
	return int(lo - through - 1), int(hi - through)
}

// content is the content of a store while its log is read, with the numbers of the log.
type content struct {
	outbox.Content
	before  uint64          // how many were removed up to Through
	removed map[uint64]bool // of Messages: they are Settled as well
}

// apply applies a change that ledger.check allows. It keeps nothing of the memory of c.
func (k *content) apply(c *outbox.Change) {
	if c.Reset {
		*k = content{Content: outbox.Content{State: k.State}}
	}
	for i := range c.Messages {
		k.Messages = append(k.Messages, cloneOf(&c.Messages[i]))
		if c.Messages[i].Settled {
			k.settle(len(k.Messages) - 1)
		}
	}
	if n := len(k.Messages); n > 0 {
		_, end := within(outbox.Range{Lo: 1, Hi: c.Sent.Seq}, k.Through, n)
		for i := range end {
			if m := &k.Messages[i]; m.Sent.IsZero() && !m.Void && !m.Settled {
				m.Sent = c.Sent.Time
			}
		}
	}
	for _, r := range c.Void {
		for i, end := within(r, k.Through, len(k.Messages)); i < end; i++ {
			if m := &k.Messages[i]; !m.Settled {
				*m = outbox.Message{Seq: m.Seq, ID: m.ID, Void: true}
			}
		}
	}
	for _, r := range c.Settled {
		for i, end := within(r, k.Through, len(k.Messages)); i < end; i++ {
			k.settle(i)
		}
	}
	k.dropSettled()
	for _, r := range c.Removed {
		for i, end := within(r, k.Through, len(k.Messages)); i < end; i++ {
			k.settle(i)
			if k.removed == nil {
				k.removed = map[uint64]bool{}
			}
			k.removed[k.Messages[i].Seq] = true
		}
	}
	k.dropSettled()
	if c.State != nil {
		k.State = bytes.Clone(c.State)
	}
}

func (k *content) dropSettled() {
	n := 0
	for ; n < len(k.Messages) && k.Messages[n].Settled; n++ {
		if seq := k.Messages[n].Seq; k.removed[seq] {
			delete(k.removed, seq)
			k.before++
		} else {
			k.Tag = k.Messages[n].ID
		}
	}
	k.Through += uint64(n)
	k.Messages = k.Messages[n:]
}

// renumbered returns the content with the numbers that the client knows.
func (k *content) renumbered() *outbox.Content {
	if len(k.removed) > 0 {
		k.Messages = slices.DeleteFunc(k.Messages, func(m outbox.Message) bool { return k.removed[m.Seq] })
	}
	k.Through -= k.before
	for i := range k.Messages {
		k.Messages[i].Seq = k.Through + 1 + uint64(i)
	}
	return &k.Content
}

func (k *content) settle(i int) {
	m := &k.Messages[i]
	*m = outbox.Message{Seq: m.Seq, ID: m.ID, Settled: true}
}

func cloneOf(m *outbox.Message) outbox.Message {
	cloned := *m
	cloned.Payload, cloned.Header = bytes.Clone(m.Payload), maps.Clone(m.Header)
	return cloned
}
