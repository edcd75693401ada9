package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/native"
)

// TestTimesOfCredentials: no time that a server can say makes the client hammer Auth.
func TestTimesOfCredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		welcome, answer uint64
		calls           int // of Auth in a minute and in an hour, the attempt included
		later           int
	}{
		"none":                {0, 0, 1, 1},
		"then without end":    {1000, 0, 2, 2},
		"one millisecond":     {1, 1, 61, 0},
		"then none":           {1, 0, 2, 2},
		"2^53":                {1 << 53, 1 << 53, 1, 1},
		"then 2^53":           {1000, 1 << 53, 2, 2},
		"as big as it can be": {1<<64 - 1, 0, 1, 1},
		"a minute and a half": {90_000, 90_000, 1, 50},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				s := newAuthScript(t, i, tc.welcome, accepts(tc.answer))
				c := s.client(t, limpet.Options{})
				time.Sleep(time.Minute + 500*time.Millisecond)
				calls := func() int {
					i.mu.Lock()
					defer i.mu.Unlock()
					return i.calls
				}
				if n := calls(); n < tc.calls-1 || n > tc.calls+1 || tc.calls < 3 && n != tc.calls {
					t.Errorf("%d calls in a minute, want %d", n, tc.calls)
				}
				if tc.later > 0 {
					time.Sleep(58 * time.Minute)
					if n := calls(); n != tc.later {
						t.Errorf("%d calls in an hour, want %d", n, tc.later)
					}
				}
				if st := c.State(); st.Generation != 1 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// TestManyWishesAreOneCall: a server that asks again and again is asked by at most one call of Auth
// a second, and by none while its answer is due.
func TestManyWishesAreOneCall(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(*scriptedConn, int)
		most   int
	}{
		"answers at once": {accepts(0), 11},
		"never answers":   {nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				s := newAuthScript(t, i, 0, tc.answer)
				s.client(t, limpet.Options{})
				i.noted()
				time.Sleep(time.Second)
				for range 95 {
					s.current().sendFrames(authFrame(native.Auth{Need: 60_000}), authFrame(native.Auth{Need: 60_000}))
					time.Sleep(100 * time.Millisecond)
				}
				if n := strings.Count(i.noted(), "connected"); n < tc.most-2 || n > tc.most || n == 0 {
					t.Errorf("%d calls, want at most %d", n, tc.most)
				}
			})
		})
	}
}

// TestServerWithoutAnswer: a server that says how long the first credential lasts, and nothing
// more, gets a new one each time. An answer that comes late counts from its arrival.
func TestServerWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newAuthScript(t, i, 100_000, func(p *scriptedConn, n int) {
			if n == 2 {
				time.Sleep(20 * time.Second)
				p.sendFrames(authFrame(native.Auth{Exp: 50_000}))
			}
		})
		s.client(t, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Hour}})
		time.Sleep(221 * time.Second)
		synctest.Wait()
		want := "0s attempt; 0s hello 1 with token-1; 1m20s connected refresh; 1m20s auth 1 with token-2; " +
			"2m40s connected refresh; 2m40s auth 1 with token-3; 3m0s refreshed for 50s; 3m40s connected refresh; 3m40s auth 1 with token-4"
		if got := i.noted(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// TestRefusalOnTheConnection: a server that refuses a credential and stays gets another one,
// later each time.
func TestRefusalOnTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newAuthScript(t, i, 100_000, func(p *scriptedConn, n int) {
			if n == 1 {
				p.sendFrames(authFrame(native.Auth{Code: native.CodeBadToken}))
				return
			}
			p.sendFrames(authFrame(native.Auth{Exp: 100_000}))
		})
		c := s.client(t, limpet.Options{Backoff: steadily})
		time.Sleep(79 * time.Second)
		i.noted()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		want := "1m20s connected refresh; 1m20s auth 1 with token-2; " +
			`1m20s not refreshed, again=true: limpet: refresh: the server refuses the new credential (code 15): "bad_token"; ` +
			"1m21s connected refresh; 1m21s auth 1 with token-3; 1m21s refreshed for 1m40s"
		if got := i.noted(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		// One that is not about a credential that was sent is a notice.
		s.current().sendFrames(authFrame(native.Auth{Code: native.CodeBadToken}))
		time.Sleep(time.Minute)
		if got := i.noted(); got != "" || c.State().Generation != 1 {
			t.Error(got)
		}
	})
}

