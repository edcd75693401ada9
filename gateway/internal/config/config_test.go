package config_test

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/internal/config"
)

// load writes file, if it is not empty, and loads the settings.
func load(t *testing.T, file string, args ...string) (*config.Config, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-config", path)
	}
	return config.Load(args, io.Discard)
}

func TestDefaults(t *testing.T) {
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:8080" || c.Engine != config.EngineMemory || c.Auth != config.AuthNone || c.SessionTTL != 15*time.Minute ||
		!slices.Equal(c.Subscribe, []string{"**"}) {
		t.Errorf("%+v", c)
	}
}

// A flag wins over the environment, and that over the file.
func TestPrecedence(t *testing.T) {
	const file = "listen: 127.0.0.1:1\nlog-level: debug\ndedup: 2h\nhosts: [a.example, b.example]\nmax-connections: 7\n"
	t.Setenv("LIMPET_GATEWAY_LISTEN", "127.0.0.1:2")
	t.Setenv("LIMPET_GATEWAY_LOG_LEVEL", "warn")
	c, err := load(t, file, "-listen", "127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.LogLevel != "warn" || c.Dedup != 2*time.Hour || c.MaxConns != 7 || !slices.Equal(c.Hosts, []string{"a.example", "b.example"}) {
		t.Errorf("%+v", c)
	}
}

// The environment names the file, too, and has lists.
func TestEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "settings")
	if err := os.WriteFile(path, []byte("max-payload: 9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LIMPET_GATEWAY_CONFIG", path)
	t.Setenv("LIMPET_GATEWAY_HOSTS", "a.example,b.example")
	c, err := load(t, "")
	if err != nil || c.MaxPayload != 9 || !slices.Equal(c.Hosts, []string{"a.example", "b.example"}) {
		t.Errorf("%+v, %v", c, err)
	}
}

