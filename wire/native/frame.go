// Package native is limpet.v1, the wire protocol of the reference server, in JSON
// and in binary (docs/protocol.md). Frame and its parts are the frame table of
// the protocol; both ends use them.
package native

import "github.com/limpet-go/limpet/wire"

// Type is the number of a frame type.
type Type uint8

// The frame types (docs/protocol.md, section 2).
const (
	TypeHello Type = iota + 1
	TypeWelcome
	TypeMsg
	TypeAck
	TypeSub
	TypeSubOK
	TypeUnsub
	TypeGap
	TypeReset
	TypeAuth
	TypeGoAway
	TypePing
	TypePong
	TypeErr
	TypeCall
	TypeReply
)

// Frame is one frame. The member named by Type is set and no other. Frames of
// unknown types that the protocol says to ignore never appear.
//
// The fields of the members have the meanings, the units and the bounds of the
// frame table (docs/protocol.md, section 2), under the key that stands in the
// comment or is the field's name in lower case. A zero or nil field is absent
// on the wire unless a Has field says otherwise.
type Frame struct {
	Type    Type
	Msg     Msg // by value: a message must not cost an allocation
	Ack     *Ack
	Hello   *Hello
	Welcome *Welcome
	Sub     *Sub
	SubOK   *SubOK
	Unsub   *Unsub
	Gap     *Gap
	Reset   *Reset
	Auth    *Auth
	GoAway  *GoAway
	Err     *Err
	Call    *Call
	Reply   *Reply
	N       uint64 // number of a ping or pong
}

// AgeUnknown is Msg.Age of a message that may have been sent before at an
// unknown time. On the wire it is the word max in JSON and 2^64-1 in binary.
const AgeUnknown = ^uint64(0)

// Msg is an application message. In the uplink S is its sequence number; in the
// downlink S is its offset and P the offset of the message before it.
type Msg struct {
	Ch      uint64            // channel; 0 in the uplink
	S       uint64            // sequence number or offset
	P       uint64            // offset of the message before it; 0: there is none
	HasP    bool              // P is present, which the downlink requires
	ID      wire.ID           // message id
	Topic   string            // tp; in the downlink only for a wildcard subscription
	Payload []byte            // d or b; owned by whoever holds the frame
	Type    string            // ct, content type
	Header  map[string]string // h
	Tag     []byte            // tag of the position; empty: the id is the tag
	HasAge  bool              // Age is present: the message may have been sent before
	Age     uint64            // ms since the message was first handed to the network
	TTL     uint64            // lifetime in ms; 0: no end
	Flags   uint64            // fl, a set of Flag constants
}

// Flags of a Msg.
const (
	FlagSnapshot    = 1 << 0 // part of a snapshot
	FlagSnapshotEnd = 1 << 1 // last part of a snapshot
	FlagVoid        = 1 << 2 // expired slot: a number and an id without a payload
)

// Uplink is hello.up, the client's window.
type Uplink struct {
	Lo     uint64  // first unacknowledged sequence number
	Hi     uint64  // last assigned sequence number
	Tag    wire.ID // id of message Lo-1
	HasTag bool    // Tag is present
}

// Hello is the first frame of a client.
type Hello struct {
	CN   uint64   // number of this connection, from 1
	SID  string   // session id; empty: a new session
	Key  []byte   // resume key
	SE   uint64   // session epoch that the client knows
	Tok  string   // credential
	Up   *Uplink  // the client's window
	Subs []Sub    // subscriptions to restore
	Feat []string // features
	TTL  uint64   // s for which the session should be kept after a loss
	HB   uint64   // the client's heartbeat interval, ms
	RL   uint64   // bytes of the longest WebSocket message that the client reads; 0: not known
}

// Credit is an absolute allowance: see wire.Credit.
type Credit struct {
	N uint64 // messages
	B uint64 // bytes of payload
}

// Reject is the final refusal of one message.
type Reject struct {
	S    uint64 // sequence number
	Code uint64 // code inside frames
}

// ChCredit is the credit of one subscription.
type ChCredit struct {
	Ch uint64 // channel
	N  uint64 // messages
	B  uint64 // bytes of payload
}

// Limits is welcome.lim, the server's limits. A zero field means the default of
// docs/protocol.md, section 1.
type Limits struct {
	Batch      uint64 // encoded bytes of a batch of more than one frame
	Payload    uint64 // bytes of a payload
	Headers    uint64 // headers of a message
	HeaderSize uint64 // hsize: bytes of content type, header keys and values
	Subs       uint64 // subscriptions of a session
	HelloSubs  uint64 // hsubs: subscriptions in hello
	Depth      uint64 // nesting of a payload that travels as JSON
	Token      uint64 // bytes of a token
}

// Welcome is the first frame of a server.
type Welcome struct {
	CN     uint64       // echo of Hello.CN
	SID    string       // session id
	Key    []byte       // new resume key
	SE     uint64       // session epoch
	Res    bool         // the session was resumed; false: it is new
	Ack    uint64       // every sequence number up to it is settled
	Tag    wire.ID      // id of message Ack
	HasTag bool         // Tag is present
	Sack   []wire.Range // settled above Ack
	Out    []Reject     // rejections that the client may not have seen
	Cr     Credit       // uplink credit
	HB     uint64       // heartbeat interval, ms
	TTL    uint64       // retention of a lost session, s
	Dedup  uint64       // horizon of message ids, s
	Lim    *Limits      // limits
	Spread uint64       // window in which to reconnect after a loss, ms
	Feat   []string     // features
	Exp    uint64       // time until the credential expires, ms
	Dup    []wire.Range // settled messages of which the server knew the id, and that the client may not have seen
}

