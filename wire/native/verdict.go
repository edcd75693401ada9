package native

import (
	"strconv"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Classes of a Verdict.
const (
	classProtocol  = "protocol"
	classAuth      = "auth"
	classOverload  = "overload"
	classSession   = "session"
	classGoingAway = "going_away"
)

const (
	retryHeader = "X-Limpet-Retry-Ms" // of a refused upgrade: finer than Retry-After
	maxSlot     = 15 * time.Minute

	closeTooBig = 1009 // RFC 6455, section 7.4.1
)

// Verdict reads close codes by their range (docs/protocol.md, section 7), and
// the codes of fatal err frames, which may also be those inside frames. Other
// codes and HTTP statuses are the client's to judge; of a refused upgrade it
// only learns the slot.
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

func slot(f wire.Failure) time.Duration {
	ms, err := strconv.ParseUint(f.Header.Get(retryHeader), 10, 64)
	if err != nil {
		return 0
	}
	return min(millis(ms), maxSlot)
}

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
	case CodeExpired, CodeUnknownOutcome, CodeIDConflict:
		return wire.Verdict{Action: wire.ActionNewSession, Class: classSession}
	}
	return wire.Verdict{}
}

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
}

// CodeWord is the name of a close code or of a code inside frames
// (docs/protocol.md, section 7), empty if the protocol does not know it.
func CodeWord(code uint64) string { return codeNames[code16(code)] }

func codeWord(code uint16) string { return codeNames[code] }
