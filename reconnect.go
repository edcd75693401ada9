package limpet

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/governor"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// The fixed numbers of docs/reconnect.md.
const (
	minBetweenAttempts = 100 * time.Millisecond // between the starts of two attempts
	maxSpread          = 5 * time.Minute        // of the server's reconnect window
	maxDialTimeout     = time.Minute
	longOutageFailures = 20               // in a row; from then on the cap is four times as high
	handshakeTimeout   = 10 * time.Second // of the first handshake
	maxHeartbeat       = time.Hour        // that a server may announce
	refusalMemory      = time.Minute      // a second refused credential within it is permanent
)

// policy decides when to try again (docs/reconnect.md, section 1). It belongs
// to the loop.
type policy struct {
	options          Backoff
	firstDialTimeout time.Duration
	dialTimeout      time.Duration               // of the next attempt
	handshakeTimeout time.Duration               // of the next connection, from the upgrade to Ready
	failures         int                         // losses and failed attempts in a row
	exponential      *backoff.ExponentialBackOff // nil before the first failure
}

func newPolicy(o Backoff, dialTimeout time.Duration) policy {
	p := policy{options: o, firstDialTimeout: dialTimeout, handshakeTimeout: handshakeTimeout}
	p.forgetFailures()
	return p
}

// forgetFailures resets the policy, once a connection is stable.
func (p *policy) forgetFailures() {
	p.failures = 0
	p.dialTimeout = p.firstDialTimeout
	p.exponential = nil
}

// newExponential draws U(v/2, v), where v grows from initial to limit. The
// library caps the interval before it randomises, so its interval is 3/4 v. It
// must never give up on its own (MaxElapsedTime 0).
func newExponential(initial, limit time.Duration, multiplier float64) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(initial*3/4),
		backoff.WithMaxInterval(limit*3/4),
		backoff.WithMultiplier(multiplier),
		backoff.WithRandomizationFactor(1.0/3),
		backoff.WithMaxElapsedTime(0),
	)
}

// delayBound returns v for the current number of failures, before any reconnect
// window.
func (p *policy) delayBound() time.Duration {
	if p.failures >= longOutageFailures {
		return 4 * p.options.Max
	}
	v := float64(p.options.Initial)
	for i := 1; i < p.failures && v < float64(p.options.Max); i++ {
		v *= p.options.Multiplier
	}
	return min(p.options.Max, time.Duration(v))
}

// countFailure counts one more failure, or as many as it takes to reach floor.
// The library's interval grows with the count, whether its draw is used or not.
func (p *policy) countFailure(floor int) (draw time.Duration) {
	for more := max(1, floor-p.failures); more > 0; more-- {
		switch p.failures++; {
		case p.failures == longOutageFailures:
			p.exponential = newExponential(4*p.options.Max, 4*p.options.Max, p.options.Multiplier)
		case p.exponential == nil:
			p.exponential = newExponential(p.options.Initial, p.options.Max, p.options.Multiplier)
		}
		draw = p.exponential.NextBackOff()
	}
	return draw
}

// nextDelay counts one more failure and draws the wait before the next attempt.
// A slot given by the server replaces the draw; the wait is never shorter than
// the slot.
func (p *policy) nextDelay(d verdict.Decision, spread time.Duration) time.Duration {
	draw := p.countFailure(d.MinFailures)
	v := p.delayBound()
	if d.AtCap {
		v = max(v, p.options.Max)
	}
	spread = min(spread, maxSpread)
	switch {
	case d.After > 0:
		return d.After + uniform(max(d.After/10, d.SlotWindow))
	case p.failures == 1 && !d.AtCap && p.options.First < 0 && spread == 0:
		return 0
	case p.failures == 1 && !d.AtCap:
		return uniform(max(p.options.First, spread))
	case v < spread:
		return spread/2 + uniform(spread/2)
	case d.AtCap:
		return v/2 + uniform(v/2)
	}
	return draw
}

