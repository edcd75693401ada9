package file

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/limpet-go/limpet/outbox"
)

// ledger is what the store has to know between commits: which messages are needed, and where they are.
type ledger struct {
	bounds
	entries []entry // of the messages through+1 and so on
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
	settled bool
}

// check returns an error if c cannot be applied.
func (l *ledger) check(c *outbox.Change) error {
	last := l.last
	if c.Reset {
		last = 0
	}
	for i := range c.Messages {
		if last++; c.Messages[i].Seq != last {
			return fmt.Errorf("outbox: message %d follows %d", c.Messages[i].Seq, last-1)
		}
	}
	return nil
}

// apply applies a change that check allows, and that is in a segment.
func (l *ledger) apply(c *outbox.Change, segment uint64) {
	if c.Reset {
		l.epoch++
		l.through, l.last, l.tag, l.live = 0, 0, outbox.ID{}, 0
		l.entries = nil
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
	n := 0
	for ; n < len(l.entries) && l.entries[n].settled; n++ {
		l.live -= l.entries[n].size
		l.tag = l.entries[n].id
	}
	l.through += uint64(n)
	l.entries = l.entries[n:]
	if c.State != nil {
		l.state = slices.Clone(c.State)
	}
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

// content is the content of a store while its log is read.
type content struct{ outbox.Content }

// apply applies a change that ledger.check allows. It keeps nothing of the memory of c.
func (k *content) apply(c *outbox.Change) {
	if c.Reset {
		k.Content = outbox.Content{State: k.State}
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
	n := 0
	for ; n < len(k.Messages) && k.Messages[n].Settled; n++ {
		k.Tag = k.Messages[n].ID
	}
	k.Through += uint64(n)
	k.Messages = k.Messages[n:]
	if c.State != nil {
		k.State = bytes.Clone(c.State)
	}
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
