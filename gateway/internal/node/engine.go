package node

import (
	"context"
	"crypto/x509"
	"errors"
	"net"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/gateway/internal/config"
	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

// engine is a store that says whether it works.
type engine interface {
	server.Store

	// Health returns why the engine cannot be used at the moment; nil if it can. It does not block.
	Health() error

	Close() error
}

// openEngine opens the engine of the settings. ctx bounds the wait for servers of it.
func openEngine(ctx context.Context, c *config.Config) (engine, error) {
	retention := server.Retention{Count: c.MaxCount, Bytes: c.MaxBytes, Age: c.MaxAge}
	switch c.Engine {
	case config.EngineMemory:
		return memory{server.NewMemoryStore(&server.MemoryStoreOptions{Retention: retention})}, nil
	case config.EngineFile:
		store, err := file.Open(c.Dir, &file.Options{Retention: retention})
		if err != nil {
			return nil, &config.Error{Key: "dir", Reason: err.Error()}
		}
		return local{store}, nil
	}
	if c.Engine == config.EngineJetStream {
		return openJetStream(ctx, c, retention)
	}
	return openRedis(ctx, c)
}

func openJetStream(ctx context.Context, c *config.Config, retention server.Retention) (engine, error) {
	o := &jetstream.Options{Log: c.Log, Retention: retention, Dedup: c.Dedup, MaxPayload: c.MaxPayload}
	if c.NATSCreds != "" {
		o.NATS = append(o.NATS, nats.UserCredentials(c.NATSCreds))
	}
	secure, err := c.EngineTLS()
	if err != nil {
		return nil, err
	}
	if secure != nil {
		o.NATS = append(o.NATS, nats.Secure(secure))
	}
	store, err := jetstream.Open(ctx, c.NATSURL, o)
	if err != nil {
		return nil, &config.Error{Key: keyOf(err, "nats-url"), Reason: err.Error()}
	}
	return onNATS{store}, nil
}

func openRedis(ctx context.Context, c *config.Config) (engine, error) {
	secure, err := c.EngineTLS()
	if err != nil {
		return nil, err
	}
	store, err := redis.Open(ctx, c.RedisURL, &redis.Options{Log: c.Log, MaxLen: c.MaxCount, MaxAge: c.MaxAge, Replicas: c.RedisWait, TLS: secure})
	if err != nil {
		return nil, &config.Error{Key: keyOf(err, "redis-url"), Reason: err.Error()}
	}
	return onRedis{store}, nil
}

// keyOf returns the key of the setting that an error of Open is about; url is that of the URL.
func keyOf(err error, url string) string {
	var name x509.HostnameError
	var signer x509.UnknownAuthorityError
	var alert *net.OpError
	switch {
	case errors.As(err, &name):
		return "engine-name"
	case errors.As(err, &signer):
		return "engine-ca"
	case errors.As(err, &alert) && alert.Op == "remote error": // the server does not take the certificate of this gateway
		return "engine-cert"
	}
	return url
}

// memory is an engine that cannot fail.
type memory struct{ *server.MemoryStore }

func (memory) Health() error { return nil }
func (memory) Close() error  { return nil }

// local is a directory.
type local struct{ *file.Store }
