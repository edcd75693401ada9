package server

import (
	"errors"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// Errors of Publish.
var (
	ErrClosed  = errors.New("server: closed")                                            // Close or Shutdown was called
	ErrTopic   = errors.New("server: not a topic to publish to")                         // docs/protocol.md, section 1
	ErrTooBig  = errors.New("server: message exceeds the limits in Options and WELCOME") // payload or headers
	ErrMessage = errors.New("server: message cannot be delivered")                       // a string that is not UTF-8, a negative TTL
)

// Error is how a hook tells a client why it refuses. Code is a code of
// docs/protocol.md, section 7: one inside frames (1 to 17), or for Authenticate
// a close code. Reason is sent to the client: no secrets in it.
type Error struct {
	Code   uint64
	Reason string
	Retry  time.Duration // when it may be worth another attempt; 0: not said
}

func (e *Error) Error() string { return fmt.Sprintf("%s (code %d)", e.Reason, e.Code) }

// codeOf is the in-frame code for a hook's error, fallback if it names none.
func codeOf(err error, fallback uint64) (code uint64, reason string, retry time.Duration) {
	var e *Error
	var p *panicError
	switch {
	case errors.As(err, &p):
		return native.CodeInternal, "", 0
	case errors.As(err, &e) && e.Code > 0 && e.Code < 1000:
		return e.Code, e.Reason, e.Retry
	}
	return fallback, "", 0
}

// fault ends a connection: say is told first if it is set, then the close code.
type fault struct {
	code   uint16
	reason string
	say    *native.Err
}

func (f *fault) Error() string { return fmt.Sprintf("%s (close code %d)", f.reason, f.code) }

func protocolError(format string, args ...any) *fault {
	return &fault{code: native.CloseProtocolError, reason: fmt.Sprintf(format, args...)}
}

// retryable reports whether the same message may fare better later, so that its
// rejection is no outcome to remember under its id.
func retryable(code uint64) bool {
	switch code {
	case native.CodeRateLimited, native.CodeUnavailable, native.CodeInternal, native.CodeUnknownOutcome:
		return true
	}
	return false
}
