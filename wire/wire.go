// Package wire is the seam between a client and one wire protocol.
//
// A Dialect is pure: bytes in, events out. It owns no goroutine, clock, socket
// or lock, so it can be fuzzed and tested from golden transcripts without a
// client. The client makes every identifier (subscription keys, command ids,
// sequence numbers, message ids); a dialect only encodes them. What a protocol
// can do is stated in its Traits, and the client promises no more than that.
package wire

import "time"

// Dialect implements one wire protocol. A Dialect is immutable and safe for concurrent
// use, so several clients may share one value. The client recovers a panic in a
// method of a Dialect or a Codec: it ends the call, the attempt or the
// connection. Base has Attempt and Verdict as most servers need them.
//
// CheckTopic, Open and Verdict, and Start and Encode of a Codec, run on goroutines of
// the client that must go on: they must not wait for anything. Decode and Attempt must
// not wait either; if one has not returned for 10 seconds, the client ends with a
// HangError and abandons its goroutine.
type Dialect interface {
	// Name returns a short lower-case word for logs and errors.
	Name() string

	// Traits returns what the protocol can do.
	Traits() Traits

	// CheckTopic returns nil if topic is valid for use, otherwise an error that
	// says what is wrong with it. The result depends on the arguments alone.
	CheckTopic(use Use, topic string) error

	// Attempt prepares the next connection: URL, header and subprotocols. A
	// dialect that must first make an HTTP request sets a.Request and leaves
	// a.Dial false. It is then called again with a.Response. At most three
	// requests may precede a dial.
	Attempt(a *Attempt) error

	// Open returns the state of one connection. It is called after a successful
	// upgrade, in which the server chose one of Attempt.Subprotocols if there are any. A
	// *CodeError means that the peer broke the protocol. Any other error means that the
	// dialect cannot use the connection, for example because of its token: the client closes it,
	// reports the error with the class "user" and backs off, unless Verdict, which finds
	// the error in Failure.Err, decides otherwise.
	Open(Resume) (Codec, error)

	// Verdict decides what a failure means. The zero Verdict leaves the decision
	// to the client's own tables of HTTP statuses and close codes.
	Verdict(Failure) Verdict
}

// Checker is implemented by a Dialect whose options may be wrong and whose
// constructor returns no error. A client calls Check once, when it is made.
type Checker interface {
	// Check returns nil if the options are right, otherwise an error that names the
	// option and says what to do.
	Check() error
}

// Codec is the state of one connection. Decode belongs to the client's reader;
// Start and Encode belong to its loop. Each half runs on one goroutine at a
// time, not always the same one. The two halves share no mutable state, a Ledger
// excepted: what both need travels in Op and Event values.
type Codec interface {
	// Start appends the first frames of the connection. With Traits.Connection.Messages and
	// without Traits.Greeting, pings and pongs may come between them.
	Start(out *Frames) error

	// Decode appends the events that f holds. One frame may hold many messages,
	// and one message may take many frames. f.Data is valid only during the
	// call: copy what an event keeps, except for a payload that is Event.Borrowed. An
	// error ends the connection and discards the events of this frame. A message that
	// can be skipped is no error: see EventMalformed.
	// A *CodeError chooses the close code; any other error closes with 1002.
	Decode(f Frame, out *Events) error

	// Encode appends the frames for ops, in order, packing as many ops into one
	// frame as the peer's limits allow. ops and everything they point to,
	// payloads included, are valid only during the call. If an op cannot be
	// encoded, Encode returns an *OpError with its index: out then holds the
	// ops before it and none from it on. EncodeEach does so.
	Encode(ops []Op, out *Frames) error
}

// Packer is implemented by a Codec that puts several operations into one frame. A client
// that may send few messages asks it how many operations it can encode at once. Without a
// Packer, also where a decorator hides it, the client finds that by trial, and packs less.
type Packer interface {
	// CountFrames returns how many frames Encode would append for ops, or more. It
	// changes nothing, and belongs to the loop. Of a Subscribe only the Key and the Topic
	// are set.
	CountFrames(ops []Op) int
}

// Use is the purpose for which a topic is checked.
type Use uint8

