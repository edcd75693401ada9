package guard

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/socket"
)

// Asker calls one function of Options, one call at a time, each on a goroutine of its own
// that may outlive the client. The zero Asker has called nothing.
type Asker[T any] struct {
	running atomic.Pointer[askedCall]       // nil: none runs
	final   atomic.Pointer[fault.Permanent] // of a call that outlived its context
}

// askedCall is a call in progress.
type askedCall struct {
	ctx      context.Context // that f got
	returned chan struct{}   // closed when it has returned
}

// Ask returns what f returns, once an earlier call in its time has returned: an attempt and a
// refresh on the open connection may ask at once. A panic and runtime.Goexit are errors. It does
// not wait beyond the end of ctx.
func (a *Asker[T]) Ask(ctx context.Context, report Report, f func() (T, error)) (none T, err error) {
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	call := &askedCall{ctx, make(chan struct{})}
	for !a.running.CompareAndSwap(nil, call) {
		if earlier := a.running.Load(); earlier != nil && !earlier.inTime(ctx) {
			return none, cmp.Or(ctx.Err(), ErrStillRuns)
		}
	}
	end := func() { // first: the next call may follow at once
		a.running.Store(nil)
		close(call.returned)
	}
	if final := a.final.Load(); final != nil {
		end()
		return none, final
	}
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		ans := answer{err: errors.New("called runtime.Goexit")}
		defer func() {
			end()
			answers <- ans
		}()
		defer func() {
			if p := recover(); p != nil {
				ans.err = report(p, debug.Stack())
			}
		}()
		ans.value, ans.err = f()
		if ans.err != nil {
			socket.CallMethods(ans.err)
			if final := (*fault.Permanent)(nil); errors.As(ans.err, &final) {
				a.final.Store(final)
			}
		}
	}()
	select {
	case ans := <-answers:
		return ans.value, ans.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// inTime waits for c. It reports false if c outlives its own context, or ctx.
func (c *askedCall) inTime(ctx context.Context) bool {
	select {
	case <-c.returned:
	case <-c.ctx.Done():
	case <-ctx.Done():
	}
	select {
	case <-c.returned:
		return true
	default:
		return false
	}
}

// ErrStillRuns means that an earlier call has outlived its context, so no other one began.
var ErrStillRuns = errors.New("an earlier call has not returned although its context has ended")

// Settle waits until the call that runs has returned, for at most patience. It reports false
// if that was too short. The context of the call has just ended.
func (a *Asker[T]) Settle(ctx context.Context, patience time.Duration) bool {
	running := a.running.Load()
	if running == nil {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-running.returned:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
