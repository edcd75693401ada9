package test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// What follows is about rotation, renewed credentials, redirects and the fallback where they
// meet: docs/reconnect.md, section 8.

var askToLeave = native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300}}

// slowAuth takes the given time for the nth call, or gives up with its context.
func slowAuth(times map[int]time.Duration) func(context.Context, int, limpet.AttemptInfo) (limpet.Credential, error) {
	return func(ctx context.Context, n int, _ limpet.AttemptInfo) (limpet.Credential, error) {
		select {
		case <-ctx.Done():
			return limpet.Credential{}, ctx.Err()
		case <-time.After(times[n]):
		}
		return limpet.Credential{}, nil
	}
}

// observeAll notes credentials, and attempts to replace the connection that fail.
func (i *issuer) observeAll(e limpet.Event) {
	i.observe(e)
	if f, ok := e.(limpet.RotationFailed); ok {
		i.note("no next connection: %v", f.Cause)
	}
}

// sortedNotes makes notes of the same moment comparable.
func sortedNotes(notes string) string {
	all := strings.Split(notes, "; ")
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// An attempt to make the next connection and a refresh on the open one both ask Auth. One waits
// for the other: neither fails.
func TestRotationAndRefreshShareAuth(t *testing.T) {
	need := authFrame(native.Auth{Need: 60_000})
	for name, tc := range map[string]struct {
		first, second native.Frame
		want          string
	}{
		"refresh first": {need, askToLeave, "10s connected refresh; 13s auth 1 with token-2; 13s refreshed for 1h0m0s; 13s attempt; 16s hello 2 with token-3; 16s close 1000 of 1"},
		"attempt first": {askToLeave, need, "10s attempt; 13s connected refresh; 13s hello 2 with token-2; 13s close 1000 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				i.answer = slowAuth(map[int]time.Duration{2: 3 * time.Second, 3: 3 * time.Second})
				s := newAuthScript(t, i, 0, accepts(3_600_000))
				c := s.client(t, limpet.Options{Observer: observer(i.observeAll)})
				time.Sleep(10 * time.Second)
				i.noted()
				p := s.current()
				p.sendFrames(tc.first)
				time.Sleep(time.Second)
				p.sendFrames(tc.second)
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := sortedNotes(i.noted()); got != sortedNotes(tc.want) || c.State().Generation != 2 {
					t.Errorf("%s\nwant %s", got, sortedNotes(tc.want))
				}
			})
		})
	}
}

// A connection that is refused for its credential while the next one is on its way: that one has
// a credential from before the refusal, so a refusal of it is not the second one.
func TestCredentialRefusedDuringRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = slowAuth(map[int]time.Duration{2: 2 * time.Second})
		s := newScriptedServer(t, func(p *scriptedConn) {
			i.note("hello %d with %s", p.number, strings.TrimPrefix(p.hello.Tok, "canary-"))
			switch p.number {
			case 1:
				p.sendFrames(p.welcome(), askToLeave)
				time.Sleep(time.Second)
				p.ws.Close(native.CloseAuthInvalid, "expired")
			case 2:
				p.ws.Close(native.CloseAuthInvalid, "expired")
			default:
				p.sendFrames(p.welcome())
			}
		})
		c, err := limpet.New(s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient(), Auth: i.auth, Heartbeat: rareHeartbeats}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(30 * time.Second)
		want := "0s attempt; 0s hello 1 with token-1; 100ms attempt; 2.1s hello 2 with token-2; 2.1s attempt refresh; 2.1s hello 3 with token-3"
		if got := i.noted(); got != want || c.State().Phase != limpet.Ready {
			t.Errorf("%s\n%+v", got, c.State())
		}
	})
}

// A probe that fails during an attempt makes nothing hurry but that attempt: a later loss has the
// usual wait.
func TestProbeFailsDuringRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = slowAuth(map[int]time.Duration{2: 9 * time.Second})
		second := make(chan *scriptedConn, 1)
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			switch p.number {
			case 1:
				p.sendFrames(askToLeave)
				time.Sleep(time.Minute) // it reads nothing
			case 2:
				second <- p
			}
		})
		c, err := limpet.New(s.host.URL(), options(&limpet.Options{
			HTTPClient: s.host.HTTPClient(), Auth: i.auth, Heartbeat: rareHeartbeats,
			Backoff: limpet.Backoff{First: time.Hour, Initial: time.Hour, Max: time.Hour},
		}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(time.Second)
		c.ReconnectNow()
		time.Sleep(4 * time.Second)
		if st := c.State(); st.Phase != limpet.Connecting || !errors.Is(st.Cause, limpet.ErrHeartbeat) {
			t.Fatalf("after the probe: %+v", st)
		}
		p := <-second
		synctest.Wait()
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 {
			t.Fatalf("after the attempt: %+v", st)
		}
		time.Sleep(10 * time.Second)
		p.ws.CloseNow()
		synctest.Wait()
		if st := c.State(); st.Phase != limpet.Waiting || st.NextAttempt.Sub(st.Since) < time.Second {
			t.Errorf("the next loss: phase %v, attempt after %v", st.Phase, st.NextAttempt.Sub(st.Since))
		}
	})
}

