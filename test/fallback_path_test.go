package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// hangUpAfter ends the connection of an upgrade request without an answer, or with a 101 that
// nothing follows.
func hangUpAfter(head string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte(head))
			_ = conn.Close()
		}
	}
}

// Every answer that a path gives in the place of an upgrade leads to the fallback in the same
// attempt; those of a server that refuses the client itself do not.
func TestFallbackBeginsWhenThePathRefuses(t *testing.T) {
	answers := map[string]struct {
		upgrade func(http.ResponseWriter, *http.Request)
		falls   bool
	}{
		"200 html":               {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome to the hotel</html>") }, true},
		"204":                    {status(204), true},
		"101 without an upgrade": {hangUpAfter("HTTP/1.1 101 Switching Protocols\r\n\r\n"), true},
		"302": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}, false},
	}
	for _, code := range []int{400, 403, 404, 405, 406, 426, 501, 505} {
		answers[fmt.Sprint(code)] = struct {
			upgrade func(http.ResponseWriter, *http.Request)
			falls   bool
		}{status(code), true}
	}
	for _, code := range []int{401, 407, 408, 410, 429, 500, 502, 503, 504} {
		answers[fmt.Sprint(code)] = struct {
			upgrade func(http.ResponseWriter, *http.Request)
			falls   bool
		}{status(code), false}
	}
	for name, tc := range answers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				p.set(func() { p.upgrade = tc.upgrade })
				c := p.client(t, &limpet.Options{Backoff: limpet.Backoff{KeepTrying: true}})
				synctest.Wait()
				upgrades, gets, _ := p.counts()
				if tc.falls && (c.State().Phase != limpet.Ready || c.State().Transport != limpet.TransportHTTP || c.Stats().Attempts != 1 || gets != 1) {
					t.Errorf("not ready over the fallback in one attempt: %+v, %d GETs", c.State(), gets)
				}
				if !tc.falls && (gets != 0 || upgrades != 1) {
					t.Errorf("%d upgrades and %d GETs: %+v", upgrades, gets, c.State())
				}
			})
		})
	}
}

// Without the option nothing is tried, and with another dialect New refuses the option.
func TestFallbackIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		c, err := limpet.New(p.URL(), options(&limpet.Options{HTTPClient: p.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		if _, gets, _ := p.counts(); gets != 0 {
			t.Errorf("%d GETs without Options.Fallback", gets)
		}
		_, err = limpet.New(p.URL(), options(&limpet.Options{Fallback: true, Dialect: raw.New(raw.Options{})}))
		var refused *limpet.Error
		if !errors.As(err, &refused) || refused.Field != "Options.Fallback" || refused.Class != limpet.ClassInput {
			t.Errorf("with another dialect: %v", err)
		}
	})
}

// A path that lets an upgrade through and then carries nothing shows in three connections in a
// row; a server that speaks does not count.
func TestFallbackAfterThreeThatDie(t *testing.T) {
	for name, tc := range map[string]struct {
		upgrade func(http.ResponseWriter, *http.Request)
		falls   bool
	}{
		"no answer":        {hangUpAfter(""), true},
		"half a head":      {hangUpAfter("HTTP/1.1 101 Swit"), true},
		"nothing at all":   {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, true},
		"another protocol": {hangUpAfter("220 mail.example ESMTP\r\n"), true},
		"cut after 101": {func(w http.ResponseWriter, r *http.Request) {
			acceptThen(t, w, r, nil)
		}, true},
		"close code": {func(w http.ResponseWriter, r *http.Request) {
			acceptThen(t, w, r, []byte{0x88, 2, 4203 >> 8, 4203 & 0xff})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				p.set(func() { p.upgrade = tc.upgrade })
				c := p.client(t, &limpet.Options{Backoff: limpet.Backoff{Max: time.Second}, DialTimeout: 2 * time.Second})
				time.Sleep(20 * time.Second)
				synctest.Wait()
				upgrades, gets, _ := p.counts()
				if tc.falls && (c.State().Transport != limpet.TransportHTTP || upgrades != 3 || gets != 1) {
					t.Errorf("%d upgrades, %d GETs: %+v", upgrades, gets, c.State())
				}
				if !tc.falls && (gets != 0 || upgrades < 4) {
					t.Errorf("%d upgrades, %d GETs: %+v", upgrades, gets, c.State())
				}
			})
		})
	}
}

// An attempt or a handshake that the program has given up, because the server is slow, says
// nothing about the path.
func TestReconnectNowIsNoReasonToFallBack(t *testing.T) {
	for name, upgrade := range map[string]func(http.ResponseWriter, *http.Request){
		"attempt": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"handshake": func(w http.ResponseWriter, r *http.Request) {
			conn := accept(t, w, r)
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				p.set(func() { p.upgrade = upgrade })
				c := p.client(t, &limpet.Options{DialTimeout: 30 * time.Second})
				for range 6 {
					time.Sleep(6 * time.Second)
					c.ReconnectNow()
				}
				time.Sleep(6 * time.Second)
				if upgrades, gets, _ := p.counts(); upgrades < 5 || gets != 0 {
					t.Errorf("%d upgrades, %d GETs: %+v", upgrades, gets, c.State())
				}
			})
		})
	}
}

