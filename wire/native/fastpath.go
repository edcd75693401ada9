package native

import (
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// The steady path of a received message is in this file and in reader.go: Decode
// tries the fast form of a message first and leaves any other frame to the
// general reader (docs/decisions/0005).

// serverLimits bounds what a server may send. The size of a message is bounded
// by the client's read limit alone.
var serverLimits = func() DecodeLimits {
	lim := DecodeLimits{Batch: Unlimited, Payload: Unlimited}
	lim.setDefaults()
	return lim
}()

// Decode appends the events of one WebSocket message. A message in its common
// form becomes an event directly, any other frame by way of a Frame. A syntax
// error in the batch takes precedence over a protocol violation in an earlier
// frame, because a batch is parsed completely before it is applied
// (docs/protocol.md, section 1).
func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	if f.Type != c.frameType {
		return &wire.CodeError{Code: CloseBadFrame, Reason: "a message of the wrong type for " + Subprotocol(c.enc)}
	}
	var r reader
	r.data, r.end, r.bin, r.sender = f.Data, len(f.Data), c.enc == Binary, FromServer
	r.lim = serverLimits
	var err error
	before, n := len(out.List), 0
	for k := 0; r.nextFrame(k); k++ {
		if c.welcomed && err == nil {
			var fast fastMessage
			if end := fast.find(f.Data, r.i, c.enc, FromServer, &serverLimits); end > 0 && c.decodeFast(&fast, out) {
				r.i = end
				n++
				r.countFrames(n)
				continue
			}
		}
		n += c.decodeSlow(&r, out, &err)
		r.countFrames(n)
	}
	if r.code != 0 {
		err = r.fault()
	}
	if err != nil {
		clear(out.List[before:])
		out.List = out.List[:before]
	}
	return err
}

// decodeSlow reads the next frame with the general reader and appends its event,
// unless an earlier frame of the batch was at fault. It returns how many frames
// it read: none if the type is one to be ignored.
func (c *codec) decodeSlow(r *reader, out *wire.Events, err *error) int {
	var room [1]Frame
	frames := r.anyFrame(room[:0])
	if len(frames) > 0 && r.code == 0 && *err == nil {
		*err = c.event(&frames[0], out)
	}
	return len(frames)
}

// decodeFast appends the event of fast. It returns false if the general reader
// must decode the frame.
func (c *codec) decodeFast(fast *fastMessage, out *wire.Events) bool {
	if fast.ch == 0 {
		return false
	}
	if len(fast.topic) > 0 && string(fast.topic) != c.topic {
		topic := string(fast.topic)
		if topicFault(wire.UsePublish, topic) != "" {
			return false
		}
		c.topic = topic
	}
	payload := fast.payload
	if fast.base64 {
		var ok bool
		if payload, ok = fast.take(); !ok {
			return false
		}
	}
	e := out.Append(wire.EventData)
	e.Key, e.Prev, e.Numbered = fast.ch, fast.p, true
	e.Position.Offset, e.Position.Tag = fast.s, c.tagOf(&fast.id)
	m := &e.Message
	m.ID, m.Payload, e.Borrowed = fast.id, payload, !fast.base64
	if len(fast.topic) > 0 {
		m.Topic = c.topic
	}
	if len(fast.typ) > 0 {
		m.Type = string(fast.typ)
	}
	m.TTL, m.Redelivered = millis(fast.ttl), fast.hasAge
	m.Snapshot, m.SnapshotEnd = fast.flags&FlagSnapshot != 0, fast.flags&FlagSnapshotEnd != 0
	return true
}

// tagOf returns a message's default tag, its id. Tags are cut from blocks, so that
// 64 of them cost one allocation.
func (c *codec) tagOf(id *wire.ID) string {
	const n = len(id)
	if c.tags.Cap()-c.tags.Len() < n {
		c.tags = strings.Builder{}
		c.tags.Grow(64 * n)
	}
	c.tags.Write(id[:])
	s := c.tags.String()
	return s[len(s)-n:]
}

