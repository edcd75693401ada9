package socketio

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// A refusal for a moment is a notice and a step that waits, once on a connection, and not
// when the server has sent what it kept of the session: it would send that again.
func TestAdvice(t *testing.T) {
	const (
		busy  = `44{"message":"busy","data":{"wait":%d}}`
		fatal = `error 443 "busy" fatal true retry %s`
	)
	waits := func(text string) string {
		return `error 0 "busy" fatal false retry 0s` + "\nstep socketio.stepAgain{} after " + text
	}
	o := Options{Refused: advice}
	for _, row := range []struct {
		name, want string
		resume     wire.Resume
		frames     []string
	}{
		{"a moment", waits("5s"), wire.Resume{}, []string{opened, fmt.Sprintf(busy, 5000)}},
		{"longer", fmt.Sprintf(fatal, "5.001s"), wire.Resume{}, []string{opened, fmt.Sprintf(busy, 5001)}},
		{"no time", fmt.Sprintf(fatal, "0s"), wire.Resume{}, []string{opened, fmt.Sprintf(busy, 0)}},
		{"twice", fmt.Sprintf(fatal, "1s"), wire.Resume{}, []string{opened, fmt.Sprintf(busy, 1000), fmt.Sprintf(busy, 1000)}},
		{"a session", waits("1s"), before(), []string{opened, fmt.Sprintf(busy, 1000)}},
		{"a session that was sent", fmt.Sprintf(fatal, "1s"), before(), []string{opened, `42["a",4,"o4"]`, fmt.Sprintf(busy, 1000)}},
	} {
		if got := decode(t, open(t, o, row.resume), row.frames...); got != row.want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.name, got, row.want)
		}
	}
	c := open(t, o, wire.Resume{Token: "secret"})
	if err := c.Start(new(wire.Frames)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []any{stepConnect{}, stepAgain{}} {
		var out wire.Frames
		if err := c.Encode([]wire.Op{{Kind: wire.OpStep, Step: step}}, &out); err != nil || string(out.List[0].Data) != `40{"token":"secret"}` {
			t.Errorf("%T: %v, %q", step, err, out.List[0].Data)
		}
	}
	if left := string(c.(*codec).encoder.auth); strings.Contains(left, "secret") {
		t.Errorf("the token is kept: %s", left)
	}
}
