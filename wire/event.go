package wire

import (
	"strconv"
	"time"
)

// EventKind says what a codec has decoded.
//
// Traits say which events a dialect owes the client. With the zero Traits it owes
// none but EventData with a Name:
//
//	EventReady         with Greeting, once on a connection, before the client sends anything but steps
//	EventSubscribed    with Confirms, for each subscription that the server has taken
//	EventUnsubscribed  with Confirms, code other than 0, for each that it has refused;
//	                   with ConfirmsEnd, code 0, for each that has ended; one without ByKey that
//	                   nothing has closed is requested again after 1 to 4 seconds. It ends if the
//	                   server ends it three times in a row without a message
//	EventAck           with Acks, for each message
//	EventReply         with Calls, for each call
//	EventPong          with PingOp, for each OpPing, unless anything else comes in time
//	EventData          a Key with ByKey, otherwise a Name; everything else is optional
//
// What the client does with the number of a message, Position.Offset with Numbered,
// depends on the last number of the subscription, on this or an earlier connection:
//
//	none before            it is the base
//	equal                  a duplicate, dropped; as the first one of a connection, with another
//	                       Position.Tag, the server has restarted: a Reset (CauseDiverged),
//	                       then the message
//	lower, by LookBack at  a duplicate, dropped
//	most
//	lower                  the server has restarted: a Reset (CauseRestarted), then the message
//	higher, and Prev is    the next message
//	the last number
//	higher, and Prev is    a Gap (CauseLost), then the message
//	higher than the last
//	no number              the next message; after a reconnect a Reset (CauseUnverifiable) before the
//	                       first one, unless its Position.Tag repeats the last one
//
// A Prev that is zero, or not below the number, stands for the number less 1: numbers
// that rise by more than 1 need a Prev, or belong into Position.Tag, as a cursor. This is
// for HolesLoss. With HolesFault every number up to the last is a duplicate, and a Prev
// higher than the last number ends the connection.
type EventKind uint8

// The kinds of Event, each with the fields of Event that it sets.
const (
	// Events of one subscription, named by Key or Name; their order is kept.
	EventData         EventKind = iota + 1 // Message, Position, Prev, Numbered
	EventSubscribed                        // Position (delivery starts after it; with HolesLoss zero means that it is not known), Continuity, Head
	EventUnsubscribed                      // Code (0: ended, otherwise refused), Reason; Retry > 0: may be requested again after that time
	EventGap                               // Prev, Position (last lost), Count, Cause; see below
	EventReset                             // Position (new, as with EventSubscribed), Cause

	// Events of the connection.
	EventReady  // Ready
	EventStep   // Step: Encode(OpStep) is wanted, after Delay
	EventAck    // Ack
	EventPing   // N, Step: Encode(OpPong) is wanted
	EventPong   // N
	EventGoAway // Code, Delay, Spread, Reason, Retry: when the server ends the connection, 0 if it does not say, Name: the URL to go to, "" for another connection to the same one; with neither Delay nor Spread the client makes a new connection at once
	EventAuth   // Expires, Wanted; or Code, PeerCode, Reason and Retry: the server has not taken the last OpAuth. See Traits.Refresh
	EventError  // Code, Reason, Retry, Fatal; Key or N if it concerns a subscription or a sequence number; see Traits.ByKey

	// EventMalformed: a message that the dialect cannot read or place was skipped.
	// Reason: one of a few constant texts, without anything that the peer sent. Detail,
	// if that says more.
	EventMalformed

	// EventSession: the state of the session has changed. Ready, of which only Session
	// counts: what the next Open gets as Resume.Session.
	EventSession

	// EventOutnumbered: before EventReady, the server refuses the connection because it knows a
	// connection of this session with the number N or higher, which the client may not know of: a
	// request may have reached the server twice. The client comes back with a higher
	// Resume.Conn.
	EventOutnumbered

	// EventReply answers the call with the number N: see Traits.Calls. Message, of which Payload and
	// Type count, in memory of its own; or Code, PeerCode and Reason: the server has refused it.
	// Once for each call; the client ignores a number that it does not wait for.
	EventReply
)

