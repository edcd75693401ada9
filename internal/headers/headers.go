// Package headers checks the HTTP headers that are sent with an upgrade request, and
// reads those of the response.
package headers

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// maxSize bounds the names and values of Check, in bytes.
const maxSize = 256 << 10

// handshakeHeaders belong to the WebSocket handshake, or to that of limpet.v1: another
// value would break it or have no effect.
var handshakeHeaders = regexp.MustCompile(`(?i)^(host|connection|upgrade|content-length|transfer-encoding|te|trailer|limpet-hello|sec-websocket-.*)$`)

// headerName is the form of a header's name (RFC 9110, section 5.6.2).
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// Check returns why h cannot be sent with an upgrade. Its text holds no
// value, and no name that may be a misplaced value.
func Check(h http.Header) error {
	if err := CheckCharacters(h); err != nil {
		return err
	}
	size := 0
	spelled := make(map[string]string, len(h))
	for name, values := range h {
		other, twice := spelled[http.CanonicalHeaderKey(name)]
		spelled[http.CanonicalHeaderKey(name)] = name
		switch {
		case handshakeHeaders.MatchString(name):
			return fmt.Errorf("%s belongs to the handshake, which sets it; remove it", name)
		case twice:
			return fmt.Errorf("%s and %s are one header; write it once", min(name, other), max(name, other))
		}
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	if size > maxSize {
		return fmt.Errorf("has %d bytes; use %d or less", size, maxSize)
	}
	return nil
}

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as the names of headers
// and subprotocols are.
func IsToken(s string) bool { return headerName.MatchString(s) }

// CheckCharacters returns why h is no header of HTTP.
func CheckCharacters(h http.Header) error {
	for name, values := range h {
		if !IsToken(name) {
			return errors.New("a name has a character that HTTP does not allow; use letters, digits and hyphens")
		}
		if slices.ContainsFunc(values, func(v string) bool {
			return strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
		}) {
			return fmt.Errorf("a value of %s has a line break or another control character; remove it", name)
		}
	}
	return nil
}
