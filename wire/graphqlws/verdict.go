package graphqlws

import "github.com/limpet-go/limpet/wire"

// verdicts are the close codes of the protocol (PROTOCOL.md) and of the library
// graphql-ws. For every other failure the client's own tables decide.
//
// 4401 and 4403 are how servers refuse a credential, so a new one is tried once. 4429
// means a second connection_init, which this client does not send: a server that closes
// with it is overloaded, as HTTP 429 means.
var verdicts = map[uint16]wire.Verdict{
	4400: {Action: wire.ActionStop, Class: "protocol"},    // invalid message
	4401: {Action: wire.ActionRefresh, Class: "auth"},     // unauthorized
	4403: {Action: wire.ActionRefresh, Class: "auth"},     // forbidden
	4406: {Action: wire.ActionStop, Class: "protocol"},    // subprotocol not acceptable
	4408: {Action: wire.ActionBackOff, Class: "timeout"},  // no connection_init in time
	4409: {Action: wire.ActionStop, Class: "protocol"},    // subscriber already exists
	4429: {Action: wire.ActionBackOff, Class: "overload"}, // too many initialisation requests
	4499: {Action: wire.ActionBackOff, Class: "network"},  // terminated
	4500: {Action: wire.ActionBackOff, Class: "other"},    // internal server error
}

// Verdict decides what a close code means.
func (d *dialect) Verdict(f wire.Failure) wire.Verdict { return verdicts[f.Code] }
