package endpoint

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/internal/headers"
)

// maxEndpoints bounds the URLs of one client.
const maxEndpoints = 1024

// Problem is what is wrong with one field of the options.
type Problem struct {
	Field string
	Err   error // goes on from the name of the field
}

// Rules are what the options say about URLs.
type Rules struct {
	AllowInsecure bool // clear text may go to other machines
	StrictURL     bool // no URL has a credential in its query
}

// Endpoints returns the URLs of the options, first the one that is an argument, and what is
// wrong with them, apart from StrictURL. The place of a URL that is none has an empty one.
func (r Rules) Endpoints(first string, more []string) (urls []*url.URL, problems []Problem) {
	const field = "Options.Endpoints"
	refuse := func(field, format string, args ...any) {
		problems = append(problems, Problem{field, fmt.Errorf(format, args...)})
	}
	add := func(field, raw string) *url.URL {
		u, err := Parse(raw, r.AllowInsecure)
		if err != nil {
			refuse(field, "%w", err)
			u = new(url.URL)
		}
		return u
	}
	urls = append(urls, add("url", first))
	if len(more) >= maxEndpoints {
		refuse(field, "has %d URLs; use %d or less", len(more), maxEndpoints-1)
		return urls, problems
	}
	for i, raw := range more {
		name := fmt.Sprintf("%s[%d]", field, i)
		u := add(name, raw)
		switch {
		case u.Scheme == "" || urls[0].Scheme == "": // reported already
		case u.Scheme != urls[0].Scheme:
			refuse(name, "has the scheme %s, and url has %s; use one scheme", u.Scheme, urls[0].Scheme)
		case slices.ContainsFunc(urls, func(other *url.URL) bool { return *other == *u }):
			refuse(name, "is the same URL as an earlier one; remove it")
		}
		urls = append(urls, u)
	}
	return urls, problems
}

// Credentials returns the credentials in urls, those of Endpoints, that StrictURL forbids.
func (r Rules) Credentials(urls []*url.URL) (problems []Problem) {
	if !r.StrictURL {
		return nil
	}
	for i, u := range urls {
		name := "url"
		if i > 0 {
			name = fmt.Sprintf("Options.Endpoints[%d]", i-1)
		}
		for _, key := range CredentialKeys(u) {
			problems = append(problems, Problem{name, fmt.Errorf("has the query parameter %q, which looks like a credential; use Options.Auth, or unset Options.StrictURL", key)})
		}
	}
	return problems
}

// Usable returns those of raws that a client whose URL has the scheme may use, each once, and
// why not the others.
func (r Rules) Usable(scheme string, raws []string) (usable []*url.URL, err error) {
	var errs []error
	for i, raw := range raws[:min(len(raws), maxEndpoints)] {
		u, err := Parse(raw, r.AllowInsecure)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("answer[%d]: %w", i, err))
		case u.Scheme != scheme:
			errs = append(errs, fmt.Errorf("answer[%d] has the scheme %s, and url has %s; use one scheme", i, u.Scheme, scheme))
		case r.StrictURL && len(CredentialKeys(u)) > 0:
			errs = append(errs, fmt.Errorf("answer[%d] has the query parameter %q, which looks like a credential, and Options.StrictURL forbids it", i, CredentialKeys(u)[0]))
		case !slices.ContainsFunc(usable, func(other *url.URL) bool { return *other == *u }):
			usable = append(usable, u)
		}
	}
	switch {
	case len(raws) == 0:
		errs = append(errs, errors.New("returned no URL; return an error instead"))
	case len(raws) > maxEndpoints:
		errs = append(errs, fmt.Errorf("returned %d URLs; use %d or less", len(raws), maxEndpoints))
	}
	return usable, errors.Join(errs...)
}

// CheckRequest returns why a request that a dialect prepared cannot be made. Its text
// holds no value.
func CheckRequest(field, rawURL string, h http.Header, schemes ...string) error {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return fmt.Errorf("%s cannot be parsed: %w", field, WithoutQuotes(errors.Unwrap(err)))
	case !slices.Contains(schemes, u.Scheme) || u.Host == "" || !ValidPort(u):
		return fmt.Errorf("%s must have one of the schemes %s, a host, and a port that exists", field, strings.Join(schemes, ", "))
	}
	return headers.CheckCharacters(h)
}
