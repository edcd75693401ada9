package limpet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// Close codes, by what the client does: come back or stop, and under which
// class (docs/reconnect.md, section 3; docs/protocol.md, section 7).
func TestCloseCodeVerdicts(t *testing.T) {
	for _, tc := range []struct {
		code  uint16
		class limpet.ErrorClass
		final bool
	}{
		{1000, limpet.ClassNetwork, false}, {1001, limpet.ClassNetwork, false}, {1003, limpet.ClassProtocol, true},
		{1002, limpet.ClassProtocol, false}, {1007, limpet.ClassProtocol, false}, {1008, limpet.ClassAuth, true},
		{1009, limpet.ClassProtocol, false}, {1010, limpet.ClassProtocol, true}, {1011, limpet.ClassNetwork, false},
		{1012, limpet.ClassNetwork, false}, {1013, limpet.ClassOverload, false}, {1014, limpet.ClassNetwork, false},
		{3000, limpet.ClassNetwork, false}, {4000, limpet.ClassProtocol, true}, {4003, limpet.ClassAuth, true},
		{4006, limpet.ClassSession, true}, {4007, limpet.ClassSession, true}, {4099, limpet.ClassProtocol, true},
		{4100, limpet.ClassAuth, true}, {4200, limpet.ClassOverload, false}, {4207, limpet.ClassProtocol, false},
		{4299, limpet.ClassOverload, false}, {4300, "going_away", false}, {4400, limpet.ClassSession, false},
		{4402, limpet.ClassSession, false}, {4500, limpet.ClassNetwork, false},
	} {
		t.Run(fmt.Sprint(tc.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				srv.Network.Strike(limpettest.CloseWith(tc.code, "because \x1b[31m", 0))
				s, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
				if err != nil {
					t.Fatal(err)
				}
				var e *limpet.Error
				if !errors.As(s.Cause, &e) || e.Code != int(tc.code) || strings.Contains(s.Cause.Error(), "\x1b") {
					t.Errorf("cause %q", s.Cause)
				}
				if got := limpet.Class(s.Cause); got != tc.class {
					t.Errorf("class %q, want %q", got, tc.class)
				}
				err = c.WaitReady(context.Background())
				var p *limpet.PermanentError
				if final := errors.As(err, &p); final != tc.final {
					t.Errorf("final = %v, want %v: %v", final, tc.final, err)
				}
			})
		})
	}
}

