package tasks

import (
	"testing"
	"time"
)

// A goroutine is worth keeping while its wake-ups follow each other closely, and have for
// a while.
func TestWakeRate(t *testing.T) {
	var w WakeRate
	now := time.Now()
	frequent := func(pause time.Duration, n int) (times int) {
		for range n {
			now = now.Add(pause)
			if w.Frequent(now) {
				times++
			}
		}
		return times
	}
	if n := frequent(maxInterval+1, 100); n != 0 {
		t.Errorf("%d of 100 rare wake-ups are frequent", n)
	}
	if n := frequent(maxInterval, 100); n != 100-(minWakes-1) { // the last rare one began the row
		t.Errorf("%d of 100 wake-ups in a row are frequent", n)
	}
	if n := frequent(maxInterval+1, 1); n != 0 {
		t.Error("a row goes on after a pause")
	}
}
