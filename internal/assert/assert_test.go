package assert

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// probe is a test whose failures do not fail the real one.
type probe struct {
	testing.TB
	failures []string
	fatal    bool
	cleanups []func()
}

func (p *probe) Helper()          {}
func (p *probe) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }
func (p *probe) Error(args ...any) {
	p.failures = append(p.failures, fmt.Sprint(args...))
}
func (p *probe) Errorf(format string, args ...any) {
	p.failures = append(p.failures, fmt.Sprintf(format, args...))
}
func (p *probe) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	p.fatal = true
}

func (p *probe) end() {
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		p.cleanups[i]()
	}
}

func TestAssertions(t *testing.T) {
	wrapped := fmt.Errorf("wrapped: %w", io.EOF)
	path := &fs.PathError{Op: "open", Path: "x", Err: io.EOF}
	for _, c := range []struct {
		name  string
		check func(p *probe)
		fails bool
	}{
		{"NoError nil", func(p *probe) { NoError(p, nil) }, false},
		{"NoError", func(p *probe) { NoError(p, io.EOF) }, true},
		{"ErrorIs", func(p *probe) { ErrorIs(p, wrapped, io.EOF) }, false},
		{"ErrorIs nil", func(p *probe) { ErrorIs(p, nil, nil) }, false},
		{"ErrorIs other", func(p *probe) { ErrorIs(p, wrapped, io.ErrUnexpectedEOF) }, true},
		{"ErrorIs unwanted", func(p *probe) { ErrorIs(p, wrapped, nil) }, true},
		{"ErrorIs missing", func(p *probe) { ErrorIs(p, nil, io.EOF) }, true},
		{"ErrorAs", func(p *probe) { Equal(p, ErrorAs[*fs.PathError](p, fmt.Errorf("%w", path)), path) }, false},
		{"ErrorAs other", func(p *probe) { ErrorAs[*fs.PathError](p, wrapped) }, true},
		{"Equal", func(p *probe) { Equal(p, []int{1}, []int{1}) }, false},
		{"Equal other", func(p *probe) { Equal(p, []int{1}, []int{2}) }, true},
		{"True", func(p *probe) { True(p, true, "x") }, false},
		{"True false", func(p *probe) { True(p, false, "x") }, true},
	} {
		p := &probe{TB: t}
		c.check(p)
		if failed := len(p.failures) > 0; failed != c.fails {
			t.Errorf("%s: failed %v, want %v: %v", c.name, failed, c.fails, p.failures)
		}
	}
	if p := (&probe{TB: t}); errors.Is(ErrorAs[*fs.PathError](p, path), io.EOF) == p.fatal {
		t.Error("ErrorAs did not return what it found")
	}
}

// leakedFunction takes from stop once to show that it runs, and then waits.
func leakedFunction(stop chan struct{}) {
	<-stop
	<-stop
}

func TestNoLeaks(t *testing.T) {
	t.Run("finds one", func(t *testing.T) {
		p := &probe{TB: t}
		stop := make(chan struct{})
		defer close(stop)
		noLeaks(p, 10*time.Millisecond)
		go leakedFunction(stop)
		stop <- struct{}{}
		p.end()
		if len(p.failures) != 1 || !strings.Contains(p.failures[0], "leakedFunction") {
			t.Errorf("failures: %q", p.failures)
		}
	})
	t.Run("waits for one that ends", func(t *testing.T) {
		p := &probe{TB: t}
		NoLeaks(p)
		p.Cleanup(func() { // runs before the check
			stop := make(chan struct{})
			go leakedFunction(stop)
			time.AfterFunc(5*time.Millisecond, func() { close(stop) })
		})
		p.end()
		if len(p.failures) != 0 {
			t.Errorf("failures: %q", p.failures)
		}
	})
	t.Run("ignores what ran before", func(t *testing.T) {
		stop := make(chan struct{})
		defer close(stop)
		go leakedFunction(stop)
		p := &probe{TB: t}
		noLeaks(p, 0)
		p.end()
		if len(p.failures) != 0 {
			t.Errorf("failures: %q", p.failures)
		}
	})
	t.Run("leaves bubbles to themselves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &probe{TB: t}
			NoLeaks(p)
			if len(p.cleanups) != 0 {
				t.Error("a check was registered inside a bubble")
			}
		})
	})
}
