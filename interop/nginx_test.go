package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// nginx is docs/deploying/nginx.conf at work.
type nginx struct {
	*program
	addr   string
	url    string // of a client
	log    string
	config *tls.Config
}

// startNginx starts nginx before nodes, with further changes of the configuration.
func startNginx(t *testing.T, nodes []string, oldNew ...string) *nginx {
	t.Helper()
	pem, config := certificate(t)
	n := &nginx{addr: freeAddr(t), config: config, log: filepath.Join(t.TempDir(), "access.log")}
	n.url = "wss://" + n.addr
	servers := ""
	for _, addr := range nodes {
		servers += "server " + addr + ";"
	}
	file := configure(t, "../docs/deploying/nginx.conf", append([]string{
		"listen 443 ssl", "listen " + n.addr + " ssl",
		"/etc/ssl/feed.example.com.pem", pem, "/etc/ssl/feed.example.com.key", pem,
		"/var/log/nginx/access.log", n.log,
		"server 10.0.0.1:8080;", servers, "server 10.0.0.2:8080;", "",
		"server_name feed.example.com;", "", "worker_connections 20000", "worker_connections 500",
	}, oldNew...)...)
	n.program = startProgram(t, n.addr, "/usr/sbin/nginx", "-e", "stderr", "-p", t.TempDir(), "-c", file, "-g",
		"daemon off; worker_processes 1; pid "+filepath.Join(t.TempDir(), "pid")+";")
	return n
}

// answers is a server that answers by the path: /status/503 with that status, /retry with the
// path after it until the client may come back. It records when it was asked.
type answers struct {
	*httptest.Server
	mu   sync.Mutex
	at   map[string][]time.Time
	next http.Handler
}

// startAnswers starts one. The second request of /once/STATUS reaches next.
func startAnswers(t *testing.T) *answers {
	t.Helper()
	backend, err := server.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &answers{at: map[string][]time.Time{}, next: backend}
	a.Server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(func() { backend.Close(); a.Close() })
	return a
}

func (a *answers) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.at[r.URL.Path] = append(a.at[r.URL.Path], time.Now())
	first := len(a.at[r.URL.Path]) == 1
	a.mu.Unlock()
	var status int
	if _, err := fmt.Sscanf(r.URL.Path, "/once/%d", &status); err != nil || !first {
		a.next.ServeHTTP(w, r)
		return
	}
	if after := r.URL.Query().Get("after"); after != "" {
		w.Header().Set("Retry-After", after)
	}
	w.WriteHeader(status)
}

// asked returns when path was asked for.
func (a *answers) asked(path string) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]time.Time(nil), a.at[path]...)
}

// The answers of a server reach the client through nginx, and a Retry-After is obeyed.
func TestNginxAnswers(t *testing.T) {
	t.Parallel()
	a := startAnswers(t)
	n := startNginx(t, []string{a.Listener.Addr().String()}, "error timeout http_503", "error timeout")
	for _, tc := range []struct {
		status int
		after  time.Duration
		class  limpet.ErrorClass
		final  bool
	}{
		{401, 0, limpet.ClassAuth, false},
		{407, 0, limpet.ClassProxy, true},
		{429, time.Second, limpet.ClassOverload, false},
		{503, 2 * time.Second, limpet.ClassOverload, false},
		{502, 0, limpet.ClassHTTP, false},
	} {
		t.Run(fmt.Sprint(tc.status), func(t *testing.T) {
			t.Parallel()
			path := fmt.Sprint("/once/", tc.status)
			query := ""
			if tc.after > 0 {
				query = fmt.Sprintf("?after=%d", tc.after/time.Second)
			}
			var mu sync.Mutex
			var causes []error
			c := newClient(t, n.url+path+query, n.config, limpet.Options{Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
				mu.Lock()
				defer mu.Unlock()
				causes = append(causes, info.Cause)
				return limpet.Credential{}, nil
			}})
			st := waitFor(t, c, func(s limpet.State) bool { return s.Phase == limpet.Ready })
			var e *limpet.Error
			if tc.final {
				if st.Phase != limpet.Ended || !errors.As(c.Err(), &e) || e.Class != tc.class || e.Code != tc.status {
					t.Errorf("%v: %v", st.Phase, c.Err())
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if len(causes) != 2 || !errors.As(causes[1], &e) || e.Class != tc.class || e.Code != tc.status {
				t.Errorf("%v after %v", st, causes)
			}
			if at := a.asked(path); len(at) != 2 || at[1].Sub(at[0]) < tc.after {
				t.Errorf("asked at %v", at)
			}
		})
	}
}

// Without the two lines for Upgrade and Connection the server gets a plain request: 426.
func TestNginxWithoutUpgrade(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "", newSharedLog())
	n := startNginx(t, []string{a.addr}, "proxy_set_header Upgrade $http_upgrade;", "", "proxy_set_header Connection $connection_upgrade;", "")
	c := newClient(t, n.url, n.config, limpet.Options{})
	waitFor(t, c, func(s limpet.State) bool { return s.Phase == limpet.Ready })
	var e *limpet.Error
	if !errors.As(c.Err(), &e) || e.Code != 426 || e.Class != limpet.ClassHTTP {
		t.Errorf("%v", c.Err())
	}
}

