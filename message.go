package limpet

import (
	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
)

// Kind says what a Message is.
type Kind uint8

const (
	// Data is an application message.
	Data Kind = iota + 1
	// Snapshot is an application message that replaces all earlier ones.
	Snapshot
	// Gap stands where messages are missing; Message.Loss describes them.
	Gap
	// Reset stands where the stream starts again without proof that nothing is
	// missing; Message.Loss describes it.
	Reset
)

func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Snapshot:
		return "snapshot"
	case Gap:
		return "gap"
	case Reset:
		return "reset"
	}
	return "kind ?"
}

// Position is a place in a stream. A subscription that starts there with
// FromResume continues after it, or begins with a Reset if the server cannot
// prove that nothing is missing. The zero value is no position. Positions are
// comparable with ==.
//
// Its fields are Epoch, Offset and Tag, see wire.Position.
type Position = wire.Position

// Cause says why messages are missing or why a stream was reset. It is one of
// the constants below; a server may send others.
type Cause = wire.Cause

const (
	// CauseUnknown means that the server gave no reason.
	CauseUnknown = wire.CauseUnknown
	// CauseExpired means that the messages are older than the server keeps them.
	CauseExpired = wire.CauseExpired
	// CauseTrimmed means that the log of the server was trimmed.
	CauseTrimmed = wire.CauseTrimmed
	// CauseDropped means that the server dropped the messages.
	CauseDropped = wire.CauseDropped
	// CauseForbidden means that the subscriber may not read the messages.
	CauseForbidden = wire.CauseForbidden
	// CauseEpoch means that the server has a new log: its positions are not
	// comparable with earlier ones.
	CauseEpoch = wire.CauseEpoch
	// CauseDiverged means that the log holds another message at the position.
	CauseDiverged = wire.CauseDiverged
	// CauseAhead means that the position is beyond the end of the log.
	CauseAhead = wire.CauseAhead
	// CauseUnverifiable means that it cannot be proved that nothing is missing.
	CauseUnverifiable = wire.CauseUnverifiable
	// CauseLost means that a sequence number is missing in the stream.
	CauseLost = wire.CauseLost
	// CauseOverflow means that the client dropped the messages, since
	// Delivery.Overflow says so.
	CauseOverflow = wire.CauseOverflow
)

// Loss describes a Gap or a Reset.
type Loss struct {
	// After is the position of the last message before the loss.
	After Position
	// To is the position of the last missing message of a Gap, and the position
	// at which the stream starts again after a Reset. It is not known what lies
	// between After and the To of a Reset.
	To Position
	// Count is the number of missing messages, 0 if it is not known.
	Count uint64
	// Cause is the reason, that of the first loss if several were merged.
	Cause Cause
}

// Message is one element of a subscription's stream. Losses are elements, too,
// in order: a consumer cannot miss one.
type Message struct {
	// Kind is Data or Snapshot for an application message, Gap or Reset for a
	// loss.
	Kind Kind
	// Topic is the topic of the message, or that of the subscription where the
	// dialect names none.
	Topic string
	// ID is the id of the message, zero if the dialect has none.
	ID uuid.UUID
	// Position is where to resume after this element.
	Position Position
	// Payload is the body of the message. It belongs to the receiver.
	Payload []byte
	// Type is the content type, empty if the publisher gave none.
	Type string
	// Header is the header, nil if the publisher gave none.
	Header map[string]string
	// Redelivered means that, as the server says, the message may have been
	// delivered before.
	Redelivered bool
	// Loss describes the loss if Kind is Gap or Reset, otherwise it is nil.
	Loss *Loss

	prev   uint64 // the offset that it follows: nothing between the two is missing
	queue  *queue
	number uint64 // in the queue, ascending
	gen    uint64 // generation of the connection it came on
}

// Ack reports that the message has been processed. The committed position moves
// to the end of the unbroken run of acknowledged messages. Ack is needed with
// SubscribeOptions.ManualAck, and for a message whose loop body was left by
// break, return or panic. It does not block and may be called from any
// goroutine, more than once, and after the client has closed. A Gap or a Reset
// needs no Ack.
func (m Message) Ack() {
	if m.queue != nil {
		m.queue.acked(&m)
	}
}
