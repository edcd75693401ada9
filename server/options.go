package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// Options configures a Server. The zero value is a server in memory for
// loopback names that accepts everybody. New copies it.
type Options struct {
	// Log holds the messages. Nil: NewMemoryLog(Retention).
	Log       Log
	Retention Retention

	Hooks Hooks

	// Hosts are the values of the Host header that are served besides localhost,
	// 127.0.0.1 and [::1]: "example.com" with any port, "example.com:8443" with
	// that one, "*" whatever it is. Others get 403: a page whose name was made to
	// point here (DNS rebinding) must not be able to speak to this server.
	Hosts []string

	// Origins are the origins of browser pages that may connect, such as
	// "https://app.example.com", besides pages from the same host and port; where
	// this server ends TLS itself those must be https. Requests without an Origin
	// do not come from a page and are served.
	Origins []string

	Heartbeat    time.Duration // default 20 s; a peer silent for 2.5 of it is removed
	HelloTimeout time.Duration // default 5 s: from the upgrade to HELLO
	WriteTimeout time.Duration // default 15 s: a peer that takes no 4 KiB for so long is removed
	SessionTTL   time.Duration // default 15 min: a detached session is kept so long at most
	Dedup        time.Duration // default 1 h: how long message ids are known

	Window      int // default and most 4,096, a multiple of 64: messages a client may have unacknowledged
	WindowBytes int // default 4 MiB: and bytes of them
	MaxPayload  int // default 256 KiB
	MaxConns    int // default 10,000; above it upgrades are answered 503
	MaxPending  int // default 1,000: connections that have not been welcomed yet
	MaxSessions int // default 100,000; above it the longest detached one goes
	MaxSubs     int // default 10,000: subscriptions of one session
	MaxIDs      int // default 262,144: message ids known

	// ReconnectRate is how many connections a second this server takes when all
	// clients come back at once. It sizes the reconnect window in WELCOME and
	// the slots given with 503. Default 1,000.
	ReconnectRate int

	Logger *slog.Logger // nil: none
}

const (
	batchLimit    = native.MaxBatch
	helloSubs     = native.MaxHelloSubs
	queueLimit    = 1024 // frames and requests waiting for the writer of one connection
	authTimeout   = 10 * time.Second
	closeGrace    = time.Second // for the close handshake
	maxSpread     = 5 * time.Minute
	readChunk     = 256 // log entries taken at once
	scanLimit     = 4096
	turnLimit     = 64 // messages of one subscription before the next has its turn
	writeFragment = 32 << 10
	maxSeq        = 1 << 62 // of a HELLO: sums with it must not overflow
	maxDuration   = 10 * 365 * 24 * time.Hour
	maxPayload    = 1 << 30
)

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
	number(&c.MaxPending, 1_000)
	number(&c.MaxSessions, 100_000)
	number(&c.MaxSubs, native.MaxSubs)
	number(&c.MaxIDs, 1<<18)
	number(&c.ReconnectRate, 1_000)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Log == nil {
		c.Log = NewMemoryLog(c.Retention)
	}
	c.Hosts = append([]string(nil), c.Hosts...)
	c.Origins = append([]string(nil), c.Origins...)
	return &c, c.validate()
}

func (o *Options) validate() error {
	var errs []error
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

// readLimit is the longest WebSocket message that can hold a permitted batch:
// one payload in base64, or a HELLO with all its subscriptions.
func (o *Options) readLimit() int64 {
	return int64(max(256<<10, o.MaxPayload/3*4+64<<10))
}
