package limpet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Options configure a Client. The zero value, like nil, means the defaults. A
// Client keeps a copy: one Options may serve several clients.
type Options struct {
	Dialect    wire.Dialect // the wire language; nil: limpet.v1, binary preferred
	HTTPClient *http.Client // dials; nil: a shared transport with HTTP_PROXY and TLS 1.2 or later. Redirects are never followed
	Header     http.Header  // sent with every upgrade request

	// Auth gives the credential for an attempt. It is called before each
	// attempt, never twice at a time, on a goroutine of its own, and may block
	// until ctx ends (the attempt's own bound).
	Auth func(ctx context.Context, info AttemptInfo) (Credential, error)

	Backoff   Backoff
	Heartbeat Heartbeat
	Window    Window

	DialTimeout time.Duration // bound of one attempt, name resolution to upgrade; 10 s. Grows 1.6-fold to 60 s while attempts time out
	SessionTTL  time.Duration // how long the server should keep the session of a lost connection; 0: its default
	ReadLimit   int64         // bytes of one received WebSocket message; 4 MiB. A longer one ends the connection with 1009

	// PlainFrames leaves the frames of every connection to the WebSocket
	// library that dials it. It is for comparing, and for the day when the
	// client's own frame layer is suspected of a fault: a small message costs
	// many times the CPU, each connection one more goroutine, masked and
	// needlessly long frames of the server are accepted, floods of control
	// frames are answered. Stats tells which is in use.
	PlainFrames bool

	// AllowInsecure permits ws:// to hosts other than this one. Without it
	// only loopback may be reached in clear.
	AllowInsecure bool

	Logger   *slog.Logger // nil: no logging. See Event for what is logged at which level
	Observer Observer     // nil: none

	Endpoints   []string     // not in this version: New returns ErrUnsupported
	Outbox      outbox.Store // not in this version: New returns ErrUnsupported
	Compression bool         // not in this version: New returns ErrUnsupported
}

// Backoff is the reconnection policy (docs/reconnect.md). After the first loss
// the client waits U(0, max(First, W)), W being the reconnect window that the
// server told; after the k-th failure in a row v/2 + U(0, v/2) with
// v = Initial·Multiplier^(k-1), at most Max, four times Max from the 20th on,
// and W where that is more.
type Backoff struct {
	First       time.Duration // 500 ms; negative: the first attempt after a loss is immediate
	Initial     time.Duration // 500 ms
	Max         time.Duration // 15 s
	Multiplier  float64       // 1.5
	StableAfter time.Duration // 30 s: a connection must last so long (a sixth of it with an acknowledged message) before the count of failures begins anew
	MaxElapsed  time.Duration // 0: never give up. Else a PermanentError with ErrMaxElapsed after so long without a connection
}

// Heartbeat is how a dead peer is noticed. Any received byte counts as life.
type Heartbeat struct {
	Interval time.Duration // 20 s; the server may lower it. Nothing received for 2.5 intervals: the peer is dead
}

// Window bounds what was published and is not settled yet. A message that
// expired or was refused gives its bytes back at once, its place when the
// server has heard of the empty slot.
type Window struct {
	Messages int  // 4,096
	Bytes    int  // 16 MiB of payloads
	FailFast bool // a full window makes Publish return ErrWindowFull instead of waiting
}

// AttemptInfo tells Auth what the credential is for.
type AttemptInfo struct {
	Number  int    // of attempts since the last stable connection, from 1
	Host    string // host and port of the endpoint
	Refresh bool   // the last credential was refused: a cached one will not do
	Cause   error  // why the last connection or attempt failed; nil for the first
}

// Credential is what Auth returns. It appears in no log, error or metric.
type Credential struct {
	Header http.Header // sent with the upgrade request
	Token  Secret      // sent in the handshake of the wire language, limpet.v1: HELLO
}

// Secret is a string that does not print.
type Secret string

func (Secret) String() string                     { return "[secret]" }
func (Secret) GoString() string                   { return "limpet.Secret([secret])" }
func (Secret) LogValue() slog.Value               { return slog.StringValue("[secret]") }
func (Secret) MarshalText() ([]byte, error)       { return []byte("[secret]"), nil }
func (s Secret) reveal() string                   { return string(s) }
func (c Credential) String() string               { return "[credential]" }
func (c Credential) GoString() string             { return "limpet.Credential([secret])" }
func (c Credential) LogValue() slog.Value         { return slog.StringValue("[credential]") }
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal("[credential]") }

// PublishOptions belong to one message.
type PublishOptions struct {
	ID     uuid.UUID         // idempotency key; zero: a new UUIDv7
	TTL    time.Duration     // expires if it has not been sent by then; 0: never
	Type   string            // content type
	Header map[string]string // 32 entries and 8 KiB at most

	// AtLeastOnce resends without regard to the server's memory of message
	// ids: rather twice than an unknown outcome.
	AtLeastOnce bool
}

