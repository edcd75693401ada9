package endpoint

import (
	"math/rand/v2"
	"net/url"
	"slices"
	"time"
)

// Endpoint is one URL of a List and what is known of it.
type Endpoint struct {
	URL *url.URL

	failures int       // in a row that reached it
	avoid    time.Time // others come first until then
	slot     time.Time // of the server: it is not tried before
	round    uint64    // in which it was last tried
	refuses  bool      // the last attempt failed for a reason that does not pass
}

// The breaker of docs/reconnect.md, section 5.
const (
	breakAfter = 5                // failures in a row
	coolDown   = 30 * time.Second // U(0.5, 1.5) of it
)

// List is the endpoints of one client, in the order in which it tries them. They are tried in
// rounds: each at most once in a round. A List is not safe for concurrent use.
type List struct {
	all   []*Endpoint
	gone  []*Endpoint // not in the list, and they may come to it: the last maxEndpoints, the last one at the end
	round uint64
}

// NewList returns a list in random order: clients that are started together must not all
// begin with the same endpoint.
func NewList(urls []*url.URL) *List {
	l := &List{round: 1}
	l.Replace(urls)
	return l
}

// Replace makes urls, which are not empty, the endpoints. What is known of those that stay is
// kept, and their order. The others come at random places, but not before the first that stays:
// it was the last to work. What is known of those that go is kept for when they come back: their
// slots hold, and one may be in use.
func (l *List) Replace(urls []*url.URL) {
	known := slices.Concat(l.gone, l.all)
	l.all = slices.DeleteFunc(l.all, func(e *Endpoint) bool { return !slices.ContainsFunc(urls, e.isAt) })
	first := min(len(l.all), 1)
	for _, u := range urls {
		if slices.ContainsFunc(l.all, func(e *Endpoint) bool { return e.isAt(u) }) {
			continue
		}
		added := find(known, u)
		if added == nil {
			added = &Endpoint{URL: u}
		}
		l.all = slices.Insert(l.all, first+rand.IntN(len(l.all)-first+1), added)
	}
	l.gone = nil
	for _, e := range known {
		if !slices.Contains(l.all, e) {
			e.refuses = false
			l.keep(e)
		}
	}
}

// keep remembers e, which is not in the list.
func (l *List) keep(e *Endpoint) {
	l.gone = append(l.gone[max(0, len(l.gone)+1-maxEndpoints):], e)
}

// find returns the one of known that is at u; nil if there is none.
func find(known []*Endpoint, u *url.URL) *Endpoint {
	if i := slices.IndexFunc(known, func(e *Endpoint) bool { return e.isAt(u) }); i >= 0 {
		return known[i]
	}
	return nil
}

func (e *Endpoint) isAt(u *url.URL) bool { return *u == *e.URL }

// Len returns the number of endpoints.
func (l *List) Len() int { return len(l.all) }

// First returns the endpoint that worked last, or any.
func (l *List) First() *Endpoint { return l.all[0] }

// BeginRound makes every endpoint one that can be tried.
func (l *List) BeginRound() { l.round++ }

// choose returns the endpoint to try next in this round, nil if all were tried or must not be
// tried yet. Those that are avoided come last.
func (l *List) choose(now time.Time) (avoided *Endpoint, best *Endpoint) {
	for _, e := range l.all {
		switch {
		case e.round == l.round || e.slot.After(now):
		case !e.avoid.After(now):
			return avoided, e
		case avoided == nil || e.avoid.Before(avoided.avoid):
			avoided = e
		}
	}
	return avoided, nil
}

// Next returns the endpoint for an attempt. If all were tried in this round, a new one
// begins; if none may be tried yet, it is the one that may be first.
func (l *List) Next(now time.Time) *Endpoint {
	e, round := l.peek(now)
	l.round = round
	e.round = l.round
	return e
}

// peek returns what Next would, and its round, and changes nothing.
func (l *List) peek(now time.Time) (e *Endpoint, round uint64) {
	avoided, e := l.choose(now)
	if round = l.round; e == nil && avoided == nil {
		round++
		avoided, e = (&List{all: l.all, round: round}).choose(now)
	}
	if e == nil {
		e = avoided
	}
	if e == nil {
		e = slices.MinFunc(l.all, func(a, b *Endpoint) int { return a.slot.Compare(b.slot) })
	}
	return e, round
}

// HasNext reports whether another endpoint can be tried at once in this round. One that is
// avoided is not worth it: it waits for the next round.
func (l *List) HasNext(now time.Time) bool {
	_, e := l.choose(now)
	return e != nil
}

// Earliest returns the time before which no endpoint may be tried.
func (l *List) Earliest() time.Time {
	return slices.MinFunc(l.all, func(a, b *Endpoint) int { return a.slot.Compare(b.slot) }).slot
}

// Worked follows when a connection to e is ready: the next attempt begins with e.
func (l *List) Worked(e *Endpoint) {
	e.avoid = time.Time{} // a slot that came while the attempt was in progress holds
	l.forgetRefusals()
	if i := slices.Index(l.all, e); i > 0 {
		l.all = slices.Insert(slices.Delete(l.all, i, i+1), 0, e)
	}
}

// Stable follows when a connection to e lasted.
func (l *List) Stable(e *Endpoint) { e.failures = 0 }

// Failed follows when an attempt or a connection to e failed for a reason that may pass.
// After some in a row, others come first for a while.
func (l *List) Failed(e *Endpoint, now time.Time) {
	l.forgetRefusals()
	if e.failures++; e.failures >= breakAfter {
		l.Avoid(e, now)
	}
}

// Refused follows when an attempt at e failed for a reason that does not pass. It reports
// whether that is so for every endpoint.
func (l *List) Refused(e *Endpoint, now time.Time) (all bool) {
	e.refuses = true
	l.Avoid(e, now)
	return !slices.ContainsFunc(l.all, func(e *Endpoint) bool { return !e.refuses })
}

// forgetRefusals makes only refusals count that follow: those of every endpoint, with nothing else
// in between.
func (l *List) forgetRefusals() {
	for _, e := range l.all {
		e.refuses = false
	}
}

// Avoid makes others come before e for a while.
func (l *List) Avoid(e *Endpoint, now time.Time) {
	e.avoid = now.Add(coolDown/2 + rand.N(coolDown))
}

// Hold keeps e from being tried before a time that its server gave. One that was given before holds
// too.
func (l *List) Hold(e *Endpoint, until time.Time) {
	known := find(slices.Concat(l.all, l.gone), e.URL)
	if known == nil {
		known = e
		l.keep(e)
	}
	if until.After(known.slot) {
		known.slot = until
	}
}

// At returns the endpoint at u, which need not be one of the list.
func (l *List) At(u *url.URL) *Endpoint {
	for _, known := range [][]*Endpoint{l.all, l.gone} {
		if e := find(known, u); e != nil {
			return e
		}
	}
	return &Endpoint{URL: u}
}
