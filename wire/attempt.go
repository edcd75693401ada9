package wire

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Attempt is one attempt to connect. The client sets the fields down to
// Response, the dialect the others; URL and Header go in and out.
type Attempt struct {
	// Number is 1 more than the losses and failed attempts since the last stable
	// connection.
	Number int

	// Session is the session that the client wants to resume.
	Session Session

	// Token is Credential.Token for this attempt; empty if there is none. The dialect
	// puts it where its server reads it, here or in Codec.Start: see Resume.Token.
	Token string

	// Subs are all subscriptions with their positions, for protocols whose
	// cursor is part of the URL.
	Subs []Subscribe

	// Response is the answer to the last Request; nil at the first call.
	Response *Response

	// Resume is what Open will get on the connection, but for Subprotocol, State and Token,
	// which is Attempt.Token. The client sets it with Traits.EarlyStart, on an attempt that
	// resumes a session while no other connection is in use; otherwise it is nil. Do not
	// change what it points to.
	Resume *Resume

	// URL is the endpoint at the first call, with the ticket of Options.Ticket in its
	// query. The dialect changes it to the URL to dial.
	URL string

	// Header holds Options.Header and Credential.Header of the client. The dialect
	// completes it to the headers of the upgrade request; Token is not in it.
	Header http.Header

	// Early are headers of the upgrade request that say what Codec.Start will say, so that the
	// server can answer with the upgrade: see Traits.EarlyStart. They count only with Resume,
	// replace those of the same name in Header, and are not sent to a host that a redirect
	// leads to. Their values are credentials: the client shows them nowhere.
	Early http.Header

	// Subprotocols are the subprotocols to offer; the client offers those of the credential
	// behind them. The server must choose one of all: otherwise the attempt fails with
	// limpet.ErrSubprotocol. Leave it empty if the server may choose none.
	Subprotocols []string

	// Request is an HTTP request to make before the dial.
	Request *Request

	// State is kept from one call to the next, and then passed to Open as
	// Resume.State: what the answer to a Request said, for example. It is nil at the
	// first call of an attempt.
	State any

	// Dial means that the attempt is ready to dial.
	Dial bool
}

// Request is an HTTP request that a dialect needs before the dial.
type Request struct {
	Method string      // GET, POST, ...
	URL    string      // absolute
	Header http.Header // may be nil
	Body   []byte      // may be empty
}

// Response is the answer to a Request. Its body has at most 64 KiB.
type Response struct {
	Status int         // HTTP status; redirects are not followed
	Header http.Header // response header
	Body   []byte      // whole body
}

// StatusError is what Attempt returns when the answer to its Request is a refusal. The
// client then decides as if the upgrade had been refused with this status and these
// headers: it obeys Retry-After, asks for a new credential after a 401, and ends for
// what cannot pass (docs/ending.md).
type StatusError struct {
	Status int         // HTTP status
	Header http.Header // response header; may be nil
	Body   []byte      // at most 1 KiB of it is used; may be empty
}

// Error returns the status as a number and its name.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the request before the dial was refused: %d %s", e.Status, http.StatusText(e.Status))
}

// Stage is how far a connection had come when it failed.
type Stage uint8

// The stages of a connection.
const (
	StageDial      Stage = iota // there was no HTTP answer
	StageUpgrade                // there was an HTTP answer, but not the expected 101
	StageHandshake              // upgraded, but not ready
	StageOpen                   // ready
)

// String returns the stage as one lower-case word.
func (s Stage) String() string {
	switch s {
	case StageDial:
		return "dial"
	case StageUpgrade:
		return "upgrade"
	case StageHandshake:
		return "handshake"
	case StageOpen:
		return "open"
	}
	return "stage " + strconv.Itoa(int(s))
}

// Failure is how an attempt or a connection ended.
type Failure struct {
	// Stage is how far the connection had come.
	Stage Stage

	// Attempt is the number of the attempt: see Attempt.Number.
	Attempt int

	// Status is the HTTP status, in StageUpgrade.
	Status int

	// Header is that of the HTTP answer, in StageUpgrade.
	Header http.Header

	// Body is the beginning of the HTTP answer's body, in StageUpgrade: at most
	// 1 KiB.
	Body []byte

	// Code is the code of a fatal error frame, or else the close code received.
	// Zero means that there was neither.
	Code uint16

	// PeerCode is the server's own code, with the Code CodeRefused. Zero means that it
	// sent none.
	PeerCode int64

	// CloseCode is the close code received, even if a fatal error frame came
	// before it, and even if no close frame may carry it (RFC 6455, section 7.4):
	// Code does not have it then. Zero means that there was none.
	CloseCode uint16

	// Reason is the text that came with Code.
	Reason string

	// Retry is a delay that the server asked for. Zero means that it did not.
	Retry time.Duration

	// Err is the error that ended the attempt or the connection.
	Err error
}

// Action is what to do after a failure.
type Action uint8

// The actions after a failure.
const (
	ActionDefault    Action = iota // the client's own tables decide
	ActionBackOff                  // wait, then resume
	ActionSpread                   // wait within the spread window, then resume
	ActionRetryNow                 // resume at once; back off from the second failure in a row on
	ActionRefresh                  // ask for a new credential once, then resume
	ActionNewSession               // forget the session, then connect
	ActionStop                     // give up: the failure is permanent
)

// String returns the action in lower-case words.
func (a Action) String() string {
	switch a {
	case ActionDefault:
		return "default"
	case ActionBackOff:
		return "back off"
	case ActionSpread:
		return "spread"
	case ActionRetryNow:
		return "retry now"
	case ActionRefresh:
		return "refresh"
	case ActionNewSession:
		return "new session"
	case ActionStop:
		return "stop"
	}
	return "action " + strconv.Itoa(int(a))
}

// Verdict is a decision on a Failure.
type Verdict struct {
	// Action is what to do.
	Action Action

	// After is the slot that the server gave: the client does not return
	// earlier. Zero means that it gave none.
	After time.Duration

	// Spread is the window for ActionSpread. Zero means the last one that the
	// server announced.
	Spread time.Duration

	// Class is a word for errors and metrics, such as "auth", "protocol" or
	// "overload".
	Class string

	// TooBig means that the peer refused a frame because of its size: what was
	// in flight is sent again, one message to a frame.
	TooBig bool
}

// CodeError is a violation by the peer that ends the connection with Code.
type CodeError struct {
	Code   uint16 // close code
	Reason string // without payload and secrets
}

// Error returns the reason and the close code.
func (e *CodeError) Error() string { return fmt.Sprintf("%s (close code %d)", e.Reason, e.Code) }

// OpError says which op of an Encode call could not be encoded, and why. The client
// goes on with the ops behind it: a publish ends as Rejected with Err, a subscription ends
// with Err, any other op is dropped. A step before EventReady, an Index that is none of the
// argument's, or any other error of Encode, ends the connection.
type OpError struct {
	Index int   // of the op in the argument of Encode
	Err   error // reason
}

// Error returns the index of the op and the reason.
func (e *OpError) Error() string { return fmt.Sprintf("op %d: %v", e.Index, e.Err) }

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// TooBigError is the reason of an OpError for a message beyond a limit of the
// peer.
type TooBigError struct {
	What  string // for example "payload bytes" or "header count"
	Size  int    // of the message
	Limit int    // of the peer
}

// Error returns what is too big, its size and the limit.
func (e *TooBigError) Error() string {
	return fmt.Sprintf("%s: %d exceeds the peer's limit of %d", e.What, e.Size, e.Limit)
}