// Each setting that is wrong is named, together with what to do.
func TestWrongSettings(t *testing.T) {
	for name, x := range map[string]struct {
		file string
		args []string
		key  string
		text string
	}{
		"unknown key":           {file: "listn: :1\n", key: "listn", text: "line 1"},
		"unknown flag":          {args: []string{"-listn", "x"}, text: "unknown flag"},
		"no YAML":               {file: "a: [", key: "config", text: "is not YAML"},
		"a list":                {file: "- a\n", key: "config", text: "must have lines such as"},
		"a map as a value":      {file: "listen: {a: b}\n", key: "listen", text: "must be a text"},
		"a list of lists":       {file: "hosts: [[a]]\n", key: "hosts", text: "must be a text"},
		"twice":                 {file: "dedup: 1h\nlisten: :1\ndedup: 2h\n", key: "dedup", text: "it is there twice"},
		"no file":               {args: []string{"-config", "/nowhere/x"}, key: "config", text: "no such file"},
		"no duration":           {args: []string{"-dedup", "x"}, text: "dedup"},
		"a duration of file":    {file: "dedup: x\n", text: "dedup"},
		"no number":             {file: "max-payload: x\n", text: "max-payload"},
		"address":               {args: []string{"-listen", "x"}, key: "listen", text: "is not an address such as"},
		"port":                  {args: []string{"-listen", ":99999"}, key: "listen", text: "is not an address such as"},
		"the same address":      {args: []string{"-listen", "127.0.0.1:8081"}, key: "admin-listen", text: "another port"},
		"key without cert":      {args: []string{"-tls-key", "k"}, key: "tls-cert", text: "is missing"},
		"cert without key":      {args: []string{"-tls-cert", "k"}, key: "tls-key", text: "is missing"},
		"origin":                {args: []string{"-origins", "a.example"}, key: "origins", text: "https://"},
		"proxy":                 {args: []string{"-trusted-proxies", "10.0.0.1"}, key: "trusted-proxies", text: "10.0.0.0/8"},
		"engine":                {args: []string{"-engine", "sql"}, key: "engine", text: "memory, file, jetstream or redis"},
		"no directory":          {args: []string{"-engine", "file"}, key: "dir", text: "is missing"},
		"no NATS":               {args: []string{"-engine", "jetstream"}, key: "nats-url", text: "is missing"},
		"no Redis":              {args: []string{"-engine", "redis"}, key: "redis-url", text: "is missing"},
		"no log":                {args: []string{"-engine", "redis", "-redis-url", "redis://a", "-log", ""}, key: "log", text: "is missing"},
		"of another engine":     {args: []string{"-dir", "x"}, key: "dir", text: "set engine to file"},
		"open to all":           {args: []string{"-listen", ":8080"}, key: "auth", text: "none for everybody"},
		"auth":                  {args: []string{"-auth", "basic"}, key: "auth", text: "none, jwt or http"},
		"no key":                {args: []string{"-auth", "jwt"}, key: "jwt-keys", text: "is missing"},
		"no URL":                {args: []string{"-auth", "http"}, key: "auth-url", text: "http or https URL"},
		"URL of another scheme": {args: []string{"-auth", "http", "-auth-url", "ws://a"}, key: "auth-url", text: "http or https URL"},
		"a key for nothing":     {args: []string{"-jwt-keys", "k"}, key: "jwt-keys", text: "set auth to jwt"},
		"a URL for nothing":     {args: []string{"-auth-url", "http://a"}, key: "auth-url", text: "set auth to http"},
		"pattern":               {args: []string{"-allow-publish", "a//b"}, key: "allow-publish", text: "must not be empty"},
		"no place for publish":  {args: []string{"-publish-token-file", "f", "-admin-listen", ""}, key: "publish-token-file", text: "admin-listen"},
		"no connections":        {args: []string{"-max-connections", "0"}, key: "max-connections", text: "use 1 to"},
		"heartbeat":             {args: []string{"-heartbeat", "1ms"}, key: "heartbeat", text: "use 100ms to"},
		"negative time":         {args: []string{"-drain-wait=-1s"}, key: "drain-wait", text: "use 0s to"},
		"engine key, no cert":   {args: []string{"-engine", "redis", "-redis-url", "rediss://a", "-engine-key", "k"}, key: "engine-cert", text: "is missing"},
		"engine cert, no key":   {args: []string{"-engine", "redis", "-redis-url", "rediss://a", "-engine-cert", "k"}, key: "engine-key", text: "is missing"},
		"TLS to no engine":      {args: []string{"-engine-ca", "k"}, key: "engine-ca", text: "set engine to jetstream or redis"},
		"Redis without TLS":     {args: []string{"-engine", "redis", "-redis-url", "redis://a", "-engine-name", "k"}, key: "redis-url", text: "rediss://"},
		"NATS over WebSocket":   {args: []string{"-engine", "jetstream", "-nats-url", "tls://a, ws://b", "-engine-ca", "k"}, key: "nats-url", text: "tls://"},
		"budget":                {args: []string{"-engine-budget", "1ms"}, key: "engine-budget", text: "use 10ms or more"},
		"level":                 {args: []string{"-log-level", "loud"}, text: "log-level"},
		"records age":           {args: []string{"-engine", "jetstream", "-nats-url", "nats://a", "-retention-age", "20m"}, key: "retention-age", text: "30m0s"},
		"bytes in Redis":        {args: []string{"-engine", "redis", "-redis-url", "redis://a", "-retention-bytes", "1"}, key: "retention-bytes", text: "retention-count"},
		"replicas":              {args: []string{"-redis-wait=-1"}, key: "redis-wait", text: "0 or more"},
		"an argument":           {args: []string{"serve"}, text: "unexpected argument"},
		"two dashes":            {args: []string{"--engine", "sql"}, key: "engine", text: "memory, file, jetstream or redis"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, x.file, x.args...)
			var wrong *config.Error
			if !errors.As(err, &wrong) || wrong.Key != x.key || !strings.Contains(err.Error(), x.text) {
				t.Errorf("%v, want key %q and %q", err, x.key, x.text)
			}
		})
	}
}

// All that is wrong is said at once.
func TestAllFaultsAtOnce(t *testing.T) {
	_, err := load(t, "", "-listen", "x", "-engine", "file", "-auth", "jwt", "-heartbeat", "0s")
	for _, key := range []string{"listen: ", "dir: ", "jwt-keys: ", "heartbeat: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v lacks %q", err, key)
		}
	}
}

// The example has each setting once, and each of its values can be used.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../gateway.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var help strings.Builder
	if _, err := config.Load([]string{"-help"}, &help); !errors.Is(err, config.ErrHelp) {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^#?([a-z-]+): `).FindAllStringSubmatch(string(data), -1) {
		count[m[1]]++
	}
	flags := map[string]int{}
	for _, m := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(help.String(), -1) {
		flags[m[1]] = 1
	}
	delete(flags, "help")
	delete(flags, "config")
	if !maps.Equal(count, flags) {
		t.Errorf("the example has %v\nthe flags are %v", slices.Sorted(maps.Keys(count)), slices.Sorted(maps.Keys(flags)))
	}
	if _, err := load(t, string(data)); err != nil {
		t.Error(err)
	}
	// Each line that is commented out, by itself: it may need others, but must be known and well-formed.
	for _, m := range regexp.MustCompile(`(?m)^#([a-z-]+: .*)$`).FindAllStringSubmatch(string(data), -1) {
		if _, err := load(t, m[1]+"\n"); err != nil && !strings.Contains(err.Error(), "is missing") && !strings.Contains(err.Error(), "leave it out") {
			t.Errorf("%s: %v", m[1], err)
		}
	}
}
