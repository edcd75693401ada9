package guard

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/socket"
)

// Store is the store of a subscription. The methods of its errors are called here,
// where those who call Load and Save recover a panic. Its pace is asked for once.
type Store struct {
	cursor.Store
	messages int
	interval time.Duration
}

// NewStore returns store as the client uses it, or why its pace cannot be had.
func NewStore(store cursor.Store, report Report) (g Store, err error) {
	g.Store = store
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Pace: %w", report(p, debug.Stack()))
		}
	}()
	if paced, ok := store.(cursor.Paced); ok {
		g.messages, g.interval = paced.Pace()
		if n, d := g.messages, g.interval; n < 0 || d < 0 || n == 0 && d == 0 {
			err = fmt.Errorf("cursor.Every has %d messages and %v; neither may be negative, and one must be set", n, d)
		}
	}
	return g, err
}

// Pace returns the pace that the store had in NewStore.
func (g Store) Pace() (messages int, interval time.Duration) { return g.messages, g.interval }

// Load is that of the store.
func (g Store) Load(ctx context.Context, name string) (cursor.Cursor, error) {
	c, err := g.Store.Load(ctx, name)
	if err != nil {
		socket.CallMethods(err)
	}
	return c, err
}

// Save is that of the store.
func (g Store) Save(ctx context.Context, name string, c cursor.Cursor) error {
	err := g.Store.Save(ctx, name, c)
	if err != nil {
		socket.CallMethods(err)
	}
	return err
}
