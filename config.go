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
	c.PlainFrames = c.PlainFrames || plainByDefault
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
