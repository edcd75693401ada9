package endpoint

import (
	"net/url"
	"time"

	"github.com/limpet-go/limpet/internal/governor"
)

const askGovernor = 5 * time.Second // at most between two questions whether a turn is due

// Choice is to what a client connects, and when it is its turn. It is not safe for concurrent
// use.
type Choice struct {
	List    *List
	Chosen  *Endpoint // for the attempt in progress, or the last one, or the next if HasTurn
	Moved   *Endpoint // for the next attempt, because the server says so; nil: one of List
	HasTurn bool      // there is a turn for the next attempt, which is not due yet
	TurnAt  time.Time // when to ask whether it is due
	Release func()    // of the governor, once the client has ended

	governor *governor.Governor
	window   governor.Window // of the server, for all clients of a host
	turn     governor.Turn
}

// NewChoice returns the choice among urls, with turns of g that keep to w. release becomes Release.
func NewChoice(urls []*url.URL, g *governor.Governor, w governor.Window, release func()) Choice {
	list := NewList(urls)
	for _, u := range urls {
		g.State(u.Host, w, time.Now())
	}
	return Choice{List: list, Chosen: list.First(), Release: release, governor: g, window: w}
}

// Wait chooses the endpoint of the next attempt, and returns how long its turn is away: TurnAt
// is when to ask again.
func (c *Choice) Wait(now time.Time) time.Duration {
	if !c.HasTurn {
		if c.Chosen, c.Moved = c.Moved, nil; c.Chosen == nil || c.Chosen.slot.After(now) {
			c.Chosen = c.List.Next(now)
		}
		c.turn = c.governor.Reserve(c.Chosen.URL.Host, c.window, now)
	}
	wait := max(0, c.governor.Wait(c.Chosen.URL.Host, c.turn, now))
	if c.HasTurn = wait > 0; !c.HasTurn {
		c.TurnAt = time.Time{}
		return 0
	}
	c.TurnAt = now.Add(min(wait, askGovernor)) // the turn may come earlier or later by then
	return wait
}

// Earliest returns the time before which no endpoint may be tried, because of slots; long ago if
// there is none, or the endpoint of the next attempt is chosen.
func (c *Choice) Earliest(now time.Time) time.Time {
	if c.HasTurn || c.Moved != nil && !c.Moved.slot.After(now) {
		return time.Time{}
	}
	return c.List.Earliest()
}

// Expect returns when an attempt that is due at a time from now on will start, as far as is known:
// others may come before its turn, and the rate of the turns may change.
func (c *Choice) Expect(at, now time.Time) time.Time {
	if c.HasTurn {
		return c.governor.Expect(c.Chosen.URL.Host, c.turn, at, now)
	}
	next := c.Moved
	if next == nil {
		next, _ = c.List.peek(at)
	}
	return c.governor.Expect(next.URL.Host, governor.Turn{}, at, now)
}

// Dial follows when the attempt whose turn has come dials: it may have asked for a credential
// first. It returns a function for that, which may be called on another goroutine.
func (c *Choice) Dial() func() {
	g, turn := c.governor, c.turn
	return func() { g.Use(turn, time.Now()) }
}

// DialAgain returns a function for an attempt that dials a host beside its turn, after a redirect
// for example: it takes a turn of that host or returns how long it is until there is one. It may
// be called on another goroutine.
func (c *Choice) DialAgain() func(host string) time.Duration {
	g, w := c.governor, c.window
	return func(host string) time.Duration { return g.Take(host, w, time.Now()) }
}

// Worked follows when a connection to an endpoint is ready.
func (c *Choice) Worked(at *Endpoint, now time.Time) {
	c.List.Worked(at)
	c.List.BeginRound()
	c.governor.Accepted(at.URL.Host, now)
}

// Overloaded follows when an endpoint refuses a client because it has too many.
func (c *Choice) Overloaded(at *Endpoint, now time.Time) { c.governor.Overloaded(at.URL.Host, now) }
