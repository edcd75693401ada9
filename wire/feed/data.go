package feed

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// maxEntries bounds the entries of one message: each makes an event, which takes more
// memory than a short entry does. The rest is skipped.
const maxEntries = 1 << 13

var errEntries = &wire.CodeError{Code: 1002, Reason: "a message with more than 8192 entries"}

// data decodes a message of a channel, or each entry of it.
func (c *codec) data(k *kind, at locus, typ, message []byte, out *wire.Events) error {
	s := &c.scan
	list := s.raw(c.dialect.entries)
	if len(list) == 0 || list[0] != '[' {
		return c.deliver(k, at, typ, message, out)
	}
	if s.first == (span{}) {
		return nil // an empty list
	}
	end, entry := s.at, s.first
	defer func() { s.at, c.inEntry = end, false }()
	if at.channel.newestFirst {
		return c.fromTheEnd(k, at, typ, out)
	}
	c.inEntry = true
	for i := 0; ; i++ {
		fault := s.fault
		s.at = entry.to
		s.space()
		more := s.take(',')
		if i > 0 && at.channel.rules.perEntry {
			k = at.channel.rules.find(s)
		}
		if err := c.entry(k, at, typ, s.data[entry.from:entry.to], fault, !more, out); err != nil || !more {
			return err
		}
		if i == maxEntries-1 {
			c.inEntry = false // the rest may be of any product
			return c.skip(errEntries, at.channel, out)
		}
		s.space()
		entry.from = s.at
		if err := s.nextEntry(); err != nil {
			return err // unreachable: it was scanned before
		}
		entry.to = s.at
	}
}

// fromTheEnd decodes the entries of a list, of which the first is the newest: the last one
// comes first. Of too many the oldest are skipped.
func (c *codec) fromTheEnd(k *kind, at locus, typ []byte, out *wire.Events) error {
	s := &c.scan
	var few [16]span // no allocation for a short list
	entries := append(few[:0], s.first)
	for s.at = s.first.to; ; {
		s.space()
		if !s.take(',') {
			break
		}
		if len(entries) == maxEntries {
			if err := c.skip(errEntries, at.channel, out); err != nil {
				return err
			}
			break
		}
		s.space()
		from := s.at
		if err := s.nextEntry(); err != nil {
			return err // unreachable: it was scanned before
		}
		entries = append(entries, span{from, s.at})
	}
	c.inEntry = true
	for i := len(entries) - 1; i >= 0; i-- {
		s.at = entries[i].from
		if err := s.nextEntry(); err != nil {
			return err // unreachable
		}
		if at.channel.rules.perEntry {
			k = at.channel.rules.find(s)
		}
		if err := c.entry(k, at, typ, s.data[entries[i].from:entries[i].to], s.fault, i == 0, out); err != nil {
			return err
		}
	}
	return nil
}

// entry decodes the entry that was just scanned, or skips it if it has a fault. last means
// that no other follows.
func (c *codec) entry(k *kind, at locus, typ, payload []byte, fault error, last bool, out *wire.Events) error {
	switch {
	case fault != nil:
	case k == nil:
		fault = c.notInTable(at, typ)
	default:
		fault = c.deliver(k, at, typ, payload, out)
		if !last && fault == nil {
			out.List[len(out.List)-1].Message.SnapshotEnd = false
		}
	}
	if fault == nil {
		return nil
	}
	return c.skip(fault, at.channel, out)
}

// deliver decodes one message of a channel.
func (c *codec) deliver(k *kind, at locus, typ, payload []byte, out *wire.Events) error {
	u := at.sub
	if u == nil {
		product, err := c.scan.text(at.channel.product)
		if err != nil {
			return err
		}
		if len(product) == 0 {
			return &wire.CodeError{Code: 1002, Reason: "a message " + described(k) + " without a product"}
		}
		n, err := c.number(k, at.channel)
		if err != nil {
			return err
		}
		if u, err = c.subOf(at, product); err != nil {
			if errors.Is(err, errProduct) {
				return &wire.CodeError{Code: 1002, Reason: "a message " + described(k) + " with a product that cannot be subscribed to"}
			}
			return err
		}
		return c.emit(k, u, n, typ, payload, out)
	}
	n, err := c.number(k, at.channel)
	if err != nil {
		return err
	}
	return c.emit(k, u, n, typ, payload, out)
}

