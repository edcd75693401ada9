package tasks

import (
	"context"
	"errors"
)

// ErrGoexit means that a function has ended its goroutine.
var ErrGoexit = errors.New("called runtime.Goexit")

// Call calls f, code of the user's that may hang, on a goroutine that may outlive the caller.
// It returns what f returns, what recovered makes of a panic, or the error of ctx when that
// ends first. done is called when f has returned.
func Call[T any](ctx context.Context, f func() (T, error), recovered func(any) error, done func()) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		defer done()
		a := answer{err: ErrGoexit}
		defer func() { answers <- a }()
		defer func() {
			if p := recover(); p != nil {
				a.err = recovered(p)
			}
		}()
		a.value, a.err = f()
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
