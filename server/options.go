package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// Options configures a Server. The zero value is a server in memory for loopback
// names that accepts every client. New copies the options. Durations must be from
// 1 ms to ten years, numbers positive; a zero field means its default.
type Options struct {
	// Store keeps sessions, messages and ids where they outlive the server, or where
	// several servers share them. Defaults to memory. It excludes Log.
	Store Store

	// Log holds the messages of a server that keeps sessions and ids in its own memory.
	// Defaults to NewMemoryLog(Retention).
	Log Log

	// Retention bounds the default Log. It is ignored if Log or Store is set.
	Retention Retention

	// Hooks are the decisions of the surrounding program.
	Hooks Hooks

	// Hosts are the values of the Host header that are served besides localhost and
	// loopback addresses: "example.com" with any port, "example.com:8443" with
	// that port, "*" for every value. Case and a dot at the end make no difference. Other requests get 403, so that a page
	// whose name was made to point to this server (DNS rebinding) cannot use it.
	Hosts []string

	// Origins are the origins of browser pages that may connect, such as
	// "https://app.example.com". Pages from the same host and port may always
	// connect; if this server itself ends TLS they must be https. Requests
	// without an Origin do not come from a page and are served.
	Origins []string

	// Heartbeat is the interval in which the server sends at least one frame; a
	// client may ask for a shorter one, down to 100 milliseconds. A client that
	// sends nothing for 2.5 heartbeats is removed. Defaults to 20 seconds.
	Heartbeat time.Duration

	// HelloTimeout is the time from the upgrade to HELLO. Defaults to 5 seconds.
	HelloTimeout time.Duration

	// WriteTimeout is how long a client may take to accept 4 KiB. A slower one is
	// removed. Defaults to 15 seconds.
	WriteTimeout time.Duration

	// SessionTTL is how long a detached session is kept. A client may ask for
	// less. Defaults to 15 minutes.
	SessionTTL time.Duration

	// Dedup is how long message ids are remembered. Defaults to 1 hour.
	Dedup time.Duration

	// Window is how many unacknowledged messages a client may have: a multiple
	// of 64, at most 4,096. Defaults to 4,096.
	Window int

	// WindowBytes is how many bytes of unacknowledged payload a client may have.
	// Defaults to 4 MiB.
	WindowBytes int

	// MaxPayload bounds one payload, in bytes. Defaults to 256 KiB; at most
	// 1 GiB.
	MaxPayload int

	// MaxConns bounds the connections. Upgrades beyond it are answered 503. A hook
	// that ignores the end of its context keeps the place of its connection until it
	// returns. Defaults to 10,000.
	MaxConns int

	// MaxFallback bounds those connections that plain HTTP requests carry. Those beyond it
	// are answered 503; with a negative number the server has none, and answers 426.
	// Defaults to 1,000.
	MaxFallback int

	// MaxPending bounds the connections that have not been welcomed yet.
	// Upgrades beyond it are answered 503. Defaults to 1,000.
	MaxPending int

	// MaxSessions bounds the sessions. Beyond it the session that has been
	// detached for longest is dropped; if none is detached, new ones are
	// refused. It is ignored if Store is set. Defaults to 100,000.
	MaxSessions int

	// MaxSubs bounds the subscriptions of one session. Defaults to 10,000.
	MaxSubs int

	// MaxIDs bounds the message ids that are remembered. Beyond it the oldest
	// are forgotten before Dedup has passed. It is ignored if Store is set. Defaults to 262,144.
	MaxIDs int

	// ReconnectRate is how many connections per second this server can accept
	// when all clients return at once. It determines the reconnect window in
	// WELCOME and the slots given with 503. Name a tenth less than it can do, if
	// overload makes it slower. Defaults to 1,000.
	ReconnectRate int

	// Logger receives the log. Defaults to none.
	Logger *slog.Logger
}

const (
	batchLimit    = native.MaxBatch
	helloSubs     = native.MaxHelloSubs
	queueLimit    = 1024                      // frames and requests waiting for the writer of one connection
	authTimeout   = 10 * time.Second          // from HELLO to WELCOME
	hookGrace     = time.Minute               // for a hook whose connection has ended
	hookRetry     = time.Second               // before a subscription that a hook could not decide on is asked for again
	closeGrace    = time.Second               // for the close handshake
	batchGrace    = closeGrace / 2            // of it, for the batch that is applied when it begins
	writeTime     = 500 * time.Millisecond    // that one batch may take; on a slow link batches are shorter
	minBatch      = 2 << 10                   // bytes of messages in a batch on a slow link
	minBeat       = 100 * time.Millisecond    // the shortest interval that a client can ask for
	maxSpread     = 5 * time.Minute           // of the reconnect window
	readChunk     = 256                       // log entries read at once
	scanLimit     = 4096                      // log entries read in one turn of a subscription
	pumpTime      = 10 * time.Millisecond     // after which reading of the log pauses for acks and answers
	searchLimit   = 8                         // searches of the log at a time
	runLimit      = 500                       // messages in one Commit
	turnLimit     = 64                        // messages sent in one turn of a subscription
	writeFragment = 32 << 10                  // bytes of one WebSocket fragment
	maxSeq        = 1 << 62                   // of a HELLO: sums with it must not overflow
	maxDuration   = 10 * 365 * 24 * time.Hour // of an option
	maxPayload    = 1 << 30                   // of an option

	defaultSessions = 100_000
	defaultIDs      = 1 << 18
)

