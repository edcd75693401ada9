package limpet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// Sentinel errors, for errors.Is. They are wrapped in an *Error or a
// *PermanentError, which say more.
var (
	// ErrClosed means that the client was closed or shut down.
	ErrClosed = errors.New("client is closed; create a new one")
	// ErrSubscriptionClosed is the error of Subscription.WaitLive after
	// Subscription.Close, or after the server ended the subscription. The client
	// goes on.
	ErrSubscriptionClosed = errors.New("subscription is closed; subscribe again")
	// ErrUnsupported means that the dialect or this version cannot do it.
	ErrUnsupported = errors.New("not supported")
	// ErrTopic means that the dialect does not allow the topic.
	ErrTopic = errors.New("invalid topic")
	// ErrTooBig means that a message exceeds the limit of the dialect, of
	// Options.Window or of the server.
	ErrTooBig = errors.New("message is too big; split it")
	// ErrWindowFull means that the window is full: Publish returns it if
	// Window.FailFast is set, or together with ctx's error if ctx ended before
	// there was room.
	ErrWindowFull = errors.New("window of unacknowledged messages is full; wait for receipts or raise Options.Window")
	// ErrDoneBehind means that PublishOptions.Done is slower than the outcomes: a
	// message with Done was not admitted, because too many calls of Done wait.
	ErrDoneBehind = errors.New("too many messages wait for their call of PublishOptions.Done; make it return sooner or publish more slowly")
	// ErrRejected means that the server or the dialect rejected a message or
	// refused a subscription. Error.Code and Error.Detail are what the server sent.
	ErrRejected = errors.New("rejected by the server or the dialect")
	// ErrIDReused means that another message, with another topic or payload, has the same
	// PublishOptions.ID: Options.Outbox holds it, or, beside ErrRejected, the server knows it.
	ErrIDReused = errors.New("the id was used for another message; use a new one, or publish the same message again")
	// ErrExpired is the error of a message with the outcome Expired.
	ErrExpired = errors.New("message expired before it was sent; raise PublishOptions.TTL or publish it again")
	// ErrUnsent is the error of a message with the outcome Unsent, and of a call that has not left.
	ErrUnsent = errors.New("message or call was never sent; it is safe to try again")
	// ErrOutcomeUnknown is the error of a message with the outcome Unknown, and of a call that may have been served.
	ErrOutcomeUnknown = errors.New("message or call may have been accepted or not; check with the receiver before trying again")
	// ErrStored is the error of a message with the outcome Stored.
	ErrStored = errors.New("message is in the outbox; the next client on it goes on with it, so do not publish it again")
	// ErrOutbox means that Options.Outbox failed: its error is wrapped too. The message was not
	// admitted, unless that is outbox.ErrUncertain: then it may be in the outbox.
	ErrOutbox = errors.New("outbox failed; see the error that it wraps")
	// ErrContentType means that a message has another content type than the codec of
	// Decode or Encode.
	ErrContentType = errors.New("content type is not one of the codec's")
	// ErrPanic means that a function in Options, or a method of Options.Dialect or of a
	// codec, panicked. PanicError has the stack.
	ErrPanic = errors.New("a function in Options, or a method of a dialect or codec, panicked; see PanicError.Stack")
	// ErrSubprotocol means that the server chose none of the subprotocols that the
	// dialect offers. It is permanent.
	ErrSubprotocol = fault.ErrSubprotocol
	// ErrSuperseded means that a newer connection took over the session (close code 4006 of limpet.v1).
	ErrSuperseded = errors.New("another connection took over the session; give each client its own")
	// ErrSessionConflict means that two clients keep taking over one session from each other (close code 4007 of limpet.v1).
	ErrSessionConflict = errors.New("two clients keep taking over the same session; give each its own")
	// ErrRolledBack means that the client or the server has an old copy of the session, or has lost part of it (close
	// code 4402 of limpet.v1). If the server has found it, the client begins a new session.
	ErrRolledBack = errors.New("session state of one side is older than the other's, restored from an old copy or lost; see docs/outbox.md")
	// ErrNotOwner means that the server does not give the session to this client: the key has changed since this copy of
	// the outbox was made, or the principal is another one (close code 4003 of limpet.v1 while a session is resumed).
	ErrNotOwner = errors.New("session belongs to another client, or this copy of its outbox is old; use the newest copy, or start again once the session has expired at the server: the messages stay in the outbox")
	// ErrDuplicate means that there is a subscription to the topic already, that the server
	// knows one to a topic, and that another one cannot share it: the error says why. Or it means that
	// SubscribeOptions.Name is in use.
	ErrDuplicate = errors.New("another subscription of this client has the same topic or name")
	// ErrTooManySubscriptions means that the server allows no more subscriptions on one
	// connection: see wire.ConnectionLimits.
	ErrTooManySubscriptions = errors.New("too many subscriptions for one connection to this server; close one that is not needed, or subscribe with another Client")
	// ErrConnectionAge is in State.Cause while the client replaces a connection that the
	// server would soon end for its age: see wire.ConnectionLimits. Nothing has failed.
	ErrConnectionAge = errors.New("connection has nearly reached the age that the server allows; the client makes a new one")
	// ErrGoAway is in State.Cause while the client replaces a connection because the server
	// asked for that: see wire.EventGoAway. Nothing has failed.
	ErrGoAway = errors.New("server asked for a new connection; the client makes one")
	// ErrUnanswered means that the server did not answer a subscription: not
	// within 10 seconds, three times in a row. It ends the subscription, not the
	// client.
	ErrUnanswered = errors.New("server did not answer the subscription; check that the topic exists and that you may read it, then subscribe again")
	// ErrHeartbeat means that the peer was silent: for 2.5 heartbeat intervals, for 3
	// seconds after a ping that ReconnectNow, NetworkChanged or a sleep of this machine
	// called for, or for the 10 seconds that it has for the handshake.
	ErrHeartbeat = fault.ErrHeartbeat
	// ErrStalled means that the peer did not read: no byte of a write was taken
	// for 15 seconds.
	ErrStalled = fault.ErrStalled
	// ErrRedirect means that the server answered the upgrade with a redirect that was not
	// followed: see Options.Redirects.
	ErrRedirect = fault.ErrRedirect
	// ErrMaxElapsed means that no connection was ready for Backoff.MaxElapsed. It
	// is permanent.
	ErrMaxElapsed = errors.New("gave up: no connection for Backoff.MaxElapsed")
)

