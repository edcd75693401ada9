package limpet_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

func TestAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const good = "canary-token-b"
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				if token != good {
					return server.Principal{}, errors.New("no")
				}
				return server.Principal{ID: "p"}, nil
			}}}})
		var infos []limpet.AttemptInfo
		c := dial(t, srv, &limpet.Options{Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			infos = append(infos, info)
			if !info.Refresh {
				return limpet.Credential{Token: "canary-token-a"}, nil
			}
			return limpet.Credential{Token: good}, nil
		}})
		if len(infos) != 2 || infos[0].Refresh || !infos[1].Refresh || limpet.ClassOf(infos[1].Cause) != limpet.ClassAuth {
			t.Errorf("Auth was asked %+v", infos)
		}
		if s := c.State(); s.Phase != limpet.Ready || strings.Contains(fmt.Sprintf("%+v", s), "canary") {
			t.Errorf("%+v", s)
		}
	})
}

func TestRefusedTwiceIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.RefuseUpgrade(401, nil) })
		calls := 0
		_, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				calls++
				return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary"}}}, nil
			}}))
		var p *limpet.PermanentError
		if !errors.As(err, &p) || p.Class != limpet.ClassAuth || calls != 2 {
			t.Errorf("after %d calls: %v", calls, err)
		}
		if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "canary") {
			t.Errorf("the error holds the credential: %+v", err)
		}
	})
}

// An error made with Permanent ends the client also if its attempt has ended before.
func TestPermanentAfterTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), DialTimeout: time.Second,
			Auth: func(ctx context.Context, _ limpet.AttemptInfo) (limpet.Credential, error) {
				<-ctx.Done()
				time.Sleep(50 * time.Millisecond)
				return limpet.Credential{}, limpet.Permanent(errors.New("account closed"))
			}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var p *limpet.PermanentError
		if err := c.WaitReady(ctx); !errors.As(err, &p) || p.Class != limpet.ClassAuth {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Second)
	})
}

func TestHangingAuthHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		release := make(chan struct{})
		var calls atomic.Int32
		c, err := limpet.New(srv.URL(), options(&limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				calls.Add(1)
				<-release // regardless of ctx
				return limpet.Credential{}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if n := calls.Load(); n != 1 {
			t.Errorf("Auth runs %d times at once", n)
		}
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		close(release)
	})
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
		s, err := c.WaitState(testContext(t), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || !errors.Is(s.Cause, limpet.ErrRedirect) || limpet.ClassOf(s.Cause) != limpet.ClassNotWebSocket {
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

// testContext ends a test on real sockets that would hang.
func testContext(t testing.TB) context.Context {
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

	_, err = limpet.Dial(testContext(t), url, options(nil))
	var p *limpet.PermanentError
	if !errors.As(err, &p) || p.Class != limpet.ClassTLS {
		t.Errorf("unknown authority: %v", err)
	}
	client := web.Client()
	c, err := limpet.Dial(testContext(t), url, options(&limpet.Options{HTTPClient: client}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(testContext(t), "a", []byte("x"), nil); err != nil {
		t.Error(err)
	}
	if err := c.Shutdown(testContext(t)); err != nil {
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
		s, err := c.WaitState(testContext(t), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || limpet.ClassOf(s.Cause) != want {
			t.Errorf("%s: class %q, want %q: %v", url, limpet.ClassOf(s.Cause), want, s.Cause)
		}
		if strings.Contains(fmt.Sprint(s.Cause), "canary") {
			t.Errorf("the cause repeats the query: %v", s.Cause)
		}
		closeAndWait(t, c)
	}
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
	_, err := limpet.Dial(testContext(t), wsURL(web)+"/?key=canary-q", options(&limpet.Options{
		Header: http.Header{"X-Api-Key": {"canary-h"}},
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary-b"}}}, nil
		}}))
	if text := fmt.Sprintf("%+v", err); !strings.Contains(text, "bad request") || strings.Contains(text, "canary") {
		t.Errorf("%s", text)
	}
}

// Only the secret itself, without the scheme before it, is repeated.
func TestWordOfACredentialIsNotRepeated(t *testing.T) {
	assert.NoLeaks(t)
	for _, echo := range []string{"canary-b", "hunter22", "canary-c", "canary%20q"} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, "bad word %s, sorry", echo)
		}))
		_, err := limpet.Dial(testContext(t), wsURL(web)+"/?key=canary%20q", options(&limpet.Options{
			Header: http.Header{"Cookie": {"a=1; sid=canary-c"}, "X-Basic": {"Basic " + base64.StdEncoding.EncodeToString([]byte("u:hunter22"))}},
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary-b"}}}, nil
			}}))
		if text := fmt.Sprintf("%+v", err); !strings.Contains(text, "bad word [secret], sorry") {
			t.Errorf("%s", text)
		}
		web.Close()
	}
}

