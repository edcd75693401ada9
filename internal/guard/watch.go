package guard

import (
	"sync"
	"time"
)

// MaxCall is how long a call of Decode or Attempt may run: they only compute, so more means
// that they wait for something. It is also the bound of a call of Options.Verdict, and of the
// last call of PublishOptions.Done.
const MaxCall = 10 * time.Second

// CallWatch notices a call of a method of the dialect that does not return. One
// timer looks at most every MaxCall, so a call costs no timer. Its lock is a leaf. OnHang must
// be set before the first call.
type CallWatch struct {
	OnHang func() // called once, when a call is given up

	mu      sync.Mutex
	began   time.Time // of the call; zero: no call runs
	givenUp bool
	timer   *time.Timer
	armed   bool // the timer runs
}

// Begin follows when a call begins.
func (w *CallWatch) Begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = now
	switch {
	case w.armed:
		return
	case w.timer == nil:
		w.timer = time.AfterFunc(MaxCall, w.look)
	default:
		w.timer.Reset(MaxCall)
	}
	w.armed = true
}

// End follows when the call has returned. It reports false if it was given up.
func (w *CallWatch) End() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = time.Time{}
	return !w.givenUp
}

// Stop ends the watch: no call follows.
func (w *CallWatch) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look gives up a call that has run for MaxCall.
func (w *CallWatch) look() {
	w.mu.Lock()
	w.armed = false
	if !w.began.IsZero() {
		if rest := MaxCall - time.Since(w.began); rest > 0 {
			w.armed = true
			w.timer.Reset(rest)
		} else {
			w.givenUp = true
		}
	}
	givenUp := w.givenUp
	w.mu.Unlock()
	if givenUp {
		w.OnHang()
	}
}
