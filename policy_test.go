package limpet

import (
	"testing"
	"time"
)

// peers.md calls them R4 to R6: giving up after 15 minutes, a maximum that
// jitter exceeds, and jitter that vanishes at the cap.

func TestPolicyNeverGivesUp(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for k := 1; k <= 2000; k++ {
		d := p.next(decision{}, 0)
		if d < 0 {
			t.Fatalf("failure %d: stop", k)
		}
		v := p.bound()
		low := v / 2
		if k == 1 {
			low, v = 0, 500*time.Millisecond
		}
		if d < low-time.Microsecond || d > v+time.Microsecond {
			t.Fatalf("failure %d: waits %v, want [%v, %v]", k, d, low, v)
		}
	}
}

func TestPolicyJitterSurvivesTheCap(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	seen := map[time.Duration]bool{}
	for range 500 {
		seen[p.next(decision{}, 0).Round(time.Millisecond)] = true
	}
	if len(seen) < 400 {
		t.Errorf("500 draws gave %d different waits", len(seen))
	}
}

func TestPolicySpread(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	const w = time.Minute
	if d := p.next(decision{}, w); d > w {
		t.Errorf("first wait %v, window %v", d, w)
	}
	for k := 2; k < 19; k++ {
		if d := p.next(decision{}, w); d < w/2 || d > w {
			t.Errorf("failure %d: waits %v outside [%v, %v]", k, d, w/2, w)
		}
	}
}

func TestPolicySlotReplacesTheDraw(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for range 100 {
		d := decision{}
		d.After = 40 * time.Second
		if got := p.next(d, 0); got < 40*time.Second || got > 44*time.Second {
			t.Fatalf("slot of 40 s gave %v", got)
		}
	}
}

func TestPolicyDialTimeoutGrowsOnTimeoutsOnly(t *testing.T) {
	p := newPolicy(Backoff{First: 1, Initial: 1, Max: 1, Multiplier: 1}, 10*time.Second)
	p.next(decision{}, 0)
	if p.dialTimeout != 10*time.Second {
		t.Errorf("after a refusal: %v", p.dialTimeout)
	}
	for range 10 {
		p.timedOut()
	}
	if p.dialTimeout != time.Minute {
		t.Errorf("after ten time-outs: %v", p.dialTimeout)
	}
}
