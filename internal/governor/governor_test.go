package governor

import (
	"net/http"
	"testing"
	"time"
)

// turns returns when n turns are that are asked for at once.
func turns(g *Governor, name string, now time.Time, n int) (waits []time.Duration) {
	for range n {
		waits = append(waits, g.Wait(name, g.Reserve(name, Window{}, now), now))
	}
	return waits
}

// A host without a limit gets one when it is overloaded, and loses it in time.
func TestOverload(t *testing.T) {
	g, now := New(0, 1), time.Now()
	if waits := turns(g, "a", now, 1000); waits[999] != 0 {
		t.Errorf("a wait of %v without a limit", waits[999])
	}
	rate := func() float64 { // from the turns of a host of which nothing is reserved
		if waits := turns(g, "a", now, 2); waits[1] > waits[0] {
			return (time.Second.Seconds() / (waits[1] - waits[0]).Seconds())
		}
		return 0
	}
	check := func(after time.Duration, want float64) {
		t.Helper()
		now = now.Add(after)
		if got := rate(); got < want*0.99 || got > want*1.01 {
			t.Errorf("%v turns a second, want %v", got, want)
		}
	}
	g.Overloaded("a", now)
	check(0, 20)
	g.Overloaded("a", now)
	check(500*time.Millisecond, 20) // at most once a second
	for _, want := range []float64{10, 5, 2.5, 1.25, 1, 1, 1} {
		now = now.Add(time.Second)
		g.Overloaded("a", now)
		check(0, want)
	}
	if wait := g.Wait("b", g.Reserve("b", Window{}, now), now); wait != 0 {
		t.Errorf("another host waits %v", wait)
	}
	check(30*time.Second, 2)
	check(30*time.Second, 4)
	check(90*time.Second, 32) // doubled three times, and the last was above 20
	check(30*time.Second, 0)

	g.Overloaded("a", now)
	g.Accepted("a", now)
	check(time.Second, 20)
	now = now.Add(time.Second)
	g.Accepted("a", now) // nothing was refused for a second, and nothing waits
	check(0, 0)
}

// Turns that were given come earlier when the rate rises, and later when it falls, in their
// order.
func TestTurnsFollowTheRate(t *testing.T) {
	g, now := New(0, 1), time.Now()
	g.Overloaded("a", now)
	var queue []Turn
	for range 201 {
		queue = append(queue, g.Reserve("a", Window{}, now))
	}
	wait := func(i int) time.Duration { return g.Wait("a", queue[i], now).Round(time.Millisecond) }
	now = now.Add(time.Second) // twenty are due
	if wait(19) != 0 || wait(20) != 50*time.Millisecond || wait(199) != 9*time.Second {
		t.Errorf("waits of %v, %v and %v", wait(19), wait(20), wait(199))
	}
	g.Overloaded("a", now)
	if wait(19) != 0 || wait(20) != 100*time.Millisecond || wait(199) != 18*time.Second {
		t.Errorf("waits of %v, %v and %v at half the rate", wait(19), wait(20), wait(199))
	}
	now = now.Add(time.Second)
	g.Accepted("a", now)
	if wait(29) != 0 || wait(30) != 50*time.Millisecond || wait(199) != 8500*time.Millisecond {
		t.Errorf("waits of %v, %v and %v at the whole rate", wait(29), wait(30), wait(199))
	}
	now = now.Add(time.Second)
	g.Accepted("a", now) // there is a limit while some wait
	if wait(49) != 0 || wait(50) != 25*time.Millisecond || wait(199) != 3750*time.Millisecond {
		t.Errorf("waits of %v, %v and %v at twice the rate", wait(49), wait(50), wait(199))
	}
	now = now.Add(4 * time.Second)
	g.Accepted("a", now)
	if len(g.hosts) > 0 {
		t.Error("a limit is left although nothing waits")
	}
}

// A governor with a rate has a burst, and its rate comes back after an overload.
func TestRate(t *testing.T) {
	g, now := New(4, 3), time.Now()
	waits := turns(g, "a", now, 5)
	if waits[2] != 0 || waits[3] != 250*time.Millisecond || waits[4] != 500*time.Millisecond {
		t.Errorf("turns after %v", waits)
	}
	now = now.Add(time.Minute)
	g.Overloaded("a", now)
	if waits := turns(g, "a", now, 2); waits[1]-waits[0] != 500*time.Millisecond {
		t.Errorf("turns after %v", waits)
	}
	now = now.Add(2 * time.Minute)
	if waits := turns(g, "a", now, 4); waits[2] != 0 || waits[3] != 250*time.Millisecond {
		t.Errorf("turns after %v", waits)
	}
}

// A clock that goes back, as between tests in virtual time, makes a host a new one.
func TestClockGoesBack(t *testing.T) {
	g, now := New(0, 1), time.Now()
	g.Overloaded("a", now)
	turns(g, "a", now, 1000)
	if wait := turns(g, "a", now.Add(-time.Hour), 1)[0]; wait != 0 {
		t.Errorf("a wait of %v", wait)
	}
}

// A client whose round began a little before that of another one changes nothing.
func TestClocksOfTwoClients(t *testing.T) {
	g, now := New(0, 1), time.Now()
	w := Window{1, time.Minute}
	g.Overloaded("a", now)
	turns(g, "a", now, 100)
	g.Take("b", w, now)
	earlier := now.Add(-time.Millisecond)
	if wait := turns(g, "a", earlier, 1)[0]; wait < 4*time.Second {
		t.Errorf("a wait of %v behind a hundred clients", wait)
	}
	if wait := g.Take("b", Window{}, earlier); wait < time.Minute {
		t.Errorf("a wait of %v at a host with a window", wait)
	}
}

// Many hosts do not fill the memory.
func TestHostsAreForgotten(t *testing.T) {
	g, now := New(1, 1), time.Now()
	for i := range 10_000 {
		now = now.Add(time.Second)
		g.Reserve(string(rune('a'+i%26))+time.Duration(i).String(), Window{}, now)
	}
	if n := len(g.hosts); n > maxHosts {
		t.Errorf("%d hosts", n)
	}
}

// Users of one key share a governor as long as one of them lives.
func TestShare(t *testing.T) {
	a, releaseA := Share("x")
	b, releaseB := Share("x")
	other, releaseOther := Share("y")
	if a != b || a == other {
		t.Error("shared by the wrong users")
	}
	releaseA()
	releaseA()
	if c, release := Share("x"); c != b {
		t.Error("a new governor while a user lives")
	} else {
		release()
	}
	releaseB()
	releaseOther()
	if len(shared.governors) > 0 {
		t.Errorf("%d governors are left", len(shared.governors))
	}
}

// valueTransport is no pointer, and not comparable.
type valueTransport struct {
	http.RoundTripper
	_ []int
}

// Clients with one transport share a governor, and so do those without one.
func TestOf(t *testing.T) {
	of := func(client *http.Client) *Governor {
		g, release := Of(client)
		t.Cleanup(release)
		return g
	}
	transport, other := new(http.Transport), new(http.Transport)
	a := of(&http.Client{Transport: transport})
	if b := of(&http.Client{Transport: transport}); a != b {
		t.Error("one transport has two governors")
	}
	if c := of(&http.Client{Transport: other}); a == c {
		t.Error("two transports have one governor")
	}
	if of(nil) != of(new(http.Client)) || of(nil) == a {
		t.Error("clients without a transport do not share a governor of their own")
	}
	value := &http.Client{Transport: valueTransport{}}
	if first, second := of(value), of(value); first == second {
		t.Error("transports that cannot be compared have one governor")
	}
}
