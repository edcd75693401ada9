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
	Type FrameType
	Data []byte
}

// Frames collects frames to be written. The zero value is ready for use. It is
// not safe for concurrent use.
type Frames struct {
	// List holds the frames in the order in which they are to be written.
	List []Frame

	free [][]byte // buffers for Buffer
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
	f.List = f.List[:0]
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
	OpPong                          // N
	OpStep                          // Step, from an Event
	OpAuth                          // Token
	OpBye                           // none: the session may be discarded
	OpAck                           // Key, Name, Position: processed on this connection, see Traits.Processed
	OpFault                         // Code, Reason: reported to the peer before the connection is closed with Code
)

// Op is one thing to send to the peer. Which fields are set depends on Kind.
//
// Cmd is a command id for languages whose replies carry only an id. Cmd mod 4
// gives the kind (1 subscribe, 2 unsubscribe, 3 publish, 0 anything else), so
// that the reader can classify a reply without shared state.
type Op struct {
	Kind      OpKind
	Cmd       uint64
	Key       uint64
	Name      string
	Topic     string
	Subscribe *Subscribe
	Message   *Message
	Position  Position
	Credit    Credit
	N         uint64
	Step      any
	Token     string
	Code      uint16
	Reason    string
}

// EventKind says what a codec has decoded.
type EventKind uint8

// The kinds of Event, each with the fields of Event that it sets.
const (
	// Events of one subscription, named by Key or Name; their order is kept.
	EventData         EventKind = iota + 1 // Message, Position, Prev, Numbered
	EventSubscribed                        // Position (delivery starts after it), Continuity, Head
	EventUnsubscribed                      // Code, Reason; Retry > 0: may be requested again after that time
	EventGap                               // Prev, Position (last lost), Count, Cause
	EventReset                             // Position (new), Cause

	// Events of the connection.
	EventReady  // Ready
	EventStep   // Step: Encode(OpStep) is wanted
	EventAck    // Ack
	EventPing   // N: Encode(OpPong) is wanted
	EventPong   // N
	EventGoAway // Code, Delay, Spread, Reason
	EventAuth   // Expires
	EventError  // Code, Reason, Retry, Fatal; Key or N if it concerns a subscription or a sequence number
)

// OfSubscription reports whether an event of kind k belongs to one subscription.
func (k EventKind) OfSubscription() bool { return k >= EventData && k <= EventReset }

// Event is one thing that the peer sent. Only the fields named at its kind are
// set.
type Event struct {
	// Kind says which of the other fields are set.
	Kind EventKind

	// Key is the subscription, where Traits.ByName is false.
	Key uint64

	// Name is the subscription's topic, where Traits.ByName is true.
	Name string

	// Message is the message of EventData.
	Message Message

	// Position is the place in the stream that the event stands for.
	Position Position

	// Prev is the number of the message before this one in this subscription.
	Prev uint64

	// Numbered means that Position.Offset and Prev are valid.
	Numbered bool

	// Continuity is what a restored subscription may claim.
	Continuity Continuity

	// Cause is why messages are missing.
	Cause Cause

	// Fatal means that the connection must be closed. Code and Reason then
	// decide as a close code would.
	Fatal bool

	// Code is a code of the language.
	Code uint16

	// Head is the newest offset of the log.
	Head uint64

	// Count is how many messages are missing; zero if unknown.
	Count uint64

	// Ready is the content of EventReady.
	Ready *Ready

	// Ack is the content of EventAck.
	Ack *Ack

	// Step is passed back to Encode in an OpStep.
	Step any

	// N is the number of a ping or pong, or a sequence number.
	N uint64

	// Reason is a text for people.
	Reason string

	// Retry is when to try again. Zero means that the peer did not say.
	Retry time.Duration

	// Delay is the earliest time at which to leave the connection.
	Delay time.Duration

	// Spread is the width of the window in which to leave or reconnect.
	Spread time.Duration

	// Expires is how long the credential remains valid.
	Expires time.Duration
}

