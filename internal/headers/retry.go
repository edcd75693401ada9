package headers

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter bounds how long a server may make a client wait.
const MaxRetryAfter = 15 * time.Minute

var decimal = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

// RetryAfter returns the slot in X-Limpet-Retry-Ms, or else in Retry-After (RFC
// 9110, section 10.2.3), and false if there is none or it cannot be read. A date
// in Retry-After is relative to the Date of the same response: clocks may differ.
func RetryAfter(h http.Header) (slot time.Duration, ok bool) {
	if ms, err := strconv.ParseUint(h.Get("X-Limpet-Retry-Ms"), 10, 64); err == nil {
		return time.Duration(min(ms, uint64(MaxRetryAfter/time.Millisecond))) * time.Millisecond, true
	}
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" {
		return 0, false
	}
	if strings.Trim(text, "0123456789") == "" {
		s, err := strconv.ParseUint(text, 10, 64)
		if err != nil || s > uint64(MaxRetryAfter/time.Second) {
			return MaxRetryAfter, true
		}
		return time.Duration(s) * time.Second, true
	}
	if decimal.MatchString(text) { // not RFC 9110, but services send it
		s, _ := strconv.ParseFloat(text, 64)
		return time.Duration(min(s, MaxRetryAfter.Seconds()) * float64(time.Second)), true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	from, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		from = time.Now()
	}
	return max(0, min(at.Sub(from), MaxRetryAfter)), true
}