// The uses of a topic.
const (
	UsePublish Use = iota
	UseSubscribe
)

// Traits says what a wire protocol can do. The zero value describes the least
// capable one: a server that pushes messages and accepts none. They need no
// number, no confirmation and no greeting, and name their topic. A client
// refuses traits that contradict each other.
type Traits struct {
	// Publish means that the client may send application messages.
	Publish bool

	// Acks means that the server acknowledges published messages, each of them: one
	// that it never answers stays Pending until the connection ends. Without Acks a
	// receipt ends as Written.
	Acks bool

	// Calls means that the client may send requests that get a reply on the same connection, by OpCall:
	// Decode reports an EventReply with the number of each, in any order. The client never uses the
	// number of a call again on a connection, and sends at most 64 whose caller waits. Without a greeting every
	// server of the dialect takes calls; with one, Ready.Traits can say that this one does not.
	Calls bool

	// Streams means that a message can be sent without its size: Encode makes one frame of
	// an OpPublish that holds the payload and nothing else. The client then encodes the
	// message without a payload, for the type of the frame, and writes the payload as it
	// comes. Streams needs Publish, and excludes Acks and MaxPayload.
	Streams bool

	// Sessions means that unacknowledged messages survive a connection, by
	// sequence number.
	Sessions bool

	// Dedup means that the server recognises a message by its id in a later session,
	// too. Without it a message that was sent in a session that is lost ends as
	// Unknown, unless the caller has allowed AtLeastOnce. It counts only with Sessions.
	Dedup bool

	// Resume means that the server can resume a subscription from a Position. Then callers
	// may also ask for FromFirst and FromLast: Encode returns an error for an OpSubscribe
	// that the server cannot serve, which ends that subscription alone.
	Resume bool

	// Credit means that the server respects the credit of each subscription, so
	// a consumer may use the overflow policy Block.
	Credit bool

	// Unsubscribe means that the client can end one subscription.
	Unsubscribe bool

	// Connection is what the server allows one connection, as far as it is known.
	Connection ConnectionLimits

	// Greeting means that Decode reports EventReady. Without it a connection is
	// ready once the frames of Start are written.
	Greeting bool

	// Confirms means that Decode reports EventSubscribed or EventUnsubscribed
	// for each subscription that was requested.
	Confirms bool

	// ConfirmsEnd means that Decode reports EventUnsubscribed with code 0 when the
	// server confirms that a subscription has ended, by an OpUnsubscribe or by
	// itself. With ByKey it counts only beside KeepsSubs.
	ConfirmsEnd bool

	// KeepsSubs means that the server keeps subscriptions in the session: after a
	// welcome with Resumed, the client asks for none that were live in that session and
	// takes their streams for continued without a loss. It ends at the server those that
	// were closed in the meantime. It needs Greeting.
	//
	// With StartSubs, Open has the subscriptions: then the dialect asks for those that the
	// server does not keep, and reports an EventSubscribed for each that goes on. The
	// client only ends those that were closed, unless their topic has another subscription
	// by then. Without ByKey, KeepsSubs needs StartSubs, and excludes ConfirmsEnd.
	KeepsSubs bool

	// ByKey means that every event of a subscription has its Event.Key: the server
	// repeats an identifier that the client chose. Without it Event.Name, the
	// topic, says which subscription is meant, and the server knows one subscription to a
	// topic at a time. Subscriptions of one client to the same topic share it, but with
	// Processed, Credit, KeepsSubs, Resume and HolesFault, and not after a message with
	// Message.Snapshot, which one that begins later would lack.
	//
	// A name does not say which of two subscriptions to one topic is meant, so the
	// client asks for a topic again on one connection only when the server has
	// finished with the earlier subscription. It waits for the answer to the
	// earlier request and, with ConfirmsEnd, for the end; at most 10 seconds from
	// the write of OpUnsubscribe. With neither Confirms nor ConfirmsEnd it always
	// waits for these 10 seconds: nothing else separates the last messages of the
	// earlier subscription from the first of the later one. A new connection
	// begins without earlier subscriptions.
	//
	// A dialect without ByKey must report every answer, also one that seems to
	// repeat an earlier one: only the client knows which request is open. It must
	// not make up an answer from a message. With HolesLoss, the first message on a
	// connection stands for the confirmation, unless the end of an earlier
	// subscription to the topic was not confirmed on it: then the client discards
	// messages until the confirmation comes, or for 10 seconds.
	//
	// With Confirms and without ByKey, an EventError that is not fatal, has a code
	// and names neither Key nor N, means that the server refused an open request,
	// and perhaps all topics in it: the client asks for them again in parts. One
	// with code 0 is a notice.
	ByKey bool

	// EarlyStart means that Attempt puts what Start says into Attempt.Early when it has
	// Attempt.Resume. Start says the same again on the connection: a server that has read the
	// headers skips it, any other one, or one behind a proxy that removes them, reads
	// it. What changes between the attempt and the connection follows as ops. The client
	// gives each such attempt a Resume.Conn of its own, whether it succeeds or not. It does not
	// set Resume once such an attempt has reached a server in vain, until a connection is ready.
	// EarlyStart needs Greeting and ByKey, and excludes KeepsSubs.
	EarlyStart bool

	// ErrorStaysOpen means that the server leaves the connection open after a fatal
	// EventError: the client closes it at once. Without it the client waits for the
	// close frame, for one second; Failure.CloseCode has its code. The client writes
	// nothing after a fatal EventError in either case.
	ErrorStaysOpen bool

	// Fallback means that the server speaks the fallback over plain HTTP requests of
	// docs/protocol.md, section 12, at the URL of the upgrade. Options.Fallback needs it. An
	// attempt then calls Attempt once for the upgrade and once for the other transport.
	Fallback bool

	// Silent means that the client must never send a data frame: no Op is
	// encoded.
	Silent bool

	// Refresh means that the server takes a new credential on an open connection, by OpAuth.
	// The client asks its user for one when an EventAuth says that it is Wanted, and by itself
	// once 80 % of the time have passed that Ready.Expires or EventAuth.Expires gave the last
	// one. The codec reports the answer of the server as an EventAuth: with Expires, or zero if the
	// credential does not expire, when it has taken the credential, or with a Code. A server that
	// gives no answer, or no time, may do without. What becomes of a connection whose
	// credential expires is up to the server: a close code with the verdict ActionRefresh, for
	// example. Without Refresh an EventAuth changes nothing.
	Refresh bool

	// Fin means that OpBye lets the server discard the session.
	Fin bool

	// Holes is what a missing number means.
	Holes Holes

	// LookBack is how far below the last number of a subscription the server may
	// repeat messages: a message with such a number is dropped as a duplicate. A
	// number further back means that the server has restarted: the client reports a
	// Reset (CauseRestarted) and delivers the message. With zero only the last
	// message may be repeated. A confirmation with ContinuityProved and a lower
	// Position allows for itself every number after it, unless its Head is below the
	// last number. LookBack is for HolesLoss: with HolesFault, positions
	// and epochs say what is a duplicate.
	LookBack uint64

	// DedupWindow is how many recent message ids the client remembers for each
	// subscription; it drops a message with one of them. Set it for cursors that
	// include the last message, and for servers that may send a message twice.
	// Zero disables the check.
	DedupWindow int

	// Processed is what the server must be sent about processed messages.
	Processed Processed

	// Release means that the client can give back a message that it will not process,
	// by OpRelease: it delivers it again, here or elsewhere. It needs ProcessedEach.
	// Without it, or without Unsubscribe, the client sends OpAck for what a closed
	// subscription has not processed: otherwise a server that waits for
	// acknowledgements would send no more.
	Release bool

	// Ping is how the client asks an idle server for a sign of life.
	Ping Ping

	// StartSubs is how many subscriptions Start carries. The others follow as
	// ops.
	StartSubs int

	// StartBytes bounds the subscriptions that Start carries, in bytes: their
	// topics, tokens and positions, and 96 for each. What does not fit follows
	// as ops. Zero means no bound.
	StartBytes int

	// MaxPayload bounds one published payload, in bytes. Zero means no limit.
	MaxPayload int

	// MinReadLimit is the smallest limit for one received WebSocket message with
	// which a client can work, in bytes: what the server sends in one message
	// whatever the client does. Zero means that any limit will do.
	MinReadLimit int64

	// CloseCode is the code of a clean close. Zero means 1000.
	CloseCode uint16
}

