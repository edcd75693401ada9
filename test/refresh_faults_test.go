package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

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
		}, `limpet: refresh: Options.Auth: server answered 403 Forbidden: "[secret]"`},
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

// TestRefreshFailsForGood: an error made with Permanent is reported at once, and Auth is not called
// again. The connection works until the server ends it, and then the client ends.
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
			var log lockedBuffer
			asked := 0
			c := s.client(t, limpet.Options{Backoff: limpet.Backoff{KeepTrying: keep}, Logger: slog.New(slog.NewTextHandler(&log, nil)), Observer: observer(i.observe),
				Verdict: func(_ wire.Failure, would wire.Verdict) wire.Verdict { asked++; return would }})
			time.Sleep(80 * time.Second)
			synctest.Wait()
			st := c.State()
			if st.Phase != limpet.Ready || !errors.Is(st.NoCredential, errClosedAccount) || limpet.ClassOf(st.NoCredential) != limpet.ClassAuth || strings.Contains(st.NoCredential.Error(), "canary") {
				t.Errorf("%+v", st)
			}
			if text := log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "no other credential") || strings.Contains(text, "canary") {
				t.Error(text)
			}
			s.current().sendFrames(authFrame(native.Auth{Need: 60_000})) // the server wants one: there is none
			time.Sleep(30 * time.Minute)
			if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 || asked != 0 {
				t.Errorf("%+v, verdict asked %d times", st, asked)
			}
			s.current().ws.CloseNow()
			<-c.Done()
			var p *limpet.PermanentError
			if err := c.Err(); !errors.As(err, &p) || p.Class != limpet.ClassAuth || !errors.Is(err, errClosedAccount) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%v", err)
			}
			synctest.Wait()
			if got, want := i.noted(), "0s attempt; 0s hello 1 with token-1; 1m20s connected refresh; 1m20s ended: limpet: refresh: Options.Auth: [secret]: account closed"; got != want || asked != 1 {
				t.Errorf("%s\nwant %s; verdict asked %d times", got, want, asked)
			}
		})
	}
}

// TestRefreshOfALostConnection: what Auth returns after the connection was lost is not sent on the
// next one, whether it obeys its context or not. The attempt does not trip over it.
func TestRefreshOfALostConnection(t *testing.T) {
	for name, tc := range map[string]struct {
		obeys bool
		late  time.Duration
	}{
		"obeys":        {true, 0},
		"a while late": {true, 50 * time.Millisecond},
		"returns late": {false, 90 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer()
				i.answer = func(ctx context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
					if n == 2 {
						if tc.obeys {
							<-ctx.Done()
						}
						time.Sleep(tc.late)
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
				if st, attempts := c.State(), c.Stats().Attempts; st.Phase != limpet.Ready || st.Generation != 2 || attempts != 2 || st.Since.Sub(i.began) > 81*time.Second {
					t.Errorf("%d attempts: %+v", attempts, st)
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

// TestWishDuringACall: a call of Auth that takes its time serves what the server asks for meanwhile.
func TestWishDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(_ context.Context, _ int, info limpet.AttemptInfo) (none limpet.Credential, err error) {
			if info.Connected {
				time.Sleep(5 * time.Second)
			}
			return none, nil
		}
		s := newAuthScript(t, i, 0, accepts(0))
		s.client(t, limpet.Options{})
		for range 3 {
			s.current().sendFrames(authFrame(native.Auth{Need: 60_000}))
			time.Sleep(2 * time.Second)
		}
		time.Sleep(10 * time.Second)
		if got, want := i.noted(), "0s attempt; 0s hello 1 with token-1; 0s connected refresh; 5s auth 1 with token-2; 5s refreshed for 0s"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// TestRefreshThatPanicsIsLogged: a warning with the stack, which says where.
func TestRefreshThatPanicsIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		var log lockedBuffer
		i.answer = func(_ context.Context, n int, _ limpet.AttemptInfo) (none limpet.Credential, err error) {
			if n == 2 {
				panic("no issuer")
			}
			return none, nil
		}
		s := newAuthScript(t, i, 100_000, accepts(0))
		s.client(t, limpet.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		time.Sleep(90 * time.Second)
		line := log.String()[strings.Index(log.String(), "level=WARN"):]
		for _, part := range []string{`msg="limpet: credential not refreshed"`, "class=user", "no issuer", "again=1", "refresh_faults_test.go"} {
			if !strings.Contains(line, part) {
				t.Errorf("no %s in %s", part, line)
			}
		}
	})
}
