package limpet

import "time"

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
