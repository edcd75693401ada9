package headers

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter bounds RetryAfter.
const MaxRetryAfter = 15 * time.Minute

// seconds is a number of them. RFC 9110, section 10.2.3 knows only digits; services also
// send a fraction, a sign, quotes or a unit.
var seconds = regexp.MustCompile(`^"?\+?([0-9]+)(\.[0-9]*)? *(?i:s|secs?|seconds?)?"?$`)

// dates are other forms of a date than those of HTTP, as services send them.
var dates = []string{"Mon, _2 Jan 2006 15:04:05 UTC", "Mon, _2 Jan 2006 15:04:05 -0700", time.RFC3339}

// RetryMilliseconds is the header with a time of its own for one client, in milliseconds
// (docs/reconnect.md, section 1).
const RetryMilliseconds = "X-Limpet-Retry-Ms"

// RetryAfter returns the time in X-Limpet-Retry-Ms, or else the longest one in Retry-After
// (RFC 9110, section 10.2.3): a proxy may have added its own. It is false if there is none
// that can be read. A date is relative to the Date of the same response: clocks may differ.
func RetryAfter(h http.Header) (slot time.Duration, ok bool) {
	if ms, err := strconv.ParseUint(h.Get(RetryMilliseconds), 10, 64); err == nil {
		return time.Duration(min(ms, uint64(MaxRetryAfter/time.Millisecond))) * time.Millisecond, true
	}
	for _, line := range h.Values("Retry-After") {
		parts := []string{line}
		if _, whole := retryTime(h, line); !whole {
			parts = strings.Split(line, ",") // a proxy may join lines
		}
		for _, part := range parts {
			if at, read := retryTime(h, part); read {
				slot, ok = max(slot, at), true
			}
		}
	}
	return slot, ok
}

func retryTime(h http.Header, text string) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if n := seconds.FindStringSubmatch(text); n != nil {
		s, err := strconv.ParseFloat(n[1]+n[2], 64)
		if err != nil {
			return MaxRetryAfter, true // out of range
		}
		return time.Duration(min(s, MaxRetryAfter.Seconds()) * float64(time.Second)), true
	}
	at, ok := date(text)
	if !ok {
		return 0, false
	}
	from, ok := date(h.Get("Date"))
	if !ok {
		from = time.Now()
	}
	return max(0, min(at.Sub(from), MaxRetryAfter)), true
}

func date(text string) (time.Time, bool) {
	if at, err := http.ParseTime(text); err == nil {
		return at, true
	}
	for _, layout := range dates {
		if at, err := time.Parse(layout, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}
