package feed

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

const (
	maxTopics       = 1 << 16 // topics that one connection may name
	maxUnknownTypes = 16      // types missing in the table that are reported
	maxReason       = 200     // bytes of a text from the server
)

var (
	errTopics = &wire.CodeError{Code: 1008, Reason: "more than 65536 topics on one connection"}
	errOp     = errors.New("feed: the table has no message for this")
)

// codec is the state of one connection. The loop uses dialect and topics, which
// do not change; everything else belongs to Decode.
type codec struct {
	dialect *dialect
	topics  []string // to subscribe to at the start

	scan         scanner
	subs         []map[string]*sub // by channel, then product
	count        int               // entries of subs
	unknownTypes []string          // already reported

	sequence uint64            // Table.Sequence of the last message that had one
	counting bool              // sequence is valid
	unbroken map[*sub]struct{} // live, without own numbers, and no hole in sequence since the last message
	broken   bool              // there was a hole in sequence

	listed map[*sub]struct{} // in the last confirmation, with Confirm.Complete

	whole    []map[*sub]struct{} // by channel: no message of it was skipped since the subscription's last one
	reported uint64              // skipped messages without a number in sequence since the last one with a number
}

// sub is what a connection knows of one topic.
type sub struct {
	topic    string
	resumed  uint64 // number of the last message on earlier connections; 0 after the first on this one
	seen     bool   // a message of it came, or it was asked for at the start and has no confirmation
	unbroken bool   // in codec.unbroken
	whole    bool   // in codec.whole
}

func (c *codec) Start(out *wire.Frames) error {
	c.dialect.subscribe.write(c.dialect, c.topics, out)
	return nil
}

// Encode joins adjacent ops of one kind. Where a stream begins is up to the
// server, so Subscribe.From is not encoded.
func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	var run []string
	var kind wire.OpKind
	flush := func() {
		q := c.dialect.subscribe
		if kind == wire.OpUnsubscribe {
			q = c.dialect.unsubscribe
		}
		if len(run) > 0 {
			q.write(c.dialect, run, out)
		}
		run = run[:0]
	}
	for i := range ops {
		if ops[i].Kind != kind {
			flush()
			kind = ops[i].Kind
		}
		topic, err := c.topic(&ops[i])
		if err != nil {
			flush()
			return &wire.OpError{Index: i, Err: err}
		}
		if topic != "" {
			run = append(run, topic)
		}
	}
	flush()
	return nil
}

// topic returns the topic that op subscribes to or unsubscribes from; empty if op
// has no message in this protocol and none is needed.
func (c *codec) topic(op *wire.Op) (string, error) {
	var topic string
	switch op.Kind {
	case wire.OpSubscribe:
		topic = op.Topic
		if op.Subscribe != nil {
			topic = op.Subscribe.Topic
		}
	case wire.OpUnsubscribe:
		if c.dialect.unsubscribe == nil {
			return "", errOp
		}
		topic = op.Name
		if topic == "" {
			topic = op.Topic
		}
	case wire.OpAuth, wire.OpBye:
		return "", nil
	case wire.OpPublish:
		return "", ErrPublish
	default:
		return "", errOp
	}
	_, _, err := c.dialect.split(topic)
	return topic, err
}

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	s := &c.scan
	if f.Type != wire.Text {
		return c.skip(errBinary, nil, out)
	}
	if s.notText = !utf8.Valid(f.Data); s.notText && c.dialect.strict {
		return errText
	}
	s.data, s.at = f.Data, 0
	err := c.messages(out)
	if errors.Is(err, errSyntax) {
		err = c.skip(err, nil, out)
	}
	switch {
	case errors.Is(err, errRest):
		err = nil
	case errors.Is(err, errSyntax): // the table is strict
		err = invalid(errObject.Reason + ", at byte " + strconv.Itoa(min(s.at, len(f.Data))))
	}
	s.data = nil
	return err
}

// messages decodes one object, or an array of them.
func (c *codec) messages(out *wire.Events) error {
	s := &c.scan
	s.space()
	if many := s.take('['); !many {
		if err := c.next(out); err != nil {
			return err
		}
	} else if s.space(); !s.take(']') {
		for {
			s.space()
			if err := c.next(out); err != nil {
				return err
			}
			s.space()
			if s.take(']') {
				break
			}
			if !s.take(',') {
				return errSyntax
			}
		}
	}
	s.space()
	if s.at < len(s.data) {
		return errSyntax
	}
	return nil
}

// next decodes the object at the scanner's place, or skips what is there instead.
func (c *codec) next(out *wire.Events) error {
	s := &c.scan
	from := s.at
	end := s.message()
	if end != nil && s.at == from { // another value
		if end = s.value(1); end == nil {
			return c.skip(errSyntax, nil, out)
		}
	}
	fault := end
	if fault == nil {
		fault = s.faultOf(s.data[from:s.at])
	}
	if err := c.checkSequence(out); fault == nil {
		fault = err
	}
	ch, err := c.dispatch(s.data[from:s.at], fault, out)
	if err == nil {
		return nil
	}
	if err := c.skip(err, ch, out); err != nil {
		return err
	}
	if end != nil {
		return errRest
	}
	return nil
}

