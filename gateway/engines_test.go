package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/gateway/internal/config"
)

// authority signs certificates for servers and clients on this machine.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", nil)
	return a
}

// file returns the path of a file in PEM that the authority has written.
func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign writes a certificate and its key; without names it is that of the authority.
func (a *authority) sign(file string, names []string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: file}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	parent, signer := a.cert, a.key
	if names == nil {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, file + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.file(name), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// ports returns free ports of the loopback.
func ports(t *testing.T, n int) (all []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all = append(all, l.Addr().(*net.TCPAddr).Port)
	}
	return all
}

// launch starts a program, which ends with the test, and waits until it listens on a port.
func launch(t *testing.T, port int, program string, args ...string) *os.Process {
	t.Helper()
	path, err := exec.LookPath("servers/bin/" + program)
	if err != nil {
		if path, err = exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: run gateway/install.sh", program)
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = t.TempDir()
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	cmd.Path = path
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	end, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			c.Close()
			return cmd.Process
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s does not listen: %v", program, err)
		}
	}
}

// natsServers starts a cluster of three with JetStream, whose clients need TLS and a certificate.
func (a *authority) natsServers() (urls string) {
	p := ports(a.t, 6)
	var all []string
	for i := range 3 {
		text := fmt.Sprintf(`server_name: n%d
listen: "127.0.0.1:%d"
jetstream { store_dir: "%s", max_file: 1GB, limits { batch { max_inflight_per_stream: 1000, max_inflight_total: 5000 } } }
cluster { name: test, listen: "127.0.0.1:%d", routes: ["nats://127.0.0.1:%d", "nats://127.0.0.1:%d", "nats://127.0.0.1:%d"] }
tls { cert_file: "%s", key_file: "%s", ca_file: "%s", verify: true }
`, i, p[i], filepath.Join(a.t.TempDir(), "files"), p[3+i], p[3], p[4], p[5], a.file("server"), a.file("server.key"), a.file("ca"))
		conf := filepath.Join(a.t.TempDir(), "conf")
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			a.t.Fatal(err)
		}
		launch(a.t, p[i], "nats-server", "-c", conf)
		all = append(all, fmt.Sprintf("tls://127.0.0.1:%d", p[i]))
	}
	return strings.Join(all, ",")
}

// redisServer starts a Redis whose clients need TLS and a certificate.
func (a *authority) redisServer() (url string) {
	port := ports(a.t, 1)[0]
	launch(a.t, port, "redis-server", "--port", "0", "--tls-port", fmt.Sprint(port), "--bind", "127.0.0.1", "--save", "", "--tls-cert-file", a.file("server"),
		"--tls-key-file", a.file("server.key"), "--tls-ca-cert-file", a.file("ca"), "--tls-auth-clients", "yes")
	return fmt.Sprintf("rediss://127.0.0.1:%d", port)
}

// refuses starts a gateway that must not start, and returns whether the error has the key and the text.
func refuses(t *testing.T, key, text string, args ...string) {
	t.Helper()
	var errOut strings.Builder
	args = append([]string{"-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0"}, args...)
	if code := run(t.Context(), args, io.Discard, &errOut); code != 2 || !strings.Contains(errOut.String(), "gateway: "+key+": ") || !strings.Contains(errOut.String(), text) {
		t.Errorf("exit status %d, %s; want %s with %q", code, &errOut, key, text)
	}
}

// Gateways reach their engine over TLS, with a certificate of their own. What is wrong is an error with the key of the setting.
func TestEngineTLS(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.sign("server", []string{"engine.test"})
	a.sign("node", []string{"node.test"})
	other.sign("node", []string{"node.test"})
	damaged := a.file("damaged")
	if err := os.WriteFile(damaged, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := ports(t, 1)[0]
	launch(t, port, "nats-server", "-a", "127.0.0.1", "-p", fmt.Sprint(port))
	refuses(t, "nats-url", "no TLS with the server", "-engine", "jetstream", "-nats-url", fmt.Sprintf("tls://127.0.0.1:%d", port), "-engine-ca", a.file("ca"))
	for engine, x := range map[string]struct{ urlKey, url string }{
		config.EngineJetStream: {"nats-url", a.natsServers()},
		config.EngineRedis:     {"redis-url", a.redisServer()},
	} {
		t.Run(engine, func(t *testing.T) {
			base := []string{"-engine", engine, "-" + x.urlKey, x.url}
			with := func(more ...string) []string { return append(append([]string{}, base...), more...) }
			ca, name := []string{"-engine-ca", a.file("ca")}, []string{"-engine-name", "engine.test"}
			node := []string{"-engine-cert", a.file("node"), "-engine-key", a.file("node.key")}
			good := with(append(append(ca, name...), node...)...)
			g, second := start(t, good...), start(t, good...)
			if _, err := g.client(t, "").Send(within(t, 30*time.Second), "a/b", []byte("hello"), nil); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, second.client(t, ""), "a/*", 1); got[0] != "hello" {
				t.Errorf("received %q", got)
			}
			if engine == config.EngineJetStream {
				a.publishOnNATS(t, x.url, g, second)
			}
			checkEngineMetrics(t, engine, g, `commits_total{result="done"}`, "commit_duration_seconds_count", "commit_duration_seconds_sum", "committed_messages_total", "committed_bytes_total")
			checkEngineMetrics(t, engine, second, `reads_total{from="memory"}`, "sync_duration_seconds_count")
			refuses(t, "engine-ca", "unknown authority", with(append(name, node...)...)...)
			refuses(t, "engine-ca", "unknown authority", with(append(append([]string{"-engine-ca", other.file("ca")}, name...), node...)...)...)
			refuses(t, "engine-ca", "no certificate in PEM", with("-engine-ca", damaged)...)
			refuses(t, "engine-ca", "cannot be read", with("-engine-ca", damaged+"x")...)
			refuses(t, "engine-name", "IP SANs", with(append(ca, node...)...)...)
			refuses(t, "engine-cert", "remote error: tls", with(append(ca, name...)...)...)
			refuses(t, "engine-cert", "remote error: tls", with(append(append(ca, name...), "-engine-cert", other.file("node"), "-engine-key", other.file("node.key"))...)...)
			refuses(t, "engine-cert", "cannot be used with engine-key", with("-engine-cert", a.file("node"), "-engine-key", other.file("node.key"))...)
		})
	}
}