// ErrorClass groups errors by what a caller can do about them. Its text is
// stable. A dialect may use classes of its own.
type ErrorClass string

const (
	// ClassInput is an invalid argument or option: correct it.
	ClassInput ErrorClass = "input"
	// ClassUnsupported is what the dialect or this version cannot do.
	ClassUnsupported ErrorClass = "unsupported"
	// ClassClosed is a call to a client or a subscription that has ended.
	ClassClosed ErrorClass = "closed"
	// ClassCanceled is a call whose ctx was cancelled: call again with another.
	ClassCanceled ErrorClass = "canceled"
	// ClassFull is a limit that was reached: publish more slowly, or subscribe to less.
	ClassFull ErrorClass = "full"
	// ClassDNS is a host name that does not resolve.
	ClassDNS ErrorClass = "dns"
	// ClassDial is a TCP connection that could not be made.
	ClassDial ErrorClass = "dial"
	// ClassTLS is a certificate or a TLS handshake that failed.
	ClassTLS ErrorClass = "tls"
	// ClassLocal is a fault of this machine: no route, no file descriptor, no port,
	// no permission.
	ClassLocal ErrorClass = "local"
	// ClassTimeout is a peer that is silent or does not read.
	ClassTimeout ErrorClass = "timeout"
	// ClassHTTP is an upgrade that was refused with an HTTP status.
	ClassHTTP ErrorClass = "http"
	// ClassProxy is a proxy that failed or refused.
	ClassProxy ErrorClass = "proxy"
	// ClassNotWebSocket is an answer by something other than a WebSocket server.
	ClassNotWebSocket ErrorClass = "not_websocket"
	// ClassAuth is a credential that is missing, refused or expired.
	ClassAuth ErrorClass = "auth"
	// ClassProtocol is a violation of the protocol.
	ClassProtocol ErrorClass = "protocol"
	// ClassOverload is a server that asks for less load.
	ClassOverload ErrorClass = "overload"
	// ClassSession is a session that was lost or taken over.
	ClassSession ErrorClass = "session"
	// ClassNetwork is a connection that broke, perhaps before the server had answered.
	ClassNetwork ErrorClass = "network"
	// ClassRejected is a subscription or a call that the server refused: see Error.Code and
	// Error.Detail.
	ClassRejected ErrorClass = "rejected"
	// ClassOutcome is the outcome of a message: Rejected, Expired, Unsent, Stored or
	// Unknown.
	ClassOutcome ErrorClass = "outcome"
	// ClassUser is a function in Options, or a method of Options.Dialect or of a codec,
	// that failed or panicked.
	ClassUser ErrorClass = "user"
	// ClassOther is any other error.
	ClassOther ErrorClass = "other"
)

