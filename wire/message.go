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

const (
	Text FrameType = iota + 1
	Binary
)

// Frame is one WebSocket data message.
type Frame struct {
	Type FrameType
	Data []byte
}

// Frames collects frames to be written. The zero value is ready for use.
type Frames struct {
	List []Frame
	free [][]byte
}

// Append adds a frame. f keeps data, and Reset has it written over later.
func (f *Frames) Append(t FrameType, data []byte) {
	f.List = append(f.List, Frame{t, data})
}

// Buffer returns an empty buffer for the next frame with room for n bytes: that
// of a frame which Reset dropped, where one is big enough.
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

// keepBuffers and keepBytes bound what Reset keeps.
const (
	keepBuffers = 4
	keepBytes   = 128 << 10
)

// Reset empties f and keeps some of its memory for Buffer: nobody may use the
// data of its frames any more.
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
	Seq     uint64 // uplink sequence number, dense within a session epoch
	ID      ID
	Topic   string
	Payload []byte
	Type    string // content type
	Header  map[string]string
	TTL     time.Duration // 0: none

	// Resent says that the message may have been sent before, Age how long ago
	// it was first handed to the network; a negative Age is unknown.
	Age    time.Duration
	Resent bool

	Void        bool // an expired slot: no payload, acknowledged like any other
	Snapshot    bool // part of a snapshot
	SnapshotEnd bool // its last part
	Redelivered bool // the server says that it delivered this before
}

// Subscribe asks for a subscription or restores one.
type Subscribe struct {
	Key      uint64
	Topic    string
	From     From
	Position Position // FromResume: the last message received
	Credit   Credit
	Token    string
}

// From is where a subscription starts.
type From uint8

const (
	FromNew    From = iota // after the newest message
	FromResume             // after Position
	FromFirst              // the oldest message held
	FromLast               // the newest message held, then new ones
)

// OpKind says what an Op asks the codec to spell.
type OpKind uint8

const (
	OpSubscribe   OpKind = iota + 1 // Subscribe
	OpUnsubscribe                   // Key, Name
	OpPublish                       // Message
	OpCredit                        // Key, Name, Credit
	OpPing                          // N
	OpPong                          // N
	OpStep                          // Step, from an Event
	OpAuth                          // Token
	OpBye                           // the session may be discarded
	OpAck                           // Key, Name, Position: processed on this connection, see Traits.Processed
	OpFault                         // Code, Reason: told to the peer before the connection is closed with Code
)

// Op is one thing to say to the peer. Cmd is a command id for languages whose
// replies carry only an id: Cmd mod 4 tells the kind (1 subscribe, 2
// unsubscribe, 3 publish, 0 anything else), so that a reply can be classified
// without shared state.
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

// EventKind says what a codec understood.
type EventKind uint8

const (
	// Belonging to one subscription, named by Key or Name; kept in wire order.
	EventData         EventKind = iota + 1 // Message, Position, Prev, Numbered
	EventSubscribed                        // Position (delivery starts after it), Continuity, Head
	EventUnsubscribed                      // Code, Reason; Retry > 0: may be asked for again after it
	EventGap                               // Prev, Position (last lost), Count, Cause
	EventReset                             // Position (new), Cause

	// Belonging to the connection.
	EventReady  // Ready
	EventStep   // Step: Encode(OpStep) is wanted
	EventAck    // Ack
	EventPing   // N: Encode(OpPong) is wanted
	EventPong   // N
	EventGoAway // Code, Delay, Spread, Reason
	EventAuth   // Expires
	EventError  // Code, Reason, Retry, Fatal; Key and N where it is about a subscription or a number
)

// OfSubscription reports whether an event belongs to one subscription.
func (k EventKind) OfSubscription() bool { return k >= EventData && k <= EventReset }

