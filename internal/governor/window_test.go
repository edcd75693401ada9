package governor

import (
	"slices"
	"testing"
	"time"
)

// herd is clients that wait for their turns of one host.
type herd struct {
	g     *Governor
	w     Window
	turns []Turn
	used  []time.Time
}

func (h *herd) reserve(n int, now time.Time) {
	for range n {
		h.turns = append(h.turns, h.g.Reserve("a", h.w, now))
	}
}

// run lets the clients ask whenever one of them may, until the end or all have had their turns.
func (h *herd) run(now, end time.Time) time.Time {
	for len(h.turns) > 0 && now.Before(end) {
		next := end
		h.turns = slices.DeleteFunc(h.turns, func(t Turn) bool {
			wait := h.g.Wait("a", t, now)
			if wait > 0 {
				next = slices.MinFunc([]time.Time{next, now.Add(wait)}, time.Time.Compare)
				return false
			}
			h.used = append(h.used, now)
			return true
		})
		if len(h.turns) > 0 {
			now = next
		}
	}
	return now
}

// check reports windows with more turns than allowed.
func (h *herd) check(t *testing.T, w Window) {
	t.Helper()
	for i := w.Dials; i < len(h.used); i++ {
		if d := h.used[i].Sub(h.used[i-w.Dials]); d <= w.Per {
			t.Errorf("%d turns within %v, want at most %d in %v", w.Dials+1, d, w.Dials, w.Per)
			return
		}
	}
}

// No window has more turns than the host allows, and they are used as soon as it does, also
// when the clients ask in a time in which all turns are taken, again and again.
func TestWindow(t *testing.T) {
	w := Window{Dials: 30, Per: time.Minute}
	began := time.Now()
	h := herd{g: New(0, 1), w: w}
	h.reserve(100, began)
	now := h.run(began, began.Add(time.Hour))
	if took := now.Sub(began); took < 3*time.Minute || took > 190*time.Second || len(h.used) != 100 {
		t.Errorf("%d turns in %v", len(h.used), took)
	}
	h.check(t, w)
	for range 20 {
		now = now.Add(7 * time.Second)
		h.reserve(9, now)
		now = h.run(now, now.Add(time.Hour))
	}
	h.check(t, w)
	if held := len(h.g.dials["a"].times); held > 100 {
		t.Errorf("%d turns are held", held)
	}
}

// The lowest window that is stated counts, for those who state none as well, and other hosts
// are not limited.
func TestLowestWindowCounts(t *testing.T) {
	now := time.Now()
	h := herd{g: New(0, 1), w: Window{300, 5 * time.Minute}}
	h.reserve(1, now)
	h.w = Window{5, time.Minute}
	h.reserve(1, now)
	h.w = Window{}
	h.reserve(8, now)
	h.w = Window{10, time.Minute}
	h.reserve(8, now)
	h.run(now, now.Add(time.Hour))
	h.check(t, Window{5, time.Minute})
	if took := h.used[len(h.used)-1].Sub(now); took < 3*time.Minute || took > 4*time.Minute || len(h.used) != 18 {
		t.Errorf("%d turns in %v", len(h.used), took)
	}
	if wait := h.g.Wait("b", h.g.Reserve("b", Window{}, now), now); wait != 0 {
		t.Errorf("another host waits %v", wait)
	}
}

// A turn that is used late counts from then on, and one whose client has ended counts as used.
func TestTurnUsedLate(t *testing.T) {
	now := time.Now()
	g, w := New(0, 1), Window{2, time.Minute}
	first := g.Reserve("a", w, now)
	g.Reserve("a", w, now) // its client ends
	third, fourth := g.Reserve("a", w, now), g.Reserve("a", w, now)
	if wait := g.Wait("a", first, now); wait != 0 {
		t.Fatalf("the first turn waits %v", wait)
	}
	g.Use(first, now.Add(20*time.Second)) // after a call of Auth
	for turn, want := range map[Turn]time.Duration{third: 83 * time.Second, fourth: 63 * time.Second} {
		if wait := g.Wait("a", turn, now); wait != want {
			t.Errorf("a wait of %v, want %v", wait, want)
		}
	}
	if wait := g.Wait("a", third, now.Add(83*time.Second)); wait != 0 {
		t.Errorf("the third turn waits %v at its time", wait)
	}
}

