package histogram

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Outages
		check := func(count uint64, current, all time.Duration) {
			t.Helper()
			if n, c, a := o.Load(); n != count || c != current || a != all {
				t.Errorf("%d outages, %v now, %v in all; want %d, %v, %v", n, c, a, count, current, all)
			}
		}
		check(0, 0, 0)
		o.Begin(time.Now())
		check(1, 0, 0)
		time.Sleep(3 * time.Second)
		check(1, 3*time.Second, 3*time.Second)
		if took := o.End(); took != 3*time.Second {
			t.Errorf("it lasted %v", took)
		}
		time.Sleep(time.Minute)
		check(1, 0, 3*time.Second)
		o.Begin(time.Now().Add(-time.Second)) // counted late
		check(2, time.Second, 4*time.Second)
		time.Sleep(time.Second)
		o.End()
		check(2, 0, 5*time.Second)
	})
}
