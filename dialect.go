package limpet

import (
	"fmt"
	"runtime/debug"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// guarded is the dialect of a client. Every call into a dialect goes through it:
// a panic becomes a *userError that wraps a *PanicError.
type guarded struct {
	dialect wire.Dialect
	name    string
	traits  wire.Traits
}

// guard returns d as the client uses it, or why its name or traits cannot be
// had.
func guard(d wire.Dialect) (g guarded, err error) {
	g.dialect = d
	err = guardCall("Name", func() error { g.name = d.Name(); return nil })
	if err == nil {
		err = guardCall("Traits", func() error { g.traits = d.Traits(); return nil })
	}
	return g, err
}

// guardCall calls f, which calls a method of a dialect, and the methods of its
// error, so that they can be called later.
func guardCall(method string, f func() error) (err error) {
	defer recoverPanic(method, &err)
	if err = f(); err != nil {
		socket.CallMethods(err)
	}
	return err
}

// recoverPanic is deferred around a call of a dialect's method.
func recoverPanic(method string, err *error) {
	if p := recover(); p != nil {
		*err = &userError{"Options.Dialect", fmt.Errorf("%s: %w", method, &PanicError{Value: p, Stack: debug.Stack()})}
	}
}

func (g guarded) Name() string        { return g.name }
func (g guarded) Traits() wire.Traits { return g.traits }

func (g guarded) CheckTopic(use wire.Use, topic string) error {
	return guardCall("CheckTopic", func() error { return g.dialect.CheckTopic(use, topic) })
}

func (g guarded) Attempt(a *wire.Attempt) error {
	return guardCall("Attempt", func() error { return g.dialect.Attempt(a) })
}

func (g guarded) Open(r wire.Resume) (wire.Codec, error) {
	var codec wire.Codec
	err := guardCall("Open", func() (err error) { codec, err = g.dialect.Open(r); return err })
	return guardedCodec{codec}, err
}

// Verdict is that of the dialect. After a panic it has no opinion.
func (g guarded) Verdict(f wire.Failure) wire.Verdict {
	v, _ := verdictOf(g.dialect, f)
	return v
}

// verdictOf returns what d decides, or no opinion and its panic.
func verdictOf(d wire.Dialect, f wire.Failure) (v wire.Verdict, panicked error) {
	if g, ok := d.(guarded); ok {
		d = g.dialect
	}
	panicked = guardCall("Verdict", func() error { v = d.Verdict(f); return nil })
	return v, panicked
}

// guardedCodec is a codec whose panics become errors.
type guardedCodec struct{ codec wire.Codec }

func (g guardedCodec) Start(out *wire.Frames) error {
	return guardCall("Start", func() error { return g.codec.Start(out) })
}

func (g guardedCodec) Decode(f wire.Frame, out *wire.Events) (err error) {
	defer recoverPanic("Decode", &err)
	if err = g.codec.Decode(f, out); err != nil {
		socket.CallMethods(err)
	}
	return err
}

func (g guardedCodec) Encode(ops []wire.Op, out *wire.Frames) (err error) {
	defer recoverPanic("Encode", &err)
	if err = g.codec.Encode(ops, out); err != nil {
		socket.CallMethods(err)
	}
	return err
}
