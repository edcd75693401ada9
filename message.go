package limpet

import (
	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
)

// Kind is what a Message is.
type Kind uint8

const (
	Data     Kind = iota + 1 // an application message
	Snapshot                 // a message that replaces what went before
	Gap                      // messages are missing here: see Message.Gap
	Reset                    // the stream starts anew here, continuity cannot be proved: see Message.Gap
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

// Position is where a stream can be resumed, provably.
type Position = wire.Position

// Cause says why messages are missing or a stream restarted.
type Cause = wire.Cause

// Loss describes a Gap or a Reset. The messages in (After, To] are missing; of
// a Reset nothing is known about what lies between After and To, the new start.
type Loss struct {
	After Position
	To    Position
	Count uint64 // messages missing, 0 if not known
	Cause Cause  // of the first, where several were joined
}

// Message is one element of a subscription's stream. Loss is an element too,
// in order, so a consumer cannot compute over a hole without seeing it.
type Message struct {
	Kind        Kind
	Topic       string
	ID          uuid.UUID
	Position    Position // where to resume after this element
	Payload     []byte   // owned by the receiver
	Type        string
	Header      map[string]string
	Redelivered bool
	Gap         *Loss // for Gap and Reset

	previous   uint64
	queue      *queue
	number     uint64 // in the queue, rising
	generation uint64 // the connection it came on
}

// Ack says that the message was processed: the committed position advances
// over the contiguous acknowledged prefix. It is needed with
// SubscribeOptions.ManualAck, and for a message whose loop body was left by
// break or return. It may be called from any goroutine, more than once, and
// after the client closed. A Gap and a Reset need none.
func (m Message) Ack() {
	if m.queue != nil {
		m.queue.ackMessage(&m)
	}
}
