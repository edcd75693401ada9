package test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/native"
)

// A server moves its clients to another URL: only to a host that the user has listed, and for
// one connection.
func TestGoAwayNamesAURL(t *testing.T) {
	for name, tc := range map[string]struct {
		url    string
		listed []string
		want   []string // the requests
		says   string   // why the URL is not followed
	}{
		"listed":      {"ws://b.test/x?node=7", []string{"b.test"}, []string{"a.test/v1", "b.test/x?node=7", "a.test/v1"}, ""},
		"relative":    {"/v2", []string{"b.test"}, []string{"a.test/v1", "a.test/v2", "a.test/v1"}, ""},
		"not listed":  {"ws://c.test/x?secret=canary", []string{"b.test"}, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, `"c.test"`},
		"none listed": {"ws://b.test/x?secret=canary", nil, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, `"b.test"`},
		"user":        {"ws://me:canary@b.test/x", []string{"b.test"}, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, "user information"},
		"no URL":      {"http://%zz/canary", []string{"b.test"}, []string{"a.test/v1", "a.test/v1", "a.test/v1"}, "no URL"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				script := &scriptedServer{t: t, talk: func(p *scriptedConn) {
					p.sendFrames(p.welcome())
					if p.number == 1 {
						p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4301, URL: tc.url}})
					}
				}}
				for _, addr := range []string{"a.test:80", "b.test:80", "c.test:80"} {
					s.host(t, addr, script.serve)
				}
				var mu sync.Mutex
				var failed []limpet.RotationFailed
				c, err := limpet.Dial(withinAnHour(t), "ws://a.test/v1", options(&limpet.Options{
					HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: tc.listed}, Heartbeat: rareHeartbeats,
					Observer: observer(func(e limpet.Event) {
						if f, ok := e.(limpet.RotationFailed); ok {
							mu.Lock()
							failed = append(failed, f)
							mu.Unlock()
						}
					}),
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				at := func(generation uint64) limpet.State {
					st, err := c.WaitState(withinAnHour(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == generation })
					assert.NoError(t, err)
					return st
				}
				if st := at(2); !strings.HasPrefix(tc.want[1], st.Host+"/") || c.Stats().Outages != 0 {
					t.Errorf("%+v after %d outages, want the host of %s", st, c.Stats().Outages, tc.want[1])
				}
				s.network.CutAll()
				at(3)
				if got := s.requests(); !slices.Equal(got, tc.want) {
					t.Errorf("requests %q, want %q", got, tc.want)
				}
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				switch {
				case tc.says == "" && len(failed) == 0:
				case tc.says == "" || len(failed) != 1:
					t.Errorf("%d times no connection: %v", len(failed), failed)
				default:
					text := failed[0].Cause.Error()
					if !errors.Is(failed[0].Cause, limpet.ErrRedirect) || failed[0].Cause.Field != "Options.Redirects" ||
						!strings.Contains(text, tc.says) || strings.Contains(text, "canary") {
						t.Errorf("%v", failed[0].Cause)
					}
				}
			})
		})
	}
}

// The deadline of a goaway bounds the time in which clients leave: none is cut off.
func TestGoAwayDeadlineBoundsTheSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			var asked, came time.Time
			s := newScriptedServer(t, func(p *scriptedConn) {
				p.sendFrames(p.welcome())
				if p.number > 1 {
					came = time.Now()
					return
				}
				asked = time.Now()
				p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, After: 2_000, Spread: 300_000, DL: 10_000}})
				time.Sleep(10 * time.Second)
				p.ws.CloseNow()
			})
			c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
			_, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
			assert.NoError(t, err)
			synctest.Wait()
			if left := came.Sub(asked); left < 2*time.Second || left > 8*time.Second || c.Stats().Outages != 0 {
				t.Errorf("left %v after the goaway, %d outages; want 2 s to 7.5 s and none", left, c.Stats().Outages)
			}
		}
	})
}
