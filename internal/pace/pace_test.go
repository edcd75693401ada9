package pace

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestBucket follows buckets through steps. Each step passes some time, takes tokens and
// says what is there then.
func TestBucket(t *testing.T) {
	type step struct {
		after     time.Duration
		take      int
		available int
		wait      time.Duration
	}
	for _, test := range []struct {
		name  string
		rate  float64
		burst int
		steps []step
	}{
		{"full at first, whenever that is", 2, 3, []step{{time.Hour, 0, 3, 0}}},
		{"a token at a time", 2, 3, []step{
			{0, 3, 0, 500 * time.Millisecond},
			{499 * time.Millisecond, 0, 0, time.Millisecond},
			{time.Millisecond, 0, 1, 0},
			{0, 1, 0, 500 * time.Millisecond},
			{time.Second, 0, 2, 0},
		}},
		{"never more than the burst", 10, 2, []step{{0, 1, 1, 0}, {time.Hour, 0, 2, 0}}},
		{"a debt", 1, 1, []step{{0, 3, 0, 3 * time.Second}, {2 * time.Second, 0, 0, time.Second}, {time.Second, 1, 0, time.Second}}},
		{"fractions of a token are kept", 0.5, 1, []step{{0, 1, 0, 2 * time.Second}, {time.Second, 0, 0, time.Second}, {time.Second, 0, 1, 0}}},
		{"a burst below 1 is 1", 1, -4, []step{{0, 1, 0, time.Second}, {time.Hour, 0, 1, 0}}},
		{"time that goes back adds nothing", 1, 1, []step{{0, 1, 0, time.Second}, {-time.Hour, 0, 0, time.Second}, {time.Hour, 0, 0, time.Second}}},
		{"hardly ever", 1e-300, 1, []step{{0, 1, 0, maxWait}, {maxWait, 0, 0, maxWait}}},
		{"more often than the clock can show", 1e12, 1, []step{{0, 1, 0, 1}, {1, 0, 1, 0}}},
		{"no limit", 0, 1, []step{{0, 1 << 30, math.MaxInt, 0}}},
		{"a negative rate has no limit", -1, 1, []step{{0, 5, math.MaxInt, 0}}},
		{"an infinite rate has no limit", math.Inf(1), 1, []step{{0, 5, math.MaxInt, 0}}},
		{"a rate that is no number has no limit", math.NaN(), 1, []step{{0, 5, math.MaxInt, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := New(test.rate, test.burst)
			now := time.Now()
			for i, s := range test.steps {
				now = now.Add(s.after)
				b.Take(now, s.take)
				if got := b.Available(now); got != s.available {
					t.Errorf("step %d: %d tokens, want %d", i, got, s.available)
				}
				if got := b.Wait(now); got < s.wait || got > s.wait+1 { // it is rounded up
					t.Errorf("step %d: wait %v, want %v", i, got, s.wait)
				}
			}
		})
	}
}

// TestBucketRate takes what there is at random moments, and whenever Wait has passed: the
// sum never exceeds what a server with the same numbers allows, and nearly reaches it.
func TestBucketRate(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			rate, burst := math.Exp(r.Float64()*20-10), 2+r.IntN(20) // no pause fills it
			b := New(rate, burst)
			start := time.Now()
			now, taken := start, 0
			for range 20_000 {
				n := b.Available(now)
				taken += n
				b.Take(now, n)
				if r.IntN(2) == 0 {
					now = now.Add(time.Duration(r.Float64() * float64(time.Second) / rate))
					continue
				}
				wait := b.Wait(now)
				if wait <= 0 {
					t.Fatalf("no token and no wait at rate %v", rate)
				}
				now = now.Add(wait)
				if b.Available(now) == 0 {
					t.Fatalf("no token after the wait of %v at rate %v", wait, rate)
				}
			}
			if allowed := float64(burst) + now.Sub(start).Seconds()*rate; float64(taken) > allowed+tolerance*20_000 {
				t.Errorf("%d were taken, %v are allowed", taken, allowed)
			} else if allowed-float64(taken) > float64(burst)+1 {
				t.Errorf("%d were taken of %v: the bucket loses tokens", taken, allowed)
			}
		})
	}
}

// TestZeroBucket shows that a bucket that nothing has made has no limit.
func TestZeroBucket(t *testing.T) {
	var b Bucket
	if b.Take(time.Now(), 7); b.limited() || b.Wait(time.Now()) != 0 {
		t.Error("the zero bucket has a limit")
	}
	if b = New(3, 1); !b.limited() {
		t.Error("a bucket of New has no limit")
	}
}
