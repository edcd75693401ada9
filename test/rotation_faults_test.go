package test

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

// rotating returns a feed with 1,000 messages a second, and a client that is to be asked to move.
func rotating(t *testing.T, o limpet.Options) (*ticker, *limpet.Client, *inOrder) {
	s := newTicker(t)
	c, f := s.client(t, o)
	s.setFast(true)
	time.Sleep(time.Second)
	return s, c, f
}

// A server that confirms late: the connection before delivers until then.
func TestOldConnectionDeliversUntilTheNextOneIsLive(t *testing.T) {
	for _, lag := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Second, 4 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s, c, f := rotating(t, limpet.Options{})
			s.set(func() { s.confirms = func(int) time.Duration { return lag } })
			s.move()
			waitGeneration(t, c, 2)
			for range 50 {
				time.Sleep(100 * time.Millisecond)
				if n, since := f.number(); since > 10*time.Millisecond || n < s.produced()-10 {
					t.Fatalf("lag %v: %d of %d, nothing for %v", lag, n, s.produced(), since)
				}
			}
			if st := c.Stats(); st.Outages != 0 || lostConnections(st) != 0 || st.Live != 1 || s.dialled() != 2 {
				t.Errorf("lag %v: %d dials, %+v", lag, s.dialled(), st)
			}
		})
	}
}

// The ways of two connections to the client are not equally long: what the one before still has
// to deliver comes before what the next one has delivered already, and nothing twice.
func TestConnectionsOfDifferentLength(t *testing.T) {
	for _, lags := range [][2]time.Duration{{700 * time.Millisecond, 20 * time.Millisecond}, {3 * time.Millisecond, 700 * time.Millisecond}, {100 * time.Millisecond, 0}, {0, 100 * time.Millisecond}}[:reduced(4, 2)] {
		synctest.Test(t, func(t *testing.T) {
			s := newTicker(t)
			s.set(func() { s.lags = func(dial int) time.Duration { return lags[(dial-1)%2] } })
			c, f := s.client(t, limpet.Options{})
			s.setFast(true)
			for i := range 4 {
				time.Sleep(time.Second)
				s.move()
				waitGeneration(t, c, uint64(i+2))
				time.Sleep(4 * time.Second)
				s.setFast(false)
				time.Sleep(time.Minute)
				s.setFast(true)
			}
			time.Sleep(2 * time.Second)
			if n, _ := f.number(); n < s.produced()-1000 {
				t.Errorf("lags %v: %d of %d", lags, n, s.produced())
			}
			if st := c.Stats(); st.Outages != 0 || lostConnections(st) != 0 || st.Messages.Gaps+st.Messages.Resets != 0 {
				t.Errorf("lags %v: %+v", lags, st)
			}
			f.checkOrder(t)
			if t.Failed() {
				t.Logf("lags %v", lags)
			}
		})
	}
}

// A connection that is too far behind is left all the same: what it does not deliver in time is a
// Gap, and what came on the next one is not held back for longer.
func TestConnectionThatIsTooFarBehind(t *testing.T) {
	for _, late := range []bool{false, true} { // after more than the client keeps, too
		synctest.Test(t, func(t *testing.T) {
			s := newTicker(t)
			s.set(func() {
				s.lags = func(dial int) time.Duration { return map[int]time.Duration{1: 7 * time.Second}[dial] }
			})
			c, f := s.client(t, limpet.Options{})
			f.lossy = true
			s.setFast(true)
			time.Sleep(10 * time.Second)
			s.move()
			waitGeneration(t, c, 2)
			if late {
				time.Sleep(2 * time.Second)
			} else {
				time.Sleep(100 * time.Millisecond)
			}
			s.set(func() { s.paused = true })
			time.Sleep(2 * time.Second)
			if n, _ := f.number(); n != s.produced() {
				t.Errorf("%d of %d", n, s.produced())
			}
			st := c.Stats()
			if st.Messages.Gaps != 1 || st.Messages.Resets != 0 || st.Outages != 0 || f.wrongs() != 1 {
				t.Errorf("%d wrong, %+v", f.wrongs(), st)
			}
		})
	}
}

// Without numbers nothing proves that nothing is missing: each rotation is a Reset. Between two of
// them, no message is missing or comes twice.
func TestRotationWithoutNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rotations = 5
		s := newTicker(t)
		s.bare = true
		c, f := s.client(t, limpet.Options{})
		f.lossy = true
		for i := range rotations {
			time.Sleep(61 * time.Second)
			s.setFast(true)
			s.move()
			waitGeneration(t, c, uint64(i+2))
			time.Sleep(200 * time.Millisecond)
			s.setFast(false)
		}
		time.Sleep(time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, wrong := range f.wrong {
			if !strings.HasPrefix(wrong, "reset after") {
				t.Error(wrong)
			}
		}
		if st := c.Stats(); len(f.wrong) != rotations || st.Outages != 0 || f.count < s.produced()-rotations*2-1 {
			t.Errorf("%d resets, %d of %d messages, %+v", len(f.wrong), f.count, s.produced(), st)
		}
	})
}

