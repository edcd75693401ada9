package test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// durableLog is a log that outlives its servers under one epoch, and that a backup can set
// back.
type durableLog struct {
	*server.MemoryLog
	base []byte
}

func (l durableLog) View() server.View {
	v := l.MemoryLog.View()
	v.Epoch, v.Base, v.NoRewind = "one", l.base, false
	return v
}

// filled returns a log of the messages in texts.
func filled(t *testing.T, keep server.Retention, base []byte, texts ...string) durableLog {
	l := durableLog{server.NewMemoryLog(keep), base}
	for _, text := range texts {
		if _, err := l.Append(t.Context(), server.Entry{ID: wire.ID(uuid.NewSHA1(uuid.NameSpaceOID, []byte(text))), Topic: "a", Payload: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// A server that comes back with an older state of its log, under the same epoch, resets the
// subscription, however far the log has grown in the meantime. Nothing that is in it is
// missing after the Reset.
func TestRestartWithAnOlderLog(t *testing.T) {
	old := numbers(1, 10)
	for name, tc := range map[string]struct {
		keep   server.Retention
		quiet  bool     // nothing is held when the subscription begins
		kept   []string // what the older state has
		added  []string // what it has got since
		noBase bool     // the logs say nothing of positions at which nothing is held
	}{
		"nothing since":             {kept: old[:6]},
		"less since":                {kept: old[:6], added: []string{"n1"}},
		"as much since":             {kept: old[:6], added: []string{"n1", "n2", "n3", "n4"}},
		"more since":                {kept: old[:6], added: []string{"n1", "n2", "n3", "n4", "n5"}},
		"empty":                     {},
		"empty, more since":         {added: numbers(11, 22)},
		"nothing held, more since":  {keep: server.Retention{Age: time.Minute}, quiet: true, kept: old[:8], added: []string{"n1", "n2", "n3", "n4"}},
		"no base, nothing held":     {keep: server.Retention{Age: time.Minute}, quiet: true, kept: old[:8], added: []string{"n1", "n2", "n3", "n4"}, noBase: true},
		"no base, nothing received": {quiet: true, kept: old[:8], added: []string{"n1", "n2", "n3", "n4"}, noBase: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := func(s string) []byte {
					if tc.noBase {
						return nil
					}
					return []byte(s)
				}
				log := filled(t, tc.keep, base("first"), old...)
				srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Log: log}})
				c := dial(t, srv, nil)
				from := limpet.FromFirst
				if tc.quiet {
					time.Sleep(2 * time.Minute)
					from = limpet.FromNew
				}
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{From: from})
				if !tc.quiet {
					collect(t, s, len(old))
				}
				srv.Reboot(filled(t, server.Retention{}, base("second"), slices.Concat(tc.kept, tc.added)...))
				want := append([]string{"reset"}, slices.Concat(tc.kept, tc.added, []string{"last"})...)
				if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Generation == 2 && s.Phase == limpet.Ready }); err != nil {
					t.Fatal(err)
				}
				publish(t, srv, "a", "last")
				var got []string
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for m := range s.Messages(ctx) {
					switch {
					case m.Kind == limpet.Reset:
						got = append(got, "reset")
					case m.Kind == limpet.Data:
						got = append(got, string(m.Payload))
					default:
						got = append(got, fmt.Sprint(m.Kind))
					}
					if string(m.Payload) == "last" {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}
