package socketio

import (
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// The codes of errors. Socket.IO has texts instead. No close code is below 1000 (RFC
// 6455, section 7.4.2), so they cannot be taken for one.
const (
	CodeRejected     = 430 // the server has refused an event or a subscription: Options.Rejected
	CodeClosed       = 1   // the server closes the connection: an Engine.IO packet
	CodeDisconnected = 41  // the server has called socket.disconnect
	CodeVersion      = 400 // the server speaks an older protocol
	CodeNamespace    = 404 // the server has no such namespace
	CodeRefused      = 440 // and the wire.Action: the server has refused the connection to the namespace
)

// maxAction is the last action that Options.Refused may return.
const maxAction = wire.ActionStop

// The classes of errors: see limpet.ErrorClass.
const (
	classAuth        = "auth"
	classNetwork     = "network"
	classOverload    = "overload"
	classProtocol    = "protocol"
	classSession     = "session"
	classUnsupported = "unsupported"
)

// Verdict decides what the codes mean. Close codes and statuses are left to the client's
// tables, but for one answer: a server refuses every upgrade with status 400 and the
// reason as its body.
func (d *dialect) Verdict(f wire.Failure) wire.Verdict {
	if f.Stage == wire.StageUpgrade && f.Status == 400 {
		return verdictOfBody(string(f.Body))
	}
	switch f.Code {
	case CodeClosed:
		return wire.Verdict{Action: wire.ActionSpread, Class: classNetwork}
	case CodeDisconnected:
		if d.options.Return {
			return wire.Verdict{Action: wire.ActionNewSession, Class: classSession}
		}
		return wire.Verdict{Action: wire.ActionStop, Class: classSession}
	case CodeVersion:
		return wire.Verdict{Action: wire.ActionStop, Class: classUnsupported}
	case CodeNamespace:
		return wire.Verdict{Action: wire.ActionStop, Class: classProtocol}
	}
	if f.Code < CodeRefused || f.Code > CodeRefused+uint16(maxAction) {
		return wire.Verdict{}
	}
	v := wire.Verdict{Action: wire.Action(f.Code - CodeRefused), Class: classAuth}
	switch v.Action {
	case wire.ActionDefault:
		v.Action = wire.ActionRefresh
	case wire.ActionBackOff, wire.ActionSpread, wire.ActionRetryNow:
		v.Class = classOverload
	case wire.ActionNewSession:
		v.Class = classSession
	}
	return v
}

// verdictOfBody decides by the reason of a refused upgrade: errorMessages of Engine.IO.
func verdictOfBody(body string) wire.Verdict {
	switch {
	case strings.Contains(body, "Forbidden"):
		return wire.Verdict{Action: wire.ActionRefresh, Class: classAuth}
	case strings.Contains(body, "Unsupported protocol version"), strings.Contains(body, "Transport unknown"):
		return wire.Verdict{Action: wire.ActionStop, Class: classUnsupported}
	}
	return wire.Verdict{}
}
