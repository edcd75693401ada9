package limpet

import (
	"net/http"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Three ways in which backoff goes wrong elsewhere: giving up after 15 minutes,
// a maximum that jitter exceeds, and jitter that vanishes at the cap.

func TestPolicyNeverGivesUp(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for k := 1; k <= 2000; k++ {
		d := p.nextDelay(decision{}, 0)
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
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	seen := map[time.Duration]bool{}
	for range 500 {
		seen[p.nextDelay(decision{}, 0).Round(time.Millisecond)] = true
	}
	if len(seen) < 400 {
		t.Errorf("500 draws gave %d different waits", len(seen))
	}
}

func TestPolicySpread(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	const w = time.Minute
	if d := p.nextDelay(decision{}, w); d > w {
		t.Errorf("first wait %v, window %v", d, w)
	}
	for k := 2; k < 19; k++ {
		if d := p.nextDelay(decision{}, w); d < w/2 || d > w {
			t.Errorf("failure %d: waits %v outside [%v, %v]", k, d, w/2, w)
		}
	}
}

func TestPolicySlotReplacesTheDraw(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	for range 100 {
		d := decision{}
		d.After = 40 * time.Second
		if got := p.nextDelay(d, 0); got < 40*time.Second || got > 44*time.Second {
			t.Fatalf("slot of 40 s gave %v", got)
		}
	}
}

func TestPolicyDialTimeoutGrowsOnTimeoutsOnly(t *testing.T) {
	p := newPolicy(Backoff{First: 1, Initial: 1, Max: 1, Multiplier: 1}, 10*time.Second)
	p.nextDelay(decision{}, 0)
	if p.dialTimeout != 10*time.Second {
		t.Errorf("after a refusal: %v", p.dialTimeout)
	}
	for range 10 {
		p.extendDialTimeout()
	}
	if p.dialTimeout != time.Minute {
		t.Errorf("after ten time-outs: %v", p.dialTimeout)
	}
}

func newTestPolicy() policy {
	return newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
}

// However a failure is counted, the draws keep to the envelope: a refresh, an
// immediate retry, a floor of three, the cap.
func TestPolicyEnvelopeAfterAnyMixture(t *testing.T) {
	capped, overloaded, plain := decision{atCap: true}, decision{minFailures: 3}, decision{}
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
					p.countFailure(0)
					continue
				case "nineteen":
					for range 19 {
						p.nextDelay(plain, 0)
					}
					continue
				}
				got, v := p.nextDelay(step.(decision), 0), p.delayBound()
				if p.failures > 1 && (got < v/2-time.Microsecond || got > max(v, 15*time.Second)+time.Microsecond) {
					t.Fatalf("%s: step %d, failure %d waits %v, want [%v, %v]", name, i, p.failures, got, v/2, v)
				}
			}
		}
	}
}

func TestPolicyCapRespectsTheSpread(t *testing.T) {
	p := newTestPolicy()
	p.nextDelay(decision{}, 0)
	for range 50 {
		if got := p.nextDelay(decision{atCap: true}, 2*time.Minute); got < time.Minute || got > 2*time.Minute {
			t.Fatalf("waits %v, the window is 2 min", got)
		}
	}
}

type opinionated struct {
	wire.Dialect
	verdict wire.Verdict
}

func (d opinionated) Verdict(wire.Failure) wire.Verdict { return d.verdict }

// A dialect that knows what to do about a status need not read Retry-After.
func TestVerdictKeepsTheSlotOfTheServer(t *testing.T) {
	f := &wire.Failure{Stage: wire.StageUpgrade, Status: 503, Header: http.Header{"Retry-After": {"90"}}}
	for action := wire.ActionDefault; action <= wire.ActionNewSession; action++ {
		if d := decide(opinionated{verdict: wire.Verdict{Action: action}}, f); d.After != 90*time.Second {
			t.Errorf("%v: waits %v, the server wants 90 s", action, d.After)
		}
	}
}

// After the pause that a goaway asks for comes its window: the herd spreads
// (docs/protocol.md, section 8).
func TestPolicyGoAwaySpreads(t *testing.T) {
	p := newPolicy(Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
	var longest time.Duration
	for range 200 {
		d := decision{slotWindow: 30 * time.Second}
		d.After = 40 * time.Second
		wait := p.nextDelay(d, 0)
		if wait < 40*time.Second || wait > 70*time.Second {
			t.Fatalf("waits %v, want 40 s and up to 30 s more", wait)
		}
		longest = max(longest, wait)
	}
	if longest < 60*time.Second {
		t.Errorf("the longest of 200 waits is %v: the window is not used", longest)
	}
}

// What a client sends fits a server that counts in windows, wherever they begin, and one
// with a bucket. Nearly four fifths of what is allowed is used.
func TestPacingFitsTheServer(t *testing.T) {
	for _, limits := range []wire.ConnectionLimits{
		{Messages: 1}, {Messages: 2}, {Messages: 3}, {Messages: 4}, {Messages: 5}, {Messages: 9}, {Messages: 10}, {Messages: 100},
		{Messages: 480, Per: time.Hour}, {Messages: 120, Per: time.Minute}, {Messages: 7, Per: 10 * time.Millisecond},
		{Messages: 8, Burst: 20}, {Messages: 1, Burst: 1}, {Messages: 3, Per: time.Minute, Burst: 2},
	} {
		p := newPacing(&limits)
		per := limits.Per
		if per == 0 {
			per = time.Second
		}
		start := time.Now()
		var sent []time.Time
		for now := start; now.Sub(start) < 20*per; now = now.Add(p.bucket.Wait(now)) {
			for n := p.bucket.Available(now); n > 0; n-- {
				p.bucket.Take(now, 1)
				sent = append(sent, now)
			}
		}
		allowed := limits.Messages
		if limits.Burst > 0 {
			allowed += limits.Burst
		}
		for i := allowed; i < len(sent); i++ {
			if d := sent[i].Sub(sent[i-allowed]); d < per {
				t.Errorf("%+v: %d messages within %v", limits, allowed+1, d)
				break
			}
		}
		if want := 20 * limits.Messages * 3 / 4; len(sent) < want {
			t.Errorf("%+v: %d messages in 20 times %v, want %d", limits, len(sent), per, want)
		}
	}
	if newPacing(&wire.ConnectionLimits{Subscriptions: 3, Age: time.Hour}) != nil {
		t.Error("a pace without a limit of messages")
	}
}
