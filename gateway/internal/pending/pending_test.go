package pending_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/gateway/internal/pending"
)

func TestCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c pending.Calls
		check := func(count int, age time.Duration) {
			t.Helper()
			if n, a := c.Now(time.Now()); n != count || a != age {
				t.Errorf("%d for %v, want %d for %v", n, a, count, age)
			}
		}
		check(0, 0)
		first := c.Begin(time.Now())
		time.Sleep(time.Second)
		check(1, time.Second)
		second := c.Begin(time.Now())
		time.Sleep(time.Second)
		check(2, 1500*time.Millisecond)
		first()
		check(1, time.Second)
		third := c.Begin(time.Now())
		time.Sleep(2 * time.Second)
		check(2, 2500*time.Millisecond)
		second()
		check(1, 2*time.Second)
		third()
		check(0, 0)
	})
}