// A fastMessage is a msg frame in its common form, decoded in place: its fields in
// the order in which this package writes them, without headers, without a tag
// and not void. Any other frame, malformed ones included, is left to the general
// reader, so that there is one source of errors. The slices refer to the data.
type fastMessage struct {
	ch, s, p uint64
	id       wire.ID
	topic    []byte
	payload  []byte
	base64   bool // payload is base64url text
	typ      []byte
	hasAge   bool
	age      uint64
	ttl      uint64
	flags    uint64
}

// find decodes the frame at data[i] into fast, which must be zero. It returns the
// index after the frame, negative if the frame is not a fastMessage.
func (fast *fastMessage) find(data []byte, i int, enc Encoding, sender Sender, lim *DecodeLimits) int {
	if enc == Binary {
		i = fast.binary(data, i, sender == FromServer)
	} else {
		i = fast.json(data, i, sender == FromServer, lim.Depth)
	}
	if i < 0 {
		return -1
	}
	size := len(fast.payload)
	if fast.base64 {
		size = base64url.DecodedLen(size)
	}
	if size > lim.Payload || len(fast.typ) > lim.HeaderSize || len(fast.topic) > MaxTopic || len(fast.topic) == 0 && sender == FromClient {
		return -1
	}
	return i
}

// msg copies fast to m, except for the payload.
func (fast *fastMessage) msg(m *Msg) {
	m.Ch, m.S, m.P, m.ID = fast.ch, fast.s, fast.p, fast.id
	m.Topic, m.Type = string(fast.topic), string(fast.typ)
	m.HasAge, m.Age, m.TTL, m.Flags = fast.hasAge, fast.age, fast.ttl, fast.flags
}

// take returns a copy of the payload. It returns false if the payload is malformed
// base64url.
func (fast *fastMessage) take() ([]byte, bool) {
	text := fast.payload
	if len(text) == 0 {
		return nil, true
	}
	if !fast.base64 {
		b := make([]byte, len(text))
		copy(b, text)
		return b, true
	}
	b := make([]byte, base64url.DecodedLen(len(text)))
	_, err := base64url.Decode(b, text)
	return b, err == nil
}

// Each function below takes an index into b and returns the index after what it
// has read, or a negative one if something else stands there. A negative index
// that is passed in comes out again.

// binary reads length, envelope and fields 1 to 6: ch and p only if down is set.
func (fast *fastMessage) binary(b []byte, i int, down bool) int {
	n, i := uvarint(b, i)
	if i < 0 || n > uint64(len(b)-i) {
		return -1
	}
	b = b[:i+int(n)]
	n, i = number(b, i, byte(TypeMsg)<<3|wireBytes)
	if i < 0 || n != uint64(len(b)-i) {
		return -1
	}
	if down {
		fast.ch, i = number(b, i, 1<<3|wireVarint)
	}
	fast.s, i = number(b, i, 2<<3|wireVarint)
	if down {
		fast.p, i = number(b, i, 3<<3|wireVarint)
	}
	const id = len(fast.id)
	if i < 0 || len(b)-i < 2+id || b[i] != 4<<3|wireBytes || b[i+1] != byte(id) {
		return -1
	}
	fast.id = wire.ID(b[i+2:])
	i += 2 + id
	if i < len(b) && b[i] == 5<<3|wireBytes {
		fast.topic, i = span(b, i+1)
		if !utf8.Valid(fast.topic) {
			return -1
		}
	}
	if i >= 0 && i < len(b) && b[i] == 6<<3|wireBytes {
		fast.payload, i = span(b, i+1)
	}
	if i >= 0 && i < len(b) {
		i = fast.binaryRest(b, i)
	}
	if i != len(b) {
		return -1
	}
	return i
}

// binaryRest reads the rarer fields: ct, age, ttl and fl.
func (fast *fastMessage) binaryRest(b []byte, i int) int {
	if b[i] == 7<<3|wireBytes {
		if fast.typ, i = span(b, i+1); !utf8.Valid(fast.typ) {
			return -1
		}
	}
	fast.age, i, fast.hasAge = numberOpt(b, i, 11<<3|wireVarint)
	fast.ttl, i, _ = numberOpt(b, i, 12<<3|wireVarint)
	fast.flags, i, _ = numberOpt(b, i, 13<<3|wireVarint)
	if fast.flags&FlagVoid != 0 {
		return -1
	}
	return i
}

