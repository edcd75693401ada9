package native

import (
	"fmt"
	"math"

	"github.com/limpet-go/limpet/wire"
)

// Limits of the protocol, in force unless the server announces others
// (docs/protocol.md, section 1).
const (
	MaxBatch      = 64 << 10  // encoded bytes of a batch of more than one frame
	MaxFrames     = 4096      // frames of one batch
	MaxPayload    = 256 << 10 // bytes of one payload
	MaxHeaders    = 32        // headers of one message
	MaxHeaderSize = 8 << 10   // bytes of content type, header keys and header values of one message
	MaxName       = 255       // bytes of a session id and of an epoch
	MaxHelloSubs  = 256       // subscriptions of one hello
	maxHelloBytes = 8 << 10   // of the subscriptions in a hello that this client sends
	MaxSubs       = 10000     // subscriptions of one session
	MaxDepth      = 32        // nesting of a payload that travels as JSON
	MaxRanges     = 32        // ranges of welcome.sack and of ack.x
	MaxRejects    = 4096      // entries of welcome.out and of ack.n
	MaxToken      = 8 << 10   // bytes of a token
	MaxTag        = 16        // bytes of a tag
	MaxReason     = 256       // bytes of err.msg and of unsub.msg; the rest is cut off
)

// DecodeLimits bounds what Decode accepts, and so what it allocates. A zero or
// negative field means the default; Unlimited lifts a limit.
type DecodeLimits struct {
	// Batch bounds a batch of more than one frame, in encoded bytes. Defaults
	// to MaxBatch.
	Batch int

	// Frames bounds the frames of a batch. Defaults to MaxFrames.
	Frames int

	// Payload bounds a payload, in bytes. Defaults to MaxPayload.
	Payload int

	// Headers bounds the headers of a message. Defaults to MaxHeaders.
	Headers int

	// HeaderSize bounds content type, header keys and header values of a
	// message together, in bytes. Defaults to MaxHeaderSize.
	HeaderSize int

	// Subs bounds the subscriptions of a hello. Defaults to MaxHelloSubs.
	Subs int

	// Depth bounds the nesting of JSON. Defaults to MaxDepth; at most 64.
	Depth int

	// Ranges bounds welcome.sack and ack.x. Defaults to MaxRanges.
	Ranges int

	// Rejects bounds welcome.out and ack.n. Defaults to MaxRejects.
	Rejects int

	// Credits bounds ack.dcr. Defaults to MaxSubs.
	Credits int

	// Token bounds a token, in bytes. Defaults to MaxToken.
	Token int
}

// DefaultLimits are the limits of the protocol. Do not change them.
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

// Unlimited lifts one limit of DecodeLimits. The size of the WebSocket message is
// then the only bound.
const Unlimited = math.MaxInt

// setDefaults replaces the fields that are not set.
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

// The tokens of Sec-WebSocket-Protocol (docs/protocol.md, section 1).
const (
	subprotocolBinary = "limpet.v1.bin"
	subprotocolJSON   = "limpet.v1.json"
)

// Subprotocol returns the Sec-WebSocket-Protocol token of enc; empty if enc is
// neither JSON nor Binary.
func Subprotocol(enc Encoding) string {
	switch enc {
	case Binary:
		return subprotocolBinary
	case JSON:
		return subprotocolJSON
	}
	return ""
}

// EncodingOf returns the encoding that a negotiated subprotocol stands for. It
// returns false for a token that is not one of limpet.v1.
func EncodingOf(subprotocol string) (Encoding, bool) {
	switch subprotocol {
	case subprotocolBinary:
		return Binary, true
	case subprotocolJSON:
		return JSON, true
	}
	return 0, false
}

// FrameType returns the type of the WebSocket messages that carry enc.
func (enc Encoding) FrameType() wire.FrameType {
	if enc == Binary {
		return wire.Binary
	}
	return wire.Text
}

// typeNames are the JSON names of the frame types, by number.
var typeNames = [...]string{"", "hello", "welcome", "msg", "ack", "sub", "subok", "unsub",
	"gap", "reset", "auth", "goaway", "ping", "pong", "err", "call", "reply"}

// String returns the name of t in JSON.
func (t Type) String() string {
	if t >= TypeHello && t <= TypeReply {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// typeNamed finds the type called name.
func typeNamed(name []byte) (Type, bool) {
	for t := TypeHello; t <= TypeReply; t++ {
		if string(name) == typeNames[t] {
			return t, true
		}
	}
	return 0, false
}

// sentBy reports whether s may send a frame of type t: the column dir of the
// frame table.
func (t Type) sentBy(s Sender) bool {
	switch t {
	case TypeHello, TypeSub, TypeCall:
		return s == FromClient
	case TypeWelcome, TypeSubOK, TypeGap, TypeReset, TypeReply:
		return s == FromServer
	}
	return true
}

// Append appends frames to dst as one batch, the data of one WebSocket message.
// It fails on a frame that no peer could read: its member is nil, a string is
// not UTF-8, or a tag is longer than MaxTag. It then returns dst unchanged. It
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

// frameError is the error of Append: what cannot be encoded.
type frameError struct{ what string }

func (e *frameError) Error() string { return "native: cannot encode: " + e.what }

// Size returns an upper bound of the bytes that f adds to a batch; in binary it is
// exact. A JSON batch of more than one frame has two bytes more, its brackets.
// Size does not allocate for a message.
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
// result refers to data. The error is a *wire.CodeError with the close code;
// dst is then returned unchanged.
//
// Decode checks the syntax only: topics, numbers and order are checked by the
// caller. A field that occurs twice is refused, because two readers could
// disagree on its value. What the protocol says to ignore, and the inside of a
// payload, may be anything well formed.
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
	// A batch of one frame may be larger than the limit: docs/protocol.md, section 1.
	if r.code == 0 && len(data) > r.lim.Batch && len(dst) > n+1 {
		r.fail(CloseFrameTooBig, "batch longer than its limit")
	}
	if r.code != 0 {
		clear(dst[n:])
		return dst[:n], r.fault()
	}
	return dst, nil
}
