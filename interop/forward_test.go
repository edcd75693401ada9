package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

const proxyPassword = "secret-of-the-proxy" // in servers/tinyproxy.conf

// startTinyproxy starts tinyproxy, an HTTP proxy, and returns its address and its log file.
func startTinyproxy(t *testing.T) (addr, log string) {
	t.Helper()
	addr, log = freeAddr(t), filepath.Join(t.TempDir(), "tinyproxy.log")
	_, port, _ := net.SplitHostPort(addr)
	file := configure(t, "servers/tinyproxy.conf", "Port 8888", "Port "+port, "/var/log/tinyproxy.log", log)
	startProgram(t, addr, "/usr/bin/tinyproxy", "-d", "-c", file)
	return addr, log
}

// startMicrosocks starts microsocks, a SOCKS5 proxy, with or without a password.
func startMicrosocks(t *testing.T, password string) (addr string) {
	t.Helper()
	addr = freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	command := []string{"/usr/bin/microsocks", "-i", "127.0.0.1", "-p", port}
	if password != "" {
		command = append(command, "-u", "user", "-P", password)
	}
	startProgram(t, addr, command...)
	return addr
}

// farServers are limpet servers that are reached with ws and wss. The host of each URL is 127.1,
// which the system reads as 127.0.0.1. Go does not, and would use no proxy for this machine.
type farServers struct {
	clear, encrypted string
	config           *tls.Config
}

