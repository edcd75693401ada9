package socketio

import (
	"encoding/json"
	"strconv"

	"github.com/limpet-go/limpet/wire"
)

// maxPending bounds the events that wait for an acknowledgement on one connection.
const maxPending = 1 << 16

// Open returns the state of one connection.
func (d *dialect) Open(r wire.Resume) (wire.Codec, error) {
	shared := &shared{
		options: &d.options,
		conn:    r.Conn,
		topics:  wire.NewLedger[string, uint64](maxSubs),
		lives:   wire.NewLedger[uint64, struct{}](maxSubs),
		pending: wire.NewLedger[string, pending](maxPending),
	}
	c := &codec{
		encoder: encoder{shared: shared, resume: r},
		decoder: decoder{
			shared: shared, before: parseSession(r.Session),
			skip: map[string]string{}, loose: map[string]bool{}, joined: map[string]uint64{},
		},
	}
	for _, s := range r.Subs {
		_ = shared.topics.Put(s.Topic, s.Key) // there are at most maxSubs
		_ = shared.lives.Put(s.Key, struct{}{})
		c.starts = append(c.starts, d.options.newStart(s))
	}
	return c, nil
}

// codec is the state of one connection.
type codec struct {
	encoder
	decoder
}

// shared is what both halves of a codec use. Only the ledgers change.
type shared struct {
	options *Options
	conn    uint64
	topics  *wire.Ledger[string, uint64]   // the life of each topic: the key of the first request for it
	lives   *wire.Ledger[uint64, struct{}] // the lives that the server has not refused
	pending *wire.Ledger[string, pending]  // by the id of the acknowledgement
}

// lifeOf returns the life of the subscription to topic, or reports false if it has none.
func (s *shared) lifeOf(topic string) (life uint64, ok bool) {
	if life, ok = s.topics.Get(topic); ok {
		_, ok = s.lives.Get(life)
	}
	return life, ok
}

// pending is an event that waits for the server's acknowledgement.
type pending struct {
	event string
	topic string // of the subscription that it asks for; empty: it was published
	life  uint64 // of the subscription: a topic may have another one when the answer comes
	cmd   uint64
}

// start is a subscription that exists when a connection begins.
type start struct {
	topic    string
	life     uint64
	position wire.Position
	join     []byte // the packet that asks for it, without an id; nil if there is none
	pending  pending
	err      error // why there is none
}

func (o *Options) newStart(s wire.Subscribe) start {
	b := start{topic: s.Topic, life: s.Key, position: s.Position}
	b.join, b.pending, b.err = o.joinOf(s)
	return b
}

// joinOf returns what Join returns, without its head.
func (o *Options) joinOf(s wire.Subscribe) (text []byte, p pending, err error) {
	if o.Join == nil && s.Token != "" {
		return nil, p, errToken
	}
	if o.Join == nil {
		return nil, p, nil
	}
	event, arguments := o.Join(s)
	if event == "" {
		return nil, p, nil
	}
	text, err = arrayOf("Join", event, arguments)
	return text, pending{event: event, topic: s.Topic, life: s.Key, cmd: s.Key*4 + 1}, err
}

// arrayOf returns the JSON array of an event that option has returned.
func arrayOf(option, event string, arguments []any) ([]byte, error) {
	c := content{}
	for _, v := range append([]any{event}, arguments...) {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, &OptionError{option, "returned an argument that is not JSON: " + err.Error()}
		}
		c.arguments = append(c.arguments, b)
	}
	return c.array(), nil
}

// The steps of a connection: Event.Step, for Encode.
type (
	stepConnect struct{ maxPayload int } // the server has opened the connection
	stepAgain   struct{}                 // it has refused the client, and the time that it named has passed
	stepJoin    struct{ starts []start } // it has taken the client into the namespace, and does not know these
)

// decoder is the half of a codec that the reader uses.
type decoder struct {
	*shared
	before session // that the connection was to resume
	starts []start // handed over by Open

	phase      phase
	heartbeat  heartbeat
	maxPayload int
	session    session
	assembly   *assembly // a packet whose binary parts have not all come
	events     uint64    // so far, for positions

	again   bool              // the server was asked again after a refusal
	resumed bool              // an event that the server has kept came before the welcome
	skip    map[string]string // by topic: the stream has had everything up to the event with this offset

	loose  map[string]bool   // topics that have had an event without an offset in this session
	joined map[string]uint64 // by topic: the life that the server has granted in this session
	kept   int               // of both, by the last forgetEnded
}

