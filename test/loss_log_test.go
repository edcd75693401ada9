package test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// The log has of a loss what is known: a count of 0 would read as if nothing were missing.
func TestLossInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(_ int, say func(string), _ func() string) {
			time.Sleep(time.Second) // until both topics are subscribed to
			say("x")
			say("\x01")
			say("\x05")
		})
		var log lockedBuffer
		topic := func(f wire.Frame) raw.Label {
			if f.Data[0] < ' ' {
				return raw.Label{Topic: "numbered", Number: uint64(f.Data[0]), Numbered: true}
			}
			return raw.Label{}
		}
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{
			HTTPClient: srv.host.HTTPClient(), Dialect: raw.New(raw.Options{Topic: topic}), Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s, numbered := subscribeLive(t, c, "*", nil), subscribeLive(t, c, "numbered", nil)
		collect(t, s, 1)
		collect(t, numbered, 3)
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		collect(t, s, 2)
		synctest.Wait()
		for msg, want := range map[string]string{
			"limpet: reset": "topic=* cause=unverifiable",
			"limpet: gap":   "topic=numbered cause=lost after=1 to=4 count=3",
		} {
			if want = `msg="` + msg + `" ` + want + "\n"; !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %s:\n%s", want, log.String())
			}
		}
	})
}
