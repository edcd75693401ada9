package native

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// frame writes one frame: in JSON an object; in binary its length and an
// envelope, whose one field has the number of the type.
func (w *writer) frame(f *Frame) {
	if f.Type < TypeHello || f.Type > TypeReply {
		w.fail("a frame has no type")
		return
	}
	if !w.bin {
		if f.Type == TypeMsg {
			w.b = append(w.b, `{"t":"msg"`...)
			w.jsonMsg(&f.Msg)
			w.b = append(w.b, '}')
			return
		}
		w.b = append(w.b, `{"t":"`...)
		w.b = append(w.b, typeNames[f.Type]...)
		w.b = append(w.b, '"')
		w.body(f)
		w.b = append(w.b, '}')
		return
	}
	if f.Type == TypeMsg {
		b, fault := appendMsg(w.b, &f.Msg)
		if !utf8.ValidString(f.Msg.Topic) {
			fault = notUTF8
		}
		if w.b = b; fault != "" {
			w.fail(fault)
		}
		return
	}
	outer := w.length()
	w.fieldKey(int(f.Type), wireBytes)
	inner := w.length()
	w.body(f)
	w.end(inner)
	w.end(outer)
}

// body writes the fields of any frame but a msg.
func (w *writer) body(f *Frame) {
	switch {
	case f.Type == TypePing || f.Type == TypePong:
		w.uintOpt(&pingSchema, 1, f.N)
	case f.Type == TypeAck && f.Ack != nil:
		w.ack(f.Ack)
	case f.Type == TypeHello && f.Hello != nil:
		w.hello(f.Hello)
	case f.Type == TypeWelcome && f.Welcome != nil:
		w.welcome(f.Welcome)
	case f.Type == TypeSub && f.Sub != nil:
		w.sub(f.Sub)
	case f.Type == TypeSubOK && f.SubOK != nil:
		w.subok(f.SubOK)
	case f.Type == TypeUnsub && f.Unsub != nil:
		w.unsub(f.Unsub)
	case f.Type == TypeGap && f.Gap != nil:
		w.gap(f.Gap)
	case f.Type == TypeReset && f.Reset != nil:
		w.reset(f.Reset)
	case f.Type == TypeAuth && f.Auth != nil:
		w.auth(f.Auth)
	case f.Type == TypeGoAway && f.GoAway != nil:
		w.goaway(f.GoAway)
	case f.Type == TypeErr && f.Err != nil:
		w.err(f.Err)
	case f.Type == TypeCall && f.Call != nil:
		w.call(f.Call)
	case f.Type == TypeReply && f.Reply != nil:
		w.reply(f.Reply)
	default:
		w.fail("a frame of type " + f.Type.String() + " has no content")
	}
}

// jsonMsg writes the members of m that follow its type. The first ones are in
// every message and so are appended directly.
func (w *writer) jsonMsg(m *Msg) {
	b := w.b
	if m.Ch != 0 {
		b = appendNumber(append(b, `,"ch":`...), m.Ch)
	}
	b = appendNumber(append(b, `,"s":`...), m.S)
	if m.HasP {
		b = appendNumber(append(b, `,"p":`...), m.P)
	}
	w.b = appendUUID(append(b, `,"id":`...), &m.ID)
	if m.Topic != "" {
		w.b = append(w.b, `,"tp":`...)
		w.quote(m.Topic)
	}
	w.payload(m.Payload)
	s := &msgSchema
	w.stringOpt(s, 7, m.Type)
	if len(m.Header) != 0 {
		w.header(m.Header)
	}
	w.tagOpt(s, 10, m.Tag)
	if m.HasAge {
		if m.Age == AgeUnknown {
			w.key(s, 11)
			w.quote("max")
		} else {
			w.uint(s, 11, m.Age)
		}
	}
	w.uintOpt(s, 12, m.TTL)
	w.uintOpt(s, 13, m.Flags)
}

// appendMsg appends the binary frame of m. It is the hot path: the slice stays in
// registers and every field key is one byte. fault says what could not be
// encoded. The caller must check that the topic is UTF-8.
func appendMsg(b []byte, m *Msg) (_ []byte, fault string) {
	size := msgSize(m)
	b = binary.AppendUvarint(b, uint64(1+uvarintLen(uint64(size))+size))
	b = binary.AppendUvarint(append(b, byte(TypeMsg)<<3|wireBytes), uint64(size))
	if m.Ch != 0 {
		b = binary.AppendUvarint(append(b, 1<<3|wireVarint), m.Ch)
	}
	b = binary.AppendUvarint(append(b, 2<<3|wireVarint), m.S)
	if m.HasP {
		b = binary.AppendUvarint(append(b, 3<<3|wireVarint), m.P)
	}
	b = append(append(b, 4<<3|wireBytes, byte(len(m.ID))), m.ID[:]...)
	b = appendField(b, 5, m.Topic)
	b = appendField(b, 6, m.Payload)
	b = appendField(b, 7, m.Type)
	if len(m.Type) != 0 && !utf8.ValidString(m.Type) {
		fault = notUTF8
	}
	if len(m.Header) != 0 {
		w := writer{b: b, bin: true, fault: fault}
		w.header(m.Header)
		b, fault = w.b, w.fault
	}
	if len(m.Tag) > MaxTag {
		fault = "a tag is too long"
	}
	b = appendField(b, 10, m.Tag)
	if m.HasAge {
		b = binary.AppendUvarint(append(b, 11<<3|wireVarint), m.Age)
	}
	if m.TTL != 0 {
		b = binary.AppendUvarint(append(b, 12<<3|wireVarint), m.TTL)
	}
	if m.Flags != 0 {
		b = binary.AppendUvarint(append(b, 13<<3|wireVarint), m.Flags)
	}
	return b, fault
}

