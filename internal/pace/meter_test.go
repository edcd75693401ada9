package pace

import (
	"testing"
	"time"
)

// TestMeter follows what was sent, and in the busiest second, over time.
func TestMeter(t *testing.T) {
	type step struct {
		after         time.Duration
		add           int
		sent, busiest int
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"nothing", []step{{0, 0, 0, 0}}},
		{"at once", []step{{0, 300, 300, 300}}},
		{"a second that begins when something is sent", []step{
			{0, 10, 10, 10}, {900 * time.Millisecond, 10, 20, 20}, {200 * time.Millisecond, 10, 30, 20}, {500 * time.Millisecond, 15, 45, 25}}},
		{"ten seconds later it counts", []step{{0, 7, 7, 7}, {period, 0, 7, 7}, {0, 1, 8, 7}}},
		{"twenty seconds later it does not", []step{{0, 7, 7, 7}, {2 * period, 0, 0, 0}, {0, 1, 1, 1}}},
		{"the ten before the last do not", []step{{0, 7, 7, 7}, {period, 2, 9, 7}, {period, 1, 3, 2}}},
	} {
		var m Meter
		now := time.Now()
		for i, s := range test.steps {
			now = now.Add(s.after)
			if s.add > 0 {
				m.Add(now, s.add)
			}
			if sent, busiest := m.Recent(now); sent != s.sent || busiest != s.busiest {
				t.Errorf("%s, step %d: %d, in the busiest second %d; want %d, %d", test.name, i, sent, busiest, s.sent, s.busiest)
			}
		}
	}
}
