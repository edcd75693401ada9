package wire

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Attempt is one attempt to connect. The client fills in the first group, the
// dialect the second.
type Attempt struct {
	Number   int // of this attempt since the last stable connection, from 1
	Session  Session
	Token    string
	Subs     []Subscribe // every subscription, with its position: for languages whose cursor is in the URL
	Response *Response   // what the last Request was answered

	URL          string      // in: the endpoint; out: where to dial
	Header       http.Header // in: the user's and the credential's; out: of the upgrade request
	Subprotocols []string    // offered; the server must choose one of them
	Request      *Request    // an HTTP request to make first
	Dial         bool        // ready to dial
}

// Request is an HTTP step before the dial.
type Request struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// Response is the answer to a Request, its body bounded to 64 KiB.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Stage is how far a connection had come when it failed.
type Stage uint8

const (
	StageDial      Stage = iota // no HTTP answer
	StageUpgrade                // an HTTP answer other than the wanted 101
	StageHandshake              // upgraded, not ready
	StageOpen
)

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
	Stage   Stage
	Attempt int
	Status  int         // StageUpgrade: the HTTP status
	Header  http.Header // StageUpgrade
	Body    []byte      // StageUpgrade, bounded to 1 KiB
	Code    uint16      // a close code received, or the code of a fatal error frame; 0 if there was none
	Reason  string
	Retry   time.Duration // a delay the server asked for; 0 if it did not
	Err     error
}

// Action is what to do after a failure.
type Action uint8

const (
	ActionDefault    Action = iota // the client's own tables decide
	ActionBackOff                  // wait, resume
	ActionSpread                   // wait within the spread window, resume
	ActionRetryNow                 // resume at once; from the second failure in a row on, back off
	ActionRefresh                  // ask for a new credential once, then resume
	ActionNewSession               // forget the session, then connect
	ActionStop                     // permanent
)

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
	Action Action
	After  time.Duration // the server's slot: never earlier; 0 if it gave none
	Spread time.Duration // window for ActionSpread; 0: the last one the server told
	Class  string        // a word for errors and metrics: "auth", "protocol", "overload"
	TooBig bool          // a frame was too big: send what was in flight one message to a frame
}

// CodeError is a violation by the peer that ends the connection with Code.
type CodeError struct {
	Code   uint16
	Reason string // no payload and no secret in it
}

func (e *CodeError) Error() string { return fmt.Sprintf("%s (close code %d)", e.Reason, e.Code) }

// OpError says which op of an Encode call could not be encoded and why.
type OpError struct {
	Index int
	Err   error
}

func (e *OpError) Error() string { return fmt.Sprintf("op %d: %v", e.Index, e.Err) }
func (e *OpError) Unwrap() error { return e.Err }

// TooBigError is the reason of an OpError for a message beyond a limit of the peer.
type TooBigError struct {
	What        string // "payload bytes", "header count"
	Size, Limit int
}

func (e *TooBigError) Error() string {
	return fmt.Sprintf("%s: %d, the peer takes %d", e.What, e.Size, e.Limit)
}