// appendField appends the field num unless it is empty.
func appendField[T string | []byte](b []byte, num byte, v T) []byte {
	if len(v) == 0 {
		return b
	}
	return append(binary.AppendUvarint(append(b, num<<3|wireBytes), uint64(len(v))), v...)
}

// payload writes p in JSON so that its bytes survive: as the value of d if it is
// JSON that can be embedded, otherwise as base64url in b.
func (w *writer) payload(p []byte) {
	switch {
	case len(p) == 0:
	case embeddable(p):
		w.b = append(append(w.b, `,"d":`...), p...)
	default:
		w.b = append(w.b, `,"b":`...)
		w.base64(p)
	}
}

// header writes the keys in sorted order, so that equal messages have equal
// bytes.
func (w *writer) header(h map[string]string) {
	var room [MaxHeaders]string
	keys := room[:0]
	for k := range h {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if w.bin {
		for _, k := range keys {
			start := w.item(8, 0)
			w.stringOpt(&entrySchema, 1, k)
			w.stringOpt(&entrySchema, 2, h[k])
			w.end(start)
		}
		return
	}
	w.key(&msgSchema, 8)
	w.b = append(w.b, '{')
	for i, k := range keys {
		w.comma(i)
		w.quote(k)
		w.b = append(w.b, ':')
		w.quote(h[k])
	}
	w.b = append(w.b, '}')
}

// uvarintLen returns the length of v as a varint.
func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// msgSize returns the length of the body of a binary msg.
func msgSize(m *Msg) int {
	n := 1 + uvarintLen(m.S) + 2 + len(m.ID)
	if m.Ch != 0 {
		n += 1 + uvarintLen(m.Ch)
	}
	if m.HasP {
		n += 1 + uvarintLen(m.P)
	}
	n += fieldSize(len(m.Topic)) + fieldSize(len(m.Payload)) + fieldSize(len(m.Type)) + fieldSize(len(m.Tag))
	if len(m.Header) != 0 {
		for k, v := range m.Header {
			entry := fieldSize(len(k)) + fieldSize(len(v))
			n += 1 + uvarintLen(uint64(entry)) + entry
		}
	}
	if m.HasAge {
		n += 1 + uvarintLen(m.Age)
	}
	if m.TTL != 0 {
		n += 1 + uvarintLen(m.TTL)
	}
	if m.Flags != 0 {
		n += 1 + uvarintLen(m.Flags)
	}
	return n
}

// msgSizeJSON returns an upper bound of the length of a message in JSON. It assumes
// the longer of the two forms of the payload.
func msgSizeJSON(m *Msg) int {
	const fixed = `{"t":"msg","s":,"id":"00000000-0000-0000-0000-000000000000"}`
	n := len(fixed) + numberSize(m.S) + memberSize(5, len(m.Topic), quotedSize(m.Topic)) +
		memberSize(6, len(m.Payload), 2+(len(m.Payload)*4+2)/3) + memberSize(7, len(m.Type), quotedSize(m.Type)) +
		memberSize(10, len(m.Tag), 2+(len(m.Tag)*4+2)/3) + memberSize(1, int(min(m.Ch, 1)), numberSize(m.Ch)) +
		memberSize(12, int(min(m.TTL, 1)), numberSize(m.TTL)) + memberSize(13, int(min(m.Flags, 1)), numberSize(m.Flags))
	if m.HasP {
		n += memberSize(3, 1, numberSize(m.P))
	}
	if m.HasAge {
		n += memberSize(11, 1, numberSize(m.Age))
	}
	for k, v := range m.Header {
		n += quotedSize(k) + quotedSize(v) + len(`:,`)
	}
	return n + memberSize(8, len(m.Header), len(`{}`))
}

// memberSize returns the length of a member of msg whose value takes size bytes,
// or zero if present is zero: the member is then left out.
func memberSize(num, present, size int) int {
	if present == 0 {
		return 0
	}
	return len(msgSchema.members[num]) + size
}

// numberSize returns the length of v in JSON: see appendNumber.
func numberSize(v uint64) int {
	n := 1
	for w := v; w > 9; w /= 10 {
		n++
	}
	if v > maxJSONNumber {
		n += 2
	}
	return n
}

// quotedSize returns an upper bound of the length of v as a JSON string.
func quotedSize(v string) int {
	n := 2 + len(v)
	for i := range len(v) {
		if c := v[i]; !plain[c] && c < utf8.RuneSelf {
			n += len(`\u0000`) - 1
		}
	}
	return n
}

// fieldSize returns the length of a binary field of n bytes, or zero if n is zero:
// the field is then left out. Its key takes one byte.
func fieldSize(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + uvarintLen(uint64(n)) + n
}
