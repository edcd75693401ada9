package keeper

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/outbox"
)

// Report makes an error of a panic in the caller's code.
type Report = func(value any, stack []byte) error

// caller calls the methods of a store, each call on a goroutine of its own.
type caller struct {
	ctx    context.Context
	cancel context.CancelFunc
	report Report
}

func newCaller(report Report) caller {
	ctx, cancel := context.WithCancel(context.Background())
	return caller{ctx, cancel, report}
}

var errGoexit = errors.New("called runtime.Goexit, as t.FailNow does; return an error instead")

// commit calls Commit. The result comes before the call of ended. What became of a change is not known
// after a panic or a Goexit.
func (c *caller) commit(store outbox.Store, change *outbox.Change, ended func()) <-chan error {
	result := make(chan error, 1)
	use(store)
	go func() {
		err := fmt.Errorf("%w: Commit %w", outbox.ErrUncertain, errGoexit)
		defer func() {
			release(store) // first: who has the result may end, and another client begin
			result <- err
			ended()
		}()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: Commit: %w", outbox.ErrUncertain, c.report(p, debug.Stack()))
			}
		}()
		if err = store.Commit(c.ctx, change); err != nil {
			socket.CallMethods(err)
		}
	}()
	return result
}

// load calls Load.
func (c *caller) load(store outbox.Store) (*outbox.Content, error) {
	type answer struct {
		content *outbox.Content
		err     error
	}
	result := make(chan answer, 1)
	go func() {
		a := answer{err: fmt.Errorf("method Load %w", errGoexit)}
		defer func() { result <- a }()
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("method Load: %w", c.report(p, debug.Stack()))
			}
		}()
		a.content, a.err = store.Load(c.ctx)
		if a.err != nil {
			socket.CallMethods(a.err)
		}
	}()
	a := <-result
	return a.content, a.err
}