// described is how errors name the type of a message.
func described(k *kind) string {
	name := k.name
	if name == "" {
		name = k.channel.name.fill("*")
		return "of the channel " + strconv.Quote(name)
	}
	return "of type " + strconv.Quote(name)
}

// numbers are those of one message.
type numbers struct {
	last, prev uint64
	numbered   bool
	first      bool // with Channel.Prev: the message names none before it
}

// number reads the numbers of a message of ch.
func (c *codec) number(k *kind, ch *channel) (n numbers, err error) {
	if ch.number < 0 {
		return n, nil
	}
	s := &c.scan
	if n.last, n.numbered, err = s.count(ch.number); err != nil {
		return n, err
	}
	if !n.numbered {
		return n, &wire.CodeError{Code: 1002, Reason: "a message " + described(k) + " without its number"}
	}
	n.prev = prev(n.last)
	switch {
	case ch.first >= 0:
		first, ok, err := s.count(ch.first)
		if err != nil {
			return n, err
		}
		if !ok || first > n.last {
			return n, &wire.CodeError{Code: 1002, Reason: "a message " + described(k) + " without a first number up to its last one"}
		}
		n.prev = prev(first)
	case ch.counts >= 0:
		count, ok, err := s.count(ch.counts)
		if err != nil {
			return n, err
		}
		if ok {
			n.prev = n.last - min(count, n.last)
		}
	case ch.prev >= 0:
		text, err := s.text(ch.prev)
		if err != nil {
			return n, err
		}
		if n.first = len(text) == 0 || text[0] == '-'; n.first {
			return n, nil
		}
		if n.prev, _, err = s.count(ch.prev); err != nil {
			return n, err
		}
		n.first = n.prev == 0
	}
	return n, nil
}

// emit appends the events of one message.
func (c *codec) emit(k *kind, u *sub, n numbers, typ, payload []byte, out *wire.Events) error {
	var restarted bool
	switch {
	case u.channel.prev >= 0:
		n.prev, restarted = c.chain(u, n, out)
	default:
		// The resumed number may be repeated, and Replay numbers before it.
		restarted = n.last < u.resumed && u.resumed-n.last > u.channel.replay
		if restarted {
			c.reset(u, prev(n.last), wire.CauseRestarted, out)
		}
	}
	u.resumed = 0
	if !u.seen && c.broken && u.channel.number < 0 && !c.dialect.confirms {
		// Without confirmations the hole may have come after the request.
		c.reset(u, 0, wire.CauseLost, out)
	}
	u.seen = true
	c.watchSequence(u)
	c.watchWhole(u)
	e := out.Append(wire.EventData)
	e.Name = u.topic
	m := &e.Message
	m.Topic = u.topic
	m.Payload, e.Borrowed = payload, true
	if m.Type = k.name; m.Type == "" && len(typ) > 0 {
		m.Type = c.typeText(typ)
	}
	m.Snapshot = k.role == roleSnapshot
	m.SnapshotEnd = m.Snapshot
	m.Redelivered = k.role == roleRepeat
	if u.channel.time >= 0 {
		if text, err := c.scan.text(u.channel.time); err == nil { // otherwise it has no time
			m.Time = wire.ParseTime(text)
		}
	}
	// After a restart at 0 the position of the Reset is 0 too: with a number, the
	// message would look like a repeat.
	if n.numbered && !(restarted && n.last == 0) {
		e.Numbered = true
		e.Position.Offset = n.last
		e.Prev = n.prev
	}
	if u.channel.cursor >= 0 {
		cursor, err := c.scan.text(u.channel.cursor)
		if err != nil {
			out.List = out.List[:len(out.List)-1]
			return err
		}
		e.Position.Tag = string(cursor)
	}
	return nil
}

// prev returns the number before n, or 0 if there is none.
func prev(n uint64) uint64 { return max(n, 1) - 1 }

