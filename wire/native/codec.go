package native

import (
	"fmt"
	"math"

	"github.com/limpet-go/limpet/wire"
)

// Limits of the protocol where no others are announced (docs/protocol.md,
// section 1).
const (
	MaxBatch      = 64 << 10  // encoded bytes of a batch that holds more than one frame
	MaxFrames     = 4096      // frames of one batch
	MaxPayload    = 256 << 10 // bytes of one payload
	MaxHeaders    = 32
	MaxHeaderSize = 8 << 10 // bytes of content type, header keys and values of a message
	MaxName       = 255     // bytes of a session id and of an epoch
	MaxHelloSubs  = 256
	MaxSubs       = 10000 // subscriptions of one session
	MaxDepth      = 32    // of a payload that travels as JSON
	MaxRanges     = 32    // of welcome.sack and ack.x
	MaxRejects    = 4096  // of welcome.out and ack.n
	MaxToken      = 8 << 10
	MaxTag        = 16
	MaxReason     = 256 // bytes of err.msg and unsub.msg; more is cut off
)

// DecodeLimits bounds what Decode accepts and so what it allocates. A zero
// field means the default.
type DecodeLimits struct {
	Batch      int // encoded bytes of a batch of more than one frame
	Frames     int // frames of a batch
	Payload    int // bytes
	Headers    int
	HeaderSize int // bytes of content type, keys and values
	Subs       int // of one hello
	Depth      int // of nested JSON; 64 at most
	Ranges     int // of one welcome.sack or ack.x
	Rejects    int // of one welcome.out or ack.n
	Credits    int // of one ack.dcr
	Token      int // bytes
}

// DefaultLimits are the limits of the protocol.
var DefaultLimits = DecodeLimits{
	Batch:      MaxBatch,
	Frames:     MaxFrames,
	Payload:    MaxPayload,
	Headers:    MaxHeaders,
	HeaderSize: MaxHeaderSize,
	Subs:       MaxHelloSubs,
	Depth:      MaxDepth,
	Ranges:     MaxRanges,
	Rejects:    MaxRejects,
	Credits:    MaxSubs,
	Token:      MaxToken,
}

// Unlimited lifts one limit of DecodeLimits: the size of the WebSocket message
// is then the only bound.
const Unlimited = math.MaxInt

func (l *DecodeLimits) setDefaults() {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Batch, MaxBatch)
	def(&l.Frames, MaxFrames)
	def(&l.Payload, MaxPayload)
	def(&l.Headers, MaxHeaders)
	def(&l.HeaderSize, MaxHeaderSize)
	def(&l.Subs, MaxHelloSubs)
	def(&l.Depth, MaxDepth)
	def(&l.Ranges, MaxRanges)
	def(&l.Rejects, MaxRejects)
	def(&l.Credits, MaxSubs)
	def(&l.Token, MaxToken)
	l.Depth = min(l.Depth, deepest)
}

// The two tokens of Sec-WebSocket-Protocol.
const (
	subprotocolBinary = "limpet.v1.bin"
	subprotocolJSON   = "limpet.v1.json"
)

// Subprotocol is the Sec-WebSocket-Protocol token of enc, empty for a value
// that is no encoding.
func Subprotocol(enc Encoding) string {
	switch enc {
	case Binary:
		return subprotocolBinary
	case JSON:
		return subprotocolJSON
	}
	return ""
}

// EncodingOf is the encoding that a negotiated subprotocol stands for.
func EncodingOf(subprotocol string) (Encoding, bool) {
	switch subprotocol {
	case subprotocolBinary:
		return Binary, true
	case subprotocolJSON:
		return JSON, true
	}
	return 0, false
}

// FrameType is the type of the WebSocket messages that carry enc.
func (enc Encoding) FrameType() wire.FrameType {
	if enc == Binary {
		return wire.Binary
	}
	return wire.Text
}

var typeNames = [...]string{"", "hello", "welcome", "msg", "ack", "sub", "subok", "unsub",
	"gap", "reset", "auth", "goaway", "ping", "pong", "err"}

