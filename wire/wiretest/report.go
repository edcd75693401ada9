package wiretest

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// maxFindings bounds what one check reports.
const maxFindings = 8

// report collects what one check found. It is safe for concurrent use.
type report struct {
	mu       sync.Mutex
	findings []string
	keys     map[string]bool // of once
	skipped  string
	hangs    bool // the trial was abandoned
}

// found returns the findings.
func (r *report) found() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.findings)
}

// reason returns why the check does not apply, or nothing.
func (r *report) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

// add adds a finding, each text once.
func (r *report) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if len(r.findings) < maxFindings && !slices.Contains(r.findings, text) {
		r.findings = append(r.findings, text)
	}
}

// once adds a finding, one for each key.
func (r *report) once(key, format string, args ...any) {
	r.mu.Lock()
	known := r.keys[key]
	if r.keys == nil {
		r.keys = map[string]bool{}
	}
	r.keys[key] = true
	r.mu.Unlock()
	if !known {
		r.add(format, args...)
	}
}

// skip says why a check does not apply.
func (r *report) skip(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skipped = fmt.Sprintf(format, args...)
}

// recover turns a panic of what is under test into a finding. It must be deferred.
func (r *report) recover(whose string) {
	switch v := recover().(type) {
	case nil:
	case peerPanic:
		r.add("the peer panics: %v\n%s", v.value, v.stack)
	default:
		r.add("%s panics: %v\n%s", whose, v, stack())
	}
}

// within runs f, and reports whether it has returned in time. Otherwise f is abandoned.
func (r *report) within(patience time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.recover("the dialect")
		f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		r.hangs = true
		r.add("the check has not ended after %s: the dialect or the peer waits for something. No method of either may wait, "+
			"not for a lock, a channel, a clock or a network either. go test -timeout 30s shows where each goroutine waits", patience)
		return false
	}
}

// stack is the beginning of the stack of a panic.
func stack() string {
	lines := strings.Split(string(debug.Stack()), "\n")
	return strings.Join(lines[:min(len(lines), 24)], "\n")
}

// peerPanic is a panic of a Peer.
type peerPanic struct {
	value any
	stack string
}

// blame makes a panic a peerPanic. It must be deferred.
func blame() {
	switch v := recover().(type) {
	case nil:
	case peerPanic:
		panic(v)
	default:
		panic(peerPanic{v, stack()})
	}
}

// guard is a Peer whose panics are peerPanics.
type guard struct{ Peer }

func (g guard) Open() []wire.Frame {
	defer blame()
	return g.Peer.Open()
}

func (g guard) Decode(f wire.Frame) ([]Request, error) {
	defer blame()
	return g.Peer.Decode(f)
}

func (g guard) Encode(e wire.Event) []wire.Frame {
	defer blame()
	return g.Peer.Encode(e)
}