// publishOnNATS publishes as a backend does, and sees that the clients of both gateways get it and that what is not valid is reported.
func (a *authority) publishOnNATS(t *testing.T, urls string, gateways ...*gateway) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.file("node"), a.file("node.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	c, err := nats.Connect(urls, nats.Secure(&tls.Config{RootCAs: roots, ServerName: "engine.test", Certificates: []tls.Certificate{pair}}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, payload := range []string{"one", strings.Repeat("x", 262144+1), "two"} {
		m := nats.NewMsg("limpet.m.@in.plain.a%2Eb")
		m.Data = []byte(payload)
		m.Header.Set("Nats-Msg-Id", payload[:3])
		if r, err := c.RequestMsg(m, 10*time.Second); err != nil || strings.Contains(string(r.Data), "error") {
			t.Fatalf("%v, %s", err, r.Data)
		}
	}
	for i, g := range gateways {
		if got := receive(t, g.client(t, ""), "plain/a.b", 2); got[0] != "one" || got[1] != "two" {
			t.Errorf("gateway %d: received %q", i, got)
		}
		g.await(t, "messages of NATS publishers were left out")
		if _, metrics := get(t, "http://"+g.admin+"/metrics"); !strings.Contains(metrics, `limpet_gateway_engine_nats_messages_total{result="refused"} 1`) ||
			!strings.Contains(metrics, `limpet_gateway_engine_nats_messages_total{result="taken"} 2`) {
			t.Errorf("gateway %d:\n%s", i, metrics)
		}
	}
}

// checkEngineMetrics compares what /metrics has of the engine with the table of README.md. Some of it must not be 0.
func checkEngineMetrics(t *testing.T, engine string, g *gateway, some ...string) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	wanted, got := map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(limpet_gateway_engine_[a-z_]+)` \\| ([a-z]+) \\| [^|]* \\| (.*) \\|$").FindAllStringSubmatch(string(readme), -1) {
		if engine == config.EngineJetStream || !strings.HasPrefix(m[3], "JetStream: ") {
			wanted[m[1]] = m[2]
		}
	}
	_, metrics := get(t, "http://"+g.admin+"/metrics")
	for _, m := range regexp.MustCompile("(?m)^# TYPE (limpet_gateway_engine_[a-z_]+) ([a-z]+)$").FindAllStringSubmatch(metrics, -1) {
		got[m[1]] = m[2]
	}
	if !maps.Equal(wanted, got) {
		t.Errorf("README.md has\n%v\n/metrics has\n%v", wanted, got)
	}
	for _, one := range some {
		if !regexp.MustCompile(`(?m)^limpet_gateway_engine_` + regexp.QuoteMeta(one) + ` .*[1-9]`).MatchString(metrics) {
			t.Errorf("%s is 0 or missing", one)
		}
	}
	for _, none := range []string{`commits_total{result="failed"}`, "epochs_total", "losses_total", "over_budget"} {
		if !strings.Contains(metrics, "limpet_gateway_engine_"+none+" 0\n") {
			t.Errorf("%s is not 0", none)
		}
	}
}

// While Redis stands still, new connections are refused with a time to come back. Those that are there stay, and go on after it.
func TestStoppedEngine(t *testing.T) {
	port := ports(t, 1)[0]
	redis := launch(t, port, "redis-server", "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--save", "")
	g := start(t, "-engine", "redis", "-redis-url", fmt.Sprintf("redis://127.0.0.1:%d", port), "-engine-budget", "500ms")
	c := g.client(t, "")
	if _, err := c.Send(within(t, 30*time.Second), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	connections := c.Stats().Connections
	if err := redis.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { redis.Signal(syscall.SIGCONT) })
	receipt, err := c.Publish(within(t, 30*time.Second), "a", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	upgrade := func() *http.Response {
		r, err := http.Get("http://" + g.clients + "/")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r
	}
	g.await(t, "new connections are refused")
	if r := upgrade(); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || r.Header.Get("X-Limpet-Retry-Ms") == "" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if err := redis.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := receipt.Wait(within(t, 30*time.Second)); err != nil {
		t.Error(err)
	}
	g.await(t, "new connections are taken again")
	if r := upgrade(); r.StatusCode == http.StatusServiceUnavailable {
		t.Errorf("%d after it works again", r.StatusCode)
	}
	if n := c.Stats().Connections; n != connections {
		t.Errorf("%d connections of a client that was there", n)
	}
	if _, metrics := get(t, "http://"+g.admin+"/metrics"); !strings.Contains(metrics, `limpet_gateway_refused_total{limit="engine"} 1`) {
		t.Error("the refusal is not counted")
	}
}
