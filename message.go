package limpet

import (
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
)

// Kind says what a Message is.
type Kind uint8

const (
	// Data is an application message.
	Data Kind = iota + 1
	// Snapshot is an application message that holds the whole state, or a part of
	// it. It replaces all messages before the snapshot.
	Snapshot
	// Gap stands where messages are missing: see Message.Loss.
	Gap
	// Reset stands where the stream starts again without proof that nothing is
	// missing: see Message.Loss.
	Reset
)

// String returns the kind as one lower-case word.
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
// FromResume continues after it. It begins with a Gap if messages are missing,
// and with a Reset if the server cannot prove that none is. The zero value is no
// position. Positions are comparable with ==.
//
// Its fields are Epoch, Offset and Tag: see wire.Position.
type Position = wire.Position

// Cause says why messages are missing or why a stream was reset. It is one of
// the constants below, unless a dialect has others.
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
	// CauseLost means that a number is missing in the stream.
	CauseLost = wire.CauseLost
	// CauseOverflow means that the delivery queue was full and the client dropped
	// the messages: see Delivery.Overflow.
	CauseOverflow = wire.CauseOverflow
	// CauseMalformed means that the dialect could not read a message, so that it was
	// skipped: see MessageSkipped.
	CauseMalformed = wire.CauseMalformed
	// CauseRestarted means that the server counts from a lower number again, so that
	// positions are not comparable with earlier ones.
	CauseRestarted = wire.CauseRestarted
)

// Loss describes a Gap or a Reset.
type Loss struct {
	// After is the position of the last message before the loss.
	After Position
	// To is the position of the last missing message of a Gap, or After if that is
	// not known. For a Reset it is where the stream starts again; what lies between
	// After and To is not known.
	To Position
	// Count is the number of missing messages, 0 if it is not known.
	Count uint64
	// Cause is why messages are missing. If several losses were merged it is that
	// of the first.
	Cause Cause
}

// Message is one element of a subscription's stream. A loss is an element, too,
// in its place in the order: a consumer cannot miss it.
type Message struct {
	// Kind is Data or Snapshot for an application message, Gap or Reset for a
	// loss.
	Kind Kind
	// Redelivered means that the server says that it delivered this message
	// before.
	Redelivered bool
	// Topic is the topic of the message, or that of the subscription where the
	// dialect names none.
	Topic string
	// ID is the id of the message, zero if the dialect has none.
	ID uuid.UUID
	// Position is the place of this element: FromResume continues after it.
	Position Position
	// Payload is the content of the message. It belongs to the consumer.
	Payload []byte
	// Type is the content type, empty if the publisher gave none.
	Type string
	// Header is the header, nil if the publisher gave none.
	Header map[string]string
	// ReceivedAt is when the client read the last bytes of the message from the
	// socket, however long the message then waited for its consumer. Messages that
	// one read brought have the same time, with its monotonic reading. For a Gap or a
	// Reset it is when the client learned of the loss, or dropped the message: if
	// several losses were merged, of the first.
	ReceivedAt time.Time
	// Loss describes the loss if Kind is Gap or Reset, otherwise it is nil.
	Loss *Loss

	previous   uint64 // the offset that it follows: nothing between the two is missing
	queue      *queue
	number     uint64 // in the queue, ascending
	generation uint64 // of the connection it came on
}

// Ack reports that the message has been processed. The committed position moves
// to the last message before the first unacknowledged one. Ack is needed with
// SubscribeOptions.ManualAck, and for a message whose loop body was left by
// break, return or panic. It does not block and may be called from any
// goroutine, more than once, and after the client has ended. A Gap or a Reset
// needs no Ack.
func (m Message) Ack() {
	if m.queue != nil {
		m.queue.ackMessage(&m)
	}
}