// maxEnded is how many topics of ended subscriptions may be known at least.
const maxEnded = 1024

// forgetEnded forgets the topics whose subscriptions have ended, once twice as many are
// known as the last time.
func (d *decoder) forgetEnded() {
	if len(d.joined)+len(d.loose) < 2*max(d.kept, maxEnded) {
		return
	}
	for topic, life := range d.joined {
		if now, ok := d.topics.Get(topic); !ok || now != life {
			delete(d.joined, topic)
		}
	}
	for topic := range d.loose {
		if _, ok := d.topics.Get(topic); !ok {
			delete(d.loose, topic)
		}
	}
	d.kept = len(d.joined) + len(d.loose)
}

// phase is how far a connection has come.
type phase uint8

const (
	opening    phase = iota // the server has not opened it
	connecting              // the namespace has not answered
	connected
	ended // by an error
)

// The marks in a position: what is known of the stream, and what the event asks for.
const (
	looseMark  = "!"
	joinedMark = "+"
	idMark     = "#"
)

// place is where the session is: the number of the last event on this connection. It is
// unique on all connections.
func (d *decoder) place() string {
	return strconv.FormatUint(d.conn, 10) + "." + strconv.FormatUint(d.events, 10)
}

// position returns the place of the last event in the stream of topic. Epoch is the id of
// the session. Tag has marks behind the place, and behind a space the last offset of the
// session.
func (d *decoder) position(topic, id string) wire.Position {
	tag := d.place()
	if d.loose[topic] {
		tag += looseMark
	}
	if life, ok := d.lifeOf(topic); ok && d.joined[topic] == life {
		tag += joinedMark
	}
	if id != "" {
		tag += idMark + id
	}
	return wire.Position{Epoch: d.session.sid, Tag: tag + " " + d.session.offset}
}

// streams returns the topics whose subscriptions get an event. Without a subscription the
// client counts it.
func (d *decoder) streams(name string) []string {
	_, all := d.lifeOf(All)
	_, named := d.lifeOf(name)
	switch {
	case !all:
		return []string{name}
	case !named:
		return []string{All}
	}
	return []string{name, All}
}

// deliver appends an event for each stream that it belongs to and that has not had it.
func (d *decoder) deliver(c *content, out *wire.Events) {
	d.events++
	if c.offset != "" {
		d.session.offset, d.session.place = c.offset, d.place()
	}
	id, again := c.id, false
	for _, topic := range d.streams(c.name) {
		if until := d.skip[topic]; until != "" {
			if until == c.offset {
				delete(d.skip, topic)
			}
			continue
		}
		if c.lost {
			d.gap(topic, out)
			continue
		}
		if _, subscribed := d.lifeOf(topic); subscribed && c.offset == "" && d.session.pid != "" {
			d.loose[topic] = true // a server cannot make it grow with names of its own
			d.forgetEnded()
		}
		e := out.Append(wire.EventData)
		e.Name, e.Position = topic, d.position(topic, id)
		c.setMessage(&e.Message, again)
		id, again = "", true // the first stream acknowledges it
	}
	if c.offset != "" {
		out.Append(wire.EventSession).Ready = &wire.Ready{Session: d.session.wire()}
	}
}

// gap appends that the stream of topic misses a message, if there is such a stream.
func (d *decoder) gap(topic string, out *wire.Events) {
	if _, subscribed := d.lifeOf(topic); subscribed {
		e := out.Append(wire.EventGap)
		e.Name, e.Cause = topic, wire.CauseMalformed
	}
}

// malformed appends that something was skipped.
func (d *decoder) malformed(reason string, out *wire.Events) {
	out.Append(wire.EventMalformed).Reason = reason
}

// lose appends that an event was skipped. Its streams have a gap; if its name could not be
// read, only that of All is known to be one.
func (d *decoder) lose(reason, name string, out *wire.Events) {
	d.malformed(reason, out)
	if d.phase == connected || d.resumes(out) {
		d.deliver(&content{name: name, lost: true}, out)
	}
}

// fatal appends an error that ends the connection.
func (d *decoder) fatal(code uint16, reason string, out *wire.Events) *wire.Event {
	d.phase = ended
	e := out.Append(wire.EventError)
	e.Fatal, e.Code, e.Reason = true, code, reason
	return e
}

// unsubscribed appends that the subscription to topic is refused.
func unsubscribed(topic, reason string, out *wire.Events) {
	e := out.Append(wire.EventUnsubscribed)
	e.Name, e.Code, e.Reason = topic, CodeRejected, reason
}
