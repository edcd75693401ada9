// Package wire is the seam between a client and one wire language.
//
// A Dialect is pure: bytes in, events out. It owns no goroutine, clock, socket
// or lock, so it is fuzzed and tested from golden transcripts without a client.
// The client makes every identifier (subscription keys, command ids, sequence
// numbers, message ids); a dialect only spells them. What a dialect cannot do
// it says in its Traits, and the client then promises less.
package wire

import "time"

// Dialect is one wire language. A Dialect is immutable and safe for concurrent
// use: several clients may share one value.
type Dialect interface {
	// Name is a short lower-case word for logs and errors.
	Name() string

	// Traits says what the language can do.
	Traits() Traits

	// CheckTopic reports whether topic may be used for use, with an error that
	// says what is wrong with it. It decides from its arguments alone.
	CheckTopic(use Use, topic string) error

	// Attempt prepares the next connection: URL, header and subprotocols. A
	// dialect that must ask over HTTP first sets a.Request and leaves a.Dial
	// false; it is called again with a.Response, three times at most.
	Attempt(a *Attempt) error

	// Open returns the state of one connection, after the upgrade succeeded.
	Open(Resume) (Codec, error)

	// Verdict says what a failure means. The zero Verdict leaves the decision
	// to the client's own tables of HTTP statuses and close codes.
	Verdict(Failure) Verdict
}

// Codec is the state of one connection. Decode belongs to the client's reader;
// Start and Encode belong to its loop. Each half runs on one goroutine at a time,
// not always the same. The halves share no mutable state: what both need travels
// in Op and Event values.
type Codec interface {
	// Start appends the first frames of the connection.
	Start(out *Frames) error

	// Decode appends the events that f holds. One frame may hold many messages
	// and many frames may make one message. f.Data is valid only during the
	// call. An error ends the connection, and no event of that frame is
	// applied; a *CodeError chooses the close code, any other error closes 1002.
	Decode(f Frame, out *Events) error

	// Encode appends the frames for ops, in order, packing as many into one
	// frame as the peer's limits allow. ops and what they point to are valid
	// only during the call, payloads included. When an op cannot be encoded it returns
	// an *OpError with that op's index: the ops before it are in out, the ones
	// from it on are not.
	Encode(ops []Op, out *Frames) error
}

// Use is what a topic is wanted for.
type Use uint8

const (
	UsePublish Use = iota
	UseSubscribe
)

// Traits is what a wire language can do. The zero value is the poorest: a
// server that pushes messages without numbers and takes none.
type Traits struct {
	Publish     bool      // the client may send application messages
	Acks        bool      // the server acknowledges them; without it a receipt ends as Written
	Sessions    bool      // unacknowledged messages survive a connection by sequence number
	Resume      bool      // the server resumes a subscription from a Position
	Credit      bool      // the server respects credit per subscription, so a consumer may Block
	Unsubscribe bool      // the client can end one subscription
	Greeting    bool      // Decode reports Ready; without it a connection is ready once Start's frames are written
	Confirms    bool      // Decode reports Subscribed or Unsubscribed for each subscription asked for
	ByName      bool      // data is routed by Event.Name instead of Event.Key
	RawStream   bool      // frames carry a byte stream
	Silent      bool      // the client must never send a data frame: no Op is encoded
	Fin         bool      // Op Bye tells the server that the session may be discarded
	Holes       Holes     // what a missing number means
	DedupWindow int       // so many ids are remembered for each subscription, and a message that repeats one is dropped: for cursors that include the last message, or servers that may repeat
	Processed   Processed // what the server wants to hear of processed messages
	Ping        Ping      // how the client asks for a sign of life
	StartSubs   int       // how many subscriptions Start carries; the others follow as Ops
	MaxPayload  int       // bytes of one published payload before Ready has told the peer's limit; 0 means no limit
	CloseCode   uint16    // the code of a clean close; 0 means 1000
}

// Holes is what it means when a message does not join the one before it.
type Holes uint8

const (
	HolesFault Holes = iota // the server broke its promise: protocol error, resubscribe
	HolesLoss               // messages were lost: a Gap, and on
)

// Processed is what a server wants to hear of the messages that were processed.
type Processed uint8

const (
	ProcessedNothing    Processed = iota
	ProcessedEach                 // an OpAck for each message, in any order
	ProcessedCumulative           // an OpAck for the last of a contiguous run
)

// Ping is how a client asks an idle peer for a sign of life.
type Ping uint8

const (
	PingControl Ping = iota // a WebSocket ping frame
	PingOp                  // Encode an OpPing
	PingNone                // the peer speaks by itself
)

// Resume is what the client knows when a connection begins.
type Resume struct {
	Conn        uint64 // number of this connection; greater than all earlier ones of the session
	Subprotocol string // what the server chose
	Session     Session
	Token       string
	Uplink      Uplink
	Subs        []Subscribe // the first Traits.StartSubs subscriptions, with their positions
	TTL         time.Duration
	ReadLimit   int64
}

// Session identifies a session at the server. The zero value asks for a new one.
type Session struct {
	ID    string
	Key   []byte
	Epoch uint64
}

// Uplink is the state of the client's window of unacknowledged messages.
type Uplink struct {
	Lo  uint64 // first unacknowledged sequence number
	Hi  uint64 // last assigned sequence number
	Tag ID     // id of message Lo-1; zero if none
}

// Position is a place in a stream, from which it can be resumed provably:
// Offset in the log named by Epoch, and Tag, which the server can compare with
// what it holds at that offset. Opaque cursors travel in Tag alone. The zero
// Position is no position. Positions are comparable with ==.
type Position struct {
	Epoch  string
	Offset uint64
	Tag    string
}

// IsZero reports whether p is no position.
func (p Position) IsZero() bool { return p == Position{} }

// Credit is how much may be sent on a connection, in absolute counts from its
// beginning: N messages (for the uplink: the highest sequence number) and Bytes
// of payload. One message may overdraw Bytes.
type Credit struct {
	N     uint64
	Bytes uint64
}

// Range is the closed interval of sequence numbers [Lo, Hi].
type Range struct{ Lo, Hi uint64 }

// Limits are the peer's. A zero field is unknown.
type Limits struct {
	Batch      int // encoded bytes of one frame that holds more than one message
	Payload    int // bytes of one payload
	Headers    int
	HeaderSize int
	Subs       int
	StartSubs  int
}
