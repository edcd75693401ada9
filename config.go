package limpet

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// plainByDefault is a flag of the tests: they all run on both paths.
var plainByDefault bool

// config is Options with every default filled in.
type config struct {
	Options
	url    *url.URL
	traits wire.Traits
}

// Bounds that no program needs to pass and that arithmetic survives.
const (
	maxDuration = 366 * 24 * time.Hour
	maxBuffer   = 1 << 30
	maxToken    = 8 << 10 // docs/protocol.md, section 1
)

// newConfig fills in the defaults of o. The error joins one *Error for each
// field at fault.
func newConfig(rawURL string, o *Options) (config, error) {
	var c config
	if o != nil {
		c.Options = *o
	}
	c.Header = c.Header.Clone()
	c.PlainFrames = c.PlainFrames || plainByDefault
	if c.Dialect == nil {
		c.Dialect = native.New(nil)
	}
	v := &validation{op: "New"}
	dialect, err := guard(c.Dialect)
	if err != nil {
		v.errs = append(v.errs, &Error{Op: v.op, Field: "Options.Dialect", Class: ClassUser, Err: errors.Unwrap(err)})
	}
	c.Dialect, c.traits = dialect, dialect.traits
	c.url = v.endpoint(rawURL, c.AllowInsecure)
	v.backoff(&c.Backoff)
	v.duration("Options.Heartbeat.Interval", &c.Heartbeat.Interval, 20*time.Second)
	v.duration("Options.DialTimeout", &c.DialTimeout, 10*time.Second)
	v.duration("Options.SessionTTL", &c.SessionTTL, 0)
	v.quantity("Options.Window.Messages", &c.Window.Messages, 4096)
	v.quantity("Options.Window.Bytes", &c.Window.Bytes, 16<<20)
	if c.ReadLimit < 0 {
		v.refuse("Options.ReadLimit", "must not be negative, is %d; there is no unlimited", c.ReadLimit)
	} else if c.ReadLimit == 0 {
		c.ReadLimit = 4 << 20
	}
	return c, errors.Join(v.errs...)
}

// validation checks fields, fills in their defaults and collects the errors.
type validation struct {
	op   string
	errs []error
}

func (v *validation) refuse(field, format string, args ...any) {
	v.errs = append(v.errs, inputError(v.op, field, format, args...))
}

func (v *validation) duration(field string, d *time.Duration, def time.Duration) {
	switch {
	case *d < 0:
		v.refuse(field, "must not be negative, is %v", *d)
	case *d > maxDuration:
		v.refuse(field, "is %v, more than %v", *d, maxDuration)
	case *d == 0:
		*d = def
	}
}

func (v *validation) quantity(field string, n *int, def int) {
	if *n < 0 {
		v.refuse(field, "must not be negative, is %d", *n)
	} else if *n == 0 {
		*n = def
	}
}

func (v *validation) endpoint(raw string, allowInsecure bool) *url.URL {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		// url.Error repeats the whole URL, which may hold a secret.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		v.errs = append(v.errs, &Error{Op: v.op, Field: "url", Class: ClassInput, Err: err})
	case u.Scheme != "ws" && u.Scheme != "wss":
		v.refuse("url", "scheme must be ws or wss, not %q", u.Scheme)
	case u.Host == "" || u.Hostname() == "":
		v.refuse("url", "no host")
	case u.User != nil:
		v.refuse("url", "user information does not belong in a URL; use Options.Auth")
	case u.Fragment != "":
		v.refuse("url", "a fragment is not allowed (RFC 6455, section 3)")
	case u.Scheme == "ws" && !allowInsecure && !loopback(u.Hostname()):
		v.refuse("url", "ws:// to %s would travel in clear; use wss:// or set Options.AllowInsecure", u.Hostname())
	}
	return u
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (v *validation) backoff(b *Backoff) {
	if b.First > maxDuration {
		v.refuse("Options.Backoff.First", "is %v, more than %v", b.First, maxDuration)
	} else if b.First == 0 {
		b.First = 500 * time.Millisecond
	}
	v.duration("Options.Backoff.Initial", &b.Initial, 500*time.Millisecond)
	v.duration("Options.Backoff.Max", &b.Max, 15*time.Second)
	v.duration("Options.Backoff.StableAfter", &b.StableAfter, 30*time.Second)
	v.duration("Options.Backoff.MaxElapsed", &b.MaxElapsed, 0)
	if b.Multiplier == 0 {
		b.Multiplier = 1.5
	} else if !(b.Multiplier >= 1 && b.Multiplier <= 10) {
		v.refuse("Options.Backoff.Multiplier", "must be from 1 to 10, is %v", b.Multiplier)
	}
	if b.Max < b.Initial {
		v.refuse("Options.Backoff.Max", "%v is less than Initial, %v", b.Max, b.Initial)
	}
}

// subscribeOptions fills in the defaults of o for a subscription to topic.
func (c *config) subscribeOptions(topic string, o *SubscribeOptions) (SubscribeOptions, error) {
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
	case d.Buffer < 0:
		return s, inputError(op, "Delivery.Buffer", "must not be negative, is %d", d.Buffer)
	case d.Buffer > maxBuffer:
		return s, inputError(op, "Delivery.Buffer", "is %d, more than %d", d.Buffer, maxBuffer)
	case len(s.Token) > maxToken || !utf8.ValidString(s.Token.reveal()):
		return s, inputError(op, "SubscribeOptions.Token", "must be UTF-8 of at most %d bytes", maxToken)
	case d.Bytes < 0:
		return s, inputError(op, "Delivery.Bytes", "must not be negative, is %d", d.Bytes)
	case d.Every < 0:
		return s, inputError(op, "Delivery.Every", "must not be negative, is %v", d.Every)
	case d.Overflow > DropNewest:
		return s, inputError(op, "Delivery.Overflow", "unknown value %d", d.Overflow)
	case d.Overflow == Block && !c.traits.Credit:
		return s, unsupported(op, "Delivery.Overflow", "Block needs the trait Credit, which dialect "+c.Dialect.Name()+" lacks; use DropOldest")
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
	var panicked *userError
	if errors.As(err, &panicked) {
		return &Error{Op: op, Field: panicked.option, Class: ClassUser, Err: panicked.err}
	}
	return &Error{Op: op, Field: "topic", Class: ClassInput, Err: fmt.Errorf("%w: %w", ErrTopic, err)}
}
