package traits

import (
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// A peer lowers the traits of a connection and raises none.
func TestAgreedTraits(t *testing.T) {
	all := wire.Traits{Unsubscribe: true, Credit: true, Fin: true, Acks: true, Processed: wire.ProcessedEach}
	if got := Agreed(&all, &wire.Traits{}); *got != (wire.Traits{}) {
		t.Errorf("a peer that lacks everything: %+v", *got)
	}
	if got := Agreed(&wire.Traits{}, &all); *got != (wire.Traits{}) {
		t.Errorf("a dialect that lacks everything: %+v", *got)
	}
	if got := Agreed(&all, nil); *got != all {
		t.Errorf("a peer that lacks nothing: %+v", *got)
	}
}

// What the server learns from one of several subscriptions, or goes on from, cannot be shared.
func TestSharing(t *testing.T) {
	for name, tc := range map[string]struct {
		traits wire.Traits
		says   string
	}{
		"nothing":    {wire.Traits{}, ""},
		"a feed":     {wire.Traits{Unsubscribe: true, Confirms: true, ConfirmsEnd: true, Greeting: true, Publish: true, Acks: true, LookBack: 50, DedupWindow: 9, StartSubs: 9}, ""},
		"each":       {wire.Traits{Processed: wire.ProcessedEach}, "acknowledgements"},
		"cumulative": {wire.Traits{Processed: wire.ProcessedCumulative}, "acknowledgements"},
		"credit":     {wire.Traits{Credit: true}, "room"},
		"kept":       {wire.Traits{KeepsSubs: true}, "goes on"},
		"resumed":    {wire.Traits{Resume: true}, "goes on"},
		"strict":     {wire.Traits{Holes: wire.HolesFault}, "promises"},
	} {
		if why := Sharing(&tc.traits); (why == "") != (tc.says == "") || !strings.Contains(why, tc.says) {
			t.Errorf("%s: %q", name, why)
		}
	}
}
