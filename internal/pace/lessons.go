package pace

import "time"

// lessons is what the refusals of a server have taught. A server that says in words that
// the client sends too much is believed for good. One that may mean something else is tested
// again after a time without a refusal, which doubles each time that the test fails.
type lessons struct {
	before  float64       // messages a second before the first refusal, which is where a test ends
	said    bool          // in words
	calm    time.Duration // without a refusal, until the pace doubles
	raiseAt time.Time     // when it doubles; zero: never
	raised  bool          // since the last refusal
}

// The bounds of what is learned.
const (
	lowestPerSecond = 0.5 // of what is learned: heartbeats and some requests have room
	lowestPart      = 8   // of a limit that was set: an eighth, if that is less
	firstCalm       = time.Hour
	longestCalm     = 24 * time.Hour
)

// Lower follows when the server has refused what was sent, of which busiest is the number in
// the busiest second. The pace halves or, if the client has not used it, what was sent. said means that the server says so in words. Lower returns the limit from now on,
// also of a nil l, and false if it is as low as it gets.
func (l *Limit) Lower(now time.Time, busiest int, said bool) (limit *Limit, lowered bool) {
	if l == nil {
		l = &Limit{perFrame: 2}
	}
	from := float64(busiest)
	if l.perSecond > 0 && (2*float64(l.bucket.Available(now)) <= l.bucket.burst || from > l.perSecond) { // it has used the pace
		from = l.perSecond
	}
	lowest := lowestPerSecond
	if l.own.perSecond > 0 {
		lowest = min(lowest, l.own.perSecond/lowestPart)
	}
	to := max(from/2, lowest)
	if l.lessons == nil {
		l.lessons = &lessons{before: l.perSecond, calm: firstCalm}
	}
	if l.perSecond == 0 {
		l.lessons.before = from
	}
	l.lessons.refused(now, said)
	if l.perSecond > 0 && to >= l.perSecond {
		return l, false
	}
	l.allow(now, to)
	return l, true
}

// refused follows each refusal.
func (s *lessons) refused(now time.Time, said bool) {
	if s.raised {
		s.raised, s.calm = false, min(2*s.calm, longestCalm)
	}
	s.said = s.said || said
	s.raiseAt = time.Time{}
	if !s.said {
		s.raiseAt = now.Add(s.calm)
	}
}

// Raise doubles the pace if there was no refusal for long enough, and reports whether it did.
func (l *Limit) Raise(now time.Time) (raised bool) {
	if l == nil || l.lessons == nil {
		return false
	}
	for s := l.lessons; !s.raiseAt.IsZero() && !now.Before(s.raiseAt); raised = true {
		s.raised = true
		if to := 2 * l.perSecond; to < s.before {
			s.raiseAt = s.raiseAt.Add(s.calm)
			l.allow(now, to)
			continue
		}
		s.raiseAt = time.Time{}
		l.allow(now, l.own.perSecond)
	}
	return raised
}

// allow changes how many messages a second the server allows; 0 for any number.
func (l *Limit) allow(now time.Time, perSecond float64) {
	atOnce := int(perSecond / 5)
	if own := l.own; own.perSecond > 0 {
		atOnce = int(float64(own.atOnce) * perSecond / own.perSecond)
	}
	l.perSecond, l.interval = perSecond, 0
	l.bucket.Change(now, 0.8*perSecond, atOnce)
	if perSecond > 0 {
		l.interval = time.Duration(float64(time.Second) / (0.8 * perSecond))
		return
	}
	l.starvedSince, l.turn = time.Time{}, false
}
