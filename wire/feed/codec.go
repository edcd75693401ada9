package feed

import (
	"bytes"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

const (
	maxTopics  = 1 << 16 // topics that one connection may name
	maxUnnamed = 16      // types and channels missing in the table that are reported by name
	maxReason  = 200     // bytes of a text from the server
	maxTypes   = 64      // types whose text is kept
	maxNames   = 256     // names of channels that are kept
)

var (
	errTopics = &wire.CodeError{Code: 1008, Reason: "more than 65536 topics on one connection"}
	errOp     = errors.New("feed: the server has no message for this, by its Table or Funcs")
	errFrom   = errors.New("feed: a table cannot ask for the first or the last message; use FromNew or FromResume")
)

// codec is the state of one connection. The loop uses dialect, which does not change,
// and the first group; the second belongs to Decode; both use pending and positions.
type codec struct {
	dialect   *dialect
	pending   requests
	positions *wire.Ledger[string, uint64] // by topic: the number of its last message on earlier connections

	token  string
	start  []asked // to subscribe to at the start
	lastID uint64  // of a request

	scan     scanner
	subs     map[string]*sub // by topic
	streams  map[string]*sub // by the server's name, with Table.Stream
	key      []byte          // of the topic that is looked up
	types    map[string]string
	unnamed  map[unnamed]*unnamedError // already reported by name
	accepted bool                      // the server took the login
	inEntry  bool                      // what the scanner found belongs to one of several entries
	names    map[string]locus          // by the server's name for a channel

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
	channel  *channel
	resumed  uint64 // number of the last message on earlier connections; 0 after the first on this one
	last     uint64 // number of the last message, with Channel.Prev
	seen     bool   // a message of it came, or it was asked for at the start and has no confirmation
	unbroken bool   // in codec.unbroken
	whole    bool   // in codec.whole
}

func (c *codec) Start(out *wire.Frames) error {
	if l := &c.dialect.login; l.Message != nil {
		if l.Challenge != "" {
			return nil
		}
		return c.authenticate(nil, out)
	}
	c.ask(c.start, false, out)
	return nil
}

// Encode joins adjacent ops of one kind. Where a stream begins is up to the server,
// unless a request has a cursor.
func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	var run []asked
	var kind wire.OpKind
	flush := func() {
		c.ask(run, kind == wire.OpUnsubscribe, out)
		run = run[:0]
	}
	for i := range ops {
		op := &ops[i]
		if op.Kind != kind {
			flush()
			kind = op.Kind
		}
		var err error
		switch kind {
		case wire.OpSubscribe, wire.OpUnsubscribe:
			var a asked
			if a, err = c.asked(op); err == nil {
				run = append(run, a)
			}
		default:
			err = c.say(op, out)
		}
		if err != nil {
			flush()
			return &wire.OpError{Index: i, Err: err}
		}
	}
	flush()
	return nil
}

// asked returns the topic that op subscribes to or unsubscribes from.
func (c *codec) asked(op *wire.Op) (a asked, err error) {
	topic := op.Topic
	switch {
	case op.Kind == wire.OpUnsubscribe && c.dialect.unsubscribe == nil:
		return a, errOp
	case op.Kind == wire.OpUnsubscribe && op.Name != "":
		topic = op.Name
	case op.Kind == wire.OpSubscribe && op.Subscribe != nil:
		topic, a.cursor = op.Subscribe.Topic, op.Subscribe.Position.Tag
		if from := op.Subscribe.From; from == wire.FromFirst || from == wire.FromLast {
			return a, errFrom
		}
	}
	if a.place, err = c.dialect.split(topic); err == nil && a.channel.number >= 0 && op.Subscribe != nil && op.Subscribe.Position.Offset > 0 {
		_ = c.positions.Put(topic, op.Subscribe.Position.Offset) // as many as there may be topics
	}
	return a, err
}

