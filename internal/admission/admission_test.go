package admission

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

var errClosed = errors.New("closed")

// acquire waits for room for n messages and reports how that went.
func acquire(ctx context.Context, g *Gate, n int, result chan<- error) {
	_, err := g.Acquire(ctx, n, 0, true)
	result <- err
}

// A publisher that gives up admits those behind it for which there is room.
func TestGivingUpAdmitsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(2, 100)
		ctx, cancel := context.WithCancel(context.Background())
		large, small := make(chan error, 1), make(chan error, 1)
		go acquire(ctx, a, 3, large)
		synctest.Wait()
		go acquire(context.Background(), a, 2, small)
		synctest.Wait()
		if len(small) > 0 {
			t.Fatal("the second publisher overtook the first")
		}
		cancel()
		synctest.Wait()
		if len(small) == 0 || !errors.Is(<-large, context.Canceled) {
			t.Error("the publisher behind the one that gave up still waits")
			a.Close(errClosed)
		}
	})
}

// An admission that comes at the moment at which its publisher gives up is undone:
// its room goes to the next publisher.
func TestUndoneAdmissionAdmitsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(0, 100)
		ctx, cancel := context.WithCancel(context.Background())
		first, second := make(chan error, 1), make(chan error, 1)
		go acquire(ctx, a, 1, first)
		synctest.Wait()
		go acquire(context.Background(), a, 1, second)
		synctest.Wait()
		a.mu.Lock()
		cancel() // wakes the first, which needs the lock
		a.freeMessages++
		a.admitWaiters() // the first
		a.mu.Unlock()
		synctest.Wait()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Fatalf("the first publisher got %v", err)
		}
		if len(second) == 0 {
			a.Close(errClosed)
			t.Error("room is free and the next publisher waits")
		}
	})
}