var errorClasses = [...]ErrorClass{
	ClassInput, ClassUnsupported, ClassClosed, ClassCanceled, ClassFull, ClassDNS, ClassDial, ClassTLS, ClassLocal, ClassTimeout,
	ClassHTTP, ClassProxy, ClassNotWebSocket, ClassAuth, ClassProtocol, ClassOverload, ClassSession, ClassNetwork, ClassRejected,
	ClassOutcome, ClassUser, ClassOther,
}

// Error says what failed and why. Most errors of this package are an *Error or
// wrap one. Its text contains no URL, payload or credential, but an error of a codec
// may quote from the payload.
type Error struct {
	// Op is what was tried: "New", "Publish", "SendStream", "Call", "Subscribe", "WaitLive", "WaitReady",
	// "Flush", "Shutdown", "Decode", "receipt", "client", "connect", "refresh", or a stage of a
	// connection: "dial", "upgrade", "handshake", "open".
	Op string
	// Field is the argument or option at fault, empty if none is.
	Field string
	// Class says what can be done.
	Class ErrorClass
	// Code is the HTTP status, the close code or the server's own code, 0 if
	// there is none.
	Code int
	// Detail is the peer's explanation, quoted, at most 256 bytes of it.
	Detail string
	// Err is what went wrong. It wraps a sentinel where there is one.
	Err error
}

// Error returns Op, Field, Err, Code and Detail in one line.
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
	code := strconv.Itoa(e.Code)
	if e.Code != 0 && !strings.Contains(b.String(), " "+code+" ") { // as in "server answered 403 Forbidden"
		b.WriteString(" (code " + code + ")")
	}
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// PermanentError is a failure that ended the client, since reconnecting would
// not help. docs/ending.md lists all such failures. Client.Err, WaitReady, Dial,
// Shutdown, SubState.Err and the iterators of a Subscription return it; Publish and
// Subscribe wrap it in an *Error.
type PermanentError struct {
	// Class is the class of Err.
	Class ErrorClass
	// Err is the last failure.
	Err error
}

// Error returns the text of Err and says that it is permanent.
func (e *PermanentError) Error() string {
	return "limpet: permanent failure: " + strings.TrimPrefix(e.Err.Error(), "limpet: ")
}

// Unwrap returns Err.
func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent marks an error of Options.Auth or Options.Ticket as final: the client asks no more
// and ends with a PermanentError of ClassAuth that wraps err, at once or, if a connection works,
// when that is lost: CredentialsEnded. Use it when no
// later call can return a credential that the server takes, for example because
// the account was closed. It returns nil if err is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &fault.Permanent{Err: err}
}

