package test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
)

// timed is a dialect whose server says when to ask again, in an error that names no topic
// ("refuse") or when it ends a subscription by itself ("end").
type timed struct{ wire.Dialect }

func (d timed) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return timedCodec{c}, err
}

type timedCodec struct{ wire.Codec }

func (c timedCodec) Decode(f wire.Frame, out *wire.Events) error {
	switch string(f.Data) {
	case "refuse":
		e := out.Append(wire.EventError)
		e.Code, e.Reason, e.Retry = 429, "later", 10*time.Minute
	case "end":
		e := out.Append(wire.EventUnsubscribed)
		e.Name, e.Reason, e.Retry = "a", "later", 10*time.Minute
	default:
		return c.Codec.Decode(f, out)
	}
	return nil
}

// A time that the server names counts also where the refusal names no topic, and where
// the server ends a subscription that it has served. The state says why it waits.
func TestTimeOfARefusalWithoutATopic(t *testing.T) {
	for _, how := range []string{"refuse", "end"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Duration
				began := time.Now()
				srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
					for text := hear(); text != ""; text = hear() {
						var n note
						json.Unmarshal([]byte(text), &n)
						asked = append(asked, time.Since(began))
						if how == "end" || len(asked) > 1 {
							say(noteText(note{ID: n.ID, OK: &yes}))
						}
						if len(asked) == 1 {
							say(how)
						}
					}
				})
				c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: timed{ownDialect(t, nil)}}))
				if err != nil {
					t.Fatal(err)
				}
				s := subscribe(t, c, "a")
				time.Sleep(9 * time.Minute)
				synctest.Wait()
				want := limpet.SubPending
				if how == "end" {
					want = limpet.SubRecovering
				}
				if st := s.State(); st.Phase != want || !errors.Is(st.Err, limpet.ErrRejected) || !strings.Contains(st.Err.Error(), "later") {
					t.Errorf("%s: %v", st.Phase, st.Err)
				}
				time.Sleep(20 * time.Minute)
				closeAndWait(t, c)
				if len(asked) != 2 || asked[1] < 10*time.Minute {
					t.Errorf("asked after %v", asked)
				}
			})
		})
	}
}
