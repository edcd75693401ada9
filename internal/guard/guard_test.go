package guard

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/wire"
)

// panicked is what Report makes of a panic in these tests.
type panicked struct {
	value any
	stack string
}

func (panicked) Error() string { return "panicked" }

func report(value any, stack []byte) error { return panicked{value, string(stack)} }

// nilError is an error whose methods panic: a nil pointer that is an error.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// behaviour is what a method of the caller does.
type behaviour func() error

// dialect does the same in each method.
type dialect struct{ do behaviour }

func (d dialect) Name() string                         { return "test" }
func (d dialect) Traits() wire.Traits                  { return wire.Traits{} }
func (d dialect) Check() error                         { return d.do() }
func (d dialect) CheckTopic(wire.Use, string) error    { return d.do() }
func (d dialect) Attempt(*wire.Attempt) error          { return d.do() }
func (d dialect) Open(wire.Resume) (wire.Codec, error) { return codec(d), d.do() }
func (d dialect) Verdict(wire.Failure) wire.Verdict {
	_ = d.do()
	return wire.Verdict{Action: wire.ActionStop}
}

type codec struct{ do behaviour }

func (c codec) Start(*wire.Frames) error              { return c.do() }
func (c codec) Decode(wire.Frame, *wire.Events) error { return c.do() }
func (c codec) Encode([]wire.Op, *wire.Frames) error  { return c.do() }
func (c codec) CountFrames([]wire.Op) int             { _ = c.do(); return -1 }

// A panic of a method, and one of the methods of its error, is an error that names the option
// and the method.
func TestMethodsThatPanic(t *testing.T) {
	for _, does := range []struct {
		name string
		do   behaviour
	}{
		{"the method", func() error { panic("a test") }},
		{"its error", func() error { return (*nilError)(nil) }},
	} {
		g, err := NewDialect(dialect{does.do}, report)
		if err != nil {
			t.Fatal(err)
		}
		c := &Codec{codec{does.do}, report}
		for method, call := range map[string]func() error{
			"Check":      g.Check,
			"CheckTopic": func() error { return g.CheckTopic(wire.UsePublish, "a") },
			"Attempt":    func() error { return g.Attempt(nil) },
			"Open":       func() error { _, err := g.Open(wire.Resume{}); return err },
			"Start":      func() error { return c.Start(nil) },
			"Decode":     func() error { return c.Decode(wire.Frame{}, nil) },
			"Encode":     func() error { return c.Encode(nil, nil) },
		} {
			var user *fault.User
			var p panicked
			if err := call(); !errors.As(err, &user) || user.Option != fault.OptionDialect || !errors.As(err, &p) || err.Error() != "Options.Dialect: "+method+": panicked" {
				t.Errorf("%s of %s panics: %v", does.name, method, err)
			} else if !strings.Contains(p.stack, "guard_test.go") && !strings.Contains(p.stack, "nilError") {
				t.Errorf("%s of %s panics: the stack is that of another function:\n%s", does.name, method, p.stack)
			}
		}
	}
}

// A dialect that panics in Verdict has no opinion, and a codec that panics in CountFrames
// cannot tell.
func TestMethodsWithoutAnError(t *testing.T) {
	for _, panics := range []bool{false, true} {
		do := func() error {
			if panics {
				panic("a test")
			}
			return nil
		}
		g, err := NewDialect(dialect{do}, report)
		if err != nil {
			t.Fatal(err)
		}
		v, err := g.AskVerdict(wire.Failure{})
		if v != g.Verdict(wire.Failure{}) || (v == wire.Verdict{}) != panics || (err != nil) != panics {
			t.Errorf("panics %v: %+v, %v", panics, v, err)
		}
		opened, err := g.Open(wire.Resume{})
		if n, ok := opened.(*Codec).CountFrames(nil); n != 0 || ok == panics || (err != nil) != panics {
			t.Errorf("panics %v: %d frames, %v, %v", panics, n, ok, err)
		}
	}
}