// withDefaults returns a copy with all defaults set, and what is wrong with it.
func (o *Options) withDefaults() (*Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	duration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	number := func(n *int, def int) {
		if *n == 0 {
			*n = def
		}
	}
	duration(&c.Heartbeat, 20*time.Second)
	duration(&c.HelloTimeout, 5*time.Second)
	duration(&c.WriteTimeout, 15*time.Second)
	duration(&c.SessionTTL, 15*time.Minute)
	duration(&c.Dedup, time.Hour)
	number(&c.Window, 4096)
	number(&c.WindowBytes, 4<<20)
	number(&c.MaxPayload, native.MaxPayload)
	number(&c.MaxConns, 10_000)
	number(&c.MaxFallback, 1_000)
	number(&c.MaxPending, 1_000)
	number(&c.MaxSessions, defaultSessions)
	number(&c.MaxSubs, native.MaxSubs)
	number(&c.MaxIDs, defaultIDs)
	number(&c.ReconnectRate, 1_000)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Log == nil && c.Store == nil {
		c.Log = NewMemoryLog(c.Retention)
	}
	c.Hosts = append([]string(nil), c.Hosts...)
	c.Origins = append([]string(nil), c.Origins...)
	return &c, c.validate()
}

// validate names every option that is out of its bounds.
func (o *Options) validate() error {
	var errs []error
	if o.Store != nil && o.Log != nil {
		errs = append(errs, errors.New("server: Options.Store and Options.Log are both set; the store has the log"))
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"Heartbeat", o.Heartbeat}, {"HelloTimeout", o.HelloTimeout}, {"WriteTimeout", o.WriteTimeout},
		{"SessionTTL", o.SessionTTL}, {"Dedup", o.Dedup},
	} {
		if d.v < time.Millisecond || d.v > maxDuration {
			errs = append(errs, fmt.Errorf("server: Options.%s is %v; it must be from 1ms to %v", d.name, d.v, maxDuration))
		}
	}
	for _, n := range []struct {
		name string
		v    int
	}{
		{"WindowBytes", o.WindowBytes}, {"MaxPayload", o.MaxPayload}, {"MaxConns", o.MaxConns},
		{"MaxPending", o.MaxPending}, {"MaxSessions", o.MaxSessions}, {"MaxSubs", o.MaxSubs},
		{"MaxIDs", o.MaxIDs}, {"ReconnectRate", o.ReconnectRate},
	} {
		if n.v < 1 {
			errs = append(errs, fmt.Errorf("server: Options.%s is %d; it must be positive", n.name, n.v))
		}
	}
	if o.MaxPayload > maxPayload {
		errs = append(errs, fmt.Errorf("server: Options.MaxPayload is %d; it must be at most %d", o.MaxPayload, maxPayload))
	}
	if o.Window < 64 || o.Window > 4096 || o.Window%64 != 0 {
		errs = append(errs, fmt.Errorf("server: Options.Window is %d; it must be a multiple of 64 from 64 to 4096", o.Window))
	}
	for _, s := range o.Origins {
		if u, err := url.Parse(s); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			errs = append(errs, fmt.Errorf("server: Options.Origins: %q is not an origin such as https://example.com", s))
		}
	}
	return errors.Join(errs...)
}

// beat returns the interval in which the server sends something to a client: its own,
// or the client's if that is shorter. A client on a slow link depends on it, because its
// pings wait behind its messages.
func (o *Options) beat(h *native.Hello) time.Duration {
	if h.HB == 0 || milliseconds(h.HB) >= o.Heartbeat {
		return o.Heartbeat
	}
	return max(milliseconds(h.HB), min(minBeat, o.Heartbeat))
}

// readLimit returns the length of the longest WebSocket message that can be
// allowed: one with a payload in base64, or a HELLO with all its subscriptions.
func (o *Options) readLimit() int64 {
	return int64(max(256<<10, o.MaxPayload/3*4+64<<10))
}
