package test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
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
)

// site is a set of hosts on one network, and what they were asked.
type site struct {
	network *limpettest.Network
	backend *server.Server // of a host without an answer of its own

	mu    sync.Mutex
	asked []*http.Request
}

func newSite(t *testing.T) *site {
	backend, err := server.New(&server.Options{Hosts: []string{"*"}})
	assert.NoError(t, err)
	s := &site{network: limpettest.NewNetwork(nil), backend: backend}
	t.Cleanup(func() { backend.Close(); s.network.Close() })
	return s
}

// host adds a host. Without an answer it is a server of limpet.v1.
func (s *site) host(t *testing.T, addr string, answer http.HandlerFunc) {
	if answer == nil {
		answer = s.backend.ServeHTTP
	}
	limpettest.NewHandler(t, s.notes(answer), &limpettest.HostOptions{On: s.network, Addr: addr})
}

// notes records each request that next gets.
func (s *site) notes(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Clone(context.Background()))
		s.mu.Unlock()
		next(w, r)
	}
}

// requests returns the requests so far, as "host/path?query".
func (s *site) requests() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.asked {
		all = append(all, r.Host+r.URL.RequestURI())
	}
	return all
}

// withinAnHour ends what waits for a connection that does not come, in virtual time.
func withinAnHour(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	return ctx
}

func redirect(status int, location string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
		fmt.Fprintf(w, `<a href="%s">moved</a>`, location)
	}
}

// A listed host gets the request as the first one got it, in the same attempt.
func TestRedirectIsFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.host(t, "a.test:80", redirect(status, "http://b.test/v2?node=7"))
				s.host(t, "b.test:80", nil)
				client := s.network.HTTPClient()
				client.Jar, _ = cookiejar.New(nil)
				client.Jar.SetCookies(&url.URL{Scheme: "http", Host: "b.test"}, []*http.Cookie{{Name: "sid", Value: "of-b"}})
				var infos []limpet.AttemptInfo
				c, err := limpet.Dial(withinAnHour(t), "ws://a.test/v1?lang=en", options(&limpet.Options{
					HTTPClient: client, AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}},
					Header: http.Header{"X-Api-Key": {"k"}}, Backoff: limpet.Backoff{First: -1},
					Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
						infos = append(infos, info)
						return limpet.Credential{Header: http.Header{"Authorization": {"Bearer b"}}, Subprotocols: []string{"bearer.b"}}, nil
					},
					Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
						return url.Values{"ticket": {fmt.Sprint("t", len(infos))}}, nil
					},
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				if st := c.State(); st.Host != "a.test" || len(infos) != 1 || st.Generation != 1 {
					t.Errorf("%+v after %d calls of Auth", st, len(infos))
				}
				got := s.asked[1]
				if got.Header.Get("Authorization") != "Bearer b" || got.Header.Get("X-Api-Key") != "k" || got.Header.Get("Cookie") != "sid=of-b" ||
					!strings.Contains(got.Header.Get("Sec-WebSocket-Protocol"), "bearer.b") {
					t.Errorf("the listed host got %v", got.Header)
				}
				_, err = c.Send(t.Context(), "topic", []byte("x"), nil)
				assert.NoError(t, err)
				s.network.CutAll() // the next attempt begins at the URL again
				_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
				assert.NoError(t, err)
				want := []string{"a.test/v1?lang=en&ticket=t1", "b.test/v2?node=7&ticket=t1", "a.test/v1?lang=en&ticket=t2", "b.test/v2?node=7&ticket=t2"}
				if got := s.requests(); !slices.Equal(got, want) {
					t.Errorf("requests %q", got)
				}
			})
		})
	}
}

