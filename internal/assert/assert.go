// Package assert has the assertions of the project's own tests. It imports only the
// standard library.
package assert

import (
	"errors"
	"reflect"
	"testing"
)

// NoError ends the test if err is not nil.
func NoError(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatalf("unexpected error: %v", err)
	}
}

// ErrorIs fails the test unless errors.Is(err, want). A nil want requires a nil err.
func ErrorIs(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Errorf("error %v, want %v", err, want)
	}
}

// ErrorAs returns the T that err holds. It ends the test if there is none.
func ErrorAs[T error](tb testing.TB, err error) T {
	tb.Helper()
	var target T
	if !errors.As(err, &target) {
		tb.Fatalf("error %v (%T), want a %T", err, err, target)
	}
	return target
}

// Equal fails the test unless got and want are deeply equal.
func Equal[T any](tb testing.TB, got, want T) {
	tb.Helper()
	if !reflect.DeepEqual(got, want) {
		tb.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// True fails the test with the message what unless ok is true.
func True(tb testing.TB, ok bool, what string) {
	tb.Helper()
	if !ok {
		tb.Error(what)
	}
}
