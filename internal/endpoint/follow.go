package endpoint

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/headers"
)

const maxRedirects = 5 // of one attempt

// What to do when a URL of the server is not used.
const (
	useFinalURL = "; use the final URL"
	orOwnURL    = "; the URLs of the options are used, so add the host to Hosts if it may have the credentials"
	orListHost  = useFinalURL + ", or add the host to Hosts if it may have the credentials"
)

const strictURL = "to a URL with a query parameter that looks like a credential, and Options.StrictURL forbids it"

// Redirects is where a client follows a server to. It is safe for concurrent use.
type Redirects struct {
	Allowed
	StrictURL bool // never to a URL with a credential in its query
}

// Next returns the URL of the next request after an answer 3xx of the server at from, or a
// *fault.Redirect. trail are the URLs of the requests of this attempt.
func (r *Redirects) Next(from *url.URL, trail []string, status int, h http.Header, tickets url.Values) (*url.URL, error) {
	next, err := r.follow(from, status, h, tickets)
	switch {
	case err != nil:
		return nil, err
	case slices.Contains(trail, next.String()):
		return nil, fault.NotFollowed(fmt.Sprintf("in a loop, back to the host %q", next.Host), useFinalURL)
	case len(trail) > maxRedirects:
		return nil, fault.NotFollowed(fmt.Sprintf("more than %d times, at last to the host %q", maxRedirects, next.Host), useFinalURL)
	}
	return next, nil
}

// follow is Next for the first request of an attempt. The ticket belongs to the credentials,
// so it goes along; a parameter of the same name that the server has set counts.
func (r *Redirects) follow(from *url.URL, status int, h http.Header, tickets url.Values) (*url.URL, error) {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default: // 303 leads to a description of the service, not to the service: RFC 9110, section 15.4.4
		return nil, fault.NotFollowed(fmt.Sprintf("with the status %d, which is not followed", status), useFinalURL)
	}
	locations := slices.Compact(h.Values("Location"))
	if len(locations) != 1 {
		return nil, fault.NotFollowed(fmt.Sprintf("to %d locations", len(locations)), useFinalURL)
	}
	if slot, _ := headers.RetryAfter(h); slot > 0 {
		return nil, fault.NotFollowed("and asks to wait first", useFinalURL)
	}
	next, err := r.Target(from, locations[0])
	if err != nil {
		why := fault.NotFollowed(err.Error(), useFinalURL)
		if refused := (*LocationError)(nil); errors.As(err, &refused) && refused.Refusal == NotAllowed {
			why.Instead = orListHost
		}
		return nil, why
	}
	if r.StrictURL && len(CredentialKeys(next)) > 0 {
		return nil, fault.NotFollowed(strictURL, useFinalURL)
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
	raw, err := WithQuery(next, missing)
	if err != nil {
		return nil, fault.NotFollowed("to a URL that cannot take the ticket", useFinalURL)
	}
	return url.Parse(raw)
}

// Move returns the URL to which the server at from moves its clients (docs/protocol.md,
// section 8), or a *fault.Redirect.
func (r *Redirects) Move(from *url.URL, location string) (*url.URL, error) {
	target, err := r.Target(from, location)
	switch {
	case err != nil:
		return nil, fault.NotFollowed(err.Error(), orOwnURL)
	case r.StrictURL && len(CredentialKeys(target)) > 0:
		return nil, fault.NotFollowed(strictURL, orOwnURL)
	}
	return target, nil
}
