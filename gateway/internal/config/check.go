package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Values of settings that are one of a few words.
const (
	EngineMemory    = "memory"
	EngineFile      = "file"
	EngineJetStream = "jetstream"
	EngineRedis     = "redis"

	AuthNone = "none"
	AuthJWT  = "jwt"
	AuthHTTP = "http"
)

// minBudget is the least engine-budget: engines that work take some milliseconds.
const minBudget = 10 * time.Millisecond

// faults collects what is wrong.
type faults []error

func (f *faults) add(key, format string, args ...any) {
	*f = append(*f, &Error{key, fmt.Sprintf(format, args...)})
}

// check completes the defaults that depend on other settings, and returns an error that wraps an
// *Error for each setting that cannot be used.
func (c *Config) check() error {
	var f faults
	c.checkAddresses(&f)
	c.checkEngine(&f)
	c.checkAccess(&f)
	c.checkNumbers(&f)
	return errors.Join(f...)
}

func (c *Config) checkAddresses(f *faults) {
	checkAddress(f, "listen", c.Listen)
	if c.AdminListen != "" {
		checkAddress(f, "admin-listen", c.AdminListen)
		if c.AdminListen == c.Listen && !strings.HasSuffix(c.Listen, ":0") {
			f.add("admin-listen", "is the same address as listen; choose another port")
		}
	}
	switch {
	case c.TLSCert == "" && c.TLSKey != "":
		f.add("tls-cert", "is missing although tls-key is set")
	case c.TLSCert != "" && c.TLSKey == "":
		f.add("tls-key", "is missing although tls-cert is set")
	}
	for _, s := range c.Origins {
		if u, err := url.Parse(s); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			f.add("origins", "%q is not an origin such as https://app.example.com", s)
		}
	}
	for _, s := range c.Proxies {
		if _, err := netip.ParsePrefix(s); err != nil {
			f.add("trusted-proxies", "%q is not a network such as 10.0.0.0/8 or 192.0.2.1/32", s)
		}
	}
}

func checkAddress(f *faults, key, address string) {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		f.add(key, "%q is not an address such as 127.0.0.1:8080 or :8080", address)
	}
}

func (c *Config) checkEngine(f *faults) {
	needs := map[string][]struct{ key, value string }{
		EngineMemory:    nil,
		EngineFile:      {{"dir", c.Dir}},
		EngineJetStream: {{"nats-url", c.NATSURL}, {"log", c.Log}},
		EngineRedis:     {{"redis-url", c.RedisURL}, {"log", c.Log}},
	}
	needed, known := needs[c.Engine]
	if !known {
		f.add("engine", "%q is not memory, file, jetstream or redis", c.Engine)
		return
	}
	for _, n := range needed {
		if n.value == "" {
			f.add(n.key, "is missing; engine %s needs it", c.Engine)
		}
	}
	for engine, keys := range needs {
		for _, n := range keys {
			if engine != c.Engine && n.key != "log" && n.value != "" {
				f.add(n.key, "is set, but engine is %s; set engine to %s or leave it out", c.Engine, engine)
			}
		}
	}
	c.checkEngineTLS(f)
	if c.RedisWait < 0 {
		f.add("redis-wait", "is %d; use 0 or more", c.RedisWait)
	}
}

func (c *Config) checkAccess(f *faults) {
	switch c.Auth {
	case "":
		if !loopback(c.Listen) {
			f.add("auth", "is missing; listen is open to other machines, so say who may connect: jwt, http, or none for everybody")
		}
		c.Auth = AuthNone
	case AuthNone:
	case AuthJWT:
		if len(c.JWTKeys) == 0 {
			f.add("jwt-keys", "is missing; auth jwt needs the file of a key")
		}
	case AuthHTTP:
		if u, err := url.Parse(c.AuthURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			f.add("auth-url", "must be an http or https URL; auth http asks it")
		}
	default:
		f.add("auth", "%q is not none, jwt or http", c.Auth)
	}
	if c.Auth != AuthJWT && len(c.JWTKeys) > 0 {
		f.add("jwt-keys", "is set, but auth is %s; set auth to jwt or leave it out", c.Auth)
	}
	if c.Auth != AuthHTTP && c.AuthURL != "" {
		f.add("auth-url", "is set, but auth is %s; set auth to http or leave it out", c.Auth)
	}
	if c.Auth == AuthNone {
		c.Subscribe = orEverything(c.Subscribe)
		c.Publish = orEverything(c.Publish)
	}
	for _, list := range []struct {
		key      string
		patterns []string
	}{{"allow-subscribe", c.Subscribe}, {"allow-publish", c.Publish}} {
		for _, p := range list.patterns {
			if err := native.CheckTopic(wire.UseSubscribe, p); err != nil {
				f.add(list.key, "%v", err)
			}
		}
	}
	if c.PublishToken != "" && c.AdminListen == "" {
		f.add("publish-token-file", "is set, but admin-listen, where /publish is, is empty")
	}
}

func orEverything(patterns []string) []string {
	if len(patterns) == 0 {
		return []string{"**"}
	}
	return patterns
}

// loopback reports whether other machines cannot reach address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, notIP := netip.ParseAddr(host)
	return err == nil && (host == "localhost" || notIP == nil && ip.IsLoopback())
}

func (c *Config) checkNumbers(f *faults) {
	for _, n := range []struct {
		key        string
		value, min int
		max        int
	}{
		{"retention-count", c.MaxCount, 0, 1 << 40}, {"retention-bytes", c.MaxBytes, 0, 1 << 50},
		{"max-connections", c.MaxConns, 1, 10_000_000}, {"max-connections-per-address", c.MaxPerAddr, 0, 10_000_000},
		{"max-connections-per-client", c.MaxPerClient, 0, 10_000_000}, {"connect-rate", c.ConnectRate, 1, 1_000_000},
		{"publish-rate", c.PublishRate, 0, 10_000_000}, {"max-payload", c.MaxPayload, 1, 1 << 30},
	} {
		if n.value < n.min || n.value > n.max {
			f.add(n.key, "is %d; use %d to %d", n.value, n.min, n.max)
		}
	}
	const decade = 10 * 365 * 24 * time.Hour
	for _, d := range []struct {
		key        string
		value, min time.Duration
	}{
		{"retention-age", c.MaxAge, 0}, {"session-ttl", c.SessionTTL, time.Second}, {"dedup", c.Dedup, time.Second},
		{"auth-timeout", c.AuthTimeout, time.Millisecond}, {"heartbeat", c.Heartbeat, 100 * time.Millisecond},
		{"engine-budget", c.EngineBudget, 0}, {"drain-wait", c.DrainWait, 0}, {"drain-spread", c.DrainSpread, 0},
	} {
		if d.value < d.min || d.value > decade {
			f.add(d.key, "is %v; use %v to %v", d.value, d.min, decade)
		}
	}
	if c.Engine == EngineJetStream && c.MaxAge > 0 && c.MaxAge < 2*c.SessionTTL {
		f.add("retention-age", "is %v; the records of sessions age with the messages, so use at least twice session-ttl, %v", c.MaxAge, 2*c.SessionTTL)
	}
	if c.EngineBudget > 0 && c.EngineBudget < minBudget {
		f.add("engine-budget", "is %v; use %v or more, or 0s for no bound", c.EngineBudget, minBudget)
	}
	if c.Engine == EngineRedis && c.MaxBytes > 0 {
		f.add("retention-bytes", "is set, but Redis counts no bytes; use retention-count or retention-age")
	}
}
