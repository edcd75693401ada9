package native

import (
	"strconv"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// The values of Verdict.Class.
const (
	classProtocol  = "protocol"
	classAuth      = "auth"
	classOverload  = "overload"
	classSession   = "session"
	classGoingAway = "going_away"
)

const (
	retryHeader = "X-Limpet-Retry-Ms" // of a refused upgrade, finer than Retry-After
	maxSlot     = 15 * time.Minute    // longer slots are cut

	closeTooBig = 1009 // RFC 6455, section 7.4.1
)

// Verdict decides on close codes by their range (docs/protocol.md, section 7) and
// on the codes of fatal err frames, which may also be codes inside frames. It
// leaves other codes and HTTP statuses to the client; for a refused upgrade it
// gives only the slot.
func (dialect) Verdict(f wire.Failure) wire.Verdict {
	if f.Stage == wire.StageUpgrade {
		return wire.Verdict{After: slot(f)}
	}
	v := verdict(f.Code)
	if v != (wire.Verdict{}) {
		v.After = f.Retry
	}
	return v
}

// slot returns the delay that a refused upgrade asks for; zero if there is none.
func slot(f wire.Failure) time.Duration {
	ms, err := strconv.ParseUint(f.Header.Get(retryHeader), 10, 64)
	if err != nil {
		return 0
	}
	return min(millis(ms), maxSlot)
}

// verdict decides on a code; the zero Verdict if limpet.v1 does not assign it.
func verdict(code uint16) wire.Verdict {
	switch {
	case code == closeTooBig || code == CloseFrameTooBig || code == CodeTooBig:
		return wire.Verdict{Action: wire.ActionBackOff, Class: classProtocol, TooBig: true}
	case code >= 4000 && code < 4100:
		return wire.Verdict{Action: wire.ActionStop, Class: stopClass(code)}
	case code >= 4100 && code < 4200:
		return wire.Verdict{Action: wire.ActionRefresh, Class: classAuth}
	case code >= 4200 && code < 4300:
		return wire.Verdict{Action: wire.ActionBackOff, Class: classOverload}
	case code >= 4300 && code < 4400:
		return wire.Verdict{Action: wire.ActionSpread, Class: classGoingAway}
	case code >= 4400 && code < 4500:
		return wire.Verdict{Action: wire.ActionNewSession, Class: classSession}
	}
	switch code {
	case CodeBadRequest, CodeNotFound, CodeAckOutOfRange, CodeGone:
		return wire.Verdict{Action: wire.ActionStop, Class: classProtocol}
	case CodeForbidden, CodeRevoked:
		return wire.Verdict{Action: wire.ActionStop, Class: classAuth}
	case CodeQuota:
		return wire.Verdict{Action: wire.ActionStop, Class: classOverload}
	case CodeConflict:
		return wire.Verdict{Action: wire.ActionStop, Class: classSession}
	case CodeBadToken:
		return wire.Verdict{Action: wire.ActionRefresh, Class: classAuth}
	case CodeRateLimited, CodeUnavailable, CodeInternal:
		return wire.Verdict{Action: wire.ActionBackOff, Class: classOverload}
	case CodeExpired, CodeUnknownOutcome, CodeIDConflict, CodeIDReused:
		return wire.Verdict{Action: wire.ActionNewSession, Class: classSession}
	}
	return wire.Verdict{}
}

// stopClass returns the class of a close code from 4000 to 4099.
func stopClass(code uint16) string {
	switch code {
	case CloseForbidden:
		return classAuth
	case CloseQuota:
		return classOverload
	case CloseSuperseded, CloseSessionConflict, CloseTerminated:
		return classSession
	}
	return classProtocol
}

// codeNames are the names of the codes (docs/protocol.md, section 7). Close codes
// and codes inside frames do not overlap.
var codeNames = map[uint16]string{
	CloseProtocolError: "protocol_error", CloseBadFrame: "bad_frame", CloseUnsupportedVersion: "unsupported_version",
	CloseForbidden: "forbidden", CloseNotFound: "not_found", CloseQuota: "quota", CloseSuperseded: "superseded",
	CloseSessionConflict: "session_conflict", CloseTerminated: "terminated_by_admin",
	CloseAuthExpired: "auth_expired", CloseAuthInvalid: "auth_invalid", CloseAuthRequired: "auth_required",
	CloseOverloaded: "overloaded", CloseRateLimited: "rate_limited", CloseInternal: "internal",
	CloseBackendUnavailable: "backend_unavailable", CloseSlowConsumer: "slow_consumer",
	CloseHeartbeatTimeout: "heartbeat_timeout", CloseHelloTimeout: "hello_timeout", CloseFrameTooBig: "frame_too_big",
	CloseGoingAway: "going_away", CloseRebalance: "rebalance", CloseRestart: "restart",
	CloseSessionExpired: "session_expired", CloseSessionUnknown: "session_unknown", CloseRolledBack: "client_rolled_back",

	CodeBadRequest: "bad_request", CodeForbidden: "forbidden", CodeNotFound: "not_found", CodeTooBig: "too_big",
	CodeRateLimited: "rate_limited", CodeQuota: "quota", CodeUnavailable: "unavailable", CodeInternal: "internal",
	CodeExpired: "expired", CodeUnknownOutcome: "unknown_outcome", CodeIDConflict: "id_conflict", CodeConflict: "conflict",
	CodeAckOutOfRange: "ack_out_of_range", CodeBadToken: "bad_token", CodeRevoked: "revoked", CodeGone: "gone",
	CodeIDReused: "id_reused",
}

// CodeWord returns the name of a close code or of a code inside frames
// (docs/protocol.md, section 7); empty if the protocol does not define it.
func CodeWord(code uint64) string { return codeNames[code16(code)] }

// codeWord is CodeWord for a code that fits.
func codeWord(code uint16) string { return codeNames[code] }
