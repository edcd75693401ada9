package endpoint

import (
	"io"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// What a failure says about a path: the next attempt announces nothing if an HTTP server had the
// request, and after three that may have failed for it no attempt does.
func TestEarly(t *testing.T) {
	status := func(n int) wire.Failure { return wire.Failure{Stage: wire.StageUpgrade, Status: n} }
	for _, tc := range []struct {
		name           string
		f              wire.Failure
		pauses, doubts bool
	}{
		{"not connected", wire.Failure{Err: syscall.ECONNREFUSED}, false, false},
		{"connected, and no answer", wire.Failure{Err: &socket.AnswerError{Err: io.EOF}}, true, true},
		{"lost in the handshake", wire.Failure{Stage: wire.StageHandshake, Err: io.EOF}, true, true},
		{"400", status(400), true, true},
		{"403", status(403), true, true},
		{"431", status(431), true, true},
		{"401", status(401), true, false},
		{"429", status(429), true, false},
		{"503", status(503), true, false},
		{"302", status(302), true, false},
	} {
		var e Early
		for range maxDoubts - 1 {
			e.Failed(&tc.f)
			if e.May() == tc.pauses {
				t.Errorf("%s: the next attempt may announce: %v", tc.name, e.May())
			}
			if e.Ready(false); !e.May() {
				t.Errorf("%s: none may, after a connection", tc.name)
			}
		}
		again := e
		again.Ready(true)
		for _, e := range []*Early{&e, &again} {
			e.Failed(&tc.f)
			e.Ready(false)
		}
		if e.May() == tc.doubts {
			t.Errorf("%s: three in a row, and the next may announce: %v", tc.name, e.May())
		}
		if !again.May() {
			t.Errorf("%s: none may, although one in between was ready", tc.name)
		}
	}
}
