package verdict

import (
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
)

// weighed is what y makes of failures that are a time apart each.
func (y *Finality) weighed(n int, apart time.Duration, f *wire.Failure, keepTrying bool) (d Decision) {
	now := time.Time{}.Add(time.Hour)
	for range n {
		d = ByTable(f)
		y.Weigh(&d, now, false, keepTrying)
		now = now.Add(apart)
	}
	return d
}

var (
	refused   = &wire.Failure{Stage: wire.StageUpgrade, Status: 403}
	violation = &wire.Failure{Stage: wire.StageHandshake, Code: 1002}
	forGood   = &wire.Failure{Stage: wire.StageOpen, Code: 1003}
	unusual   = &wire.Failure{Stage: wire.StageHandshake, CloseCode: 999, Err: &frame.CloseCodeError{Code: 999}}
	lost      = &wire.Failure{Stage: wire.StageOpen}
)

// What ends a client, before and after its first Ready: docs/ending.md.
func TestFinality(t *testing.T) {
	const minutes = 3 * time.Minute
	for _, tc := range []struct {
		name       string
		ready      bool
		n          int
		apart      time.Duration
		f          *wire.Failure
		keepTrying bool
		want       wire.Action
		atCap      bool
	}{
		{"a refusal before Ready", false, 1, 0, refused, false, wire.ActionStop, false},
		{"and KeepTrying", false, 1, 0, refused, true, wire.ActionBackOff, true},
		{"a refusal after Ready", true, 1, 0, refused, false, wire.ActionBackOff, false},
		{"five within seconds", true, 5, time.Second, refused, false, wire.ActionBackOff, false},
		{"four over nine minutes", true, 4, minutes, refused, false, wire.ActionBackOff, false},
		{"five over twelve minutes", true, 5, minutes, refused, false, wire.ActionStop, false},
		{"and KeepTrying", true, 5, minutes, refused, true, wire.ActionBackOff, true},
		{"two violations before Ready", false, 2, 0, violation, false, wire.ActionBackOff, false},
		{"three violations before Ready", false, 3, 0, violation, false, wire.ActionStop, false},
		{"a close code that no peer may send, before Ready", false, 9, minutes, unusual, false, wire.ActionBackOff, false},
		{"three violations after Ready", true, 3, 0, violation, false, wire.ActionBackOff, false},
		{"five violations over twelve minutes", true, 5, minutes, violation, false, wire.ActionStop, false},
		{"what no proxy can cause", true, 1, 0, forGood, false, wire.ActionStop, false},
		{"lost connections", true, 9, minutes, lost, false, wire.ActionBackOff, false},
	} {
		var y Finality
		if tc.ready {
			y.Ready(true)
		}
		if d := y.weighed(tc.n, tc.apart, tc.f, tc.keepTrying); d.Action != tc.want || d.AtCap != tc.atCap {
			t.Errorf("%s: %v, at the cap %v; want %v, %v", tc.name, d.Action, d.AtCap, tc.want, tc.atCap)
		}
	}
}

// What starts the count again.
func TestFinalityStartsAgain(t *testing.T) {
	for _, tc := range []struct {
		name    string
		between func(y *Finality)
		again   bool
	}{
		{"nothing", func(*Finality) {}, false},
		{"a Ready without a greeting", func(y *Finality) { y.Ready(false) }, false},
		{"a Ready with a greeting", func(y *Finality) { y.Ready(true) }, true},
		{"a connection that lasted", func(y *Finality) { y.Lasted() }, true},
		{"a message", func(y *Finality) { y.Progressed() }, true},
		{"a lost connection", func(y *Finality) { y.weighed(1, 0, lost, false) }, true},
		{"a failure that the dialect decides", func(y *Finality) { y.Weigh(&Decision{}, time.Time{}, false, false) }, true},
	} {
		var y Finality
		y.Ready(true)
		y.weighed(4, 0, refused, false)
		tc.between(&y)
		y.since = time.Time{}
		if d := y.weighed(1, 0, refused, false); (d.Action == wire.ActionBackOff) != tc.again {
			t.Errorf("%s: %v", tc.name, d.Action)
		}
	}
}

// A refused credential is final where Auth cannot be asked for another one.
func TestRefusedCredential(t *testing.T) {
	for _, can := range []bool{true, false} {
		d := ByTable(&wire.Failure{Stage: wire.StageUpgrade, Status: 401})
		new(Finality).Weigh(&d, time.Time{}, can, false)
		if want := map[bool]wire.Action{true: wire.ActionRefresh, false: wire.ActionStop}[can]; d.Action != want || d.Class != classAuth {
			t.Errorf("can refresh %v: %v, class %q; want %v", can, d.Action, d.Class, want)
		}
	}
}
