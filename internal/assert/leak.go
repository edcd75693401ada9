package assert

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// NoLeaks fails the test if, when its cleanups registered later are over,
// goroutines run that did not run when NoLeaks was called. Those on their way
// out get two seconds. Call it first, and not in a test that runs in parallel
// with others. Inside a synctest bubble it does nothing: the bubble itself waits
// for its goroutines and reports those that never end.
func NoLeaks(tb testing.TB) {
	tb.Helper()
	noLeaks(tb, 2*time.Second)
}

func noLeaks(tb testing.TB, patience time.Duration) {
	tb.Helper()
	if strings.Contains(header(stacks(false)), "synctest bubble") {
		return
	}
	before := map[string]bool{}
	for _, g := range goroutines() {
		before[number(g)] = true
	}
	tb.Cleanup(func() {
		until := time.Now().Add(patience)
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

// harmless names goroutines that outlive a test by right: the signal handler,
// which the process keeps, and other tests.
func harmless(g string) bool {
	return strings.Contains(g, "os/signal.signal_recv") || strings.Contains(g, "testing.tRunner")
}

// goroutines returns the stack of each goroutine but the caller's.
func goroutines() []string {
	return strings.Split(strings.TrimSpace(stacks(true)), "\n\n")[1:]
}

func stacks(all bool) string {
	for b := make([]byte, 64<<10); ; b = make([]byte, 2*len(b)) {
		if n := runtime.Stack(b, all); n < len(b) {
			return string(b[:n])
		}
	}
}

// header is the first line of a stack: "goroutine 7 [running]:".
func header(g string) string {
	line, _, _ := strings.Cut(g, "\n")
	return line
}

// number is the word in header that tells goroutines apart.
func number(g string) string {
	n, _, _ := strings.Cut(strings.TrimPrefix(header(g), "goroutine "), " ")
	return n
}
