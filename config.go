package limpet

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/keeper"
	"github.com/limpet-go/limpet/internal/traits"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// config is Options with every default filled in.
type config struct {
	Options
	url    *url.URL   // the first of urls
	urls   []*url.URL // of all endpoints
	traits wire.Traits

	rules   endpoint.Rules
	allowed endpoint.Redirects
}

// Bounds that no program needs to pass and that arithmetic survives.
const (
	maxDuration = 366 * 24 * time.Hour
	minDuration = time.Millisecond // less is a number without its unit
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
	if c.Dialect == nil {
		c.Dialect = native.New(nil)
	}
	v := &validation{op: "New"}
	dialect, err := guard.NewDialect(c.Dialect, newPanicError)
	if err == nil {
		err = dialect.Check()
	}
	if panicked := (*fault.User)(nil); errors.As(err, &panicked) {
		v.errs = append(v.errs, &Error{Op: v.op, Field: panicked.Option, Class: ClassUser, Err: panicked.Err})
	} else if err != nil {
		v.errs = append(v.errs, &Error{Op: v.op, Field: "Options.Dialect", Class: ClassInput, Err: err})
	}
	c.Dialect, c.traits = dialect, dialect.Traits()
	c.rules = endpoint.Rules{AllowInsecure: c.AllowInsecure, StrictURL: c.StrictURL}
	urls, problems := c.rules.Endpoints(rawURL, c.Endpoints)
	v.problems(problems)
	c.url, c.urls = urls[0], urls
	c.Endpoints = slices.Clone(c.Endpoints)
	v.backoff(&c.Backoff)
	v.header(c.Header)
	v.redirects(&c)
	v.strictURL(&c)
	v.httpClient(c.HTTPClient)
	v.traits(&c.traits)
	v.fallback(&c)
	v.limits(c.Limits, &c.traits.Connection)
	v.duration("Options.Heartbeat.Interval", &c.Heartbeat.Interval, 20*time.Second)
	if c.Heartbeat.Interval >= minDuration && c.Heartbeat.Interval < minHeartbeat {
		v.refuse("Options.Heartbeat.Interval", "is %v; use %v or more, 20s is usual", c.Heartbeat.Interval, minHeartbeat)
	}
	v.duration("Options.DialTimeout", &c.DialTimeout, 10*time.Second)
	v.duration("Options.SessionTTL", &c.SessionTTL, 0)
	v.quantity("Options.Window.Messages", &c.Window.Messages, 4096)
	v.quantity("Options.Window.Bytes", &c.Window.Bytes, 16<<20)
	switch {
	case c.ReadLimit < 0:
		v.refuse("Options.ReadLimit", "must not be negative, is %d; there is no value for unlimited", c.ReadLimit)
	case c.ReadLimit == 0:
		c.ReadLimit = 4 << 20
	case c.ReadLimit < minReadLimit:
		v.refuse("Options.ReadLimit", "is %d bytes, too small for a handshake; use %d or more", c.ReadLimit, minReadLimit)
	case c.ReadLimit > maxBuffer:
		v.refuse("Options.ReadLimit", "is %d bytes; use %d or less", c.ReadLimit, maxBuffer)
	case c.ReadLimit < c.traits.MinReadLimit:
		v.refuse("Options.ReadLimit", "must be at least %d for %s, whose servers put messages together up to that size; is %d", c.traits.MinReadLimit, c.Dialect.Name(), c.ReadLimit)
	}
	if c.Outbox != nil && !c.traits.Publish {
		v.errs = append(v.errs, unsupported(v.op, optionOutbox, "dialect "+c.Dialect.Name()+" does not accept messages; remove the outbox"))
	}
	v.memoryLimit(&c.Memory, int(min(max(c.ReadLimit, 0), maxBuffer)))
	return c, errors.Join(v.errs...)
}

// hasCredential reports whether there is a function to ask for a credential.
func (c *config) hasCredential() bool { return c.Auth != nil || c.Ticket != nil }

// memoryLimit checks Options.Memory: a message must fit.
func (v *validation) memoryLimit(n *int, readLimit int) {
	least := max(minMemory, 2*readLimit)
	switch {
	case *n == 0:
		*n = max(64<<20, least)
	case *n < 0:
		v.refuse("Options.Memory", "must not be negative, is %d; there is no value for unlimited", *n)
	case *n < least:
		v.refuse("Options.Memory", "is %d bytes; use %d or more: twice Options.ReadLimit, and at least %d", *n, least, minMemory)
	}
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
		v.refuse(field, "is %v; use %v or less", *d, maxDuration)
	case *d == 0:
		*d = def
	case *d < minDuration:
		v.refuse(field, "%s", withoutUnit(*d))
	}
}

