package wiretest

import (
	"slices"
	"strconv"

	"github.com/limpet-go/limpet/wire"
)

func (v *server) subscribe(c *conn, op wire.Op) {
	v.asked = append(v.asked, op.Topic)
	at := ref{op.Key, op.Topic}
	if v.refused[op.Topic] {
		c.send(c.peer.Encode(wire.Event{Kind: wire.EventUnsubscribed, Key: op.Key, Name: op.Topic, Code: 1, Reason: "refused by the suite"}))
		return
	}
	l := v.log(op.Topic)
	start, continuity := len(l.entries), wire.ContinuityByNumber
	if s := op.Subscribe; s != nil && v.traits.Resume && s.From == wire.FromResume {
		start = l.after(s.Position.Offset)
		continuity = wire.ContinuityProved
	}
	if v.broker() {
		start = 0 // a broker holds what was not acknowledged
		for _, other := range v.conns {
			if other != c {
				delete(other.subs, op.Topic) // the broker has noticed by its heartbeats that it is gone
			}
		}
		v.requeue(op.Topic)
	}
	e := wire.Event{Kind: wire.EventSubscribed, Key: op.Key, Name: op.Topic, Continuity: continuity, Position: wire.Position{Epoch: epoch}}
	if start > 0 && !v.broker() {
		e.Position.Offset = l.entries[start-1].number
		e.Position.Tag = strconv.FormatUint(e.Position.Offset, 10)
	}
	if n := len(l.entries); n > 0 {
		e.Head = l.entries[n-1].number
	}
	c.send(c.peer.Encode(e))
	c.subs[op.Topic] = at
	v.keep(c, at, start)
	v.replay(c, at, start)
}

// replay sends what the log holds from index start on.
func (v *server) replay(c *conn, at ref, start int) {
	l := v.log(at.topic)
	for i := start; i < len(l.entries); i++ {
		v.deliver(c, at, i)
	}
}

// deliver sends entry i of the topic's log.
func (v *server) deliver(c *conn, at ref, i int) {
	l := v.log(at.topic)
	e := &l.entries[i]
	if v.broker() {
		if e.taken || slices.Contains(l.waiting, i) {
			return
		}
		l.waiting = append(l.waiting, i)
	}
	v.keep(c, at, i+1)
	c.send(c.peer.Encode(wire.Event{Kind: wire.EventData, Key: at.key, Name: at.topic, Numbered: true, Prev: e.prev,
		Position: wire.Position{Epoch: epoch, Offset: e.number, Tag: strconv.FormatUint(e.number, 10)},
		Message:  wire.Message{ID: messageID(e.payload), Topic: at.topic, Payload: payloadOf(e.payload), Redelivered: e.again}}))
	e.again = true
}

// settle ends the delivery of a broker's message.
func (v *server) settle(topic string, number uint64, processed bool) {
	l := v.log(topic)
	for i := range l.entries {
		e := &l.entries[i]
		match := e.number == number
		if v.traits.Processed == wire.ProcessedCumulative {
			match = e.number <= number
		}
		if !match {
			continue
		}
		count := v.released
		if processed {
			count = v.acked
		}
		if !v.broker() {
			count[e.payload]++
			continue
		}
		if !slices.Contains(l.waiting, i) {
			v.report.add("the client settles message %d of %q, which it does not have in hand", number, topic)
			return
		}
		l.waiting = slices.DeleteFunc(l.waiting, func(j int) bool { return j == i })
		count[e.payload]++
		e.taken = processed
		if !processed {
			for _, c := range v.conns {
				if at, ok := c.subs[topic]; ok {
					v.deliver(c, at, i)
					return
				}
			}
		}
	}
}

// requeue makes what was not acknowledged be delivered again.
func (v *server) requeue(topic string) { v.log(topic).waiting = nil }

func (v *server) lost(c *conn) {
	for topic := range c.subs {
		v.requeue(topic)
	}
}

func (v *server) log(topic string) *log {
	l := v.logs[topic]
	if l == nil {
		l = &log{}
		v.logs[topic] = l
	}
	return l
}

// emit appends a message to a topic's log and sends it. hold keeps it back from the
// connections that are open.
func (v *server) emit(topic string, e entry, hold bool) {
	l := v.log(topic)
	l.entries = append(l.entries, e)
	if hold {
		return
	}
	for _, c := range v.conns {
		at, ok := c.subs[topic]
		if ok && (c.greeted || !v.traits.Greeting) {
			v.deliver(c, at, len(l.entries)-1)
			if v.broker() {
				return // a broker gives each message to one consumer
			}
		}
	}
}

// next emits the next message of a topic.
func (v *server) next(topic string, payload int) {
	n := uint64(len(v.log(topic).entries)) + 1
	v.emit(topic, entry{number: n, prev: n - 1, payload: payload}, false)
}

func (v *server) publish(c *conn, op wire.Op) {
	m := op.Message
	if m == nil {
		v.report.add("the peer returned an OpPublish without a Message")
		return
	}
	s := c.session
	var n int
	if !m.Void {
		var ok bool
		if n, ok = numberIn(m.Payload); !ok {
			v.report.add("the payload of a publish does not arrive: %q", cut(m.Payload))
			return
		}
	}
	seq := m.Seq
	if seq == 0 {
		seq = op.Cmd / 4
	}
	ack := &wire.Ack{Cmd: op.Cmd}
	switch {
	case v.traits.Sessions && s != nil && m.Seq <= s.upTo:
		// sent again, and known
	case v.traits.Sessions && s != nil && m.Seq != s.upTo+1:
		v.report.add("sequence number %d follows %d: they must be dense in a session", m.Seq, s.upTo)
		return
	case v.rejected(n):
		v.denied[n]++
		ack.Rejects = []wire.Reject{{Seq: seq, Code: 1, Reason: "rejected by the suite"}}
		v.advance(s, m)
	case m.Void:
		v.advance(s, m)
	default:
		v.taken[n]++
		v.advance(s, m)
	}
	if s != nil {
		ack.To, ack.HasCredit, ack.Credit = s.upTo, true, wire.Credit{N: s.upTo + 1000, Bytes: 1 << 30}
	}
	if !v.lazy {
		c.send(c.peer.Encode(wire.Event{Kind: wire.EventAck, Ack: ack}))
	}
}

func (v *server) advance(s *session, m *wire.Message) {
	if s != nil && m.Seq > 0 {
		s.upTo, s.last = m.Seq, m.ID
	}
}

// broker reports whether the server keeps a message until it is acknowledged.
func (v *server) broker() bool { return v.subject.broker() }

func (s *Subject) broker() bool {
	return s.Dialect.Traits().Processed == wire.ProcessedEach && !s.Once
}

// after returns the index of the first entry behind number.
func (l *log) after(number uint64) (start int) {
	for i, e := range l.entries {
		if e.number <= number {
			start = i + 1
		}
	}
	return start
}
