package pace

import (
	"math"
	"testing"
	"time"
)

// What a client sends fits a server that counts in fixed windows, in sliding windows or
// with a bucket, and uses at least three quarters of what it allows.
func TestLimitFitsTheServer(t *testing.T) {
	type allowed struct {
		messages int
		per      time.Duration
		burst    int
	}
	for _, of := range []allowed{
		{1, 0, 0}, {2, 0, 0}, {3, 0, 0}, {4, 0, 0}, {5, 0, 0}, {9, 0, 0}, {10, 0, 0}, {100, 0, 0},
		{480, time.Hour, 0}, {120, time.Minute, 0}, {7, 10 * time.Millisecond, 0},
		{8, 0, 20}, {1, 0, 1}, {3, time.Minute, 2},
	} {
		l := NewLimit(of.messages, of.per, of.burst)
		per := of.per
		if per == 0 {
			per = time.Second
		}
		start := time.Now()
		var sent []time.Time
		for now := start; now.Sub(start) < 20*per; now = l.NextRoom(now, 0) {
			for n := l.Room(now, 0, false); n > 0; n-- {
				l.Sent(now, 1, false)
				sent = append(sent, now)
			}
		}
		window := of.messages + of.burst
		for i := window; i < len(sent); i++ {
			if d := sent[i].Sub(sent[i-window]); d < per {
				t.Errorf("%+v: %d messages within %v", of, window+1, d)
				break
			}
		}
		if want := 20 * of.messages * 3 / 4; len(sent) < want {
			t.Errorf("%+v: %d messages in 20 times %v, want %d", of, len(sent), per, want)
		}
	}
	if NewLimit(0, time.Hour, 3) != nil {
		t.Error("a limit without a number of messages")
	}
}

// Without a limit everything is allowed at once.
func TestNoLimit(t *testing.T) {
	var none *Limit
	now := time.Now()
	none.Sent(now, 1e6, false)
	none.Learn(3, 3, 1, 9)
	if room := none.Room(now, 1e6, true); room != math.MaxInt {
		t.Errorf("room for %d frames", room)
	}
	if !none.NextRoom(now, 0).IsZero() || !none.TakePing(now).IsZero() || none.IsTurnOfOthers() {
		t.Error("something waits")
	}
	if n, frames := none.Fit(7, 0, nil); n != 7 || frames != 0 {
		t.Errorf("%d operations in %d frames fit", n, frames)
	}
}

// Of operations that a codec cannot count, more are tried while they fit, and fewer when
// they did not.
func TestLimitLearnsToPack(t *testing.T) {
	l := NewLimit(100, 0, 0)
	unknown := func(int) (int, bool) { return 0, false }
	for _, want := range []int{2, 4, 8, 8} {
		if n, frames := l.Fit(1000, 1, unknown); n != want || frames != 1 {
			t.Errorf("%d operations in %d frames, want %d in 1", n, frames, want)
		}
		l.Learn(want, 1, 1, 8)
	}
	l.Learn(8, 4, 1, 8)
	if n, _ := l.Fit(1000, 1, unknown); n != 2 {
		t.Errorf("%d operations after they took four times the room, want 2", n)
	}
	three := func(n int) (int, bool) { return (n + 2) / 3, true }
	if n, frames := l.Fit(1000, 5, three); n != 15 || frames != 5 {
		t.Errorf("%d operations in %d frames fit, want 15 in 5", n, frames)
	}
}

// What waits has its turn after sixteen intervals, even if pongs take all the room.
func TestOthersHaveTheirTurn(t *testing.T) {
	l := NewLimit(10, time.Second, 2) // 8 a second
	now := time.Now()
	var turnAt time.Duration
	for start := now; turnAt == 0 && now.Sub(start) < time.Minute; now = now.Add(l.interval / 2) {
		if l.Room(now, 1, true); l.IsTurnOfOthers() {
			turnAt = now.Sub(start)
		}
	}
	if least := starving * l.interval; turnAt < least || turnAt > least+4*l.interval {
		t.Errorf("the turn came after %v, want %v", turnAt, least)
	}
	if !l.TakePing(now).After(now) {
		t.Error("a ping passes what has its turn")
	}
}

// What has no room is looked at again when there is room, or when its turn comes, if pongs
// have used up the room for longer than that.
func TestNextRoomIsATurnAtTheLatest(t *testing.T) {
	l := NewLimit(10, time.Second, 2) // 8 a second
	now := time.Now()
	l.Room(now, 1000, true)
	if l.IsTurnOfOthers() {
		t.Fatal("the turn comes at once")
	}
	if at := l.NextRoom(now, 0); !at.Equal(now.Add(starving * l.interval)) {
		t.Errorf("looked at again after %v, want %v", at.Sub(now), starving*l.interval)
	}
	l = NewLimit(10, time.Second, 2)
	l.Sent(now, l.Room(now, 0, true), false)
	if at := l.NextRoom(now, 0); !at.Equal(now.Add(l.interval)) {
		t.Errorf("looked at again after %v, want %v", at.Sub(now), l.interval)
	}
}
