// Package limpet is a WebSocket client for live feeds that survives its
// connections.
//
// A Client reconnects politely, restores its subscriptions where they stopped,
// keeps what it sends until somebody has taken responsibility for it, and hands
// messages to its consumers at the pace and under the policy that each chose.
// What it could not do it says: missing messages are a Gap in the stream, an
// uncertain fate is the outcome Unknown. The loop, one goroutine at a time, owns
// all session state; the reader hands messages straight to the delivery queue of
// their subscription and never waits for a consumer. The wire language is a
// plug, wire.Dialect; limpet.v1 is the default, and package server speaks it.
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
// See docs/design.md for who owns what, docs/protocol.md for limpet.v1,
// docs/reconnect.md for the reconnection policy and docs/guarantees.md for what
// is promised and which test proves it.
package limpet
