package histogram

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// Of a socket read the lag is measured for the messages 1, 2, 4, 16 and then for one in
// LagEvery. The others count like the next one that is measured, the last ones
// like the one before.
func TestLagReadsTheClockRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Histogram
		l := &Lag{Delivery: &h}
		expect := func(count, milliseconds int) {
			t.Helper()
			if _, n, sum := h.Load(); n != uint64(count) || math.Abs(sum-(time.Duration(milliseconds)*time.Millisecond).Seconds()) > 1e-9 {
				t.Errorf("%d measured, in %v; want %d in %d ms", n, sum, count, milliseconds)
			}
		}
		read := time.Now()
		take := func(n int) {
			for range n {
				time.Sleep(time.Millisecond)
				l.Message(&read, 0)
				l.End()
			}
		}
		take(LagEvery + 6) // one a millisecond
		expect(LagEvery, 1+2+2*4+12*16+48*64)
		l.Count()
		expect(LagEvery+6, 1+2+2*4+12*16+48*64+6*64)
		take(2*LagEvery - 6)
		before := 1 + 2 + 2*4 + 12*16 + 48*64 + 6*64 + 58*128 + 64*192
		expect(3*LagEvery, before)

		next := read.Add(100 * time.Millisecond) // 92 ms ago
		for range 2 {
			l.Message(&read, 0)
			l.Message(&next, 0)
		}
		l.End()
		expect(3*LagEvery+4, before+192+92+192+92)
	})
}

// BenchmarkLag measures one message of reads that bring a hundred, taken one by one.
func BenchmarkLag(b *testing.B) {
	l := &Lag{Delivery: new(Histogram)}
	read := time.Now()
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 {
			read = time.Now()
		}
		l.Message(&read, 0)
		l.End()
	}
}