// chain follows the numbers of a channel with Channel.Prev and returns the number
// before the message. Where they do not join, how many messages are missing is not
// known: numbers skip.
func (c *codec) chain(u *sub, n numbers, out *wire.Events) (before uint64, restarted bool) {
	before = n.prev
	switch fell := !n.first && n.last < n.prev; {
	case n.first || fell:
		before = prev(n.last)
		if u.last > 0 {
			cause := wire.CauseUnverifiable
			if fell {
				cause = wire.CauseRestarted
			}
			c.reset(u, before, cause, out)
			restarted = true
		}
	case u.last > 0 && n.prev > u.last:
		e := out.Append(wire.EventGap)
		e.Name, e.Prev, e.Cause = u.topic, u.last, wire.CauseLost
		e.Position.Offset = n.prev
	}
	if n.last > u.last || restarted {
		u.last = n.last
	}
	return before, restarted
}

// reset appends a Reset after which the number follows offset.
func (c *codec) reset(u *sub, offset uint64, cause wire.Cause, out *wire.Events) {
	e := out.Append(wire.EventReset)
	e.Name = u.topic
	e.Position.Offset = offset
	e.Cause = cause
}

// typeText returns a type as a string. It keeps the first ones, so that a message
// costs no allocation for it.
func (c *codec) typeText(typ []byte) string {
	if text, ok := c.types[string(typ)]; ok {
		return text
	}
	text := string(typ)
	if len(c.types) < maxTypes && len(text) <= maxTopic {
		if c.types == nil {
			c.types = map[string]string{}
		}
		c.types[text] = text
	}
	return text
}

// errProduct means that no topic has that product.
var errProduct = &wire.CodeError{Code: 1002, Reason: "a message with a product that cannot be subscribed to"}

// subOf returns the entry of the topic with that product, as the server names it.
func (c *codec) subOf(at locus, product []byte) (*sub, error) {
	param := at.param
	if at.channel.paramFrom >= 0 {
		text, err := c.scan.text(at.channel.paramFrom)
		if err != nil {
			return nil, err
		}
		param = c.typeText(text)
	}
	c.key = c.dialect.appendTopic(c.key[:0], at.channel, param, product)
	if u := c.subs[string(c.key)]; u != nil {
		return u, nil
	}
	if len(c.subs) >= maxTopics {
		return nil, errTopics
	}
	if u := c.sub(string(c.key)); u != nil && u.channel == at.channel {
		return u, nil
	}
	return nil, errProduct
}

// sub returns the entry of a topic, which it creates if it is new. It returns nil
// if the topic is not valid or if the server has named too many.
func (c *codec) sub(topic string) *sub {
	if u := c.subs[topic]; u != nil {
		return u
	}
	if len(c.subs) >= maxTopics {
		return nil
	}
	p, err := c.dialect.split(topic)
	if err != nil {
		return nil
	}
	u := &sub{topic: topic, channel: p.channel}
	u.resumed, _ = c.positions.Take(topic)
	u.last = u.resumed
	c.subs[topic] = u
	return u
}

// checkSequence detects a hole in the numbers of the connection. It appends a Reset
// for every subscription without numbers of its own, but only once until that
// subscription's next message: a server must not cause many events with few
// bytes.
func (c *codec) checkSequence(out *wire.Events) error {
	n, ok, err := c.scan.count(c.dialect.sequence)
	if err != nil || !ok {
		return err
	}
	joins := !c.counting || n > c.sequence && n-c.sequence-1 <= c.reported
	cause := wire.CauseLost
	if n <= c.sequence {
		cause = wire.CauseRestarted
	}
	c.sequence, c.counting, c.reported = n, true, 0
	if joins {
		return nil
	}
	c.broken = true
	hit := byTopic(slices.Collect(maps.Keys(c.unbroken)))
	c.unbroken = nil // not cleared: a map that was large stays slow
	for _, u := range hit {
		u.unbroken = false
		c.reset(u, 0, cause, out)
	}
	return nil
}

// byTopic sorts subs: the order of events must not depend on that of a map.
func byTopic(subs []*sub) []*sub {
	slices.SortFunc(subs, func(a, b *sub) int { return strings.Compare(a.topic, b.topic) })
	return subs
}

// watchSequence makes the next hole in the connection's numbers count for u, if u
// has no numbers of its own.
func (c *codec) watchSequence(u *sub) {
	if c.dialect.sequence >= 0 && u.channel.number < 0 && !u.unbroken {
		u.unbroken = true
		if c.unbroken == nil {
			c.unbroken = map[*sub]struct{}{}
		}
		c.unbroken[u] = struct{}{}
	}
}
