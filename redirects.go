package limpet

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

const (
	optionRedirects = "Options.Redirects"
	maxRedirects    = 5 // of one attempt
)

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
	c.allowed = allowed
}

// redirectError is a redirect that was not followed.
type redirectError struct{ why, instead string }

func (e *redirectError) Error() string { return "server redirects " + e.why + e.instead }
func (e *redirectError) Unwrap() error { return ErrRedirect }

const (
	useFinalURL = "; use the final URL"
	orOwnURL    = "; the URLs of the options are used, so add the host to Hosts if it may have the credentials"
	orListHost  = useFinalURL + ", or add the host to Hosts if it may have the credentials"
)

// redirectOf returns the error of an answer 3xx.
func redirectOf(f *wire.Failure) error {
	if known := (*redirectError)(nil); errors.As(f.Err, &known) {
		return known
	}
	return ErrRedirect
}

// optionOf returns the option that err names; "" if there is none.
func optionOf(err error) string {
	if known := (*redirectError)(nil); errors.As(err, &known) {
		return optionRedirects
	}
	return ""
}

// redirected is an answer of a host to which the server has redirected.
type redirected struct {
	host string
	err  error
}

func (e *redirected) Error() string { return fmt.Sprintf("after a redirect to %q: %v", e.host, e.err) }
func (e *redirected) Unwrap() error { return e.err }

// answeredBy names the host that answered, for an error, if that is not the one of the URL.
func answeredBy(f *wire.Failure) string {
	if from := (*redirected)(nil); errors.As(f.Err, &from) {
		return fmt.Sprintf("after a redirect to %q: ", from.host)
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
				f.Err = &redirected{from.Host, f.Err}
			}
			return nil, f
		}
		f.Body = nil // it repeats the location
		next, err := d.follow(from, f, tickets)
		switch {
		case err != nil:
		case slices.Contains(trail, next.String()):
			err = &redirectError{fmt.Sprintf("in a loop, back to the host %q", next.Host), useFinalURL}
		case len(trail) > maxRedirects:
			err = &redirectError{fmt.Sprintf("more than %d times, at last to the host %q", maxRedirects, next.Host), useFinalURL}
		}
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

// follow returns the URL of the next request, or a *redirectError. The ticket belongs to the
// credentials, so it goes along; a parameter of the same name that the server has set counts.
func (d *dialer) follow(from *url.URL, f *wire.Failure, tickets url.Values) (*url.URL, error) {
	switch f.Status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default: // 303 leads to a description of the service, not to the service: RFC 9110, section 15.4.4
		return nil, &redirectError{fmt.Sprintf("with the status %d, which is not followed", f.Status), useFinalURL}
	}
	locations := slices.Compact(f.Header.Values("Location"))
	if len(locations) != 1 {
		return nil, &redirectError{fmt.Sprintf("to %d locations", len(locations)), useFinalURL}
	}
	if slot, _ := headers.RetryAfter(f.Header); slot > 0 {
		return nil, &redirectError{"and asks to wait first", useFinalURL}
	}
	next, err := d.cfg.allowed.Target(from, locations[0])
	if err != nil {
		why := &redirectError{err.Error(), useFinalURL}
		if refused := (*endpoint.LocationError)(nil); errors.As(err, &refused) && refused.Refusal == endpoint.NotAllowed {
			why.instead = orListHost
		}
		return nil, why
	}
	if d.cfg.StrictURL && len(endpoint.CredentialKeys(next)) > 0 {
		return nil, &redirectError{"to a URL with a query parameter that looks like a credential, and Options.StrictURL forbids it", useFinalURL}
	}
	missing, set := url.Values{}, next.Query()
	for name, values := range tickets {
		if !set.Has(name) {
			missing[name] = values
		}
	}
	if len(missing) == 0 {
		return next, nil
	}
	raw, err := endpoint.WithQuery(next, missing)
	if err != nil {
		return nil, &redirectError{"to a URL that cannot take the ticket", useFinalURL}
	}
	return url.Parse(raw)
}
