package server

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// Errors of Publish.
var (
	// ErrClosed: Close or Shutdown was called.
	ErrClosed = errors.New("server: closed")

	// ErrTopic: the topic is malformed or has a wildcard (docs/protocol.md,
	// section 1). The error that wraps it says which.
	ErrTopic = errors.New("server: not a topic to publish to")

	// ErrTooBig: the payload or the headers exceed a limit.
	ErrTooBig = errors.New("server: message exceeds Options.MaxPayload or the limits of headers")

	// ErrIDReused: another message, with another topic or payload, has had this ID.
	ErrIDReused = errors.New("server: the id was used for another message; use a new one")

	// ErrMessage: content type or a header is not UTF-8, or TTL is negative.
	ErrMessage = errors.New("server: content type and headers must be UTF-8, TTL must not be negative")
)

// Error is a refusal by a hook whose code and reason the client receives.
type Error struct {
	// Code is a code of docs/protocol.md, section 7: one inside frames (1 to
	// 17), or for Authenticate a close code.
	Code uint64

	// Reason is sent to the client, so it must not hold secrets. Bytes that are not
	// UTF-8 are replaced.
	Reason string

	// Retry is when another attempt may succeed: at once if it is negative. Zero
	// leaves it open.
	Retry time.Duration
}

// Error returns the reason and the code.
func (e *Error) Error() string { return fmt.Sprintf("%s (code %d)", e.Reason, e.Code) }

// codeOf returns the code inside frames for a hook's error, or fallback if the error
// names none.
func codeOf(err error, fallback uint64) (code uint64, reason string, retry time.Duration) {
	var e *Error
	var p *panicError
	switch {
	case errors.As(err, &p):
		return native.CodeInternal, "", 0
	case errors.As(err, &e) && e.Code > 0 && e.Code < 1000:
		return e.Code, strings.ToValidUTF8(e.Reason, "\uFFFD"), e.Retry
	}
	return fallback, "", 0
}

// wholeMillis returns Error.Retry or a TTL for a frame, in which 0 means that there is
// none: rounded up. A time in the past has come.
func wholeMillis(d time.Duration) uint64 {
	switch {
	case d == 0:
		return 0
	case d < 0:
		return 1
	}
	return uint64((d-1)/time.Millisecond) + 1
}

// fault ends a connection.
type fault struct {
	code   uint16 // close code
	reason string
	say    *native.Err // sent before the close frame, if set
}

func (f *fault) Error() string { return fmt.Sprintf("%s (close code %d)", f.reason, f.code) }

func protocolError(format string, args ...any) *fault {
	return &fault{code: native.CloseProtocolError, reason: fmt.Sprintf(format, args...)}
}

// retryable reports whether the same message may be accepted later. Such a
// rejection is not remembered under the message's id.
func retryable(code uint64) bool {
	switch code {
	case native.CodeRateLimited, native.CodeUnavailable, native.CodeInternal, native.CodeUnknownOutcome:
		return true
	}
	return false
}