// ClassOf returns the class of err: "" if it is nil, ClassTimeout for
// context.DeadlineExceeded, ClassCanceled for context.Canceled, ClassOther if it
// is not from this package.
func ClassOf(err error) ErrorClass {
	var e *Error
	var p *PermanentError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &p):
		return p.Class
	case errors.As(err, &e) && e.Class != "":
		return e.Class
	case errors.Is(err, ErrClosed), errors.Is(err, ErrSubscriptionClosed):
		return ClassClosed
	case errors.Is(err, ErrWindowFull), errors.Is(err, ErrDoneBehind):
		return ClassFull
	case errors.Is(err, ErrRejected), errors.Is(err, ErrExpired), errors.Is(err, ErrUnsent), errors.Is(err, ErrStored), errors.Is(err, ErrOutcomeUnknown):
		return ClassOutcome
	case errors.Is(err, context.DeadlineExceeded):
		return ClassTimeout
	case errors.Is(err, context.Canceled):
		return ClassCanceled
	}
	return ClassOther
}

// SafeToRetry reports whether a message can be published again without the risk
// of a duplicate. It is true only if the message was never handed to the network.
// err is an error of Publish, PublishBatch, Send, SendStream, Call or Receipt.Wait. If ctx ended
// after the admission it is false, since the client still sends the message; so it is for
// Stored, since the next client on the outbox does, and if an outbox cannot say whether it has the message.
//
// It does not say that another try can succeed: Retryable does.
func SafeToRetry(err error) bool {
	if errors.Is(err, ErrUnsent) || errors.Is(err, ErrExpired) || errors.Is(err, ErrWindowFull) {
		return true
	}
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	never := e.Op == opCall && !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrRejected)
	return never || (e.Op == opPublish || e.Op == opSendStream) && !errors.Is(err, outbox.ErrUncertain)
}

// Retryable reports whether publishing the same message again can succeed and
// cannot create a duplicate: a loop that retries needs it, and a pause. It is true
// for a full window with Window.FailFast, while too many calls of PublishOptions.Done
// wait, for a message that expired, and for one
// that its client had not sent when it ended, which needs another client. It is
// false for what fails again: an invalid argument, a message that is too big, a
// client that has ended, a ctx that has ended. It is never true without
// SafeToRetry.
func Retryable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return errors.Is(err, ErrWindowFull) || errors.Is(err, ErrDoneBehind) || errors.Is(err, ErrExpired) || errors.Is(err, ErrUnsent)
}

const opPublish = "Publish"

// checkContext refuses a nil context, which a careless caller passes.
func checkContext(op string, ctx context.Context) error {
	if ctx == nil {
		return inputError(op, "ctx", "must not be nil; use context.Background()")
	}
	return nil
}

// contextError is the error of a call whose ctx ended before done.
func contextError(op, done string, err error) *Error {
	return &Error{Op: op, Class: ClassOf(err), Err: fmt.Errorf("the caller's context ended before %s: %w", done, err)}
}

func inputError(op, field string, format string, args ...any) *Error {
	return &Error{Op: op, Field: field, Class: ClassInput, Err: fmt.Errorf(format, args...)}
}

func unsupported(op, field, why string) *Error {
	return &Error{Op: op, Field: field, Class: ClassUnsupported, Err: fmt.Errorf("%w: %s", ErrUnsupported, why)}
}

// shownCode is the code that an error or a notice reports, of those of an event: not one
// that the dialect made.
func shownCode(code uint16, peer int64) int {
	if code == 0 || code == wire.CodeRefused {
		return int(peer)
	}
	return int(code)
}

// endedBy says how the peer ended a connection with f.Code: by a close frame, or by a
// message of the protocol.
func endedBy(f *wire.Failure) error {
	if f.Code != f.CloseCode {
		return errors.New("peer ended the connection with a message")
	}
	return errors.New("peer closed the connection")
}

// joinReason wraps both errors: errors.Is finds either.
func joinReason(sentinel, cause error) error { return fmt.Errorf("%w: %w", sentinel, cause) }

// PanicError is a panic of a function in Options, or of a method of Options.Dialect
// or of a codec, which the client recovered. It ends an attempt, a connection or a
// call, or costs a message its value, but does not end the process.
type PanicError struct {
	// Value is what was passed to panic.
	Value any
	// Stack is the stack of the goroutine that panicked, as text.
	Stack []byte
}

