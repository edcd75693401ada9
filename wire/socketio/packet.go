package socketio

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// The types of Engine.IO packets: Engine.IO protocol, section "Packet encoding".
const (
	engineOpen    = '0'
	engineClose   = '1'
	enginePing    = '2'
	enginePong    = '3'
	engineMessage = '4'
	engineUpgrade = '5'
	engineNoop    = '6'
)

// The types of Socket.IO packets: Socket.IO protocol, section "Packet types".
const (
	packetConnect      = '0'
	packetDisconnect   = '1'
	packetEvent        = '2'
	packetAck          = '3'
	packetConnectError = '4'
	packetBinaryEvent  = '5'
	packetBinaryAck    = '6'
)

// packet is a Socket.IO packet: Socket.IO protocol, section "Packet encoding". Its fields
// share the memory of the frame.
type packet struct {
	kind      byte
	parts     int // binary frames that follow
	namespace string
	id        string // decimal digits; empty if there is none
	data      []byte // JSON, or empty
}

// The reasons of EventMalformed.
const (
	badPacket    = "a frame that is not an Engine.IO packet, or not a packet of Socket.IO, or comes at the wrong time"
	badNamespace = "a packet of another namespace"
	badEvent     = "an event that is not a JSON array with a name"
	badAck       = "an acknowledgement that is not a JSON array, or that nothing waits for"
	badBinary    = "a packet whose binary parts do not match its text, are too many or too big"
	badRecovered = "events that a server without recovery sent before its welcome"
)

const (
	maxParts   = 256      // binary parts of one packet
	maxSkipped = 1 << 20  // binary parts that are skipped
	maxBinary  = 16 << 20 // bytes of the binary parts of one packet
	maxID      = 20       // digits of an id
)

// parsePacket reads what follows the type of an Engine.IO message.
func parsePacket(b []byte) (p packet, ok bool) {
	if len(b) == 0 || b[0] < packetConnect || b[0] > packetBinaryAck {
		return p, false
	}
	p.kind, p.namespace, b = b[0], "/", b[1:]
	if p.kind >= packetBinaryEvent {
		n := digits(b)
		if n == 0 || n == len(b) || b[n] != '-' {
			return p, false
		}
		var err error
		if p.parts, err = strconv.Atoi(string(b[:n])); err != nil || p.parts > maxSkipped {
			return p, false
		}
		b = b[n+1:]
	}
	if len(b) > 0 && b[0] == '/' {
		name, rest, found := bytes.Cut(b, []byte(","))
		if !found {
			rest = nil // a packet may end with the namespace
		}
		p.namespace, b = string(name), rest
	}
	n := digits(b)
	if n > maxID {
		return p, false
	}
	p.id, p.data = string(b[:n]), b[n:]
	return p, true
}

// digits returns how many decimal digits b begins with.
func digits(b []byte) int {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n
}

// content is the arguments of an event or of an acknowledgement. It shares no memory with
// a frame.
type content struct {
	name      string // of the event
	arguments []json.RawMessage
	offset    string
	id        string // for the acknowledgement that the server asks for
	binary    int    // parts
	single    []byte // the only argument, if it is binary
	lost      bool   // it could not be read; only the name may be known
}

// parseArguments reads a JSON array. encoding/json copies its elements and bounds how
// deep they are nested.
func parseArguments(data []byte) (arguments []json.RawMessage, ok bool) {
	if len(data) == 0 || data[0] != '[' {
		return nil, false
	}
	return arguments, json.Unmarshal(data, &arguments) == nil
}

// parseEvent reads the name and the arguments of an event.
func parseEvent(data []byte) (c content, ok bool) {
	all, ok := parseArguments(data)
	if !ok || len(all) == 0 || json.Unmarshal(all[0], &c.name) != nil || all[0][0] != '"' || c.name == "" {
		return c, false
	}
	c.arguments = all[1:]
	return c, true
}

// takeOffset removes the offset that a server with recovery appends, if there is one.
func (c *content) takeOffset() {
	last := len(c.arguments) - 1
	if last < 0 || c.arguments[last][0] != '"' || json.Unmarshal(c.arguments[last], &c.offset) != nil {
		return
	}
	c.arguments = c.arguments[:last]
}

// setMessage sets what the user gets: see the documentation of the package. It copies the
// payload if another message has it already.
func (c *content) setMessage(m *wire.Message, again bool) {
	m.Topic = c.name
	if c.binary > 0 && c.single == nil {
		m.Header = map[string]string{HeaderBinary: strconv.Itoa(c.binary)}
	}
	switch {
	case c.single != nil:
		m.Payload, m.Type = c.single, TypeBinary
	case len(c.arguments) == 1:
		m.Payload, m.Type = c.arguments[0], TypeJSON
	default:
		m.Payload, m.Type = c.array(), TypeArguments
	}
	if again {
		m.Payload = bytes.Clone(m.Payload)
	}
}

// array returns the arguments as a JSON array.
func (c *content) array() []byte {
	b := []byte{'['}
	for i, a := range c.arguments {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, a...)
	}
	return append(b, ']')
}

// appendHead appends the beginning of a Socket.IO packet in an Engine.IO message.
func appendHead(b []byte, kind byte, parts, namespace, id string) []byte {
	b = append(b, engineMessage, kind)
	b = append(b, parts...)
	if namespace != "/" {
		b = append(append(b, namespace...), ',')
	}
	return append(b, id...)
}

// session is what a wire.Session holds. Its ID is the id of the server, the place and the
// offset of the last event, with spaces between them. Its Key is the private id that proves
// the right to recover it.
type session struct{ sid, pid, place, offset string }

func parseSession(s wire.Session) session {
	sid, rest, _ := strings.Cut(s.ID, " ")
	place, offset, _ := strings.Cut(rest, " ")
	return session{sid, string(s.Key), place, offset}
}

func (s session) wire() wire.Session {
	return wire.Session{ID: s.sid + " " + s.place + " " + s.offset, Key: []byte(s.pid)}
}

// recoverable reports whether a server can be asked to recover s: it needs an offset, so
// at least one event must have come.
func (s session) recoverable() bool { return s.pid != "" && s.offset != "" }

// isLater reports whether place a comes after b.
func isLater(a, b string) bool {
	var x, y [2]uint64
	for i, text := range []string{a, b} {
		conn, number, _ := strings.Cut(text, ".")
		x[i], _ = strconv.ParseUint(conn, 10, 64)
		y[i], _ = strconv.ParseUint(number[:digits([]byte(number))], 10, 64)
	}
	return x[0] > x[1] || x[0] == x[1] && y[0] > y[1]
}
