// Package endpoint knows where a client connects to: which URLs are allowed, which one is next
// and when it is its turn, which redirects are followed, and what the path to them carries.
package endpoint

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/internal/socket"
)

// Parse returns raw as a URL to which a WebSocket client may connect, or why it is none.
// The text of the error says what to do, and holds nothing of the URL that may be a secret.
func Parse(raw string, allowInsecure bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil && !strings.Contains(raw, "://"):
		return nil, errors.New("no scheme; write ws:// or wss:// before the host")
	case err != nil:
		// url.Error repeats the whole URL.
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("cannot be parsed; write wss://host/path: %w", WithoutQuotes(err))
	case strings.HasSuffix(raw, " "):
		return nil, errors.New("has a space at the end; use strings.TrimSpace")
	case !strings.Contains(raw, "://"):
		return nil, errors.New("no scheme; write ws:// or wss:// before the host")
	case u.Scheme == "http" || u.Scheme == "https":
		return nil, fmt.Errorf("scheme must be ws or wss, not %s; write %s://", u.Scheme, "ws"+strings.TrimPrefix(u.Scheme, "http"))
	case u.Scheme != "ws" && u.Scheme != "wss":
		return nil, errors.New("scheme must be ws or wss; write wss:// before the host")
	case u.Host == "" || u.Hostname() == "" || strings.Contains(u.Hostname(), ":") && u.Host[0] != '[':
		return nil, errors.New("no valid host; write wss://host/path")
	case !ValidPort(u):
		return nil, fmt.Errorf("port %s does not exist; use 1 to 65535", u.Port())
	case u.User != nil:
		return nil, errors.New("user information does not belong in a URL; use Options.Auth")
	case u.Fragment != "":
		return nil, errors.New("must not have a fragment (RFC 6455, section 3); remove it")
	case u.Scheme == "ws" && !allowInsecure && !socket.Loopback(u.Hostname()):
		return nil, fmt.Errorf("ws:// to %s would be sent unencrypted; use wss:// or set Options.AllowInsecure", u.Hostname())
	}
	return u, nil
}

// WithoutQuotes hides what an error of url.Parse quotes: a part of the URL, which
// may hold a secret.
func WithoutQuotes(err error) error {
	text, _, _ := strings.Cut(err.Error(), "\"")
	return errors.New(strings.TrimSpace(text))
}

// ValidPort reports whether u has no port, or one that exists.
func ValidPort(u *url.URL) bool {
	if u.Port() == "" {
		return true
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}
