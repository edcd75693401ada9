package limpet

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/governor"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

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
