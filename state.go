package limpet

import (
	"time"
)

// Phase is what a client is doing.
type Phase uint8

const (
	Connecting  Phase = iota // name resolution, TCP, TLS, upgrade
	Handshaking              // upgraded; the wire language's handshake
	Ready                    // messages flow
	Waiting                  // before the next attempt: see State.NextAttempt
	Ended                    // for good: see Client.Err
)

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
	Phase       Phase
	Draining    bool   // Shutdown was called
	Generation  uint64 // connections upgraded so far; the number of the present one
	Since       time.Time
	Cause       error     // why the last connection or attempt failed; nil before the first failure
	Attempt     int       // attempts since the last stable connection
	NextAttempt time.Time // Waiting: when
	Resumed     bool      // Ready: the server knew the session
}
