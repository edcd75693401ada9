package names

import (
	"strconv"
	"strings"
	"testing"
)

// A server that keeps renaming a subscription makes the client hold one name.
func TestNamesAreBounded(t *testing.T) {
	var n Table
	for i := range 1000 {
		n.Set(7, string(rune('a'+i%26))+string(rune('0'+i/26)))
	}
	n.Set(8, "other")
	if len(n.keys) != 2 || len(n.names) != 2 || n.Key(n.names[7]) != 7 || n.Key("other") != 8 {
		t.Errorf("%d names of 2 subscriptions", len(n.keys))
	}
	mine := n.names[7]
	n.Set(8, mine) // two subscriptions change their names
	n.Set(7, "other")
	if n.Key(mine) != 8 || n.Key("other") != 7 {
		t.Errorf("names are mixed up: %v", n.keys)
	}
	n.Set(20000, "other") // and a later one gets the name of one that has ended
	for i := range uint64(2 * maxRecent) {
		n.Set(10000+i, strconv.FormatUint(i, 10))
	}
	n.ForgetEnded(20000, func(uint64) bool { return false })
	if len(n.names) > 10 || n.Key("other") != 20000 {
		t.Errorf("%d names, other is %d", len(n.names), n.Key("other"))
	}
}

// The names of subscriptions that have ended are forgotten, the latest excepted: the
// server may still send for them.
func TestNamesOfEndedSubscriptionsAreForgotten(t *testing.T) {
	var n Table
	for key := range uint64(50 * maxRecent) {
		n.Set(key+1, strconv.FormatUint(key+1, 10))
		n.ForgetEnded(key+1, func(key uint64) bool { return key == 1 })
	}
	if len(n.keys) > 3*maxRecent || len(n.keys) != len(n.names) || n.Key("1") != 1 {
		t.Errorf("%d and %d names, of the live one %d", len(n.keys), len(n.names), n.Key("1"))
	}
	for key := range uint64(maxRecent) {
		if key += 49 * maxRecent; n.Key(strconv.FormatUint(key+1, 10)) != key+1 {
			t.Fatalf("%d is forgotten", key+1)
		}
	}
}

// A lookup is made for each message.
func TestKeyCostsNoMemory(t *testing.T) {
	var empty, n Table
	n.Set(7, "name")
	if allocs := testing.AllocsPerRun(100, func() { _ = empty.Key("name") + n.Key("name") + n.Key("other") }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if empty.Key("name") != 0 || n.Key("other") != 0 {
		t.Error("a name that was never set has a key")
	}
}

// A name that was added twice is held until both have become too old.
func TestRecentNames(t *testing.T) {
	var r Recent
	if r.Has("a") {
		t.Error("an empty Recent has a name")
	}
	r.Add("a")
	r.Add("b")
	r.Add("a")
	for i := range maxRecent - 1 {
		r.Add(strconv.Itoa(i))
	}
	if !r.Has("a") || r.Has("b") || !r.Has("0") {
		t.Errorf("a %v, b %v, 0 %v", r.Has("a"), r.Has("b"), r.Has("0"))
	}
	r.Add("last")
	if r.Has("a") || !r.Has("0") || !r.Has("last") {
		t.Errorf("a %v, 0 %v, last %v", r.Has("a"), r.Has("0"), r.Has("last"))
	}
	for i := range 10 * maxRecent {
		r.Add(strconv.Itoa(i))
	}
	if len(r.order) != maxRecent || len(r.count) != maxRecent {
		t.Errorf("%d names, %d of them different", len(r.order), len(r.count))
	}
}

// Each text is reported once, and so are two texts that begin alike for long. What is
// held is bounded.
func TestReportedOnce(t *testing.T) {
	var r Reported
	long := strings.Repeat("x", maxReportedText)
	for _, text := range []string{"a", "", long[1:], long} {
		if !r.First(text) || r.First(text) {
			t.Errorf("%.10q is not reported once", text)
		}
	}
	if r.First(long + "y") {
		t.Error("a text that differs behind the bound is reported")
	}
	reports := 0
	for i := range 100 {
		if full := r.Full(); r.First(strconv.Itoa(i)) {
			reports++
			if full {
				t.Error("a text is reported though the list is full")
			}
		}
	}
	if reports != maxReported-4 || !r.Full() {
		t.Errorf("%d reports more, full: %v", reports, r.Full())
	}
}