// What is not allowed is not followed: nothing reaches the other host, and the error names it.
func TestRedirectIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		hosts  []string
		answer http.HandlerFunc
		text   string // in the error
	}{
		"no list":            {nil, redirect(302, "http://b.test/?key=canary"), `to the host "b.test", which is not in the list`},
		"no list, same host": {nil, redirect(302, "/v2?key=canary"), `to the host "a.test"`},
		"another host":       {[]string{"c.test", "b.test:81"}, redirect(302, "http://b.test/?key=canary"), `to the host "b.test", which is not in the list`},
		"another port":       {[]string{"b.test"}, redirect(302, "http://b.test:81/canary"), `to the host "b.test:81"`},
		"user information":   {[]string{"b.test"}, redirect(302, "http://canary:x@b.test/"), "user information"},
		"303":                {[]string{"b.test"}, redirect(303, "http://b.test/canary"), "with the status 303"},
		"300":                {[]string{"b.test"}, redirect(300, "http://b.test/canary"), "with the status 300"},
		"304":                {[]string{"b.test"}, redirect(304, "http://b.test/canary"), "with the status 304"},
		"305, use a proxy":   {[]string{"b.test"}, redirect(305, "http://b.test/canary"), "with the status 305"},
		"no location":        {[]string{"b.test"}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) }, "to 0 locations"},
		"two locations": {[]string{"b.test"}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Location"] = []string{"http://b.test/1", "http://b.test/2"}
			w.WriteHeader(302)
		}, "to 2 locations"},
		"no URL":  {[]string{"b.test"}, redirect(302, "mailto:canary@b.test"), "no URL of a WebSocket service"},
		"a loop":  {[]string{"b.test"}, redirect(302, "/v1"), `in a loop, back to the host "a.test"`},
		"no end":  {[]string{"b.test"}, func(w http.ResponseWriter, r *http.Request) { redirect(302, r.URL.Path+"1")(w, r) }, "more than 5 times"},
		"a token": {[]string{"b.test"}, redirect(302, "http://b.test/?token=canary"), "Options.StrictURL"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.host(t, "a.test:80", tc.answer)
				for _, addr := range []string{"b.test:80", "b.test:81"} {
					s.host(t, addr, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked: %v", r.Host, r.Header) })
				}
				c, err := limpet.New("ws://a.test/v1", options(&limpet.Options{
					HTTPClient: s.network.HTTPClient(), AllowInsecure: true, StrictURL: true, Redirects: limpet.Redirects{Hosts: tc.hosts},
					Header: http.Header{"X-Api-Key": {"canary-h"}},
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				at := time.Now()
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				assert.NoError(t, err)
				var e *limpet.Error
				if !errors.Is(st.Cause, limpet.ErrRedirect) || !errors.As(st.Cause, &e) || e.Field != "Options.Redirects" || e.Class != limpet.ClassNotWebSocket || e.Code < 300 {
					t.Errorf("%+v", st.Cause)
				}
				if text := fmt.Sprintf("%v %+v", st.Cause, st); !strings.Contains(text, tc.text) || strings.Contains(text, "canary") {
					t.Errorf("%s", text)
				}
				if wait := st.NextAttempt.Sub(at); wait < 7500*time.Millisecond {
					t.Errorf("the next attempt follows after %v", wait)
				}
				if n := len(s.requests()); n > 6 {
					t.Errorf("%d requests in one attempt", n)
				}
			})
		})
	}
}

// As many redirects as are allowed, relative ones among them.
func TestRedirectsInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.host(t, "a.test:80", func(w http.ResponseWriter, r *http.Request) {
			to := map[string]string{"/x/1": "2", "/x/2": "../3", "/3": "?4", "/3?4": "//b.test:81/5"}[r.URL.RequestURI()]
			redirect(307, to)(w, r)
		})
		s.host(t, "b.test:81", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/5" {
				redirect(308, "http://b.test:81/6")(w, r)
				return
			}
			s.backend.ServeHTTP(w, r)
		})
		c, err := limpet.Dial(withinAnHour(t), "ws://a.test/x/1", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test:81"}}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		want := []string{"a.test/x/1", "a.test/x/2", "a.test/3", "a.test/3?4", "b.test:81/5", "b.test:81/6"}
		if got := s.requests(); !slices.Equal(got, want) {
			t.Errorf("requests %q", got)
		}
	})
}

// virtualHost sends a Host of its own.
type virtualHost struct{ rawDialect }

func (virtualHost) Attempt(a *wire.Attempt) error {
	a.Header.Set("Host", "virtual.test")
	a.Dial = true
	return nil
}

