package server

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// hostAllowed applies Options.Hosts.
func (o *Options) hostAllowed(host string) bool {
	name, port := splitHost(host)
	if addr, err := netip.ParseAddr(name); name == "localhost" || err == nil && addr.Unmap().IsLoopback() {
		return true
	}
	for _, h := range o.Hosts {
		allowed, only := splitHost(h)
		if h == "*" || allowed == name && (only == "" || only == port) {
			return true
		}
	}
	return false
}

// originAllowed applies Options.Origins. The Host header has passed hostAllowed, so
// an origin with the same host is one of this server's own pages.
func (o *Options) originAllowed(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	if len(origins) > 1 {
		return false
	}
	u, err := url.Parse(origins[0])
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return false // "null" among others
	}
	def := ""
	switch u.Scheme {
	case "http":
		def = "80"
	case "https":
		def = "443"
	}
	// Without TLS here a proxy may have ended it, so the page may have either scheme.
	if def != "" && (u.Scheme == "https" || r.TLS == nil) && sameHost(u.Host, r.Host, def) {
		return true
	}
	for _, allowed := range o.Origins {
		a, err := url.Parse(allowed)
		if err == nil && strings.EqualFold(a.Scheme, u.Scheme) && sameHost(a.Host, u.Host, def) {
			return true
		}
	}
	return false
}

// sameHost compares two hosts; one without a port has the default port.
func sameHost(a, b, defaultPort string) bool {
	an, ap := splitHost(a)
	bn, bp := splitHost(b)
	if ap == "" {
		ap = defaultPort
	}
	if bp == "" {
		bp = defaultPort
	}
	return an == bn && ap == bp
}

// splitHost splits "name", "name:port", "[v6]" or "[v6]:port". The name is in lower
// case, without brackets and without the dot of a full name.
func splitHost(host string) (name, port string) {
	name = host
	if n, p, err := net.SplitHostPort(host); err == nil {
		name, port = n, p
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), ".")), port
}

// hasToken reports whether one of the lists in values has token, in any case.
func hasToken(values []string, token string) bool {
	for _, line := range values {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// subprotocol chooses the first encoding in offers, the client's list, that limpet.v1 has.
// Tokens are compared exactly (docs/protocol.md, section 1).
func subprotocol(offers []string) (native.Encoding, bool) {
	for _, line := range offers {
		for token := range strings.SplitSeq(line, ",") {
			if enc, ok := native.EncodingOf(strings.TrimSpace(token)); ok {
				return enc, true
			}
		}
	}
	return 0, false
}

// slots assigns the times at which refused clients may return, one after the
// other.
type slots struct {
	step time.Duration // between two slots

	mu   sync.Mutex // leaf
	last time.Time  // the slot assigned last
}

// firstSlot is the earliest slot from now.
const firstSlot = 500 * time.Millisecond

// slotsFor reserves three quarters of the rate for clients with a slot. The rest is
// for clients that return at the same time within the windows of their backoff.
func slotsFor(rate int) slots { return slots{step: time.Second * 4 / 3 / time.Duration(rate)} }

// next assigns a slot and returns the time until then: at least firstSlot, at most
// maxSpread.
func (s *slots) next() time.Duration {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.last.Add(s.step)
	if earliest := now.Add(firstSlot); at.Before(earliest) {
		at = earliest
	}
	if latest := now.Add(maxSpread); at.After(latest) {
		at = latest
	}
	s.last = at
	return at.Sub(now)
}

// unavailable answers 503 with a slot.
func unavailable(w http.ResponseWriter, slot time.Duration, why string) {
	h := w.Header()
	h.Set("Retry-After", strconv.FormatInt(int64((slot+time.Second-1)/time.Second), 10))
	h.Set("X-Limpet-Retry-Ms", strconv.FormatInt(slot.Milliseconds(), 10))
	http.Error(w, why, http.StatusServiceUnavailable)
}