// An EventGap with neither Prev nor Position says that a message is missing whose
// place is not known. The client reports the Gap where the stream is. With Numbered
// it does not, if it knows a number of the stream: then the number of the next
// message says whether and what is missing, and Cause why.
//
// A dialect that skips a message appends an EventMalformed. If it can tell whose
// message it was, it also appends such an EventGap with CauseMalformed for each of
// these subscriptions. The client counts an EventMalformed, and reports each Reason
// and Detail once for each connection. Neither event proves that the connection works.

// OfSubscription reports whether an event of kind k belongs to one subscription.
func (k EventKind) OfSubscription() bool { return k >= EventData && k <= EventReset }

// Event is one thing that the peer sent. Only the fields named at its kind are
// set.
type Event struct {
	// Kind says which of the other fields are set.
	Kind EventKind

	// Key is the subscription, where Traits.ByKey is true.
	Key uint64

	// Name is the subscription's topic, where Traits.ByKey is false. With ByKey, a
	// Name in EventSubscribed is the server's name for the subscription on this
	// connection: later events may have the Name instead of the Key.
	Name string

	// Message is the message of EventData.
	Message Message

	// Borrowed means that Message.Payload is a part of the Data of the frame, as it stands
	// there. The client copies it when it knows who gets it; to others it is valid only
	// during the call of Decode. Without Borrowed the payload must be a copy.
	Borrowed bool

	// Position is the place in the stream that the event stands for.
	Position Position

	// Prev is the number of the message before this one in this subscription. With
	// HolesLoss, zero stands for Position.Offset less 1.
	Prev uint64

	// Numbered means that Position.Offset and Prev are valid.
	Numbered bool

	// Continuity is what a restored subscription may claim.
	Continuity Continuity

	// Cause is why messages are missing.
	Cause Cause

	// Wanted means that the server wants a new credential now, within Expires if that is
	// not zero.
	Wanted bool

	// Fatal means that the connection must be closed. Code and Reason then
	// decide as a close code would.
	Fatal bool

	// Code is a code of the protocol, or CodeRefused.
	Code uint16

	// PeerCode is the server's own code, with the Code CodeRefused or 0. The client
	// reports it. Zero means that the server sent none.
	PeerCode int64

	// Head is the newest offset of the log; zero if it is not known. Where holes are
	// losses, a Head below the last number shows that the server has restarted: a Reset
	// (CauseAhead).
	Head uint64

	// Count is how many messages are missing; zero if unknown.
	Count uint64

	// Ready is the content of EventReady.
	Ready *Ready

	// Ack is the content of EventAck.
	Ack *Ack

	// Step is passed back to Encode in an OpStep, or in the OpPong that answers an
	// EventPing. At most 1024 of them wait for a peer that does not read.
	Step any

	// N is the number of a ping or pong, a sequence number, or the number of a connection.
	N uint64

	// Reason is a text for people.
	Reason string

	// Detail is what the Reason of an EventMalformed is about, for example the type of
	// the message. It may be a text of the peer: the client escapes it and cuts Reason
	// and Detail to 256 bytes.
	Detail string

	// Retry is when to try again. Zero means that the peer did not say.
	Retry time.Duration

	// Delay is the earliest time at which to leave the connection, or how long an
	// EventStep waits, at most a minute. Steps with a Delay are encoded in order of
	// their time.
	Delay time.Duration

	// Spread is the width of the window in which to leave or reconnect.
	Spread time.Duration

	// Expires is how long the credential remains valid. Zero means without end.
	Expires time.Duration
}

// CodeRefused is the Code of a refusal or an error in a protocol that has no codes, or
// codes of its own that a Code cannot hold. It refuses as any Code but 0 does. The client
// does not report it: it reports PeerCode.
const CodeRefused = 1<<16 - 1

// Continuity is what a restored subscription may claim about the messages
// between the last one received and the next one.
type Continuity uint8

// The degrees of continuity.
const (
	ContinuityNone     Continuity = iota // nothing: the client reports a Reset
	ContinuityByNumber                   // the number of the next message decides; without numbers its Position.Tag, if the server repeats the last message
	ContinuityProved                     // the server proved that none is missing; with a Position below the last number it repeats from there
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
	CauseMalformed          // a message could not be read
	CauseRestarted          // the server counts from a lower number again
	CauseTooBig             // a message is longer than the client reads
)