// The Host of a dialect is for the host of the URL, and for no other.
func TestRedirectOfADialectWithAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.host(t, "a.test:80", func(w http.ResponseWriter, r *http.Request) {
			redirect(307, map[string]string{"/1": "/2", "/2": "http://b.test/3"}[r.URL.Path])(w, r)
		})
		s.host(t, "b.test:80", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) })
		_, err := limpet.Dial(withinAnHour(t), "ws://a.test/1", options(&limpet.Options{Dialect: virtualHost{},
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}}))
		if got := s.requests(); !slices.Equal(got, []string{"virtual.test/1", "virtual.test/2", "b.test/3"}) {
			t.Errorf("requests %q: %v", got, err)
		}
	})
}

// What the last host answers is the answer of the attempt.
func TestAnswerAfterARedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var at []time.Time
		answers := []http.HandlerFunc{
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
			func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "90"); w.WriteHeader(503) },
			func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "70"); w.WriteHeader(429) },
			s.backend.ServeHTTP,
		}
		s.host(t, "a.test:80", redirect(302, "http://b.test/"))
		s.host(t, "b.test:80", func(w http.ResponseWriter, r *http.Request) {
			at = append(at, time.Now())
			answers[len(at)-1](w, r)
		})
		var refresh []bool
		var causes []string
		c, err := limpet.New("ws://a.test/v1", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}},
			Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
				refresh = append(refresh, info.Refresh)
				causes = append(causes, fmt.Sprint(info.Cause))
				return limpet.Credential{Token: limpet.Secret(fmt.Sprint("t", len(refresh)))}, nil
			},
		}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		assert.NoError(t, c.WaitReady(withinAnHour(t)))
		if !slices.Equal(refresh, []bool{false, true, false, false}) || at[2].Sub(at[1]) < 90*time.Second || at[3].Sub(at[2]) < 70*time.Second {
			t.Errorf("refresh %v, attempts at %v", refresh, at)
		}
		for i, status := range []string{"401", "503", "429"} {
			if !strings.Contains(causes[i+1], `after a redirect to "b.test": server answered `+status) {
				t.Errorf("%s", causes[i+1])
			}
		}
	})
}

// A redirect that asks to wait first is not followed before that, and not at all.
func TestRedirectWithATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		first := true
		s.host(t, "a.test:80", func(w http.ResponseWriter, r *http.Request) {
			if first {
				w.Header().Set("Retry-After", "60")
			}
			first = false
			redirect(307, "http://b.test/")(w, r)
		})
		s.host(t, "b.test:80", nil)
		began := time.Now()
		c, err := limpet.New("ws://a.test", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		assert.NoError(t, c.WaitReady(withinAnHour(t)))
		if took := time.Since(began); took < time.Minute || len(s.requests()) != 3 {
			t.Errorf("ready after %v, requests %q", took, s.requests())
		}
	})
}

// DialTimeout bounds all requests of an attempt together.
func TestRedirectsShareTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.host(t, "a.test:80", redirect(302, "http://b.test/"))
		s.host(t, "b.test:80", nil)
		s.network.Inject(limpettest.Stall(4*time.Second), limpettest.Stall(time.Minute))
		began := time.Now()
		c, err := limpet.New("ws://a.test", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, DialTimeout: 5 * time.Second, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if took := time.Since(began); err != nil || limpet.ClassOf(st.Cause) != limpet.ClassTimeout || took != 5*time.Second {
			t.Errorf("after %v: %v, %v", took, st.Cause, err)
		}
	})
}

// serveTLS serves HTTP through TLS until the test ends.
func serveTLS(t *testing.T, n *limpettest.Network, addr string, h http.Handler, cfg *tls.Config) {
	l, err := n.Listen(addr)
	assert.NoError(t, err)
	web := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	cfg.NextProtos = []string{"http/1.1"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		web.Serve(tls.NewListener(l, cfg))
	}()
	t.Cleanup(func() { web.Close(); <-done })
}

