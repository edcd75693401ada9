package limpet

import (
	"strconv"
	"testing"
)

// A server that keeps renaming a subscription makes the client hold one name.
func TestNamesAreBounded(t *testing.T) {
	var n serverNames
	for i := range 1000 {
		n.set(7, string(rune('a'+i%26))+string(rune('0'+i/26)))
	}
	n.set(8, "other")
	if len(n.keys) != 2 || len(n.names) != 2 || n.keys[n.names[7]] != 7 || n.keys["other"] != 8 {
		t.Errorf("%d names of 2 subscriptions", len(n.keys))
	}
	mine := n.names[7]
	n.set(8, mine) // two subscriptions change their names
	n.set(7, "other")
	if n.keys[mine] != 8 || n.keys["other"] != 7 {
		t.Errorf("names are mixed up: %v", n.keys)
	}
	n.set(20000, "other") // and a later one gets the name of one that has ended
	for i := range uint64(2 * maxRecentNames) {
		n.set(10000+i, strconv.FormatUint(i, 10))
	}
	n.forgetEnded(new(routes), 20000)
	if len(n.names) > 10 || n.keys["other"] != 20000 {
		t.Errorf("%d names, other is %d", len(n.names), n.keys["other"])
	}
}

// The names of subscriptions that have ended are forgotten, the latest excepted: the
// server may still send for them.
func TestNamesOfEndedSubscriptionsAreForgotten(t *testing.T) {
	var n serverNames
	var r routes
	r.setKey(1, new(Subscription))
	for key := range uint64(50 * maxRecentNames) {
		n.set(key+1, strconv.FormatUint(key+1, 10))
		n.forgetEnded(&r, key+1)
	}
	if len(n.keys) > 3*maxRecentNames || len(n.keys) != len(n.names) || n.keys["1"] != 1 {
		t.Errorf("%d and %d names, of the live one %d", len(n.keys), len(n.names), n.keys["1"])
	}
	for key := range uint64(maxRecentNames) {
		if key += 49 * maxRecentNames; n.keys[strconv.FormatUint(key+1, 10)] != key+1 {
			t.Fatalf("%d is forgotten", key+1)
		}
	}
}
