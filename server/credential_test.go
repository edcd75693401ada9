package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

func auth(token string) native.Frame {
	return native.Frame{Type: native.TypeAuth, Auth: &native.Auth{Tok: token}}
}

// lives returns an Authenticate that takes every token for d: the principal is what stands
// before the first dash of the token, and a token "bad" is refused.
func lives(d time.Duration) func(context.Context, *http.Request, string) (server.Principal, error) {
	return func(_ context.Context, r *http.Request, token string) (server.Principal, error) {
		if r == nil || r.Host == "" || token == "bad" {
			return server.Principal{}, errors.New("no")
		}
		id, _, _ := strings.Cut(token, "-")
		return server.Principal{ID: id, Expires: time.Now().Add(d), Value: token}, nil
	}
}

// A new credential moves the end of the connection. Without Reauthenticate, Authenticate decides.
func TestNewCredential(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(10 * time.Second)}})
		c := r.connect(enc)
		start := time.Now()
		if w := c.hello(native.Hello{CN: 1, Tok: "ann-1"}); w.Exp != 10_000 {
			t.Errorf("welcome.exp %d", w.Exp)
		}
		for n := range 3 {
			time.Sleep(8 * time.Second)
			c.send(auth(fmt.Sprint("ann-", n+2)))
			if a := c.next(native.TypeAuth).Auth; *a != (native.Auth{Exp: 10_000}) {
				t.Errorf("answer %+v", *a)
			}
		}
		c.wantClose(native.CloseAuthExpired)
		if d := time.Since(start); d != 34*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

// A credential that does not expire has an answer without a time.
func TestNewCredentialWithoutEnd(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(10 * time.Second),
			Reauthenticate: func(_ context.Context, who server.Principal, token string) (server.Principal, error) {
				return server.Principal{ID: who.ID, Value: token}, nil
			}}})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, Tok: "ann-1"})
		c.send(auth("ann-2"))
		if a := c.next(native.TypeAuth).Auth; *a != (native.Auth{}) {
			t.Errorf("answer %+v", *a)
		}
		go func() { // a client that is alive
			for range 6 {
				time.Sleep(10 * time.Second)
				c.send(native.Frame{Type: native.TypePing, N: 1})
			}
		}()
		for range 6 {
			c.next(native.TypePong)
		}
	})
}

// A credential that is refused, or of another principal, ends the connection. The text of an
// error is not sent.
func TestNewCredentialIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		id   string
		code int
	}{
		"refused":           {err: errors.New("canary"), code: native.CloseAuthInvalid},
		"refused with code": {err: &server.Error{Code: native.CloseForbidden, Reason: "out"}, code: native.CloseForbidden},
		"another principal": {id: "bob", code: native.CloseAuthInvalid},
		"no principal":      {id: "", code: native.CloseAuthInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(time.Minute),
					Reauthenticate: func(context.Context, server.Principal, string) (server.Principal, error) {
						return server.Principal{ID: tc.id}, tc.err
					}}})
				c := r.connect(enc)
				c.hello(native.Hello{CN: 1, Tok: "ann-1"})
				c.send(auth("ann-2"))
				if frames := c.wantClose(tc.code); len(frames) != 0 {
					t.Errorf("frames before the end: %s", show(frames[0]))
				}
			})
		})
	}
}