// acceptThen answers an upgrade as a server does, sends last and ends the connection.
func acceptThen(t testing.TB, w http.ResponseWriter, r *http.Request, last []byte) {
	conn := accept(t, w, r)
	_, _ = conn.Write(last)
	_ = conn.Close()
}

// accept answers an upgrade as a server does.
func accept(t testing.TB, w http.ResponseWriter, r *http.Request) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		panic(http.ErrAbortHandler)
	}
	protocol, _, _ := strings.Cut(r.Header.Get("Sec-WebSocket-Protocol"), ",")
	head := strings.TrimSuffix(upgradeResponse(r.Header.Get("Sec-WebSocket-Key")), "\r\n")
	fmt.Fprintf(conn, "%sSec-WebSocket-Protocol: %s\r\n\r\n", head, protocol)
	return conn
}

// Each attempt begins with WebSocket, but not within a minute of a refused upgrade: a path
// that changes is found soon, and one that flaps costs one request for each attempt.
func TestFallbackTriesWebSocketAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		c := p.client(t, nil)
		began := time.Now()
		for range 4 {
			awaitReady(t, c, limpet.TransportHTTP)
			time.Sleep(10 * time.Second)
			p.Network.ResetAll()
		}
		awaitReady(t, c, limpet.TransportHTTP)
		if upgrades, gets, _ := p.counts(); upgrades != 1 || gets != 5 || time.Since(began) > time.Minute {
			t.Errorf("%d upgrades and %d GETs after %v", upgrades, gets, time.Since(began))
		}
		time.Sleep(time.Minute)
		p.Network.ResetAll()
		awaitReady(t, c, limpet.TransportHTTP)
		if upgrades, _, _ := p.counts(); upgrades != 2 {
			t.Errorf("%d upgrades after more than a minute", upgrades)
		}
		p.set(func() { p.upgrade = nil })
		time.Sleep(61 * time.Second)
		p.Network.ResetAll()
		awaitReady(t, c, limpet.TransportWebSocket)
		p.set(func() { p.upgrade = status(426) })
		p.Network.ResetAll()
		awaitReady(t, c, limpet.TransportHTTP)
		// In the minute after that the fallback goes and WebSocket comes.
		p.set(func() {
			p.upgrade = nil
			p.get = func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "none", http.StatusUpgradeRequired)
			}
		})
		p.Network.ResetAll()
		awaitReady(t, c, limpet.TransportWebSocket)
	})
}

// What counts is the refusal of whoever knows the fallback; elsewhere that of the upgrade.
func TestFallbackRefused(t *testing.T) {
	refusal := func(code int, h http.Header) func(http.Handler, http.ResponseWriter, *http.Request) {
		return func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
			for k, v := range h {
				w.Header()[k] = v
			}
			http.Error(w, "no", code)
		}
	}
	for name, tc := range map[string]struct {
		get    func(http.Handler, http.ResponseWriter, *http.Request)
		status int           // of the error
		ended  bool          // it is final
		after  time.Duration // the next attempt is not before
	}{
		"not spoken: 426":  {refusal(426, nil), 501, true, 0},
		"not spoken: 404":  {refusal(404, nil), 501, true, 0},
		"not spoken: html": {refusal(200, nil), 501, true, 0},
		"a wrong type": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Limpet-Connection", strings.Repeat("a", 48))
			fmt.Fprint(w, "text")
		}, 501, true, 0},
		"no id": {func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.limpet.stream")
			fmt.Fprint(w, "text")
		}, 501, true, 0},
		"forbidden": {refusal(403, nil), 403, true, 0},
		"busy":      {refusal(503, http.Header{"Retry-After": {"30"}}), 503, false, 30 * time.Second},
		"broken":    {func(_ http.Handler, w http.ResponseWriter, r *http.Request) { hangUpAfter("")(w, r) }, 0, false, 0},
		"redirect":  {refusal(307, http.Header{"Location": {"https://elsewhere.example/"}}), 307, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNarrowPath(t, nil, nil)
				p.set(func() { p.upgrade, p.get = status(501), tc.get })
				c := p.client(t, nil)
				time.Sleep(time.Millisecond)
				synctest.Wait()
				s := c.State()
				var e *limpet.Error
				if !errors.As(s.Cause, &e) || e.Code != tc.status {
					t.Errorf("the cause is %v, want status %d", s.Cause, tc.status)
				}
				if (s.Phase == limpet.Ended) != tc.ended || time.Until(s.NextAttempt) < tc.after-time.Second && !tc.ended {
					t.Errorf("%+v", s)
				}
				if strings.Contains(fmt.Sprint(s.Cause), "127.0.0.1") {
					t.Errorf("the error has the URL: %v", s.Cause)
				}
			})
		})
	}
}