// Holes is what it means when a message does not follow the one before it.
type Holes uint8

// The meanings of a missing number.
const (
	// HolesLoss: messages were lost. The client reports a Gap and continues.
	HolesLoss Holes = iota

	// HolesFault: the server broke its promise. The client treats it as a
	// protocol error and subscribes again. It needs Confirms: a message before the
	// confirmation is a protocol error, too.
	HolesFault
)

// Processed is what a server must be sent about messages that were processed.
type Processed uint8

// What is sent about processed messages.
const (
	// ProcessedNothing: no OpAck is sent.
	ProcessedNothing Processed = iota

	// ProcessedEach: an OpAck for each message, in any order.
	ProcessedEach

	// ProcessedCumulative: an OpAck for the last message of a contiguous run.
	ProcessedCumulative
)

// Ping is how a client asks an idle server for a sign of life.
type Ping uint8

// The ways to ask for a sign of life.
const (
	PingControl Ping = iota // with a WebSocket ping frame
	PingOp                  // by encoding an OpPing
	PingNone                // not at all: the server sends something regularly
)

// Resume is what the client knows when a connection begins.
type Resume struct {
	// Conn is the number of this connection. It is greater than that of every
	// earlier connection of the session.
	Conn uint64

	// Subprotocol is the one that the server chose; empty if it chose none.
	Subprotocol string

	// Session is the session to resume. The zero value asks for a new one.
	Session Session

	// Token is the credential for this connection.
	Token string

	// Uplink is the state of the client's window.
	Uplink Uplink

	// Subs are the first Traits.StartSubs subscriptions, with their positions.
	Subs []Subscribe

	// TTL is how long the server should keep the session after a connection is
	// lost. Zero leaves that to the server.
	TTL time.Duration

	// ReadLimit bounds one received WebSocket message, in bytes.
	ReadLimit int64

	// Heartbeat is the client's interval. A protocol that can say so asks the
	// server to send something at least as often.
	Heartbeat time.Duration

	// State is the Attempt.State of the attempt that made the connection.
	State any
}

