// Package limpet is a WebSocket client for live feeds that survives its
// connections.
//
// A Client reconnects with backoff and jitter, resumes its subscriptions where
// they stopped, keeps every message until the server has accepted it, and hands
// messages to its consumers at the pace and under the policy that each chose. It
// never hides a loss: where messages are missing the stream has a Gap or a Reset,
// and a publish whose outcome cannot be known ends as Unknown. The wire protocol
// is a plug-in, wire.Dialect; limpet.v1 is the default, and package server speaks
// it. The client promises no more than the dialect can carry.
//
// The loop, one goroutine at a time, owns all session state. The reader passes
// messages straight to the delivery queue of their subscription and never waits
// for a consumer.
//
//	     your goroutines                     per subscription
//	Publish  Subscribe  Close             Messages(), C(): your code
//	     |       |        |                          ^
//	     v       v        v                          |  delivery queue
//	+------------------------------+                 |
//	| loop: state, window,         |-----------------|---> notifier --> Observer
//	|       registry, deadlines    |                 |
//	+--^--------^------------|-----+                 |
//	   | dialed | control    | frames                |
//	 dialer   reader --------|-----------------------+
//	            ^          writer
//	            +-- socket --+
//
// See docs/design.md for where to find what and which goroutine owns it,
// docs/protocol.md for limpet.v1, docs/reconnect.md for the reconnection policy,
// and docs/guarantees.md for what is promised and which test proves it.
package limpet
