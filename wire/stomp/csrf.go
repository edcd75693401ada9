package stomp

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// csrfToken is a token of Spring Security, which the server wants in a header of CONNECT.
// It is the State of an attempt.
type csrfToken struct{ header, token string }

const (
	defaultCSRFHeader = "X-CSRF-TOKEN" // Spring's default
	maxCSRFHeader     = 255            // bytes
)

// requestCSRF makes the request for the token of this attempt.
func (d *dialect) requestCSRF(a *wire.Attempt) error {
	u, err := url.Parse(a.URL)
	if err != nil {
		return err
	}
	path, err := url.Parse(d.options.CSRF)
	if err != nil {
		return err
	}
	u = u.ResolveReference(path)
	u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	h := a.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Accept", "application/json")
	a.Request = &wire.Request{Method: http.MethodGet, URL: u.String(), Header: h}
	return nil
}

// takeCSRF reads the answer to requestCSRF.
func (d *dialect) takeCSRF(a *wire.Attempt) error {
	if a.Response.Status != http.StatusOK {
		return &wire.StatusError{Status: a.Response.Status, Header: a.Response.Header, Body: a.Response.Body}
	}
	var m struct{ HeaderName, Token string }
	if json.Unmarshal(a.Response.Body, &m) != nil || m.Token == "" {
		return &OptionError{"CSRF", "is a path whose answer is not a JSON object with a token; use one that returns Spring's CsrfToken"}
	}
	if m.HeaderName == "" {
		m.HeaderName = defaultCSRFHeader
	}
	if !plainASCII(m.Token) || !plainASCII(m.HeaderName) || strings.Contains(m.HeaderName, ":") || len(m.HeaderName) > maxCSRFHeader {
		return &OptionError{"CSRF", "is a path whose answer cannot be a header of CONNECT; use one that returns Spring's CsrfToken"}
	}
	a.State = csrfToken{m.HeaderName, m.Token}
	passCookies(a)
	return nil
}

// plainASCII reports whether a header can hold s as it is: CONNECT has no escapes.
func plainASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' })
}

// passCookies makes the upgrade send the cookies that came with the token: it is valid
// only together with them.
func passCookies(a *wire.Attempt) {
	set := (&http.Response{Header: a.Response.Header}).Cookies()
	if len(set) == 0 {
		return
	}
	if a.Header == nil {
		a.Header = http.Header{}
	}
	r := http.Request{Header: a.Header}
	before := r.Cookies()
	a.Header.Del("Cookie")
	for _, c := range before {
		if !slices.ContainsFunc(set, func(s *http.Cookie) bool { return s.Name == c.Name }) {
			r.AddCookie(c)
		}
	}
	for _, c := range set {
		if c.MaxAge >= 0 { // a negative one deletes it
			r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
		}
	}
}
