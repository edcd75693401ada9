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
	maxTopics  = 1 << 16 // that one connection may name
	maxStrange = 16      // types beyond the table that are reported
	maxReason  = 200     // bytes of a server's words
)

var (
	errTopics = &wire.CodeError{Code: 1008, Reason: "more than 65536 topics on one connection"}
	errOp     = errors.New("feed: the table has no message for this")
)

// codec is one connection. The loop's half is topics, which does not change;
// all the rest belongs to Decode.
type codec struct {
	dialect *dialect
	topics  []string // to subscribe at the start

	scan    scanner
	subs    []map[string]*sub // by channel, then product
	count   int               // of all subs
	strange []string          // types already reported

	sequence uint64            // Table.Sequence of the last message that had one
	counting bool              // there was one
	whole    map[*sub]struct{} // live, judged by sequence, and unbroken since the last message

	confirmed map[*sub]struct{} // in state subConfirmed
}

// sub is what a connection knows of one topic.
type sub struct {
	topic   string
	state   subState
	resumed uint64 // number of the last message of earlier connections, 0 after the first of this one
	whole   bool   // in codec.whole
}

type subState uint8

const (
	subNone      subState = iota
	subImplied            // by data, which may come before the confirmation, or without one
	subConfirmed          // by the server's word
)

func (c *codec) Start(out *wire.Frames) error {
	c.dialect.subscribe.write(c.dialect, c.topics, out)
	return nil
}

// Encode joins neighbouring ops of one kind. Where a stream begins is the
// server's affair, so Subscribe.From is not spelled.
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

// topic is what op subscribes or unsubscribes, empty if op says what this
// language has no words for and can do without.
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
	case wire.OpAuth, wire.OpBye, wire.OpFault:
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
	if f.Type != wire.Text {
		return &wire.CodeError{Code: 1003, Reason: "a binary message from a JSON feed"}
	}
	if !utf8.Valid(f.Data) {
		return invalid("text that is not UTF-8")
	}
	c.scan.data, c.scan.at = f.Data, 0
	err := c.messages(out)
	if errors.Is(err, errSyntax) {
		err = invalid("not a JSON object, or one nested too deep, at byte " + strconv.Itoa(min(c.scan.at, len(f.Data))))
	}
	c.scan.data = nil
	return err
}

// messages takes one object, or an array of them.
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

// next decodes the object at the scanner's place.
func (c *codec) next(out *wire.Events) error {
	d, s := c.dialect, &c.scan
	from := s.at
	if err := s.message(); err != nil {
		return err
	}
	object := s.data[from:s.at]
	if err := c.checkSequence(out); err != nil {
		return err
	}
	name, err := s.text(d.typ)
	if err != nil {
		return err
	}
	k := d.kinds[string(name)]
	if k == nil && d.chann >= 0 {
		channel, err := s.text(d.chann)
		if err != nil {
			return err
		}
		if ch := d.channel(string(channel)); ch != nil {
			k = ch.kinds[string(name)]
		}
	}
	if k == nil {
		c.reportStrange(name, out)
		return nil
	}
	switch k.role {
	case roleData, roleSnapshot, roleRepeat:
		return c.data(k, object, out)
	case roleConfirm, roleEnded:
		return c.confirm(k, out)
	case roleError:
		return c.complain(out)
	}
	return nil
}

// data is a message of a channel. The first on a connection may come before
// the server confirms the subscription, and then it is the confirmation.
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
		return nil // no topic: nobody can have asked for it
	}
	if u.state == subNone {
		u.state = subImplied
		c.subscribed(u, k.channel, out)
	}
	// The resumed number may come again, and Replay ones before it.
	restarted := number < u.resumed && u.resumed-number > k.channel.replay
	u.resumed = 0
	if restarted {
		e := out.Append(wire.EventReset)
		e.Name = u.topic
		e.Position.Offset = prev(number)
		e.Cause = wire.CauseDiverged
	}
	c.watch(u, k.channel)
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
	// After a restart at 0 the new start is 0 as well, and the message must not
	// look like a repeat of it.
	if numbered && !(restarted && number == 0) {
		e.Numbered = true
		e.Position.Offset = number
		e.Prev = prev(number)
	}
	return nil
}

// prev is the number before n, 0 if there is none.
func prev(n uint64) uint64 { return max(n, 1) - 1 }

func (c *codec) subscribed(u *sub, ch *channel, out *wire.Events) {
	e := out.Append(wire.EventSubscribed)
	e.Name = u.topic
	if ch.number >= 0 {
		e.Continuity = wire.ContinuityByNumber
	}
	c.watch(u, ch)
}

// sub is the entry of a topic, made if it is new; nil if it is no topic or if
// the server has named too many.
func (c *codec) sub(ch *channel, product []byte) *sub {
	subs := c.subs[ch.index]
	if u := subs[string(product)]; u != nil {
		return u
	}
	if c.count >= maxTopics || len(ch.name)+1+len(product) > maxTopic || checkProduct(string(product)) != nil {
		return nil
	}
	u := &sub{topic: ch.name + "/" + string(product)}
	subs[u.topic[len(ch.name)+1:]] = u
	c.count++
	return u
}

// checkSequence looks for a hole in the connection's own numbers. It touches
// every subscription that has no numbers of its own to judge by, once until its
// next message, so that a server cannot make many events out of few bytes.
func (c *codec) checkSequence(out *wire.Events) error {
	n, ok, err := c.scan.count(c.dialect.sequence)
	if err != nil || !ok {
		return err
	}
	joins := !c.counting || n == c.sequence+1
	cause := wire.CauseLost
	if n <= c.sequence {
		cause = wire.CauseDiverged
	}
	c.sequence, c.counting = n, true
	if joins {
		return nil
	}
	hit := slices.SortedFunc(maps.Keys(c.whole), func(a, b *sub) int { return strings.Compare(a.topic, b.topic) })
	clear(c.whole)
	for _, u := range hit {
		u.whole = false
		e := out.Append(wire.EventReset)
		e.Name = u.topic
		e.Cause = cause
	}
	return nil
}

// watch says that the connection's numbers have u to judge.
func (c *codec) watch(u *sub, ch *channel) {
	if c.dialect.sequence >= 0 && ch.number < 0 && !u.whole {
		u.whole = true
		c.whole[u] = struct{}{}
	}
}

// reportStrange says once for each type that the table does not know it: it
// may be data that nobody gets.
func (c *codec) reportStrange(name []byte, out *wire.Events) {
	if len(c.strange) == maxStrange || slices.Contains(c.strange, string(name)) {
		return
	}
	c.strange = append(c.strange, string(name))
	e := out.Append(wire.EventError)
	e.Code = codeBadRequest
	e.Reason = fmt.Sprintf("messages of type %q are not in the feed's table", shorten(string(name)))
}