var causes = [...]string{"unknown", "expired", "trimmed", "dropped", "forbidden",
	"epoch", "diverged", "ahead", "unverifiable", "lost", "overflow", "malformed", "restarted", "too_big"}

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
	// Conn echoes Resume.Conn; zero if the protocol has no connection number.
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

	// Spread is the window in which to reconnect after a loss.
	Spread time.Duration

	// Expires is how long the credential remains valid. It counts with Traits.Refresh.
	Expires time.Duration

	// Limits are the server's limits.
	Limits Limits

	// Traits is what this connection can do, where the server has agreed to less than
	// Dialect.Traits. Nil means everything. What counts: Unsubscribe, Credit, Fin, Refresh, Dedup
	// and Calls; Acks, if the dialect has no Sessions; Processed, if it is
	// ProcessedNothing. A trait that the dialect lacks stays out.
	Traits *Traits
}

// Ack is what the server has taken responsibility for.
type Ack struct {
	// To settles every sequence number up to it.
	To uint64

	// Ranges are settled above To.
	Ranges []Range

	// Rejects are the settled messages that the server refused.
	Rejects []Reject

	// Duplicates are those of the messages above that the server did not accept a second
	// time, because it had accepted one with the same id before. They settle nothing by
	// themselves.
	Duplicates []Range

	// Cmd settles the one message that was sent under this command id, for
	// protocols without sequence numbers. An id that is not of an OpPublish settles none.
	Cmd uint64

	// Reply is what the server replied to the message under Cmd: the publisher gets it
	// with the outcome. The event owns its memory. Empty if there is none.
	Reply []byte

	// HasCredit means that Credit is valid. It counts only with Traits.Sessions, whose
	// sequence numbers it is about: without them a client sends as fast as the
	// connection takes, and wiretest refuses a dialect that reports credit.
	HasCredit bool

	// Credit is the uplink credit.
	Credit Credit
}

// Reject is the refusal of one message. It is final, unless Retry is set.
type Reject struct {
	Seq    uint64 // sequence number of the message
	Code   uint16 // a code of the protocol, or CodeRefused
	Reason string // text for people

	// PeerCode is the server's own code, with the Code CodeRefused; zero if it sent none.
	PeerCode int64

	// Unknown means that the server cannot tell whether it accepted the message
	// earlier.
	Unknown bool

	// Reused means that the id of the message was used for another message before.
	Reused bool

	// Retry, if it is not zero, means that the server has not taken the message, and may
	// be sent it again after that time, at most 15 minutes. The message stays Pending and
	// does not keep its place among the others; a ServerNotice has the code and the
	// reason. It counts only without Traits.Sessions, and not beside Unknown.
	Retry time.Duration
}

// OwnPayload gives a payload that is Borrowed memory of its own. A dialect that keeps an event
// of another one calls it within Decode.
func (e *Event) OwnPayload() {
	if e.Borrowed {
		e.own()
	}
}

func (e *Event) own() {
	var own []byte
	if lent := e.Message.Payload; len(lent) > 0 {
		own = make([]byte, len(lent))
		copy(own, lent) // into a local variable: the compiler does not clear it first
	}
	e.Message.Payload, e.Borrowed = own, false
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

// Reject adds an EventAck that refuses the message that was sent under a command id, and
// returns the refusal to be filled in. If cmd is not of an OpPublish, the client ignores it.
func (e *Events) Reject(cmd uint64) *Reject {
	ack := &Ack{Rejects: make([]Reject, 1)}
	if cmd%4 == 3 { // see Op.Cmd
		ack.Rejects[0].Seq = cmd / 4
	}
	e.Append(EventAck).Ack = ack
	return &ack.Rejects[0]
}

// Reset empties e and keeps its memory.
func (e *Events) Reset() {
	clear(e.List[:min(max(e.used, len(e.List)), cap(e.List))])
	e.List, e.used = e.List[:0], 0
}
