// Package fallback is what both ends of the fallback transport say in HTTP: names of
// headers, codes of refusals, limits (docs/protocol.md, section 12).
package fallback

import (
	"crypto/rand"
	"encoding/hex"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// MediaType is that of the answer to the GET, which asks for it with Accept, and of a
// POST. Its content is the bytes of a WebSocket connection after the handshake.
const MediaType = "application/vnd.limpet.stream"

// The headers. A page of another origin cannot send them without the server's permission,
// which the server never gives.
const (
	HeaderProtocol   = "X-Limpet-Protocol"   // of a GET: what Sec-WebSocket-Protocol is to an upgrade; of its answer: what was chosen
	HeaderConnection = "X-Limpet-Connection" // of the answer to the GET, and of a POST: the id
	HeaderNumber     = "X-Limpet-Number"     // of a POST: 1 for the first one of a connection, and so on
	HeaderCode       = "X-Limpet-Code"       // of a refused POST
)

// Code is why a POST was refused.
type Code string

// The codes.
const (
	Malformed   Code = "malformed"    // 400: an id, a number or a body that cannot be
	Forbidden   Code = "forbidden"    // 403: another credential than that of the GET
	OutOfOrder  Code = "out-of-order" // 409: a number is missing before this one
	Gone        Code = "gone"         // 410: this server has no such connection, or no longer
	TooBig      Code = "too-big"      // 413: the body has more than MaxPost bytes
	Misdirected Code = "misdirected"  // 421: the connection is that of another server
	TooMany     Code = "too-many"     // 429: more than MaxPosts at a time
)

// Status returns the HTTP status of a refusal.
func (c Code) Status() int {
	switch c {
	case Forbidden:
		return http.StatusForbidden
	case OutOfOrder:
		return http.StatusConflict
	case Gone:
		return http.StatusGone
	case TooBig:
		return http.StatusRequestEntityTooLarge
	case Misdirected:
		return http.StatusMisdirectedRequest
	case TooMany:
		return http.StatusTooManyRequests
	}
	return http.StatusBadRequest
}

// Known reports whether a refusal with status has the code c: another status is that of
// something in between.
func (c Code) Known(status int) bool {
	switch c {
	case Malformed, Forbidden, OutOfOrder, Gone, TooBig, Misdirected, TooMany:
		return c.Status() == status
	}
	return false
}

// Limits of one connection.
const (
	MaxPost  = 64 << 10 // bytes of the body of one POST
	MaxPosts = 4        // POSTs at a time: one, and those that a proxy or a client repeats
)

// ServerID names a server process, and ConnectionID a connection. Both are random.
type (
	ServerID     [8]byte
	ConnectionID struct {
		Server ServerID
		Secret [16]byte // 128 bits: who knows them can write to the connection
	}
)

// NewServerID returns an id that no other server has.
func NewServerID() (id ServerID) {
	rand.Read(id[:]) // it never fails
	return id
}

// NewConnectionID returns an id for a connection of s.
func NewConnectionID(s ServerID) ConnectionID {
	id := ConnectionID{Server: s}
	rand.Read(id.Secret[:])
	return id
}

// String returns the form in HeaderConnection.
func (id ConnectionID) String() string {
	return hex.EncodeToString(id.Server[:]) + hex.EncodeToString(id.Secret[:])
}

// ParseConnectionID reads the form of String, and no other.
func ParseConnectionID(s string) (id ConnectionID, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id.Server)+len(id.Secret) || strings.ToLower(s) != s {
		return id, false
	}
	copy(id.Server[:], b)
	copy(id.Secret[:], b[len(id.Server):])
	return id, true
}

// ParseNumber reads the number of a POST: decimal digits, no sign, no zero in front.
func ParseNumber(s string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(s, 10, 62)
	return n, err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// IsStream reports whether a Content-Type, or one of the types of an Accept header, is
// MediaType.
func IsStream(values []string) bool {
	for _, line := range values {
		for item := range strings.SplitSeq(line, ",") {
			if kind, _, err := mime.ParseMediaType(item); err == nil && kind == MediaType {
				return true
			}
		}
	}
	return false
}