// A dial beside a turn takes one that is free, or says when there is one. It does not come before
// those who wait.
func TestTake(t *testing.T) {
	now := time.Now()
	g, w := New(0, 1), Window{2, time.Minute}
	if g.Take("a", w, now) != 0 || g.Take("a", Window{}, now) != 0 {
		t.Error("a free turn is not taken")
	}
	if wait := g.Take("a", w, now); wait != 63*time.Second {
		t.Errorf("a wait of %v for the third turn", wait)
	}
	g.Reserve("a", w, now)
	g.Reserve("a", w, now)
	if wait := g.Take("a", w, now.Add(time.Minute)); wait != 66*time.Second {
		t.Errorf("a wait of %v behind two clients", wait)
	}
	if g.Take("b", Window{}, now) != 0 {
		t.Error("a host without a window waits")
	}
}

// What is expected is what comes, by the rate, by the window, and by both.
func TestExpect(t *testing.T) {
	for _, test := range []struct {
		name        string
		rate        float64
		w           Window
		given       int
		after, want time.Duration
	}{
		{"nothing", 0, Window{}, 100, time.Second, time.Second},
		{"a rate", 2, Window{}, 10, time.Second, 5 * time.Second},
		{"a rate, and a time when it is due", 2, Window{}, 10, 8 * time.Second, 8 * time.Second},
		{"a window", 0, Window{10, time.Minute}, 10, time.Second, 63 * time.Second},
		{"a window with room", 0, Window{11, time.Minute}, 10, time.Second, time.Second},
		{"both", 0.1, Window{5, time.Minute}, 10, time.Second, 126 * time.Second},
		{"both, the rate is slower", 0.05, Window{5, time.Minute}, 10, time.Second, 200 * time.Second},
	} {
		g, now := New(test.rate, 1), time.Now()
		for range test.given {
			g.Wait("a", g.Reserve("a", test.w, now), now)
		}
		at := now.Add(test.after)
		if got := g.Expect("a", Turn{}, at, now).Sub(now).Round(time.Millisecond); got != test.want {
			t.Errorf("%s: after %v, want %v", test.name, got, test.want)
		}
		turn := g.Reserve("a", test.w, now)
		if got := g.Expect("a", turn, at, now).Sub(now).Round(time.Millisecond); got != test.want {
			t.Errorf("%s: the turn comes after %v, want %v", test.name, got, test.want)
		}
	}
}

// A governor that is shared is kept while it knows of dials that count, and a clock that goes
// back makes the host a new one.
func TestWindowOutlivesItsClients(t *testing.T) {
	key := new(int)
	g, release := Share(key)
	w := Window{1, time.Hour}
	now := time.Now()
	g.Wait("a", g.Reserve("a", w, now), now)
	release()
	again, release := Share(key)
	if again != g || again.Take("a", w, now) == 0 {
		t.Error("the dials are forgotten with the last client")
	}
	if wait := again.Take("a", w, now.Add(-2*time.Hour)); wait != 0 {
		t.Errorf("a wait of %v after the clock has gone back", wait)
	}
	over := time.Now().Add(-time.Minute)
	again.until.Store(&over)
	release()
	if _, left := shared.governors[key]; left {
		t.Error("a governor is left when its windows are over")
	}
}

// Many hosts with windows do not fill the memory.
func TestWindowsAreForgotten(t *testing.T) {
	g, now := New(0, 1), time.Now()
	for i := range 5000 {
		now = now.Add(time.Second)
		g.Reserve(time.Duration(i).String(), Window{1, time.Second}, now)
	}
	if n := len(g.dials); n > maxHosts {
		t.Errorf("%d hosts", n)
	}
}
