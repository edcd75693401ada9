// Package text makes text from outside fit for errors and logs: it cuts what is longer than 256
// bytes, and escapes control characters.
package text

import (
	"strconv"
	"strings"
)

const maxText = 256 // bytes

// Cut cuts s to 256 bytes, and marks that it did.
func Cut(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// Quote makes text from the peer fit for a log or an error: it is quoted,
// with control characters escaped, and cut to 256 bytes.
func Quote(s string) string {
	if s == "" {
		return ""
	}
	truncated := len(s) > maxText
	if truncated {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	quoted := strconv.QuoteToASCII(s)
	if truncated {
		quoted += "…"
	}
	return quoted
}

// Unquote returns the text that Quote has quoted.
func Unquote(s string) string {
	if text, err := strconv.Unquote(strings.TrimSuffix(s, "…")); err == nil {
		return text
	}
	return s
}

// ForLog makes text from outside fit for a log: at most 256 bytes, with control
// characters escaped. The handler quotes it if it needs to, so quotation marks and
// backslashes stay as they are. A text that was here before comes back as it was.
func ForLog(s string) string {
	quoted := strings.TrimSuffix(Quote(s), "…")
	return inLogs.Replace(strings.TrimSuffix(strings.TrimPrefix(quoted, `"`), `"`))
}

var inLogs = strings.NewReplacer(`\\`, `\`, `\"`, `"`)
