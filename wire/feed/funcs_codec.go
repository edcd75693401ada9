package feed

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/limpet-go/limpet/wire"
)

// funcs is the dialect of Funcs. It is immutable.
type funcs struct {
	wire.Base
	Funcs
}

func (d *funcs) Name() string { return d.Funcs.Name }

func (d *funcs) Traits() wire.Traits {
	t := wire.Traits{
		Publish:     d.Publish != nil,
		Acks:        d.Acks,
		Resume:      d.Resume,
		Unsubscribe: d.Unsubscribe != nil,
		Greeting:    d.Greeting,
		Confirms:    d.Confirms,
		ConfirmsEnd: d.ConfirmsEnd,
		Refresh:     d.Refresh != nil,
		Connection:  d.Limits,
	}
	if d.Ping != nil {
		t.Ping = wire.PingOp
	}
	return t
}

func (d *funcs) CheckTopic(use wire.Use, topic string) error {
	if use == wire.UsePublish && d.Publish == nil {
		return ErrPublish
	}
	if use == wire.UseSubscribe && d.Subscribe == nil {
		return errOp
	}
	if err := checkName(topic); err != nil {
		return &TopicError{Topic: topic[:min(len(topic), maxTopic)], Problem: err.Error()}
	}
	if d.Check != nil {
		return d.Check(use, topic)
	}
	return nil
}

func (d *funcs) Attempt(a *wire.Attempt) error {
	a.Subprotocols = append(a.Subprotocols, d.Subprotocols...)
	a.Dial = true
	return nil
}

func (d *funcs) Open(r wire.Resume) (wire.Codec, error) {
	return &funcsCodec{funcs: d, token: r.Token, pending: newRequests()}, nil
}

// The kinds of an id, which is a number times 4 and its kind, as in wire.Op.Cmd.
const (
	idKinds       = 4
	idSubscribe   = 1
	idUnsubscribe = 2
	idPublish     = 3
)

// funcsCodec is the state of one connection. Encode uses the first group, Decode the
// second, both use pending.
type funcsCodec struct {
	*funcs
	pending requests

	token string
	asks  uint64

	welcomed bool
	late     atomic.Uint64 // calls of say after Read has returned
}

func (c *funcsCodec) Start(out *wire.Frames) error {
	if c.Hello == nil {
		return nil
	}
	return c.send(out)(c.Hello(c.token))
}

// send appends what a function returned.
func (c *funcsCodec) send(out *wire.Frames) func([]byte, error) error {
	return func(text []byte, err error) error {
		if err != nil {
			return err
		}
		own := append([]byte(nil), text...)
		if !c.Binary {
			return out.AppendText(own)
		}
		out.Append(wire.Binary, own)
		return nil
	}
}

// CountFrames implements wire.Packer: nothing is put together.
func (c *funcsCodec) CountFrames(ops []wire.Op) int { return len(ops) }

func (c *funcsCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	return wire.EncodeEach(ops, out, c.encode)
}

func (c *funcsCodec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		ask := Ask{Topic: op.Topic}
		if s := op.Subscribe; s != nil {
			ask.Topic, ask.Token = s.Topic, s.Token
			if c.Resume {
				ask.From, ask.After = s.From, s.Position
			}
		}
		return c.ask(c.Subscribe, ask, idSubscribe, out)
	case wire.OpUnsubscribe:
		topic := op.Name
		if topic == "" {
			topic = op.Topic
		}
		return c.ask(c.Unsubscribe, Ask{Topic: topic}, idUnsubscribe, out)
	case wire.OpPublish:
		switch {
		case c.Publish == nil:
			return ErrPublish
		case op.Message == nil:
			return errOp
		case op.Message.Void:
			return nil // it has its outcome already
		}
		return c.send(out)(c.Publish(op.Cmd, *op.Message))
	case wire.OpPing:
		if c.Ping != nil {
			return c.send(out)(c.Ping())
		}
	case wire.OpPong:
		if c.Pong == nil {
			return nil
		}
		return c.send(out)(c.Pong(op.N))
	case wire.OpAuth:
		if c.Refresh != nil {
			return c.send(out)(c.Refresh(op.Token))
		}
		return nil
	case wire.OpBye:
		return nil
	}
	return errOp
}

// ask appends a request with a new id.
func (c *funcsCodec) ask(request func(Ask) ([]byte, error), ask Ask, kind uint64, out *wire.Frames) error {
	if request == nil {
		return errOp
	}
	c.asks++
	ask.ID = c.asks*idKinds + kind
	c.pending.expect(ask.ID, pendingRequest{[]string{ask.Topic}, kind == idUnsubscribe})
	err := c.send(out)(request(ask))
	if err != nil {
		c.pending.Take(ask.ID)
	}
	return err
}

func (c *funcsCodec) Decode(f wire.Frame, out *wire.Events) error {
	from := len(out.List)
	var returned atomic.Bool
	err := c.Read(f.Data, func(it Item) {
		if returned.Load() { // out is in other use by now
			c.late.Add(1)
		} else if err := c.say(&it, f.Data, out); err != nil {
			refuse(err, 1, out)
			if c.CheckTopic(wire.UseSubscribe, it.Topic) == nil && it.Kind <= Repeat {
				c.gap(it.Topic, 1, out)
			}
		}
	})
	returned.Store(true)
	var ce *wire.CodeError
	if errors.As(err, &ce) {
		return ce
	}
	if err != nil {
		lost := c.discard(from, out)
		refuse(err, 1, out)
		for _, topic := range slices.Sorted(maps.Keys(lost)) {
			c.gap(topic, lost[topic], out)
		}
	}
	if n := c.late.Swap(0); n > 0 {
		refuse(errLate, n, out)
	}
	return nil
}

