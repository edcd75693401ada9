package wire

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// ID identifies a message across connections and sessions: 16 bytes, usually a
// UUIDv7 (RFC 9562).
type ID [16]byte

// FrameType is the type of a WebSocket data message (RFC 6455, section 5.6).
type FrameType uint8

// The two types of data message.
const (
	Text FrameType = iota + 1
	Binary
)

// Frame is one WebSocket data message.
type Frame struct {
	Type FrameType // text or binary
	Data []byte    // the payload, fragments joined
}

// Frames collects frames to be written. The zero value is ready for use. It is
// not safe for concurrent use.
type Frames struct {
	// List holds the frames in the order in which they are to be written.
	List []Frame

	// Confirmed holds the keys that Confirm has added.
	Confirmed []uint64

	// Prefetches holds what Prefetch has added.
	Prefetches []Prefetch

	free [][]byte // buffers for Buffer
}

// Confirm says that the server does not answer the request for the subscription with
// this key: it counts as confirmed once the frames are written, as if EventSubscribed
// with ContinuityByNumber had come. It is for a dialect with the trait Confirms whose
// server answers only some requests; Start and Encode may call it.
func (f *Frames) Confirm(key uint64) { f.Confirmed = append(f.Confirmed, key) }

// Prefetch is how many messages of a subscription a server sends without an
// acknowledgement.
type Prefetch struct {
	Key      uint64 // of the subscription
	Messages int
}

// Prefetch says that the server was asked to send at most messages of the subscription
// with this key without an acknowledgement. Then the client can report a stream that
// stands still because consumers acknowledge nothing. It is for ProcessedEach; Start and Encode may
// call it.
func (f *Frames) Prefetch(key uint64, messages int) {
	f.Prefetches = append(f.Prefetches, Prefetch{key, messages})
}

// Append adds a frame. f takes ownership of data and reuses its memory after the
// frame was sent, so nothing else may share it.
func (f *Frames) Append(t FrameType, data []byte) {
	f.List = append(f.List, Frame{t, data})
}

// Buffer returns an empty buffer with room for n bytes for the next frame. It
// reuses the memory of a frame that Reset dropped if that is big enough.
func (f *Frames) Buffer(n int) []byte {
	if last := len(f.free) - 1; last >= 0 {
		b := f.free[last]
		f.free = f.free[:last]
		if cap(b) >= n {
			return b
		}
	}
	return make([]byte, 0, n)
}

// keepBuffers and keepBytes bound the memory that Reset keeps: the number of
// buffers and the capacity of each.
const (
	keepBuffers = 4
	keepBytes   = 128 << 10
)

// Reset empties f and keeps some of its memory for Buffer. The data of its
// frames must not be used afterwards.
func (f *Frames) Reset() {
	for _, frame := range f.List {
		if len(f.free) < keepBuffers && cap(frame.Data) <= keepBytes {
			f.free = append(f.free, frame.Data[:0])
		}
	}
	clear(f.List)
	f.List, f.Confirmed, f.Prefetches = f.List[:0], nil, nil
}

// Message is an application message in either direction.
type Message struct {
	// Seq is the uplink sequence number, dense within a session epoch.
	Seq uint64

	// ID identifies the message.
	ID ID

	// Topic is the topic that the message was published to.
	Topic string

	// Payload is the content. It is opaque.
	Payload []byte

	// Type is the content type of Payload; empty if there is none.
	Type string

	// Header holds application headers; nil if there are none.
	Header map[string]string

	// TTL is the lifetime of the message. Zero means that it does not expire.
	TTL time.Duration

	// Age is how long ago the message was first handed to the network. It is
	// meaningful only with Resent; a negative Age is unknown.
	Age time.Duration

	// Time is when the server says that it made or sent the message, by its own clock, in
	// nanoseconds since 1970. Zero or less means that it does not say. It is for received
	// messages only; ParseTime reads the usual forms. It is a number because every
	// event has one, and most dialects do not set it.
	Time int64

	// Resent means that the message may have been sent before.
	Resent bool

	// Void marks an expired slot: it has no payload and is acknowledged like any
	// other message.
	Void bool

	// Snapshot marks a part of a snapshot.
	Snapshot bool

	// SnapshotEnd marks the last part of a snapshot.
	SnapshotEnd bool

	// Redelivered means that the server reports an earlier delivery of this
	// message.
	Redelivered bool
}