// A URL that a server names during the attempt to leave it is not for a later attempt.
func TestURLOfAConnectionThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = slowAuth(map[int]time.Duration{2: 2 * time.Second})
		s := newSite(t)
		script := &scriptedServer{t: t, talk: func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			if p.number == 1 {
				p.sendFrames(askToLeave)
				time.Sleep(time.Second)
				p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, URL: "ws://b.test/x"}})
			}
		}}
		s.host(t, "a.test:80", script.serve)
		s.host(t, "b.test:80", script.serve)
		c, err := limpet.New("ws://a.test/v1", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}, Heartbeat: rareHeartbeats, Auth: i.auth,
		}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(time.Hour)
		s.network.CutAll()
		time.Sleep(time.Minute)
		if got := strings.Join(s.requests(), " "); got != "a.test/v1 a.test/v1 a.test/v1" {
			t.Errorf("requests %s", got)
		}
	})
}

// A server that answers the upgrade without a language of the client gets no client that has a
// connection.
func TestNextConnectionSpeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		script := &scriptedServer{t: t, talk: func(p *scriptedConn) { p.sendFrames(p.welcome(), askToLeave) }}
		s := newSite(t)
		var mu sync.Mutex
		upgrades := 0
		s.host(t, "a.test:80", func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			upgrades++
			first := upgrades == 1
			mu.Unlock()
			if first {
				script.serve(w, r)
				return
			}
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				_, _, _ = ws.Read(context.Background())
			}
		})
		c, err := limpet.New("ws://a.test/v1", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Heartbeat: rareHeartbeats, Observer: observer(i.observeAll),
		}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(20 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 || upgrades < 3 || !strings.Contains(i.noted(), limpet.ErrSubprotocol.Error()) {
			t.Errorf("after %d upgrades: %+v", upgrades, st)
		}
	})
}

// The credential of the connection in use stays secret, however many attempts to replace it fail.
func TestCredentialIsSecretDuringRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(_ context.Context, n int, info limpet.AttemptInfo) (limpet.Credential, error) {
			if n > 2 && info.Connected == false {
				return limpet.Credential{Header: http.Header{"X-Refuse": {"yes"}}, Token: limpet.Secret(tokenNumber(n))}, nil
			}
			return limpet.Credential{}, nil
		}
		s := newAuthScript(t, i, 0, accepts(36_000_000))
		serve := s.serve
		site := newSite(t)
		site.host(t, "a.test:80", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Refuse") != "" {
				http.Error(w, "no", http.StatusServiceUnavailable)
				return
			}
			serve(w, r)
		})
		c, err := limpet.New("ws://a.test/canary-path-of-16-bytes?key=canary-query", options(&limpet.Options{
			HTTPClient: site.network.HTTPClient(), AllowInsecure: true, Auth: i.auth, Observer: observer(func(e limpet.Event) {
				i.observeAll(e)
				if n, ok := e.(limpet.ServerNotice); ok {
					i.note("notice %s", n.Reason)
				}
			}),
		}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(time.Second)
		p := s.current()
		p.sendFrames(authFrame(native.Auth{Need: 60_000}))
		time.Sleep(time.Second)
		p.sendFrames(askToLeave)
		time.Sleep(10 * time.Minute)
		noted := i.noted()
		if strings.Count(noted, "no next connection") < 3 {
			t.Fatalf("%s", noted)
		}
		p.ws.Close(4000, "no "+tokenNumber(1)+" or "+tokenNumber(2))
		synctest.Wait()
		if st := c.State(); st.Cause == nil || strings.Contains(st.Cause.Error(), "canary") || !strings.Contains(st.Cause.Error(), "[secret]") {
			t.Errorf("%v", st.Cause)
		}
	})
}