// Whatever ends the attempt to make the next connection, the one in use works on, and the
// client does not end. It tries again.
func TestRotationThatFails(t *testing.T) {
	for name, fail := range map[string]func(s *ticker){
		"503":       func(s *ticker) { s.refuse = func(int) (int, bool) { return 503, false } },
		"401":       func(s *ticker) { s.refuse = func(int) (int, bool) { return 401, false } },
		"403":       func(s *ticker) { s.refuse = func(int) (int, bool) { return 403, false } },
		"hangs":     func(s *ticker) { s.refuse = func(int) (int, bool) { return 0, true } },
		"refused":   func(s *ticker) { s.host.Inject(limpettest.Refuse(1000)) },
		"slow dial": func(s *ticker) { s.host.Inject(limpettest.Stall(time.Hour), limpettest.Stall(time.Hour)) },
		"cut":       func(s *ticker) { s.host.Inject(limpettest.CutAfterBytes(limpettest.Down, 20)) },
	} {
		synctest.Test(t, func(t *testing.T) {
			failed := make(chan limpet.RotationFailed, 1000)
			s, c, f := rotating(t, limpet.Options{Observer: observer(func(e limpet.Event) {
				if e, ok := e.(limpet.RotationFailed); ok {
					failed <- e
				}
			})})
			s.set(func() { fail(s) })
			s.move()
			for range 30 {
				time.Sleep(500 * time.Millisecond)
				if n, since := f.number(); since > 10*time.Millisecond || n < s.produced()-10 {
					t.Fatalf("%s: %d of %d, nothing for %v; %+v", name, n, s.produced(), since, c.State())
				}
			}
			if st := c.Stats(); st.Outages != 0 || lostConnections(st) != 0 || len(failed) == 0 {
				t.Errorf("%s: %d failures, %+v", name, len(failed), st)
			}
			if n := len(failed); n > 15 {
				t.Errorf("%s: %d attempts in 15 s", name, n)
			}
			s.set(func() { s.refuse = nil })
			s.host.Inject(limpettest.Clean())
			if name == "refused" {
				return // for long
			}
			waitGeneration(t, c, 2)
			time.Sleep(time.Second)
			if st := c.Stats(); st.Outages != 0 || st.Live != 1 {
				t.Errorf("%s: %+v", name, st)
			}
		})
	}
}

// The connection in use is lost while the next one is made. The attempt goes on.
func TestOldConnectionIsLostDuringARotation(t *testing.T) {
	for _, cut := range []limpettest.Fault{cutNow, resetNow} {
		for _, step := range []time.Duration{time.Second, 3500 * time.Millisecond} { // before the attempt, during it
			synctest.Test(t, func(t *testing.T) {
				s := newTicker(t)
				c, f := s.client(t, limpet.Options{})
				f.lossy = true
				s.setFast(true)
				time.Sleep(time.Second)
				s.host.Inject(limpettest.Stall(2 * time.Second))
				s.move()
				time.Sleep(step)
				s.host.Network.Strike(cut)
				waitGeneration(t, c, 2)
				time.Sleep(time.Second)
				if st := c.Stats(); s.dialled() != 2 || st.Outages != 1 || st.Live != 1 || st.FailedAttempts != (limpet.ClassCounts{}) {
					t.Errorf("%v after %v: %d dials, %+v", cut, step, s.dialled(), st)
				}
			})
		}
	}
}

// Close and Shutdown in each step of a rotation end the client at once, and leave nothing.
func TestEndDuringARotation(t *testing.T) {
	for ms := 2500; ms < 11_000; ms += reduced(125, 2000) {
		for _, shutdown := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newTicker(t)
				time.Sleep(time.Second)
				synctest.Wait()
				before := runtime.NumGoroutine()
				c, _ := s.client(t, limpet.Options{})
				s.setFast(true)
				time.Sleep(time.Second)
				s.host.Inject(limpettest.Stall(time.Second)) // 3 s to 4 s after the request
				s.set(func() { s.confirms = func(int) time.Duration { return 2 * time.Second } })
				s.move()
				time.Sleep(time.Duration(ms) * time.Millisecond)
				at := time.Now()
				if shutdown {
					assert.NoError(t, c.Shutdown(within(t, time.Minute)))
				} else {
					c.Close()
				}
				<-c.Done()
				if took := time.Since(at); took > 200*time.Millisecond {
					t.Errorf("after %d ms, shutdown %v: it took %v", ms, shutdown, took)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if n := fewestGoroutines(before); n > before || s.host.Network.Conns() > 0 {
					t.Errorf("after %d ms, shutdown %v: %d goroutines, %d before; %d connections", ms, shutdown, n, before, s.host.Network.Conns())
				}
			})
		}
	}
}

// fewestGoroutines returns how many goroutines there are. Those outside of the bubble, such as one
// for finalizers, come and go.
func fewestGoroutines(want int) int {
	n := runtime.NumGoroutine()
	for range 1000 {
		if n <= want {
			break
		}
		runtime.GC()
		time.Sleep(time.Second)
		n = min(n, runtime.NumGoroutine())
	}
	return n
}

// A server that asks for another connection a hundred times a second gets one attempt in a few
// seconds, whether it then accepts the connection or not.
func TestManyRequestsToMove(t *testing.T) {
	seconds := reduced(40, 20)
	for _, refuses := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, c, _ := rotating(t, limpet.Options{})
			if refuses {
				s.set(func() { s.refuse = func(int) (int, bool) { return 503, false } })
			}
			before := s.dialled()
			for range 100 * seconds {
				s.move()
				time.Sleep(10 * time.Millisecond)
			}
			n := s.dialled() - before
			t.Logf("refuses %v: %d attempts in %d s", refuses, n, seconds)
			if n > 20 || n < 2 {
				t.Errorf("refuses %v: %d attempts in %d s", refuses, n, seconds)
			}
			if st := c.Stats(); st.Outages != 0 || lostConnections(st) != 0 {
				t.Errorf("refuses %v: %+v", refuses, st)
			}
		})
	}
}
