package endpoint

import (
	"net/url"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/governor"
)

// choice returns one among n endpoints, without a limit of turns until a host is overloaded.
func choice(n int) Choice {
	var urls []*url.URL
	for _, e := range list(n).all {
		urls = append(urls, e.URL)
	}
	return NewChoice(urls, governor.New(0, 1), governor.Window{}, func() {})
}

// The URL that a server named is for one attempt.
func TestMovedOnce(t *testing.T) {
	c, now := choice(2), time.Now()
	moved := &Endpoint{URL: &url.URL{Scheme: "wss", Host: "elsewhere"}}
	c.Moved = moved
	if wait := c.Wait(now); wait != 0 || c.Chosen != moved || c.Moved != nil || c.HasTurn {
		t.Errorf("a wait of %v, and %+v", wait, c)
	}
	first := c.List.First()
	if c.Wait(now); c.Chosen != first {
		t.Errorf("%v is the next, want %v", c.Chosen.URL, first.URL)
	}
	if c.Wait(now); c.Chosen == first || c.Chosen == moved {
		t.Errorf("%v is the one after it", c.Chosen.URL)
	}
}

// A URL that a server names is not tried in a slot of its server, and makes no other slot void.
func TestMovedRespectsASlot(t *testing.T) {
	c, now := choice(1), time.Now()
	own, elsewhere := c.List.First(), &url.URL{Scheme: "wss", Host: "elsewhere"}
	c.List.Hold(own, now.Add(time.Minute))
	if c.Moved = c.List.At(elsewhere); !c.Earliest(now).IsZero() {
		t.Error("it waits for another endpoint")
	}
	c.List.Hold(c.Moved, now.Add(2*time.Minute))
	c.Moved = c.List.At(elsewhere)
	if got := c.Earliest(now); !got.Equal(now.Add(time.Minute)) {
		t.Errorf("the earliest attempt is in %v", got.Sub(now))
	}
	if wait := c.Wait(now.Add(time.Minute)); wait != 0 || c.Chosen != own || c.Moved != nil {
		t.Errorf("a wait of %v, and %v is the next", wait, c.Chosen.URL)
	}
}

// While a turn is not due, the endpoint stays, and the question is asked every 5 seconds.
func TestTurnIsKept(t *testing.T) {
	c, now := choice(1), time.Now()
	for range 6 { // down to a turn a second
		c.Overloaded(c.Chosen, now)
		now = now.Add(time.Second)
	}
	for range 10 {
		c.governor.Reserve("0", governor.Window{}, now)
	}
	wait := c.Wait(now)
	if wait < 9*time.Second || wait > 12*time.Second || !c.HasTurn || c.TurnAt.Sub(now) != askGovernor {
		t.Fatalf("a wait of %v, to ask again after %v", wait, c.TurnAt.Sub(now))
	}
	due := now.Add(wait)
	c.Moved = &Endpoint{URL: &url.URL{Scheme: "wss", Host: "elsewhere"}}
	for asked := 1; c.HasTurn; asked++ {
		now = c.TurnAt
		if c.Wait(now); c.Chosen.URL.Host != "0" || asked > 3 {
			t.Fatalf("question %d: %+v", asked, c)
		}
	}
	if late := now.Sub(due); late < 0 || late > time.Microsecond || !c.TurnAt.IsZero() || c.Moved == nil {
		t.Errorf("%v after the turn: %+v", late, c)
	}
}

// The endpoint that worked is the first of a new round.
func TestChoiceWorked(t *testing.T) {
	c, now := choice(3), time.Now()
	c.Wait(now)
	c.Wait(now)
	second := c.Chosen
	c.Worked(second, now)
	if c.Wait(now); c.Chosen != second {
		t.Errorf("%v is the next, want %v", c.Chosen.URL, second.URL)
	}
}

// A window counts from when a client is made, not from its first attempt.
func TestStatedWindow(t *testing.T) {
	now := time.Now()
	u := &url.URL{Scheme: "wss", Host: "a"}
	g := governor.New(0, 1)
	NewChoice([]*url.URL{u}, g, governor.Window{Dials: 1, Per: time.Minute}, func() {})
	other := NewChoice([]*url.URL{u}, g, governor.Window{}, func() {})
	if first, second := other.Wait(now), other.Wait(now); first != 0 || second != 63*time.Second {
		t.Errorf("waits of %v and %v", first, second)
	}
}

// What is expected is what comes, for the endpoint that is next, and nothing changes by the question.
func TestExpectedAttempt(t *testing.T) {
	c, now := choice(2), time.Now()
	c.window = governor.Window{Dials: 1, Per: time.Minute}
	moved := &Endpoint{URL: &url.URL{Scheme: "wss", Host: "elsewhere"}}
	for range 2 { // of the endpoints in turn, each once
		if at := c.Expect(now, now); !at.Equal(now) {
			t.Errorf("expected after %v", at.Sub(now))
		}
		if wait := c.Wait(now); wait != 0 {
			t.Errorf("a wait of %v", wait)
		}
	}
	if at := c.Expect(now.Add(time.Second), now); at.Sub(now) != 63*time.Second {
		t.Errorf("expected after %v", at.Sub(now))
	}
	c.Moved = moved
	if at := c.Expect(now.Add(time.Second), now); at.Sub(now) != time.Second || c.Moved != moved || c.HasTurn {
		t.Errorf("expected after %v where the server has named a URL: %+v", at.Sub(now), c)
	}
	c.Moved = nil
	c.Wait(now)
	if at := c.Expect(now, now); !c.HasTurn || at.Sub(now) != 63*time.Second {
		t.Errorf("expected after %v with a turn", at.Sub(now))
	}
}
