package endpoint

import (
	"errors"
	"net/http"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

const maxDoubts = 3 // attempts in a row that may have failed for what they announced

// Early decides which attempts announce the start of the connection in the upgrade request
// (wire.Traits.EarlyStart): a path that does not let such a request through must not keep the
// client from connecting. The zero value is that of a new client.
type Early struct {
	paused bool // until a connection is ready
	doubts int  // attempts in a row that announced it and may have failed for that
}

// May reports whether the next attempt may announce it.
func (e *Early) May() bool { return !e.paused && e.doubts < maxDoubts }

// Failed follows when an attempt that announced it has failed, or its connection before it was
// ready. What did not reach an HTTP server says nothing.
func (e *Early) Failed(f *wire.Failure) {
	var answer *socket.AnswerError
	if f.Stage == wire.StageDial && !errors.As(f.Err, &answer) {
		return
	}
	e.paused = true
	if f.Stage != wire.StageUpgrade || refusesRequest(f.Status) {
		e.doubts++
	}
}

// Ready follows when a connection is ready; announced is whether its attempt announced it.
func (e *Early) Ready(announced bool) {
	e.paused = false
	if announced {
		e.doubts = 0
	}
}

// refusesRequest reports whether a status may mean that a request has a header too many, and
// not that the server is busy or wants another credential.
func refusesRequest(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestTimeout,
		http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}