// Outgoing is one message of a PublishBatch.
type Outgoing struct {
	Topic   string
	Payload []byte
	PublishOptions
}

// From is where a subscription starts.
type From = wire.From

const (
	FromNew    = wire.FromNew    // after the newest message
	FromFirst  = wire.FromFirst  // the oldest message the server holds
	FromLast   = wire.FromLast   // the newest message it holds, then new ones
	FromResume = wire.FromResume // after SubscribeOptions.Position
)

// SubscribeOptions belong to one subscription.
type SubscribeOptions struct {
	From     From     // FromNew
	Position Position // with FromResume: a Position of an earlier message, for example Subscription.Committed of an earlier process
	Token    Secret   // a credential for this subscription, where the dialect has such

	Delivery Delivery

	// ManualAck leaves acknowledging to Message.Ack. From the oldest
	// unacknowledged message on at most Delivery.Buffer are handed out; then the
	// subscription waits.
	ManualAck bool

	Cursor CursorStore // not in this version: Subscribe returns ErrUnsupported
}

// CursorStore keeps the committed position of a named subscription.
type CursorStore interface {
	Load(ctx context.Context, name string) (Position, error)
	Save(ctx context.Context, name string, p Position) error
}

// Overflow is what happens to a message that finds the delivery queue full.
type Overflow uint8

const (
	OverflowDefault Overflow = iota // Block where the dialect has credit, else DropOldest
	Block                           // the server waits; it is never read from faster than the consumer takes
	DropOldest                      // the oldest waiting message makes room; a Gap stands in its place
	DropNewest                      // it is dropped; a Gap stands in its place
	Latest                          // not in this version: one message per Key
)

// Delivery is the throttled delivery channel of a subscription: how much
// waits for the consumer, what happens when that is full, and the pace.
type Delivery struct {
	Buffer   int // messages waiting at most; 1,024, no more than 2^30
	Bytes    int // and bytes of payload; 1 MiB. One message may exceed it
	Overflow Overflow
	Every    time.Duration // hand over at most once per interval, everything that is due together; 0: at once

	Key   func(Message) string // not in this version
	Rate  float64              // not in this version
	Burst int                  // not in this version
}

// config is Options with every default filled in.
type config struct {
	Options
	url    *url.URL
	traits wire.Traits
}

// Bounds that no program needs to pass and that arithmetic survives.
const (
	longest    = 366 * 24 * time.Hour
	mostBuffer = 1 << 30
	mostToken  = 8 << 10 // docs/protocol.md, section 1
)