// String is the name of t in JSON.
func (t Type) String() string {
	if t >= TypeHello && t <= TypeErr {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// typeNamed finds the type called name.
func typeNamed(name []byte) (Type, bool) {
	for t := TypeHello; t <= TypeErr; t++ {
		if string(name) == typeNames[t] {
			return t, true
		}
	}
	return 0, false
}

// sentBy reports whether a peer of direction d may send t.
func (t Type) sentBy(d Sender) bool {
	switch t {
	case TypeHello, TypeSub:
		return d == FromClient
	case TypeWelcome, TypeSubOK, TypeGap, TypeReset:
		return d == FromServer
	}
	return true
}

// Append appends frames as one batch, the data of one WebSocket message. It
// fails, and then returns dst as it was, on a frame that no peer could read:
// its member is nil, a string is not UTF-8, a tag is longer than MaxTag. It
// does not enforce the limits of size: see Size. The frames are only read.
func Append(dst []byte, enc Encoding, frames []Frame) ([]byte, error) {
	w := writer{b: dst, bin: enc == Binary}
	list := !w.bin && len(frames) != 1
	if list {
		w.b = append(w.b, '[')
	}
	for i := range frames {
		if list && i > 0 {
			w.b = append(w.b, ',')
		}
		w.frame(&frames[i])
	}
	if list {
		w.b = append(w.b, ']')
	}
	if w.fault != "" {
		return dst, &frameError{w.fault}
	}
	return w.b, nil
}

// frameError is the error of Append.
type frameError struct{ what string }

func (e *frameError) Error() string { return "native: cannot encode: " + e.what }

// Size is an upper bound of the bytes that f adds to a batch; a JSON batch of
// more than one frame has two bytes more. In binary it is exact. For a message
// it does not allocate.
func Size(enc Encoding, f *Frame) int {
	if f.Type == TypeMsg {
		if enc != Binary {
			return msgSizeJSON(&f.Msg) + len(`,`)
		}
		body := msgSize(&f.Msg)
		inner := 1 + uvarintLen(uint64(body)) + body
		return uvarintLen(uint64(inner)) + inner
	}
	w := writer{bin: enc == Binary}
	w.frame(f)
	if w.bin {
		return len(w.b)
	}
	return len(w.b) + len(`,`)
}

// Decode parses the batch in data, which sender sent, and appends its frames to
// dst. Frames that the protocol says to ignore are left out. Nothing in the
// result refers to data. An error is a *wire.CodeError that names the close
// code; dst is then returned as it was.
//
// Decode checks shape, not sense: topics, numbers and order are the caller's.
// A field given twice is refused, because two readers could disagree on it;
// what the protocol says to ignore, and the inside of a payload, may say
// anything that is well formed.
func Decode(dst []Frame, enc Encoding, sender Sender, data []byte, lim DecodeLimits) ([]Frame, error) {
	var r reader
	r.data, r.end, r.bin, r.sender = data, len(data), enc == Binary, sender
	r.lim = lim
	r.lim.setDefaults()
	n := len(dst)
	for k := 0; r.nextFrame(k); k++ {
		var fast fastMessage
		if end := fast.find(data, r.i, enc, sender, &r.lim); end > 0 {
			if payload, ok := fast.take(); ok {
				dst = append(dst, Frame{})
				f := &dst[len(dst)-1]
				f.Type = TypeMsg
				fast.msg(&f.Msg)
				f.Msg.HasP, f.Msg.Payload = sender == FromServer, payload
				r.i = end
				r.countFrames(len(dst) - n)
				continue
			}
		}
		dst = r.anyFrame(dst)
		r.countFrames(len(dst) - n)
	}
	if r.code == 0 && len(data) > r.lim.Batch && len(dst) > n+1 {
		r.fail(CloseFrameTooBig, "batch longer than its limit")
	}
	if r.code != 0 {
		clear(dst[n:])
		return dst[:n], r.fault()
	}
	return dst, nil
}