// Session identifies a session at the server. The zero value asks for a new one.
type Session struct {
	// ID is the server's name for the session.
	ID string

	// Key is the secret that proves the right to resume it.
	Key []byte

	// Epoch numbers the incarnations of the session.
	Epoch uint64
}

// Uplink is the state of the client's window of unacknowledged messages.
type Uplink struct {
	Lo  uint64 // first unacknowledged sequence number
	Hi  uint64 // last assigned sequence number
	Tag ID     // id of message Lo-1; zero if there is none
}

// Position is a place in a stream from which it can be resumed with proof of
// continuity: Offset in the log named by Epoch, and Tag, which the server
// compares with what it holds at that offset. An opaque cursor travels in Tag
// alone. The zero Position means no position. Positions are comparable with ==.
type Position struct {
	Epoch  string // names the incarnation of the log; opaque
	Offset uint64 // number of the entry in the log
	Tag    string // identifies the entry, or an opaque cursor
}

// IsZero reports whether p is the zero Position.
func (p Position) IsZero() bool { return p == Position{} }

// Credit is how much may be sent on a connection, as absolute counts from its
// beginning. One message may overdraw Bytes.
type Credit struct {
	N     uint64 // messages; for the uplink the highest sequence number
	Bytes uint64 // bytes of payload
}

// Range is the closed interval of sequence numbers [Lo, Hi].
type Range struct {
	Lo uint64 // first sequence number
	Hi uint64 // last sequence number, at least Lo
}

// Limits are the peer's limits on what the client sends. A zero field means that the
// limit is unknown. The client splits batches for Batch; if a frame for several ops
// still exceeds it, the frame is not sent and Encode is called again with fewer ops. A
// message beyond another limit is rejected before it is sent.
type Limits struct {
	Batch      int // encoded bytes of one frame that holds more than one message
	Payload    int // bytes of one payload
	Headers    int // headers of one message
	HeaderSize int // bytes of content type, header keys and header values of one message
}