// Continuity is what a restored subscription may claim about the messages
// between the last one received and the next one.
type Continuity uint8

// The degrees of continuity.
const (
	ContinuityNone     Continuity = iota // nothing: the client reports a Reset
	ContinuityByNumber                   // the number of the next message decides
	ContinuityProved                     // the server proved that none is missing
)

// Cause says why messages are missing or why a stream restarted.
type Cause uint8

// The causes of a loss.
const (
	CauseUnknown      Cause = iota
	CauseExpired            // older than the retention
	CauseTrimmed            // the log was trimmed
	CauseDropped            // the server dropped them
	CauseForbidden          // the client may not read them
	CauseEpoch              // the log has another epoch
	CauseDiverged           // the log holds another entry at this position
	CauseAhead              // the position is beyond the log's end
	CauseUnverifiable       // continuity cannot be proved
	CauseLost               // a number is missing in the stream
	CauseOverflow           // dropped by the delivery policy, in this process
)

var causes = [...]string{"unknown", "expired", "trimmed", "dropped", "forbidden",
	"epoch", "diverged", "ahead", "unverifiable", "lost", "overflow"}

// String returns the cause as one lower-case word.
func (c Cause) String() string {
	if int(c) < len(causes) {
		return causes[c]
	}
	return "cause " + strconv.Itoa(int(c))
}

// Ready is what the server announced when the connection became usable. A zero
// duration means that it announced none.
type Ready struct {
	// Conn echoes Resume.Conn; zero if the language has no connection number.
	Conn uint64

	// Session is the session that the connection belongs to.
	Session Session

	// Resumed means that Session is the one that Resume named, not a new one.
	Resumed bool

	// Ack is what the server has settled, and the uplink credit.
	Ack Ack

	// Tag is the id of message Ack.To, which the client compares with its own.
	// Zero means that there is none to compare.
	Tag ID

	// Heartbeat is the interval in which each side sends something.
	Heartbeat time.Duration

	// TTL is how long the server keeps the session after a connection is lost.
	TTL time.Duration

	// Dedup is how long the server remembers message ids.
	Dedup time.Duration

	// Spread is the window in which to reconnect after a loss.
	Spread time.Duration

	// Expires is how long the credential remains valid.
	Expires time.Duration

	// Limits are the server's limits.
	Limits Limits
}

// Ack is what the server has taken responsibility for.
type Ack struct {
	// To settles every sequence number up to it.
	To uint64

	// Ranges are settled above To.
	Ranges []Range

	// Rejects are the settled messages that the server refused.
	Rejects []Reject

	// Cmd settles the one message that was sent under this command id, for
	// languages without sequence numbers.
	Cmd uint64

	// HasCredit means that Credit is valid.
	HasCredit bool

	// Credit is the uplink credit.
	Credit Credit
}

// Reject is the final refusal of one message.
type Reject struct {
	Seq    uint64
	Code   uint16
	Reason string

	// Unknown means that the server cannot tell whether it accepted the message
	// earlier.
	Unknown bool
}

// Events collects events. The zero value is ready for use. It is not safe for
// concurrent use.
type Events struct {
	// List holds the events in wire order. Its owner may read and shorten it;
	// only Append adds to it.
	List []Event

	used int // how many Append has returned since Reset; everything beyond is zero
}

// Append adds an empty event of kind and returns it to be filled in. The
// pointer is valid until the next call of Append.
func (e *Events) Append(kind EventKind) *Event {
	n := len(e.List)
	if n < cap(e.List) {
		e.List = e.List[:n+1]
	} else {
		e.List = append(e.List, Event{})
	}
	ev := &e.List[n]
	if n < e.used {
		*ev = Event{} // it was cut off List and may hold old values
	}
	e.used = max(e.used, n+1)
	ev.Kind = kind
	return ev
}

// Reset empties e and keeps its memory.
func (e *Events) Reset() {
	clear(e.List[:min(max(e.used, len(e.List)), cap(e.List))])
	e.List, e.used = e.List[:0], 0
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
