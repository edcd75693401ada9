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
	turn     governor.Turn
}

// NewChoice returns the choice among urls, with turns of g. release becomes Release.
func NewChoice(urls []*url.URL, g *governor.Governor, release func()) Choice {
	list := NewList(urls)
	return Choice{List: list, Chosen: list.First(), Release: release, governor: g}
}

// Wait chooses the endpoint of the next attempt, and returns how long its turn is away: TurnAt
// is when to ask again.
func (c *Choice) Wait(now time.Time) time.Duration {
	if !c.HasTurn {
		if c.Chosen, c.Moved = c.Moved, nil; c.Chosen == nil {
			c.Chosen = c.List.Next(now)
		}
		c.turn = c.governor.Reserve(c.Chosen.URL.Host, now)
	}
	wait := max(0, c.governor.Wait(c.Chosen.URL.Host, c.turn, now))
	if c.HasTurn = wait > 0; !c.HasTurn {
		c.TurnAt = time.Time{}
		return 0
	}
	c.TurnAt = now.Add(min(wait, askGovernor)) // the turn may come earlier or later by then
	return wait
}

// Worked follows when a connection to an endpoint is ready.
func (c *Choice) Worked(at *Endpoint, now time.Time) {
	c.List.Worked(at)
	c.List.BeginRound()
	c.governor.Accepted(at.URL.Host, now)
}

// Overloaded follows when an endpoint refuses a client because it has too many.
func (c *Choice) Overloaded(at *Endpoint, now time.Time) { c.governor.Overloaded(at.URL.Host, now) }
