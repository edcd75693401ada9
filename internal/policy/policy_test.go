package policy

import (
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// Three ways in which backoff goes wrong elsewhere: giving up after 15 minutes,
// a maximum that jitter exceeds, and jitter that vanishes at the cap.

func TestPolicyNeverGivesUp(t *testing.T) {
	p := New(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for k := 1; k <= 2000; k++ {
		d := p.NextDelay(verdict.Decision{}, 0, time.Now())
		if d < 0 {
			t.Fatalf("failure %d: stop", k)
		}
		v := p.delayBound()
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
	p := New(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	seen := map[time.Duration]bool{}
	for range 500 {
		seen[p.NextDelay(verdict.Decision{}, 0, time.Now()).Round(time.Millisecond)] = true
	}
	if len(seen) < 400 {
		t.Errorf("500 draws gave %d different waits", len(seen))
	}
}

func TestPolicySpread(t *testing.T) {
	p := New(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	const w = time.Minute
	if d := p.NextDelay(verdict.Decision{}, w, time.Now()); d > w {
		t.Errorf("first wait %v, window %v", d, w)
	}
	for k := 2; k < 19; k++ {
		if d := p.NextDelay(verdict.Decision{}, w, time.Now()); d < w/2 || d > w {
			t.Errorf("failure %d: waits %v outside [%v, %v]", k, d, w/2, w)
		}
	}
}

// Who was refused at its place in the window comes at the same place in the next one, at most
// 250 ms early, as long as the backoff interval is the shorter one. The place counts, not
// how long the attempt took.
func TestPolicyKeepsItsPlace(t *testing.T) {
	const w = time.Minute
	for range 100 {
		p, lost := newTestPolicy(), time.Now()
		place := lost.Add(p.NextDelay(verdict.Decision{}, w, lost))
		early := false
		for k := 2; k < longOutageFailures; k++ {
			ended := place.Add(time.Duration(k) * time.Second)
			next := ended.Add(p.NextDelay(verdict.Decision{}, w, ended))
			if after := next.Sub(place); after < w-maxPlaceShift || after > w {
				t.Fatalf("failure %d: %v after the place before, the window is %v", k, after, w)
			}
			early = early || next.Sub(place) < w-maxPlaceShift/2
			place = next
		}
		if !early {
			t.Fatal("the place never moves")
		}
	}
	short, now := newTestPolicy(), time.Now()
	now = now.Add(short.NextDelay(verdict.Decision{}, 2*time.Second, now))
	if d := short.NextDelay(verdict.Decision{}, 2*time.Second, now); d < 1800*time.Millisecond || d > 2*time.Second {
		t.Errorf("window of 2 s: the next place is in %v", d)
	}
}

// A client that waits for longer than its window spreads the wait over no more than the window, or half
// a second: more does not help the server, and the last client comes later.
func TestPolicyWaitOfASmallHerd(t *testing.T) {
	for _, tc := range []struct{ window, over time.Duration }{
		{time.Nanosecond, minSpreadOfWait}, {time.Second, time.Second}, {3 * time.Second, 3 * time.Second}, {10 * time.Second, 7500 * time.Millisecond}, {0, 7500 * time.Millisecond},
	} {
		shortest, longest := time.Hour, time.Duration(0)
		for range 1000 {
			p := newTestPolicy()
			p.CountFailure(15)
			d := p.NextDelay(verdict.Decision{}, tc.window, time.Now())
			shortest, longest = min(shortest, d), max(longest, d)
		}
		from := 7500 * time.Millisecond
		if shortest < from || shortest > from+tc.over/10 || longest > from+tc.over || longest < from+tc.over*9/10 {
			t.Errorf("window of %v: waits from %v to %v, want %v over %v", tc.window, shortest, longest, from, tc.over)
		}
	}
	p := newTestPolicy()
	p.CountFailure(15)
	for range 1000 {
		if p.NextDelay(verdict.Decision{AtCap: true}, time.Second, time.Now()) > 10*time.Second {
			return
		}
		p = newTestPolicy()
		p.CountFailure(15)
	}
	t.Error("a wait at the cap is spread over the window of a herd that it has nothing to do with")
}

// A client that has no place, or whose place does not fit, draws from the second half of the
// window: else those that fail at the same moment would come at the same moment.
func TestPolicyWithoutAPlace(t *testing.T) {
	const w = time.Minute
	for name, before := range map[string]func(p *Policy, now time.Time) time.Time{
		"retried at once": func(p *Policy, now time.Time) time.Time { p.CountFailure(0); return now },
		"slot": func(p *Policy, now time.Time) time.Time {
			now = now.Add(p.NextDelay(verdict.Decision{}, w, now))
			return now.Add(p.NextDelay(verdict.Decision{Verdict: wire.Verdict{After: 20 * time.Second}}, w, now))
		},
		"brought forward": func(p *Policy, now time.Time) time.Time {
			for p.place.Sub(now) < time.Second {
				p.ForgetFailures()
				p.NextDelay(verdict.Decision{}, w, now)
			}
			return now
		},
		"attempt of 40 s": func(p *Policy, now time.Time) time.Time {
			return now.Add(p.NextDelay(verdict.Decision{}, w, now) + 40*time.Second)
		},
		"window of the past": func(p *Policy, now time.Time) time.Time {
			p.NextDelay(verdict.Decision{}, w, now)
			return now.Add(time.Hour)
		},
	} {
		shortest, longest := w, time.Duration(0)
		for range 300 {
			p := newTestPolicy()
			d := p.NextDelay(verdict.Decision{}, w, before(&p, time.Now()))
			shortest, longest = min(shortest, d), max(longest, d)
		}
		if shortest < w/2 || shortest > w/2+w/20 || longest > w || longest < w-w/20 {
			t.Errorf("%s: 300 waits from %v to %v, want [%v, %v]", name, shortest, longest, w/2, w)
		}
	}
}

func TestPolicySlotReplacesTheDraw(t *testing.T) {
	p := New(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for range 100 {
		d := verdict.Decision{}
		d.After = 40 * time.Second
		if got := p.NextDelay(d, 0, time.Now()); got < 40*time.Second || got > 44*time.Second {
			t.Fatalf("slot of 40 s gave %v", got)
		}
	}
}

func TestPolicyDialTimeoutGrowsOnTimeoutsOnly(t *testing.T) {
	p := New(Backoff{First: 1, Initial: 1, Max: 1, Multiplier: 1}, 10*time.Second)
	p.NextDelay(verdict.Decision{}, 0, time.Now())
	if p.DialTimeout != 10*time.Second {
		t.Errorf("after a refusal: %v", p.DialTimeout)
	}
	for range 10 {
		p.ExtendDialTimeout()
	}
	if p.DialTimeout != time.Minute {
		t.Errorf("after ten time-outs: %v", p.DialTimeout)
	}
}

func newTestPolicy() Policy {
	return New(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
}

// However a failure is counted, the draws keep to the envelope: a refresh, an
// immediate retry, a floor of three, the cap.
func TestPolicyEnvelopeAfterAnyMixture(t *testing.T) {
	capped, overloaded, plain := verdict.Decision{AtCap: true}, verdict.Decision{MinFailures: 3}, verdict.Decision{}
	for name, mixture := range map[string][]any{
		"skipped":             {"skip", plain, plain, plain},
		"skipped over 20":     {"nineteen", "skip", plain, plain},
		"floor":               {overloaded, plain, plain, plain},
		"captive for hours":   {"nineteen", "nineteen", capped, capped, capped},
		"overloaded for long": {"nineteen", "nineteen", overloaded, overloaded},
	} {
		for range 200 {
			p := newTestPolicy()
			for i, step := range mixture {
				switch step {
				case "skip":
					p.CountFailure(0)
					continue
				case "nineteen":
					for range 19 {
						p.NextDelay(plain, 0, time.Now())
					}
					continue
				}
				got, v := p.NextDelay(step.(verdict.Decision), 0, time.Now()), p.delayBound()
				if p.Failures > 1 && (got < v/2-time.Microsecond || got > max(v, 15*time.Second)+time.Microsecond) {
					t.Fatalf("%s: step %d, failure %d waits %v, want [%v, %v]", name, i, p.Failures, got, v/2, v)
				}
			}
		}
	}
}

func TestPolicyCapRespectsTheSpread(t *testing.T) {
	p := newTestPolicy()
	p.NextDelay(verdict.Decision{}, 0, time.Now())
	for range 50 {
		if got := p.NextDelay(verdict.Decision{AtCap: true}, 2*time.Minute, time.Now()); got < time.Minute || got > 2*time.Minute {
			t.Fatalf("waits %v, the window is 2 min", got)
		}
	}
}

// After the pause that a goaway asks for comes its window: the herd spreads
// (docs/protocol.md, section 8).
func TestPolicyGoAwaySpreads(t *testing.T) {
	p := New(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	var longest time.Duration
	for range 200 {
		d := verdict.Decision{SlotWindow: 30 * time.Second}
		d.After = 40 * time.Second
		wait := p.NextDelay(d, 0, time.Now())
		if wait < 40*time.Second || wait > 70*time.Second {
			t.Fatalf("waits %v, want 40 s and up to 30 s more", wait)
		}
		longest = max(longest, wait)
	}
	if longest < 60*time.Second {
		t.Errorf("the longest of 200 waits is %v: the window is not used", longest)
	}
}