// Credentials go with the GET as with an upgrade. A ticket is asked for again, and no POST
// has it: it can be used once.
func TestFallbackCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen []string
		used := map[string]bool{}
		o := &server.Options{Hooks: server.Hooks{Authenticate: func(_ context.Context, r *http.Request, token string) (server.Principal, error) {
			ticket := r.URL.Query().Get("ticket")
			mu.Lock()
			defer mu.Unlock()
			if used[ticket] || ticket == "" || r.Header.Get("Authorization") != "Bearer canary" || token != "canary-token" || r.Header.Get("X-Api-Key") != "canary-key" {
				return server.Principal{}, errors.New("who?")
			}
			used[ticket] = true
			return server.Principal{ID: "me"}, nil
		}}}
		p := newNarrowPath(t, o, nil)
		note := func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization")+" "+r.Header.Get("X-Api-Key"))
			mu.Unlock()
			next.ServeHTTP(w, r)
		}
		p.set(func() { p.get, p.post = note, note })
		var out bytes.Buffer
		tickets := 0
		c := p.client(t, &limpet.Options{
			Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Header: http.Header{"X-Api-Key": {"canary-key"}},
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Token: "canary-token", Header: http.Header{"Authorization": {"Bearer canary"}}}, nil
			},
			Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
				tickets++
				return url.Values{"ticket": {fmt.Sprint("canary-", tickets)}}, nil
			},
		})
		awaitReady(t, c, limpet.TransportHTTP)
		if _, err := c.Publish(t.Context(), "a", []byte("b"), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		c.Close()
		<-c.Done()
		synctest.Wait() // the log has a goroutine of its own
		mu.Lock()
		defer mu.Unlock()
		if tickets != 2 || len(seen) < 4 || seen[0] != "GET /?ticket=canary-2 Bearer canary canary-key" {
			t.Errorf("%d tickets, requests %q", tickets, seen)
		}
		for _, post := range seen[1:] {
			if post != "POST / Bearer canary canary-key" {
				t.Errorf("a POST: %s", post)
			}
		}
		if log := out.String(); strings.Contains(log, "canary") || !strings.Contains(log, "fallback begins") {
			t.Errorf("the log:\n%s", log)
		}
	})
}

// TransportChanged says when the fallback begins and ends, once each.
func TestFallbackIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var changes []limpet.TransportChanged
		var out bytes.Buffer
		p := newNarrowPath(t, nil, nil)
		c := p.client(t, &limpet.Options{
			Logger: slog.New(slog.NewTextHandler(&out, nil)),
			Observer: observer(func(e limpet.Event) {
				if change, ok := e.(limpet.TransportChanged); ok {
					mu.Lock()
					changes = append(changes, change)
					mu.Unlock()
				}
			}),
		})
		awaitReady(t, c, limpet.TransportHTTP)
		p.Network.ResetAll()
		time.Sleep(time.Minute)
		awaitReady(t, c, limpet.TransportHTTP)
		p.set(func() { p.upgrade = nil })
		p.Network.ResetAll()
		awaitReady(t, c, limpet.TransportWebSocket)
		p.Network.ResetAll()
		awaitReady(t, c, limpet.TransportWebSocket)
		c.Close()
		<-c.Done()
		synctest.Wait() // the log has a goroutine of its own
		want := []limpet.TransportChanged{
			{Host: p.Addr(), Transport: limpet.TransportHTTP, Status: 426}, {Host: p.Addr(), Transport: limpet.TransportWebSocket}}
		mu.Lock()
		defer mu.Unlock()
		if fmt.Sprint(changes) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", changes, want)
		}
		if log := out.String(); strings.Count(log, "fallback begins") != 1 || strings.Count(log, "fallback ends") != 1 || !strings.Contains(log, "level=INFO") {
			t.Errorf("the log:\n%s", log)
		}
	})
}

// A failure before the upgrade is tried is not the path's.
func TestFallbackNotForATicketThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		asked := 0
		c := p.client(t, &limpet.Options{Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
			asked++
			return nil, &wire.StatusError{Status: 400}
		}})
		<-c.Done()
		if upgrades, gets, posts := p.counts(); upgrades+gets+posts != 0 || asked != 1 {
			t.Errorf("%d tickets, %d upgrades, %d GETs, %d POSTs", asked, upgrades, gets, posts)
		}
	})
}

// A cookie that a refused GET sets is sent with the next attempt, as after a refused upgrade.
func TestFallbackKeepsCookiesOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		var mu sync.Mutex
		var cookies []string
		p.set(func() {
			p.get = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				cookies = append(cookies, r.Header.Get("Cookie"))
				first := len(cookies) == 1
				mu.Unlock()
				if first {
					http.SetCookie(w, &http.Cookie{Name: "node", Value: "seven"})
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				next.ServeHTTP(w, r)
			}
		})
		client := p.HTTPClient()
		client.Jar, _ = cookiejar.New(nil)
		awaitReady(t, p.client(t, &limpet.Options{HTTPClient: client}), limpet.TransportHTTP)
		mu.Lock()
		defer mu.Unlock()
		if len(cookies) != 2 || cookies[1] != "node=seven" {
			t.Errorf("the cookies of the GETs: %q", cookies)
		}
	})
}