// A dead node is a 502 and passes. The limit of nginx is a 429 with a time. No ticket is in the
// log of nginx.
func TestNginxRefuses(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	n := startNginx(t, []string{addr}, "rate=10r/s", "rate=1r/s", "burst=50", "burst=2")
	o := limpet.Options{Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
		return url.Values{"ticket": {"canary"}}, nil
	}, Backoff: limpet.Backoff{First: -1, Initial: 10 * time.Millisecond, Max: 10 * time.Millisecond}}
	began := time.Now()
	c := newClient(t, n.url+"/feed", n.config, o)
	st := waitFor(t, c, func(s limpet.State) bool { return s.Cause != nil })
	var e *limpet.Error
	if !errors.As(st.Cause, &e) || e.Code != 502 || e.Class != limpet.ClassHTTP {
		t.Errorf("%v", st.Cause)
	}
	st = waitFor(t, c, func(s limpet.State) bool {
		return s.Phase == limpet.Waiting && errors.As(s.Cause, &e) && e.Code == 429
	})
	if e.Class != limpet.ClassOverload || st.NextAttempt.Sub(began) < 2*time.Second {
		t.Errorf("next attempt after %v: %v", st.NextAttempt.Sub(began), st.Cause)
	}
	startBackend(t, addr, newSharedLog())
	ready(t, c, 1)
	c.Close()
	<-c.Done()
	n.signal(t, syscall.SIGQUIT)
	<-n.ended
	log, err := os.ReadFile(n.log)
	if text := string(log); err != nil || !strings.Contains(text, " 429 GET /feed ") || !strings.Contains(text, " 502 GET /feed ") || !strings.Contains(text, " 101 GET /feed ") || strings.Contains(text, "canary") {
		t.Errorf("%v: %s", err, text)
	}
}

// A node that is leaving answers 503: nginx asks the other one.
func TestNginxTriesAnotherNode(t *testing.T) {
	t.Parallel()
	log := newSharedLog()
	leaving, other := startBackend(t, "", log), startBackend(t, "", log)
	n := startNginx(t, []string{leaving.addr, other.addr})
	if err := leaving.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		c := newClient(t, n.url, n.config, limpet.Options{})
		ready(t, c, 1)
		if s := c.Stats(); s.Connections != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// A reload ends the connections of the old workers, and a worker may die. Nothing is lost or
// doubled.
func TestNginxReloadAndCrash(t *testing.T) {
	t.Parallel()
	log := newSharedLog()
	a := startBackend(t, "", log)
	n := startNginx(t, []string{a.addr}, "worker_shutdown_timeout 30s", "worker_shutdown_timeout 500ms")
	tr := startTraffic(t, n.url, n.config)
	for i := range uint64(3) {
		tr.more(t, 100)
		if i == 0 {
			n.signal(t, syscall.SIGHUP)
		} else {
			for _, worker := range n.children(t) {
				if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}
		ready(t, tr.publisher, i+2)
		ready(t, tr.consumer, i+2)
	}
	tr.more(t, 100)
	tr.finish(t, log)
}

// A redirect by nginx is followed to a host that is listed, and to no other.
func TestNginxRedirects(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "", newSharedLog())
	target := startNginx(t, []string{a.addr})
	n := startNginx(t, nil, "proxy_pass http://limpet;", "return 307 https://"+target.addr+"$request_uri;", "upstream limpet {", "upstream limpet { server 127.0.0.1:1;")
	both := n.config.Clone()
	both.RootCAs = target.config.RootCAs // the certificate is the same
	c := newClient(t, n.url+"/feed?x=1", both, limpet.Options{Redirects: limpet.Redirects{Hosts: []string{target.addr}}})
	ready(t, c, 1)
	if st := c.State(); st.Host != n.addr {
		t.Errorf("%+v", st)
	}
	other := newClient(t, n.url+"/feed?x=1", both, limpet.Options{Redirects: limpet.Redirects{Hosts: []string{"127.0.0.1"}}})
	st := waitFor(t, other, func(s limpet.State) bool { return s.Cause != nil })
	if !errors.Is(st.Cause, limpet.ErrRedirect) || !strings.Contains(st.Cause.Error(), target.addr) {
		t.Errorf("%v", st.Cause)
	}
}