// Ack acknowledges and grants credit. The server sends To, X, Nak, Cr and Dup; the
// client sends Dcr.
type Ack struct {
	To    uint64       // every sequence number up to it is settled
	HasTo bool         // To is present
	X     []wire.Range // settled above To
	Nak   []Reject     // n, rejections
	Cr    *Credit      // uplink credit
	Dcr   []ChCredit   // credit of subscriptions
	Dup   []wire.Range // settled messages of which the server knew the id
}

// From is sub.from, where a subscription starts: in JSON a word, in binary the
// number of the constant.
type From uint8

// The values of sub.from.
const (
	FromResume From = iota // after the position in Epoch, O and Tag
	FromNew                // after the newest message
	FromFirst              // at the oldest message held
	FromLast               // at the newest N messages held
)

// Sub asks for a subscription.
type Sub struct {
	Ch    uint64 // channel, from 1
	Topic string // tp, topic or pattern
	From  From   // where to start
	Epoch string // ep; with O and Tag the position of the last message received
	O     uint64 // offset of that position
	Tag   []byte // tag of that position
	N     uint64 // how many of the newest messages, with FromLast; 0 means 1
	Cr    Credit // credit
	Tok   string // credential for this topic
}

// SubOK confirms a subscription. Delivery starts after O.
type SubOK struct {
	Ch    uint64 // channel
	Epoch string // ep, epoch of the log
	O     uint64 // offset after which delivery starts
	Tag   []byte // tag of that position
	Head  uint64 // newest offset of the log
	Rec   bool   // continuity with the requested position is proved
	Snap  bool   // snapshot parts follow, as of O
}

// Unsub ends a subscription or reports that it has ended.
type Unsub struct {
	Ch    uint64 // channel
	Code  uint64 // code inside frames; 0: normal
	Msg   string // text for people
	Retry uint64 // when to try again, ms
}

// GapWhy is gap.why: in JSON a word, in binary the number of the constant.
type GapWhy uint8

// The values of gap.why.
const (
	GapExpired GapWhy = iota
	GapTrimmed
	GapDropped
	GapForbidden
	GapTooBig // beyond Hello.RL; only for a client that has sent it
)

// Gap reports that the offsets in (P, To] cannot be delivered.
type Gap struct {
	Ch  uint64 // channel
	P   uint64 // offset before the gap
	To  uint64 // last missing offset
	Why GapWhy // reason
	N   uint64 // how many messages are missing; 0: unknown
	Tag []byte // tag of the position To
}

// ResetWhy is reset.why: in JSON a word, in binary the number of the constant.
type ResetWhy uint8

// The values of reset.why.
const (
	ResetEpoch ResetWhy = iota
	ResetDiverged
	ResetAhead
	ResetUnverifiable
)

// Reset reports that the stream restarts after offset O of Epoch.
type Reset struct {
	Ch    uint64   // channel
	Epoch string   // ep, epoch of the log
	O     uint64   // offset after which delivery starts
	Tag   []byte   // tag of that position
	Why   ResetWhy // reason
}

// Auth carries a new token from the client, or the server's answer.
type Auth struct {
	Tok  string // from the client: new credential
	Exp  uint64 // accepted; time until it expires, ms
	Need uint64 // time within which to send a new one, ms
	Code uint64 // refused
}

// GoAway announces the end of a connection.
type GoAway struct {
	Code   uint64 // close code to come
	After  uint64 // earliest time at which to leave, ms
	Spread uint64 // width of the window in which to leave, ms
	DL     uint64 // time until the server closes, ms
	URL    string // where to connect instead
	Res    bool   // the session can be resumed
	Fin    bool   // from the client: discard the session
}

// Err reports a fault.
type Err struct {
	Code  uint64 // code inside frames or close code
	Msg   string // text for people
	Ch    uint64 // channel that it concerns
	S     uint64 // sequence number that it concerns
	HasS  bool   // S is present
	Retry uint64 // when to try again, ms
	Fatal bool   // the sender closes the connection
}

// Call asks for a Reply on the same connection. It is outside the window of messages.
type Call struct {
	N       uint64            // number of the call, each once on a connection
	Topic   string            // tp
	Payload []byte            // d or b; owned by whoever holds the frame
	Type    string            // ct, content type
	Header  map[string]string // h
	DL      uint64            // ms after which the client no longer waits; 0: no end
}

// Reply answers a Call. With a Code it is a refusal, which has no payload.
type Reply struct {
	N       uint64 // number of the call
	Code    uint64 // code inside frames; 0: the call was served
	Msg     string // text for people
	Payload []byte // d or b; owned by whoever holds the frame
	Type    string // ct, content type
}

// FeatureCall is the feature of a server that takes calls (docs/protocol.md, section 1).
const FeatureCall = "call"

// Encoding is one of the two encodings of limpet.v1.
type Encoding uint8

// The encodings.
const (
	JSON Encoding = iota + 1
	Binary
)

// Sender is the end that sent a batch. Which frames and fields are allowed or
// required depends on it.
type Sender uint8

// The ends of a connection.
const (
	FromClient Sender = iota
	FromServer
)
