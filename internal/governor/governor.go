// Package governor bounds how fast the clients of a process connect to a host.
package governor

import (
	"math"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a host that says that it is overloaded (docs/reconnect.md, section 6). In between
// the rate is halved and doubled.
const (
	firstRate = 20.0 // attempts a second
	leastRate = 1.0
	maxRate   = 1e6
	changeAt  = time.Second      // at most once in it
	doubleAt  = 30 * time.Second // without a refusal
	maxHosts  = 1024
)

// Governor gives the attempts of many clients their turns, for each host apart. Its lock is
// a leaf.
type Governor struct {
	rate  float64 // attempts a second that are always allowed at most; 0: no limit
	burst float64

	mu    sync.Mutex
	hosts map[string]*host
	dials map[string]*dials         // of hosts with a Window
	until atomic.Pointer[time.Time] // when the last window is over, if each turn is used when it is due; nil: there is none
}

// host is what is known of the rate of one host. One without a limit is not kept.
type host struct {
	rate    float64   // turns a second
	changed time.Time // since when
	given   float64   // turns so far
	due     float64   // of them at the time at; it is ahead of given by what is free
	at      time.Time
}

// Turn is a place in the queue of a host. The zero Turn is due.
type Turn struct {
	host   *host
	number float64
	dials  *dials
	place  uint64 // in dials
}

// New returns a governor that allows rate attempts a second to a host, and burst at once. With
// a rate of 0 it has no limit until a host is overloaded.
func New(rate float64, burst int) *Governor {
	return &Governor{rate: rate, burst: float64(burst), hosts: make(map[string]*host), dials: make(map[string]*dials)}
}

// Reserve returns the next turn of a host. w is the window that the client states: the lowest
// that was stated for the host counts for all.
func (g *Governor) Reserve(name string, w Window, now time.Time) (t Turn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.find(name, now); h != nil {
		h.given++
		t.host, t.number = h, h.given
	}
	if d := g.dialsOf(name, w, now); d != nil {
		t.dials, t.place = d, g.reserve(d, now)
	}
	return t
}

// Wait returns how long it is until a turn of a host. With 0 the turn is used. What it depends on
// may change in the meantime, so it is to be asked again now and then.
func (g *Governor) Wait(name string, t Turn, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.find(name, now); h != nil && h == t.host && t.number > h.due+tolerance {
		wait = time.Duration(math.Ceil((t.number - h.due) / h.rate * float64(time.Second)))
	}
	if t.dials == nil {
		return wait
	}
	if wait = max(wait, t.dials.wait(t.place, now)); wait == 0 {
		t.dials.use(t.place, now)
	}
	return wait
}

// tolerance is the part of a turn that rounding may lose.
const tolerance = 1e-6

// Overloaded follows when a host refuses a client because it has too many.
func (g *Governor) Overloaded(name string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.find(name, now)
	switch {
	case h == nil:
		h = g.add(name, firstRate, now)
	case h.rate > firstRate:
		h.setRate(firstRate, now)
	case now.Sub(h.changed) >= changeAt:
		h.setRate(max(h.rate/2, min(leastRate, h.rate)), now)
	}
	h.due = min(h.due, h.given) // what is free is free no more
}

// Accepted follows when a host has taken a client.
func (g *Governor) Accepted(name string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.find(name, now); h != nil && now.Sub(h.changed) >= changeAt {
		g.double(name, h, now)
	}
}

// double gives a host twice its rate, or no limit but that of g. It reports whether there is
// nothing more to double.
func (g *Governor) double(name string, h *host, at time.Time) (done bool) {
	switch {
	case g.rate == 0 && h.rate >= firstRate && h.given <= h.due: // nothing waits, which would come at once
		delete(g.hosts, name)
		return true
	case g.rate > 0 && h.rate >= g.rate:
		return true
	case g.rate > 0:
		h.setRate(min(2*h.rate, g.rate), at)
	default:
		h.setRate(min(2*h.rate, maxRate), at)
	}
	return false
}

func (h *host) setRate(rate float64, now time.Time) { h.rate, h.changed = rate, now }

// find returns the host as it is now; nil if it has no limit.
func (g *Governor) find(name string, now time.Time) *host {
	h := g.hosts[name]
	switch {
	case h != nil && isAnotherClock(now, h.at):
		delete(g.hosts, name)
		h = nil
	case h != nil:
		for now.Sub(h.changed) >= doubleAt {
			at := h.changed.Add(doubleAt)
			g.pass(h, at)
			if g.double(name, h, at) {
				break
			}
		}
		h = g.hosts[name]
	}
	if h == nil && g.rate > 0 {
		h = g.add(name, g.rate, now)
	}
	if h != nil {
		g.pass(h, now)
	}
	return h
}

// isAnotherClock reports whether now is far before at, because it is from another clock: that of a
// test in virtual time. The rounds of two clients of one clock begin at about the same time.
func isAnotherClock(now, at time.Time) bool { return at.Sub(now) > time.Minute }

// pass makes turns of h due as time passes. Unused ones are kept, as many as the burst.
func (g *Governor) pass(h *host, now time.Time) {
	if passed := now.Sub(h.at); passed > 0 {
		h.at = now
		h.due = min(h.due+passed.Seconds()*h.rate, h.given+g.burst)
	}
}

// add adds a host.
func (g *Governor) add(name string, rate float64, now time.Time) *host {
	if len(g.hosts) >= maxHosts { // those that were not used for long have nothing to say
		for other, h := range g.hosts {
			if unused := now.Sub(h.at); unused > 10*time.Minute || unused < 0 {
				delete(g.hosts, other)
			}
		}
	}
	h := &host{rate: rate, changed: now, due: g.burst, at: now}
	g.hosts[name] = h
	return h
}

// shared are the governors without a rate of the clients that live, by what they share.
var shared = struct {
	sync.Mutex
	governors map[any]*sharedGovernor
}{governors: make(map[any]*sharedGovernor)}

type sharedGovernor struct {
	*Governor
	users int
}

// Share returns the governor without a rate that all users of the same key share until they
// have called release, and until the windows of its hosts are over.
func Share(key any) (g *Governor, release func()) {
	shared.Lock()
	defer shared.Unlock()
	for key, s := range shared.governors {
		s.dropUnused(key)
	}
	s := shared.governors[key]
	if s == nil {
		s = &sharedGovernor{Governor: New(0, 1)}
		shared.governors[key] = s
	}
	s.users++
	return s.Governor, sync.OnceFunc(func() {
		shared.Lock()
		defer shared.Unlock()
		s.users--
		s.dropUnused(key)
	})
}

// dropUnused forgets the governor of key if it has no users and nothing to remember. The lock of
// shared is held.
func (s *sharedGovernor) dropUnused(key any) {
	if s.users == 0 && !s.remembers(time.Now()) {
		delete(shared.governors, key)
	}
}

// Of returns what Share does for the transport of a client. A client without one has that of
// net/http.
func Of(client *http.Client) (g *Governor, release func()) {
	var transport http.RoundTripper
	if client != nil {
		transport = client.Transport
	}
	if transport == nil {
		return Share(nil)
	}
	if reflect.TypeOf(transport).Kind() != reflect.Pointer { // it may not be comparable
		return New(0, 1), func() {}
	}
	return Share(transport)
}