// A header is sent once, whatever the spellings of its name.
func TestCredentialReplacesAHeaderInAnySpelling(t *testing.T) {
	assert.NoLeaks(t)
	sent := make(chan []string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent <- r.Header["X-Api-Key"]
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer web.Close()
	_, err := limpet.Dial(testContext(t), wsURL(web), options(&limpet.Options{
		Header: http.Header{"x-api-key": {"old"}},
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Header: http.Header{"X-API-KEY": {"new"}}}, nil
		}}))
	if got := <-sent; len(got) != 1 || got[0] != "new" {
		t.Errorf("sent %q: %v", got, err)
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
		if err != nil || limpet.ClassOf(s.Cause) != limpet.ClassUser {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// A refusal asks for a new credential until Auth has given one: a failure of
// Auth in between must not bring the refused credential back.
func TestRefreshIsAskedForUntilGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.RefuseUpgrade(401, nil))
		var refresh []bool
		c, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
				refresh = append(refresh, info.Refresh)
				if len(refresh) == 2 {
					return limpet.Credential{}, errors.New("issuer is busy")
				}
				return limpet.Credential{}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if len(refresh) != 3 || refresh[0] || !refresh[1] || !refresh[2] {
			t.Errorf("Auth was asked for a new credential: %v", refresh)
		}
	})
}

// A credential that no handshake can carry is the fault of Auth, not of the
// server.
func TestUnusableTokenIsAuthsFault(t *testing.T) {
	for _, token := range []string{strings.Repeat("x", 8<<10+1), "\xff", "token\n", "to\x00ken"} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			calls := 0
			c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(),
				Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
					if calls++; calls < 5 {
						return limpet.Credential{Token: limpet.Secret(token)}, nil
					}
					return limpet.Credential{Token: "good"}, nil
				}}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
			if limpet.ClassOf(st.Cause) != limpet.ClassUser {
				t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
			}
			if err := c.WaitReady(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A 101 that neither upgrades nor can be written to makes no connection.
func TestTransportThatKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := limpet.Dial(ctx, "ws://localhost", options(&limpet.Options{HTTPClient: &http.Client{Transport: readOnlyTransport{}}}))
		if err == nil || !strings.Contains(err.Error(), "the 101 lacks Connection: Upgrade") {
			t.Errorf("%v", err)
		}
	})
}

type readOnlyTransport struct{}

func (readOnlyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 101, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

// http.Client.Timeout bounds the dial and nothing after it.
func TestClientTimeoutBoundsTheDialOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := srv.HTTPClient()
		client.Timeout = 2 * time.Second
		srv.Inject(limpettest.Stall(time.Minute))
		at := time.Now()
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: client}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if _, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil }); err != nil || time.Since(at) != client.Timeout {
			t.Errorf("after %v: %v", time.Since(at), err)
		}
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if g := c.State().Generation; g != 1 {
			t.Errorf("%d connections", g)
		}
	})
}

// Close codes, by what the client does: come back or stop, and under which
// class (docs/reconnect.md, section 3; docs/protocol.md, section 7).
func TestCloseCodeVerdicts(t *testing.T) {
	for _, tc := range []struct {
		code  uint16
		class limpet.ErrorClass
		final bool
	}{
		{1000, limpet.ClassNetwork, false}, {1001, limpet.ClassNetwork, false}, {1003, limpet.ClassProtocol, true},
		{1002, limpet.ClassProtocol, false}, {1007, limpet.ClassProtocol, false}, {1008, limpet.ClassAuth, false},
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
				if got := limpet.ClassOf(s.Cause); got != tc.class {
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

func TestStatusVerdicts(t *testing.T) {
	for _, tc := range []struct {
		status int
		class  limpet.ErrorClass
		final  bool
	}{
		{400, limpet.ClassHTTP, true}, {401, limpet.ClassAuth, true}, {403, limpet.ClassAuth, true},
		{404, limpet.ClassHTTP, true}, {405, limpet.ClassHTTP, true}, {407, limpet.ClassProxy, true},
		{408, limpet.ClassHTTP, false}, {410, limpet.ClassHTTP, true}, {421, limpet.ClassHTTP, false},
		{425, limpet.ClassHTTP, false}, {426, limpet.ClassHTTP, true}, {429, limpet.ClassOverload, false},
		{431, limpet.ClassHTTP, true}, {500, limpet.ClassHTTP, false}, {501, limpet.ClassHTTP, true},
		{502, limpet.ClassHTTP, false}, {503, limpet.ClassOverload, false}, {504, limpet.ClassHTTP, false},
		{520, limpet.ClassHTTP, false}, {200, limpet.ClassNotWebSocket, false}, {302, limpet.ClassNotWebSocket, false},
	} {
		t.Run(http.StatusText(tc.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				srv.Inject(limpettest.RefuseUpgrade(tc.status, http.Header{"Location": {"http://127.0.0.1:1/"}}))
				c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				s, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
				if got := limpet.ClassOf(s.Cause); got != tc.class {
					t.Errorf("class %q, want %q: %v", got, tc.class, s.Cause)
				}
				var e *limpet.Error
				if !errors.As(s.Cause, &e) || e.Code != tc.status {
					t.Errorf("cause does not name the status: %v", s.Cause)
				}
				if hint := strings.Contains(s.Cause.Error(), "docs/fallback.md"); hint != (tc.status == http.StatusUpgradeRequired) {
					t.Errorf("the fallback is named: %v: %v", hint, s.Cause) // 426 says that no upgrade has arrived
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