// Error returns the value, at most 256 bytes of it, without the stack.
func (e *PanicError) Error() string {
	return text.Cut(fmt.Sprintf("panic: %v", e.Value))
}

// Is makes errors.Is(err, ErrPanic) true.
func (e *PanicError) Is(target error) bool { return target == ErrPanic }

// mergedError is the error of one subscription of a Merge.
type mergedError struct {
	topic string
	err   error
}

func (e *mergedError) Error() string {
	return "limpet: topic " + text.Quote(e.topic) + ": " + strings.TrimPrefix(e.err.Error(), "limpet: ")
}

func (e *mergedError) Unwrap() error { return e.err }

// stackOf returns the stack of a function of the caller that panicked or hung, or nil.
func stackOf(err error) []byte {
	var panicked *PanicError
	var hung *HangError
	switch {
	case errors.As(err, &hung):
		return hung.Stack
	case errors.As(err, &panicked):
		return panicked.Stack
	}
	return nil
}

const opReceipt = "receipt"

// outcomeError is the error of a receipt for which the server gave no code.
func outcomeError(err error) *Error {
	return &Error{Op: opReceipt, Class: ClassOutcome, Err: err}
}

// ClassCounts are numbers of errors by class.
type ClassCounts [len(errorClasses)]uint64

// Of returns the number of errors of one class.
func (c ClassCounts) Of(class ErrorClass) uint64 {
	if i := slices.Index(errorClasses[:], class); i >= 0 {
		return c[i]
	}
	return 0
}

// All iterates over every class, also those with the number 0, always in the same order.
func (c ClassCounts) All() iter.Seq2[ErrorClass, uint64] {
	return func(yield func(ErrorClass, uint64) bool) {
		for i, class := range errorClasses {
			if !yield(class, c[i]) {
				return
			}
		}
	}
}

// MarshalJSON returns an object with the classes whose number is not 0.
func (c ClassCounts) MarshalJSON() ([]byte, error) {
	counts := map[ErrorClass]uint64{}
	for class, n := range c.All() {
		if n > 0 {
			counts[class] = n
		}
	}
	return json.Marshal(counts)
}

// newPanicError is the guard.Report of the client.
func newPanicError(value any, stack []byte) error { return &PanicError{Value: value, Stack: stack} }

// HangError means that a method of Options.Dialect that must not block, or Delivery.Key,
// has not returned for 10 seconds. Its goroutine is abandoned, and the client has ended. It
// also means that a call of Options.Verdict or, at the end of the client, of
// PublishOptions.Done took that long, see CallbackFailed, or that Save of a store hangs,
// see CursorNotSaved.
type HangError struct {
	// Method is the name of the method, or of the option that holds the function.
	Method string

	// Stack is the stack of each goroutine of the process that runs it, as text of at
	// most 16 KiB.
	Stack []byte
}

// Error returns the name of the method and what to do.
func (e *HangError) Error() string {
	return fmt.Sprintf("%s has not returned for %v; it must not wait: see HangError.Stack", e.Method, guard.MaxCall)
}

// newHangError returns the error for a method that was called by the function with
// this name.
func newHangError(method, caller string) *HangError {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var found []byte
	for _, stack := range bytes.Split(all, []byte("\n\n")) {
		if bytes.Contains(stack, []byte(caller)) && len(found)+len(stack) < 16<<10 {
			found = append(append(found, stack...), "\n\n"...)
		}
	}
	return &HangError{method, bytes.TrimSpace(found)}
}

// payloadError is the error of a call in which a method of a codec returned err.
func payloadError(op, field string, err error) error {
	return &Error{Op: op, Field: field, Class: ClassUser, Err: &shortError{text.ForLog(err.Error()), err}}
}

// shortError is an error whose text may quote a payload: it is short and printable.
type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }

func admissionError(err error) *Error {
	if permanent := (*PermanentError)(nil); errors.As(err, &permanent) {
		return &Error{Op: opPublish, Class: ClassOf(err), Err: err}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return contextError(opPublish, "the message was admitted", err)
	}
	return &Error{Op: opPublish, Class: ClassOf(err), Err: err}
}
