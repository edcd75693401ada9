package feed

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// Funcs describes the wire protocol of one server with functions, for a server that no
// Table describes or that takes messages. One connection calls Read on one goroutine at
// a time and the others on another; several connections may call them at the same time,
// so they must be safe for concurrent use. None may block, and what they return must not
// be changed later.
type Funcs struct {
	// Name is the name of the dialect: lower-case letters, digits and '-'.
	Name string

	// Subprotocols are the subprotocols to offer (RFC 6455, section 1.9). Optional.
	Subprotocols []string

	// Read decodes one WebSocket message and calls say for each thing in it, in order.
	// data and what aliases it are valid only during the call. If it returns an error,
	// the message is skipped and counted in Stats.Malformed, and what it said does not
	// count; after a *wire.CodeError the connection ends.
	Read func(data []byte, say func(Item)) error

	// Hello returns the first message of a connection, for the client's token.
	// Optional.
	Hello func(token string) ([]byte, error)

	// Greeting means that the server sends a Welcome, before which only Hello is sent.
	Greeting bool

	// Subscribe returns the message that subscribes to a topic. Optional if Publish is
	// set.
	Subscribe func(Ask) ([]byte, error)

	// Unsubscribe returns the message that ends a subscription. Optional.
	Unsubscribe func(Ask) ([]byte, error)

	// Confirms means that the server answers each Subscribe; ConfirmsEnd that it answers
	// each Unsubscribe.
	Confirms, ConfirmsEnd bool

	// Numbered means that messages have numbers, dense for each topic.
	Numbered bool

	// Resume means that a subscription can begin after the number Ask.After.
	Resume bool

	// Publish returns the message that publishes m. cmd is new for each message, and
	// the same if it is sent again. Optional.
	Publish func(cmd uint64, m wire.Message) ([]byte, error)

	// Acks means that the server answers each Publish with its cmd: with Answered if it
	// has taken the message, or with Refused. Without it a receipt ends as Written.
	Acks bool

	// Check returns nil if topic is valid for use, otherwise what is wrong with it.
	// Optional: a topic has 1 to 255 bytes of UTF-8, and no '*'.
	Check func(use wire.Use, topic string) error

	// Ping returns the message that asks for a sign of life. Optional: without it the
	// client sends WebSocket pings.
	Ping func() ([]byte, error)

	// Pong returns the answer to a Question with that N. Optional.
	Pong func(n uint64) ([]byte, error)

	// Binary means that messages are sent in binary frames instead of text frames.
	Binary bool
}

// Ask is a request for one topic.
type Ask struct {
	ID    uint64 // new for each request of a connection, and the cmd of no message
	Topic string
	After wire.Position // the last one received; zero if there is none
	Token string        // of the subscription; empty if there is none
}

// ItemKind says what a server has sent.
type ItemKind uint8

// The kinds of Item, each with the fields that it uses.
const (
	Data     ItemKind = iota // a message: Topic, Payload, Type, Number, Prev
	Snapshot                 // a message that holds the whole state: as Data
	Repeat                   // a message that was sent before: as Data
	Answered                 // a request or a Publish was accepted: ID, or Topic for a Subscribe
	Refused                  // it was refused: as Answered, and Reason. With neither ID nor Topic: the oldest request
	Ended                    // a subscription has ended: Topic
	Welcome                  // the connection is ready, with Funcs.Greeting
	Question                 // the server asks for a sign of life: N
	Alive                    // a sign of life
	Notice                   // a text for people: Reason
	GoAway                   // the server asks for a new connection: Reason
)

// Item is one thing that a server has sent. Only the fields named at its kind count.
type Item struct {
	Kind    ItemKind
	ID      uint64 // of the request, or cmd of the message
	Topic   string
	Payload []byte // copied; nil means the whole WebSocket message
	Type    string // becomes Message.Type
	Number  uint64 // with Funcs.Numbered; zero means that the message has none
	Prev    uint64 // number of the message before it; zero means Number - 1
	N       uint64
	Reason  string
}

// FuncsError says which field of Funcs is wrong.
type FuncsError struct {
	Field   string // for example "Read"
	Problem string
}

// Error returns the field and the problem.
func (e *FuncsError) Error() string { return "feed: field " + e.Field + " of Funcs: " + e.Problem }

// NewFuncs checks f and returns its dialect. The error is a *FuncsError.
func NewFuncs(f Funcs) (wire.Dialect, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	return &funcs{f}, nil
}

// check reports the first field of f that is wrong.
func (f *Funcs) check() error {
	switch {
	case f.Name == "" || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return &FuncsError{"Name", "want lower-case letters, digits and '-'"}
	case f.Read == nil:
		return &FuncsError{"Read", "is nil"}
	case f.Subscribe == nil && f.Publish == nil:
		return &FuncsError{"Subscribe", "is nil, and so is Publish; want one of them"}
	case f.Subscribe == nil && (f.Unsubscribe != nil || f.Confirms || f.ConfirmsEnd || f.Resume):
		return &FuncsError{"Subscribe", "is nil, but other fields are about subscriptions"}
	case f.Unsubscribe == nil && f.ConfirmsEnd:
		return &FuncsError{"Unsubscribe", "is nil, but ConfirmsEnd is set"}
	case f.Resume && !f.Numbered:
		return &FuncsError{"Resume", "needs Numbered"}
	case f.Publish == nil && f.Acks:
		return &FuncsError{"Publish", "is nil, but Acks is set"}
	}
	for _, p := range f.Subprotocols {
		if !isToken(p) {
			return &FuncsError{"Subprotocols", "want tokens (RFC 9110, section 5.6.2)"}
		}
	}
	return nil
}