// dispatch decodes the object that was just scanned, unless it has a fault. It returns
// the object's channel, nil if it has none or none that can be read, and its fault.
func (c *codec) dispatch(object []byte, fault error, out *wire.Events) (*channel, error) {
	d, s := c.dialect, &c.scan
	name, err := s.text(d.typ)
	if fault == nil {
		fault = err
	}
	k := d.kinds[string(name)]
	var ch *channel
	if k == nil && d.chann >= 0 {
		named, err := s.text(d.chann)
		if fault == nil {
			fault = err
		}
		if ch = d.channel(string(named)); ch != nil {
			k = ch.kinds[string(name)]
		}
	}
	if k != nil {
		ch = k.channel
	}
	if fault != nil {
		return ch, fault
	}
	if k == nil {
		c.reportUnknownType(name, out)
		return nil, nil
	}
	switch k.role {
	case roleData, roleSnapshot, roleRepeat:
		return ch, c.data(k, object, out)
	case roleConfirm, roleEnded:
		return nil, c.confirm(k, out)
	case roleError:
		return nil, c.complain(out)
	}
	return nil, nil
}

// data decodes a message of a channel.
func (c *codec) data(k *kind, object []byte, out *wire.Events) error {
	s := &c.scan
	product, err := s.text(c.dialect.product)
	if err != nil {
		return err
	}
	if len(product) == 0 {
		return &wire.CodeError{Code: 1002, Reason: fmt.Sprintf("a message of type %q without a product", k.name)}
	}
	var number uint64
	var numbered bool
	if k.channel.number >= 0 {
		if number, numbered, err = s.count(k.channel.number); err != nil {
			return err
		}
		if !numbered {
			return &wire.CodeError{Code: 1002, Reason: fmt.Sprintf("a message of type %q without its number", k.name)}
		}
	}
	u := c.sub(k.channel, product)
	if u == nil {
		if c.count >= maxTopics {
			return errTopics
		}
		return &wire.CodeError{Code: 1002, Reason: fmt.Sprintf("a message of type %q with a product that cannot be subscribed to", k.name)}
	}
	// The resumed number may be repeated, and Replay numbers before it.
	restarted := number < u.resumed && u.resumed-number > k.channel.replay
	u.resumed = 0
	if restarted {
		e := out.Append(wire.EventReset)
		e.Name = u.topic
		e.Position.Offset = prev(number)
		e.Cause = wire.CauseDiverged
	}
	if !u.seen && c.broken && k.channel.number < 0 && c.dialect.confirm.Type == "" {
		// Without confirmations the hole may have come after the request.
		e := out.Append(wire.EventReset)
		e.Name = u.topic
		e.Cause = wire.CauseLost
	}
	u.seen = true
	c.watchSequence(u, k.channel)
	c.watchWhole(u, k.channel)
	e := out.Append(wire.EventData)
	e.Name = u.topic
	e.Message = wire.Message{
		Topic:       u.topic,
		Payload:     bytes.Clone(object),
		Type:        k.name,
		Snapshot:    k.role == roleSnapshot,
		SnapshotEnd: k.role == roleSnapshot,
		Redelivered: k.role == roleRepeat,
	}
	// After a restart at 0 the position of the Reset is 0 too: with a number, the
	// message would look like a repeat.
	if numbered && !(restarted && number == 0) {
		e.Numbered = true
		e.Position.Offset = number
		e.Prev = prev(number)
	}
	return nil
}

// prev returns the number before n, or 0 if there is none.
func prev(n uint64) uint64 { return max(n, 1) - 1 }

// subscribed appends EventSubscribed for u.
func (c *codec) subscribed(u *sub, ch *channel, out *wire.Events) {
	e := out.Append(wire.EventSubscribed)
	e.Name = u.topic
	if ch.number >= 0 {
		e.Continuity = wire.ContinuityByNumber
	}
	c.watchSequence(u, ch)
	c.watchWhole(u, ch)
}

// sub returns the entry of a topic, which it creates if it is new. It returns nil
// if the topic is not valid or if the server has named too many.
func (c *codec) sub(ch *channel, product []byte) *sub {
	subs := c.subs[ch.index]
	if u := subs[string(product)]; u != nil {
		return u
	}
	if c.count >= maxTopics || !validTopic(ch, product) {
		return nil
	}
	u := &sub{topic: ch.name + "/" + string(product)}
	subs[u.topic[len(ch.name)+1:]] = u
	c.count++
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
		cause = wire.CauseDiverged
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
		e := out.Append(wire.EventReset)
		e.Name = u.topic
		e.Cause = cause
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
func (c *codec) watchSequence(u *sub, ch *channel) {
	if c.dialect.sequence >= 0 && ch.number < 0 && !u.unbroken {
		u.unbroken = true
		if c.unbroken == nil {
			c.unbroken = map[*sub]struct{}{}
		}
		c.unbroken[u] = struct{}{}
	}
}

// reportUnknownType reports a type that is not in the table, once for each type: it
// may be data that does not reach any subscription.
func (c *codec) reportUnknownType(name []byte, out *wire.Events) {
	if len(c.unknownTypes) == maxUnknownTypes || slices.Contains(c.unknownTypes, string(name)) {
		return
	}
	c.unknownTypes = append(c.unknownTypes, string(name))
	e := out.Append(wire.EventError) // with code 0: it refuses nothing
	e.Reason = fmt.Sprintf("messages of type %q are not in the feed's table", shorten(string(name)))
}
