package wiretest

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
)

// maxFindings bounds what one check reports.
const maxFindings = 8

// report collects what one check found. It is safe for concurrent use.
type report struct {
	mu       sync.Mutex
	findings []string
	skipped  string
}

// found adds a finding, each text once.
func (r *report) found(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if len(r.findings) < maxFindings && !slices.Contains(r.findings, text) {
		r.findings = append(r.findings, text)
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
	if v := recover(); v != nil {
		stack := strings.Split(string(debug.Stack()), "\n")
		r.found("%s panics: %v\n%s", whose, v, strings.Join(stack[:min(len(stack), 24)], "\n"))
	}
}