// funcs is the dialect of Funcs. It is immutable.
type funcs struct{ Funcs }

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

func (d *funcs) Verdict(wire.Failure) wire.Verdict { return wire.Verdict{} }

func (d *funcs) Open(r wire.Resume) (wire.Codec, error) {
	return &funcsCodec{funcs: d, token: r.Token, ledger: &ledger{}}, nil
}

// The kinds of an id, which is a number times 4 and its kind, as in wire.Op.Cmd.
const (
	idKinds       = 4
	idSubscribe   = 1
	idUnsubscribe = 2
	idPublish     = 3
)

// funcsCodec is the state of one connection. Encode uses the first group, Decode the
// second, both use ledger.
type funcsCodec struct {
	*funcs
	ledger *ledger

	token string
	asks  uint64

	welcomed bool
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
		switch {
		case err != nil:
			return err
		case c.Binary:
			out.Append(wire.Binary, append([]byte(nil), text...))
		case !utf8.Valid(text):
			return errNotUTF8
		default:
			out.Append(wire.Text, append([]byte(nil), text...))
		}
		return nil
	}
}

func (c *funcsCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		if err := c.encode(&ops[i], out); err != nil {
			return &wire.OpError{Index: i, Err: err}
		}
	}
	return nil
}

func (c *funcsCodec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		ask := Ask{Topic: op.Topic}
		if s := op.Subscribe; s != nil {
			ask.Topic, ask.Token = s.Topic, s.Token
			if c.Resume {
				ask.After = s.Position
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
	case wire.OpAuth, wire.OpBye:
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
	if err := c.send(out)(request(ask)); err != nil {
		return err
	}
	c.ledger.put(ask.ID, pendingRequest{topics: []string{ask.Topic}, end: kind == idUnsubscribe})
	return nil
}

// errRead is the one text for what Read refuses: its own may quote the message.
var errRead = &wire.CodeError{Code: 1007, Reason: "a message that Funcs.Read refuses"}

func (c *funcsCodec) Decode(f wire.Frame, out *wire.Events) error {
	from := len(out.List)
	var fault error
	err := c.Read(f.Data, func(it Item) {
		if e := c.say(&it, f.Data, out); e != nil {
			fault = e
		}
	})
	if err == nil {
		err = fault
	}
	if err == nil {
		return nil
	}
	var ce *wire.CodeError
	if errors.As(err, &ce) && ce != errRead {
		return ce
	}
	out.List = out.List[:from]
	e := out.Append(wire.EventMalformed)
	e.Reason, e.Count = errRead.Reason, 1
	return nil
}

// say appends the events of one item.
func (c *funcsCodec) say(it *Item, data []byte, out *wire.Events) error {
	switch it.Kind {
	case Data, Snapshot, Repeat:
		return c.message(it, data, out)
	case Answered, Refused:
		c.answer(it, out)
	case Ended:
		out.Append(wire.EventUnsubscribed).Name = it.Topic
	case Welcome:
		if c.Greeting && !c.welcomed {
			c.welcomed = true
			out.Append(wire.EventReady).Ready = &wire.Ready{}
		}
	case Question:
		out.Append(wire.EventPing).N = it.N
	case Notice:
		out.Append(wire.EventError).Reason = reasonOf(it)
	case GoAway:
		out.Append(wire.EventGoAway).Reason = reasonOf(it)
	case Alive:
	default:
		return errRead
	}
	return nil
}

func reasonOf(it *Item) string {
	if it.Reason == "" {
		return "the server gives no reason"
	}
	return shorten(strings.ToValidUTF8(it.Reason, "?"))
}

// message appends a message.
func (c *funcsCodec) message(it *Item, data []byte, out *wire.Events) error {
	if c.CheckTopic(wire.UseSubscribe, it.Topic) != nil || it.Prev > it.Number {
		return errRead
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
		p, ok := c.ledger.take(it.ID)
		if !ok {
			if refused {
				out.Append(wire.EventError).Reason = reasonOf(it) // it refuses nothing that is known
			}
			return
		}
		topic, end = p.topics[0], p.end
	}
	switch {
	case refused && end:
		out.Append(wire.EventError).Reason = reasonOf(it)
	case refused && topic == "":
		e := out.Append(wire.EventError)
		e.Code, e.Reason = codeBadRequest, reasonOf(it)
	case refused:
		e := out.Append(wire.EventUnsubscribed)
		e.Name, e.Code, e.Reason = topic, codeBadRequest, reasonOf(it)
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
	ack := &wire.Ack{Cmd: it.ID}
	if it.Kind == Refused {
		ack = &wire.Ack{Rejects: []wire.Reject{{Seq: it.ID / idKinds, Code: codeBadRequest, Reason: reasonOf(it)}}}
	}
	out.Append(wire.EventAck).Ack = ack
}
