package native

import (
	"reflect"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// One auth may say both that the credential was taken and that another one is wanted.
func TestAuthSaysTwoThings(t *testing.T) {
	for _, enc := range encodings {
		got, err := receive(t, welcomed(t, enc), enc, Frame{Type: TypeAuth, Auth: &Auth{Exp: 90, Need: 60}})
		want := []wire.Event{{Kind: wire.EventAuth, Expires: 90 * time.Millisecond}, {Kind: wire.EventAuth, Expires: 60 * time.Millisecond, Wanted: true}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("encoding %d: %v\n got %+v\nwant %+v", enc, err, got, want)
		}
	}
}
