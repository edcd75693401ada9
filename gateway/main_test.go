package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/limpet-go/limpet"
)

// gateway is one that runs in this process, by its command line.
type gateway struct {
	clients, admin string
	stop           context.CancelFunc
	status         <-chan int
	lines          <-chan string // of the log; closed at the end
}

// start runs a gateway on free ports of this machine and waits until it serves.
func start(t *testing.T, args ...string) *gateway {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	status, lines := make(chan int, 1), make(chan string, 1000)
	in, out := io.Pipe()
	args = append([]string{"-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0", "-log-format", "json", "-drain-wait", "10ms", "-drain-spread", "10ms"}, args...)
	go func() {
		status <- run(ctx, args, io.Discard, out)
		out.Close()
	}()
	served := make(chan *gateway, 1)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			var line struct{ Msg, Clients, Admin string }
			if json.Unmarshal(s.Bytes(), &line); line.Msg == "serving" {
				served <- &gateway{line.Clients, line.Admin, stop, status, lines}
			}
			select {
			case lines <- s.Text():
			default:
			}
		}
	}()
	select {
	case g := <-served:
		t.Cleanup(func() { g.end(t) })
		return g
	case code := <-status:
		t.Fatalf("exit status %d: %s", code, <-lines)
	case <-time.After(30 * time.Second):
		t.Fatal("the gateway does not serve")
	}
	return nil
}

// end shuts the gateway down and returns its exit status.
func (g *gateway) end(t *testing.T) int {
	t.Helper()
	g.stop()
	select {
	case code := <-g.status:
		g.status = ended(code)
		return code
	case <-time.After(30 * time.Second):
		t.Fatal("the gateway does not end")
	}
	return -1
}

func ended(code int) <-chan int {
	c := make(chan int, 1)
	c <- code
	return c
}

// get returns the status and the body of an answer.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(body)
}

