// Package fault has the errors that one part of the client makes and another one tells apart.
package fault

import (
	"errors"
	"strconv"
)

// The sentinels of package limpet that have the same names there.
var (
	ErrSubprotocol = errors.New("server does not speak the subprotocol; check the URL and Options.Dialect")
	ErrHeartbeat   = errors.New("nothing received from the peer for too long")
	ErrStalled     = errors.New("nothing could be written to the peer for too long")
	ErrRedirect    = errors.New("server redirects and the redirect was not followed; use the final URL")
)

// The options with functions that the client calls.
const (
	OptionAuth    = "Options.Auth"
	OptionTicket  = "Options.Ticket"
	OptionVerdict = "Options.Verdict"
	OptionDialect = "Options.Dialect"
)

// User is an error of a function in the options.
type User struct {
	Option string // the field that holds the function
	Err    error
}

func (e *User) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *User) Unwrap() error { return e.Err }

// OfDialect makes err an error of Options.Dialect. One that names its option stays as it is, and
// so does nil.
func OfDialect(err error) error {
	var user *User
	if err == nil || errors.As(err, &user) {
		return err
	}
	return &User{Option: OptionDialect, Err: err}
}

// IsCredential reports whether the function returns credentials.
func (e *User) IsCredential() bool { return e.Option == OptionAuth || e.Option == OptionTicket }

// Permanent is an error that was made with limpet.Permanent.
type Permanent struct{ Err error }

func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *Permanent) Unwrap() error { return e.Err }

// IsPermanent reports whether err is a Permanent of a function that returns credentials.
func IsPermanent(err error) bool {
	var user *User
	var permanent *Permanent
	return errors.As(err, &user) && user.IsCredential() && errors.As(user.Err, &permanent)
}

// Redirect is a redirect that was not followed.
type Redirect struct {
	Why     string // "to ..."
	Instead string // "; what to do"
}

// NotFollowed returns the error of a redirect.
func NotFollowed(why, instead string) *Redirect { return &Redirect{why, instead} }

func (e *Redirect) Error() string { return "server redirects " + e.Why + e.Instead }

// Unwrap returns ErrRedirect.
func (e *Redirect) Unwrap() error { return ErrRedirect }

// Redirected is an answer of a host to which the server has redirected.
type Redirected struct {
	Host string
	Err  error
}

func (e *Redirected) Error() string {
	return "after a redirect to " + strconv.Quote(e.Host) + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *Redirected) Unwrap() error { return e.Err }
