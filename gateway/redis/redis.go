// Package redis keeps the sessions, the messages and the ids of servers in Redis.
//
//	store, err := redis.Open(ctx, "redis://user:password@host:6379", nil)
//	...
//	defer store.Close() // after the server: once Server.Close has returned
//	s, err := server.New(&server.Options{Store: store})
//
// Several servers, each with a Store of its own, share one log: a client resumes its session at any of them. When Commit
// returns nil, the primary has the change; what that is worth after a crash is decided by the persistence and the
// replicas of Redis, and by Options.Replicas. docs/engines.md says what is promised under which setting.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options are the options of Open. The zero value is good for most programs.
type Options struct {
	// Log names the log. All its keys begin with "{Log}:", so that they are in one hash slot of a cluster. 1 to 64 bytes
	// without braces; defaults to "limpet".
	Log string

	// MaxLen bounds the messages that are kept. Defaults to 100,000; negative means no bound. Redis
	// may hold a hundred more, which are not read. All servers should have the same bounds: the least one counts.
	MaxLen int

	// MaxAge bounds the age of a message. It is looked at once a second, by the clock of Redis.
	// Defaults to no bound.
	MaxAge time.Duration

	// Replicas is how many replicas must have a change, at least in memory, before Commit returns nil. Defaults to 0. Readers may see the change
	// earlier. With fewer replicas than that every Commit fails.
	Replicas int

	// ReplicaTimeout is how long one try waits for Replicas. Defaults to a second, at most 30 s.
	ReplicaTimeout time.Duration

	// TLS is for a URL with rediss: its CA, a certificate of this program, or the name in the certificate of the server. nil is the default of
	// crypto/tls, with the host of the URL as the name.
	TLS *tls.Config

	// Timeout bounds each call, with all its tries. Defaults to 10 s.
	Timeout time.Duration

	// RingCount and RingBytes bound the newest messages that are in memory for all readers of this Store. Older ones are read from
	// Redis. Default to 20,000 and 64 MiB.
	RingCount int
	RingBytes int
}

// Errors of Open and of the Store. Compare them with errors.Is.
var (
	// ErrUncertain means that it is not known whether a change was kept, or will be: Redis did not answer in time,
	// or too few replicas have confirmed it. Load tells, once Redis answers.
	ErrUncertain = errors.New("gateway/redis: it is not known whether the change was kept; load the record again")

	// ErrUnreachable means that Redis does not answer.
	ErrUnreachable = errors.New("gateway/redis: no answer; see that Redis runs at this address and has loaded its data")

	// ErrBusy means that a script of another program has blocked Redis for long.
	ErrBusy = errors.New("gateway/redis: blocked by a slow script; end it with SCRIPT KILL")

	// ErrFull means that Redis has reached maxmemory. Nothing was done.
	ErrFull = errors.New("gateway/redis: full; raise maxmemory, or lower Options.MaxLen or Options.MaxAge")

	// ErrReadOnly means that Redis accepts no writes: it is a replica, or cannot write its files.
	ErrReadOnly = errors.New("gateway/redis: not writable; connect to the primary, and see that it can write its files")

	// ErrReplicas means that too few replicas have confirmed the change in time.
	ErrReplicas = errors.New("gateway/redis: too few replicas have the change; see that they run, or lower Options.Replicas")

	// ErrDenied means that the password is wrong, or that this user may not do what is needed.
	ErrDenied = errors.New("gateway/redis: denied; check the user and the password, and grant the commands, keys and channel of docs/engines.md")

	// ErrTLS means that TLS with Redis is not possible; it wraps the reason.
	ErrTLS = errors.New("gateway/redis: no TLS with the server; check that it has TLS, its certificate and name, the CA, and the certificate of this program")

	// ErrVersion means that the server is older than Redis 7.
	ErrVersion = errors.New("gateway/redis: older than version 7; upgrade Redis")

	// ErrPolicy means that Redis would evict records of sessions, ids or messages when it is full.
	ErrPolicy = errors.New("gateway/redis: maxmemory-policy evicts keys, which loses sessions and doubles messages; set it to noeviction")

	// ErrCluster means that the server is a node of a cluster and the URL does not say so.
	ErrCluster = errors.New("gateway/redis: a node of a cluster; add ?addr=HOST:PORT of another node, or of the same, to the URL")

	// ErrForeign means that a key of the log holds something that limpet has not written.
	ErrForeign = errors.New("gateway/redis: the keys of the log hold something else; use another Options.Log, or remove them")

	// ErrFormat means that a newer version of limpet has written the log.
	ErrFormat = errors.New("gateway/redis: written in a newer format; use the version of limpet that wrote it, or a later one")

	// ErrStale means that nothing was heard from Redis for 5 seconds, so that subscriptions stand still.
	ErrStale = errors.New("gateway/redis: nothing heard for 5 seconds; send clients to another server until Redis answers")

	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("gateway/redis: closed")
)

const (
	tryTimeout  = 2 * time.Second // of one try to have an answer
	maxChange   = 64 << 20        // bytes of one Commit
	maxMessages = 4096            // messages of one Commit
	format      = "1"             // of what is in the keys
)