// Redirects are not followed, so no credential reaches another host.
func TestRedirectCarriesNothing(t *testing.T) {
	assert.NoLeaks(t)
	var reached atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		first := httptest.NewServer(http.RedirectHandler(other.URL, status))
		c, err := limpet.New(wsURL(first), options(&limpet.Options{
			Header: http.Header{"X-Api-Key": {"canary"}},
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Header: http.Header{"Authorization": {"canary"}}}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.WaitState(bounded(t), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || !errors.Is(s.Cause, limpet.ErrRedirect) || limpet.Class(s.Cause) != limpet.ClassNotWebSocket {
			t.Errorf("%d: %v %v", status, s.Cause, err)
		}
		closeAndWait(t, c)
		first.Close()
	}
	if reached.Load() != 0 {
		t.Errorf("%d requests reached the other host", reached.Load())
	}
}

func wsURL(s *httptest.Server) string { return "ws" + strings.TrimPrefix(s.URL, "http") }

// bounded ends a test on real sockets that would hang.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestTLS(t *testing.T) {
	assert.NoLeaks(t)
	backend, err := server.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	web := httptest.NewUnstartedServer(backend)
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	web.StartTLS()
	defer web.Close()
	url := "wss" + strings.TrimPrefix(web.URL, "https")

	_, err = limpet.Dial(bounded(t), url, options(nil))
	var p *limpet.PermanentError
	if !errors.As(err, &p) || p.Class != limpet.ClassTLS {
		t.Errorf("unknown authority: %v", err)
	}
	client := web.Client()
	c, err := limpet.Dial(bounded(t), url, options(&limpet.Options{HTTPClient: client}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(bounded(t), "a", []byte("x"), nil); err != nil {
		t.Error(err)
	}
	if err := c.Shutdown(bounded(t)); err != nil {
		t.Error(err)
	}
	client.CloseIdleConnections()
}

func TestDialErrorsHaveAClass(t *testing.T) {
	assert.NoLeaks(t)
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for url, want := range map[string]limpet.ErrorClass{
		wsURL(closed): limpet.ClassDial,
		"wss" + strings.TrimPrefix(plain.URL, "http"): limpet.ClassTLS,
		"wss://no-such-host.invalid/?key=canary":      limpet.ClassDNS,
		wsURL(plain) + "/?key=canary":                 limpet.ClassHTTP,
	} {
		c, err := limpet.New(url, options(nil))
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.WaitState(bounded(t), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || limpet.Class(s.Cause) != want {
			t.Errorf("%s: class %q, want %q: %v", url, limpet.Class(s.Cause), want, s.Cause)
		}
		if strings.Contains(fmt.Sprint(s.Cause), "canary") {
			t.Errorf("the cause repeats the query: %v", s.Cause)
		}
		closeAndWait(t, c)
	}
}

// Everything above, in the log: what happened at its level, and no secret.
func TestLogging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		srv := limpettest.NewServer(t, nil)
		c, err := limpet.Dial(context.Background(), srv.URL()+"/?token=canary", options(&limpet.Options{
			HTTPClient: srv.HTTPClient(), Logger: logger,
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Token: "canary", Header: http.Header{"Authorization": {"canary"}}}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		live(t, c, "a", nil)
		srv.Network.Strike(limpettest.CloseWith(4200, "line\nbreak", 0))
		synctest.Wait()
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		srv.Network.Strike(limpettest.CloseWith(4003, "go", 0))
		<-c.Done()
		synctest.Wait()
		text := out.String()
		for _, want := range []string{
			`level=INFO msg="limpet: ready"`, `level=WARN msg="limpet: waiting"`, `level=ERROR msg="limpet: ended"`,
			`level=INFO msg="limpet: subscription"`, "class=overload", "class=auth",
			`level=WARN msg="limpet: credential in the URL, use Options.Auth"`,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the log lacks %s:\n%s", want, text)
			}
		}
		if n := strings.Count(text, `"limpet: ready"`); n != 2 {
			t.Errorf("two connections became ready, the log says so %d times:\n%s", n, text)
		}
		if strings.Contains(text, "canary") {
			t.Errorf("the log holds a secret:\n%s", text)
		}
		if strings.Contains(text, "line\nbreak") {
			t.Errorf("the log repeats a line break of the peer:\n%s", text)
		}
	})
}

// An ordered end is told once: ready is not said a second time.
func TestShutdownInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		live(t, c, "a", nil)
		if err := c.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		text := out.String()
		if strings.Count(text, `"limpet: ready"`) != 1 || strings.Count(text, `"limpet: ended"`) != 1 || strings.Contains(text, "level=ERROR") {
			t.Errorf("%s", text)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A server that repeats the credential in its refusal does not bring it into
// errors and logs.
func TestEchoedCredentialIsNotRepeated(t *testing.T) {
	assert.NoLeaks(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "bad request: %v %v", r.Header, r.URL)
	}))
	defer web.Close()
	_, err := limpet.Dial(bounded(t), wsURL(web)+"/?key=canary-q", options(&limpet.Options{
		Header: http.Header{"X-Api-Key": {"canary-h"}},
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary-b"}}}, nil
		}}))
	if text := fmt.Sprintf("%+v", err); !strings.Contains(text, "bad request") || strings.Contains(text, "canary") {
		t.Errorf("%s", text)
	}
}

func TestGoexitInAuthIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				runtime.Goexit()
				panic("not reached")
			}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
		if err != nil || limpet.Class(s.Cause) != limpet.ClassUser {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
