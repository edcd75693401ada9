package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// issuer is an Auth whose nth credential is the token "canary-token-n", unless answer says
// something else. It notes each call and, if the test wants that, what servers hear.
type issuer struct {
	answer func(ctx context.Context, n int, info limpet.AttemptInfo) (limpet.Credential, error) // nil: the token

	mu    sync.Mutex
	began time.Time
	calls int
	notes []string
}

func newIssuer() *issuer { return &issuer{began: time.Now()} }

func tokenNumber(n int) string { return fmt.Sprint("canary-token-", n) }

func (i *issuer) note(format string, args ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.notes = append(i.notes, fmt.Sprintf("%v ", time.Since(i.began).Round(10*time.Millisecond))+fmt.Sprintf(format, args...))
}

// auth is Options.Auth.
func (i *issuer) auth(ctx context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
	what := "attempt"
	if info.Connected {
		what = "connected"
	}
	if info.Refresh {
		what += " refresh"
	}
	i.note("%s", what)
	i.mu.Lock()
	i.calls++
	n := i.calls
	i.mu.Unlock()
	if i.answer != nil {
		if cred, err := i.answer(ctx, n, info); err != nil || cred.Header != nil {
			return cred, err
		}
	}
	return limpet.Credential{Token: limpet.Secret(tokenNumber(n))}, nil
}

// noted returns the notes, and forgets them.
func (i *issuer) noted() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	text := strings.Join(i.notes, "; ")
	i.notes = nil
	return text
}

// expiring is a reference server whose credentials live for the given time. Tokens of the
// issuer are of one principal.
func (i *issuer) expiring(t *testing.T, life time.Duration, hooks server.Hooks) *limpettest.Server {
	hooks.Authenticate = func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
		i.note("server gets %s", strings.TrimPrefix(token, "canary-"))
		return server.Principal{ID: "ann", Value: token, Expires: time.Now().Add(life)}, nil
	}
	return limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: hooks}})
}

// eventLog notes what an observer gets of credentials.
func (i *issuer) observe(e limpet.Event) {
	switch e := e.(type) {
	case limpet.CredentialRefreshed:
		i.note("refreshed for %v", e.Expires)
	case limpet.CredentialNotRefreshed:
		i.note("not refreshed, again=%v: %v", e.Again > 0, e.Err)
	}
}

// TestCredentialIsRefreshed: after 80 % of its time, on the connection, which goes on.
func TestCredentialIsRefreshed(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			srv := i.expiring(t, 100*time.Second, server.Hooks{})
			c := dial(t, srv, &limpet.Options{Auth: i.auth, Observer: observer(i.observe), PlainFrames: plain})
			s := subscribeLive(t, c, "a", nil)
			time.Sleep(200 * time.Second)
			synctest.Wait()
			want := "0s attempt; 0s server gets token-1; 1m20s connected refresh; 1m20s server gets token-2; 1m20s refreshed for 1m40s; " +
				"2m40s connected refresh; 2m40s server gets token-3; 2m40s refreshed for 1m40s"
			if got := i.noted(); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
			publish(t, srv, "a", "1")
			if got := payloads(collect(t, s, 1)); got != "1" || c.State().Generation != 1 {
				t.Errorf("%s on connection %d", got, c.State().Generation)
			}
		})
	}
}

// TestServerAsksForACredential: at once, and one call serves two requests.
func TestServerAsksForACredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		srv := i.expiring(t, time.Hour, server.Hooks{})
		c := dial(t, srv, &limpet.Options{Auth: i.auth, Observer: observer(i.observe)})
		time.Sleep(10 * time.Second)
		i.noted()
		if n := srv.Server.Reauthenticate("ann", time.Minute); n != 1 {
			t.Fatalf("%d connections", n)
		}
		srv.Server.Reauthenticate("ann", time.Minute)
		synctest.Wait()
		if got, want := i.noted(), "10s connected refresh; 10s server gets token-2; 10s refreshed for 1h0m0s"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		time.Sleep(2 * time.Minute)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 || i.noted() != "" {
			t.Errorf("%+v", st)
		}
	})
}

