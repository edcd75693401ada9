// Package jetstream keeps the sessions, the messages and the ids of servers in a stream of NATS JetStream. Any number of
// servers share it: a client can resume its session at each of them.
//
//	store, err := jetstream.Open(ctx, "nats://a:4222,nats://b:4222,nats://c:4222", nil)
//	...
//	defer store.Close() // after the server: once Server.Close has returned
//	s, err := server.New(&server.Options{Store: store})
//
// It needs nats-server 2.12 or later, whose batches are atomic: a Commit is one batch. The stream has three replicas. What that
// promises, with which setting of the servers, is in docs/engines.md.
package jetstream

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/server"
)

// Options are the options of Open. The zero value is good for most programs. All stores of one log must have the same.
type Options struct {
	// Log is the name of the stream, and the first token of its subjects: 1 to 32 letters, digits, "_" and "-". Defaults to
	// "limpet".
	Log string

	// Retention bounds the stream: messages, records of sessions and refusals together. Count and Bytes default to no
	// bound, Age to 24 hours. A record that is trimmed is a session that is gone, so Age must not be less than the TTL
	// of any Commit, and Count and Bytes are for emergencies.
	Retention server.Retention

	// Dedup is how long message ids are remembered, from 1 second to Retention.Age less 2 minutes. It must be at least
	// server.Options.Dedup. The servers of JetStream keep each id in memory, about 200 bytes. Defaults to 1 hour.
	Dedup time.Duration

	// Replicas is how many servers hold the stream: 3 or 5. Defaults to 3.
	Replicas int

	// Memory keeps the stream in the memory of one server, for tests: it is gone when that server ends. Replicas must be
	// 0 or 1 then.
	Memory bool

	// RingBytes bounds the newest messages that the Store keeps in memory. A quarter of it besides is for older ones that were
	// read. Defaults to 64 MiB; at least 64 KiB.
	RingBytes int

	// MaxIDs bounds the ids in the memory of the Store, which Known looks up. Defaults to 262,144.
	MaxIDs int

	// MaxPayload bounds the payloads of plain publishers (docs/engines.md): a longer one is left out. It should be
	// server.Options.MaxPayload. Defaults to 256 KiB.
	MaxPayload int

	// Timeout bounds each call, and Open. A stream that loses its leader has another one after up to 9 seconds.
	// Defaults to 15 seconds; at least 100 ms.
	Timeout time.Duration

	// NATS are options of the connection: credentials and TLS, for example. Those that concern reconnecting are set by the
	// Store.
	NATS []nats.Option
}

// Errors of Open and of the Store. Compare them with errors.Is.
var (
	// ErrUnknown means that it is not known whether a change was or will be done: the servers did not answer within
	// Options.Timeout. Load tells later.
	ErrUnknown = errors.New("gateway/jetstream: no answer, so it is not known whether the change is done; load the record to find out")

	// ErrUnreachable means that no server has answered in time.
	ErrUnreachable = errors.New("gateway/jetstream: no answer from the servers; check that they run, that the stream has a leader, and the network")

	// ErrVersion means that a server is too old.
	ErrVersion = errors.New("gateway/jetstream: the server is too old; use nats-server 2.12 or later")

	// ErrJetStream means that the servers, or the account, have no JetStream.
	ErrJetStream = errors.New("gateway/jetstream: JetStream is not enabled for this account; enable it in the configuration of the servers")

	// ErrDenied means that the user may not do what a Store does. docs/engines.md lists the rights.
	ErrDenied = errors.New("gateway/jetstream: not permitted; give the user the rights that docs/engines.md lists")

	// ErrTLS means that TLS with a server is not possible; it wraps the reason. For the options see Options.NATS: nats.Secure, for example.
	ErrTLS = errors.New("gateway/jetstream: no TLS with the server; check its certificate and name, the CA, and the certificate of this program")

	// ErrConfig means that the stream is not as the options say, or cannot be.
	ErrConfig = errors.New("gateway/jetstream: the stream does not fit; change it, or the option")

	// ErrFull means that the servers, the account or the stream have no room. Nothing was done.
	ErrFull = errors.New("gateway/jetstream: no room for the stream; make room, or raise the limit of the servers or of the account")

	// ErrTooBig means that a change does not fit into a batch or a message. Nothing was done.
	ErrTooBig = errors.New("gateway/jetstream: the change is too big; raise max_payload or max_batch_size of the servers")

	// ErrGone means that the stream was deleted. Open creates a new one, with another epoch.
	ErrGone = errors.New("gateway/jetstream: the stream was deleted; restore it, or open the store again to begin a new one")

	// ErrStale means that the store hears nothing from the servers: see Store.Health.
	ErrStale = errors.New("gateway/jetstream: nothing heard from the stream for 5 seconds; check the servers and the network")

	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("gateway/jetstream: closed")
)

const (
	defaultAge     = 24 * time.Hour
	defaultDedup   = time.Hour
	defaultRing    = 64 << 20
	minRing        = 64 << 10
	defaultIDs     = 1 << 18
	defaultPayload = 256 << 10
	defaultTimeout = 15 * time.Second
	minTimeout     = 100 * time.Millisecond
	keepMargin     = time.Minute // by which a server asks for more than its Options.Dedup
	clockMargin    = time.Minute // by which the clocks of servers may differ
)

var logName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// checked returns the options with their defaults.
func (o *Options) checked() (opt Options, err error) {
	if o != nil {
		opt = *o
	}
	if opt.Log == "" {
		opt.Log = "limpet"
	}
	if opt.Retention.Age == 0 {
		opt.Retention.Age = defaultAge
	}
	if opt.Dedup == 0 {
		opt.Dedup = defaultDedup
	}
	if opt.Replicas == 0 {
		opt.Replicas = 3
		if opt.Memory {
			opt.Replicas = 1
		}
	}
	if opt.RingBytes == 0 {
		opt.RingBytes = defaultRing
	}
	if opt.MaxIDs <= 0 {
		opt.MaxIDs = defaultIDs
	}
	if opt.MaxPayload <= 0 {
		opt.MaxPayload = defaultPayload
	}
	if opt.Timeout == 0 {
		opt.Timeout = defaultTimeout
	}
	return opt, opt.wrong()
}

// wrong returns what is wrong with options that have their defaults.
func (o *Options) wrong() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("gateway/jetstream: Options."+format, a...)
	}
	switch {
	case !logName.MatchString(o.Log):
		return bad("Log is %q; use 1 to 32 letters, digits, _ and -", o.Log)
	case o.Retention.Age < 0:
		return bad("Retention.Age has no bound, so records of sessions would stay for ever; give one")
	case o.Dedup < time.Second || o.Dedup > o.Retention.Age-keepMargin-clockMargin:
		return bad("Dedup is %v; use 1s to Retention.Age less 2 minutes, and that is %v", o.Dedup, o.Retention.Age)
	case o.Memory && o.Replicas != 1:
		return bad("Replicas is %d; with Memory use 0 or 1", o.Replicas)
	case !o.Memory && o.Replicas == 1:
		return bad("Replicas is 1; use 3 or 5: an atomic batch on one replica in files takes 20 ms and more, and is lost with its server. " +
			"For tests, set Memory")
	case !o.Memory && o.Replicas != 3 && o.Replicas != 5:
		return bad("Replicas is %d; use 3 or 5", o.Replicas)
	case o.RingBytes < minRing:
		return bad("RingBytes is %d; use 0, or %d or more", o.RingBytes, minRing)
	case o.Timeout < minTimeout:
		return bad("Timeout is %v; use 0, or %v or more", o.Timeout, minTimeout)
	}
	return nil
}
