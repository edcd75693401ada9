package pace

import (
	"math"
	"time"
)

// Limit keeps the frames that a client sends within what its server allows. It belongs to
// the client and not to a connection: a server that counts by address goes on over a
// reconnect. A nil Limit allows everything. A Limit is not safe for concurrent use.
//
// Pings and pongs come before everything else, but something that has waited for as long as
// sixteen frames take has its turn, however often the server asks for signs of life.
type Limit struct {
	bucket       Bucket
	interval     time.Duration // of a token
	starvedSince time.Time     // since when there is no room for what waits; zero: there is, or nothing waits
	turn         bool          // there is no room for pings and pongs before the next Sent
	perFrame     int           // operations in a frame that are tried next, if the codec cannot count

	perSecond float64  // messages that the server allows, as far as is known; four fifths are used. 0: any number
	own       allowed  // what the server is said to allow; zero: nothing is known
	lessons   *lessons // nil until the server has refused what was sent
}

// allowed is how many messages a server allows: of perSecond four fifths are used, of atOnce all.
type allowed struct {
	perSecond float64
	atOnce    int
}

const starving = 16 // intervals

// NewLimit returns the limit of a server that allows this many messages in the time per (0
// means a second), and burst at once (0 means that nothing is known). It returns nil for 0
// messages.
func NewLimit(messages int, per time.Duration, burst int) *Limit {
	if messages == 0 {
		return nil
	}
	if per == 0 {
		per = time.Second
	}
	rate, most := 0.8*float64(messages)/per.Seconds(), burst*4/5
	if burst == 0 {
		most = messages / 5 // with four fifths in the time that follows these are all
	}
	perSecond := float64(messages) / per.Seconds()
	return &Limit{
		bucket: New(rate, most), interval: time.Duration(float64(time.Second) / rate), perFrame: 2,
		perSecond: perSecond, own: allowed{perSecond, most},
	}
}

// PerSecond returns how many messages a second the server allows, as far as is known; 0 if
// there is no limit.
func (l *Limit) PerSecond() float64 {
	if l == nil {
		return 0
	}
	return l.perSecond
}

// Room counts pongs that were sent already, and returns how many frames may be sent now.
// waits says that something waits to be sent, beside pings and pongs.
func (l *Limit) Room(now time.Time, pongs int, waits bool) int {
	if l == nil {
		return math.MaxInt
	}
	l.bucket.Take(now, pongs)
	room := l.bucket.Available(now)
	l.turn = (room == 0 || !l.starvedSince.IsZero()) && l.starves(now, waits)
	if l.turn && room == 0 {
		if l.turn = l.bucket.Wait(now) > l.interval; l.turn { // after pongs that were sent without room it may never come
			return 1
		}
	}
	return room
}

// starves reports whether something has waited for its turn long enough. It follows when it
// begins to.
func (l *Limit) starves(now time.Time, waits bool) bool {
	if !waits {
		l.starvedSince = time.Time{}
		return false
	}
	if l.starvedSince.IsZero() {
		l.starvedSince = now
	}
	return !now.Before(l.starvedUntil())
}

func (l *Limit) starvedUntil() time.Time { return l.starvedSince.Add(starving * l.interval) }

// IsTurnOfOthers reports whether pings and pongs must wait for something else.
func (l *Limit) IsTurnOfOthers() bool { return l != nil && l.turn }

// Sent counts n frames that are sent now. repliesOnly says that they are pings and pongs.
func (l *Limit) Sent(now time.Time, n int, repliesOnly bool) {
	if l == nil {
		return
	}
	l.bucket.Take(now, n)
	if l.turn || !repliesOnly {
		l.starvedSince = time.Time{}
	}
}

// NextRoom returns when there is room again for what waits; zero if there is room now.
func (l *Limit) NextRoom(now time.Time, room int) time.Time {
	switch {
	case l == nil:
		return time.Time{}
	case l.turn: // it was not used
		l.starvedSince = time.Time{}
	case room > 0:
		return time.Time{}
	}
	at := now.Add(l.bucket.Wait(now))
	if until := l.starvedUntil(); until.After(now) && until.Before(at) {
		at = until
	}
	return at
}

// TakePing counts a ping that is sent now and returns the zero time, or returns when there
// is room for it.
func (l *Limit) TakePing(now time.Time) time.Time {
	if l == nil {
		return time.Time{}
	}
	if starved := !l.starvedSince.IsZero() && !now.Before(l.starvedUntil()); starved || l.bucket.Available(now) == 0 {
		return now.Add(max(l.bucket.Wait(now), l.interval/16))
	}
	l.bucket.Take(now, 1)
	return time.Time{}
}

// Fit returns how many of n operations fit into as many frames as there is room for, and how
// many frames they take. Where there is room for one frame, one operation fits. count returns
// how many frames the first n operations take, and false if the codec cannot tell.
func (l *Limit) Fit(n, room int, count func(n int) (frames int, ok bool)) (fit, frames int) {
	if l == nil {
		return n, 0
	}
	if room <= 0 || n == 0 {
		return 0, 0
	}
	needs := func(n int) int {
		if frames, ok := count(n); ok {
			return frames
		}
		return (n + l.perFrame - 1) / l.perFrame
	}
	if frames = needs(n); frames <= room {
		return n, frames
	}
	fit, frames = 1, needs(1)
	for tooMany := n; fit+1 < tooMany; {
		middle := (fit + tooMany) / 2
		if f := needs(middle); f <= room {
			fit, frames = middle, f
		} else {
			tooMany = middle
		}
	}
	return fit, frames
}

// Learn follows when operations were encoded as a number of frames, for which there was
// room: Fit tries more at once the next time, at most maxPerFrame, or as many as would have fitted.
func (l *Limit) Learn(operations, frames, room, maxPerFrame int) {
	switch {
	case l == nil || operations == 0:
	case frames <= room:
		l.perFrame = min(2*l.perFrame, maxPerFrame)
	default:
		l.perFrame = max(1, operations*max(room, 1)/max(frames, 1))
	}
}
