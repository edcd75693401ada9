package limpettest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Check decides I1 to I6 and I9 of docs/protocol.md, section 6, over a trace, as
// far as the trace shows them; CheckFrames decides what needs the wire. The trace
// must be complete: every client in it closed, every consumer ended.
//
//   - I1: every message delivered was sent, under the same id, with the same
//     bytes, and is what the log holds at its offset.
//   - I2: offsets rise within an epoch, per key if there are keys, and the
//     counters of one producer rise with them. What a Gap reported as lost is not
//     delivered after it.
//   - I3: no offset and no id is delivered twice between two resets.
//   - I4: no hole without a Gap or Reset that covers it, and no Gap that covers
//     what was delivered.
//   - I5: what was acknowledged is in the log; nothing is committed beyond what
//     was delivered.
//   - I6: every message sent has exactly one outcome, and a correct one: what is
//     Unsent, Expired or Rejected is never delivered and in no log. A message
//     Stored by one client gets another outcome from the next.
//   - I9: commits never fall, and an epoch changes only with a Reset.
func Check(t Trace) []Violation {
	c := &checker{
		sent:     map[uuid.UUID]*sent{},
		made:     map[origin]*sent{},
		subs:     map[string]*subscription{},
		held:     map[heldKey]uint64{},
		heldIDs:  map[uuid.UUID]bool{},
		heldSubs: map[string][]Held{},
	}
	for i, e := range t { // Held counts from the beginning of the trace
		c.index = i
		switch e := e.(type) {
		case Sent:
			c.applySent(e)
		case Held:
			e.Entries = slices.Clone(e.Entries)
			c.hold(e)
		}
	}
	for i, e := range t {
		c.index = i
		c.apply(e)
	}
	c.index = -1
	c.end()
	return c.found
}

// origin is the identity of a stamped message.
type origin struct {
	producer string
	counter  uint64
}

// sent is a message and what happened to it.
type sent struct {
	Sent
	past      bool // the check has passed its Sent event
	outcomes  []string
	delivered int // index+1 of a delivery
}

// subscription follows one subscription through the trace.
type subscription struct {
	epoch     string
	start     uint64               // delivery began after it
	have      uint64               // everything up to it was delivered or reported as lost
	highest   map[string]uint64    // highest offset delivered, by key
	offsets   map[uint64]uuid.UUID // delivered since the last reset
	ids       map[uuid.UUID]bool   // delivered since the last reset
	counters  map[string]uint64    // highest counter delivered, by producer
	lost      []Gap
	keyed     bool // deliveries have keys
	committed uint64
	began     bool
}

// begin starts the stream after an offset.
func (s *subscription) begin(epoch string, offset uint64) {
	s.began = true
	s.epoch, s.start, s.have = epoch, offset, offset
	s.highest, s.counters = map[string]uint64{}, map[string]uint64{}
	s.offsets, s.ids = map[uint64]uuid.UUID{}, map[uuid.UUID]bool{}
	s.lost, s.committed = nil, 0
}

type checker struct {
	index    int
	found    []Violation
	sent     map[uuid.UUID]*sent
	made     map[origin]*sent
	order    []*sent
	subs     map[string]*subscription
	held     map[heldKey]uint64 // offset in the log
	heldIDs  map[uuid.UUID]bool
	heldSubs map[string][]Held
}

// heldKey is a message in one incarnation of the log.
type heldKey struct {
	epoch string
	id    uuid.UUID
}

func (c *checker) fail(invariant, format string, args ...any) {
	c.found = append(c.found, Violation{invariant, c.index, fmt.Sprintf(format, args...)})
}

// hold adds a part of the log. Its entries are sorted in place.
func (c *checker) hold(h Held) {
	slices.SortFunc(h.Entries, func(a, b HeldEntry) int { return cmp.Compare(a.Offset, b.Offset) })
	c.heldSubs[h.Sub] = append(c.heldSubs[h.Sub], h)
	for _, e := range h.Entries {
		c.heldIDs[e.ID] = true
		k := heldKey{h.Epoch, e.ID}
		if at, ok := c.held[k]; !ok {
			c.held[k] = e.Offset
		} else if m := c.sent[e.ID]; at != e.Offset && e.ID != uuid.Nil && (m == nil || !m.MayRepeat) {
			c.fail("I3", "the log of epoch %q holds id %s twice, at %d and at %d", h.Epoch, e.ID, at, e.Offset)
		}
	}
}

func (c *checker) sub(name string) *subscription {
	s := c.subs[name]
	if s == nil {
		s = &subscription{}
		s.begin("", 0)
		s.began = false
		c.subs[name] = s
	}
	return s
}

