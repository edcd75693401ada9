package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/internal/socket"
)

// Bounds of Allowed and of what it checks.
const (
	MaxHosts    = 1000    // that a caller may list
	maxLocation = 8 << 10 // bytes of a location
)

// Allowed is where a server may send a client that is connected, or about to be: with a
// redirect, or with a URL in a goaway frame (docs/protocol.md, section 8). The zero value
// allows nothing. It is safe for concurrent use.
type Allowed struct {
	hosts    []string // host or host:port; without a port it is that of the scheme
	insecure bool     // clear text may go to other machines
}

// Refusal is why a location is not used.
type Refusal int

// The reasons, in the order in which they are looked for.
const (
	Malformed  Refusal = iota + 1 // no usable location
	UserInfo                      // credentials in it
	Downgrade                     // from an encrypted connection to clear text
	ClearText                     // clear text to another machine
	NotAllowed                    // the host is not in the list
)

// LocationError is a location that is not used. Its text names a host at most, never a path
// or a query, and goes on from "the server sends the client".
type LocationError struct {
	Refusal Refusal
	Host    string // and port, as the server wrote them; of Downgrade, ClearText and NotAllowed
}

func (e *LocationError) Error() string {
	switch e.Refusal {
	case Malformed:
		return "to a location that is missing or no URL of a WebSocket service"
	case UserInfo:
		return "to a URL with user information, which is never used"
	case Downgrade:
		return fmt.Sprintf("from an encrypted connection to clear text at %q, which is never used", e.Host)
	case ClearText:
		return fmt.Sprintf("to clear text at %q, another machine; that needs Options.AllowInsecure", e.Host)
	}
	return fmt.Sprintf("to the host %q, which is not in the list", e.Host)
}

// Allow returns what allows hosts. The error is that of the first bad one, and index its place;
// it says what to do.
func Allow(hosts []string, allowInsecure bool) (a Allowed, index int, err error) {
	if len(hosts) > MaxHosts {
		return a, -1, fmt.Errorf("has %d hosts; use %d or less", len(hosts), MaxHosts)
	}
	a.insecure = allowInsecure
	for i, host := range hosts {
		if err := checkHost(host); err != nil {
			return Allowed{}, i, err
		}
		a.hosts = append(a.hosts, host)
	}
	return a, 0, nil
}

// checkHost returns why host is not "host" or "host:port".
func checkHost(host string) error {
	u, err := url.Parse("wss://" + host)
	switch {
	case host == "":
		return errors.New("is empty; write a host, with a port if it is not the usual one")
	case strings.ContainsAny(host, "*?"):
		return errors.New("has a wildcard; list each host by its name")
	case strings.Contains(host, "@"):
		return errors.New("has user information; write the host alone")
	case strings.ContainsAny(host, "/#"):
		return errors.New("has a scheme or a path; write the host alone, with a port if it is not the usual one")
	case err != nil || u.Hostname() == "" || u.Host != host || strings.HasSuffix(host, ":") || strings.Contains(u.Hostname(), ":") && host[0] != '[':
		return errors.New("is no host; write example.com, example.com:8443 or [2001:db8::1]")
	case !ValidPort(u):
		return fmt.Errorf("has the port %s, which does not exist; use 1 to 65535", u.Port())
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("is not ASCII; write the form that begins with xn--")
	}
	return nil
}

// Target returns the URL to which location, as the server at from wrote it, sends the client: a
// ws or wss URL that is allowed. location may be relative. If
// there is a list, the host and port of from need not be in it. The error is a *LocationError.
func (a *Allowed) Target(from *url.URL, location string) (*url.URL, error) {
	base := *from
	base.Scheme = webSocketScheme(from.Scheme)
	to, err := base.Parse(location)
	if err != nil || location == "" || len(location) > maxLocation || to.Opaque != "" {
		return nil, &LocationError{Refusal: Malformed}
	}
	to.Fragment, to.RawFragment = "", ""                      // of a page; a WebSocket URL has none
	to.RawQuery = strings.ReplaceAll(to.RawQuery, " ", "%20") // url.Parse leaves it, and it would end the URL in the request
	to.Scheme = webSocketScheme(to.Scheme)
	to.Host = strings.ToLower(to.Host)
	host := to.Host
	switch {
	case to.User != nil:
		return nil, &LocationError{Refusal: UserInfo}
	case to.Scheme != "ws" && to.Scheme != "wss" || to.Hostname() == "" || !ValidPort(to) || strings.Contains(to.Hostname(), ":") && host[0] != '[':
		return nil, &LocationError{Refusal: Malformed}
	case base.Scheme == "wss" && to.Scheme == "ws":
		return nil, &LocationError{Downgrade, host}
	case to.Scheme == "ws" && !a.insecure && !socket.Loopback(to.Hostname()):
		return nil, &LocationError{ClearText, host}
	case len(a.hosts) > 0 && address(to) == address(&base), slices.ContainsFunc(a.hosts, func(h string) bool {
		return address(&url.URL{Scheme: to.Scheme, Host: h}) == address(to)
	}):
		return to, nil
	}
	return nil, &LocationError{NotAllowed, host}
}

// webSocketScheme returns the scheme of a WebSocket URL for one of HTTP.
func webSocketScheme(scheme string) string {
	switch scheme {
	case "http":
		return "ws"
	case "https":
		return "wss"
	}
	return scheme
}

// address returns the host and port to which a ws or wss URL leads.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