func newConfig(rawURL string, o *Options) (config, error) {
	var c config
	if o != nil {
		c.Options = *o
	}
	c.Header = c.Header.Clone()
	const op = "New"
	var errs []error
	refuse := func(err *Error) { errs = append(errs, err) }

	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		// url.Error repeats the whole URL, which may hold a secret.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		refuse(&Error{Op: op, Field: "url", Class: ClassInput, Err: err})
	case u.Scheme != "ws" && u.Scheme != "wss":
		refuse(inputError(op, "url", "scheme must be ws or wss, not %q", u.Scheme))
	case u.Host == "" || u.Hostname() == "":
		refuse(inputError(op, "url", "no host"))
	case u.User != nil:
		refuse(inputError(op, "url", "user information does not belong in a URL; use Options.Auth"))
	case u.Fragment != "":
		refuse(inputError(op, "url", "a fragment is not allowed (RFC 6455, section 3)"))
	case u.Scheme == "ws" && !c.AllowInsecure && !loopback(u.Hostname()):
		refuse(inputError(op, "url", "ws:// to %s would travel in clear; use wss:// or set Options.AllowInsecure", u.Hostname()))
	}
	c.url = u

	if c.Dialect == nil {
		c.Dialect = native.New(nil)
	}
	c.traits = c.Dialect.Traits()

	duration := func(field string, v *time.Duration, def time.Duration) {
		switch {
		case *v < 0:
			refuse(inputError(op, field, "must not be negative, is %v", *v))
		case *v > longest:
			refuse(inputError(op, field, "is %v, more than %v", *v, longest))
		case *v == 0:
			*v = def
		}
	}
	count := func(field string, v *int, def int) {
		if *v < 0 {
			refuse(inputError(op, field, "must not be negative, is %d", *v))
		} else if *v == 0 {
			*v = def
		}
	}
	switch first := &c.Backoff.First; {
	case *first > longest:
		refuse(inputError(op, "Options.Backoff.First", "is %v, more than %v", *first, longest))
	case *first == 0:
		*first = 500 * time.Millisecond
	}
	duration("Options.Backoff.Initial", &c.Backoff.Initial, 500*time.Millisecond)
	duration("Options.Backoff.Max", &c.Backoff.Max, 15*time.Second)
	duration("Options.Backoff.StableAfter", &c.Backoff.StableAfter, 30*time.Second)
	duration("Options.Backoff.MaxElapsed", &c.Backoff.MaxElapsed, 0)
	if m := &c.Backoff.Multiplier; *m == 0 {
		*m = 1.5
	} else if !(*m >= 1 && *m <= 10) {
		refuse(inputError(op, "Options.Backoff.Multiplier", "must be from 1 to 10, is %v", *m))
	}
	if c.Backoff.Max < c.Backoff.Initial {
		refuse(inputError(op, "Options.Backoff.Max", "%v is less than Initial, %v", c.Backoff.Max, c.Backoff.Initial))
	}
	duration("Options.Heartbeat.Interval", &c.Heartbeat.Interval, 20*time.Second)
	duration("Options.DialTimeout", &c.DialTimeout, 10*time.Second)
	duration("Options.SessionTTL", &c.SessionTTL, 0)
	count("Options.Window.Messages", &c.Window.Messages, 4096)
	count("Options.Window.Bytes", &c.Window.Bytes, 16<<20)
	if c.ReadLimit < 0 {
		refuse(inputError(op, "Options.ReadLimit", "must not be negative, is %d; there is no unlimited", c.ReadLimit))
	} else if c.ReadLimit == 0 {
		c.ReadLimit = 4 << 20
	}
	if len(c.Endpoints) > 0 {
		refuse(unsupported(op, "Options.Endpoints", "several endpoints come in a later version"))
	}
	if c.Outbox != nil {
		refuse(unsupported(op, "Options.Outbox", "a durable outbox comes in a later version"))
	}
	if c.Compression {
		refuse(unsupported(op, "Options.Compression", "permessage-deflate comes in a later version"))
	}
	return c, errors.Join(errs...)
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// resolve fills the defaults of o in for a subscription to topic.
func (c *config) resolve(topic string, o *SubscribeOptions) (SubscribeOptions, error) {
	const op = "Subscribe"
	var s SubscribeOptions
	if o != nil {
		s = *o
	}
	if err := c.Dialect.CheckTopic(wire.UseSubscribe, topic); err != nil {
		return s, topicError(op, err)
	}
	d := &s.Delivery
	switch {
	case s.From > FromLast:
		return s, inputError(op, "SubscribeOptions.From", "unknown value %d", s.From)
	case s.From == FromResume && s.Position.IsZero():
		return s, inputError(op, "SubscribeOptions.Position", "FromResume needs a position")
	case s.From != FromResume && !s.Position.IsZero():
		return s, inputError(op, "SubscribeOptions.Position", "is only for FromResume")
	case s.From != FromNew && !c.traits.Resume:
		return s, unsupported(op, "SubscribeOptions.From", "dialect "+c.Dialect.Name()+" has no trait Resume")
	case s.Cursor != nil:
		return s, unsupported(op, "SubscribeOptions.Cursor", "comes in a later version; keep Subscription.Committed yourself")
	case d.Buffer < 0:
		return s, inputError(op, "Delivery.Buffer", "must not be negative, is %d", d.Buffer)
	case d.Buffer > mostBuffer:
		return s, inputError(op, "Delivery.Buffer", "is %d, more than %d", d.Buffer, mostBuffer)
	case len(s.Token) > mostToken || !utf8.ValidString(s.Token.reveal()):
		return s, inputError(op, "SubscribeOptions.Token", "must be UTF-8 of at most %d bytes", mostToken)
	case d.Bytes < 0:
		return s, inputError(op, "Delivery.Bytes", "must not be negative, is %d", d.Bytes)
	case d.Every < 0:
		return s, inputError(op, "Delivery.Every", "must not be negative, is %v", d.Every)
	case d.Overflow > Latest:
		return s, inputError(op, "Delivery.Overflow", "unknown value %d", d.Overflow)
	case d.Overflow == Block && !c.traits.Credit:
		return s, unsupported(op, "Delivery.Overflow", "Block needs the trait Credit, which dialect "+c.Dialect.Name()+" lacks; use DropOldest")
	case d.Overflow == Latest || d.Key != nil:
		return s, unsupported(op, "Delivery.Overflow", "Latest and Key come in a later version")
	case d.Rate != 0 || d.Burst != 0:
		return s, unsupported(op, "Delivery.Rate", "Rate and Burst come in a later version; Every is there")
	}
	if d.Overflow == OverflowDefault {
		d.Overflow = DropOldest
		if c.traits.Credit {
			d.Overflow = Block
		}
	}
	if d.Buffer == 0 {
		d.Buffer = 1024
	}
	if d.Bytes == 0 {
		d.Bytes = 1 << 20
	}
	return s, nil
}

func topicError(op string, err error) *Error {
	return &Error{Op: op, Field: "topic", Class: ClassInput, Err: fmt.Errorf("%w: %w", ErrTopic, err)}
}