// TestServerThatCannotRefresh: one that only reports an error goes on until the credential expires.
func TestServerThatCannotRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newAuthScript(t, i, 100_000, func(p *scriptedConn, n int) {
			p.sendText(`{"t":"err","code":1,"msg":"send the new token in the HELLO of a new connection"}`)
			time.AfterFunc(20*time.Second, func() { p.ws.Close(native.CloseAuthExpired, "") })
		})
		c := s.client(t, limpet.Options{})
		time.Sleep(101 * time.Second)
		want := "0s attempt; 0s hello 1 with token-1; 1m20s connected refresh; 1m20s auth 1 with token-2; 1m40s attempt refresh; 1m40s hello 2 with token-3"
		if got := i.noted(); got != want || c.State().Generation != 2 {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// TestCredentialWithoutToken: what travels in a header cannot be sent on an open connection. Auth is
// not asked by the time then, and once if the server wants a credential.
func TestCredentialWithoutToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(context.Context, int, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary-header"}}}, nil
		}
		s := newAuthScript(t, i, 100_000, nil)
		c := s.client(t, limpet.Options{})
		time.Sleep(90 * time.Second)
		s.current().sendFrames(authFrame(native.Auth{Need: 10_000}))
		time.Sleep(90 * time.Second)
		want := "0s attempt; 0s hello 1 with ; 1m30s connected refresh; 1m30s not refreshed, again=false: limpet: refresh: Options.Auth: " +
			"it returned a Credential without a Token, and nothing else can be sent on an open connection: the credential counts from the next connection on"
		if got := i.noted(); got != want || c.State().Generation != 1 {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// TestRefreshWithoutAuth: without Auth, what a server says of credentials changes nothing.
func TestRefreshWithoutAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAuthScript(t, newIssuer(), 1000, nil)
		notices := make(chan limpet.ServerNotice, 10)
		c, err := limpet.Dial(t.Context(), s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient(), Observer: observer(func(e limpet.Event) {
			if n, ok := e.(limpet.ServerNotice); ok {
				notices <- n
			}
		})}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		s.current().sendFrames(authFrame(native.Auth{Need: 1}), authFrame(native.Auth{Exp: 1}), authFrame(native.Auth{Code: 15}))
		time.Sleep(50 * time.Minute)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 || len(notices) != 1 || (<-notices).Code != 15 {
			t.Errorf("%+v", st)
		}
	})
}

// TestRefreshKeepsTheLimit: a credential is a message like another to Options.Limits, and one
// that waits too long gives way to the next.
func TestRefreshKeepsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newAuthScript(t, i, 0, nil)
		c := s.client(t, limpet.Options{Limits: wire.ConnectionLimits{Messages: 2, Per: time.Minute, Burst: 2}, Heartbeat: limpet.Heartbeat{Interval: 10 * time.Minute}})
		time.Sleep(5 * time.Minute) // there is room for two
		i.noted()
		for range 4 {
			_, err := c.Publish(t.Context(), "a", []byte("x"), nil)
			assert.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		for range 3 {
			s.current().sendFrames(authFrame(native.Auth{Need: 60_000}))
			time.Sleep(11 * time.Second)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		text := i.noted()
		if n := strings.Count(text, "auth 1"); n == 0 || n >= strings.Count(text, "connected refresh") {
			t.Errorf("%s", text)
		}
		if !strings.Contains(text, "auth 1 with token-4") {
			t.Errorf("the last credential was not sent: %s", text)
		}
	})
}

