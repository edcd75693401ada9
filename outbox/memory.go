package outbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Memory returns a Store in memory. It outlives clients, but not the process: use it in tests.
// It is safe for concurrent use.
func Memory() Store { return &memory{} }

type memory struct {
	mu      sync.Mutex // leaf
	content Content
	last    uint64 // the highest number so far
}

// Load implements Store.
func (m *memory) Load(ctx context.Context) (*Content, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.content
	c.State = slices.Clone(c.State)
	c.Messages = cloneMessages(c.Messages)
	return &c, nil
}

// Commit implements Store.
func (m *memory) Commit(ctx context.Context, c *Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.last
	if c.Reset {
		last = 0
	}
	for i := range c.Messages {
		if last++; c.Messages[i].Seq != last {
			return fmt.Errorf("%w (message %d follows %d)", ErrInUse, c.Messages[i].Seq, last-1)
		}
	}
	if c.Reset {
		m.content = Content{State: m.content.State}
	}
	m.content.Messages = append(m.content.Messages, cloneMessages(c.Messages)...)
	m.content.apply(c)
	m.content.remove(c.Removed)
	m.last = m.content.Through + uint64(len(m.content.Messages))
	if c.State != nil {
		m.content.State = slices.Clone(c.State)
	}
	return nil
}

// apply applies Sent, Void and Settled.
func (k *Content) apply(c *Change) {
	for i := range k.Messages {
		m := &k.Messages[i]
		if m.Seq <= c.Sent.Seq && m.Sent.IsZero() && !m.Void {
			m.Sent = c.Sent.Time
		}
		switch {
		case m.Settled || contains(c.Settled, m.Seq):
			*m = Message{Seq: m.Seq, ID: m.ID, Settled: true}
		case contains(c.Void, m.Seq):
			*m = Message{Seq: m.Seq, ID: m.ID, Void: true}
		}
	}
	k.dropSettled()
}

// remove applies Removed.
func (k *Content) remove(ranges []Range) {
	if len(ranges) == 0 {
		return
	}
	k.Messages = slices.DeleteFunc(k.Messages, func(m Message) bool { return contains(ranges, m.Seq) })
	for i := range k.Messages {
		k.Messages[i].Seq = k.Through + 1 + uint64(i)
	}
	k.dropSettled()
}

// dropSettled drops the messages that are settled from the beginning.
func (k *Content) dropSettled() {
	n := 0
	for n < len(k.Messages) && k.Messages[n].Settled {
		k.Through, k.Tag = k.Messages[n].Seq, k.Messages[n].ID
		n++
	}
	k.Messages = slices.Delete(k.Messages, 0, n)
}

func contains(ranges []Range, seq uint64) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Lo <= seq && seq <= r.Hi })
}

func cloneMessages(messages []Message) []Message {
	cloned := slices.Clone(messages)
	for i := range cloned {
		cloned[i].Payload = slices.Clone(cloned[i].Payload)
		cloned[i].Header = maps.Clone(cloned[i].Header)
	}
	return cloned
}
