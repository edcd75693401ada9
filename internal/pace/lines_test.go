package pace

import (
	"testing"
	"time"
)

// Each kind has its own bound, and a line has the number of those suppressed before it.
func TestLinesAreBounded(t *testing.T) {
	var l Lines
	now := time.Now()
	if n := l.Suppressed(); n != 0 {
		t.Errorf("%d suppressed at first", n)
	}
	allowed := func(kind string, n int) (lines int) {
		for range n {
			if ok, suppressed := l.Allow(kind, now); ok && suppressed == 0 {
				lines++
			} else if suppressed != 0 {
				t.Errorf("%s: %d suppressed within the window", kind, suppressed)
			}
		}
		return lines
	}
	if n := allowed("a", 15); n != maxLines {
		t.Errorf("%d lines of 15", n)
	}
	if n := allowed("b", 3); n != 3 {
		t.Errorf("%d lines of 3 of another kind", n)
	}
	now = now.Add(lineWindow - 1)
	if n := allowed("a", 1) + allowed("b", 8); n != 7 {
		t.Errorf("%d lines at the end of the window", n)
	}
	if n := l.Suppressed(); n != 5+1+1 {
		t.Errorf("%d suppressed", n)
	}
	now = now.Add(1)
	if ok, suppressed := l.Allow("a", now); !ok || suppressed != 6 {
		t.Errorf("after the window: %v with %d suppressed", ok, suppressed)
	}
	if n := allowed("a", 15); n != maxLines-1 {
		t.Errorf("%d lines more in the next window", n)
	}
	if n := l.Suppressed(); n != 6+1 {
		t.Errorf("%d suppressed at last", n)
	}
}