// Event is one thing the peer said. Only the fields named at its kind are set.
type Event struct {
	Kind EventKind
	Key  uint64
	Name string

	Message    Message
	Position   Position
	Prev       uint64 // the number of the message before this one in this subscription
	Numbered   bool   // Position.Offset and Prev mean something
	Continuity Continuity
	Cause      Cause
	Fatal      bool // the connection must be closed; Code and Reason decide as a close code would
	Code       uint16
	Head       uint64
	Count      uint64

	Ready *Ready
	Ack   *Ack
	Step  any
	N     uint64

	Reason  string
	Retry   time.Duration // 0: not said
	Delay   time.Duration
	Spread  time.Duration
	Expires time.Duration
}

// Continuity is what a restored subscription may claim about the messages
// between the last one received and the next one.
type Continuity uint8

const (
	ContinuityNone     Continuity = iota // nothing can be claimed: the client reports a Reset
	ContinuityByNumber                   // the next number tells
	ContinuityProved                     // the server proved it
)

// Cause says why messages are missing or a stream restarted.
type Cause uint8

const (
	CauseUnknown      Cause = iota
	CauseExpired            // older than the retention
	CauseTrimmed            // the log was trimmed
	CauseDropped            // the server dropped them
	CauseForbidden          // the right to read them is missing
	CauseEpoch              // another log
	CauseDiverged           // the log at this position holds something else
	CauseAhead              // the position is beyond the log's end
	CauseUnverifiable       // continuity cannot be proved
	CauseLost               // a number is missing in the stream
	CauseOverflow           // dropped by the delivery policy, in this process
)

var causes = [...]string{"unknown", "expired", "trimmed", "dropped", "forbidden",
	"epoch", "diverged", "ahead", "unverifiable", "lost", "overflow"}

func (c Cause) String() string {
	if int(c) < len(causes) {
		return causes[c]
	}
	return "cause " + strconv.Itoa(int(c))
}

// Ready is what the server told when the connection became usable.
type Ready struct {
	Conn      uint64 // echo of Resume.Conn; 0 if the language has none
	Session   Session
	Resumed   bool
	Ack       Ack
	Tag       ID // id of message Ack.To, for the client to compare with its own
	Heartbeat time.Duration
	TTL       time.Duration
	Dedup     time.Duration // how long the server knows ids
	Spread    time.Duration
	Expires   time.Duration // until the credential expires
	Limits    Limits
}

// Ack is what the server took responsibility for.
type Ack struct {
	To        uint64 // every sequence number up to To
	Ranges    []Range
	Rejects   []Reject
	Cmd       uint64 // or the one message sent under this command id
	HasCredit bool
	Credit    Credit
}

// Reject is a final refusal of one message.
type Reject struct {
	Seq     uint64
	Code    uint16
	Reason  string
	Unknown bool // the server cannot tell whether it accepted the message earlier
}

// Events collects events. The zero value is ready for use. List may be read and
// cut by its owner.
type Events struct {
	List []Event
	used int // what Append gave out since Reset; all beyond is zero
}

// Append adds an empty event of kind and returns it to be filled in. The
// pointer is valid until the next call.
func (e *Events) Append(kind EventKind) *Event {
	n := len(e.List)
	if n < cap(e.List) {
		e.List = e.List[:n+1]
	} else {
		e.List = append(e.List, Event{})
	}
	ev := &e.List[n]
	if n < e.used {
		*ev = Event{} // one that was cut off
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

// MarshalText writes p as epoch.offset.tag with epoch and tag in base64url.
func (p Position) MarshalText() ([]byte, error) {
	b := base64.RawURLEncoding.AppendEncode(nil, []byte(p.Epoch))
	b = append(b, '.')
	b = strconv.AppendUint(b, p.Offset, 10)
	b = append(b, '.')
	return base64.RawURLEncoding.AppendEncode(b, []byte(p.Tag)), nil
}

// UnmarshalText reads what MarshalText wrote.
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

// String is p's text form.
func (p Position) String() string {
	b, _ := p.MarshalText()
	return string(b)
}