// extendDialTimeout gives the next attempt more time. Otherwise a server whose
// accept queue is longer than the timeout would never serve any client.
func (p *policy) extendDialTimeout() {
	p.dialTimeout = max(p.firstDialTimeout, min(maxDialTimeout, p.dialTimeout*16/10))
}

// extendHandshakeTimeout does the same for a server that is slow to complete the
// handshake.
func (p *policy) extendHandshakeTimeout() {
	p.handshakeTimeout = min(maxDialTimeout, p.handshakeTimeout*16/10)
}

// uniform draws from [0, d].
func uniform(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Uint64N(uint64(d) + 1))
}

// OutageEnded reports that everything that was live when a connection was lost is live
// again: the connection and each subscription that has not ended. See Stats.Outages.
type OutageEnded struct {
	// Duration is how long it took.
	Duration time.Duration
	// Attempts is the number of attempts to connect.
	Attempts int
	// Gaps is the number of gaps and resets that were reported by then, Missed the number of
	// messages missing in them, as far as it is known.
	Gaps   uint64
	Missed uint64
	// Unproved is the number of subscriptions for which the server has not proved that
	// nothing else is missing: a loss may show with their next message.
	Unproved int
}

func (e OutageEnded) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{
		slog.Duration("after", e.Duration.Round(time.Millisecond)), slog.Int("attempts", e.Attempts),
		slog.Uint64("gaps", e.Gaps), slog.Uint64("missed", e.Missed)}
	if e.Unproved > 0 {
		attrs = append(attrs, slog.Int("unproved", e.Unproved))
	}
	return slog.LevelInfo, "limpet: live again", attrs
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// outageWatch is a time without all that the client had.
type outageWatch struct {
	since    time.Time // zero: there is none
	countAt  time.Time // when it counts as one, if it was planned; zero: it does
	attempts uint64    // of the client when it began
	waiting  int       // subscriptions that were live and are not yet again
	unproved int       // subscriptions that are live again, and may still show a loss
	gaps     uint64    // gaps and resets so far
	missed   uint64    // messages in them, as far as known
}

// beginOutage follows when a connection that was ready is lost.
func (l *loop) beginOutage() {
	if l.outage.since.IsZero() {
		c := &l.c.counters
		l.outage = outageWatch{since: l.now, attempts: c.attempts.Load()}
		if l.rotation.old != nil {
			l.outage.since = l.rotation.endOverlap
			l.outage.countAt = l.outage.since
		} else if l.rotation.planned {
			l.outage.countAt = l.now.Add(plannedTime)
		} else {
			c.outages.Begin(l.now)
		}
	}
	for s := range l.registry.all() {
		if !s.inOutage && s.state.Load().Phase == SubLive {
			s.inOutage = true
			l.outage.waiting++
		}
	}
}

// checkOutage ends the outage when everything is live again, or the client has ended.
func (l *loop) checkOutage() {
	l.countOutage(false)
	o := l.outage
	live := l.link != nil && l.link.ready && o.waiting == 0
	if o.since.IsZero() || !live && !l.ended {
		return
	}
	c := &l.c.counters
	l.outage = outageWatch{}
	if !o.countAt.IsZero() {
		return
	}
	took := c.outages.End()
	if !live {
		return
	}
	if h := c.measured; h != nil {
		h.recovery.Add(took, 1)
	}
	l.c.notify.post(OutageEnded{took, int(c.attempts.Load() - o.attempts), o.gaps, o.missed, o.unproved})
}

// Governor gives the attempts of several clients their turns, so that many clients in one
// process are no herd. It counts for each host and port apart. A host that refuses an attempt
// with status 429 or 503, or ends a connection with close code 1008, gets 20 attempts a second
// from then on, and half as many after each second with further refusals, but at least one.
// The rate doubles every 30 seconds without a refusal, until there is no limit again. A server
// that gives each client its own time (X-Limpet-Retry-Ms) is not limited. An attempt that
// succeeds doubles the rate as well, at most once a second.
//
// A Governor may be used by any number of clients. See docs/reconnect.md, section 6.
type Governor struct{ turns *governor.Governor }

