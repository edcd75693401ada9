package liveness

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestClockJumped(t *testing.T) {
	begin := time.Date(2026, 3, 29, 1, 59, 0, 0, time.UTC)
	for _, tc := range []struct {
		name          string
		wall, elapsed time.Duration // since the look before
		want          bool
	}{
		{"awake", 20 * time.Second, 20 * time.Second, false},
		{"awake for a day", 24 * time.Hour, 24 * time.Hour, false},
		{"at the same moment", 0, 0, false},
		{"slept for eight hours", 8*time.Hour + 5*time.Second, 5 * time.Second, true},
		{"slept for eight hours and woke at once", 8 * time.Hour, 0, true},
		{"slept for a moment", 6 * time.Second, 4 * time.Second, false},
		{"slept for a little longer", 6*time.Second + 1, 4 * time.Second, true},
		{"the wall clock was set forward", time.Hour, time.Second, true},
		{"the wall clock was set back", -time.Hour, time.Second, false},
		{"the wall clock is slewed, 500 parts in a million for an hour", time.Hour + 1800*time.Millisecond, time.Hour, false},
		{"the process stood still", time.Minute, time.Minute, false}, // both clocks go on
	} {
		var c Clock
		if c.Jumped(begin, time.Hour) {
			t.Errorf("%s: the first look found a jump", tc.name)
		}
		if got := c.Jumped(begin.Add(tc.wall), time.Hour+tc.elapsed); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
		// One jump is found once, and what follows counts from the last look.
		if c.Jumped(begin.Add(tc.wall+time.Second), time.Hour+tc.elapsed+time.Second) {
			t.Errorf("%s: found again", tc.name)
		}
	}
}

// drop is the end of one connection.
type drop struct {
	idle, survived time.Duration
	otherwise      bool // it ended in another way
}

func TestIdleLearns(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct {
		name  string
		drops []drop
		want  time.Duration // the interval afterwards
	}{
		{"nothing yet", nil, 0},
		{"one is no pair", []drop{{60 * s, 0, false}}, 0},
		{"two after a minute", []drop{{60 * s, 0, false}, {60 * s, 0, false}}, 30 * s},
		{"two after about a minute: the shorter counts", []drop{{61 * s, 12 * s, false}, {60 * s, 40 * s, false}}, 30 * s},
		{"half as long again", []drop{{40 * s, 0, false}, {60 * s, 0, false}}, 20 * s},
		{"more than half as long again", []drop{{39 * s, 0, false}, {60 * s, 0, false}}, 0},
		{"the third agrees with the second", []drop{{20 * s, 0, false}, {60 * s, 0, false}, {55 * s, 0, false}}, 55 * s / 2},
		{"not in a row", []drop{{60 * s, 0, false}, {otherwise: true}, {60 * s, 0, false}}, 0},
		{"one that was busy is between", []drop{{60 * s, 0, false}, {s, 0, false}, {60 * s, 0, false}}, 0},
		{"both survived as much", []drop{{20 * s, 20 * s, false}, {20 * s, 20 * s, false}}, 0},
		{"one survived as much", []drop{{20 * s, 0, false}, {20 * s, 20*s - time.Millisecond, false}}, 0},
		{"both survived nearly as much", []drop{{20 * s, 18 * s, false}, {20 * s, 18 * s, false}}, 10 * s},
		{"never below five seconds", []drop{{7 * s, 0, false}, {7 * s, 0, false}}, 5 * s},
		{"too short to be helped", []drop{{5*s - 1, 0, false}, {5*s - 1, 0, false}}, 0},
		{"shorter again", []drop{{60 * s, 0, false}, {60 * s, 0, false}, {30 * s, 0, false}, {30 * s, 0, false}}, 15 * s},
		{"never longer again", []drop{{20 * s, 0, false}, {20 * s, 0, false}, {60 * s, 0, false}, {60 * s, 0, false}}, 10 * s},
	} {
		var i Idle
		for n, d := range tc.drops {
			before := i.Interval()
			changed := false
			if d.otherwise {
				i.Ended()
			} else {
				changed = i.Dropped(d.idle, d.survived)
			}
			if changed != (i.Interval() != before) {
				t.Errorf("%s: connection %d: reports a change %v, the interval was %v and is %v", tc.name, n+1, changed, before, i.Interval())
			}
		}
		if got := i.Interval(); got != tc.want {
			t.Errorf("%s: the interval is %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A path that fails at random teaches nothing to a client that sends heartbeats: most
// connections have survived a whole interval. One that drops idle connections always does.
func TestIdleIsNotMisled(t *testing.T) {
	const interval = 20 * time.Second
	learned := 0
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var i Idle
		for range 100 {
			lasts := time.Duration(rnd.ExpFloat64() * float64(10*time.Minute))
			first := time.Duration(rnd.Int64N(int64(interval))) // the first heartbeat
			switch {
			case lasts < first:
				i.Dropped(lasts, 0)
			case lasts < first+interval:
				i.Dropped(lasts-first, first)
			default:
				i.Dropped((lasts-first)%interval, interval)
			}
		}
		if i.Interval() != 0 {
			learned++
		}
	}
	// With connections of ten minutes, a pair that agrees by chance is rare.
	if learned > 30 {
		t.Errorf("%d of 200 clients have learned an interval from failures at random", learned)
	}
}

// Patience with a silent peer grows, to what the default interval allows.
func TestSilenceAllowed(t *testing.T) {
	for _, tc := range []struct {
		heartbeat time.Duration
		silences  int
		want      time.Duration
	}{
		{time.Second, 0, 2500 * time.Millisecond}, {time.Second, 1, 4 * time.Second}, {time.Second, 2, 6400 * time.Millisecond},
		{time.Second, 9, 50 * time.Second}, {20 * time.Second, 9, 50 * time.Second}, {time.Hour, 1 << 40, 150 * time.Minute},
	} {
		if got := SilenceAllowed(tc.heartbeat, tc.silences); got != tc.want {
			t.Errorf("%v after %d silent connections with an interval of %v, want %v", got, tc.silences, tc.heartbeat, tc.want)
		}
	}
}
