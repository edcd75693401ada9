package socketio

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var errText = &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}

// Decode reads one frame: an Engine.IO packet, or a binary part of the Socket.IO packet
// before it.
func (d *decoder) Decode(f wire.Frame, out *wire.Events) error {
	if f.Type == wire.Text && !utf8.Valid(f.Data) {
		return errText // as limpet's own frame layer does
	}
	switch {
	case d.phase == ended:
		return nil
	case f.Type == wire.Binary:
		d.part(f.Data, out)
		return nil
	case len(f.Data) == 0:
		d.malformed(badPacket, out)
		return nil
	}
	switch rest := f.Data[1:]; f.Data[0] {
	case engineOpen:
		d.open(rest, out)
	case engineClose:
		d.fatal(CodeClosed, "the server closes the connection", out)
	case enginePing:
		if len(rest) > maxEcho {
			rest = nil // up to 1024 answers wait if the server does not read them
		}
		out.Append(wire.EventPing).Step = string(rest)
	case enginePong, engineUpgrade, engineNoop: // the client asks for none of them, and they mean nothing to it
	case engineMessage:
		if d.assembly != nil {
			d.drop(out)
		}
		d.message(rest, out)
	default:
		d.malformed(badPacket, out)
	}
	return nil
}

// heartbeat is what the server announced: Engine.IO protocol, section "Heartbeat".
type heartbeat struct{ interval, timeout float64 } // in milliseconds

// period returns the interval for Ready.Heartbeat. The client takes a server for dead after
// silentIntervals intervals, and the protocol after the sum of both times.
func (h heartbeat) period() time.Duration {
	if h.interval < 0 || h.timeout < 0 {
		return 0
	}
	const longest = float64(time.Hour)
	return time.Duration(min((h.interval+h.timeout)*float64(time.Millisecond), longest) / silentIntervals)
}

// silentIntervals is how many intervals of silence the client allows: docs/reconnect.md.
const silentIntervals = 2.5

// open reads the first packet: Engine.IO protocol, section "Handshake".
func (d *decoder) open(data []byte, out *wire.Events) {
	var m struct {
		SID          string  `json:"sid"`
		PingInterval float64 `json:"pingInterval"`
		PingTimeout  float64 `json:"pingTimeout"`
		MaxPayload   float64 `json:"maxPayload"`
	}
	if d.phase != opening || json.Unmarshal(data, &m) != nil || m.SID == "" {
		d.malformed(badPacket, out)
		return
	}
	d.phase = connecting
	d.heartbeat = heartbeat{m.PingInterval, m.PingTimeout}
	if m.MaxPayload >= 1 {
		d.maxPayload = int(min(m.MaxPayload, 1<<30))
	}
	out.Append(wire.EventStep).Step = stepConnect{d.maxPayload}
}

// message reads a Socket.IO packet.
func (d *decoder) message(data []byte, out *wire.Events) {
	p, ok := parsePacket(data)
	switch {
	case !ok, d.phase == opening:
		d.malformed(badPacket, out)
		return
	case p.kind == packetConnect && len(p.data) == 0 && d.phase == connecting:
		// A server of Socket.IO 2 connects the client by itself, and gives no id.
		d.fatal(CodeVersion, "the server speaks the protocol of Socket.IO 2; this client needs 3 or 4", out)
		return
	case p.namespace != d.options.Namespace:
		d.malformed(badNamespace, out)
		return
	}
	switch p.kind {
	case packetConnect:
		d.welcome(p.data, out)
	case packetConnectError:
		d.refused(p.data, out)
	case packetDisconnect:
		d.fatal(CodeDisconnected, "the server has disconnected this client", out)
	case packetEvent:
		c, ok := parseEvent(p.data)
		if !ok {
			d.lose(badEvent, c.name, out)
			return
		}
		if d.hasOffset(&c, p.id) {
			c.takeOffset()
		}
		d.event(c, p.id, out)
	case packetAck:
		if arguments, ok := parseArguments(p.data); ok {
			d.acknowledged(content{arguments: arguments}, p.id, out)
		} else {
			d.malformed(badAck, out)
		}
	default:
		d.assemble(p, out)
	}
}

