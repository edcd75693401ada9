package interop

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// startProxy starts a program with a configuration of its own, and ends it with the test. A
// client that comes too early tries again.
func startProxy(t *testing.T, config string, command ...string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Fatalf("%s is not installed; run interop/install.sh", command[0])
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "proxy.conf")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range command {
		command[i] = strings.NewReplacer("FILE", file, "DIR", dir).Replace(command[i])
	}
	cmd := exec.Command(command[0], command[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
}

// overFallback publishes and receives, is idle for longer than the proxy waits for a byte, and
// expects one connection over plain requests.
func overFallback(t *testing.T, target string, o limpet.Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o.Fallback, o.Heartbeat.Interval = true, 500*time.Millisecond
	c, err := limpet.Dial(ctx, target, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Close()
		<-c.Done()
	}()
	s, err := c.Subscribe(ctx, "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
	const n = 300
	for i := range n {
		payload := strconv.Itoa(i)
		if i%100 == 99 {
			payload += strings.Repeat(" ", 200<<10)
		}
		if _, err := c.Publish(ctx, "echo", []byte(payload), nil); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	for m, err := range s.Messages(ctx) {
		if err != nil || m.Kind != limpet.Data || strings.TrimRight(string(m.Payload), " ") != strconv.Itoa(i) {
			t.Fatalf("message %d is %v with %d bytes: %v", i, m.Kind, len(m.Payload), err)
		}
		if i++; i == n {
			break
		}
	}
	idle, cancelIdle := context.WithTimeout(ctx, 4*time.Second)
	defer cancelIdle()
	if state, err := c.WaitState(idle, func(s limpet.State) bool { return s.Generation > 1 }); err == nil {
		t.Errorf("an idle connection did not last: %+v", state)
	}
	if state := c.State(); state.Transport != limpet.TransportHTTP || state.Phase != limpet.Ready {
		t.Errorf("%+v", state)
	}
	if err := c.Flush(ctx); err != nil || c.Stats().Acked != n {
		t.Errorf("%d acknowledged: %v", c.Stats().Acked, err)
	}
}

// reference returns the address of a reference server.
func reference(t *testing.T) string {
	t.Helper()
	srv, err := server.New(&server.Options{Hosts: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv)
	t.Cleanup(web.Close)
	t.Cleanup(func() { _ = srv.Close() })
	return web.Listener.Addr().String()
}

// nginx as it comes passes no upgrade on and keeps answers. It must do the latter neither with
// the stream nor with heartbeats.
func TestFallbackThroughNginx(t *testing.T) {
	port := freePort(t)
	startProxy(t, fmt.Sprintf(`
daemon off; master_process off; pid DIR/pid; error_log stderr warn;
events {}
http {
	access_log off; client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
	server { listen 127.0.0.1:%s; location / { proxy_pass http://%s; proxy_read_timeout 2s; } }
}`, port, reference(t)), "nginx", "-p", "DIR", "-c", "FILE", "-e", "stderr")
	overFallback(t, "ws://127.0.0.1:"+port, limpet.Options{})
}

// tinyproxy opens tunnels to port 443 alone. Plain requests pass.
func TestFallbackThroughTinyproxy(t *testing.T) {
	port := freePort(t)
	startProxy(t, "Port "+port+"\nListen 127.0.0.1\nTimeout 2\nAllow 127.0.0.1\nConnectPort 443\nMaxClients 20\n", "tinyproxy", "-d", "-c", "FILE")
	through := http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:" + port})
	overFallback(t, "ws://"+reference(t), limpet.Options{AllowInsecure: true, HTTPClient: &http.Client{Transport: &http.Transport{Proxy: through}}})
}