// TestRefreshIsRefused: 4101 costs the connection, and the next attempt has a new credential.
// So it is with a credential of another principal. A second refusal before a welcome is final.
func TestRefreshIsRefused(t *testing.T) {
	for name, hook := range map[string]func(who server.Principal) (server.Principal, error){
		"refused":           func(server.Principal) (server.Principal, error) { return server.Principal{}, errors.New("no") },
		"another principal": func(server.Principal) (server.Principal, error) { return server.Principal{ID: "bob"}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				srv := i.expiring(t, 100*time.Second, server.Hooks{Reauthenticate: func(_ context.Context, who server.Principal, _ string) (server.Principal, error) {
					return hook(who)
				}})
				c := dial(t, srv, &limpet.Options{Auth: i.auth})
				time.Sleep(90 * time.Second)
				if got, want := i.noted(), "0s attempt; 0s server gets token-1; 1m20s connected refresh; 1m20s attempt refresh; 1m20s server gets token-3"; got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
				var e *limpet.Error
				if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 || !errors.As(st.Cause, &e) || e.Code != native.CloseAuthInvalid || e.Class != limpet.ClassAuth {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// TestRefreshRevokes: a subscription that the new credential does not permit ends with code 16,
// another one goes on.
func TestRefreshRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		srv := i.expiring(t, 100*time.Second, server.Hooks{Authorize: func(who server.Principal, verb server.Verb, topic string) error {
			if topic == "secret" && who.Value != tokenNumber(1) {
				return errors.New("no")
			}
			return nil
		}})
		c := dial(t, srv, &limpet.Options{Auth: i.auth})
		open, secret := subscribeLive(t, c, "open", nil), subscribeLive(t, c, "secret", nil)
		time.Sleep(81 * time.Second)
		var e *limpet.Error
		if st := secret.State(); st.Phase != limpet.SubEnded || !errors.As(st.Err, &e) || e.Code != native.CodeRevoked || !errors.Is(e, limpet.ErrRejected) {
			t.Errorf("%+v", st)
		}
		publish(t, srv, "open", "1")
		if got := payloads(collect(t, open, 1)); got != "1" || c.State().Generation != 1 {
			t.Errorf("%s", got)
		}
	})
}

// authScript is a server for one test: it answers pings, notes tokens, and does what answer
// says about the nth token that comes on an open connection.
type authScript struct {
	*scriptedServer
	issuer *issuer
	exp    uint64 // of the first welcome
	answer func(p *scriptedConn, n int)

	mu   sync.Mutex
	conn *scriptedConn
}

func newAuthScript(t *testing.T, i *issuer, exp uint64, answer func(p *scriptedConn, n int)) *authScript {
	s := &authScript{issuer: i, exp: exp, answer: answer}
	s.scriptedServer = newScriptedServer(t, s.talk)
	return s
}

func (s *authScript) talk(p *scriptedConn) {
	w := p.welcome()
	if p.number == 1 {
		w.Welcome.Exp = s.exp
	}
	s.mu.Lock()
	s.conn = p
	s.mu.Unlock()
	s.issuer.note("hello %d with %s", p.number, strings.TrimPrefix(p.hello.Tok, "canary-"))
	p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
	for tokens := 0; ; {
		_, data, err := p.ws.Read(p.ctx)
		if err != nil {
			if websocket.CloseStatus(err) == 1000 {
				s.issuer.note("close 1000 of %d", p.number)
			}
			return
		}
		frames, _ := native.Decode(nil, native.JSON, native.FromClient, data, native.DefaultLimits)
		for _, f := range frames {
			switch f.Type {
			case native.TypePing:
				p.sendFrames(native.Frame{Type: native.TypePong, N: f.N})
			case native.TypeAuth:
				tokens++
				s.issuer.note("auth %d with %s", p.number, strings.TrimPrefix(f.Auth.Tok, "canary-"))
				if s.answer != nil {
					s.answer(p, tokens)
				}
			}
		}
	}
}

// current is the last connection.
func (s *authScript) current() *scriptedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

func authFrame(a native.Auth) native.Frame { return native.Frame{Type: native.TypeAuth, Auth: &a} }

// accepts answers each token with a time.
func accepts(exp uint64) func(*scriptedConn, int) {
	return func(p *scriptedConn, _ int) { p.sendFrames(authFrame(native.Auth{Exp: exp})) }
}

func (s *authScript) client(t *testing.T, o limpet.Options) *limpet.Client {
	o.HTTPClient = s.host.HTTPClient()
	if o.Auth == nil {
		o.Auth = s.issuer.auth
	}
	if o.Observer == nil {
		o.Observer = observer(s.issuer.observe)
	}
	c, err := limpet.Dial(t.Context(), s.host.URL(), options(&o))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// steadily makes backoff free of chance, as far as that goes: U(v/2, v) of a millisecond.
var steadily = limpet.Backoff{First: time.Millisecond, Initial: time.Millisecond, Max: time.Millisecond}

// TestRefreshFails: the function is called again until it works. Each failure is an event, and
// the connection goes on.
func TestRefreshFails(t *testing.T) {
	boom := errors.New("issuer is down: canary-token-1")
	for name, tc := range map[string]struct {
		fail func(ctx context.Context) (limpet.Credential, error)
		want string // of the first call after the attempt, in its event
	}{
		"error": {func(context.Context) (limpet.Credential, error) { return limpet.Credential{}, boom },
			"limpet: refresh: Options.Auth: issuer is down: [secret]"},
		"panic": {func(context.Context) (limpet.Credential, error) { panic("canary-token-1") },
			"limpet: refresh: Options.Auth: panic: [secret]"},
		"hangs until its context ends": {func(ctx context.Context) (limpet.Credential, error) {
			<-ctx.Done()
			return limpet.Credential{}, ctx.Err()
		}, "limpet: refresh: Options.Auth: no answer within Options.DialTimeout (10s): context deadline exceeded"},
		"bad token": {func(context.Context) (limpet.Credential, error) {
			return limpet.Credential{Header: http.Header{}, Token: "canary\n"}, nil
		},
			"limpet: refresh: Options.Auth: a token must not hold a line break or another control character; use strings.TrimSpace"},
		"refused by the issuer": {func(context.Context) (limpet.Credential, error) {
			return limpet.Credential{}, &wire.StatusError{Status: 403, Body: []byte("canary-token-1")}
		}, `limpet: refresh: Options.Auth: server answered 403 Forbidden (code 403): "[secret]"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				i.answer = func(ctx context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
					if n == 2 || n == 3 {
						return tc.fail(ctx)
					}
					return none, nil
				}
				s := newAuthScript(t, i, 100_000, accepts(100_000))
				c := s.client(t, limpet.Options{Backoff: steadily})
				time.Sleep(79 * time.Second)
				i.noted()
				time.Sleep(80 * time.Second)
				synctest.Wait()
				took := time.Duration(0)
				if strings.HasPrefix(name, "hangs") {
					took = 10 * time.Second
				}
				text := i.noted()
				first, second, third := 80*time.Second, 80*time.Second+max(took, time.Second), 80*time.Second+2*max(took, time.Second)
				want := fmt.Sprintf("%v connected refresh; %v not refreshed, again=true: %s; %v connected refresh; %v not refreshed, again=true: %s; "+
					"%v connected refresh; %v auth 1 with token-4; %v refreshed for 1m40s",
					first, first+took, tc.want, second, second+took, tc.want, third, third, third)
				if text != want {
					t.Errorf("%s\nwant %s", text, want)
				}
				if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// TestRetryAfterOfTheIssuer: a token server that names a time is left alone for it, and what
// the server of the connection wants does not shorten that.
func TestRetryAfterOfTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(ctx context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
			if n == 2 {
				return none, &wire.StatusError{Status: 429, Header: http.Header{"Retry-After": {"30"}}}
			}
			return none, nil
		}
		s := newAuthScript(t, i, 100_000, accepts(1000_000))
		s.client(t, limpet.Options{Backoff: steadily, Observer: observer(func(limpet.Event) {})})
		time.Sleep(81 * time.Second)
		for range 5 {
			s.current().sendFrames(authFrame(native.Auth{Need: 1000}))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		if got, want := i.noted(), "0s attempt; 0s hello 1 with token-1; 1m20s connected refresh; 1m50s connected refresh; 1m50s auth 1 with token-3"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// TestRefreshFailsUntilTheEnd: the server closes with 4100, and the next attempt asks for a
// credential as after any refused one.
func TestRefreshFailsUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(_ context.Context, n int, info limpet.AttemptInfo) (none limpet.Credential, err error) {
			if info.Connected {
				return none, errors.New("issuer is down")
			}
			return none, nil
		}
		srv := i.expiring(t, 100*time.Second, server.Hooks{})
		c := dial(t, srv, &limpet.Options{Auth: i.auth})
		time.Sleep(101 * time.Second)
		text := i.noted()
		if n := strings.Count(text, "connected refresh"); n < 5 || n > 15 {
			t.Errorf("%d calls in 20 s", n)
		}
		if !strings.HasSuffix(text, "1m40s attempt refresh; 1m40s server gets token-"+fmt.Sprint(i.calls)) {
			t.Error(text)
		}
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 || limpet.ClassOf(st.Cause) != limpet.ClassAuth {
			t.Errorf("%+v", st)
		}
	})
}

// TestRefreshThatHangs: a call that ignores its context is not called again, on this
// connection or for the attempts after it, until it has returned; what it returns is not used.
func TestRefreshThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(_ context.Context, n int, info limpet.AttemptInfo) (none limpet.Credential, err error) {
			if n == 2 {
				time.Sleep(150 * time.Second)
			}
			return none, nil
		}
		srv := i.expiring(t, 100*time.Second, server.Hooks{})
		c := dial(t, srv, &limpet.Options{Auth: i.auth})
		time.Sleep(79 * time.Second)
		i.noted()
		time.Sleep(31 * time.Second)
		if got := i.noted(); got != "1m20s connected refresh" {
			t.Errorf("%s", got)
		}
		if st := c.State(); st.Phase == limpet.Ready || st.Cause == nil || !strings.Contains(st.Cause.Error(), "an earlier call has not returned") {
			t.Errorf("%+v", st)
		}
		time.Sleep(3 * time.Minute)
		text := i.noted()
		if !strings.Contains(text, "attempt refresh; ") || strings.Contains(text, "gets token-2") || !strings.Contains(text, "gets token-3") {
			t.Errorf("%s", text)
		}
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 {
			t.Errorf("%+v", st)
		}
	})
}

// TestRefreshFailsForGood: an error made with Permanent ends the client at once, although the
// connection works.
func TestRefreshFailsForGood(t *testing.T) {
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			i.answer = func(_ context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
				if n == 2 {
					return none, fmt.Errorf("canary-token-1: %w", limpet.Permanent(errClosedAccount))
				}
				return none, nil
			}
			s := newAuthScript(t, i, 100_000, nil)
			asked := false
			c := s.client(t, limpet.Options{Backoff: limpet.Backoff{KeepTrying: keep},
				Verdict: func(_ wire.Failure, would wire.Verdict) wire.Verdict { asked = true; return would }})
			sub := subscribeFor(t, c)
			time.Sleep(80 * time.Second)
			<-c.Done()
			var p *limpet.PermanentError
			if err := c.Err(); !errors.As(err, &p) || p.Class != limpet.ClassAuth || !errors.Is(err, errClosedAccount) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%v", err)
			}
			if st := sub.State(); st.Phase != limpet.SubEnded || asked {
				t.Errorf("%+v, verdict asked: %v", st, asked)
			}
			synctest.Wait()
			time.Sleep(time.Minute)
			if got, want := i.noted(), "0s attempt; 0s hello 1 with token-1; 1m20s connected refresh; 1m20s close 1000 of 1"; got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}

func subscribeFor(t *testing.T, c *limpet.Client) *limpet.Subscription {
	s, err := c.Subscribe(t.Context(), "a", nil)
	assert.NoError(t, err)
	return s
}

// TestRefreshOfALostConnection: what Auth returns after the connection was lost is not sent on the
// next one, whether it obeys its context or not. The attempt does not trip over it.
func TestRefreshOfALostConnection(t *testing.T) {
	for name, wait := range map[string]func(ctx context.Context){
		"obeys":        func(ctx context.Context) { <-ctx.Done() },
		"a while late": func(ctx context.Context) { <-ctx.Done(); time.Sleep(50 * time.Millisecond) },
		"returns late": func(context.Context) { time.Sleep(90 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				i.answer = func(ctx context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
					if n == 2 {
						wait(ctx)
					}
					return none, nil
				}
				s := newAuthScript(t, i, 100_000, accepts(100_000))
				c := s.client(t, limpet.Options{Backoff: limpet.Backoff{First: -1}})
				time.Sleep(80 * time.Second)
				i.noted()
				synctest.Wait()
				s.host.Network.CutAll()
				time.Sleep(time.Minute)
				text := i.noted()
				if strings.Contains(text, "auth ") || strings.Contains(text, "refreshed") || strings.Count(text, "attempt") != 1 || !strings.Contains(text, "hello 2 with token-3") {
					t.Error(text)
				}
				if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// TestPermanentAfterTheLoss: an error made with Permanent counts, also if the connection for which
// Auth was asked is gone.
func TestPermanentAfterTheLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(ctx context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
			if n == 2 {
				<-ctx.Done()
				return none, limpet.Permanent(errClosedAccount)
			}
			return none, nil
		}
		s := newAuthScript(t, i, 100_000, nil)
		c := s.client(t, limpet.Options{})
		time.Sleep(81 * time.Second)
		s.host.Network.CutAll()
		<-c.Done()
		if !errors.Is(c.Err(), errClosedAccount) {
			t.Errorf("%v", c.Err())
		}
	})
}

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

// TestNobodyToAsk: without Auth, what a server says of credentials changes nothing.
func TestNobodyToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAuthScript(t, newIssuer(), 1000, nil)
		c, err := limpet.Dial(t.Context(), s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient()}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		s.current().sendFrames(authFrame(native.Auth{Need: 1}), authFrame(native.Auth{Exp: 1}), authFrame(native.Auth{Code: 15}))
		time.Sleep(time.Hour)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 {
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
		const many = 400 // more than internal/secrets keeps of an attempt
		s := newAuthScript(t, i, 2000, func(p *scriptedConn, n int) {
			if n < many {
				p.sendFrames(authFrame(native.Auth{Exp: 2000}))
				return
			}
			p.sendText(fmt.Sprintf(`{"t":"err","code":1,"msg":"bad token %s"}`, tokenNumber(n+1)))
			p.ws.Close(native.CloseAuthInvalid, "bad token "+tokenNumber(n+1))
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
