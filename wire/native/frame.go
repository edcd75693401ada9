// Package native is limpet.v1, the language of the reference server, in JSON
// and in binary (docs/protocol.md). Frame and its parts are the frame table of
// the protocol; both ends use them.
package native

import "github.com/limpet-go/limpet/wire"

// Type is the number of a frame type.
type Type uint8

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
)

// Frame is one frame: the member named by Type is set and no other. Frames of
// unknown types that the protocol says to ignore never appear.
type Frame struct {
	Type    Type
	Msg     Msg // by value: the hot path
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
	N       uint64 // ping, pong
}

// AgeUnknown is Msg.Age of a message that may have been sent before, nobody
// knows when; on the wire it is the word max.
const AgeUnknown = ^uint64(0)

// Msg is an application message: uplink with S as sequence number, downlink
// with S as offset and P as the offset of the message before it.
type Msg struct {
	Ch      uint64
	S       uint64
	P       uint64
	HasP    bool // required downlink
	ID      wire.ID
	Topic   string
	Payload []byte // owned by whoever holds the frame
	Type    string
	Header  map[string]string
	Tag     []byte
	HasAge  bool
	Age     uint64 // ms
	TTL     uint64 // ms
	Flags   uint64
}

// Flags of a Msg.
const (
	FlagSnapshot    = 1 << 0
	FlagSnapshotEnd = 1 << 1
	FlagVoid        = 1 << 2
)

// Uplink is hello.up.
type Uplink struct {
	Lo, Hi uint64
	Tag    wire.ID
	HasTag bool
}

// Hello is the first frame of a client.
type Hello struct {
	CN   uint64
	SID  string
	Key  []byte
	SE   uint64
	Tok  string
	Up   *Uplink
	Subs []Sub
	Feat []string
	TTL  uint64 // s
}

// Credit is an absolute allowance: see wire.Credit.
type Credit struct{ N, B uint64 }

// Reject is the final refusal of one sequence number.
type Reject struct{ S, Code uint64 }

// ChCredit is the credit of one subscription.
type ChCredit struct{ Ch, N, B uint64 }

// Limits is welcome.lim. JSON keys and binary numbers: batch 1, payload 2,
// headers 3, hsize 4, subs 5, hsubs 6, depth 7, token 8.
type Limits struct {
	Batch, Payload, Headers, HeaderSize, Subs, HelloSubs, Depth, Token uint64
}

// Welcome is the first frame of a server.
type Welcome struct {
	CN     uint64
	SID    string
	Key    []byte
	SE     uint64
	Res    bool
	Ack    uint64
	Tag    wire.ID
	HasTag bool
	Sack   []wire.Range
	Out    []Reject
	Cr     Credit
	HB     uint64 // ms
	TTL    uint64 // s
	Dedup  uint64 // s
	Lim    *Limits
	Spread uint64 // ms
	Feat   []string
	Exp    uint64 // ms
}

// Ack flows from the server (To, X, Nak, Cr) and from the client (Dcr).
type Ack struct {
	To    uint64
	HasTo bool
	X     []wire.Range
	Nak   []Reject
	Cr    *Credit
	Dcr   []ChCredit
}

// From is sub.from. On the wire resume 0, new 1, first 2, last 3 in binary and
// the word in JSON.
type From uint8

const (
	FromResume From = iota
	FromNew
	FromFirst
	FromLast
)

// Sub asks for a subscription.
type Sub struct {
	Ch    uint64
	Topic string
	From  From
	Epoch string
	O     uint64
	Tag   []byte
	N     uint64
	Cr    Credit
	Tok   string
}

// SubOK confirms a subscription; delivery starts after O.
type SubOK struct {
	Ch    uint64
	Epoch string
	O     uint64
	Tag   []byte
	Head  uint64
	Rec   bool
	Snap  bool
}

// Unsub ends a subscription or says that it ended.
type Unsub struct {
	Ch    uint64
	Code  uint64
	Msg   string
	Retry uint64 // ms
}

// GapWhy is gap.why: expired 0, trimmed 1, dropped 2, forbidden 3.
type GapWhy uint8

const (
	GapExpired GapWhy = iota
	GapTrimmed
	GapDropped
	GapForbidden
)

// Gap says that the offsets in (P, To] cannot be delivered.
type Gap struct {
	Ch, P, To uint64
	Why       GapWhy
	N         uint64
	Tag       []byte
}

// ResetWhy is reset.why: epoch 0, diverged 1, ahead 2, unverifiable 3.
type ResetWhy uint8

const (
	ResetEpoch ResetWhy = iota
	ResetDiverged
	ResetAhead
	ResetUnverifiable
)

// Reset says that the stream starts anew after O of Epoch.
type Reset struct {
	Ch    uint64
	Epoch string
	O     uint64
	Tag   []byte
	Why   ResetWhy
}

// Auth carries a token up, and its lifetime down.
type Auth struct {
	Tok  string
	Exp  uint64 // ms
	Need uint64 // ms
	Code uint64
}

// GoAway announces the end of a connection.
type GoAway struct {
	Code, After, Spread, DL uint64 // times in ms
	URL                     string
	Res                     bool
	Fin                     bool // client: discard the session
}

// Err reports a fault.
type Err struct {
	Code  uint64
	Msg   string
	Ch    uint64
	S     uint64
	HasS  bool
	Retry uint64 // ms
	Fatal bool
}

// Encoding is one of the two encodings of limpet.v1.
type Encoding uint8

const (
	JSON Encoding = iota + 1
	Binary
)

// Sender is who sent a batch: required fields depend on it.
type Sender uint8

const (
	FromClient Sender = iota
	FromServer
)
