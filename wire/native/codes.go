package native

// Close codes of limpet.v1 (docs/protocol.md, section 7). The range of a code
// decides what a client does, so an old client can handle a new code.
const (
	CloseProtocolError      = 4000
	CloseBadFrame           = 4001
	CloseUnsupportedVersion = 4002
	CloseForbidden          = 4003
	CloseNotFound           = 4004
	CloseQuota              = 4005
	CloseSuperseded         = 4006
	CloseSessionConflict    = 4007
	CloseTerminated         = 4008

	CloseAuthExpired  = 4100
	CloseAuthInvalid  = 4101
	CloseAuthRequired = 4102

	CloseOverloaded         = 4200
	CloseRateLimited        = 4201
	CloseInternal           = 4202
	CloseBackendUnavailable = 4203
	CloseSlowConsumer       = 4204
	CloseHeartbeatTimeout   = 4205
	CloseHelloTimeout       = 4206
	CloseFrameTooBig        = 4207

	CloseGoingAway = 4300
	CloseRebalance = 4301
	CloseRestart   = 4302

	CloseSessionExpired = 4400
	CloseSessionUnknown = 4401
	CloseRolledBack     = 4402
)

// Codes inside frames: err, ack.n, welcome.out and unsub (docs/protocol.md,
// section 7). 14 is not assigned.
const (
	CodeBadRequest     = 1
	CodeForbidden      = 2
	CodeNotFound       = 3
	CodeTooBig         = 4
	CodeRateLimited    = 5
	CodeQuota          = 6
	CodeUnavailable    = 7
	CodeInternal       = 8
	CodeExpired        = 9
	CodeUnknownOutcome = 10
	CodeIDConflict     = 11
	CodeConflict       = 12
	CodeAckOutOfRange  = 13
	CodeBadToken       = 15
	CodeRevoked        = 16
	CodeGone           = 17
	CodeIDReused       = 18
)