var errLate = errors.New("it called say after it had returned: nothing of that counts")

// discard removes the events from index from on, and returns how many messages of each
// topic were among them.
func (c *funcsCodec) discard(from int, out *wire.Events) (lost map[string]uint64) {
	lost = map[string]uint64{}
	for i := range out.List[from:] {
		switch e := &out.List[from+i]; e.Kind {
		case wire.EventData, wire.EventGap:
			lost[e.Name]++
		case wire.EventReady:
			c.welcomed = false
		}
	}
	out.List = out.List[:from]
	return lost
}

// gap reports that messages of a topic were skipped.
func (c *funcsCodec) gap(topic string, count uint64, out *wire.Events) {
	e := out.Append(wire.EventGap)
	e.Name, e.Count, e.Cause, e.Numbered = topic, count, wire.CauseMalformed, c.Numbered
}

// refuse reports what does not count.
func refuse(err error, count uint64, out *wire.Events) {
	const reason = "a message that Funcs.Read refuses"
	detail := strings.ToValidUTF8(shorten(err.Error()), "?") // it may quote the message
	if last := lastOf(out); last != nil && last.Kind == wire.EventMalformed && last.Reason == reason && last.Detail == detail {
		last.Count += count
		return
	}
	e := out.Append(wire.EventMalformed)
	e.Reason, e.Detail, e.Count = reason, detail, count
}

// say appends the events of one item.
func (c *funcsCodec) say(it *Item, data []byte, out *wire.Events) error {
	switch it.Kind {
	case Data, Snapshot, Repeat:
		return c.message(it, data, out)
	case Answered, Refused:
		c.answer(it, out)
	case Ended:
		e := out.Append(wire.EventUnsubscribed)
		e.Name, e.Retry = it.Topic, max(0, it.Retry)
	case Welcome:
		if c.Greeting && !c.welcomed {
			c.welcomed = true
			out.Append(wire.EventReady).Ready = &wire.Ready{}
		}
	case Question:
		out.Append(wire.EventPing).N = it.N
	case Credential:
		if c.Refresh != nil {
			e := out.Append(wire.EventAuth)
			e.Expires, e.Wanted = max(0, it.Valid), it.Valid <= 0
		}
	case Notice:
		complain(it, out)
	case GoAway:
		out.Append(wire.EventGoAway).Reason = reasonOf(it)
	case Alive:
	default:
		return fmt.Errorf("an Item of the unknown kind %d", it.Kind)
	}
	return nil
}

func reasonOf(it *Item) string {
	if it.Reason == "" {
		return "the server gives no reason"
	}
	return shorten(strings.ToValidUTF8(it.Reason, "?"))
}

// complain appends an error that refuses nothing.
func complain(it *Item, out *wire.Events) *wire.Event {
	e := out.Append(wire.EventError)
	e.PeerCode, e.Reason = it.Code, reasonOf(it)
	return e
}

// message appends a message.
func (c *funcsCodec) message(it *Item, data []byte, out *wire.Events) error {
	if err := c.CheckTopic(wire.UseSubscribe, it.Topic); err != nil {
		return err
	}
	if it.Prev > it.Number {
		return fmt.Errorf("an Item with Prev %d and Number %d", it.Prev, it.Number)
	}
	e := out.Append(wire.EventData)
	e.Name = it.Topic
	payload := it.Payload
	if payload == nil {
		payload = data
	}
	e.Message = wire.Message{
		Topic: it.Topic, Payload: append([]byte(nil), payload...), Type: it.Type,
		Snapshot: it.Kind == Snapshot, SnapshotEnd: it.Kind == Snapshot, Redelivered: it.Kind == Repeat,
	}
	e.Message.Time = wire.TimeOf(it.Time)
	if c.Numbered && it.Number > 0 {
		e.Numbered, e.Position.Offset, e.Prev = true, it.Number, it.Prev
		if it.Prev == 0 {
			e.Prev = prev(it.Number)
		}
	}
	return nil
}

// answer appends the answer to a request or to a published message.
func (c *funcsCodec) answer(it *Item, out *wire.Events) {
	refused := it.Kind == Refused
	topic, end := it.Topic, false
	if it.ID%idKinds == idPublish {
		if c.Publish != nil && c.Acks {
			c.acknowledge(it, out)
		}
		return
	}
	if it.ID != 0 {
		p, ok := c.pending.Take(it.ID)
		if !ok {
			if refused {
				complain(it, out) // it refuses nothing that is known
			}
			return
		}
		topic, end = p.topics[0], p.end
	}
	switch {
	case refused && end:
		complain(it, out)
	case refused && topic == "":
		e := complain(it, out)
		e.Code, e.Retry = wire.CodeRefused, max(0, it.Retry)
	case refused:
		e := out.Append(wire.EventUnsubscribed)
		e.Name, e.Code, e.PeerCode, e.Reason, e.Retry = topic, wire.CodeRefused, it.Code, reasonOf(it), max(0, it.Retry)
	case topic == "":
	case end:
		out.Append(wire.EventUnsubscribed).Name = topic
	default:
		e := out.Append(wire.EventSubscribed)
		e.Name = topic
		if c.Numbered {
			e.Continuity = wire.ContinuityByNumber
		}
	}
}

// acknowledge appends the answer to a published message.
func (c *funcsCodec) acknowledge(it *Item, out *wire.Events) {
	if it.Kind != Refused {
		out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: it.ID}
		return
	}
	r := out.Reject(it.ID)
	r.Code, r.PeerCode, r.Reason, r.Retry = wire.CodeRefused, it.Code, reasonOf(it), max(0, it.Retry)
}
