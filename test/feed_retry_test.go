package test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/feed"
)

// A server that is busy says when to ask again: the subscription waits, and does not end. A
// refusal without a time is final.
func TestErrorThatNamesATime(t *testing.T) {
	for _, names := range []string{"", `"channel":"trades","symbol":"A",`} {
		for _, again := range []string{`"retry_ms":20000`, `"retry_ms":null`} {
			synctest.Test(t, func(t *testing.T) {
				table := feed.Table{
					Name: "lagoon", Type: "event", Product: "symbol",
					Subscribe: feed.Request{JSON: `{"op":"subscribe","symbols":["$product","..."]}`},
					Channels:  []feed.Channel{{Name: "trades", Types: []string{"trade"}}},
					Confirm:   feed.Confirm{Type: "subscribed", Channel: "channel", Products: "symbols"},
					Error:     feed.ErrorMessage{Type: "error", Text: "text", Channel: "channel", Product: "symbol", Retry: "retry_ms", RetryUnit: time.Millisecond},
				}
				asked := 0
				_, c := tableClient(t, table, limpet.Options{}, func(_ int, request string, say func(string)) {
					if !strings.Contains(request, "subscribe") {
						return
					}
					if asked++; asked == 1 {
						say(`{"event":"error",` + names + again + `,"text":"not now"}`)
						return
					}
					say(`{"event":"subscribed","channel":"trades","symbols":["A"]}`)
				})
				began := time.Now()
				s, err := c.Subscribe(t.Context(), "trades/A", nil)
				assert.NoError(t, err)
				err = s.WaitLive(within(t, 5*time.Minute))
				took := time.Since(began)
				switch timed := !strings.Contains(again, "null"); {
				case timed && (err != nil || took < 20*time.Second || took > 41*time.Second):
					t.Errorf("%s %s: after %v: %v", names, again, took, err)
				case !timed && names != "" && (err == nil || took > time.Second):
					t.Errorf("%s %s: after %v: %v", names, again, took, err)
				case !timed && names == "" && (err != nil || took > 5*time.Second):
					t.Errorf("%s %s: after %v: %v", names, again, took, err)
				}
			})
		}
	}
}

// A login that is refused with a time is tried again then, with the credential at hand.
func TestLoginThatNamesATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := login()
		table.Error.Retry = "retry"
		refused, refreshes := 0, 0
		auth := func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			if info.Refresh {
				refreshes++
			}
			return limpet.Credential{Token: "key"}, nil
		}
		_, c := tableClient(t, table, limpet.Options{Auth: auth}, func(_ int, request string, say func(string)) {
			switch {
			case request == "":
				say(`{"event":"challenge","nonce":"n"}`)
			case refused < 3:
				refused++
				say(`{"event":"error","text":"too many logins","retry":30}`)
			default:
				say(`{"event":"welcome"}`)
			}
		})
		began := time.Now()
		assert.NoError(t, c.WaitReady(within(t, time.Hour)))
		if took := time.Since(began); took < 90*time.Second || took > 5*time.Minute || refreshes > 0 {
			t.Errorf("ready after %v, %d refreshes", took, refreshes)
		}
	})
}