func startFarServers(t *testing.T) farServers {
	t.Helper()
	backend, err := server.New(&server.Options{Hosts: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	clear, encrypted := httptest.NewServer(backend), httptest.NewTLSServer(backend)
	t.Cleanup(func() { backend.Close(); clear.Close(); encrypted.Close() })
	port := func(s *httptest.Server) string { return fmt.Sprint(s.Listener.Addr().(*net.TCPAddr).Port) }
	return farServers{
		clear: "ws://127.1:" + port(clear), encrypted: "wss://127.1:" + port(encrypted),
		config: &tls.Config{RootCAs: encrypted.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"},
	}
}

// through returns options for a client that uses the proxy.
func (f farServers) through(scheme, addr string, user *url.Userinfo) limpet.Options {
	return limpet.Options{AllowInsecure: true, HTTPClient: &http.Client{Transport: &http.Transport{
		TLSClientConfig: f.config, Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: addr, User: user}),
	}}}
}

// echoes publishes a message and receives it.
func echoes(t *testing.T, c *limpet.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub, err := c.Subscribe(ctx, "t", nil)
	if err == nil {
		err = sub.WaitLive(ctx)
	}
	if err == nil {
		_, err = c.Send(ctx, "t", []byte("x"), nil)
	}
	if err != nil {
		t.Fatalf("%v: %+v", err, c.State())
	}
	for m, err := range sub.Messages(ctx) {
		if err != nil || string(m.Payload) != "x" {
			t.Errorf("%v, %v", m, err)
		}
		m.Ack()
		return
	}
}

// TestForwardProxies: ws and wss through an HTTP proxy and through SOCKS5, with the right
// password, with a wrong one and without.
func TestForwardProxies(t *testing.T) {
	t.Parallel()
	far := startFarServers(t)
	tinyproxy, log := startTinyproxy(t)
	right, wrong := url.UserPassword("user", proxyPassword), url.UserPassword("user", "canary-wrong")
	for _, tc := range []struct {
		name, scheme, addr string
		user               *url.Userinfo
		refused            string // by the proxy: part of the error
		final              bool
	}{
		{"HTTP", "http", tinyproxy, right, "", false},
		{"HTTP, wrong password", "http", tinyproxy, wrong, "401", true}, // not 407, which says that none was sent
		{"HTTP, no password", "http", tinyproxy, nil, "407", true},
		{"SOCKS5", "socks5", startMicrosocks(t, ""), nil, "", false},
		{"SOCKS5, password", "socks5", startMicrosocks(t, proxyPassword), right, "", false},
		{"SOCKS5, name at the proxy", "socks5h", startMicrosocks(t, proxyPassword), right, "", false},
		{"SOCKS5, wrong password", "socks5", startMicrosocks(t, proxyPassword), wrong, "username/password authentication failed", false},
	} {
		for _, target := range []string{far.clear, far.encrypted} {
			t.Run(tc.name+" "+target[:3], func(t *testing.T) {
				c := newClient(t, target, nil, far.through(tc.scheme, tc.addr, tc.user))
				if tc.refused == "" {
					echoes(t, c)
					return
				}
				st := waitFor(t, c, func(s limpet.State) bool { return s.Cause != nil })
				if text := fmt.Sprint(st.Cause); limpet.ClassOf(st.Cause) != limpet.ClassProxy || !strings.Contains(text, tc.refused) || !strings.Contains(text, tc.addr) ||
					strings.Contains(text, "canary") || (st.Phase == limpet.Ended) != tc.final {
					t.Errorf("%v, class %q: %s", st.Phase, limpet.ClassOf(st.Cause), text)
				}
			})
		}
	}
	if b, err := os.ReadFile(log); err != nil || strings.Count(string(b), "CONNECT 127.1:") < 2 {
		t.Errorf("%v, log of tinyproxy: %s", err, b)
	}
}

// A proxy whose server is not there answers, or ends the connection; that passes.
func TestProxyWithoutAServer(t *testing.T) {
	t.Parallel()
	tinyproxy, _ := startTinyproxy(t)
	far := farServers{}
	_, port, _ := net.SplitHostPort(freeAddr(t))
	for scheme, addr := range map[string]string{"http": tinyproxy, "socks5": startMicrosocks(t, proxyPassword)} {
		c := newClient(t, "ws://127.1:"+port, nil, far.through(scheme, addr, url.UserPassword("user", proxyPassword)))
		st := waitFor(t, c, func(s limpet.State) bool { return s.Cause != nil })
		if st.Phase == limpet.Ended || limpet.ClassOf(st.Cause) != limpet.ClassProxy {
			t.Errorf("%s: %+v", scheme, st)
		}
	}
}

const envTarget = "INTEROP_TARGET"

// The default transport obeys HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Go reads them once in a
// process, so each case is a process of its own.
func TestProxyOfTheEnvironment(t *testing.T) {
	if target := os.Getenv(envTarget); target != "" {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c, err := limpet.Dial(ctx, target, &limpet.Options{AllowInsecure: true})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-c.Done()
		return
	}
	t.Parallel()
	far := startFarServers(t)
	proxy, log := startTinyproxy(t)
	asked := func() int {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "CONNECT 127.1:")
	}
	with := fmt.Sprintf("http://user:%s@%s", proxyPassword, proxy)
	for _, tc := range []struct {
		env  []string
		asks int
	}{
		{[]string{"HTTP_PROXY=" + with}, 1},
		{[]string{"HTTP_PROXY=" + with, "NO_PROXY=other.example,127.1"}, 0},
		{[]string{"HTTP_PROXY=" + with, "NO_PROXY=*"}, 0},
		{[]string{"HTTPS_PROXY=" + with}, 0}, // not for ws
	} {
		before := asked()
		if out, err := dialInAProcess(append(tc.env, envTarget+"="+far.clear)); err != nil {
			t.Errorf("%q: %v: %s", tc.env, err, out)
		}
		if n := asked() - before; n != tc.asks {
			t.Errorf("%q: the proxy was asked %d times, want %d", tc.env, n, tc.asks)
		}
	}
	var exit *exec.ExitError
	before := asked()
	if out, err := dialInAProcess([]string{"HTTPS_PROXY=" + with, envTarget + "=" + far.encrypted}); !errors.As(err, &exit) || !strings.Contains(string(out), "certificate") || asked() != before+1 {
		t.Errorf("wss: the proxy was asked %d times: %v: %s", asked()-before, err, out) // the certificate is of an unknown authority
	}
	if out, err := dialInAProcess([]string{"HTTP_PROXY=http://user:canary@" + proxy, envTarget + "=" + far.clear}); !errors.As(err, &exit) || !strings.Contains(string(out), "answered 401") || strings.Contains(string(out), "canary") {
		t.Errorf("wrong password: %v: %s", err, out)
	}
}

// dialInAProcess runs the first part of TestProxyOfTheEnvironment in an environment without
// other proxies.
func dialInAProcess(env []string) ([]byte, error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyOfTheEnvironment$")
	for _, pair := range cmd.Environ() {
		if name, _, _ := strings.Cut(pair, "="); !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Env = append(append(cmd.Env, "GODEBUG=netdns=cgo"), env...) // 127.1 is an address for the system only
	return cmd.CombinedOutput()
}
