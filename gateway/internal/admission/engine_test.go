package admission_test

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/gateway/internal/admission"
)

// slowEngine is an engine whose calls take a time that the test sets, one after the other.
type slowEngine struct {
	work  admission.Work
	takes time.Duration
	left  time.Duration // of the call in progress
	head  uint64        // of the engine
}

// pass lets time pass: the engine works.
func (e *slowEngine) pass(d time.Duration) {
	const step = 10 * time.Millisecond
	for ; d > 0; d -= step {
		time.Sleep(step)
		if e.work.Pending == 0 {
			e.left = e.takes
		}
		e.work.Pending, e.work.PendingTime = 1, e.takes-e.left
		if e.left -= step; e.left <= 0 {
			e.work.Commits++
			e.work.CommitTime += e.takes
			e.work.Pending, e.work.PendingTime = 0, 0
		}
	}
}

// look is what a gateway does twice a second, for a while.
func (e *slowEngine) look(a *admission.Admission, d time.Duration) (changes int, why string) {
	for ; d > 0; d -= 500 * time.Millisecond {
		e.pass(500 * time.Millisecond)
		changed, _, reason := a.Look(e.work, time.Now())
		if changed {
			changes, why = changes+1, reason
		}
	}
	return changes, why
}

// While the engine takes longer than its budget, new connections are refused, each with a time of its own, and those that are there go on.
// It must be well below the budget for a while before there are new ones.
func TestEngineBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, EngineBudget: time.Second})
		h := &held{admission: a, release: make(chan struct{})}
		wrapped := a.Wrap(h)
		e := &slowEngine{takes: 20 * time.Millisecond}
		taken := func(want bool) {
			t.Helper()
			if w := connect(wrapped, "192.0.2.1:1", ""); (w.Code == http.StatusOK) != want || a.Busy() == want {
				t.Errorf("%d, busy %v, want taken %v", w.Code, a.Busy(), want)
			}
		}
		if n, why := e.look(a, 5*time.Second); n != 0 {
			t.Errorf("an engine that works: %s", why)
		}
		taken(true)
		e.takes = 800 * time.Millisecond // slower, and within the budget
		if n, why := e.look(a, 10*time.Second); n != 0 {
			t.Errorf("within the budget: %s", why)
		}
		e.takes = 1500 * time.Millisecond
		if n, why := e.look(a, 10*time.Second); n != 1 || !strings.Contains(why, "1.") {
			t.Errorf("over the budget: %d changes, %s", n, why)
		}
		taken(false)
		e.takes = 700 * time.Millisecond // below the budget, and not by much
		if n, why := e.look(a, 10*time.Second); n != 0 {
			t.Errorf("below the budget: %d changes, %s", n, why)
		}
		taken(false)
		e.takes = 20 * time.Millisecond
		if n, _ := e.look(a, 1500*time.Millisecond); n != 0 {
			t.Error("taken again at once")
		}
		if n, _ := e.look(a, 2*time.Second); n != 1 {
			t.Errorf("%d changes after it works again", n)
		}
		taken(true)
		if a.Refused().Engine != 2 || a.Refused().Rate != 0 {
			t.Errorf("%+v", a.Refused())
		}
		if len(h.errs) != 2 {
			t.Errorf("%d connections", len(h.errs))
		}
		close(h.release)
	})
}

// What stands still ends no call, so that what is in progress counts.
func TestEngineThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, EngineBudget: time.Second})
		e := &slowEngine{takes: time.Hour}
		if n, why := e.look(a, 1*time.Second); n != 0 {
			t.Errorf("before the budget is over: %s", why)
		}
		if n, why := e.look(a, 2*time.Second); n != 1 || !strings.Contains(why, "calls in progress") {
			t.Errorf("%d changes, %s", n, why)
		}
		off := admission.New(admission.Limits{Rate: 100})
		if n, _ := e.look(off, 10*time.Second); n != 0 || off.Busy() {
			t.Error("without a budget")
		}
	})
}

// One slow call, or one slow look, decides nothing.
func TestOneSlowCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, EngineBudget: time.Second})
		w := admission.Work{}
		for i := range 20 {
			time.Sleep(500 * time.Millisecond)
			if w.Syncs += 10; i%2 == 0 {
				w.SyncTime += 20 * time.Second
			}
			if changed, _, why := a.Look(w, time.Now()); changed {
				t.Errorf("look %d: %s", i, why)
			}
		}
	})
}

// The gateway is behind if it needs longer than the budget for the newest message, or if none comes.
func TestTailBehind(t *testing.T) {
	for name, x := range map[string]struct {
		rate uint64 // messages that come in half a second
		lag  uint64
		want bool
	}{
		"up to date":            {1000, 0, false},
		"busy":                  {1000, 500, false},
		"far behind":            {1000, 5000, true},
		"nothing comes":         {0, 1, true},
		"nothing is to come":    {0, 0, false},
		"slow, with much to do": {1, 10, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := admission.New(admission.Limits{Rate: 100, EngineBudget: 2 * time.Second})
			w := admission.Work{Head: 10, Lag: x.lag}
			for range 12 {
				time.Sleep(500 * time.Millisecond)
				w.Head += x.rate
				a.Look(w, time.Now())
			}
			if a.Busy() != x.want {
				t.Errorf("%s: refused %v, want %v", name, a.Busy(), x.want)
			}
			w.Lag = 0
			for range 4 {
				time.Sleep(500 * time.Millisecond)
				a.Look(w, time.Now())
			}
			if a.Busy() {
				t.Errorf("%s: refused after it is up to date", name)
			}
		})
	}
}

// Clients that are refused do not come back together.
func TestBusyEngineSpreadsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, EngineBudget: time.Second})
		e := &slowEngine{takes: time.Hour}
		e.look(a, 5*time.Second)
		wrapped := a.Wrap(&held{admission: a})
		seconds := map[int]int{}
		const clients = 750
		seen := map[int]bool{}
		for range clients {
			w := connect(wrapped, "192.0.2.1:"+strconv.Itoa(1+rand.IntN(60000)), "")
			ms, err := strconv.Atoi(w.Header().Get("X-Limpet-Retry-Ms"))
			if err != nil || w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
				t.Fatalf("%d %v, %v", w.Code, w.Header(), err)
			}
			seconds[ms/1000]++
			seen[ms] = true
		}
		// At 75 in a second the last slot is after 10 s, and each wait is up to twice the slot.
		if seconds[0] > 0 || len(seconds) < 12 || len(seen) < clients/2 {
			t.Errorf("%d times of %d clients, by second: %v", len(seen), clients, seconds)
		}
		for s, n := range seconds {
			if n > 150 {
				t.Errorf("%d clients come after %d s", n, s)
			}
		}
	})
}
