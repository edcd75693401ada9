package test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/limpettest"
)

// Whatever Save does, the stream goes on, the failure is an event of its own kind, and the
// newest position is saved once the store works again.
func TestCursorThatIsNotSaved(t *testing.T) {
	broken := errors.New("broken")
	for name, row := range map[string]struct {
		save  func(ctx context.Context) error
		class limpet.ErrorClass
		is    func(error) bool
	}{
		"fails":  {func(context.Context) error { return broken }, limpet.ClassLocal, func(err error) bool { return errors.Is(err, broken) }},
		"panics": {func(context.Context) error { panic("no") }, limpet.ClassUser, func(err error) bool { return errors.Is(err, limpet.ErrPanic) }},
		"returns a nil pointer": {func(context.Context) error { return (*brokenError)(nil) }, limpet.ClassUser, func(err error) bool {
			return errors.Is(err, limpet.ErrPanic)
		}},
		"waits for ctx": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, limpet.ClassTimeout, func(err error) bool {
			return errors.Is(err, context.DeadlineExceeded)
		}},
		"hangs": {nil, limpet.ClassUser, func(err error) bool {
			var hung *limpet.HangError
			return errors.As(err, &hung) && strings.Contains(string(hung.Stack), "cursor_test.go")
		}},
		"ends its goroutine": {func(context.Context) error { runtime.Goexit(); return nil }, limpet.ClassUser, func(err error) bool {
			return strings.Contains(err.Error(), "Goexit")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				store := newSaves()
				store.says(func(ctx context.Context) error {
					if row.save == nil {
						time.Sleep(time.Minute)
						return broken
					}
					return row.save(ctx)
				})
				var mu sync.Mutex
				var events []limpet.CursorNotSaved
				c := dial(t, srv, &limpet.Options{Observer: observer(func(e limpet.Event) {
					if e, ok := e.(limpet.CursorNotSaved); ok {
						mu.Lock()
						events = append(events, e)
						mu.Unlock()
					}
				})})
				s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: store, Name: "name"})
				for _, p := range numbers(1, 20) {
					publish(t, srv, "q", p)
					if got := payloads(process(t, s, 1)); got != p {
						t.Fatalf("got %s, want %s", got, p)
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				mu.Lock()
				if len(events) == 0 || len(events) > 20 {
					t.Fatalf("%d events", len(events))
				}
				e := events[0]
				mu.Unlock()
				if e.Topic != "q" || e.Name != "name" || limpet.ClassOf(e.Err) != row.class || !row.is(e.Err) ||
					!strings.Contains(e.Err.Error(), "SubscribeOptions.Cursor") {
					t.Errorf("%+v", e)
				}
				if got := store.saved(); got != "" {
					t.Errorf("saved %s", got)
				}
				store.says(nil)
				time.Sleep(2 * time.Minute)
				if got := store.saved(); got != "20" {
					t.Errorf("then saved %s", got)
				}
			})
		})
	}
}

// Whatever Save does, Done comes in time.
func TestCursorAtTheEnd(t *testing.T) {
	for name, row := range map[string]struct {
		takes  time.Duration
		save   func(ctx context.Context) error
		want   string
		within time.Duration
	}{
		"saves":  {5 * time.Second, func(context.Context) error { return nil }, "3", 11 * time.Second},
		"fails":  {0, func(context.Context) error { return errors.New("broken") }, "", 0},
		"hangs":  {time.Hour, func(context.Context) error { return nil }, "", 12 * time.Second},
		"panics": {0, func(context.Context) error { panic("no") }, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				store := newSaves()
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: cursor.Every(store, 1000, 0), Name: "name"})
				synctest.Wait()
				store.says(func(ctx context.Context) error { time.Sleep(row.takes); return row.save(ctx) })
				publish(t, srv, "q", numbers(1, 3)...)
				process(t, s, 3)
				began := time.Now()
				closeAndWait(t, c)
				if took := time.Since(began); took > row.within+100*time.Millisecond {
					t.Errorf("Done after %v", took)
				}
				if got := strings.TrimSpace(strings.TrimPrefix(store.saved(), "0")); got != row.want {
					t.Errorf("saved %s, want %s", got, row.want)
				}
				time.Sleep(2 * time.Hour) // of a save that hangs
			})
		})
	}
}

// Shutdown waits for the loop body, and what it processed is saved.
func TestShutdownSavesTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newSaves()
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: store, Name: "name"})
		publish(t, srv, "q", "1", "2")
		done := make(chan struct{})
		go func() {
			for range s.Messages(context.Background()) {
				time.Sleep(time.Second)
			}
			close(done)
		}()
		synctest.Wait()
		go func() { time.Sleep(500 * time.Millisecond); srv.Network.CutAll() }() // in the first loop body
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if got := store.offset(t); got != 2 {
			t.Errorf("saved %d", got)
		}
		<-done
	})
}
