package native

const (
	reservedTypes = 64 // unknown binary types from this number on are ignored
	maxFeatures   = 32 // words of feat
)

// anyFrame reads the frame at i, whatever its type, and appends it to dst. A
// frame that the protocol says to ignore is skipped.
func (r *reader) anyFrame(dst []Frame) []Frame {
	if r.bin {
		return r.frameBinary(dst)
	}
	return r.frameJSON(dst)
}

// frameBinary reads one frame: its length, the envelope, whose one field has the
// number of the type, and the body.
func (r *reader) frameBinary(dst []Frame) []Frame {
	r.wt = wireBytes
	n, ok := r.span()
	if !ok {
		return dst
	}
	r.end = r.i + n
	num := r.field()
	if r.code != 0 {
		return dst
	}
	if num > uint64(TypeReply) {
		if num < reservedTypes {
			r.fail(CloseProtocolError, "a frame has an unknown type")
		}
		r.skip()
	} else {
		dst = r.frame(dst, Type(num), object{})
	}
	if r.code == 0 && r.i != r.end {
		r.bad("data after the content of a frame")
	}
	return dst
}

// frameJSON reads one object. Its type decides how the rest is read and may stand
// anywhere in the object: if it is not the first member, the object is read a
// second time from its start.
func (r *reader) frameJSON(dst []Frame) []Frame {
	r.token()
	start := r.i
	r.expect('{')
	for n := 0; r.member(n); n++ {
		name := r.memberName()
		if len(name) != 1 || name[0] != 't' {
			r.skip()
			continue
		}
		word := r.text()
		if r.code != 0 {
			return dst
		}
		t, known := typeNamed(word)
		switch {
		case known && n == 0:
			return r.frame(dst, t, object{top: true, n: 1, seen: 1})
		case known:
			r.i = start
			r.expect('{')
			return r.frame(dst, t, object{top: true})
		case len(word) >= 2 && word[0] == 'x' && word[1] == '-':
			r.i = start
			r.skip()
			return dst
		}
		r.fail(CloseProtocolError, "a frame has an unknown type")
		return dst
	}
	r.bad("a frame has no type")
	return dst
}

// frame reads the body of a frame of type t and appends the frame to dst. In
// JSON o is the state of the object, which may be read in part; in binary it is
// opened here.
func (r *reader) frame(dst []Frame, t Type, o object) []Frame {
	if !t.sentBy(r.sender) {
		r.fail(CloseProtocolError, "a frame of a type that the sender may not send")
		return dst
	}
	dst = append(dst, Frame{Type: t})
	f := &dst[len(dst)-1]
	if r.bin {
		o = r.open(schemas[t])
	}
	o.s = schemas[t]
	switch t {
	case TypeMsg:
		r.msg(&o, &f.Msg)
	case TypeAck:
		f.Ack = r.ack(&o)
	case TypeHello:
		f.Hello = r.hello(&o)
	case TypeWelcome:
		f.Welcome = r.welcome(&o)
	case TypeSub:
		f.Sub = new(Sub)
		r.sub(&o, f.Sub)
	case TypeSubOK:
		f.SubOK = r.subok(&o)
	case TypeUnsub:
		f.Unsub = r.unsub(&o)
	case TypeGap:
		f.Gap = r.gap(&o)
	case TypeReset:
		f.Reset = r.reset(&o)
	case TypeAuth:
		f.Auth = r.auth(&o)
	case TypeGoAway:
		f.GoAway = r.goaway(&o)
	case TypePing, TypePong:
		f.N = r.ping(&o)
	case TypeErr:
		f.Err = r.err(&o)
	case TypeCall:
		f.Call = r.call(&o)
	case TypeReply:
		f.Reply = r.reply(&o)
	}
	return dst
}

// msg reads the body of a msg.
func (r *reader) msg(o *object, m *Msg) {
	r.header = 0
	for r.next(o) {
		switch o.num {
		case 1:
			m.Ch = r.uint()
		case 2:
			m.S = r.uint()
		case 3:
			m.P, m.HasP = r.uint(), true
		case 4:
			r.id(&m.ID)
		case 5:
			m.Topic = r.topic()
		case 6:
			r.payload(m)
		case 7:
			m.Type = r.string()
			r.headerRoom(len(m.Type))
		case 8:
			r.headers(m)
		case 10:
			m.Tag = r.tag()
		case 11:
			m.Age, m.HasAge = r.age(), true
		case 12:
			m.TTL = r.uint()
		case 13:
			m.Flags = r.uint()
		default:
			r.otherPayload(o, m)
		}
	}
	r.require(o)
	void := m.Flags&FlagVoid != 0
	if void && len(m.Payload) != 0 {
		r.bad("an expired slot has a payload")
	}
	// An expired slot has only a number and an id (docs/protocol.md, section 5).
	if r.sender == FromClient && !void && m.Topic == "" && r.code == 0 {
		r.bad("a required field is missing")
	}
}

// otherPayload reads the payload in its other form in JSON, or skips a field.
func (r *reader) otherPayload(o *object, m *Msg) {
	if r.bin || len(o.name) != 1 || o.name[0] != 'b' {
		r.skip()
		return
	}
	r.once(o, 6)
	m.Payload = r.bytes(r.lim.Payload, CloseFrameTooBig, payloadTooBig)
}

const payloadTooBig = "a payload is longer than its limit"

// payload reads field 6: in binary bytes, in JSON the value of d as it stands.
func (r *reader) payload(m *Msg) {
	if r.bin {
		m.Payload = r.bytes(r.lim.Payload, CloseFrameTooBig, payloadTooBig)
		return
	}
	m.Payload = r.copied(r.value(), r.lim.Payload, CloseFrameTooBig, payloadTooBig)
}

// age reads the age of a message; in JSON the word max means AgeUnknown.
func (r *reader) age() uint64 {
	if !r.bin && r.token() == '"' {
		text := r.text()
		if string(text) == "max" {
			return AgeUnknown
		}
		return r.decimal(text)
	}
	return r.uint()
}

// headers reads the object h; in binary one entry of it.
func (r *reader) headers(m *Msg) {
	if r.bin {
		var k, v string
		o := r.open(&entrySchema)
		for r.next(&o) {
			switch o.num {
			case 1:
				k = r.string()
			case 2:
				v = r.string()
			default:
				r.skip()
			}
		}
		r.addHeader(m, k, v)
		return
	}
	r.expect('{')
	for n := 0; r.member(n); n++ {
		k := string(r.memberName())
		r.addHeader(m, k, r.string())
	}
}

// topic reads the topic of a message. A topic from a client is not bounded here:
// the server refuses that message alone. One from a server that is too long ends
// the connection.
func (r *reader) topic() string {
	if r.sender == FromClient {
		return r.string()
	}
	return r.bounded(MaxTopic, "a topic is too long")
}

// headerRoom counts n bytes of content type or header of the current message.
func (r *reader) headerRoom(n int) {
	if r.header += n; r.header > r.lim.HeaderSize {
		r.fail(CloseFrameTooBig, headersTooBig)
	}
}

const headersTooBig = "the headers exceed their limits"

// addHeader adds one header to m, within the limits. A key must occur once.
func (r *reader) addHeader(m *Msg, k, v string) {
	r.headerRoom(len(k) + len(v))
	if len(m.Header) >= r.lim.Headers {
		r.fail(CloseFrameTooBig, headersTooBig)
	}
	if _, ok := m.Header[k]; ok {
		r.bad("a header occurs twice")
	}
	if r.code != 0 {
		return
	}
	if m.Header == nil {
		m.Header = make(map[string]string)
	}
	m.Header[k] = v
}
