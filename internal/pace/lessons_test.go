package pace

import (
	"testing"
	"time"
)

// The pace halves with each refusal, from what was sent, and no further than to the lowest one.
func TestLower(t *testing.T) {
	for _, test := range []struct {
		name    string
		limit   *Limit
		busiest []int // negative: the pace was not used
		want    []float64
	}{
		{"no limit", nil, []int{500, 400, 7, -3, 1, 1}, []float64{250, 125, 62.5, 1.5, 0.75, 0.5}},
		{"little was sent", nil, []int{1}, []float64{0.5}},
		{"a limit that was set", NewLimit(100, 0, 0), []int{100, 20, 5, 10, 10, 10, 10, 10, 10}, []float64{50, 25, 12.5, 6.25, 3.125, 1.5625, 0.78125, 0.5, 0.5}},
		{"a limit that was set and is not used", NewLimit(100, 0, 0), []int{-19, -4}, []float64{9.5, 2}},
		{"a low limit", NewLimit(480, time.Hour, 0), []int{96, 9, 9, 9}, []float64{1.0 / 15, 1.0 / 30, 1.0 / 60, 1.0 / 60}},
	} {
		l, now, before := test.limit, time.Now(), test.limit.PerSecond()
		for i, busiest := range test.busiest {
			now = now.Add(time.Minute)
			if busiest > 0 {
				l.Sent(now, 1000, false)
			}
			var lowered bool
			l, lowered = l.Lower(now, max(busiest, -busiest), true)
			l.Sent(now, -10_000, false) // it is full again
			if got := l.PerSecond(); got < test.want[i]*0.999 || got > test.want[i]*1.001 || lowered != (got != before) {
				t.Errorf("%s: %v a second after refusal %d, lowered %v; want %v", test.name, got, i, lowered, test.want[i])
			}
			before = l.PerSecond()
		}
	}
}

// A client with a learned pace sends no more than that in any second, and begins with nothing
// at once.
func TestLearnedPaceFits(t *testing.T) {
	for _, busiest := range []int{2000, 100, 20, 9, 3, 2, 1} {
		start := time.Now()
		l, _ := (*Limit)(nil).Lower(start, busiest, true)
		if room := l.Room(start, 0, true); room != 0 {
			t.Errorf("room for %d messages when the server has just refused some", room)
		}
		var sent []time.Time
		end := start.Add(time.Minute)
		for now := start; now.Before(end); now = l.NextRoom(now, 0) {
			for n := l.Room(now, 0, false); n > 0; n-- {
				l.Sent(now, 1, false)
				sent = append(sent, now)
			}
		}
		for i := busiest; i < len(sent); i++ { // half of it a second
			if d := sent[i].Sub(sent[i-busiest]); d < 2*time.Second {
				t.Errorf("of %d: %d messages within %v", busiest, busiest+1, d)
				break
			}
		}
		if want := int(0.7 * 60 * l.PerSecond()); len(sent) < want {
			t.Errorf("of %d: %d messages in a minute, want %d", busiest, len(sent), want)
		}
	}
}

// A debt stays when the pace halves, and what was free does too, within the new burst.
func TestLowerKeepsTheCount(t *testing.T) {
	now := time.Now()
	l := NewLimit(10, 0, 0) // 8 a second, 2 at once
	l.Room(now, 10, true)   // a debt of 8
	l, _ = l.Lower(now, 10, true)
	if at := l.NextRoom(now, 0); at.Sub(now) < 2*time.Second || at.Sub(now) > 2300*time.Millisecond {
		t.Errorf("room for another message after %v, want 9 at 4 a second", at.Sub(now))
	}
	l = NewLimit(100, 0, 50)
	if l, _ = l.Lower(now, 100, true); l.Room(now, 0, true) != 20 {
		t.Errorf("room for %d messages, want half of the burst", l.Room(now, 0, true))
	}
}

// What may have had another reason is tested: after an hour without a refusal the pace
// doubles, until it is as it was. The time doubles each time that the test fails.
func TestPaceReturns(t *testing.T) {
	now := time.Now()
	l, _ := (*Limit)(nil).Lower(now, 80, false)
	l, _ = l.Lower(now, 40, false)
	check := func(after time.Duration, raised bool, want float64) {
		t.Helper()
		now = now.Add(after)
		if got := l.Raise(now); got != raised || l.PerSecond() != want {
			t.Errorf("raised %v, to %v a second; want %v, %v", got, l.PerSecond(), raised, want)
		}
	}
	check(time.Hour-1, false, 20)
	check(1, true, 40)
	check(time.Hour-1, false, 40)
	check(1, true, 0)
	if l.Room(now, 1000, true) < 1e9 || !l.TakePing(now).IsZero() || !l.NextRoom(now, 1e9).IsZero() {
		t.Error("there is a limit although the pace is as it was")
	}
	l, _ = l.Lower(now, 80, false)
	check(2*time.Hour-1, false, 40)
	check(1, true, 0)
	for range 9 {
		l, _ = l.Lower(now, 80, false)
		check(24*time.Hour, true, 0)
	}
	l, _ = l.Lower(now, 80, false)
	l, _ = l.Lower(now, 80, false)
	check(24*time.Hour-1, false, 20)
	check(2*24*time.Hour, true, 0) // both steps at once
}

// The pace goes back to that of the limits, with its burst.
func TestPaceReturnsToTheLimit(t *testing.T) {
	now := time.Now()
	l, _ := NewLimit(10, 0, 50).Lower(now, 100, false)
	if l.Raise(now.Add(3 * time.Hour)); l.PerSecond() != 10 {
		t.Errorf("%v a second, want 10", l.PerSecond())
	}
	if room := l.Room(now.Add(4*time.Hour), 0, true); room != 40 {
		t.Errorf("room for %d messages, want 40", room)
	}
}

// What the server has said in words is remembered.
func TestPaceIsRemembered(t *testing.T) {
	now := time.Now()
	l, _ := (*Limit)(nil).Lower(now, 80, true)
	l, _ = l.Lower(now, 40, false)
	if l.Raise(now.Add(1000*time.Hour)) || l.PerSecond() != 20 {
		t.Errorf("%v a second", l.PerSecond())
	}
	if (*Limit)(nil).Raise(now) || NewLimit(5, 0, 0).Raise(now) {
		t.Error("raised without a refusal")
	}
}