// TestNewTokenIsNotRepeated: a token that was sent on an open connection is in no error, event
// or log line when the server repeats it, however many came before.
func TestNewTokenIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		var log, events lockedBuffer
		const many = 400                                                     // more than internal/secrets keeps of an attempt
		token := func(n int) string { return fmt.Sprintf("%04d-canary", n) } // none is the beginning of another
		i.answer = func(_ context.Context, n int, _ limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Token: limpet.Secret(token(n))}, nil
		}
		s := newAuthScript(t, i, 2000, func(p *scriptedConn, n int) {
			if n < many {
				p.sendFrames(authFrame(native.Auth{Exp: 2000}))
				return
			}
			p.sendText(fmt.Sprintf(`{"t":"err","code":1,"msg":"bad token %s"}`, token(n+1)))
			p.ws.Close(native.CloseAuthInvalid, "bad token "+token(n+1))
		})
		c := s.client(t, limpet.Options{
			Logger:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Observer: observer(func(e limpet.Event) { fmt.Fprintf(&events, "%+v\n", e) }),
		})
		var cause error
		for range 800 {
			time.Sleep(time.Second)
			if st := c.State(); st.Cause != nil {
				cause = st.Cause
				break
			}
		}
		synctest.Wait()
		text := fmt.Sprintf("%v %+v %s %s %v", cause, c.State(), log.String(), events.String(), c)
		if !strings.Contains(text, "bad token [secret]") || strings.Contains(text, "canary") {
			t.Errorf("%s", text)
		}
		if !strings.Contains(log.String(), `level=DEBUG msg="limpet: credential refreshed" expires=2s`) {
			t.Error("no line for a good one")
		}
	})
}

// TestRefreshByFuncs: a server of another protocol is sent a new token in a message of its own,
// by the time that it has named at the login, and when it wants one.
func TestRefreshByFuncs(t *testing.T) {
	for _, can := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
				hear() // the login
				say(`{"op":"valid","seq":100}`)
				time.AfterFunc(90*time.Second, func() { say(`{"op":"valid"}`) })
			})
			dialect := ownDialect(t, func(f *feed.Funcs) {
				read := f.Read
				f.Hello = func(token string) ([]byte, error) { return []byte("login " + token), nil }
				if can {
					f.Refresh = func(token string) ([]byte, error) { return []byte("again " + token), nil }
				}
				f.Read = func(data []byte, say func(feed.Item)) error {
					var n note
					if json.Unmarshal(data, &n); n.Op != "valid" {
						return read(data, say)
					}
					say(feed.Item{Kind: feed.Credential, Valid: time.Duration(n.Seq) * time.Second})
					return nil
				}
			})
			c, err := limpet.Dial(t.Context(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: dialect, Auth: i.auth}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			time.Sleep(110 * time.Second)
			synctest.Wait()
			calls, heard := i.noted(), strings.Join(strings.Split(srv.all(), "\n")[1:], ", ")
			wantCalls, wantHeard := "0s attempt; 1m20s connected refresh; 1m30s connected refresh", "login canary-token-1, again canary-token-2, again canary-token-3"
			if !can {
				wantCalls, wantHeard = "0s attempt", "login canary-token-1"
			}
			if calls != wantCalls || heard != wantHeard || c.State().Generation != 1 {
				t.Errorf("can %v: %s; the server heard %s", can, calls, heard)
			}
		})
	}
}

// TestRefreshThatCannotBeEncoded: an error of the dialect is a credential that was not refreshed, and
// does not repeat it. A connection whose server has agreed to less is left alone.
func TestRefreshThatCannotBeEncoded(t *testing.T) {
	for _, lacks := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			d := flexDialect{traits: wire.Traits{Greeting: true, Refresh: true}, encode: func(op wire.Op, out *wire.Frames) error {
				if op.Kind == wire.OpAuth && op.Token == tokenNumber(2) {
					return errors.New("cannot say " + op.Token)
				}
				out.Append(wire.Text, []byte(op.Token))
				return errNoFrame
			}}
			ready := &wire.Ready{Expires: 100 * time.Second}
			if lacks {
				ready.Traits = &wire.Traits{}
			}
			srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
				hear()
				say(eventText(wire.Event{Kind: wire.EventReady, Ready: ready}))
			})
			c, err := limpet.Dial(t.Context(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, Auth: i.auth, Observer: observer(i.observe), Backoff: steadily}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			time.Sleep(82 * time.Second)
			synctest.Wait()
			want := "0s attempt; 1m20s connected refresh; 1m20s not refreshed, again=true: limpet: refresh: Options.Dialect: cannot say [secret]; 1m21s connected refresh"
			if lacks {
				want = "0s attempt"
			}
			if got := i.noted(); got != want || c.State().Generation != 1 || strings.Contains(srv.all(), tokenNumber(3)) == lacks {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}