// Subscribe asks for a subscription or restores one.
type Subscribe struct {
	// Key identifies the subscription. It is chosen by the client.
	Key uint64

	// Topic is the topic or pattern.
	Topic string

	// From is where the stream starts.
	From From

	// Position is that of the last message received, for FromResume.
	Position Position

	// Credit is how much the server may send at first.
	Credit Credit

	// Token is a credential for this topic; empty if there is none.
	Token string
}

// From is where a subscription starts.
type From uint8

// The starting points of a subscription.
const (
	FromNew    From = iota // after the newest message
	FromResume             // after Position
	FromFirst              // at the oldest message held
	FromLast               // at the newest message held, continuing with new ones
)

// OpKind says what an Op asks the codec to encode.
type OpKind uint8

// The kinds of Op, each with the fields of Op that it uses.
const (
	OpSubscribe   OpKind = iota + 1 // Subscribe
	OpUnsubscribe                   // Key, Name
	OpPublish                       // Message
	OpCredit                        // Key, Name, Credit
	OpPing                          // N
	OpPong                          // N, Step, from an EventPing
	OpStep                          // Step, from an Event
	OpAuth                          // Token, see Traits.Refresh
	OpBye                           // none: the session may be discarded
	OpAck                           // Key, Name, Position: processed on this connection, see Traits.Processed
	OpRelease                       // Key, Name, Position: not processed, see Traits.Release
	OpCall                          // N, Message: Topic, Payload, Type, Header, and TTL, how long the caller waits; see Traits.Calls
)

// String returns the kind as one lower-case word.
func (k OpKind) String() string {
	if int(k) < len(opKinds) {
		return opKinds[k]
	}
	return "op " + strconv.Itoa(int(k))
}

var opKinds = [...]string{"op 0", "subscribe", "unsubscribe", "publish", "credit", "ping", "pong", "step", "auth", "bye", "ack", "release", "call"}

// Op is one thing to send to the peer. Which fields are set depends on Kind.
//
// Cmd is a command id for protocols whose replies carry only an id. Cmd mod 4
// gives the kind (1 subscribe, 2 unsubscribe, 3 publish, 0 anything else), so
// that the reader can classify a reply without shared state. Cmd/4 is the Key of a
// subscription, Message.Seq of a message, and N of a call, whose Cmd mod 4 is 0. Where tokens are smaller or the
// server's own, a Ledger says what they stand for.
//
// With Sessions, sequence numbers are dense: a message that ends before it is sent
// leaves a slot that is sent as a Message with Void, so the protocol needs a form for
// it. Without Sessions no Void message occurs.
type Op struct {
	Kind      OpKind     // what to encode
	Cmd       uint64     // command id
	Key       uint64     // subscription, where Traits.ByKey is true
	Name      string     // subscription's topic, where Traits.ByKey is false
	Topic     string     // topic of the op
	Subscribe *Subscribe // subscription to request
	Message   *Message   // message to publish
	Position  Position   // position processed
	Credit    Credit     // credit granted
	N         uint64     // number of a ping, a pong or a call
	Step      any        // Event.Step of the event that asks for it
	Token     string     // new credential; it must not appear in an error
}

var errPosition = errors.New("wire: not a position: want epoch.offset.tag, epoch and tag in base64url")

// MarshalText returns p as epoch.offset.tag, with epoch and tag in base64url. It
// does not fail.
func (p Position) MarshalText() ([]byte, error) {
	b := base64.RawURLEncoding.AppendEncode(nil, []byte(p.Epoch))
	b = append(b, '.')
	b = strconv.AppendUint(b, p.Offset, 10)
	b = append(b, '.')
	return base64.RawURLEncoding.AppendEncode(b, []byte(p.Tag)), nil
}

// UnmarshalText reads the form that MarshalText writes.
func (p *Position) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ".")
	if len(parts) != 3 {
		return errPosition
	}
	epoch, err1 := base64.RawURLEncoding.DecodeString(parts[0])
	offset, err2 := strconv.ParseUint(parts[1], 10, 64)
	tag, err3 := base64.RawURLEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return errPosition
	}
	*p = Position{string(epoch), offset, string(tag)}
	return nil
}

// String returns the form that MarshalText writes.
func (p Position) String() string {
	b, _ := p.MarshalText()
	return string(b)
}
