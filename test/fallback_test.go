package test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// narrowPath is a server of limpet.v1 behind something that does with requests what a test
// wants.
type narrowPath struct {
	*limpettest.Host
	server *server.Server

	mu       sync.Mutex
	upgrade  func(w http.ResponseWriter, r *http.Request)                    // answers upgrade requests; nil: the server does
	get      func(next http.Handler, w http.ResponseWriter, r *http.Request) // nil: the server answers
	post     func(next http.Handler, w http.ResponseWriter, r *http.Request)
	upgrades int
	gets     int
	posts    int
	strays   int // requests for another path
}

func newNarrowPath(t testing.TB, o *server.Options, on *limpettest.HostOptions) *narrowPath {
	t.Helper()
	srv, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	p := &narrowPath{server: srv, upgrade: status(http.StatusUpgradeRequired)}
	p.Host = limpettest.NewHandler(t, p, on)
	t.Cleanup(func() { _ = srv.Close() })
	return p
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "refused by the path", code) }
}

func (p *narrowPath) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	answer, through := func(_ http.Handler, w http.ResponseWriter, r *http.Request) { p.server.ServeHTTP(w, r) }, p.get
	if r.URL.Path != "/" {
		p.strays++
	}
	switch {
	case r.Header.Get("Upgrade") != "":
		p.upgrades++
		through = nil
		if u := p.upgrade; u != nil {
			through = func(_ http.Handler, w http.ResponseWriter, r *http.Request) { u(w, r) }
		}
	case r.Method == http.MethodPost:
		p.posts++
		through = p.post
	default:
		p.gets++
	}
	p.mu.Unlock()
	if through != nil {
		answer = through
	}
	answer(p.server, w, r)
}

// set changes what happens to requests.
func (p *narrowPath) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// counts returns how many requests of each kind have come.
func (p *narrowPath) counts() (upgrades, gets, posts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.upgrades, p.gets, p.posts
}