// say appends the message for an op without a topic.
func (c *codec) say(op *wire.Op, out *wire.Frames) error {
	d := c.dialect
	switch {
	case op.Kind == wire.OpAuth, op.Kind == wire.OpBye:
		return nil
	case op.Kind == wire.OpPublish:
		return ErrPublish
	case op.Kind == wire.OpPing && d.pingText != nil:
		out.Append(wire.Text, d.pingText.write(nil, &values{}))
		return nil
	case op.Kind == wire.OpPong && d.answer != nil:
		out.Append(wire.Text, d.answer.write(nil, &values{n: op.N}))
		return nil
	case op.Kind == wire.OpStep && d.login.Message != nil:
		challenge, _ := op.Step.([]byte)
		return c.authenticate(challenge, out)
	}
	return errOp
}

// authenticate appends the message of the login.
func (c *codec) authenticate(challenge []byte, out *wire.Frames) error {
	message, err := c.dialect.login.Message(c.token, challenge)
	if err != nil {
		return err
	}
	out.Append(wire.Text, bytes.Clone(message))
	return nil
}

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	s := &c.scan
	if f.Type != wire.Text {
		return c.skip(errBinary, nil, out)
	}
	if c.dialect.rules.texts != nil {
		if k := c.dialect.rules.texts[string(f.Data)]; k != nil {
			s.data = f.Data
			clear(s.found)
			_, err := c.control(k, f.Data, out)
			s.data = nil
			return err
		}
	}
	if c.dialect.strict && !utf8.Valid(f.Data) {
		return errText
	}
	s.data, s.at = f.Data, 0
	err := c.messages(out)
	s.data = nil
	if err == nil {
		return nil
	}
	if errors.Is(err, errSyntax) {
		err = c.skip(err, nil, out)
	}
	switch {
	case errors.Is(err, errRest):
		err = nil
	case errors.Is(err, errSyntax): // the table is strict
		err = invalid(errObject.Reason + ", at byte " + strconv.Itoa(min(s.at, len(f.Data))))
	}
	return err
}

// messages decodes one message, or a list of them.
func (c *codec) messages(out *wire.Events) error {
	s := &c.scan
	s.space()
	if many := !c.dialect.layout.arrays && s.take('['); !many {
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

// next decodes the message at the scanner's place, or skips what is there instead.
func (c *codec) next(out *wire.Events) error {
	s := &c.scan
	from := s.at
	end := s.message()
	if end != nil && s.at == from { // another value
		if end = s.to(s.value(s.at, 1, nil)); end == nil {
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

// dispatch decodes the message that was just scanned, unless it has a fault. It returns
// the message's channel, nil if it has none or none that can be read, and its fault.
func (c *codec) dispatch(message []byte, fault error, out *wire.Events) (*channel, error) {
	d, s := c.dialect, &c.scan
	typ, err := s.text(d.typ)
	if fault == nil {
		fault = err
	}
	k := d.rules.find(s)
	if k != nil && k.channel == nil {
		if fault != nil {
			return nil, fault
		}
		return c.control(k, message, out)
	}
	var at locus
	if k != nil {
		at.channel = k.channel
	} else {
		if at, err = c.locate(); fault == nil {
			fault = err
		}
		if at.channel != nil {
			k = at.channel.rules.find(s)
		}
	}
	if fault != nil {
		return at.channel, fault
	}
	if k == nil {
		return at.channel, c.notInTable(at, typ)
	}
	return at.channel, c.data(k, at, typ, message, out)
}

// control decodes a message that belongs to no channel.
func (c *codec) control(k *kind, message []byte, out *wire.Events) (*channel, error) {
	switch k.role {
	case roleConfirm, roleEnded:
		return nil, c.confirm(k, message, out)
	case roleError:
		c.complain(message, out)
	case roleGoAway:
		out.Append(wire.EventGoAway).Reason = "the server asks for a new connection"
	case roleQuestion:
		e := out.Append(wire.EventPing)
		raw := c.scan.raw(k.slot)
		if text := humanText(raw); k.slot >= 0 {
			e.N, _ = parseCount([]byte(text))
		}
	case roleChallenge:
		if !c.accepted {
			out.Append(wire.EventStep).Step = bytes.Clone(message)
		}
	case roleAccepted:
		if !c.accepted {
			c.accepted = true
			out.Append(wire.EventReady).Ready = &wire.Ready{}
		}
	}
	return nil, nil
}