func (c *checker) apply(e Event) {
	switch e := e.(type) {
	case Sent:
		if m := c.made[origin{e.Producer, e.Counter}]; m != nil {
			m.past = true
		}
	case Outcome:
		c.applyOutcome(e)
	case Subscribed:
		s := c.sub(e.Sub)
		c.complete(e.Sub, s, false)
		s.begin(e.Epoch, e.Offset)
	case Delivered:
		c.applyDelivered(e)
	case Gap:
		c.applyGap(e)
	case Reset:
		s := c.sub(e.Sub)
		c.complete(e.Sub, s, false)
		s.begin(e.Epoch, e.Offset)
	case Committed:
		c.applyCommitted(e)
	}
}

func (c *checker) applySent(e Sent) {
	m := &sent{Sent: e}
	if o := (origin{e.Producer, e.Counter}); c.made[o] != nil {
		c.fail("trace", "%s/%d was sent twice: a counter names one message", e.Producer, e.Counter)
	} else {
		c.made[o] = m
	}
	if e.ID != uuid.Nil {
		if c.sent[e.ID] != nil {
			c.fail("trace", "id %s was sent twice", e.ID)
		}
		c.sent[e.ID] = m
		c.order = append(c.order, m)
	}
}

var outcomes = []string{"acked", "written", "rejected", "expired", "unsent", "stored", "unknown"}

func (c *checker) applyOutcome(e Outcome) {
	kind := strings.ToLower(e.Kind)
	m := c.sent[e.ID]
	switch {
	case m == nil || !m.past:
		c.fail("I6", "outcome %s of %s, which was not sent", kind, e.ID)
		return
	case !slices.Contains(outcomes, kind):
		c.fail("I6", "%s/%d ended as %q, which is no outcome", m.Producer, m.Counter, e.Kind)
	case len(m.outcomes) > 0 && m.outcomes[len(m.outcomes)-1] != "stored":
		c.fail("I6", "%s/%d has two outcomes: %s, then %s", m.Producer, m.Counter, m.outcomes[len(m.outcomes)-1], kind)
	}
	m.outcomes = append(m.outcomes, kind)
}

func (c *checker) applyDelivered(e Delivered) {
	m := c.created(e)
	s := c.sub(e.Sub)
	if e.Offset == 0 || e.Snapshot {
		return
	}
	first := !s.began
	if first {
		start := e.Offset - 1
		if e.HasPrev {
			start = e.Prev
		}
		s.begin(e.Epoch, start)
	}
	if e.Epoch != s.epoch {
		c.fail("I9", "%s: epoch %q became %q without a Reset", e.Sub, s.epoch, e.Epoch)
		s.begin(e.Epoch, e.Offset-1)
	}
	s.keyed = s.keyed || e.Key != ""
	_, again := s.offsets[e.Offset]
	switch {
	case again:
		c.fail("I3", "%s: offset %d was delivered twice", e.Sub, e.Offset)
		return
	case e.ID != uuid.Nil && s.ids[e.ID] && (m == nil || !m.MayRepeat):
		c.fail("I3", "%s: id %s was delivered twice, now at %d", e.Sub, e.ID, e.Offset)
	}
	if high := s.highest[e.Key]; e.Offset <= high {
		c.fail("I2", "%s: offset %d was delivered after %d", e.Sub, e.Offset, high)
	} else if high == 0 && !s.keyed && e.Offset <= s.start {
		c.fail("I2", "%s: offset %d was delivered, but delivery begins after %d", e.Sub, e.Offset, s.start)
	} else if !s.keyed && e.Offset <= s.have {
		c.fail("I2", "%s: offset %d was delivered after everything up to %d was reported as lost or delivered", e.Sub, e.Offset, s.have)
	} else if last := s.counters[e.Producer]; !s.keyed && e.Counter <= last && m != nil && !m.MayRepeat && !s.ids[e.ID] {
		c.fail("I2", "%s: %s/%d was delivered after %s/%d", e.Sub, e.Producer, e.Counter, e.Producer, last)
	}
	if e.HasPrev && !s.keyed && e.Prev > s.have {
		c.fail("I4", "%s: %d follows %d, but %d was neither delivered nor reported as lost (the stream is complete up to %d)",
			e.Sub, e.Offset, e.Prev, e.Prev, s.have)
	}
	s.offsets[e.Offset] = e.ID
	s.ids[e.ID] = true
	s.highest[e.Key] = max(s.highest[e.Key], e.Offset)
	s.counters[e.Producer] = max(s.counters[e.Producer], e.Counter)
	s.have = max(s.have, e.Offset)
}