// An encrypted connection never becomes clear text, whatever is listed and allowed.
func TestRedirectKeepsTheEncryption(t *testing.T) {
	donor := httptest.NewTLSServer(nil) // its certificate is valid for example.com
	donor.Close()
	pool := donor.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, location := range []string{"http://b.test/?key=canary", "ws://b.test/?key=canary", "https://b.example.com/"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			secure := func(addr string, h http.HandlerFunc) {
				serveTLS(t, s.network, addr, s.notes(h), &tls.Config{Certificates: donor.TLS.Certificates})
			}
			secure("example.com:443", redirect(302, location))
			secure("b.example.com:443", s.backend.ServeHTTP)
			s.host(t, "b.test:80", func(http.ResponseWriter, *http.Request) { t.Error("clear text was used") })
			client := s.network.HTTPClient()
			client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
			c, err := limpet.New("wss://example.com", options(&limpet.Options{HTTPClient: client, AllowInsecure: true,
				Redirects: limpet.Redirects{Hosts: []string{"b.test", "b.example.com"}}}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
			assert.NoError(t, err)
			switch text := fmt.Sprint(st.Cause); {
			case strings.HasPrefix(location, "https"):
				if st.Phase != limpet.Ready {
					t.Errorf("%s: %v", location, st.Cause)
				}
			case !errors.Is(st.Cause, limpet.ErrRedirect) || !strings.Contains(text, `clear text at "b.test"`) || strings.Contains(text, "canary"):
				t.Errorf("%s: %s", location, text)
			}
		})
	}
}

// Clear text to another machine needs AllowInsecure at each step.
func TestRedirectToAnotherMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.host(t, "localhost:80", redirect(302, "http://b.test/"))
		s.host(t, "b.test:80", func(http.ResponseWriter, *http.Request) { t.Error("another machine was asked") })
		c, err := limpet.New("ws://localhost", options(&limpet.Options{HTTPClient: s.network.HTTPClient(), Redirects: limpet.Redirects{Hosts: []string{"b.test"}}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || !errors.Is(st.Cause, limpet.ErrRedirect) || !strings.Contains(st.Cause.Error(), "Options.AllowInsecure") {
			t.Errorf("%v, %v", st.Cause, err)
		}
	})
}

// Each host of a redirect is reached through the proxy. A redirect by the proxy itself is its
// refusal, whatever is listed.
func TestRedirectThroughAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.host(t, "a.test:80", redirect(302, "http://b.test/"))
		s.host(t, "b.test:80", nil)
		p := newProxy(t, s.network, func(n int, nc net.Conn) bool {
			if n == 1 {
				return answers("HTTP/1.1 302 Found\r\nLocation: http://b.test/\r\nContent-Length: 0\r\n\r\n")(n, nc)
			}
			return answers("HTTP/1.1 200 OK\r\n\r\n")(n, nc)
		})
		client := s.network.HTTPClient()
		client.Transport.(*http.Transport).Proxy = proxyAt("http", proxyAddr)
		c, err := limpet.New("ws://a.test", options(&limpet.Options{HTTPClient: client, AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if err != nil || limpet.ClassOf(st.Cause) != limpet.ClassProxy || errors.Is(st.Cause, limpet.ErrRedirect) || len(s.requests()) != 0 {
			t.Errorf("%v, %v", st.Cause, err)
		}
		assert.NoError(t, c.WaitReady(withinAnHour(t)))
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.asked) != 3 || p.asked[1].Host != "a.test:80" || p.asked[2].Host != "b.test:80" {
			t.Errorf("the proxy was asked %+v", p.asked)
		}
	})
}

func TestBadRedirectHosts(t *testing.T) {
	_, err := limpet.New("wss://a.test", options(&limpet.Options{Redirects: limpet.Redirects{Hosts: []string{"b.test", "https://c.test/"}}}))
	var e *limpet.Error
	if !errors.As(err, &e) || e.Field != "Options.Redirects.Hosts[1]" || e.Class != limpet.ClassInput {
		t.Errorf("%v", err)
	}
	_, err = limpet.New("wss://a.test", options(&limpet.Options{Redirects: limpet.Redirects{Hosts: make([]string, 1001)}}))
	if !errors.As(err, &e) || e.Field != "Options.Redirects.Hosts" {
		t.Errorf("%v", err)
	}
}