// numberOpt is number for an optional field: false if another key stands there.
func numberOpt(b []byte, i int, key byte) (uint64, int, bool) {
	if i < 0 || i >= len(b) || b[i] != key {
		return 0, i, false
	}
	v, i := uvarint(b, i+1)
	return v, i, true
}

// number reads key and the varint that follows it.
func number(b []byte, i int, key byte) (uint64, int) {
	if uint(i) >= uint(len(b)) || b[i] != key {
		return 0, -1
	}
	return uvarint(b, i+1)
}

// span reads a length and that many bytes.
func span(b []byte, i int) ([]byte, int) {
	n, i := uvarint(b, i)
	if i < 0 || n > uint64(len(b)-i) {
		return nil, -1
	}
	return b[i : i+int(n)], i + int(n)
}

// uvarint reads a varint of at most 8 bytes in its shortest form.
func uvarint(b []byte, i int) (v uint64, next int) {
	for shift := 0; i < len(b) && shift < 56; shift += 7 {
		c := b[i]
		i++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if c == 0 && shift > 0 {
				break
			}
			return v, i
		}
	}
	return 0, -1
}

// json reads an object: ch and p only if down is set.
func (fast *fastMessage) json(b []byte, i int, down bool, depth int) int {
	if i = after(b, i, `{"t":"msg"`); i < 0 {
		return -1
	}
	if down {
		fast.ch, i = decimal(b, after(b, i, `,"ch":`))
	}
	fast.s, i = decimal(b, after(b, i, `,"s":`))
	if down {
		fast.p, i = decimal(b, after(b, i, `,"p":`))
	}
	i = after(b, i, `,"id":"`)
	if i < 0 || len(b)-i < uuidLen || !parseUUID(&fast.id, (*[uuidLen]byte)(b[i:])) {
		return -1
	}
	i = after(b, i+uuidLen, `"`)
	if next := after(b, i, `,"tp":"`); next > 0 {
		i = plainEnd(b, next)
		fast.topic = b[next:i]
		i = after(b, i, `"`)
	}
	if start := after(b, i, `,"d":`); start > 0 {
		i = scan(b, start, depth)
		if i < 0 {
			return -1
		}
		fast.payload = b[start:i]
	} else if start := after(b, i, `,"b":"`); start > 0 {
		i = plainEnd(b, start)
		fast.payload, fast.base64 = b[start:i], true
		i = after(b, i, `"`)
	}
	if end := after(b, i, `}`); end > 0 || i < 0 {
		return end
	}
	return after(b, fast.jsonRest(b, i), `}`)
}

// jsonRest reads the rarer members: ct, age, ttl and fl.
func (fast *fastMessage) jsonRest(b []byte, i int) int {
	if start := after(b, i, `,"ct":"`); start > 0 {
		i = plainEnd(b, start)
		fast.typ = b[start:i]
		i = after(b, i, `"`)
	}
	if next := after(b, i, `,"age":`); next > 0 {
		fast.age, i = decimal(b, next)
		fast.hasAge = true
	}
	if next := after(b, i, `,"ttl":`); next > 0 {
		fast.ttl, i = decimal(b, next)
	}
	if next := after(b, i, `,"fl":`); next > 0 {
		fast.flags, i = decimal(b, next)
	}
	if fast.flags&FlagVoid != 0 {
		return -1
	}
	return i
}

// after reads text itself.
func after(b []byte, i int, text string) int {
	if i < 0 || len(b)-i < len(text) || string(b[i:i+len(text)]) != text {
		return -1
	}
	return i + len(text)
}

// decimal reads a number without quotes, at most 2^53-1.
func decimal(b []byte, i int) (v uint64, next int) {
	if i < 0 {
		return 0, -1
	}
	start := i
	for i < len(b) && b[i]-'0' <= 9 && i-start < 16 {
		v = v*10 + uint64(b[i]-'0')
		i++
	}
	if i == start || i-start > 1 && b[start] == '0' || v > maxJSONNumber {
		return 0, -1
	}
	return v, i
}
