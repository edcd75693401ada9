package watch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v Value[int]
		v.Set(1)
		if got, err := v.Wait(t.Context(), func(n int) bool { return n == 1 }); got != 1 || err != nil {
			t.Errorf("a value that is there already: %d, %v", got, err)
		}
		got := make(chan int)
		for range 2 {
			go func() {
				n, _ := v.Wait(context.Background(), func(n int) bool { return n >= 3 })
				got <- n
			}()
		}
		synctest.Wait()
		v.Set(2) // wakes both, satisfies neither
		synctest.Wait()
		v.Set(3)
		if a, b := <-got, <-got; a != 3 || b != 3 {
			t.Errorf("woken with %d and %d, want 3", a, b)
		}

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			n, err := v.Wait(ctx, func(n int) bool { return n > 3 })
			if n != 3 {
				t.Errorf("the last value seen is %d, want 3", n)
			}
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Wait: %v, want context.Canceled", err)
		}
	})
}

// A value that changes while Wait looks must not be missed: the version that
// Wait has seen decides, not the moment at which it begins to wait.
func TestAfterSeesAChangeInBetween(t *testing.T) {
	var v Value[string]
	_, version := v.look()
	v.Set("changed")
	select {
	case <-v.after(version):
	default:
		t.Error("a change between look and after was missed")
	}
}