// assemble begins a packet with binary parts.
func (d *decoder) assemble(p packet, out *wire.Events) {
	a := &assembly{head: p, left: p.parts, isEvent: p.kind == packetBinaryEvent}
	ok := true
	if a.isEvent {
		a.content, ok = parseEvent(p.data)
	} else {
		a.content.arguments, ok = parseArguments(p.data)
	}
	a.head.data = nil // it is the frame's
	a.skip = !ok || p.parts > maxParts
	if d.assembly = a; a.left == 0 {
		d.complete(out)
	}
}

// part takes a binary frame.
func (d *decoder) part(data []byte, out *wire.Events) {
	switch {
	case d.assembly == nil:
		d.malformed(badPacket, out)
	case d.assembly.add(data):
		d.complete(out)
	}
}

// complete reads a packet whose parts have all come.
func (d *decoder) complete(out *wire.Events) {
	a := d.assembly
	if a.isEvent && !a.skip && d.hasOffset(&a.content, a.head.id) {
		a.content.takeOffset()
	}
	if !a.fill() {
		d.drop(out)
		return
	}
	d.assembly = nil
	if a.isEvent {
		d.event(a.content, a.head.id, out)
	} else {
		d.acknowledged(a.content, a.head.id, out)
	}
}

// drop gives up a packet with binary parts.
func (d *decoder) drop(out *wire.Events) {
	a := d.assembly
	d.assembly = nil
	if a.isEvent {
		d.lose(badBinary, a.content.name, out)
	} else {
		d.malformed(badBinary, out)
	}
}

// hasOffset reports whether the server appends an offset to such an event.
func (d *decoder) hasOffset(c *content, id string) bool {
	recovers := d.session.pid != "" || d.phase == connecting && d.before.recoverable()
	return recovers && id == "" && !slices.Contains(d.options.Volatile, c.name)
}

// event takes an event. Before the welcome it is one that the server has kept.
func (d *decoder) event(c content, id string, out *wire.Events) {
	c.id = id
	if d.phase == connected || d.resumes(out) {
		d.deliver(&c, out)
	} else {
		d.malformed(badRecovered, out)
	}
}

// resumes reports whether the server recovers the session, because it sends what it has
// kept: it does so before the welcome. The streams that it knows go on then.
func (d *decoder) resumes(out *wire.Events) bool {
	if d.phase == connecting && d.before.recoverable() && !d.resumed {
		d.resumed, d.session = true, d.before
		d.goOn(out)
	}
	return d.resumed
}

// acknowledged takes what the server has passed to the callback of an event.
func (d *decoder) acknowledged(c content, id string, out *wire.Events) {
	p, ok := d.pending.Take(id)
	if !ok || d.phase != connected {
		d.malformed(badAck, out)
		return
	}
	refusal := ""
	if d.options.Rejected != nil {
		refusal = d.options.Rejected(p.event, c.array())
	}
	switch {
	case p.topic != "" && d.isPast(p):
		return // not to count for the subscription that has the topic now
	case p.topic != "" && refusal != "":
		d.refuse(p.topic, p.life, refusal, out)
		return
	case p.topic != "":
		d.joined[p.topic] = p.life
		d.forgetEnded()
		e := out.Append(wire.EventSubscribed)
		e.Name, e.Position = p.topic, d.position(p.topic, "")
		return
	case refusal != "":
		r := out.Reject(p.cmd)
		r.Code, r.Reason = CodeRejected, refusal
		return
	}
	ack := &wire.Ack{Cmd: p.cmd}
	if len(c.arguments) > 0 {
		ack.Reply = c.array()
	}
	out.Append(wire.EventAck).Ack = ack
}

// isPast reports whether p asks for a subscription that was closed, and another one has its
// topic.
func (d *decoder) isPast(p pending) bool {
	life, ok := d.topics.Get(p.topic)
	return ok && life != p.life
}

// refuse appends that the server has refused a subscription: it gets no event any more.
func (d *decoder) refuse(topic string, life uint64, reason string, out *wire.Events) {
	d.lives.Take(life)
	unsubscribed(topic, reason, out)
}