// NewGovernor returns a Governor that also bounds the attempts to a host that is not
// overloaded: to perSecond attempts a second, from 1e-6 to 1e6, and burst at once, from 1 to
// 1e6. The errors are of type *Error, class input.
func NewGovernor(perSecond float64, burst int) (*Governor, error) {
	const op = "NewGovernor"
	if !(perSecond >= 1e-6 && perSecond <= 1e6) {
		return nil, inputError(op, "perSecond", "is %v; use 1e-6 to 1e6 attempts a second", perSecond)
	}
	if burst < 1 || burst > 1e6 {
		return nil, inputError(op, "burst", "is %d; use 1 to 1e6", burst)
	}
	return &Governor{governor.New(perSecond, burst)}, nil
}

// newChoice returns the choice among the endpoints of a client.
func newChoice(c *config) endpoint.Choice {
	if c.Governor != nil {
		return endpoint.NewChoice(c.urls, c.Governor.turns, func() {})
	}
	turns, release := governor.Of(c.HTTPClient)
	return endpoint.NewChoice(c.urls, turns, release)
}

// takeTurn chooses the endpoint of the next attempt. It reports false if the Governor gives
// the attempt a later turn: then it is scheduled for that time.
func (l *loop) takeTurn() bool {
	wait := l.endpoints.Wait(l.now)
	if wait == 0 {
		return true
	}
	l.attemptAt = l.endpoints.TurnAt
	l.state.NextAttempt = l.now.Add(wait)
	if l.state.Phase == Waiting {
		l.c.state.Set(l.state)
	} else {
		l.enter(Waiting)
	}
	return false
}

// followEndpoint follows at the endpoint why an attempt failed (k is nil) or a connection
// ended. It reports whether another endpoint is to be tried at once.
func (l *loop) followEndpoint(k *link, f *wire.Failure, d *verdict.Decision) (another bool) {
	e, list := l.endpoints.Chosen, l.endpoints.List
	if k != nil {
		e = k.endpoint
	}
	overloaded := f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable || f.Code == 1008
	if overloaded && f.Header.Get(headers.RetryMilliseconds) == "" {
		l.endpoints.Overloaded(e, l.now)
	}
	wasReady := k != nil && k.ready
	switch {
	case list.Len() == 1:
		return false
	case d.Action == wire.ActionStop:
		if !d.ByTable || list.Refused(e, l.now) {
			return false
		}
		d.Action = wire.ActionBackOff
	case d.Class == string(ClassLocal), d.Class == string(ClassUser), d.Action == wire.ActionRefresh:
		return false // the endpoint is not why
	case wasReady && d.Action == wire.ActionSpread:
		list.Avoid(e, l.now) // it goes away
	case wasReady && k.stable:
	default:
		list.Failed(e, l.now)
	}
	if d.After > 0 { // a slot of this endpoint alone
		list.Hold(e, l.now.Add(d.After+uniform(max(d.After/10, d.SlotWindow))))
		d.After = 0
	}
	return !wasReady && list.HasNext(l.now)
}

// resolved is the answer of Options.Resolver.
type resolved struct {
	urls []*url.URL // empty: none is usable
	err  error      // what is wrong with the answer
}

func (e resolved) apply(l *loop) {
	l.cancelAttempt = nil
	if l.ended {
		return
	}
	if e.err != nil {
		l.c.notify.post(CallbackFailed{"Options.Resolver", l.c.secrets.HideError(e.err)})
	}
	if len(e.urls) > 0 {
		l.endpoints.List.Replace(e.urls)
	}
	if l.link != nil {
		l.attemptRotation()
		return
	}
	l.rotation.attempting = false
	l.dial()
}

const optionRedirects = "Options.Redirects"