// withoutUnit is the text about a duration that is too short to be meant.
func withoutUnit(d time.Duration) string {
	return fmt.Sprintf("is %v, which is too short; a time.Duration needs a unit, as in 5*time.Second", d)
}

func (v *validation) quantity(field string, n *int, def int) {
	if *n < 0 {
		v.refuse(field, "must not be negative, is %d", *n)
	} else if *n > maxBuffer {
		v.refuse(field, "is %d; use %d or less", *n, maxBuffer)
	} else if *n == 0 {
		*n = def
	}
}

// problems reports what is wrong with URLs.
func (v *validation) problems(found []endpoint.Problem) {
	for _, p := range found {
		v.refuse(p.Field, "%w", p.Err)
	}
}

// limits replaces those of the dialect by those of Options.Limits.
func (v *validation) limits(own wire.ConnectionLimits, of *wire.ConnectionLimits) {
	if name, problem := own.Check(); name != "" {
		v.refuse("Options.Limits."+name, "%s", problem)
		return
	}
	if own.Messages > 0 {
		of.Messages, of.Per, of.Burst = own.Messages, own.Per, own.Burst
	}
	if own.Subscriptions > 0 {
		of.Subscriptions = own.Subscriptions
	}
	if own.Dials > 0 {
		of.Dials, of.DialsPer = own.Dials, own.DialsPer
	}
	if own.Age > 0 {
		of.Age = own.Age
	}
}

// closeCode is the code of a clean close.
func (c *config) closeCode() uint16 {
	if code := c.traits.CloseCode; code != 0 {
		return code
	}
	return 1000
}

// traits refuses traits that mean nothing.
func (v *validation) traits(t *wire.Traits) {
	for _, p := range traits.Check(t) {
		v.refuse("Options.Dialect", "its trait %s %s", p.Trait, p.Text)
	}
}

func (v *validation) header(h http.Header) {
	if err := headers.Check(h); err != nil {
		v.errs = append(v.errs, &Error{Op: v.op, Field: "Options.Header", Class: ClassInput, Err: err})
	}
}

// strictURL refuses credentials in the URL, if the caller wants that.
func (v *validation) strictURL(c *config) {
	v.problems(c.rules.Credentials(c.urls))
	if c.StrictURL && c.Ticket != nil {
		v.refuse("Options.Ticket", "puts a ticket into the URL, which Options.StrictURL forbids; unset one of them")
	}
}

// httpClient refuses timeouts that would end every attempt, and a transport that is a
// nil pointer.
func (v *validation) httpClient(c *http.Client) {
	if c == nil {
		return
	}
	const field = "Options.HTTPClient"
	v.timeout(field+".Timeout", c.Timeout)
	t, ok := c.Transport.(*http.Transport)
	switch {
	case ok && t == nil:
		v.refuse(field+".Transport", "must not be a nil *http.Transport; remove it for the default")
	case ok:
		v.timeout(field+".Transport.TLSHandshakeTimeout", t.TLSHandshakeTimeout)
		v.timeout(field+".Transport.ResponseHeaderTimeout", t.ResponseHeaderTimeout)
	}
}

// timeout checks one of net/http: 0 means none.
func (v *validation) timeout(field string, d time.Duration) {
	if d < 0 {
		v.refuse(field, "must not be negative, is %v", d)
	} else if d > 0 && d < minDuration {
		v.refuse(field, "%s", withoutUnit(d))
	}
}

const (
	minReadLimit = 1 << 10
	minMemory    = 1 << 20
	minHeartbeat = 10 * time.Millisecond
)

// checkToken returns why a credential's token cannot be sent. A line break is what
// a file that holds a token ends with.
func checkToken(token Secret) error {
	switch t := token.reveal(); {
	case len(t) > maxToken || !utf8.ValidString(t):
		return fmt.Errorf("a token must be UTF-8 of at most %d bytes", maxToken)
	case strings.ContainsFunc(t, unicode.IsControl):
		return errors.New("a token must not hold a line break or another control character; use strings.TrimSpace")
	}
	return nil
}

// check returns why c cannot be sent.
func (c *Credential) check() error {
	if err := checkToken(c.Token); err != nil {
		return err
	}
	if err := headers.Check(c.Header); err != nil {
		return fmt.Errorf("Credential.Header: %w", err)
	}
	for i, name := range c.Subprotocols {
		if !headers.IsToken(name) || len(name) > maxToken {
			return fmt.Errorf("Credential.Subprotocols[%d] is no token (RFC 6455, section 4.1); encode it in base64url without padding, with at most %d bytes", i, maxToken)
		}
	}
	return nil
}