// created decides I1 and returns the message as it was sent.
func (c *checker) created(e Delivered) *sent {
	name := fmt.Sprintf("%s: %s/%d at %d", e.Sub, e.Producer, e.Counter, e.Offset)
	if e.Damaged {
		c.fail("I1", "%s: the payload does not match its checksum", name)
		return nil
	}
	m := c.made[origin{e.Producer, e.Counter}]
	switch {
	case m == nil || !m.past:
		c.fail("I1", "%s was not sent", name)
		return nil
	case m.Sum != e.Sum:
		c.fail("I1", "%s has checksum %08x, was sent with %08x", name, e.Sum, m.Sum)
	case m.ID != uuid.Nil && m.ID != e.ID:
		c.fail("I1", "%s has id %s, was sent as %s", name, e.ID, m.ID)
	}
	m.delivered = c.index + 1
	return m
}

func (c *checker) applyGap(e Gap) {
	s := c.sub(e.Sub)
	if !s.began {
		s.begin(e.Epoch, e.From)
	}
	switch {
	case e.Epoch != "" && e.Epoch != s.epoch:
		c.fail("I9", "%s: a Gap in epoch %q, but the stream is in %q", e.Sub, e.Epoch, s.epoch)
	case e.To <= e.From:
		c.fail("I4", "%s: an empty Gap, (%d, %d]", e.Sub, e.From, e.To)
	case e.From > s.have && !s.keyed:
		c.fail("I4", "%s: a Gap begins after %d, but the stream is complete only up to %d", e.Sub, e.From, s.have)
	}
	if high := s.highest[""]; !s.keyed && high > e.From {
		c.fail("I4", "%s: a Gap covers (%d, %d], but %d was delivered", e.Sub, e.From, e.To, high)
	}
	s.lost = append(s.lost, e)
	s.have = max(s.have, e.To)
}

func (c *checker) applyCommitted(e Committed) {
	s := c.sub(e.Sub)
	if e.Epoch != s.epoch {
		return // the cursor may still name the epoch before a Reset
	}
	if e.Offset < s.committed {
		c.fail("I9", "%s: the commit fell from %d to %d", e.Sub, s.committed, e.Offset)
	}
	if e.Offset > s.have {
		c.fail("I5", "%s: %d was committed, but only offsets up to %d were delivered", e.Sub, e.Offset, s.have)
	}
	s.committed = max(s.committed, e.Offset)
}

// complete compares a subscription with the log, up to its last delivery, or with
// end up to the end of the log.
func (c *checker) complete(name string, s *subscription, end bool) {
	if name == "" || s.keyed {
		return
	}
	reported := s.reported()
	missing := 0
	for _, h := range c.heldSubs[name] {
		if h.Epoch != s.epoch {
			continue
		}
		for _, e := range h.Entries {
			id, delivered := s.offsets[e.Offset]
			if delivered && id != e.ID {
				c.fail("I1", "%s: %s was delivered at offset %d, where the log holds %s", name, id, e.Offset, e.ID)
			}
			switch {
			case e.Offset <= s.start, delivered, reported(e.Offset):
			case e.Offset <= s.have || end && h.Complete:
				if missing++; missing == 1 {
					c.fail("I4", "%s: offset %d is in the log and was neither delivered nor reported as lost", name, e.Offset)
				}
			}
		}
	}
	if missing > 1 {
		c.fail("I4", "%s: and %d more offsets", name, missing-1)
	}
}

// reported returns a function that says whether an offset was reported as lost.
func (s *subscription) reported() func(uint64) bool {
	gaps := slices.Clone(s.lost)
	slices.SortFunc(gaps, func(a, b Gap) int { return cmp.Compare(a.From, b.From) })
	joined := gaps[:0]
	for _, g := range gaps {
		if k := len(joined) - 1; k >= 0 && g.From <= joined[k].To {
			joined[k].To = max(joined[k].To, g.To)
		} else {
			joined = append(joined, g)
		}
	}
	return func(offset uint64) bool {
		i, _ := slices.BinarySearchFunc(joined, offset, func(g Gap, o uint64) int { return cmp.Compare(g.To, o) })
		return i < len(joined) && joined[i].From < offset
	}
}

// end decides what is known only at the end of the trace.
func (c *checker) end() {
	for _, m := range c.order {
		name := fmt.Sprintf("%s/%d (%s)", m.Producer, m.Counter, m.ID)
		if len(m.outcomes) == 0 {
			c.fail("I6", "%s has no outcome", name)
			continue
		}
		switch last := m.outcomes[len(m.outcomes)-1]; last {
		case "unsent", "expired", "rejected":
			if m.delivered > 0 {
				c.fail("I6", "%s ended as %s, but was delivered by event %d", name, last, m.delivered-1)
			} else if c.heldIDs[m.ID] {
				c.fail("I6", "%s ended as %s, but is in the log", name, last)
			}
		case "acked":
			if len(c.heldSubs) > 0 && !c.heldIDs[m.ID] {
				c.fail("I5", "%s was acknowledged, but no log holds it", name)
			}
		}
	}
	names := make([]string, 0, len(c.subs))
	for name := range c.subs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c.complete(name, c.subs[name], true)
	}
}
