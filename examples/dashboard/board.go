package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet"
)

// board holds what the page shows and Stats does not have: the newest earthquake of each
// network, and the last outage. Each browser reads it at its own pace.
type board struct {
	mu      sync.Mutex
	newest  map[string]entry
	last    *outage
	version int
	changed chan struct{} // closed and replaced with each version
}

// entry is one row of the list.
type entry struct {
	Network string          `json:"network"`
	Quake   json.RawMessage `json:"quake"`
	version int
}

// outage is one that is over.
type outage struct {
	Ended    time.Time
	Seconds  float64
	Attempts int
}

// update is one server-sent event: entries that have changed, and numbers of now.
type update struct {
	Entries []entry `json:"entries"`
	Last    *outage // nil: none yet

	Phase       string  // of the client
	Cause       string  // the class of what ended the last connection or attempt, if any
	NextAttempt float64 // seconds until the next attempt
	Outage      float64 // seconds that the present outage has lasted, 0 without one
	Outages     uint64

	Received, Conflated, Delivered, Gaps, Resets, Missed uint64
}

func newBoard() *board { return &board{newest: map[string]entry{}, changed: make(chan struct{})} }

// change changes the board and wakes the browsers.
func (b *board) change(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.version++
	do()
	close(b.changed)
	b.changed = make(chan struct{})
}

// update adds a batch of the subscription. What it says of losses is also in Stats.
func (b *board) update(batch []limpet.Message) {
	b.change(func() {
		for _, m := range batch {
			if m.Loss == nil {
				network := strings.TrimPrefix(m.Topic, "quakes/")
				b.newest[network] = entry{network, m.Payload, b.version}
			}
		}
	})
}

// Observe implements limpet.Observer.
func (b *board) Observe(e limpet.Event) {
	switch e := e.(type) {
	case limpet.OutageEnded:
		b.change(func() { b.last = &outage{time.Now(), e.Duration.Seconds(), e.Attempts} })
	case limpet.StateChanged:
		b.change(func() {}) // the browsers read State
	}
}

// since returns what has changed since a version, and a channel that is closed with the
// next change.
func (b *board) since(version int) (u update, now int, next <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.newest {
		if e.version > version {
			u.Entries = append(u.Entries, e)
		}
	}
	slices.SortFunc(u.Entries, func(a, b entry) int { return strings.Compare(a.Network, b.Network) })
	u.Last = b.last
	return u, b.version, b.changed
}

// measure adds what the client says of itself.
func (u *update) measure(client *limpet.Client) {
	state, stats := client.State(), client.Stats()
	u.Phase = state.Phase.String()
	if state.Phase != limpet.Ready && state.Cause != nil {
		u.Cause = string(limpet.ClassOf(state.Cause))
	}
	if state.Phase == limpet.Waiting {
		u.NextAttempt = max(0, time.Until(state.NextAttempt).Seconds())
	}
	u.Outage, u.Outages = stats.Outage.Seconds(), stats.Outages
	m := &stats.Messages
	u.Received, u.Conflated, u.Delivered = m.Received, m.Conflated, m.Delivered
	u.Gaps, u.Resets, u.Missed = m.Gaps, m.Resets, m.Missed
}

// serve sends the board as server-sent events until the browser leaves: at each change, and
// otherwise twice a second: an outage has no batches, and its numbers change all the same.
func (b *board) serve(w http.ResponseWriter, r *http.Request, client *limpet.Client) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for version := 0; ; {
		u, now, next := b.since(version)
		u.measure(client)
		text, err := json.Marshal(u)
		if err == nil {
			_, err = fmt.Fprintf(w, "data: %s\n\n", text)
		}
		if err != nil || flush.Flush() != nil {
			return
		}
		version = now
		select {
		case <-next:
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
