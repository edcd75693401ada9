package traits

import (
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