// client connects a client, which has the given credential.
func (g *gateway) client(t *testing.T, token string) *limpet.Client {
	t.Helper()
	o := &limpet.Options{}
	if token != "" {
		o.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Token: limpet.Secret(token)}, nil
		}
	}
	c, err := limpet.Dial(within(t, 30*time.Second), "ws://"+g.clients, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// receive returns the payloads of the next n messages of a topic from its beginning.
func receive(t *testing.T, c *limpet.Client, topic string, n int) (payloads []string) {
	t.Helper()
	s, err := c.Subscribe(t.Context(), topic, &limpet.SubscribeOptions{From: limpet.FromFirst})
	if err != nil {
		t.Fatal(err)
	}
	for m, err := range s.Messages(within(t, 30*time.Second)) {
		if err != nil {
			t.Fatal(err)
		}
		if payloads = append(payloads, string(m.Payload)); len(payloads) == n {
			break
		}
	}
	s.Close()
	return payloads
}

func TestMemory(t *testing.T) {
	g := start(t)
	c := g.client(t, "")
	if _, err := c.Send(within(t, 30*time.Second), "a/b", []byte("hello"), nil); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, c, "a/*", 1); got[0] != "hello" {
		t.Errorf("received %q", got)
	}
	for _, address := range []string{g.clients, g.admin} {
		for _, page := range []string{"/healthz", "/livez"} {
			if code, body := get(t, "http://"+address+page); code != http.StatusOK {
				t.Errorf("%s: %d %s", page, code, body)
			}
		}
	}
	_, metrics := get(t, "http://"+g.admin+"/metrics")
	for _, want := range []string{"limpet_gateway_healthy 1", `limpet_server_connections{server="gateway"`, `limpet_gateway_refused_total{limit="rate"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if code, _ := get(t, "http://"+g.admin+"/publish"); code != http.StatusNotFound {
		t.Errorf("/publish without a token: %d", code)
	}
	if code := g.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// What a gateway on a directory has accepted is there after a restart.
func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	g := start(t, "-engine", "file", "-dir", dir)
	if _, err := g.client(t, "").Send(within(t, 30*time.Second), "a", []byte("kept"), nil); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), []string{"-listen", "127.0.0.1:0", "-admin-listen", "", "-engine", "file", "-dir", dir}, io.Discard, io.Discard); code != 2 {
		t.Errorf("a second gateway in the directory: exit status %d", code)
	}
	if code := g.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	g = start(t, "-engine", "file", "-dir", dir)
	if got := receive(t, g.client(t, ""), "a", 1); got[0] != "kept" {
		t.Errorf("received %q", got)
	}
}

// After a write that has failed, so that it is not known what was kept, the gateway says that it must be restarted.
func TestFileThatIsLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	g := start(t, "-engine", "file", "-dir", dir)
	c := g.client(t, "")
	if _, err := c.Send(within(t, 30*time.Second), "a", []byte("kept"), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(within(t, 30*time.Second), "a", []byte("lost"), nil); err != nil {
		t.Fatal(err)
	}
	tooLong := within(t, time.Minute)
	for _, page := range []string{"/livez", "/healthz"} {
		for code := http.StatusOK; code == http.StatusOK; {
			var body string
			if code, body = get(t, "http://"+g.admin+page); code != http.StatusOK && !strings.Contains(body, "restart the server") {
				t.Errorf("%s: %d %s", page, code, body)
			}
			if tooLong.Err() != nil {
				t.Fatalf("%s: %d", page, code)
			}
		}
	}
}

// A gateway that ends is unhealthy first, and its clients leave before it closes connections.
func TestShutdown(t *testing.T) {
	g := start(t, "-drain-wait", "300ms")
	c := g.client(t, "")
	g.stop()
	unhealthy := false
	for range 30 {
		r, err := http.Get("http://" + g.clients + "/healthz")
		if err != nil {
			break
		}
		r.Body.Close()
		if unhealthy = r.StatusCode == http.StatusServiceUnavailable; unhealthy {
			break
		}
	}
	if !unhealthy {
		t.Error("/healthz did not fail before the end")
	}
	c.Close()
	if code := g.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	for line := range g.lines {
		if strings.Contains(line, `"msg":"shut down"`) && !strings.Contains(line, `"closed":0`) {
			t.Error(line)
		}
	}
}

var secret = strings.Repeat("s3cret", 8)

func TestJWT(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := func(id string) string {
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": id, "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	g := start(t, "-auth", "jwt", "-jwt-keys", path, "-allow-publish", "users/{id}/in", "-allow-subscribe", "users/{id}/**", "-max-connections-per-client", "1")
	c := g.client(t, token("anna"))
	if _, err := c.Send(within(t, 30*time.Second), "users/anna/in", []byte("hello"), nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Send(within(t, 30*time.Second), "users/bob/in", nil, nil); !errors.Is(err, limpet.ErrRejected) {
		t.Errorf("a topic of another client: %v", err)
	}
	if _, err := limpet.Dial(within(t, 30*time.Second), "ws://"+g.clients, nil); err == nil || !strings.Contains(err.Error(), "token is needed") {
		t.Errorf("without a token: %v", err)
	}
	// The second connection of the same client waits for the first one's place.
	second, err := limpet.New("ws://"+g.clients, &limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		return limpet.Credential{Token: limpet.Secret(token("anna"))}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := second.WaitReady(short); err == nil {
		t.Error("a second connection of the client was taken")
	}
	c.Close()
	if err := second.WaitReady(within(t, time.Minute)); err != nil {
		t.Errorf("after the end of the first: %v", err)
	}
	if _, metrics := get(t, "http://"+g.admin+"/metrics"); strings.Contains(metrics, `refused_total{limit="client"} 0`) {
		t.Error("the refusal is not counted")
	}
}

// writeCertificate makes one for 127.0.0.1, with a serial number.
func writeCertificate(t *testing.T, cert, key string, serial int64) *x509.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// A new certificate is taken without a restart; a damaged one is not.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	writeCertificate(t, cert, key, 1)
	g := start(t, "-tls-cert", cert, "-tls-key", key)
	serial := func() int64 {
		c, err := tls.Dial("tcp", g.clients, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if n := serial(); n != 1 {
		t.Errorf("serial number %d", n)
	}
	if err := os.WriteFile(cert, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.await(t, "cannot be used")
	if n := serial(); n != 1 {
		t.Errorf("with a damaged file: serial number %d", n)
	}
	writeCertificate(t, cert, key, 2)
	g.await(t, "read again")
	if n := serial(); n != 2 {
		t.Errorf("with new files: serial number %d", n)
	}
}

// await waits for a line of the log with text.
func (g *gateway) await(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-g.lines:
			if !ok {
				t.Fatalf("the log ended without %q", text)
			}
			if strings.Contains(line, text) {
				return
			}
		case <-timeout:
			t.Fatalf("the log has no %q", text)
		}
	}
}

// post sends a request to /publish and returns the status and the answer.
func post(t *testing.T, url, token, key, body string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var m map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&m); err != nil {
		t.Errorf("%d with a body that is no JSON: %v", answer.StatusCode, err)
	}
	return answer.StatusCode, m
}

func TestPublish(t *testing.T) {
	const token = "0123456789abcdef0123"
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t, "-publish-token-file", path, "-max-payload", "1000")
	url := "http://" + g.admin + "/publish"
	batch := `{"messages": [{"topic": "a", "payload": "two"}, {"topic": "a", "payload_base64": "dGhyZWU=", "ttl": "1h", "header": {"h": "v"}}]}`
	for _, x := range []struct {
		name, path, token, key, body string
		status                       int
		want                         string // in the answer, as JSON
	}{
		{"no token", "/a", "", "", "x", 401, "Authorization: Bearer"},
		{"another token", "/a", token + "x", "", "x", 401, "Authorization: Bearer"},
		{"one", "/a", token, "k1", "one", 200, `{"offset":1}`},
		{"one again", "/a", token, "k1", "one", 200, `{"offset":1}`},
		{"another with its key", "/a", token, "k1", "other", 409, "another message"},
		{"a batch", "", token, "k2", batch, 200, `{"published":[{"offset":2},{"offset":3}]}`},
		{"a batch again", "", token, "k2", batch, 200, `{"published":[{"offset":2},{"offset":3}]}`},
		{"a wildcard", "/a/*", token, "", "x", 400, "wildcard"},
		{"too big", "/a", token, "", strings.Repeat("x", 1001), 413, "longer than 1000"},
		{"ttl", "/a?ttl=x", token, "", "x", 400, "10s"},
		{"no JSON", "", token, "", "x", 400, "cannot be read"},
		{"two values", "", token, "", batch + batch, 400, "more than one"},
		{"unknown field", "", token, "", `{"messages": [{"topik": "a"}]}`, 400, "topik"},
		{"no messages", "", token, "", `{}`, 400, "1 to 1000"},
		{"no payload", "", token, "", `{"messages": [{"topic": "a"}]}`, 400, "payload_base64"},
		{"no base64", "", token, "", `{"messages": [{"topic": "a", "payload_base64": "!"}]}`, 400, "not base64"},
		{"half of a batch", "", token, "", `{"messages": [{"topic": "a", "payload": "four"}, {"topic": "*", "payload": ""}]}`, 400, `"index":1,"published":[{"offset":4}]`},
	} {
		status, answer := post(t, url+x.path, x.token, x.key, x.body)
		text, _ := json.Marshal(answer)
		if status != x.status || !bytes.Contains(text, []byte(x.want)) {
			t.Errorf("%s: %d %s, want %d and %s", x.name, status, text, x.status, x.want)
		}
	}
	if got := strings.Join(receive(t, g.client(t, ""), "a", 4), " "); got != "one two three four" {
		t.Errorf("received %q", got)
	}
}

// What is wrong at the start is an exit status of 2 with the name of the setting.
func TestWrongStart(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := start(t)
	for key, args := range map[string][]string{
		"listen":             {"-listen", taken.clients},
		"admin-listen":       {"-admin-listen", taken.admin},
		"tls-cert":           {"-tls-cert", short, "-tls-key", short},
		"jwt-keys":           {"-auth", "jwt", "-jwt-keys", short},
		"publish-token-file": {"-publish-token-file", short},
		"dir":                {"-engine", "file", "-dir", short},
		"engine":             {"-engine", "sql"},
	} {
		var errOut strings.Builder
		args = append([]string{"-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0"}, args...)
		if code := run(t.Context(), args, io.Discard, &errOut); code != 2 || !strings.Contains(errOut.String(), "gateway: "+key+": ") {
			t.Errorf("%s: exit status %d, %s", key, code, &errOut)
		}
	}
	var help strings.Builder
	if code := run(t.Context(), []string{"-help"}, &help, io.Discard); code != 0 || !strings.Contains(help.String(), "--drain-wait") {
		t.Errorf("-help: exit status %d, %s", code, &help)
	}
}
