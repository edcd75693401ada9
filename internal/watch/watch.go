// Package watch holds a value that can be awaited.
package watch

import (
	"context"
	"sync"
)

// Value holds a T that can be read at any time and waited for. The zero Value
// holds the zero T. It is safe for concurrent use; its lock is a leaf.
type Value[T any] struct {
	mu      sync.Mutex
	v       T
	version uint64
	changed chan struct{} // exists while a caller waits
}

// Set replaces the value and wakes the callers of Wait.
func (w *Value[T]) Set(v T) {
	w.mu.Lock()
	changed := w.changed
	w.v, w.changed = v, nil
	w.version++
	w.mu.Unlock()
	if changed != nil {
		close(changed)
	}
}

// Load returns the value.
func (w *Value[T]) Load() T {
	v, _ := w.look()
	return v
}

func (w *Value[T]) look() (v T, version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.v, w.version
}

// Wait blocks until ok returns true for the value, and returns that value. If ctx
// ends first it returns the last value seen and ctx's error. It sees the latest
// value, not each one: a value that is replaced soon may be skipped. ok runs on
// the caller's goroutine, without the lock.
func (w *Value[T]) Wait(ctx context.Context, ok func(T) bool) (T, error) {
	for {
		v, version := w.look()
		if ok(v) {
			return v, nil
		}
		select {
		case <-w.after(version):
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// after returns a channel that is closed once the value has a later version.
func (w *Value[T]) after(version uint64) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.version != version {
		return closed
	}
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.changed
}
