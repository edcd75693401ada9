// Package limpettest is a test kit for programs that use WebSocket feeds. It has an
// in-memory network that works in the virtual time of testing/synctest, faults as
// values, the reference server on that network, and an oracle that decides from a
// recorded trace whether the promises of docs/protocol.md, section 6, were kept.
// A thirty-minute outage takes milliseconds.
//
//	synctest.Test(t, func(t *testing.T) {
//		srv := limpettest.NewServer(t, nil)
//		srv.Inject(limpettest.Refuse(3), limpettest.CutAfterFrames(limpettest.Down, 10))
//		// dial srv.URL() with srv.HTTPClient() ...
//	})
//
// NewServer is a server of limpet.v1. NewHandler serves an http.Handler of yours instead, such as
// an imitation of the server that your program talks to, made with any WebSocket library.
//
// TestServerTour walks through all of it. The package does not depend on the limpet
// client: any WebSocket client that takes an *http.Client can be tested with it.
package limpettest
