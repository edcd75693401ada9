// Package liveness says what a client can learn about its own machine and about the path
// to a server. It has no clock and no timer: each method takes what was measured.
package liveness

import "time"

// MaxDrift is how much further than the monotonic clock the wall clock may move between
// two looks. More is no drift.
const MaxDrift = 2 * time.Second

// Clock finds out that the machine slept. On Linux the monotonic clock, and every timer
// with it, stops while the machine sleeps, and the wall clock goes on. A wall clock that
// was set forward looks the same. The zero Clock has not looked yet. A Clock is not safe
// for concurrent use.
type Clock struct {
	wall    time.Time
	elapsed time.Duration
}

// Jumped reports whether the wall clock has moved more than MaxDrift further than the
// monotonic one since the last call. wall is a time without a monotonic reading, elapsed
// the monotonic time since some moment that is always the same.
func (c *Clock) Jumped(wall time.Time, elapsed time.Duration) bool {
	jumped := !c.wall.IsZero() && wall.Sub(c.wall)-(elapsed-c.elapsed) > MaxDrift
	c.wall, c.elapsed = wall, elapsed
	return jumped
}

// MinInterval is the shortest interval that Idle learns.
const MinInterval = 5 * time.Second

// Idle learns for how long the path to a server lets a connection be idle. Proxies and
// firewalls drop one on which nothing moves, and some of them do so silently. The zero Idle
// has learned nothing. An Idle is not safe for concurrent use.
type Idle struct {
	suspect time.Duration // idle time of the last connection, if it may have ended for that; else 0
	limit   time.Duration // what was learned; 0: nothing
}

// Dropped follows when a connection has ended and the peer has not closed it: an error of
// the network, or silence. idle is for how long nothing had moved then or, if the peer
// gave no sign of life after something was written, before that write. survived is the
// longest such time on this connection after which the peer was still there: 0 if there
// was none. Dropped reports whether Interval has changed.
//
// Two connections in a row must agree: each survived nothing as long, and the longer time
// is at most half as long again as the shorter one. A path that fails at random passes
// that by chance only, since most of its connections survive heartbeats first.
func (i *Idle) Dropped(idle, survived time.Duration) bool {
	earlier := i.suspect
	i.suspect = 0
	if idle < MinInterval || survived >= idle-idle/20 {
		return false
	}
	shorter, longer := min(idle, earlier), max(idle, earlier)
	if earlier == 0 || longer > shorter+shorter/2 {
		i.suspect = idle
		return false
	}
	if i.limit != 0 && shorter >= i.limit {
		return false
	}
	before := i.Interval()
	i.limit = shorter
	return i.Interval() != before
}

// Ended follows when a connection has ended in another way.
func (i *Idle) Ended() { i.suspect = 0 }

// Limit is for how long the path lets a connection be idle, as far as it is known; 0 if
// nothing was learned.
func (i *Idle) Limit() time.Duration { return i.limit }

// Interval is how often something must be sent: half of Limit, and at least MinInterval.
// It is 0 if nothing was learned.
func (i *Idle) Interval() time.Duration {
	if i.limit == 0 {
		return 0
	}
	return max(i.limit/2, MinInterval)
}

const (
	silentIntervals = 2.5              // heartbeat intervals without a sign of life: the peer is dead
	maxSilence      = 50 * time.Second // that this grows to: 2.5 intervals of the default
)

// SilenceAllowed is how long a peer may give no sign of life with this heartbeat interval,
// after a number of connections in a row that ended in silence.
func SilenceAllowed(heartbeat time.Duration, silences int) time.Duration {
	d := time.Duration(silentIntervals * float64(heartbeat))
	longest := max(d, maxSilence)
	for range silences {
		if d = d * 8 / 5; d >= longest {
			return longest
		}
	}
	return d
}