// refused reads a CONNECT_ERROR packet.
func (d *decoder) refused(data []byte, out *wire.Events) {
	if d.phase != connecting {
		d.malformed(badPacket, out)
		return
	}
	var m struct {
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	}
	if json.Unmarshal(data, &m) != nil {
		m.Message = "the server refuses the connection to the namespace"
	}
	if m.Message == "Invalid namespace" {
		d.fatal(CodeNamespace, "the server has no namespace "+d.options.Namespace, out)
		return
	}
	action, retry := wire.ActionDefault, time.Duration(0)
	if d.options.Refused != nil {
		if action, retry = d.options.Refused(m.Message, m.Data); action > maxAction {
			action = wire.ActionDefault
		}
	}
	if action == wire.ActionRetryNow && 0 < retry && retry <= maxAdvice && !d.again && !d.resumed {
		d.again = true
		out.Append(wire.EventError).Reason = m.Message // a notice
		e := out.Append(wire.EventStep)
		e.Step, e.Delay = stepAgain{}, retry
		return
	}
	d.fatal(CodeRefused+uint16(action), m.Message, out).Retry = max(0, retry)
}

// maxAdvice bounds how long a connection waits to ask again: half of the time that the
// client allows for its first handshake.
const maxAdvice = 5 * time.Second

// welcome reads a CONNECT packet: the namespace has taken the client. If it is the session
// of before, the server has sent everything that it kept.
func (d *decoder) welcome(data []byte, out *wire.Events) {
	var m struct {
		SID string `json:"sid"`
		PID string `json:"pid"`
	}
	if d.phase != connecting || json.Unmarshal(data, &m) != nil || m.SID == "" || strings.Contains(m.SID, " ") || len(m.SID) > maxState || len(m.PID) > maxState {
		d.malformed(badPacket, out)
		return
	}
	recovered := d.before.recoverable() && m.PID == d.before.pid && m.SID == d.before.sid
	broken := d.resumed && !recovered // it has sent events of a session that it does not recover
	if recovered {
		d.resumes(out)
	} else {
		d.session = session{sid: m.SID, pid: m.PID}
		clear(d.loose)
		clear(d.joined)
	}
	d.phase = connected
	ready := &wire.Ready{Session: d.session.wire(), Resumed: recovered, Heartbeat: d.heartbeat.period()}
	ready.Limits.Payload = d.maxPayload
	out.Append(wire.EventReady).Ready = ready
	if broken {
		d.malformed(badRecovered, out)
	}
	for i := range d.starts {
		if broken || recovered && d.skip[d.starts[i].topic] != "" { // or it has not sent what a stream has had
			e := out.Append(wire.EventReset)
			e.Name, e.Position, e.Cause = d.starts[i].topic, d.position(d.starts[i].topic, ""), wire.CauseUnverifiable
		}
	}
	d.begin(recovered, out)
	d.starts, d.skip = nil, nil
}

// isKept reports whether the server knows s in the session that it recovers. A subscription
// without a position was made after the welcome of that session, or after its last
// connection.
func (d *decoder) isKept(s *start) bool {
	return (s.position.Epoch == d.session.sid || s.position.IsZero()) &&
		(s.join == nil || d.joined[s.topic] == s.life) && s.err == nil
}

// goOn appends that the streams which the server knows go on, without a loss unless they
// have had events that no server keeps. One may have had more than the client has taken
// note of, because it lost the connection in between.
func (d *decoder) goOn(out *wire.Events) {
	for i := range d.starts {
		s := &d.starts[i]
		place, offset, _ := strings.Cut(s.position.Tag, " ")
		if s.position.Epoch == d.session.sid {
			d.loose[s.topic] = strings.Contains(place, looseMark)
			if strings.Contains(place, joinedMark) {
				d.joined[s.topic] = s.life
			}
		}
		if !d.isKept(s) {
			continue
		}
		if offset != d.before.offset && isLater(place, d.before.place) {
			d.skip[s.topic] = offset
		}
		e := out.Append(wire.EventSubscribed)
		e.Name, e.Position = s.topic, s.position // what it has had stays known
		if !d.loose[s.topic] {
			e.Continuity = wire.ContinuityProved
		}
	}
}

// begin appends what the welcome means for the subscriptions that do not go on.
func (d *decoder) begin(recovered bool, out *wire.Events) {
	var step stepJoin
	for i := range d.starts {
		s := &d.starts[i]
		switch {
		case s.err != nil:
			d.refuse(s.topic, s.life, s.err.Error(), out)
		case recovered && d.isKept(s): // goOn has appended it
		case s.join != nil:
			step.starts = append(step.starts, *s)
		default:
			e := out.Append(wire.EventSubscribed)
			e.Name, e.Position = s.topic, d.position(s.topic, "")
		}
	}
	if len(step.starts) > 0 {
		out.Append(wire.EventStep).Step = step
	}
}
