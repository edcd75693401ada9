package outboxtest

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/limpet-go/limpet/outbox"
)

// Random returns a change that a client could make to a content, with all that a change may have.
func Random(r *rand.Rand, k *outbox.Content) *outbox.Change {
	c := &outbox.Change{Reset: r.IntN(40) == 0, Lazy: r.IntN(4) == 0}
	first := k.Through + 1
	last := k.Through + uint64(len(k.Messages))
	if c.Reset {
		first, last = 1, 0
	}
	if r.IntN(3) > 0 {
		for range r.IntN(1 << r.IntN(5)) {
			last++
			c.Messages = append(c.Messages, randomMessage(r, last))
		}
	}
	span := int(last - first + 1)
	pick := func() uint64 { return first + uint64(r.IntN(span)) }
	if span > 0 && r.IntN(6) == 0 {
		c.Sent = outbox.Sent{Seq: pick(), Time: randomTime(r)}
	}
	if span > 0 && r.IntN(6) == 0 {
		seq := pick()
		c.Void = []outbox.Range{{Lo: seq, Hi: min(seq+uint64(r.IntN(3)), last)}}
	}
	for span > 0 && r.IntN(2) == 0 {
		lo := first
		if r.IntN(3) == 0 {
			lo = pick()
		}
		c.Settled = append(c.Settled, outbox.Range{Lo: lo, Hi: min(lo+uint64(r.IntN(30)), last)})
	}
	for span > 0 && r.IntN(6) == 0 {
		lo := pick()
		c.Removed = append(c.Removed, outbox.Range{Lo: lo, Hi: min(lo+uint64(r.IntN(4)), last)})
	}
	if r.IntN(8) == 0 {
		c.State = randomBytes(r, 300)
	}
	return c
}

func randomMessage(r *rand.Rand, seq uint64) outbox.Message {
	m := outbox.Message{Seq: seq, Topic: string(randomBytes(r, 20)), Payload: randomBytes(r, 1<<r.IntN(12)), Added: randomTime(r)}
	copy(m.ID[:], randomBytes(r, 16))
	m.ID[0] |= 1
	if r.IntN(3) == 0 {
		m.Type, m.TTL, m.Resend = "text/plain", time.Duration(r.Int64()), uint8(r.IntN(3))
	}
	if r.IntN(4) == 0 {
		m.Sent = randomTime(r)
	}
	for range r.IntN(3) {
		if m.Header == nil {
			m.Header = map[string]string{}
		}
		m.Header[string(randomBytes(r, 8))] = string(randomBytes(r, 20))
	}
	return m
}

// randomTime returns a time in the years 1970 to 2105.
func randomTime(r *rand.Rand) time.Time { return time.Unix(1+r.Int64N(1<<32), r.Int64N(1e9)) }

// randomBytes returns fewer than n bytes, of which many are zero.
func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, r.IntN(n))
	for i := range b {
		b[i] = byte(r.Uint32() & r.Uint32() & r.Uint32())
	}
	return b
}

func cloneChange(c *outbox.Change) *outbox.Change {
	cloned := *c
	cloned.State = slices.Clone(c.State)
	cloned.Void, cloned.Settled, cloned.Removed = slices.Clone(c.Void), slices.Clone(c.Settled), slices.Clone(c.Removed)
	cloned.Messages = slices.Clone(c.Messages)
	for i := range cloned.Messages {
		m := &cloned.Messages[i]
		m.Payload, m.Header = slices.Clone(m.Payload), maps.Clone(m.Header)
	}
	return &cloned
}

func equalChange(a, b *outbox.Change) bool {
	return a.Reset == b.Reset && a.Lazy == b.Lazy && a.Sent == b.Sent && bytes.Equal(a.State, b.State) &&
		slices.Equal(a.Void, b.Void) && slices.Equal(a.Settled, b.Settled) && slices.Equal(a.Removed, b.Removed) &&
		slices.EqualFunc(a.Messages, b.Messages, func(x, y outbox.Message) bool { return equalMessage(&x, &y) })
}
