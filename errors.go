package limpet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Sentinels, to be found with errors.Is.
var (
	ErrClosed          = errors.New("client is closed; make a new one")
	ErrUnsupported     = errors.New("not supported")
	ErrTopic           = errors.New("topic not allowed")
	ErrTooBig          = errors.New("message too big; split it or raise the limit at both ends")
	ErrWindowFull      = errors.New("window of unacknowledged messages is full; wait for receipts or raise Options.Window")
	ErrRejected        = errors.New("refused by the server")
	ErrExpired         = errors.New("message expired before it was sent")
	ErrUnsent          = errors.New("message was never sent; it is safe to publish it again")
	ErrOutcomeUnknown  = errors.New("message may or may not have been accepted; ask the receiver before publishing it again")
	ErrPanic           = errors.New("panic in a function of the caller")
	ErrSubprotocol     = errors.New("server does not speak the subprotocol; check URL and Dialect")
	ErrSuperseded      = errors.New("another connection took the session over")
	ErrSessionConflict = errors.New("two owners alternate on one session; give each its own")
	ErrRolledBack      = errors.New("session state of one side is older than the other's")
	ErrDuplicate       = errors.New("already subscribed; this dialect routes by topic, so share the subscription")
	ErrHeartbeat       = errors.New("nothing received from the peer for too long")
	ErrStalled         = errors.New("nothing could be written to the peer for too long")
	ErrRedirect        = errors.New("server redirects; redirects are not followed, use the final URL")
	ErrMaxElapsed      = errors.New("gave up after Backoff.MaxElapsed")
)

// ErrorClass sorts errors by what one can do about them.
type ErrorClass string

const (
	ClassInput        ErrorClass = "input"         // the caller's argument: mend it
	ClassUnsupported  ErrorClass = "unsupported"   // the dialect or this version cannot
	ClassClosed       ErrorClass = "closed"        // the client has ended
	ClassFull         ErrorClass = "full"          // a bound was reached: slow down
	ClassDNS          ErrorClass = "dns"           // the name does not resolve
	ClassDial         ErrorClass = "dial"          // no connection to the peer
	ClassTLS          ErrorClass = "tls"           // certificate or TLS version
	ClassLocal        ErrorClass = "local"         // this machine: no route, no descriptor, no port
	ClassTimeout      ErrorClass = "timeout"       // the peer is silent
	ClassHTTP         ErrorClass = "http"          // refused with an HTTP status
	ClassProxy        ErrorClass = "proxy"         // refused by a proxy
	ClassNotWebSocket ErrorClass = "not_websocket" // something else answers at this URL
	ClassAuth         ErrorClass = "auth"          // credential missing, refused or expired
	ClassProtocol     ErrorClass = "protocol"      // the peer broke its language
	ClassOverload     ErrorClass = "overload"      // the server wants less
	ClassSession      ErrorClass = "session"       // the session is lost or taken over
	ClassNetwork      ErrorClass = "network"       // the connection broke
	ClassOutcome      ErrorClass = "outcome"       // a message's fate: rejected, expired, unsent, unknown
	ClassUser         ErrorClass = "user"          // a function of the caller failed
	ClassOther        ErrorClass = "other"
)

// Error is what the client's methods return and what State.Cause holds.
type Error struct {
	Op     string // "New", "Publish", "dial", "upgrade", "handshake", "open", …
	Field  string // the argument or option at fault, if one is
	Class  ErrorClass
	Code   int    // HTTP status, close code or the server's own code; 0 if there is none
	Detail string // what the peer said, quoted and cut
	Err    error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("limpet: ")
	b.WriteString(e.Op)
	if e.Field != "" {
		b.WriteString(": ")
		b.WriteString(e.Field)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(strings.TrimPrefix(e.Err.Error(), "limpet: "))
	}
	if e.Code != 0 {
		b.WriteString(" (code ")
		b.WriteString(strconv.Itoa(e.Code))
		b.WriteByte(')')
	}
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// PermanentError ends a client: reconnecting would not help. Client.Err and
// every waiter get it.
type PermanentError struct {
	Class ErrorClass
	Err   error
}

func (e *PermanentError) Error() string {
	return "limpet: stopped for good: " + strings.TrimPrefix(e.Err.Error(), "limpet: ")
}

func (e *PermanentError) Unwrap() error { return e.Err }

// Class sorts err; ClassOther if it is none of this package's, "" for nil.
func Class(err error) ErrorClass {
	var e *Error
	var p *PermanentError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &p):
		return p.Class
	case errors.As(err, &e) && e.Class != "":
		return e.Class
	case errors.Is(err, ErrClosed):
		return ClassClosed
	case errors.Is(err, ErrWindowFull):
		return ClassFull
	case errors.Is(err, ErrRejected), errors.Is(err, ErrExpired), errors.Is(err, ErrUnsent), errors.Is(err, ErrOutcomeUnknown):
		return ClassOutcome
	case errors.Is(err, context.DeadlineExceeded):
		return ClassTimeout
	}
	return ClassOther
}

// SafeToRetry reports whether publishing the message again cannot double it:
// true only if it was never handed to the network. It understands the errors
// of Publish, PublishBatch, Send and Receipt.Wait. The error of a Wait that
// only stopped waiting is not safe: the message is still on its way.
func SafeToRetry(err error) bool {
	if errors.Is(err, ErrUnsent) || errors.Is(err, ErrExpired) || errors.Is(err, ErrWindowFull) {
		return true
	}
	var e *Error
	return errors.As(err, &e) && e.Op == opPublish
}

const opPublish = "Publish"

func inputError(op, field string, format string, args ...any) *Error {
	return &Error{Op: op, Field: field, Class: ClassInput, Err: fmt.Errorf(format, args...)}
}

func unsupported(op, field, why string) *Error {
	return &Error{Op: op, Field: field, Class: ClassUnsupported, Err: fmt.Errorf("%w: %s", ErrUnsupported, why)}
}

// peerText makes text of the peer fit for a log or an error: quoted, control
// characters escaped, 256 bytes at most.
func peerText(s string) string {
	if s == "" {
		return ""
	}
	const most = 256
	cut := len(s) > most
	if cut {
		s = strings.ToValidUTF8(s[:most], "")
	}
	q := strconv.QuoteToASCII(s)
	if cut {
		q += "…"
	}
	return q
}

func joinReason(sentinel, cause error) error { return fmt.Errorf("%w: %w", sentinel, cause) }

// PanicError is a panic in a function of the caller, recovered.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Is makes errors.Is(err, ErrPanic) true.
func (e *PanicError) Is(target error) bool { return target == ErrPanic }