// Where nothing was decided, the old credential counts until it expires, and the client hears
// that it may try again.
func TestNewCredentialIsNotDecided(t *testing.T) {
	for name, tc := range map[string]struct {
		hook func(context.Context) error
		code uint64
	}{
		"timeout":     {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, native.CodeUnavailable},
		"no answer":   {func(context.Context) error { return os.ErrDeadlineExceeded }, native.CodeUnavailable},
		"unavailable": {func(context.Context) error { return &server.Error{Code: native.CodeRateLimited} }, native.CodeRateLimited},
		"panic":       {func(context.Context) error { panic("canary") }, native.CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				var calls atomic.Int64
				r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(30 * time.Second),
					Reauthenticate: func(ctx context.Context, who server.Principal, _ string) (server.Principal, error) {
						if calls.Add(1) == 1 {
							return server.Principal{}, tc.hook(ctx)
						}
						return who, nil
					}}})
				c := r.connect(enc)
				start := time.Now()
				c.hello(native.Hello{CN: 1, Tok: "ann-1"})
				c.send(auth("ann-2"))
				if a := c.next(native.TypeAuth).Auth; *a != (native.Auth{Code: tc.code}) {
					t.Errorf("answer %+v", *a)
				}
				c.send(auth("ann-3"))
				if a := c.next(native.TypeAuth).Auth; a.Code != 0 || a.Exp == 0 {
					t.Errorf("second answer %+v", *a)
				}
				c.wantClose(native.CloseAuthExpired)
				if d := time.Since(start); d != 30*time.Second {
					t.Errorf("ended after %v", d)
				}
			})
		})
	}
}

// A new credential replaces the principal that hooks get, and subscriptions that it no longer
// permits end before its answer; one that cannot be decided is to be asked for again.
func TestNewCredentialRevokes(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(time.Minute),
			Authorize: func(who server.Principal, verb server.Verb, topic string) error {
				switch {
				case who.Value == "ann-1":
				case topic == "secret":
					return errors.New("no")
				case topic == "odd":
					return &server.Error{Code: native.CodeGone, Reason: "moved"}
				case topic == "slow":
					return context.DeadlineExceeded
				}
				return nil
			}}})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, Tok: "ann-1"})
		for i, topic := range []string{"open", "secret", "odd", "slow"} {
			c.send(sub(uint64(i+1), topic, native.FromNew, 100))
			c.next(native.TypeSubOK)
		}
		c.send(auth("ann-2"))
		var ended []string
		for range 3 {
			u := c.next(native.TypeUnsub).Unsub
			ended = append(ended, fmt.Sprint(u.Ch, " ", u.Code, " ", u.Retry, u.Msg))
		}
		c.next(native.TypeAuth)
		slices.Sort(ended)
		if got := strings.Join(ended, ", "); got != "2 16 0, 3 17 0moved, 4 7 1000the server could not decide" {
			t.Errorf("ended: %s", got)
		}
		for _, topic := range []string{"secret", "open"} {
			if _, err := r.srv.Publish(t.Context(), topic, []byte("x"), nil); err != nil {
				t.Fatal(err)
			}
		}
		if m := c.next(native.TypeMsg).Msg; m.Ch != 1 {
			t.Errorf("a message on channel %d", m.Ch)
		}
		if n := r.srv.Stats().Subscriptions; n != 1 {
			t.Errorf("%d subscriptions are left", n)
		}
		c.send(sub(2, "open", native.FromNew, 100)) // the channel is free again
		c.next(native.TypeSubOK)
	})
}

// Reauthenticate asks the connections of one principal, and ends those that send nothing.
func TestReauthenticate(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(time.Hour)}})
		quick, mute, other := r.connect(enc), r.connect(enc), r.connect(enc)
		quick.hello(native.Hello{CN: 1, Tok: "ann-1"})
		mute.hello(native.Hello{CN: 1, Tok: "ann-2"})
		other.hello(native.Hello{CN: 1, Tok: "bob-1"})
		r.connect(enc) // without HELLO it has no principal
		start := time.Now()
		if n := r.srv.Reauthenticate("ann", 5*time.Second); n != 2 {
			t.Errorf("%d connections were asked", n)
		}
		for _, c := range []*client{quick, mute} {
			if a := c.next(native.TypeAuth).Auth; *a != (native.Auth{Need: 5000}) {
				t.Errorf("asked with %+v", *a)
			}
		}
		quick.send(auth("ann-3"))
		if a := quick.next(native.TypeAuth).Auth; *a != (native.Auth{Exp: 3_600_000}) {
			t.Errorf("answer %+v", *a)
		}
		mute.wantClose(native.CloseAuthExpired)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("ended after %v", d)
		}
		for _, c := range []*client{quick, other} {
			c.send(native.Frame{Type: native.TypePing, N: 1})
			c.next(native.TypePong)
		}
		if n := r.srv.Reauthenticate("unknown", -1); n != 0 {
			t.Errorf("%d connections of an unknown principal", n)
		}
	})
}

