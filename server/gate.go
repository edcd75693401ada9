package server

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// hostAllowed applies Options.Hosts.
func (o *Options) hostAllowed(host string) bool {
	name, _ := splitHost(host)
	switch name {
	case "localhost", "127.0.0.1", "::1":
		return true
	}
	for _, h := range o.Hosts {
		if h == "*" || strings.EqualFold(h, host) || strings.EqualFold(strings.Trim(h, "[]"), name) {
			return true
		}
	}
	return false
}

// originAllowed applies Options.Origins. The Host header has passed
// hostAllowed, so the same host there and in the origin proves something.
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
	// Without TLS here a proxy may have ended it: then the page may have either scheme.
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

// splitHost takes "name", "name:port", "[v6]" or "[v6]:port" apart; the name
// comes back in lower case.
func splitHost(host string) (name, port string) {
	if n, p, err := net.SplitHostPort(host); err == nil {
		return strings.ToLower(n), p
	}
	return strings.ToLower(strings.Trim(host, "[]")), ""
}

// subprotocol picks the first encoding of the client's list that is ours. Tokens
// are compared exactly (docs/protocol.md, section 1).
func subprotocol(h http.Header) (native.Encoding, bool) {
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for token := range strings.SplitSeq(line, ",") {
			if enc, ok := native.EncodingOf(strings.TrimSpace(token)); ok {
				return enc, true
			}
		}
	}
	return 0, false
}

// slots hands out the times at which refused clients may come back, one after
// the other.
type slots struct {
	step time.Duration

	mu   sync.Mutex // leaf
	last time.Time
}

const firstSlot = 500 * time.Millisecond

// slotsFor gives three quarters of the rate to clients with a slot: others come
// by themselves at the same time, in the windows of their back-off.
func slotsFor(rate int) slots { return slots{step: time.Second * 4 / 3 / time.Duration(rate)} }

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
