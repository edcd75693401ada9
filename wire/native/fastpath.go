package native

import (
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// serverLimits bounds what a server may send. The size of a message is bounded
// by the client's read limit alone.
var serverLimits = func() DecodeLimits {
	lim := DecodeLimits{Batch: Unlimited, Payload: Unlimited}
	lim.setDefaults()
	return lim
}()

// Decode appends the events of one message. Usual messages become events at
// once, any other frame by way of a Frame. What is wrong with the shape of a
// frame counts before what is wrong with the sense of an earlier one.
func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	if f.Type != c.enc.FrameType() {
		return &wire.CodeError{Code: CloseBadFrame, Reason: "a message of the wrong type for " + Subprotocol(c.enc)}
	}
	var r reader
	r.data, r.end, r.bin, r.dir = f.Data, len(f.Data), c.enc == Binary, FromServer
	r.lim = serverLimits
	var err error
	before, n := len(out.List), 0
	for k := 0; r.another(k); k++ {
		if c.welcomed && err == nil {
			var u usual
			if end := u.find(f.Data, r.i, c.enc, FromServer, &serverLimits); end > 0 && c.usual(&u, out) {
				r.i = end
				n++
				r.count(n)
				continue
			}
		}
		n += c.any(&r, out, &err)
		r.count(n)
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

// any reports the next frame, unless an earlier one was at fault, and returns
// how many there were: none if it is of a type to be ignored.
func (c *codec) any(r *reader, out *wire.Events, err *error) int {
	var room [1]Frame
	frames := r.any(room[:0])
	if len(frames) > 0 && r.code == 0 && *err == nil {
		*err = c.event(&frames[0], out)
	}
	return len(frames)
}

// usual reports u, false if the general way must be taken.
func (c *codec) usual(u *usual, out *wire.Events) bool {
	if u.ch == 0 {
		return false
	}
	if len(u.topic) > 0 && string(u.topic) != c.topic {
		topic := string(u.topic)
		if topicFault(wire.UsePublish, topic) != "" {
			return false
		}
		c.topic = topic
	}
	payload, ok := u.take()
	if !ok {
		return false
	}
	e := out.Append(wire.EventData)
	e.Key, e.Prev, e.Numbered = u.ch, u.p, true
	e.Position.Offset, e.Position.Tag = u.s, c.tagOf(&u.id)
	m := &e.Message
	m.ID, m.Payload = u.id, payload
	if len(u.topic) > 0 {
		m.Topic = c.topic
	}
	if len(u.typ) > 0 {
		m.Type = string(u.typ)
	}
	m.TTL, m.Redelivered = millis(u.ttl), u.hasAge
	m.Snapshot, m.SnapshotEnd = u.flags&FlagSnapshot != 0, u.flags&FlagSnapshotEnd != 0
	return true
}

// tagOf is a message's default tag, its id. Tags are cut from blocks: one
// allocation for 64 of them.
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

// A usual is a message frame as it mostly comes, found in place: its fields in
// the order in which this package writes them, no headers, no tag of its own,
// not void. It is either understood as the general reader would or left to it,
// which alone says what is wrong with a frame.
type usual struct {
	ch, s, p uint64
	id       wire.ID
	topic    []byte
	payload  []byte
	base64   bool // payload is the text of it
	typ      []byte
	hasAge   bool
	age      uint64
	ttl      uint64
	flags    uint64
}

// find looks at the frame at data[i] and fills in u, which is zero. It returns where the frame ends, a
// negative index if that is not a usual message.
func (u *usual) find(data []byte, i int, enc Encoding, dir Dir, lim *DecodeLimits) int {
	if enc == Binary {
		i = u.binary(data, i, dir == FromServer)
	} else {
		i = u.json(data, i, dir == FromServer, lim.Depth)
	}
	if i < 0 {
		return -1
	}
	size := len(u.payload)
	if u.base64 {
		size = base64url.DecodedLen(size)
	}
	if size > lim.Payload || len(u.typ) > lim.HeaderSize || len(u.topic) > MaxTopic || len(u.topic) == 0 && dir == FromClient {
		return -1
	}
	return i
}

// msg fills m, but for the payload.
func (u *usual) msg(m *Msg) {
	m.Ch, m.S, m.P, m.ID = u.ch, u.s, u.p, u.id
	m.Topic, m.Type = string(u.topic), string(u.typ)
	m.HasAge, m.Age, m.TTL, m.Flags = u.hasAge, u.age, u.ttl, u.flags
}

// take returns the payload as a copy, false if it is not base64url.
func (u *usual) take() ([]byte, bool) {
	text := u.payload
	if len(text) == 0 {
		return nil, true
	}
	if !u.base64 {
		b := make([]byte, len(text))
		copy(b, text)
		return b, true
	}
	b := make([]byte, base64url.DecodedLen(len(text)))
	_, err := base64url.Decode(b, text)
	return b, err == nil
}

// All below return a negative index for what is not usual, and pass it on.

func (u *usual) binary(b []byte, i int, down bool) int {
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
		u.ch, i = number(b, i, 1<<3|wireVarint)
	}
	u.s, i = number(b, i, 2<<3|wireVarint)
	if down {
		u.p, i = number(b, i, 3<<3|wireVarint)
	}
	const id = len(u.id)
	if i < 0 || len(b)-i < 2+id || b[i] != 4<<3|wireBytes || b[i+1] != byte(id) {
		return -1
	}
	u.id = wire.ID(b[i+2:])
	i += 2 + id
	if i < len(b) && b[i] == 5<<3|wireBytes {
		u.topic, i = span(b, i+1)
		if !utf8.Valid(u.topic) {
			return -1
		}
	}
	if i >= 0 && i < len(b) && b[i] == 6<<3|wireBytes {
		u.payload, i = span(b, i+1)
	}
	if i >= 0 && i < len(b) {
		i = u.binaryRest(b, i)
	}
	if i != len(b) {
		return -1
	}
	return i
}

func (u *usual) binaryRest(b []byte, i int) int {
	if b[i] == 7<<3|wireBytes {
		if u.typ, i = span(b, i+1); !utf8.Valid(u.typ) {
			return -1
		}
	}
	u.age, i, u.hasAge = numberOpt(b, i, 11<<3|wireVarint)
	u.ttl, i, _ = numberOpt(b, i, 12<<3|wireVarint)
	u.flags, i, _ = numberOpt(b, i, 13<<3|wireVarint)
	if u.flags&FlagVoid != 0 {
		return -1
	}
	return i
}

// numberOpt is number, and 0 where another key stands.
func numberOpt(b []byte, i int, key byte) (uint64, int, bool) {
	if i < 0 || i >= len(b) || b[i] != key {
		return 0, i, false
	}
	v, i := uvarint(b, i+1)
	return v, i, true
}

// number reads the number behind key.
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

// uvarint reads a varint of at most 8 bytes, as short as it can be.
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

func (u *usual) json(b []byte, i int, down bool, depth int) int {
	if i = after(b, i, `{"t":"msg"`); i < 0 {
		return -1
	}
	if down {
		u.ch, i = decimal(b, after(b, i, `,"ch":`))
	}
	u.s, i = decimal(b, after(b, i, `,"s":`))
	if down {
		u.p, i = decimal(b, after(b, i, `,"p":`))
	}
	i = after(b, i, `,"id":"`)
	if i < 0 || len(b)-i < uuidLen || !parseUUID(&u.id, (*[uuidLen]byte)(b[i:])) {
		return -1
	}
	i = after(b, i+uuidLen, `"`)
	if next := after(b, i, `,"tp":"`); next > 0 {
		i = plainEnd(b, next)
		u.topic = b[next:i]
		i = after(b, i, `"`)
	}
	if start := after(b, i, `,"d":`); start > 0 {
		i = scan(b, start, depth)
		if i < 0 {
			return -1
		}
		u.payload = b[start:i]
	} else if start := after(b, i, `,"b":"`); start > 0 {
		i = plainEnd(b, start)
		u.payload, u.base64 = b[start:i], true
		i = after(b, i, `"`)
	}
	if end := after(b, i, `}`); end > 0 || i < 0 {
		return end
	}
	return after(b, u.jsonRest(b, i), `}`)
}

func (u *usual) jsonRest(b []byte, i int) int {
	if start := after(b, i, `,"ct":"`); start > 0 {
		i = plainEnd(b, start)
		u.typ = b[start:i]
		i = after(b, i, `"`)
	}
	if next := after(b, i, `,"age":`); next > 0 {
		u.age, i = decimal(b, next)
		u.hasAge = true
	}
	if next := after(b, i, `,"ttl":`); next > 0 {
		u.ttl, i = decimal(b, next)
	}
	if next := after(b, i, `,"fl":`); next > 0 {
		u.flags, i = decimal(b, next)
	}
	if u.flags&FlagVoid != 0 {
		return -1
	}
	return i
}

// after passes text.
func after(b []byte, i int, text string) int {
	if i < 0 || len(b)-i < len(text) || string(b[i:i+len(text)]) != text {
		return -1
	}
	return i + len(text)
}

// decimal reads a number without quotes.
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
