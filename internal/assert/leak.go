package assert

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// NoLeaks fails the test if goroutines are left that did not run when NoLeaks was
// called. It checks after all cleanups that are registered later, and waits up to
// two seconds for goroutines that are about to end. Call it first, and not in a
// test that runs in parallel with others. In a synctest bubble it does nothing: the
// bubble itself waits for its goroutines and reports those that never end.
func NoLeaks(tb testing.TB) {
	tb.Helper()
	noLeaks(tb, 2*time.Second)
}

// noLeaks is NoLeaks with a given time to wait.
func noLeaks(tb testing.TB, wait time.Duration) {
	tb.Helper()
	if strings.Contains(header(stacks(false)), "synctest bubble") {
		return
	}
	before := map[string]bool{}
	for _, g := range goroutines() {
		before[number(g)] = true
	}
	tb.Cleanup(func() {
		until := time.Now().Add(wait)
		for {
			left := slices.DeleteFunc(goroutines(), func(g string) bool { return before[number(g)] || harmless(g) })
			if len(left) == 0 {
				return
			}
			if time.Now().After(until) {
				for _, g := range left {
					tb.Errorf("goroutine left behind:\n%s", g)
				}
				return
			}
			<-time.After(2 * time.Millisecond)
		}
	})
}

// harmless reports whether a goroutine may outlive a test: the signal handler, which
// the process keeps, and other tests.
func harmless(g string) bool {
	return strings.Contains(g, "os/signal.signal_recv") || strings.Contains(g, "testing.tRunner")
}

// goroutines returns the stack of each goroutine except the caller's.
func goroutines() []string {
	return strings.Split(strings.TrimSpace(stacks(true)), "\n\n")[1:]
}

// stacks returns the stack of the caller, or of all goroutines.
func stacks(all bool) string {
	for b := make([]byte, 64<<10); ; b = make([]byte, 2*len(b)) {
		if n := runtime.Stack(b, all); n < len(b) {
			return string(b[:n])
		}
	}
}

// header returns the first line of a stack: "goroutine 7 [running]:".
func header(g string) string {
	line, _, _ := strings.Cut(g, "\n")
	return line
}

// number returns the number of a goroutine from the header of its stack.
func number(g string) string {
	n, _, _ := strings.Cut(strings.TrimPrefix(header(g), "goroutine "), " ")
	return n
}
