package node

import (
	"errors"
	"testing"
	"time"
)

// The clients are sent elsewhere once for each outage of the engine that lasts, and not while the gateway shuts down.
func TestHealth(t *testing.T) {
	h, began := &health{}, time.Now()
	away := errors.New("away")
	for i, x := range []struct {
		after          time.Duration
		err            error
		changed, leave bool
	}{
		{0, nil, false, false},
		{1 * time.Second, away, true, false},
		{1*time.Second + engineGrace - 1, away, false, false},
		{1*time.Second + engineGrace, away, false, true},
		{20 * time.Second, away, false, false},
		{21 * time.Second, nil, true, false},
		{22 * time.Second, away, true, false},
		{23 * time.Second, nil, true, false},
		{24 * time.Second, away, true, false},
		{24*time.Second + engineGrace, away, false, true},
	} {
		changed, leave := h.note(x.err, began.Add(x.after))
		if changed != x.changed || leave != x.leave {
			t.Errorf("look %d: changed %v, leave %v", i, changed, leave)
		}
		if err := h.err(); err != x.err {
			t.Errorf("look %d: healthz has %v", i, err)
		}
	}
	h.note(nil, began.Add(30*time.Second))
	h.drain()
	h.note(away, began.Add(31*time.Second))
	if _, leave := h.note(away, began.Add(time.Minute)); leave || !errors.Is(h.err(), errDraining) {
		t.Errorf("during a shutdown: leave %v, %v", leave, h.err())
	}
}

// A gateway that hears nothing notices it after 5 seconds (docs/engines.md); within 10 seconds its clients are asked to leave.
func TestClientsLeaveInTime(t *testing.T) {
	const stale = 5 * time.Second // of the engines
	if all := stale + watchEvery + engineGrace + watchEvery + awaySpread; all > 10*time.Second {
		t.Errorf("the last client is asked to leave after %v", all)
	}
}