// The guard of a codec costs no allocation.
func TestCodecAllocatesNothing(t *testing.T) {
	c := &Codec{codec{func() error { return nil }}, report}
	if n := testing.AllocsPerRun(100, func() {
		if c.Decode(wire.Frame{}, nil) != nil || c.Encode(nil, nil) != nil {
			t.Error("failed")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// store is a cursor.Store with a pace.
type store struct {
	cursor.Store
	pace func() (int, time.Duration)
}

func (s store) Pace() (int, time.Duration) { return s.pace() }

func TestPaceOfAStore(t *testing.T) {
	for _, tc := range []struct {
		name string
		pace func() (int, time.Duration)
		want string
	}{
		{"right", func() (int, time.Duration) { return 10, time.Second }, ""},
		{"none", func() (int, time.Duration) { return 0, 0 }, "one must be set"},
		{"negative", func() (int, time.Duration) { return -1, time.Second }, "neither may be negative"},
		{"panics", func() (int, time.Duration) { panic("a test") }, "Pace: panicked"},
	} {
		s, err := NewStore(store{cursor.Memory(), tc.pace}, report)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if n, d := s.Pace(); tc.want == "" && (n != 10 || d != time.Second) {
			t.Errorf("%s: %d messages, %v", tc.name, n, d)
		}
	}
}

// A call ends with what the function returned, or how it ended.
func TestAskerReturnsWhatItGot(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    func() (int, error)
		want string
	}{
		{"a value", func() (int, error) { return 1, nil }, ""},
		{"an error", func() (int, error) { return 0, errors.New("a test") }, "a test"},
		{"an error that panics", func() (int, error) { return 0, (*nilError)(nil) }, "panicked"},
		{"a panic", func() (int, error) { panic("a test") }, "panicked"},
		{"runtime.Goexit", func() (int, error) { runtime.Goexit(); return 0, nil }, "called runtime.Goexit"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var a Asker[int]
			for range 2 {
				n, err := a.Ask(t.Context(), report, tc.f)
				if (n == 1) != (tc.want == "") || (err == nil) != (tc.want == "") || err != nil && err.Error() != tc.want {
					t.Errorf("%s: %d, %v", tc.name, n, err)
				}
			}
			if !a.Settle(t.Context(), 0) {
				t.Errorf("%s: a call still runs", tc.name)
			}
		})
	}
}

// A second call waits for one in its time, and none begins while an earlier one outlives its
// context.
func TestAskerMakesOneCallAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Asker[int]
		running := 0
		call := func(timeout, takes time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			_, err := a.Ask(ctx, report, func() (int, error) {
				if running++; running > 1 {
					t.Error("two calls at once")
				}
				time.Sleep(takes)
				running--
				return 0, nil
			})
			return err
		}
		first := make(chan error, 1)
		go func() { first <- call(time.Minute, 30*time.Second) }()
		synctest.Wait()
		if err := call(time.Minute, time.Second); err != nil || <-first != nil {
			t.Errorf("the second of two calls in their time: %v", err)
		}
		if err := call(time.Second, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that takes too long: %v", err)
		}
		if err := call(time.Second, 0); err != ErrStillRuns {
			t.Errorf("the call after it: %v", err)
		}
		if a.Settle(t.Context(), time.Second) || !a.Settle(t.Context(), time.Minute) {
			t.Error("Settle does not wait for the call")
		}
		if err := call(time.Second, 0); err != nil {
			t.Errorf("a call after it has returned: %v", err)
		}
	})
}

// An error made with Permanent counts, even if it came too late for its call.
func TestAskerKeepsAFinalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Asker[int]
		final := &fault.Permanent{Err: errors.New("no account")}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := a.Ask(ctx, report, func() (int, error) {
			time.Sleep(time.Minute)
			return 0, final
		})
		if !errors.Is(err, context.DeadlineExceeded) || !a.Settle(t.Context(), time.Hour) {
			t.Fatal(err)
		}
		_, err = a.Ask(t.Context(), report, func() (int, error) {
			t.Error("asked again")
			return 0, nil
		})
		if err != final {
			t.Errorf("%v, want %v", err, final)
		}
	})
}

// A call is given up after MaxCall, however many short ones came before.
func TestCallWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan time.Time, 1)
		w := CallWatch{OnHang: func() { hung <- time.Now() }}
		for range 5 {
			w.Begin(time.Now())
			time.Sleep(MaxCall * 3 / 4)
			if !w.End() {
				t.Fatal("a short call was given up")
			}
		}
		began := time.Now()
		w.Begin(began)
		time.Sleep(2 * MaxCall)
		if w.End() {
			t.Fatal("a call that hangs was not given up")
		}
		if after := (<-hung).Sub(began); after != MaxCall {
			t.Errorf("given up after %v, want %v", after, MaxCall)
		}
		w.Stop()
	})
}