// Redirects is where a server may redirect the upgrade request. The zero value means nowhere.
//
// A server that answers 301, 302, 307 or 308 is followed to a host in Hosts, and also to
// another path on its own host and port if Hosts is not empty. The request is the same there:
// it has the headers, cookies, subprotocols and ticket that the first host got. It never goes
// from wss:// to ws://, never to a URL with user information, and Options.AllowInsecure and
// Options.StrictURL hold for each URL. At most five redirects are followed in one attempt, and
// none that leads back or has a Retry-After. Everything together is one attempt, within
// Options.DialTimeout, and each attempt begins at the URL again, also after a 301 or 308.
// State.Host, AttemptInfo.Host and metrics name the host of the URL. What is not followed
// fails the attempt with an error that wraps ErrRedirect and names the host. See
// docs/reconnect.md, section 2.
//
// A server that asks for a new connection may name the URL for it (docs/protocol.md, section 8).
// It is followed under the same rules, for one attempt: after that the client goes back to its
// own URLs. A URL that is not followed is reported as RotationFailed.
type Redirects struct {
	// Hosts are host names or addresses, each with a port if it is not the usual one of the
	// scheme: "feed-2.example.com", "10.0.0.7:8443", "[2001:db8::1]". A host gets the same
	// credentials as that of the URL, so list only those that may have them. There are no
	// wildcards. At most 1,000. Defaults to none: redirects are not followed.
	Hosts []string
}

// redirects checks Options.Redirects.
func (v *validation) redirects(c *config) {
	c.Redirects.Hosts = slices.Clone(c.Redirects.Hosts)
	allowed, i, err := endpoint.Allow(c.Redirects.Hosts, c.AllowInsecure)
	switch {
	case err != nil && i < 0:
		v.refuse(optionRedirects+".Hosts", "%w", err)
	case err != nil:
		v.refuse(fmt.Sprintf("%s.Hosts[%d]", optionRedirects, i), "%w", err)
	}
	c.allowed = endpoint.Redirects{Allowed: allowed, StrictURL: c.StrictURL}
}

// optionOf returns the option that err names; "" if there is none.
func optionOf(err error) string {
	if known := (*fault.Redirect)(nil); errors.As(err, &known) {
		return optionRedirects
	}
	return ""
}

// answeredBy names the host that answered, for an error, if that is not the one of the URL.
func answeredBy(f *wire.Failure) string {
	if from := (*fault.Redirected)(nil); errors.As(f.Err, &from) {
		return fmt.Sprintf("after a redirect to %q: ", from.Host)
	}
	return ""
}

// upgrade makes the upgrade request of w, and follows redirects. tickets are the parameters
// of Options.Ticket.
func (d *dialer) upgrade(requests *socket.Requests, w *wire.Attempt, tickets url.Values, o socket.Options) (*socket.Conn, *wire.Failure) {
	step := *w
	trail := []string{w.URL}
	for {
		conn, f := requests.Upgrade(&step, o)
		if f == nil {
			return conn, nil
		}
		from, err := url.Parse(step.URL)
		if err != nil {
			return nil, f // it cannot have been dialled
		}
		if f.Stage != wire.StageUpgrade || f.Status < 300 || f.Status > 399 {
			if len(trail) > 1 && f.Stage == wire.StageUpgrade {
				f.Err = &fault.Redirected{Host: from.Host, Err: f.Err}
			}
			return nil, f
		}
		f.Body = nil // it repeats the location
		next, err := d.cfg.allowed.Next(from, trail, f.Status, f.Header, tickets)
		if err != nil {
			f.Err = err
			return nil, f
		}
		trail = append(trail, next.String())
		step.URL, step.Header = next.String(), step.Header.Clone()
		if next.Host != from.Host {
			step.Header.Del("Host") // the dialect's, for the URL before
		}
		d.secrets.AddRequest(step.URL, step.Header)
		d.addCookies(step.URL)
	}
}
