package config

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"strings"
	"sync/atomic"
)

// maxPEM bounds the length of a file with certificates or a key, in bytes.
const maxPEM = 1 << 20

// checkEngineTLS checks the settings of TLS to the engine. Their files are read by EngineTLS.
func (c *Config) checkEngineTLS(f *faults) {
	set := ""
	for _, s := range []struct{ key, value string }{{"engine-ca", c.EngineCA}, {"engine-cert", c.EngineCert}, {"engine-key", c.EngineKey}, {"engine-name", c.EngineName}} {
		if s.value != "" {
			set = s.key
		}
	}
	switch {
	case c.EngineCert == "" && c.EngineKey != "":
		f.add("engine-cert", "is missing although engine-key is set")
	case c.EngineCert != "" && c.EngineKey == "":
		f.add("engine-key", "is missing although engine-cert is set")
	}
	switch {
	case set == "":
	case c.Engine != EngineJetStream && c.Engine != EngineRedis:
		f.add(set, "is set, but engine is %s; set engine to jetstream or redis, or leave it out", c.Engine)
	case c.Engine == EngineRedis && c.RedisURL != "" && !strings.HasPrefix(c.RedisURL, "rediss:"):
		f.add("redis-url", "must begin with rediss:// because %s is set", set)
	case c.Engine == EngineJetStream:
		for _, one := range strings.Split(c.NATSURL, ",") {
			if u, err := url.Parse(strings.TrimSpace(one)); err == nil && (u.Scheme == "ws" || u.Scheme == "wss") {
				f.add("nats-url", "must begin with tls:// or nats:// because %s is set", set)
			}
		}
	}
}

// EngineTLS returns the settings of TLS to the engine; nil if there are none, so that the URL decides. The certificate of this gateway is read
// again for each connection: a new one needs no restart, and one that cannot be used does not replace the one before.
func (c *Config) EngineTLS() (*tls.Config, error) {
	if c.EngineCA == "" && c.EngineCert == "" && c.EngineName == "" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.EngineName}
	if c.EngineCA != "" {
		data, err := Bytes("engine-ca", c.EngineCA, maxPEM)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(data) {
			return nil, &Error{"engine-ca", "has no certificate in PEM"}
		}
	}
	if c.EngineCert == "" {
		return t, nil
	}
	first, err := c.engineCertificate()
	if err != nil {
		return nil, err
	}
	var last atomic.Pointer[tls.Certificate] // that could be used
	last.Store(first)
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if next, err := c.engineCertificate(); err == nil {
			last.Store(next)
		}
		return last.Load(), nil
	}
	return t, nil
}

// engineCertificate reads the certificate of this gateway.
func (c *Config) engineCertificate() (*tls.Certificate, error) {
	cert, err := Bytes("engine-cert", c.EngineCert, maxPEM)
	if err != nil {
		return nil, err
	}
	key, err := Bytes("engine-key", c.EngineKey, maxPEM)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, &Error{"engine-cert", "cannot be used with engine-key: " + err.Error()}
	}
	return &pair, nil
}
