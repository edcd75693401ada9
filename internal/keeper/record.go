package keeper

import (
	"context"
	"sync/atomic"
)

// Record is what one call publishes: it is kept in one commit or not at all. Use NewRecord.
type Record[R any] struct {
	Items []R // the owner of the Keeper may replace them before the record is finished

	claimed atomic.Bool
	done    chan struct{}
	err     error // valid once done is closed
}

// NewRecord returns a record that waits for its commit.
func NewRecord[R any](items []R) *Record[R] {
	return &Record[R]{Items: items, done: make(chan struct{})}
}

// claim reports whether the caller is the first to claim r: who commits it, or who gives it up.
func (r *Record[R]) claim() bool { return r.claimed.CompareAndSwap(false, true) }

// Finish ends Wait with err.
func (r *Record[R]) Finish(err error) {
	r.err = err
	close(r.done)
}

// Wait waits for Finish and returns its error. If ctx ends before r is in a commit, it reports
// that r is withdrawn: then there is no Finish.
func (r *Record[R]) Wait(ctx context.Context) (withdrawn bool, err error) {
	select {
	case <-r.done:
		return false, r.err
	case <-ctx.Done():
	}
	if r.claim() {
		return true, ctx.Err()
	}
	<-r.done
	return false, r.err
}