// Open connects to Redis and makes the log if there is none; o may be nil. The URL is one of
//
//	redis://user:password@host:port/db      one server, or a name that leads to the primary
//	redis://...?master_name=NAME&addr=...   Sentinels: host and each addr are their addresses
//	redis://...?addr=HOST:PORT              a cluster: host and each addr are some of its nodes
//	unix://user:password@/path?db=N
//
// and rediss for TLS; the query may have pool_size and other options of go-redis. Open waits for a
// Redis that is away or loads its data, at most Options.Timeout, then the error wraps ErrUnreachable. It refuses a
// server that cannot keep what is committed: ErrVersion, ErrPolicy, ErrCluster, ErrReadOnly, ErrDenied, ErrForeign, ErrFormat, ErrFull.
// No error has a password in it.
func Open(ctx context.Context, address string, o *Options) (*Store, error) {
	opt, err := o.checked()
	if err != nil {
		return nil, err
	}
	client, secret, err := connect(address, opt)
	if err != nil {
		return nil, err
	}
	s := newStore(client, opt, secret)
	if err := s.start(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("%w (open)", err)
	}
	s.opened.Store(true)
	return s, nil
}

// checked returns the options with their defaults.
func (o *Options) checked() (opt Options, err error) {
	if o != nil {
		opt = *o
	}
	if opt.Log == "" {
		opt.Log = "limpet"
	}
	if len(opt.Log) > 64 || strings.ContainsAny(opt.Log, "{}") {
		return opt, fmt.Errorf("gateway/redis: Options.Log is %.80q; use 1 to 64 bytes without braces, which decide the hash slot", opt.Log)
	}
	if opt.MaxLen == 0 {
		opt.MaxLen = 100_000
	}
	if opt.ReplicaTimeout == 0 {
		opt.ReplicaTimeout = time.Second
	}
	if opt.Timeout == 0 {
		opt.Timeout = 10 * time.Second
	}
	if opt.RingCount == 0 {
		opt.RingCount = 20_000
	}
	if opt.RingBytes == 0 {
		opt.RingBytes = 64 << 20
	}
	for name, bad := range map[string]bool{
		"MaxAge": opt.MaxAge < 0, "Replicas": opt.Replicas < 0, "Timeout": opt.Timeout < 0, "RingCount": opt.RingCount < 0,
		"RingBytes": opt.RingBytes < 0, "ReplicaTimeout": opt.ReplicaTimeout < time.Millisecond || opt.ReplicaTimeout > 30*time.Second,
	} {
		if bad {
			return opt, fmt.Errorf("gateway/redis: Options.%s is out of range; leave it out for the default", name)
		}
	}
	return opt, nil
}

// secured returns the settings of TLS for a URL whose own are given: nil for one without TLS.
func (o *Options) secured(own *tls.Config) *tls.Config {
	if own == nil || o.TLS == nil {
		return own
	}
	t := o.TLS.Clone()
	if t.ServerName == "" {
		t.ServerName = own.ServerName
	}
	return t
}

// connect returns a client for a URL, which has made no connection yet, and the password. The text of a URL
// that cannot be parsed must not be in the error.
func connect(address string, opt Options) (redis.UniversalClient, string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, "", errors.New("gateway/redis: the URL cannot be parsed; use redis://user:password@host:port, with the password escaped")
	}
	query := u.Query()
	secret, _ := u.User.Password()
	if opt.TLS != nil && u.Scheme != "rediss" {
		return nil, "", errors.New("gateway/redis: Options.TLS is set, and the URL is one without TLS; use rediss://")
	}
	wait := tryTimeout
	if opt.Replicas > 0 {
		wait += opt.ReplicaTimeout
	}
	var client redis.UniversalClient
	switch {
	case query.Has("master_name"):
		var f *redis.FailoverOptions
		if f, err = redis.ParseFailoverURL(address); err == nil {
			f.MaxRetries, f.DialerRetries, f.DialTimeout, f.ReadTimeout, f.WriteTimeout = -1, 1, tryTimeout, wait, wait
			f.ContextTimeoutEnabled, f.Protocol, f.DisableIdentity = true, 2, true
			f.TLSConfig = opt.secured(f.TLSConfig)
			client = redis.NewFailoverClient(f)
		}
	case query.Has("addr"):
		var c *redis.ClusterOptions
		if c, err = redis.ParseClusterURL(address); err == nil {
			c.MaxRetries, c.DialerRetries, c.DialTimeout, c.ReadTimeout, c.WriteTimeout = -1, 1, tryTimeout, wait, wait
			c.ContextTimeoutEnabled, c.Protocol, c.DisableIdentity = true, 2, true
			c.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
			c.TLSConfig = opt.secured(c.TLSConfig)
			client = redis.NewClusterClient(c)
		}
	default:
		var one *redis.Options
		if one, err = redis.ParseURL(address); err == nil {
			one.MaxRetries, one.DialerRetries, one.DialTimeout, one.ReadTimeout, one.WriteTimeout = -1, 1, tryTimeout, wait, wait
			one.ContextTimeoutEnabled, one.Protocol, one.DisableIdentity = true, 2, true
			one.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
			one.TLSConfig = opt.secured(one.TLSConfig)
			client = redis.NewClient(one)
		}
	}
	if err != nil {
		return nil, "", errors.New("gateway/redis: the URL is not one that Open describes: its scheme, its database or an option in its query is wrong")
	}
	return client, secret, nil
}
