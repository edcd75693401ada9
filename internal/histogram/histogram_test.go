package histogram

import (
	"slices"
	"testing"
	"time"
)

func TestAdd(t *testing.T) {
	var h Histogram
	h.Add(-time.Second, 1)
	h.Add(Bounds[0], 2)
	h.Add(Bounds[0]+1, 3)
	h.Add(time.Second, 4)
	h.Add(2*time.Hour, 5)
	h.Add(time.Second, 0)
	buckets, count, sum := h.Load()
	want := [Buckets]uint64{0: 3, 1: 3, Buckets - 1: 5}
	want[slices.Index(Bounds[:], time.Second)] = 4
	if buckets != want || count != 15 {
		t.Errorf("%d in %v, want %v", count, buckets, want)
	}
	if want := 2*Bounds[0] + 3*(Bounds[0]+1) + 4*time.Second + 10*time.Hour; sum != want.Seconds() {
		t.Errorf("sum %v, want %v", sum, want)
	}
}

// The sum grows, whatever the durations: those of a server whose clock is an hour off fill
// an int64 of nanoseconds within an hour.
func TestSumGrows(t *testing.T) {
	const years = 50 * 365 * 24 * time.Hour
	var h Histogram
	for i := range 1000 {
		h.Add(years, 64)
		if _, _, sum := h.Load(); sum != years.Seconds()*64*float64(i+1) {
			t.Fatalf("the sum is %v after %d", sum, i+1)
		}
	}
}

func TestNil(t *testing.T) {
	var h *Histogram
	h.Add(time.Second, 1)
	if _, count, sum := h.Load(); count != 0 || sum != 0 {
		t.Error(count, sum)
	}
}

func TestBoundsAscend(t *testing.T) {
	if !slices.IsSorted(Bounds[:]) {
		t.Error(Bounds)
	}
}

func BenchmarkAdd(b *testing.B) {
	var h Histogram
	for b.Loop() {
		h.Add(time.Millisecond, 1)
	}
}
