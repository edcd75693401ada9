package limpet

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
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

func (Secret) String() string { return "[secret]" }

func (Secret) GoString() string { return "limpet.Secret([secret])" }

func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

func (s Secret) reveal() string { return string(s) }

func (c Credential) String() string { return "[credential]" }

func (c Credential) GoString() string { return "limpet.Credential([secret])" }

func (c Credential) LogValue() slog.Value { return slog.StringValue("[credential]") }

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

// plainByDefault is a flag of the tests: they all run on both paths.
var plainByDefault bool