// A request that comes while an earlier credential is decided is not answered by that one.
func TestReauthenticateDuringTheHook(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var slow atomic.Bool
		slow.Store(true)
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(time.Hour),
			Reauthenticate: func(ctx context.Context, who server.Principal, _ string) (server.Principal, error) {
				if slow.Swap(false) {
					return who, work(ctx, time.Second)
				}
				return who, nil
			}}})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, Tok: "ann-1"})
		start := time.Now()
		c.send(auth("ann-2"))
		synctest.Wait()
		r.srv.Reauthenticate("ann", 5*time.Second)
		var got []string
		for range 3 {
			got = append(got, show(c.next(native.TypeAuth)))
		}
		want := `{"t":"auth","need":5000} {"t":"auth","exp":3599000} {"t":"auth","need":4000}`
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s, want %s", text, want)
		}
		c.wantClose(native.CloseAuthExpired)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

// A credential that meets a request on its way counts with its own time, whichever comes first.
func TestReauthenticateMeetsACredential(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var srv atomic.Pointer[server.Server]
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: lives(30 * time.Second),
			OnPublish: func(context.Context, server.Principal, server.Message) error {
				srv.Load().Reauthenticate("ann", time.Second)
				return nil
			}}})
		srv.Store(r.srv)
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, Tok: "ann-1"})
		start := time.Now()
		c.send(msg(1, idOf(1), "t", "x"), auth("ann-2")) // of one batch: the request may not be sent yet
		c.wantClose(native.CloseAuthExpired)
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

// A connection whose HELLO waits for the old one to finish is asked after its WELCOME.
func TestReauthenticateBeforeTheWelcome(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		log := &gatedLog{Log: server.NewMemoryLog(server.Retention{})}
		r := newRig(t, &server.Options{Log: log, Hooks: server.Hooks{Authenticate: lives(30 * time.Second)}})
		old := r.connect(enc)
		h := resume(old.hello(native.Hello{CN: 1, Tok: "ann-1"}), 2, 1, 1)
		h.Tok = "ann-2"
		log.hold()
		old.publish(1, "t", "x")
		synctest.Wait()
		c := r.connect(enc)
		c.send(native.Frame{Type: native.TypeHello, Hello: &h})
		synctest.Wait()
		r.srv.Reauthenticate("ann", 5*time.Second)
		synctest.Wait()
		log.open()
		c.next(native.TypeWelcome)
		if a := c.next(native.TypeAuth).Auth; *a != (native.Auth{Need: 5000}) {
			t.Errorf("asked with %+v", *a)
		}
		c.wantClose(native.CloseAuthExpired)
	})
}

// A token that was renewed is in no log line, and neither is what the hook says of it in words
// to the client.
func TestNewCredentialIsNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedText
		r := newRig(t, &server.Options{
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Hooks:  server.Hooks{Authenticate: lives(time.Minute)},
		})
		for _, token := range []string{"ann-canary", "bob-canary", "bad"} {
			c := r.connect(native.JSON)
			c.hello(native.Hello{CN: 1, Tok: "ann-canary-1"})
			c.send(auth(token))
			if token == "ann-canary" {
				c.next(native.TypeAuth)
				continue
			}
			c.wantClose(native.CloseAuthInvalid)
		}
		r.close()
		synctest.Wait()
		if text := log.text(); strings.Contains(text, "canary") || !strings.Contains(text, "another principal") {
			t.Error(text)
		}
	})
}
