package wire

import (
	"fmt"
	"time"
)

// ConnectionLimits are what a server allows one connection. A field that is zero has no
// effect: the server has no such limit, or it is not known. Unlike Limits they are known
// before the server says anything. The client stays within them by itself.
//
// They are about one connection of one client, but for Dials. Where the server counts the
// messages of all connections from one address, each client of a process has its own share:
// divide by their number.
type ConnectionLimits struct {
	// Messages is how many WebSocket messages the client may send in the time Per. The
	// client uses four fifths of it, since a network can press messages closer together.
	// Every message counts that a codec encodes, and every WebSocket ping and pong.
	//
	// What is too much waits: pings and pongs go first, then steps and requests, then what
	// is published. The time for an answer begins when the request was written. The count
	// goes on over a reconnect. At most 1,000,000,000.
	Messages int

	// Per is the time of Messages, from a millisecond to a day. Zero means a second.
	Per time.Duration

	// Burst is for a server with a token bucket, which takes up to Burst messages at
	// once and then Messages in the time Per. Zero means that it counts what comes in any time
	// Per: then the client sends at most a fifth of Messages at once.
	Burst int

	// Subscriptions is how many subscriptions one connection may have. Subscribe of
	// one more returns an error at once. One that was closed counts until the server has
	// finished with it; without Traits.Unsubscribe that is when the connection ends.
	Subscriptions int

	// Dials is how many connections the server takes from one address in the time DialsPer.
	// All clients of a process that share an Options.Governor, as those with the same
	// transport do, keep to it together, for each host and port: the lowest limit that one of
	// them states counts for all. Every attempt counts, also one that fails, that replaces a
	// connection or that follows a redirect. What is too much waits for its turn, however it
	// was caused: State.NextAttempt says until when. The client reckons with a twentieth more
	// than DialsPer. At most 100,000.
	//
	// With Options.Fallback a refused upgrade and its GET are two attempts. The connection over
	// which the POSTs go is not counted: docs/fallback.md says how many there are.
	Dials int

	// DialsPer is the time of Dials, from a millisecond to a day. Zero means a minute.
	DialsPer time.Duration

	// Age is how long a connection may last, from a minute on. The client makes the next one
	// before, and changes to it: at a random moment in the last tenth of Age, or in the last
	// hour if that is less. See docs/reconnect.md, section 8.
	Age time.Duration
}

// The bounds of ConnectionLimits.
const (
	maxCount = 1_000_000_000
	maxDials = 100_000
	minPer   = time.Millisecond
	maxPer   = 24 * time.Hour
	minAge   = time.Minute
	maxAge   = 366 * 24 * time.Hour
)

// Check returns the name of the first field that is wrong and what is wrong with it, both
// empty if none is.
func (c ConnectionLimits) Check() (field, problem string) {
	for _, n := range []struct {
		field string
		value int
	}{{"Messages", c.Messages}, {"Burst", c.Burst}, {"Subscriptions", c.Subscriptions}} {
		if n.value < 0 || n.value > maxCount {
			return n.field, fmt.Sprintf("is %d; use 0 to %d", n.value, maxCount)
		}
	}
	switch {
	case c.Dials < 0 || c.Dials > maxDials:
		return "Dials", fmt.Sprintf("is %d; use 0 to %d", c.Dials, maxDials)
	case c.DialsPer != 0 && (c.DialsPer < minPer || c.DialsPer > maxPer):
		return "DialsPer", fmt.Sprintf("is %v; use 0, or %v to %v", c.DialsPer, minPer, maxPer)
	case c.DialsPer != 0 && c.Dials == 0:
		return "DialsPer", "needs Dials"
	case c.Per != 0 && (c.Per < minPer || c.Per > maxPer):
		return "Per", fmt.Sprintf("is %v; use 0, or %v to %v", c.Per, minPer, maxPer)
	case c.Per != 0 && c.Messages == 0:
		return "Per", "needs Messages"
	case c.Burst != 0 && c.Messages == 0:
		return "Burst", "needs Messages"
	case c.Age != 0 && (c.Age < minAge || c.Age > maxAge):
		return "Age", fmt.Sprintf("is %v; use 0, or %v to %v", c.Age, minAge, maxAge)
	}
	return "", ""
}
