// Package guard calls the caller's code, which may panic, hang or end its goroutine: methods
// of a dialect, a codec and a store, and functions in the options.
package guard

import (
	"fmt"
	"runtime/debug"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// Report makes the error that reports a panic: of what was passed to panic, and the stack of
// the goroutine.
type Report func(value any, stack []byte) error

// Dialect is the dialect of a client. Every call into a dialect goes through it:
// a panic becomes a *fault.User that wraps what Report returns.
type Dialect struct {
	dialect wire.Dialect
	report  Report
	name    string
	traits  wire.Traits
}

// NewDialect returns d as the client uses it, or why its name or traits cannot be
// had.
func NewDialect(d wire.Dialect, report Report) (g Dialect, err error) {
	g.dialect, g.report = d, report
	err = report.call("Name", func() error { g.name = d.Name(); return nil })
	if err == nil {
		err = report.call("Traits", func() error { g.traits = d.Traits(); return nil })
	}
	return g, err
}

// Check returns what is wrong with the options of the dialect, if it can say so.
func (g Dialect) Check() error {
	if c, ok := g.dialect.(wire.Checker); ok {
		return g.report.call("Check", c.Check)
	}
	return nil
}

// call calls f, which calls a method of a dialect, and the methods of its
// error, so that they can be called later.
func (report Report) call(method string, f func() error) (err error) {
	defer report.recovered(method, &err)
	if err = f(); err != nil {
		socket.CallMethods(err)
	}
	return err
}

// recovered is deferred around a call of a dialect's method.
func (report Report) recovered(method string, err *error) {
	if p := recover(); p != nil {
		*err = &fault.User{Option: fault.OptionDialect, Err: fmt.Errorf("%s: %w", method, report(p, debug.Stack()))}
	}
}

// Name returns the name that the dialect had in NewDialect.
func (g Dialect) Name() string { return g.name }

// Traits returns the traits that the dialect had in NewDialect.
func (g Dialect) Traits() wire.Traits { return g.traits }

// CheckTopic is that of the dialect.
func (g Dialect) CheckTopic(use wire.Use, topic string) error {
	return g.report.call("CheckTopic", func() error { return g.dialect.CheckTopic(use, topic) })
}

// Attempt is that of the dialect.
func (g Dialect) Attempt(a *wire.Attempt) error {
	return g.report.call("Attempt", func() error { return g.dialect.Attempt(a) })
}

// Open returns the codec of the dialect, guarded.
func (g Dialect) Open(r wire.Resume) (wire.Codec, error) {
	var codec wire.Codec
	err := g.report.call("Open", func() (err error) { codec, err = g.dialect.Open(r); return err })
	return &Codec{codec, g.report}, err
}

// Verdict is that of the dialect. After a panic it has no opinion.
func (g Dialect) Verdict(f wire.Failure) wire.Verdict {
	v, _ := g.AskVerdict(f)
	return v
}

// AskVerdict returns what the dialect decides, or no opinion and its panic.
func (g Dialect) AskVerdict(f wire.Failure) (v wire.Verdict, panicked error) {
	panicked = g.report.call("Verdict", func() error { v = g.dialect.Verdict(f); return nil })
	return v, panicked
}

// Codec is a codec whose panics become errors, as those of a Dialect.
type Codec struct {
	codec  wire.Codec
	report Report
}

// Start is that of the codec.
func (g *Codec) Start(out *wire.Frames) error {
	return g.report.call("Start", func() error { return g.codec.Start(out) })
}

// Decode is that of the codec. It adds no allocation.
func (g *Codec) Decode(f wire.Frame, out *wire.Events) (err error) {
	defer g.report.recovered("Decode", &err)
	if err = g.codec.Decode(f, out); err != nil {
		socket.CallMethods(err)
	}
	return err
}

// Encode is that of the codec. It adds no allocation.
func (g *Codec) Encode(ops []wire.Op, out *wire.Frames) (err error) {
	defer g.report.recovered("Encode", &err)
	if err = g.codec.Encode(ops, out); err != nil {
		socket.CallMethods(err)
	}
	return err
}

// CountFrames counts the frames that Encode makes of ops. It reports false if the dialect
// cannot tell.
func (g *Codec) CountFrames(ops []wire.Op) (n int, ok bool) {
	packer, ok := g.codec.(wire.Packer)
	if !ok || g.report.call("CountFrames", func() error { n = packer.CountFrames(ops); return nil }) != nil {
		return 0, false
	}
	return max(n, 0), true
}
