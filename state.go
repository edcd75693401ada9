package limpet

import (
	"sync/atomic"
	"time"
)

// Phase is what a client is doing.
type Phase uint8

// The phases of a client.
const (
	Connecting  Phase = iota // name resolution, TCP, TLS, upgrade
	Handshaking              // upgraded; the handshake of the dialect
	Ready                    // messages flow
	Waiting                  // for the next attempt: see State.NextAttempt
	Ended                    // the last phase: see Client.Err. Client.Done may follow later
)

// String returns the phase as one lower-case word.
func (p Phase) String() string {
	switch p {
	case Connecting:
		return "connecting"
	case Handshaking:
		return "handshaking"
	case Ready:
		return "ready"
	case Waiting:
		return "waiting"
	case Ended:
		return "ended"
	}
	return "phase ?"
}

// State is the state of a client at one moment.
type State struct {
	Phase Phase

	// Draining is true once Shutdown was called.
	Draining bool

	// Generation is the number of the current connection, or of the last one.
	// Upgraded connections count from 1. It is 0 before the first.
	Generation uint64

	// Since is when the phase began.
	Since time.Time

	// Cause is why the last connection or attempt failed, nil before the first
	// failure. In the phase Ended it is why the client ended.
	Cause error

	// Attempt is the number of losses and failed attempts since the last stable
	// connection, when the phase began.
	Attempt int

	// NextAttempt is when the next attempt starts. It is valid in the phase
	// Waiting.
	NextAttempt time.Time

	// Resumed is true if the server still knew the session. It is valid in the
	// phase Ready.
	Resumed bool
}

// Stats are the counts of a client since New.
type Stats struct {
	// Attempts is the number of attempts to connect.
	Attempts uint64
	// Connections is the number of connections that became ready, Resumes how many
	// of them resumed the session.
	Connections uint64
	Resumes     uint64
	// Published is the number of messages that Publish and PublishBatch admitted.
	Published uint64
	// Resent is the number of times that a message was sent again.
	Resent uint64
	// Acked to Unknown are the numbers of messages with each outcome. Their sum is
	// Published once every message has its outcome.
	Acked    uint64
	Written  uint64
	Rejected uint64
	Expired  uint64
	Unsent   uint64
	Unknown  uint64
	// BytesWritten and BytesRead are the payload bytes of WebSocket messages.
	BytesWritten uint64
	BytesRead    uint64
	// Frames is the number of WebSocket data messages received.
	Frames uint64
	// Malformed is the number of received messages that the dialect could not read or
	// place. They were skipped: see MessageSkipped and CauseMalformed.
	Malformed uint64
	// Unrequested is the number of received messages for topics that this client has
	// never subscribed to. What still comes for a closed subscription does not count.
	Unrequested uint64
	// PlainFrames reports whether the current connection, or the last one, uses
	// the library's frames: see Options.PlainFrames.
	PlainFrames bool
}

type counters struct {
	attempts, connections, resumes  atomic.Uint64
	published, resent               atomic.Uint64
	outcomes                        [len(outcomeNames)]atomic.Uint64
	bytesWritten, bytesRead, frames atomic.Uint64
	malformed, unrequested          atomic.Uint64
	plainFrames                     atomic.Bool
}

func (c *counters) stats() Stats {
	return Stats{
		Attempts: c.attempts.Load(), Connections: c.connections.Load(), Resumes: c.resumes.Load(),
		Published: c.published.Load(), Resent: c.resent.Load(),
		Acked: c.outcomes[Acked].Load(), Written: c.outcomes[Written].Load(),
		Rejected: c.outcomes[Rejected].Load(), Expired: c.outcomes[Expired].Load(),
		Unsent: c.outcomes[Unsent].Load(), Unknown: c.outcomes[Unknown].Load(),
		BytesWritten: c.bytesWritten.Load(), BytesRead: c.bytesRead.Load(), Frames: c.frames.Load(),
		Malformed: c.malformed.Load(), Unrequested: c.unrequested.Load(),
		PlainFrames: c.plainFrames.Load(),
	}
}

// SubPhase is what a subscription is doing.
type SubPhase uint8

// The phases of a subscription.
const (
	SubPending SubPhase = iota // not confirmed on the current connection
	SubLive                    // messages flow
	SubEnded                   // closed, refused by the server, or ended with the client: see Err
)

// String returns the phase as one lower-case word.
func (p SubPhase) String() string {
	switch p {
	case SubPending:
		return "pending"
	case SubLive:
		return "live"
	case SubEnded:
		return "ended"
	}
	return "phase ?"
}

// SubState is the state of a subscription at one moment.
type SubState struct {
	Phase SubPhase

	// Generation is the number, as in State.Generation, of the connection on
	// which the subscription was last confirmed. It is 0 before that, after a
	// refusal and in the phase SubEnded.
	Generation uint64

	// Since is when the phase began.
	Since time.Time

	// Err is why the subscription ended, in the phase SubEnded; nil for a clean
	// end. In the phase SubPending it is why the server refused or ended the
	// subscription for now, or that it did not answer.
	Err error
}

// SubStats counts the messages of a subscription. At every moment
// Received = Delivered + Dropped + Waiting.
type SubStats struct {
	Received   uint64 // from the server, without duplicates
	Delivered  uint64 // handed to a consumer
	Dropped    uint64 // by the overflow policy, or by closing the subscription or the client
	Waiting    uint64 // in the queue, or taken from it for C
	Duplicates uint64 // received again and discarded
	Earlier    uint64 // of an earlier subscription to the topic, discarded
	Gaps       uint64 // reported by the server or detected by the client; those of Dropped do not count
	Resets     uint64 // reported by the server or detected by the client

	// Unacked is how many of Delivered are not acknowledged. With ManualAck the
	// stream stops while Delivery.Buffer messages are taken from the oldest one that is
	// not acknowledged on; see DeliveryStopped.
	Unacked uint64
}
