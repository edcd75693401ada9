package test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

// A server that lost its state may begin with the very number of the last message. The tag
// shows whether it is that message again.
func TestNumberOfTheLastMessageWithAnotherTag(t *testing.T) {
	for _, same := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
				hear() // open
				hear()
				say(eventText(wire.Event{Kind: wire.EventSubscribed, Name: "one", Continuity: wire.ContinuityByNumber}))
				tag := "a"
				if !same {
					tag = fmt.Sprint("a", conn)
				}
				for n := 7; n < 7+conn; n++ {
					say(eventText(wire.Event{Kind: wire.EventData, Name: "one", Numbered: true, Position: wire.Position{Offset: uint64(n), Tag: tag},
						Message: wire.Message{Payload: fmt.Appendf(nil, "%d %d", conn, n)}}))
				}
				for hear() != "" {
				}
			})
			d := flexDialect{traits: wire.Traits{Confirms: true}}
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			s, err := c.Subscribe(t.Context(), "one", nil)
			assert.NoError(t, err)
			if got := payloads(collect(t, s, 1)); got != "1 7" {
				t.Fatalf("got %s", got)
			}
			srv.host.Network.CutAll()
			if same {
				if got := payloads(collect(t, s, 1)); got != "2 8" || s.Stats().Duplicates != 1 {
					t.Errorf("got %s, %+v", got, s.Stats())
				}
				return
			}
			ms := collect(t, s, 3)
			if m := ms[0]; m.Kind != limpet.Reset || m.Loss.Cause != wire.CauseDiverged || payloads(ms[1:]) != "2 7 2 8" || s.Stats().Duplicates != 0 {
				t.Errorf("%v %+v, then %s", m.Kind, m.Loss, payloads(ms[1:]))
			}
		})
	}
}
