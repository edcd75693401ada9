package test

import (
	"context"
	"errors"
	"fmt"
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
		if cred, err := i.answer(ctx, n, info); err != nil || cred.Header != nil || cred.Token != "" {
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
	case limpet.CredentialsEnded:
		i.note("ended: %v", e.Err)
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