// client returns a client with the fallback, which ends with the test.
func (p *narrowPath) client(t testing.TB, o *limpet.Options) *limpet.Client {
	t.Helper()
	var opts limpet.Options
	if o != nil {
		opts = *o
	}
	opts.Fallback = true
	if opts.HTTPClient == nil {
		opts.HTTPClient = p.HTTPClient()
	}
	c, err := limpet.New(p.URL(), options(&opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// awaitReady waits until c is ready over transport, in virtual time.
func awaitReady(t testing.TB, c *limpet.Client, transport limpet.Transport) limpet.State {
	t.Helper()
	for range 600 {
		synctest.Wait()
		if s := c.State(); s.Phase == limpet.Ready && s.Transport == transport {
			return s
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("not ready over %s after a minute: %+v", transport, c.State())
	return limpet.State{}
}

// The whole of a session over the fallback, and over a change of the transport in both
// directions: every message arrives once.
func TestFallbackKeepsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		p.set(func() { p.upgrade = nil })
		c := p.client(t, nil)
		s := subscribeLive(t, c, "numbers", nil)
		next := 0
		publish := func(n int) {
			for range n {
				r, err := c.Publish(t.Context(), "numbers", []byte(strconv.Itoa(next)), nil)
				if err != nil {
					t.Fatal(err)
				}
				next++
				go func() { _, _ = r.Wait(context.Background()) }()
			}
		}
		received := 0
		check := func() {
			t.Helper()
			for _, m := range collect(t, s, next-received) {
				if m.Kind != limpet.Data || string(m.Payload) != strconv.Itoa(received) {
					t.Fatalf("message %d is %v %q", received, m.Kind, m.Payload)
				}
				received++
			}
		}
		awaitReady(t, c, limpet.TransportWebSocket)
		for i, upgrade := range []func(http.ResponseWriter, *http.Request){status(426), nil, status(400), nil} {
			want := limpet.TransportHTTP
			if upgrade == nil {
				want = limpet.TransportWebSocket
			}
			publish(20)
			p.set(func() { p.upgrade = upgrade })
			p.Network.ResetAll()
			publish(20)
			state := awaitReady(t, c, want)
			if !state.Resumed {
				t.Errorf("change %d: the session was not resumed", i)
			}
			publish(20)
			check()
			time.Sleep(2 * time.Minute) // heartbeats, and the path may have changed again
			if now := c.State(); now.Generation != state.Generation {
				t.Errorf("change %d: the connection did not last: %+v", i, now)
			}
		}
		stats := c.Stats()
		if stats.Acked != uint64(next) || stats.Lost.Of(limpet.ClassTimeout) != 0 {
			t.Errorf("%d of %d acknowledged; lost: %v", stats.Acked, next, stats.Lost)
		}
		if got := p.server.Stats(); got.Accepted != uint64(next) {
			t.Errorf("the server has accepted %d of %d", got.Accepted, next)
		}
	})
}

// Upgrade and GET take a turn each at a server that counts connections. A client that gets its second
// turn later goes on with the GET, or it would spend each turn on an upgrade that the path refuses.
func TestFallbackWaitsForItsTurn(t *testing.T) {
	for _, tc := range []struct{ clients, dials int }{{1, 1}, {8, 1}, {8, 3}} {
		synctest.Test(t, func(t *testing.T) {
			p := newNarrowPath(t, nil, nil)
			transport, began := p.HTTPClient(), time.Now()
			var all []*limpet.Client
			for range tc.clients {
				all = append(all, p.client(t, &limpet.Options{HTTPClient: transport, Limits: wire.ConnectionLimits{Dials: tc.dials}}))
			}
			for _, c := range all {
				if err := c.WaitReady(withinAnHour(t)); err != nil || c.State().Transport != limpet.TransportHTTP {
					t.Fatalf("%v: %+v", err, c.State())
				}
			}
			windows := time.Duration((2*tc.clients - 1) / tc.dials)
			if took := time.Since(began); took < windows*time.Minute || took > (windows+1)*66*time.Second {
				t.Errorf("%d clients, %d dials a minute: ready after %v", tc.clients, tc.dials, took)
			}
			if upgrades, gets, _ := p.counts(); upgrades != tc.clients || gets != tc.clients {
				t.Errorf("%d upgrades and %d GETs of %d clients", upgrades, gets, tc.clients)
			}
		})
	}
}

// After an attempt that waited for the turn of its GET, the upgrade's answer decides if the server does not
// speak the fallback. A fallback that is gone costs another turn before the upgrade.
func TestFallbackThatIsGoneWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		p.upgrade, p.get = status(http.StatusForbidden), func(_ http.Handler, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
		c := p.client(t, &limpet.Options{Limits: wire.ConnectionLimits{Dials: 1}})
		err := c.WaitReady(withinAnHour(t))
		var permanent *limpet.PermanentError
		if upgrades, gets, _ := p.counts(); !errors.As(err, &permanent) || !strings.Contains(err.Error(), "403") || upgrades != 1 || gets != 1 {
			t.Errorf("%d upgrades, %d GETs: %v", upgrades, gets, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newNarrowPath(t, nil, nil)
		c := p.client(t, &limpet.Options{Limits: wire.ConnectionLimits{Dials: 3, DialsPer: 20 * time.Second}})
		awaitReady(t, c, limpet.TransportHTTP)
		p.set(func() {
			p.upgrade, p.get = nil, func(_ http.Handler, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
		})
		began := time.Now()
		p.Network.CutAll()
		synctest.Wait()
		awaitReady(t, c, limpet.TransportWebSocket)
		if took := time.Since(began); took < 18*time.Second { // upgrade, GET, GET, and no turn for the upgrade
			t.Errorf("four dials within %v", took)
		}
	})
}

// Without a limit, the upgrade follows in the same attempt.
func TestFallbackThatIsGoneCostsOneAttempt(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			p := newNarrowPath(t, nil, nil)
			c := p.client(t, nil)
			awaitReady(t, c, limpet.TransportHTTP)
			p.set(func() {
				p.upgrade, p.get = nil, func(_ http.Handler, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
			})
			began := time.Now()
			p.Network.CutAll()
			synctest.Wait()
			awaitReady(t, c, limpet.TransportWebSocket)
			if upgrades, gets, _ := p.counts(); upgrades != 2 || gets != 2 || time.Since(began) > 700*time.Millisecond {
				t.Errorf("ready after %v, %d upgrades and %d GETs", time.Since(began), upgrades, gets)
			}
		})
	}
}

// An attempt takes a turn for the upgrade and one for the GET. The connection for the POSTs is not counted: there is
// one, for as long as the path keeps it.
func TestFallbackPostsShareAConnection(t *testing.T) {
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newNarrowPath(t, nil, nil)
			if closes {
				p.post = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Connection", "close")
					next.ServeHTTP(w, r)
				}
			}
			c := p.client(t, &limpet.Options{Limits: wire.ConnectionLimits{Dials: 2}})
			awaitReady(t, c, limpet.TransportHTTP)
			for range 50 {
				if _, err := c.Publish(t.Context(), "t", nil, nil); err != nil {
					t.Fatal(err)
				}
				time.Sleep(7 * time.Second)
			}
			_, _, posts := p.counts()
			want := 3 // upgrade, GET, POSTs
			if closes {
				want = 2 + posts
			}
			if dials := len(p.Network.Dials()); posts < 50 || dials != want || c.State().Generation != 1 {
				t.Errorf("closes %v: %d dials for %d POSTs, want %d: %+v", closes, dials, posts, want, c.State())
			}
		})
	}
}
