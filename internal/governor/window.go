package governor

import (
	"math"
	"slices"
	"time"
)

// Window is how many connections a server takes from one address in any time Per. The zero
// Window is no limit.
type Window struct {
	Dials int
	Per   time.Duration
}

// lessThan reports whether w allows fewer connections than other in the long run.
func (w Window) lessThan(other Window) bool {
	if other.Dials == 0 || w.Dials == 0 {
		return w.Dials > 0
	}
	a, b := float64(w.Dials)/w.Per.Seconds(), float64(other.Dials)/other.Per.Seconds()
	return a < b || a == b && w.Dials < other.Dials
}

// dials are the last turns of a host with a Window, in their order: when each was used or, if it
// was not used yet, when it may be.
type dials struct {
	window Window
	per    time.Duration // of the window, and a twentieth more: a connection may take longer on its way than the next one
	origin time.Time
	first  uint64          // number of times[0]
	times  []time.Duration // since origin
}

// limit makes the lowest window of those that were stated count.
func (d *dials) limit(w Window) {
	if w.lessThan(d.window) {
		d.window, d.per = w, w.Per+w.Per/20
	}
}

// next returns the number of the next turn.
func (d *dials) next() uint64 { return d.first + uint64(len(d.times)) }

// reserve returns the number of a new turn. What no window needs is forgotten: turns that were
// used, and those of clients that have ended.
func (d *dials) reserve(now time.Time) (number uint64) {
	passed, old := now.Sub(d.origin), 0
	for old < len(d.times) && d.times[old]+d.per <= passed {
		old++
	}
	if old > len(d.times)/2 {
		d.times = slices.Delete(d.times, 0, old)
		d.first += uint64(old)
	}
	number = d.next()
	d.times = append(d.times, max(passed, d.earliest(number)))
	return number
}

// earliest is the time before which the turn with a number is not due; long ago if there is none.
func (d *dials) earliest(number uint64) time.Duration {
	if before := number - uint64(d.window.Dials); number >= uint64(d.window.Dials) && before >= d.first {
		return d.times[before-d.first] + d.per
	}
	return math.MinInt64 / 2
}

// wait returns how long it is until the turn with a number.
func (d *dials) wait(number uint64, now time.Time) time.Duration {
	if number < d.first {
		return 0
	}
	at := max(d.times[number-d.first], d.earliest(number))
	return max(0, at-now.Sub(d.origin))
}

// use follows when the turn with a number is used.
func (d *dials) use(number uint64, now time.Time) {
	if number >= d.first {
		d.times[number-d.first] = now.Sub(d.origin)
	}
}

// isOver reports whether every window that d knows of is over.
func (d *dials) isOver(now time.Time) bool {
	passed := now.Sub(d.origin)
	return isAnotherClock(now, d.origin) || len(d.times) == 0 || d.times[len(d.times)-1]+d.per < passed
}

// dialsOf returns the dials of a host; nil if none of its clients has stated a window.
func (g *Governor) dialsOf(name string, w Window, now time.Time) *dials {
	d := g.dials[name]
	if d != nil && isAnotherClock(now, d.origin) {
		delete(g.dials, name)
		d = nil
	}
	switch {
	case d == nil && w.Dials == 0:
		return nil
	case d == nil:
		if len(g.dials) >= maxHosts {
			g.forget(now)
		}
		d = &dials{origin: now}
		g.dials[name] = d
	}
	d.limit(w)
	return d
}

// reserve returns the place of a new turn in d.
func (g *Governor) reserve(d *dials, now time.Time) (place uint64) {
	place = d.reserve(now)
	if until := d.origin.Add(d.times[len(d.times)-1] + d.per); g.until.Load() == nil || until.After(*g.until.Load()) {
		g.until.Store(&until)
	}
	return place
}

// remembers reports whether a window is not over.
func (g *Governor) remembers(now time.Time) bool {
	until := g.until.Load()
	return until != nil && now.Before(*until)
}

// forget removes the hosts whose windows are over.
func (g *Governor) forget(now time.Time) {
	for name, d := range g.dials {
		if d.isOver(now) {
			delete(g.dials, name)
		}
	}
}

// State makes the window that a client states for a host count.
func (g *Governor) State(name string, w Window, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dialsOf(name, w, now)
}

// Use follows when a turn that was due is used, at the latest. It is used from Wait on.
func (g *Governor) Use(t Turn, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.dials != nil {
		t.dials.use(t.place, now)
	}
}

// Take takes a turn of a host at once, for a client that has one already and dials again for
// it, or returns how long it is until there would be one.
func (g *Governor) Take(name string, w Window, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.dialsOf(name, w, now)
	if d == nil {
		return 0
	}
	if wait := d.earliest(d.next()) - now.Sub(d.origin); wait > 0 {
		return wait
	}
	g.reserve(d, now)
	return 0
}

// Expect returns when a turn that is asked for at a time from now on will be due, as far as is
// known now. t is the turn, or zero if it is still to be reserved.
func (g *Governor) Expect(name string, t Turn, at, now time.Time) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	isNew := t == Turn{}
	if h := g.find(name, now); h != nil && (isNew || h == t.host) {
		number, dueThen := t.number, h.due+max(0, at.Sub(now).Seconds())*h.rate
		if isNew {
			number, dueThen = h.given+1, min(dueThen, h.given+g.burst)
		}
		if ahead := number - dueThen; ahead > tolerance {
			at = at.Add(time.Duration(math.Ceil(ahead / h.rate * float64(time.Second))))
		}
	}
	if d := g.dialsOf(name, Window{}, now); d != nil && (isNew || d == t.dials) {
		due := d.earliest(d.next())
		if !isNew {
			due = now.Sub(d.origin) + d.wait(t.place, now)
		}
		if from := d.origin.Add(due); from.After(at) {
			at = from
		}
	}
	return at
}
