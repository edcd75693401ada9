package endpoint

import (
	"math/rand/v2"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// list returns a list of n endpoints.
func list(n int) *List {
	var urls []*url.URL
	for i := range n {
		urls = append(urls, &url.URL{Scheme: "wss", Host: strconv.Itoa(i)})
	}
	return NewList(urls)
}

// In a round each endpoint is tried once, and those that are avoided come last.
func TestRound(t *testing.T) {
	now := time.Now()
	for n := 1; n < 6; n++ {
		l := list(n)
		bad := l.all[rand.IntN(n)]
		l.Avoid(bad, now)
		for round := range 5 {
			tried := make(map[*Endpoint]bool)
			for i := range n {
				if last := i == n-1; l.HasNext(now) == last {
					t.Fatalf("%d endpoints, round %d: HasNext is %v before attempt %d", n, round, !last, i)
				}
				e := l.Next(now)
				if tried[e] || e == bad != (i == n-1) {
					t.Fatalf("%d endpoints, round %d: attempt %d goes to %s", n, round, i, e.URL.Host)
				}
				tried[e] = true
			}
			l.BeginRound()
		}
		if e := l.Next(now.Add(2 * coolDown)); n > 1 && e != l.all[0] {
			t.Errorf("%d endpoints: not the first after the time in which it is avoided", n)
		}
	}
}

// The endpoint that worked last comes first.
func TestWorkedComesFirst(t *testing.T) {
	now := time.Now()
	l := list(5)
	for range 100 {
		e := l.all[rand.IntN(5)]
		l.Avoid(e, now)
		l.Worked(e)
		l.BeginRound()
		if got := l.Next(now); got != e || l.First() != e || l.Len() != 5 {
			t.Fatal("not the one that worked")
		}
	}
}

// Five failures in a row make others come first, for 15 to 45 seconds.
func TestBreaker(t *testing.T) {
	now := time.Now()
	shortest, longest := time.Hour, time.Duration(0)
	for range 1000 {
		l := list(2)
		bad := l.Next(now)
		for n := range breakAfter {
			l.BeginRound()
			if got := l.Next(now); got != bad {
				t.Fatalf("another endpoint after %d failures", n)
			}
			l.Failed(bad, now)
		}
		l.BeginRound()
		if l.Next(now) == bad {
			t.Fatal("the same endpoint after five failures")
		}
		d := bad.avoid.Sub(now)
		shortest, longest = min(shortest, d), max(longest, d)
		l.Stable(bad)
		l.Failed(bad, now.Add(time.Hour))
		l.BeginRound()
		if l.Next(now.Add(time.Hour)) != bad {
			t.Fatal("another endpoint after one failure")
		}
	}
	if shortest < 15*time.Second || shortest > 17*time.Second || longest > 45*time.Second || longest < 43*time.Second {
		t.Errorf("avoided for %v to %v", shortest, longest)
	}
}

// An endpoint with a slot is not tried before it, unless every one has a slot: then the
// earliest counts.
func TestSlots(t *testing.T) {
	now := time.Now()
	l := list(3)
	a, b, c := l.all[0], l.all[1], l.all[2]
	l.Hold(a, now.Add(time.Minute))
	if e := l.Next(now); e != b || l.Next(now) != c || l.HasNext(now) {
		t.Error("not the ones without a slot")
	}
	if !l.Earliest().IsZero() {
		t.Errorf("the earliest slot is %v", l.Earliest())
	}
	l.Hold(b, now.Add(time.Second))
	l.Hold(c, now.Add(time.Hour))
	l.BeginRound()
	if got := l.Earliest(); !got.Equal(now.Add(time.Second)) || l.HasNext(now) || l.Next(got) != b {
		t.Errorf("the earliest slot is %v", got.Sub(now))
	}
	if l.BeginRound(); !l.HasNext(now.Add(time.Minute)) {
		t.Error("a slot that has passed counts")
	}
}

// Every endpoint must refuse for good. What works, or fails for another reason, is no
// refusal any more.
func TestRefused(t *testing.T) {
	now := time.Now()
	l := list(3)
	a, b, c := l.all[0], l.all[1], l.all[2]
	if l.Refused(a, now) || l.Refused(b, now) {
		t.Error("all, after two of three")
	}
	l.Failed(a, now)
	if l.Refused(c, now) {
		t.Error("all, although one failed for another reason")
	}
	l.Worked(b)
	if l.Refused(a, now) {
		t.Error("all, although one worked")
	}
	if l.Refused(b, now) {
		t.Error("all, although one refused before another one worked")
	}
	if !l.Refused(c, now) {
		t.Error("not all, after every one")
	}
}

// Replace keeps what is known of the endpoints that stay.
func TestReplace(t *testing.T) {
	now := time.Now()
	seen := make(map[string]bool)
	for range 30 {
		l := list(3)
		first := l.all[0]
		last := l.all[2]
		l.Hold(last, now.Add(time.Hour))
		l.Replace([]*url.URL{{Scheme: "wss", Host: "x"}, first.URL, last.URL, {Scheme: "wss", Host: "y"}})
		if l.Len() != 4 || l.all[0] != first || !last.slot.After(now) {
			t.Fatalf("%d endpoints, the first is %s", l.Len(), l.all[0].URL.Host)
		}
		seen[l.all[1].URL.Host] = true
		l.Replace([]*url.URL{{Scheme: "wss", Host: "z"}})
		if l.Len() != 1 || l.Next(now).URL.Host != "z" {
			t.Fatal("not the only one")
		}
		l.Replace([]*url.URL{first.URL})
		l.Hold(last, now.Add(2*time.Hour))
		l.Hold(last, now.Add(time.Hour))
		l.Hold(&Endpoint{URL: &url.URL{Scheme: "wss", Host: "z"}}, now.Add(3*time.Hour))
		l.Hold(&Endpoint{URL: &url.URL{Scheme: "wss", Host: "new"}}, now.Add(time.Hour))
		l.Replace([]*url.URL{{Scheme: "wss", Host: "new"}, {Scheme: "wss", Host: "z"}, last.URL})
		if l.At(last.URL) != last || !last.slot.Equal(now.Add(2*time.Hour)) || !l.Earliest().Equal(now.Add(time.Hour)) || l.Next(now.Add(2*time.Hour)).URL.Host == "z" {
			t.Fatal("the slot of one that comes back is lost")
		}
	}
	if !seen["x"] || !seen["y"] || !seen["0"] && !seen["1"] && !seen["2"] {
		t.Errorf("new ones are not at random places: %v", seen)
	}
}

// TestAnyOrder calls methods at random: an attempt always has an endpoint of the list, and
// none is tried before its slot while another can be.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 12))
		l, now := list(1+rnd.IntN(6)), time.Now()
		for step := range 300 {
			now = now.Add(time.Duration(rnd.IntN(20)) * time.Second)
			e := l.all[rnd.IntN(l.Len())]
			switch rnd.IntN(8) {
			case 0:
				l.Worked(e)
			case 1:
				l.Failed(e, now)
			case 2:
				l.Refused(e, now)
			case 3:
				l.Hold(e, now.Add(time.Duration(rnd.IntN(60))*time.Second))
			case 4:
				l.Stable(e)
			case 5:
				l.BeginRound()
			default:
				got := l.Next(now)
				free := false
				for _, other := range l.all {
					free = free || !other.slot.After(now)
				}
				if got == nil || free && got.slot.After(now) || !free && !got.slot.Equal(l.Earliest()) {
					t.Fatalf("seed %d, step %d: %+v", seed, step, got)
				}
			}
		}
	}
}

// An endless number of endpoints that come and go takes no memory.
func TestFewAreRemembered(t *testing.T) {
	l := list(1)
	for n := range maxEndpoints + 100 {
		l.Replace([]*url.URL{{Scheme: "wss", Host: strconv.Itoa(n + 1)}})
	}
	if len(l.gone) != maxEndpoints {
		t.Errorf("%d endpoints are remembered", len(l.gone))
	}
}