func (v *validation) backoff(b *Backoff) {
	if b.First >= 0 { // a negative one has a meaning
		v.duration("Options.Backoff.First", &b.First, 500*time.Millisecond)
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
		v.refuse("Options.Backoff.Max", "is %v, less than Initial, %v; raise it", b.Max, b.Initial)
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
	switch {
	case s.From > FromLast:
		return s, inputError(op, "SubscribeOptions.From", "unknown value %d; use FromNew, FromFirst, FromLast or FromResume", s.From)
	case s.From == FromResume && s.Position.IsZero():
		return s, inputError(op, "SubscribeOptions.Position", "FromResume needs a position")
	case s.From != FromResume && !s.Position.IsZero():
		return s, inputError(op, "SubscribeOptions.Position", "is only for FromResume")
	case s.From != FromNew && !c.traits.Resume:
		return s, unsupported(op, "SubscribeOptions.From", "dialect "+c.Dialect.Name()+" has no trait Resume")
	case checkToken(s.Token) != nil:
		return s, inputError(op, "SubscribeOptions.Token", "%w", checkToken(s.Token))
	case s.Delivery.Overflow == Block && !c.traits.Credit:
		return s, unsupported(op, "Delivery.Overflow", "Block needs the trait Credit, which dialect "+c.Dialect.Name()+" lacks; use DropOldest")
	case s.Lend && s.Delivery.Overflow == Latest:
		return s, inputError(op, "SubscribeOptions.Lend", "excludes Latest, where one message may wait for long and keep the memory of many; use one of them")
	}
	if err := c.checkCursor(op, &s); err != nil {
		return s, err
	}
	if err := s.Delivery.check(op); err != nil {
		return s, err
	}
	s.Delivery.fill(c.traits.Credit)
	return s, nil
}

const (
	optionOutbox = "Options.Outbox"
	optionCursor = "SubscribeOptions.Cursor"
	optionName   = "SubscribeOptions.Name"
)

// checkCursor returns what is wrong with the cursor of s, or guards it.
func (c *config) checkCursor(op string, s *SubscribeOptions) error {
	switch {
	case s.Cursor == nil && s.Name != "":
		return inputError(op, optionName, "is only for Cursor; set SubscribeOptions.Cursor")
	case s.Cursor == nil:
		return nil
	case !c.traits.Resume:
		return unsupported(op, optionCursor, "dialect "+c.Dialect.Name()+" has no trait Resume, so a stream cannot start after a saved position")
	case cursor.CheckName(s.Name) != nil:
		return inputError(op, optionName, "%w", cursor.CheckName(s.Name))
	}
	store, err := guard.NewStore(s.Cursor, newPanicError)
	if errors.Is(err, ErrPanic) {
		return &Error{Op: op, Field: optionCursor, Class: ClassUser, Err: err}
	} else if err != nil {
		return inputError(op, optionCursor, "%w", err)
	}
	s.Cursor = store
	return nil
}

// feed is the feed to which the positions of topic belong.
func (c *config) feed(topic string) cursor.Feed {
	return cursor.Feed{Dialect: c.Dialect.Name(), Host: c.url.Host, Topic: topic}
}

const (
	minRate      = 1e-6
	maxRate      = 1e9
	defaultBurst = 10 * time.Millisecond // of Rate: a timer is not more exact
)

// check returns what is wrong with d.
func (d *Delivery) check(op string) error {
	perInterval := math.Floor(d.Rate * d.Every.Seconds())
	switch {
	case d.Buffer < 0:
		return inputError(op, "Delivery.Buffer", "must not be negative, is %d", d.Buffer)
	case d.Buffer > maxBuffer:
		return inputError(op, "Delivery.Buffer", "is %d; use %d or less", d.Buffer, maxBuffer)
	case d.Bytes < 0:
		return inputError(op, "Delivery.Bytes", "must not be negative, is %d", d.Bytes)
	case d.Bytes > maxBuffer:
		return inputError(op, "Delivery.Bytes", "is %d; use %d or less", d.Bytes, maxBuffer)
	case d.Overflow > Latest:
		return inputError(op, "Delivery.Overflow", "unknown value %d; use Block, DropOldest, DropNewest or Latest", d.Overflow)
	case d.Key != nil && d.Overflow != Latest:
		return inputError(op, "Delivery.Key", "is only for Latest; set Delivery.Overflow to Latest")
	case d.Every < 0:
		return inputError(op, "Delivery.Every", "must not be negative, is %v", d.Every)
	case d.Every > 0 && d.Every < time.Microsecond:
		return inputError(op, "Delivery.Every", "%s", withoutUnit(d.Every))
	case d.Every > maxDuration:
		return inputError(op, "Delivery.Every", "is %v; use %v or less", d.Every, maxDuration)
	case !(d.Rate >= 0 && d.Rate <= maxRate) || d.Rate > 0 && d.Rate < minRate: // NaN is neither
		return inputError(op, "Delivery.Rate", "is %v; use %v to %v messages a second, or 0 for no limit", d.Rate, minRate, maxRate)
	case d.Burst < 0:
		return inputError(op, "Delivery.Burst", "must not be negative, is %d", d.Burst)
	case d.Burst > maxBuffer:
		return inputError(op, "Delivery.Burst", "is %d; use %d or less", d.Burst, maxBuffer)
	case d.Burst > 0 && d.Rate == 0:
		return inputError(op, "Delivery.Burst", "is only for Rate; set Delivery.Rate")
	case perInterval > maxBuffer:
		return inputError(op, "Delivery.Rate", "is %v, %.0f messages in Every, %v; use %d or less", d.Rate, perInterval, d.Every, maxBuffer)
	case d.Burst > 0 && float64(d.Burst) < perInterval:
		return inputError(op, "Delivery.Burst", "is %d, so that Rate %v is never reached; with Every %v use %.0f, or leave it 0", d.Burst, d.Rate, d.Every, perInterval)
	}
	return nil
}

// fill sets the defaults. credit says that the server can be made to wait.
func (d *Delivery) fill(credit bool) {
	if d.Overflow == OverflowDefault {
		d.Overflow = DropOldest
		if credit {
			d.Overflow = Block
		}
	}
	if d.Buffer == 0 {
		d.Buffer = 1024
	}
	if d.Bytes == 0 {
		d.Bytes = 1 << 20
	}
	if d.Rate > 0 && d.Burst == 0 {
		d.Burst = int(max(1, math.Ceil(d.Rate*max(defaultBurst, d.Every).Seconds())))
	}
}

func topicError(op string, err error) *Error {
	var panicked *fault.User
	if errors.As(err, &panicked) {
		return &Error{Op: op, Field: panicked.Option, Class: ClassUser, Err: panicked.Err}
	}
	return &Error{Op: op, Field: "topic", Class: ClassInput, Err: fmt.Errorf("%w: %w", ErrTopic, err)}
}

const (
	maxHeaderEntries = 32
	maxHeaderBytes   = 8 << 10 // keys, values and the content type
)

// checkMessage checks everything but the topic.
func (c *config) checkMessage(m *Outgoing) *Error {
	if m.TTL < 0 {
		return inputError(opPublish, "PublishOptions.TTL", "must not be negative, is %v; 0 means that it does not expire", m.TTL)
	}
	if m.Resend > Never {
		return inputError(opPublish, "PublishOptions.Resend", "unknown value %d; use Exact, AtLeastOnce or Never", m.Resend)
	}
	if m.TTL > maxDuration {
		return inputError(opPublish, "PublishOptions.TTL", "is %v; use %v or less, or 0 if it does not expire", m.TTL, maxDuration)
	}
	if m.TTL > 0 && m.TTL < minDuration {
		return inputError(opPublish, "PublishOptions.TTL", "%s", withoutUnit(m.TTL))
	}
	if limit := c.traits.MaxPayload; limit > 0 && len(m.Payload) > limit {
		return &Error{Op: opPublish, Field: "payload", Class: ClassInput,
			Err: fmt.Errorf("%w: it has %d bytes, the dialect allows %d", ErrTooBig, len(m.Payload), limit)}
	}
	if m.Type == "" && len(m.Header) == 0 {
		return nil
	}
	if !utf8.ValidString(m.Type) {
		return inputError(opPublish, "PublishOptions.Type", "is not valid UTF-8; use a content type such as application/json")
	}
	size := len(m.Type)
	for k, v := range m.Header {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return inputError(opPublish, "PublishOptions.Header", "a key or value must be valid UTF-8; encode it, for example in base64")
		}
		size += len(k) + len(v)
	}
	if len(m.Header) > maxHeaderEntries || size > maxHeaderBytes {
		return inputError(opPublish, "PublishOptions.Header",
			"has %d entries of %d bytes, the content type included; use at most 32 and 8 KiB", len(m.Header), size)
	}
	return nil
}

// openOutbox opens Options.Outbox, if there is one.
func (c *config) openOutbox() (o keeper.Opened[*Receipt], err error) {
	if c.Outbox == nil {
		return o, nil
	}
	if o, err = keeper.Open[*Receipt](c.Outbox, c.Dialect.Name(), time.Now(), newPanicError); err != nil {
		class := ClassLocal
		if errors.Is(err, ErrPanic) {
			class = ClassUser
		}
		err = &Error{Op: "New", Field: optionOutbox, Class: class, Err: joinReason(ErrOutbox, err)}
	}
	return o, err
}
